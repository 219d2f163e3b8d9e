"""What trpo-train answers immediately, without composing a run: help, version, completion."""

from __future__ import annotations

import trpo_cli
from trpo_cli.cli.command_line import CommandLine
from trpo_cli.cli.completion import install, list_candidates, read_script
from trpo_cli.cli.help import print_help


def answer(typed: CommandLine) -> bool:
    """Print the answer and return True; return False if the command line asks for a run."""
    if typed.help:
        print_help(typed.config_dir)
    elif typed.version:
        print(f"trpo-cli {trpo_cli.__version__}")
    elif typed.complete is not None:
        print("\n".join(list_candidates(typed.complete)))
    elif typed.show_completion is not None:
        print(read_script(typed.show_completion), end="")
    elif typed.install_completion is not None:
        print(install(typed.install_completion))
    else:
        return False
    return True
