"""trpo-export: write a trained policy as a network that other programs run, without this package."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from trpo_cli.cli.command_line import Parser, path
from trpo_cli.cli.failures import report_errors
from trpo_cli.cli.targets import check_targets, write_new
from trpo_cli.errors import UserError, require_packages
from trpo_cli.shell import short_path

KINDS = {"onnx": "FILE.onnx", "torchscript": "FILE.pt", "pt2": "FILE.pt2"}


@report_errors
def main() -> None:
    """Run the command `trpo-export`."""
    arguments = make_parser().parse_args()
    files: dict[str, Path] = {name: file for name in KINDS if (file := getattr(arguments, name))}
    if not files:
        raise UserError(f"nothing to write: name a file, {' or '.join(f'--{name} {KINDS[name]}' for name in KINDS)}")
    check_targets({f"--{name}": file for name, file in files.items()})
    write(arguments, files)


def write(arguments: argparse.Namespace, files: dict[str, Path]) -> None:
    """Export the policy to each of the files, by format, and say how far their actions are from those of the run."""
    from trpo_cli.play.exported import FORMATS, collect_examples, export
    from trpo_cli.play.loaded import load
    from trpo_cli.threads import limit_threads

    for name in files:
        require_packages(f"--{name}", "export", *FORMATS[name].packages)
    limit_threads()
    run = load(arguments.run, arguments.checkpoint, arguments.plugins)
    examples = collect_examples(run)
    print(f"{short_path(run.directory)}: {run.config['env']['id']} after {run.env_steps:,} steps")
    for name, file in files.items():
        data, difference = export(run, name, examples, arguments.tolerance)
        write_new(f"--{name}", file, data)
        print(
            f"{short_path(file)}: {len(data) / 1000:,.0f} kB; over {len(examples.encoded):,} observations its actions "
            f"are {'those' if difference == 0 else f'within {difference:.1g} of those'} of the run"
        )


def make_parser() -> Parser:
    """Make the parser of the command line."""
    parser = Parser(
        prog="trpo-export",
        description="Write the policy of a run as a network that other programs run: from the environment's own "
        "observations to the likeliest actions for its step, with normalisation, clipping and conversions inside. Each "
        "file is read back and compared with the run over a thousand observations before it is written.",
    )
    parser.add_version()
    add = parser.add_argument
    add("run", type=path, metavar="RUN", help="a directory that trpo-train wrote")
    add("--onnx", type=path, metavar=KINDS["onnx"], help="write a new file for ONNX Runtime and others")
    add(
        "--torchscript",
        type=path,
        metavar=KINDS["torchscript"],
        help="write a new file for torch.jit.load and LibTorch",
    )
    add(
        "--pt2", type=path, metavar=KINDS["pt2"], help="write a new file for torch.export.load, TorchScript's successor"
    )
    add(
        "--tolerance",
        type=_positive,
        default=1e-5,
        metavar="X",
        help="largest difference between an action of the file "
        "and the run's that is accepted; of actions above 1 relative to them (default: %(default)s)",
    )
    parser.add_run_options()
    return parser


def _positive(text: str) -> float:
    """Parse a positive number; an argparse type."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


if __name__ == "__main__":
    from trpo_cli.cli.start import export as command

    command()
