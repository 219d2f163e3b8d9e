"""The text of `trpo-train --help`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from trpo_cli.config.groups import CONF, GROUPS, OF_SWEEPS, find_roots, list_choices, list_parts

LINE = re.compile(r"^( *)(\w+):(?: ([^#\n]*?))?(?: # (.*))?$", re.MULTILINE)
"""A line of YAML with its indentation, key, value and comment: `  every: 10 # iterations`."""
HELP = """\
trpo-train: trust-region policy optimisation

usage: trpo-train [GROUP=OPTION ...] [KEY=VALUE ...]

Groups and their options (first choose parts, then set their keys):
{groups}
  env also takes any other id that is registered with Gymnasium; TAB completion lists them.

Parts of an algorithm are chosen with a slash:
{parts}

With -m, these decide how a sweep is run:
{sweeps}

Keys at the root:
{keys}
  hydra.run.dir=DIR              where the run is written; default runs/ENV/ALGO/TIME_seedSEED

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
  --help                      print this text
  --version                   print the version
  --cfg job                   print the composed configuration, with every key, and run nothing
  --config-dir DIR            add a directory with your own groups
  -m, --multirun              run every combination of comma-separated values
  --install-completion SHELL  install TAB completion, from the next shell on: bash, zsh or fish
  --show-completion SHELL     print what that would install
  --hydra-help                list all options of Hydra
"""


def print_help(config_dir: str | None) -> None:
    """Print the help text, including the options of `config_dir` and of installed packages."""
    places = find_roots(config_dir)
    groups, of_algorithms, of_sweeps = (
        "\n".join(_format_options(name, list_choices(name, places)) for name in names)
        for names in (GROUPS, list_parts(places), OF_SWEEPS)
    )
    keys = "\n".join(f"  {key}={value}".ljust(33) + comment for key, value, comment in list_root_keys())
    print(HELP.format(groups=groups, parts=of_algorithms, keys=keys, sweeps=of_sweeps), end="")


def list_root_keys() -> Iterator[tuple[str, str, str]]:
    """Yield the keys at the root with their defaults and comments in `train.yaml`."""
    text = (CONF / "train.yaml").read_text(encoding="utf-8")
    above = ""
    for indent, key, value, comment in LINE.findall(text.partition("\n\n")[2].partition("\nhydra:")[0]):
        above = above if indent else f"{key}."
        if value:
            yield f"{above}{key}" if indent else key, value, comment


def _format_options(name: str, values: list[str]) -> str:
    """Format one group on as many lines as it needs."""
    lines, line = [], f"  {name:21}"
    for value in values:
        if len(line) + len(value) > 110:
            lines.append(line)
            line = " " * 23
        line += f" {value}"
    return "\n".join([*lines, line])
