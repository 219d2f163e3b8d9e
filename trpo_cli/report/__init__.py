"""trpo-report: learning curves, tables and a page over the seeds of many runs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from textwrap import fill
from typing import Any

from trpo_cli import __version__
from trpo_cli.cli.command_line import Parser, path
from trpo_cli.cli.failures import report_errors
from trpo_cli.errors import RunDirectoryError, UserError, counted
from trpo_cli.report.archive import archive
from trpo_cli.report.content import Content, make_content
from trpo_cli.report.figures import save_together
from trpo_cli.report.measures import AGAINST
from trpo_cli.report.options import HEADLINE, Options
from trpo_cli.report.page import GENERATOR, render_page
from trpo_cli.report.references import EVERY_TASK
from trpo_cli.report.runs import find, find_archives, refuse_absent
from trpo_cli.report.table import WIDTH, escape
from trpo_cli.run import durable
from trpo_cli.shell import short_path
from trpo_cli.statistics import STATISTICS

PAGE, MARKDOWN = "report.html", "results.md"
FIGURES = ("learning_curves", "evaluations", "profiles", "infos", "diagnostics")
TABLES = (
    *("results", "human_scores", "human_scores_of_all", "comparison", "published", "versus", "aggregate", "efficiency"),
    *(
        "stops",
        "infos",
        "diagnostics",
        "hyperparameters",
        "own_hyperparameters",
        "shared_hyperparameters",
        "speed",
        "runs",
    ),
)
OURS = (
    PAGE,
    MARKDOWN,
    *(f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")),
    *(f"{name}.csv" for name in TABLES),
)
"""Every file that a report may write."""


def report(
    folders: Sequence[Path],
    out: Path,
    metric: str = HEADLINE,
    against: Sequence[str] = AGAINST[:1],
    **options: Any,
) -> None:
    """Write the report of the runs below `folders` into `out`; print its first table and the names of the files.

    `options` are those of `content.Options`. Raises `RunDirectoryError` if there is nothing to draw or `out` cannot be
    written to, `UserError` for options that do not fit.
    """
    refuse_unwritable(out)
    content = make_content(find(folders), Options(metric, against, **options))
    content = replace(content, notices=[*note_archives(folders), *content.notices])
    results = content.sections[0].table
    assert results is not None  # the first section is that table
    for line in (*content.notices, content.lead):
        print(fill(line, WIDTH, break_long_words=False, break_on_hyphens=False))
    print(f"\n{results.to_text()}")
    try:
        written = write(content, out, describe_origin(folders))
    except OSError as error:
        raise RunDirectoryError(f"--out: {out} cannot be written: {error.strerror}") from error
    tables = counted(sum(name.endswith(".csv") for name in written), "table")
    figures = counted(sum(name.endswith(".png") for name in written), "figure")
    print(f"written to {short_path(out)}: {PAGE}, {MARKDOWN}, {tables} (.csv), {figures} (.png, .svg)")


def note_archives(folders: Sequence[Path]) -> list[str]:
    """Note archives below the folders, which are not in the report unless they are named."""
    named = {folder.resolve() for folder in folders}
    below = {archive for folder in folders for archive in find_archives(folder) if archive.resolve() not in named}
    if len(below) < 2:
        return [f"{archive} is an archive and is left out; name it to include it in the report" for archive in below]
    names = ", ".join(map(str, sorted(below)))
    return [f"{len(below)} archives are left out; name them to include them in the report: {names}"]


def describe_origin(folders: Sequence[Path]) -> str:
    """Say what the page was made from, when, and by which version. Other files omit this, to stay reproducible."""
    places = ", ".join(str(short_path(folder)) for folder in folders)
    return f"Made from {places} on {datetime.now():%Y-%m-%d %H:%M} by trpo-cli {__version__}."


def write(content: Content, out: Path, made: str) -> list[str]:
    """Write every file of a report into `out`, remove those of an earlier report, and return the names."""
    out.mkdir(parents=True, exist_ok=True)
    for name in OURS[1:]:  # keep the page, which marks the others as files of a report
        (out / name).unlink(missing_ok=True)
    texts = {PAGE: render_page(content, made), MARKDOWN: format_markdown(content)}
    texts |= {f"{s.table.name}.csv": s.table.to_csv() for s in content.sections if s.table}
    for name, text in texts.items():
        durable.write(out / name, text.encode("utf-8", errors="backslashreplace"))
    for section in content.sections:
        for figure in section.figures:
            save_together(figure, out)
    return [name for name in OURS if (out / name).exists()]


def format_markdown(content: Content) -> str:
    """Format the report as Markdown, with links to its figures."""
    notices = "\n".join(f"- {escape(notice)}" for notice in content.notices)
    parts = [f"# {escape(content.title)}", escape(content.lead), notices]
    for section in content.sections:
        parts += [f"## {section.title}", section.caption]
        parts += [f"![{escape(figure.alt)}]({figure.name}.png)" for figure in section.figures]
        parts += [section.table.to_markdown().rstrip("\n"), section.table.note] if section.table else []
    return "\n\n".join(part for part in parts if part) + "\n"


def refuse_unwritable(out: Path) -> None:
    """Raise `RunDirectoryError` if `out` is not writable, or if a report would overwrite files that are not its own."""
    there = next(path for path in (out, *out.parents, Path()) if path.exists())
    if not there.is_dir():
        raise RunDirectoryError(f"--out: {there} is a file, not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RunDirectoryError(f"--out: {there} cannot be written to")
    taken = [name for name in OURS if os.path.lexists(out / name)]
    if taken and not ((out / PAGE).is_file() and GENERATOR in (out / PAGE).read_text("utf-8", errors="replace")):
        raise RunDirectoryError(f"--out: {out} has a {taken[0]} that does not belong to a report; name another folder")


def choose_folder(folders: Sequence[Path]) -> Path:
    """Return the default place of the report on one folder. Raises `UserError` for several folders."""
    if len(folders) > 1:
        raise UserError(f"--out: is needed with {len(folders)} folders: --out DIR says where the report goes")
    return folders[0] / "report"


def parse_thresholds(texts: Sequence[str]) -> dict[str, list[float]]:
    """Parse thresholds: `Hopper-v4=3000`, or a number for every task. Raises `UserError` for anything else."""
    found: dict[str, list[float]] = {}
    for text in texts:
        task, _, number = text.rpartition("=")
        try:
            found.setdefault(task or EVERY_TASK, []).append(float(number))
        except ValueError:
            known = "it takes RETURN, or TASK=RETURN such as Hopper-v4=3000"
            raise UserError(f"--threshold: got '{text}'; {known}") from None
    return found


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="trpo-report",
        description="Learning curves, tables and a page of many runs: averaged over seeds, with 95 % intervals.",
    )
    parser.add_version()
    add = parser.add_argument
    add("runs", nargs="+", type=path, metavar="RUNS", help="run directories, or folders of them")
    add("--out", type=path, metavar="DIR", help="where to write; made if need be (default, of one folder: its report/)")
    add("--archive", type=path, metavar="DIR", help="first copy finished runs there that it lacks, small "
        "enough to publish, and report on all it has")  # fmt: skip
    add("--by", nargs="+", action="extend", default=[], metavar="KEY", help="group by algo, env, sampler, algo.delta "
        "or any other key (default: algo and whatever settings differ)")  # fmt: skip
    add("--metric", default=HEADLINE, help="a column of metrics.csv (default: the return that most runs name as their "
        "headline)")  # fmt: skip
    add("--against", nargs="+", action="extend", choices=AGAINST, help="one panel each (default: env_steps)")
    add("--statistic", choices=STATISTICS, default="mean", help="over the runs of a group (default: %(default)s)")
    add("--smooth", type=int, default=1, metavar="N", help="draw the mean of N rows (default: 1, nothing is smoothed)")
    add("--threshold", nargs="+", action="extend", default=[], metavar="[TASK=]X", help="how many steps it takes is "
        "counted (default: 90 %% of the way to the best group's final; with --compare, the best published that "
        "compares)")  # fmt: skip
    add("--compare", action="store_true", help="with published numbers of MuJoCo tasks, Atari and MinAtar")
    add("--versus", nargs="+", action="extend", default=[], metavar="GROUP", help="the first group against the others, "
        "or against every other: differences with intervals, tests and how often a run is better")  # fmt: skip
    add("--title", default=Options.title, help="of the page")
    return parser.parse_args()


@report_errors
def main() -> None:
    """Run the command `trpo-report`."""
    given = vars(parse_arguments())
    if given["smooth"] < 1:
        raise UserError(f"--smooth: got {given['smooth']}; a number of rows fits, 1 or more")
    given["thresholds"] = parse_thresholds(given.pop("threshold"))
    given["statistic"] = STATISTICS[given["statistic"]]
    given["against"] = given["against"] or AGAINST[:1]
    folders, out, archived = given.pop("runs"), given.pop("out"), given.pop("archive")
    refuse_absent(folders)  # reported before problems of --out
    if archived is not None:
        copied, every = archive(find(folders), archived)
        print(f"{counted(copied, 'run')} copied to {archived}, which has {every} now\n")
        folders = [archived]
    report(folders, out or choose_folder(folders), **given)
