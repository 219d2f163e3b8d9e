"""trpo-eval: play episodes with trained policies, print their returns, record and film them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trpo_cli.cli.command_line import Parser, at_least, path
from trpo_cli.cli.failures import report_errors
from trpo_cli.cli.targets import check_targets, write_new
from trpo_cli.errors import UserError, require_packages
from trpo_cli.play.episodes import Episodes, Evaluation
from trpo_cli.play.film import film, prepare
from trpo_cli.play.trained import Trained, load, run_directories
from trpo_cli.shell import keep_working_directory, short_path

HEADER = """\
|    return | {:>20} |      std |  length | episodes |       steps | task, run
|-----------|----------------------|----------|---------|----------|-------------|----------"""

INDENTED = f"\n{'|':<12}| "  # a further line in a row


@dataclass(frozen=True)
class Played:
    """A run and the result of its episodes."""

    directory: Path
    trained: Trained
    result: Evaluation
    changes: Sequence[str]  # settings of the environment that differ from those in training

    def format_row(self) -> str:
        """Format the row of the table."""
        result = self.result
        low, high = result.interval() or (result.returns.min(), result.returns.max())
        span = f"{low:.2f} to {high:.2f}" if len(result.returns) > 1 else "one episode"
        return (
            f"| {result.returns.mean():9.2f} | {span:>20} | {result.returns.std():8.2f} | "
            f"{result.lengths.mean():7.1f} | {len(result.returns):8} | {self.trained.env_steps:11,} | "
            f"{self.trained.task.id}, {short_path(self.directory)}{self._format_infos()}"
        )

    def _format_infos(self) -> str:
        """Format the means of `env.log_info` as a further line of the row, if there are any."""
        means = self.result.info_means()
        shown = [f"{name} {'-' if mean is None else format(mean, '.4g')}" for name, mean in means.items()]
        return f"{INDENTED}{', '.join(shown)}" if shown else ""

    def as_record(self) -> dict[str, Any]:
        """Return the result for scripts, with every episode."""
        return {
            "run": str(self.directory),
            "task": self.trained.task.id,
            "set": list(self.changes),
            "env_steps": self.trained.env_steps,
            **self.result.metrics(),
            "interval": self.result.interval(),
            "returns": self.result.returns.tolist(),
            "lengths": self.result.lengths.tolist(),
            "infos": {name: [None if v != v else v for v in values] for name, values in self.result.infos.items()},
        }


def evaluate_all(directories: Sequence[Path], arguments: argparse.Namespace) -> list[Played]:
    """Print the table row by row, failures included, and return the runs that were played.

    If there is only one run, its failure is raised instead, and nothing is printed.
    """
    played: list[Played] = []
    header = f"{format_header(arguments)}\n"
    for directory in directories:
        try:
            with keep_working_directory():
                trained = load(directory, arguments.plugins, arguments.checkpoint, arguments.set)
                result = play_run(directory, trained, arguments)
        except UserError as error:
            if len(directories) == 1:
                raise
            place = str(short_path(directory))
            message = str(error) if place in str(error) else f"{place}: {error}"
            row = f"| {'failed':>9} | {INDENTED.join(message.splitlines())}"
        else:
            played.append(Played(directory, trained, result, arguments.set))
            row = played[-1].format_row()
        print(f"{header}{row}", flush=True)
        header = ""  # it is printed only once
    return played


def play_run(directory: Path, trained: Trained, arguments: argparse.Namespace) -> Evaluation:
    """Play the episodes of one run, and record them if asked to."""
    plan = Episodes(arguments.episodes, arguments.max_steps or trained.longest)
    if not arguments.record:
        return trained.evaluate(plan, arguments.seed, arguments.sample)
    from trpo_cli.play.recorder import record

    about = {"run": str(directory), "seed": arguments.seed, "sampled_actions": arguments.sample, "set": arguments.set}
    with record(trained, arguments.record.absolute(), about) as audience:
        return trained.evaluate(plan, arguments.seed, arguments.sample, audience)


def format_header(arguments: argparse.Namespace) -> str:
    """Format the lines above the rows of the table."""
    from trpo_cli.statistics import FEWEST

    actions = "sampled" if arguments.sample else "likeliest"
    spread = "95 % interval" if arguments.episodes >= FEWEST else "min to max"
    settings = ", ".join([f"seed {arguments.seed}", *arguments.set])
    return f"{actions} actions, {settings}\n{HEADER.format(spread)}"


def film_run(trained: Trained, arguments: argparse.Namespace) -> None:
    """Film the first episodes, and print their returns."""
    plan = Episodes(arguments.video_episodes, arguments.max_steps or trained.longest)
    result = film(trained, arguments.video.absolute(), plan, arguments.seed, arguments.sample)
    episodes = ", ".join(f"{r:.2f} in {n} steps" for r, n in zip(result.returns, result.lengths, strict=True))
    print(f"filmed in {short_path(arguments.video)}, returns: {episodes}")


@report_errors
def main() -> None:
    """Run the command `trpo-eval`."""
    arguments = make_parser().parse_args()
    directories = list(run_directories(arguments.runs))
    check(arguments, directories)

    from trpo_cli.seeding import seed_globals
    from trpo_cli.threads import limit_threads

    limit_threads()
    seed_globals(arguments.seed, "plugins")  # importing them may draw random numbers
    played = evaluate_all(directories, arguments)
    if arguments.json:
        text = json.dumps([one.as_record() for one in played], indent=1) + "\n"
        write_new("--json", arguments.json, text.encode())
    if arguments.record:
        print(f"recorded in {short_path(arguments.record)}: {arguments.episodes} episodes")
    if arguments.video and played:
        film_run(played[0].trained, arguments)
    if failed := len(directories) - len(played):
        sys.exit(f"error: {failed} of {len(directories)} could not be evaluated; the table says why")


def check(arguments: argparse.Namespace, directories: Sequence[Path]) -> None:
    """Raise `UserError`, before any work, if what is to be written cannot be."""
    if arguments.video_episodes > 1 and not arguments.video:
        raise UserError("--video-episodes: takes effect only with --video FILE.mp4")
    for option, what in (("record", "records"), ("video", "films")):
        if getattr(arguments, option) and len(directories) > 1:
            raise UserError(f"--{option}: {what} one run, but {len(directories)} were given")
    targets = {f"--{name}": getattr(arguments, name) for name in ("json", "record", "video")}
    check_targets({option: target for option, target in targets.items() if target})
    if arguments.record:
        from trpo_cli.envs.recorded import PACKAGES

        require_packages("--record", "record", *PACKAGES)
    if arguments.video:
        prepare()


def make_parser() -> Parser:
    """Make the parser of the command line."""
    parser = Parser(
        prog="trpo-eval",
        description="Play episodes with the checkpoints of runs, side by side, in new environments; print the mean "
        "return of each run, its 95 % interval over the episodes (for fewer than five, min to max), and the standard "
        "deviation.",
    )
    parser.add_version()
    add = parser.add_argument
    add("runs", nargs="+", type=path, metavar="RUN", help="a directory that trpo-train wrote, or a folder of them")
    add("--episodes", type=at_least(1), default=10, help="number to play for each run (default: %(default)s)")
    add("--seed", type=at_least(0), default=0, help="for environments and sampled actions (default: %(default)s)")
    add("--sample", action="store_true", help="sample actions instead of taking the likeliest")
    add("--max-steps", type=at_least(1), help="cut off longer episodes (default: eval.max_episode_steps of the run)")
    changed = "a setting of the environment that differs from training, such as env.repeat_action_probability=0.25"
    add("--set", action="append", default=[], metavar="env.KEY=VALUE", help=changed)
    add("--json", type=path, metavar="FILE", help="write the results, with every episode, to a new file")
    add("--record", type=path, metavar="DIR", help="write the episodes of one run to a new Minari dataset")
    add("--video", type=path, metavar="FILE.mp4", help="film the first episodes of one run, in a new file")
    add("--video-episodes", type=at_least(1), default=1, metavar="N", help="number to film (default: %(default)s)")
    parser.add_run_options()
    return parser


if __name__ == "__main__":
    from trpo_cli.cli.start import evaluate as command

    command()
