"""What trpo-train answers at once, without composing a run: help, version, completion."""

from __future__ import annotations

import trpo_cli
from trpo_cli.cli.command_line import CommandLine
from trpo_cli.cli.completion import candidates, install, script
from trpo_cli.cli.help import print_help


def answer(said: CommandLine) -> bool:
    """Print the answer and return True; return False if the command line asks for a run."""
    if said.help:
        print_help(said.config_dir)
    elif said.version:
        print(f"trpo-cli {trpo_cli.__version__}")
    elif said.complete is not None:
        print("\n".join(candidates(said.complete)))
    elif said.show_completion is not None:
        print(script(said.show_completion), end="")
    elif said.install_completion is not None:
        print(install(said.install_completion))
    else:
        return False
    return True
