"""What `trpo-train --help` prints."""

from __future__ import annotations

from trpo_cli.config.groups import GROUPS, OF_SWEEPS, choices, parts, roots

HELP = """\
trpo-train: trust-region policy optimisation

usage: trpo-train [GROUP=OPTION ...] [KEY=VALUE ...]

Groups and their options (first choose parts, then set their keys):
{groups}
  env takes any other id that is registered with Gymnasium, too.

Parts of an algorithm are chosen with a slash:
{parts}

With -m, how a sweep is run:
{sweeps}

Keys at the root:
  seed=0                      of everything random
  total_steps=1000000         environment steps; with sampler=exact, iterations
  device=cpu                  where updates run: cuda, for example; sampling stays on the CPU
  update_threads=1            of torch; more pay with large batches and idle cores
  eval.every=100000           environment steps between evaluations of the likeliest action; auto: ten a run, 0: none
  eval.episodes=10            in each evaluation
  checkpoint.every=10         iterations between checkpoints
  checkpoint.keep=3           checkpoints to keep
  resume=DIR                  go on with the run in DIR; auto: with that of the same command line
  fault_patience=3            samples in a row that environments may spoil before the run ends
  env.step_timeout=60         seconds for a step in a worker process
  plugins=[]                  packages of your own that configurations may build from
  sweep.resume=DIR            with -m: run what is missing of the sweep in DIR
  sweep.dry_run=false         with -m: list the jobs and build each, and run none
  sweep.report=false          with -m: end in a report
  hydra.run.dir=DIR           where the run is written; default runs/ENV/ALGO/TIME_seedSEED

Examples:
  trpo-train algo=trpo env=Hopper-v4
  trpo-train algo=ppo env=CartPole-v1 total_steps=200000 seed=3
  trpo-train env=Walker2d-v4 algo.delta=0.02 algo/advantage=monte_carlo critic=linear
  trpo-train env=CliffWalking-v1 env.kwargs={{is_slippery:true}}
  trpo-train algo=trpo sampler=vine critic=mlp
  trpo-train algo=monotone_pi env=FrozenLake-v1
  trpo-train -m algo=trpo,npg,ppo seed=0,1,2
  trpo-train -m algo=trpo,npg,ppo seed=0,1,2 hydra/launcher=joblib
  trpo-train experiment=paper/cartpole
  trpo-train resume=runs/hopper total_steps=2000000
  trpo-train algo=trpo env=Ant-v4 resume=auto

Options:
  --help                      this text
  --version                   of this program
  --cfg job                   print the composed configuration, with every key, and run nothing
  --config-dir DIR            add a directory with groups of your own
  -m, --multirun              run every combination of comma-separated values
  --install-completion SHELL  complete by TAB from the next shell on: bash, zsh or fish
  --show-completion SHELL     print what that would install
  --hydra-help                all options of Hydra
"""


def print_help(config_dir: str | None) -> None:
    """Print it, with the options of `config_dir` and of installed packages among ours."""
    places = roots(config_dir)
    groups, of_algorithms, of_sweeps = (
        "\n".join(_listed(name, choices(name, places)) for name in names)
        for names in (GROUPS, parts(places), OF_SWEEPS)
    )
    print(HELP.format(groups=groups, parts=of_algorithms, sweeps=of_sweeps), end="")


def _listed(name: str, values: list[str]) -> str:
    """One group on as many lines as it needs."""
    lines, line = [], f"  {name:21}"
    for value in values:
        if len(line) + len(value) > 110:
            lines.append(line)
            line = " " * 23
        line += f" {value}"
    return "\n".join([*lines, line])
