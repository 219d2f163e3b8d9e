"""What the commands share: where the configuration lies, our own help, and errors said in a few lines."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from trpo_cli.errors import UserError, nearest

_PACKAGE = Path(__file__).resolve().parent
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""The configuration: inside the package in a wheel, beside it in a source tree."""

GROUPS = ("algo", "env", "sampler", "policy", "critic", "experiment", "logger")
HELP = """\
trpo-train: trust-region policy optimisation

usage: trpo-train [GROUP=OPTION ...] [KEY=VALUE ...]

Groups and their options (first choose parts, then set their keys):
{groups}

Parts of an algorithm are chosen with a slash:
{parts}

Keys at the root:
  seed=0                      of everything random
  total_steps=1000000         environment steps; with sampler=exact, iterations
  device=cpu                  where updates run: cuda, for example; sampling stays on the CPU
  update_threads=1            of torch; more pay with large batches and idle cores
  eval.every=100000           environment steps between evaluations of the likeliest action; 0 for none
  eval.episodes=10            in each evaluation
  checkpoint.every=10         iterations between checkpoints
  checkpoint.keep=3           checkpoints to keep
  resume=DIR                  go on with the run in DIR; auto: with that of the same command line
  fault_patience=3            samples in a row that environments may spoil before the run ends
  env.step_timeout=60         seconds for a step in a worker process
  plugins=[]                  packages of your own that configurations may build from
  hydra.run.dir=DIR           where the run is written; default runs/ENV/ALGO/TIME_seedSEED

Examples:
  trpo-train algo=trpo env=Hopper-v4
  trpo-train algo=ppo env=CartPole-v1 total_steps=200000 seed=3
  trpo-train env=Walker2d-v4 algo.delta=0.02 algo/advantage=monte_carlo critic=linear
  trpo-train env=gym env.id=CliffWalking-v1 env.kwargs={{is_slippery:true}}
  trpo-train algo=trpo sampler=vine critic=mlp
  trpo-train algo=monotone_pi env=FrozenLake-v1
  trpo-train -m algo=trpo,npg,ppo seed=0,1,2
  trpo-train experiment=paper/cartpole
  trpo-train resume=runs/hopper total_steps=2000000
  trpo-train algo=trpo env=Ant-v4 resume=auto

Options:
  --help                      this text
  --cfg job                   print the composed configuration, with every key, and run nothing
  --config-dir DIR            add a directory with groups of your own
  -m, --multirun              run every combination of comma-separated values
  --hydra-help                all options of Hydra
"""


FULL_ERROR = "HYDRA_FULL_ERROR"
OPEN = "env.kwargs"  # a mapping whose keys are the environment's own


def opened(overrides: Sequence[str]) -> list[str]:
    """The overrides, with those of `env.kwargs` allowed to add keys: `++` is Hydra's word for it."""
    return [f"++{text}" if text.startswith((f"{OPEN}=", f"{OPEN}.")) else text for text in overrides]


INGREDIENTS = {"base", "by_sampler", "tuned"}  # what options are made of, and no options themselves


def options(folder: Path) -> list[str]:
    """The options of one group: the names of its YAML files."""
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem not in INGREDIENTS)


def subgroups(folder: Path) -> list[str]:
    """The names of the groups within a group at any depth, `step/constraint` for one."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_dir())
    return sorted(str(name) for name in names if not INGREDIENTS & set(name.parts))


def print_help() -> bool:
    """Print our help if the command line asks for it; True if it did."""
    if not {"-h", "--help"} & set(sys.argv[1:]):
        return False
    print(
        HELP.format(
            groups="\n".join(_listed(name, _every_option(CONF / name, name)) for name in GROUPS),
            parts="\n".join(
                _listed(f"algo/{name}", options(CONF / "algo" / name)) for name in subgroups(CONF / "algo")
            ),
        ),
        end="",
    )
    return True


def _every_option(folder: Path, name: str) -> list[str]:
    """Those of an experiment may lie in folders of their own; in other groups, folders are parts."""
    below = subgroups(folder) if name == "experiment" else []
    return options(folder) + [f"{inner}/{option}" for inner in below for option in options(folder / inner)]


def _listed(name: str, values: list[str]) -> str:
    """One group on as many lines as it needs."""
    lines, line = [], f"  {name:20}"
    for value in values:
        if len(line) + len(value) > 110:
            lines.append(line)
            line = " " * 22
        line += f" {value}"
    return "\n".join([*lines, line])


def reported(command: Callable[[], None]) -> Callable[[], None]:
    """Run a command; an error the user can mend becomes a few lines on standard error and exit status 1.

    Anything else is a fault of the program and keeps its traceback, as everything does under HYDRA_FULL_ERROR=1.
    """

    @functools.wraps(command)
    def main() -> None:
        if os.environ.get(FULL_ERROR, "0") != "0":
            return command()
        os.environ[FULL_ERROR] = "1"  # Hydra then raises its errors, instead of printing them its own way
        try:
            command()
        except UserError as error:
            sys.exit(f"error: {error}")
        except (HydraException, OmegaConfBaseException) as error:
            sys.exit(f"error: {explained(error)}\ntrpo-train --help lists the groups, --cfg job every key")
        except ValueError as error:
            if "Config group override" not in str(error):
                raise
            sys.exit("error: a group takes the name of one of its options\ntrpo-train --help lists them")
        except OSError as error:
            sys.exit(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}")
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            del os.environ[FULL_ERROR]

    return main


@contextlib.contextmanager
def told_once() -> Iterator[None]:
    """End the process with the message of a user's error, before Hydra prefixes one of its own."""
    try:
        yield
    except UserError as error:
        raise SystemExit(f"error: {error}") from error


def explained(error: Exception) -> str:
    """What a mistake in an override comes down to, with the nearest name that would fit."""
    match error:
        case OmegaConfBaseException() if "Missing mandatory value: " in str(error):
            key = str(error).partition("Missing mandatory value: ")[2].split()[0]
            return f"{key}: has no default; give it with {key}=VALUE"
        case MissingConfigException(missing_cfg_file=str(missing), options=list(known)):
            group, _, name = missing.rpartition("/")
            hint = nearest(name, known) or f"; there are: {', '.join(known)}"
            return f"{group}: no option '{name}'{hint}"
        case OverrideParseException():
            return f"'{error.override}' cannot be read: {str(error).splitlines()[0]}"
        case ConfigCompositionException(__cause__=OmegaConfBaseException() as cause) if cause.full_key:
            return explained(cause)
        case OmegaConfBaseException(full_key=str(full_key), parent_node=parent) if full_key and hasattr(parent, "keys"):
            name = full_key.rpartition(".")[2]
            if name in parent:
                return f"{full_key}: {str(error).splitlines()[0]}"
            known = [str(key) for key in parent]
            hint = nearest(name, known) or f"; there are: {', '.join(known)}"
            return f"{full_key}: no such key{hint}"
        case _:
            return str(error).splitlines()[0]


@contextlib.contextmanager
def discard_empty(directory: Path) -> Iterator[None]:
    """On an error, remove `directory` and its parents below the working directory, as far as they are empty.

    Hydra makes them before anything is checked.
    """
    try:
        yield
    except Exception:
        below = [parent for parent in directory.parents if Path.cwd() in parent.parents]
        with contextlib.suppress(OSError):  # the first that is not empty ends it
            for path in (directory, *below):
                path.rmdir()
        raise
