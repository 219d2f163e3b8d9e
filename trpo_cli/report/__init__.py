"""trpo-report: learning curves, tables and a page over the seeds of many runs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from trpo_cli import __version__
from trpo_cli.cli.command_line import Parser, path
from trpo_cli.cli.failures import reported
from trpo_cli.errors import RunDirectoryError, UserError
from trpo_cli.report.archive import archive
from trpo_cli.report.content import Content, Options, content
from trpo_cli.report.figures import together
from trpo_cli.report.measures import AGAINST
from trpo_cli.report.notices import many
from trpo_cli.report.page import GENERATOR, page
from trpo_cli.report.references import EVERY_TASK
from trpo_cli.report.runs import archives, find, refuse_absent
from trpo_cli.report.tables import escaped
from trpo_cli.run import durable
from trpo_cli.run.layout import relative
from trpo_cli.run.state import RETURN
from trpo_cli.statistics import STATISTICS

PAGE, MARKDOWN = "report.html", "results.md"
FIGURES = ("learning_curves", "profiles", "diagnostics")
TABLES = ("results", "comparison", "published", "versus", "aggregate", "efficiency", "speed", "diagnostics", "runs")
OURS = (
    PAGE,
    MARKDOWN,
    *(f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")),
    *(f"{name}.csv" for name in TABLES),
)
"""Every file that a report may be made of."""


def report(
    folders: Sequence[Path],
    out: Path,
    metric: str = RETURN,
    against: Sequence[str] = AGAINST[:1],
    **options: Any,
) -> None:
    """Write the report of the runs below `folders` into `out`; print its first table, and where the files are.

    `options` are those of `content.Options`. Raises `RunDirectoryError` if there is nothing to draw or `out` cannot be
    written to, `UserError` for options that do not fit.
    """
    refuse_unwritable(out)
    told = content(find(folders), Options(metric, against, **options))
    told = replace(told, notices=[*left_out(folders), *told.notices])
    results = told.sections[0].table
    assert results is not None  # the first section is that table
    for notice in told.notices:
        print(notice)
    print(results.text(), end="")
    try:
        written = write(told, out, origin(folders))
    except OSError as error:
        raise RunDirectoryError(f"--out: {out} cannot be written: {error.strerror}") from error
    print(f"\nwritten to {relative(out)}: {', '.join(written)}")


def left_out(folders: Sequence[Path]) -> list[str]:
    """That archives below the folders are not in the report, but for those that are named themselves."""
    named = {folder.resolve() for folder in folders}
    below = {archive for folder in folders for archive in archives(folder) if archive.resolve() not in named}
    return [f"{archive} is an archive, and is left out: name it to have it in the report" for archive in sorted(below)]


def origin(folders: Sequence[Path]) -> str:
    """What the page is made from, when and by what: of all files it alone says so, and differs from time to time."""
    places = ", ".join(str(relative(folder)) for folder in folders)
    return f"Made from {places} on {datetime.now():%Y-%m-%d %H:%M} by trpo-cli {__version__}."


def write(told: Content, out: Path, made: str) -> list[str]:
    """Put every file of a report into `out`, and take away those of an earlier one; returns their names."""
    out.mkdir(parents=True, exist_ok=True)
    for name in OURS[1:]:  # the page stays, and comes first: without it the others would seem to be of no report
        (out / name).unlink(missing_ok=True)
    texts = {PAGE: page(told, made), MARKDOWN: markdown(told)}
    texts |= {f"{s.table.name}.csv": s.table.csv() for s in told.sections if s.table}
    for name, text in texts.items():
        durable.write(out / name, text.encode("utf-8", errors="backslashreplace"))
    for section in told.sections:
        if section.panels:
            together(section.panels, section.columns, out / section.figure)
    return [name for name in OURS if (out / name).exists()]


def markdown(told: Content) -> str:
    """The report without its figures, which it links to."""
    parts = [f"# {escaped(told.title)}", escaped(told.lead), "\n".join(f"- {escaped(n)}" for n in told.notices)]
    for section in told.sections:
        parts += [f"## {section.title}", section.caption]
        parts += [f"![{escaped(section.title)}]({section.figure}.png)"] if section.figure else []
        parts += [section.table.markdown().rstrip("\n"), section.table.note] if section.table else []
    return "\n\n".join(part for part in parts if part) + "\n"


def refuse_unwritable(out: Path) -> None:
    """Raise `RunDirectoryError` if a report cannot go to `out`, or would take the place of what is no report."""
    there = next(path for path in (out, *out.parents, Path()) if path.exists())
    if not there.is_dir():
        raise RunDirectoryError(f"--out: {there} is a file, not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RunDirectoryError(f"--out: {there} cannot be written to")
    taken = [name for name in OURS if os.path.lexists(out / name)]
    if taken and not ((out / PAGE).is_file() and GENERATOR in (out / PAGE).read_text("utf-8", errors="replace")):
        raise RunDirectoryError(f"--out: {out} has a {taken[0]} that is not of a report: name another folder")


def beside(folders: Sequence[Path]) -> Path:
    """Where the report of one folder goes by itself. Raises `UserError` for several."""
    if len(folders) > 1:
        raise UserError(f"--out: is needed with {len(folders)} folders: --out DIR says where the report goes")
    return folders[0] / "report"


def thresholds(texts: Sequence[str]) -> dict[str, list[float]]:
    """`Hopper-v4=3000` -> its task and number; a bare number is for every task. Raises `UserError` for neither."""
    found: dict[str, list[float]] = {}
    for text in texts:
        task, _, number = text.rpartition("=")
        try:
            found.setdefault(task or EVERY_TASK, []).append(float(number))
        except ValueError:
            known = "a return fits, or TASK=RETURN, Hopper-v4=3000 for one"
            raise UserError(f"--threshold: got '{text}'; {known}") from None
    return found


def parsed() -> argparse.Namespace:
    """The command line."""
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
    add("--metric", default=RETURN, help="a column of metrics.csv (default: %(default)s)")
    add("--against", nargs="+", action="extend", choices=AGAINST, help="one panel each (default: env_steps)")
    add("--statistic", choices=STATISTICS, default="mean", help="over the runs of a group (default: %(default)s)")
    add("--smooth", type=int, default=1, metavar="N", help="draw the mean of N rows (default: 1, nothing is smoothed)")
    add("--threshold", nargs="+", action="extend", default=[], metavar="[TASK=]X", help="how many steps it takes is "
        "counted (default: 90 %% of the way to the best group's final; with --compare, the best published that "
        "compares)")  # fmt: skip
    add("--compare", action="store_true", help="with published numbers of TRPO, NPG and PPO")
    add("--versus", nargs="+", action="extend", default=[], metavar="GROUP", help="the first group against the others, "
        "or against every other: differences with intervals, tests and how often a run is better")  # fmt: skip
    add("--title", default=Options.title, help="of the page")
    return parser.parse_args()


@reported
def main() -> None:
    """The command `trpo-report`."""
    given = vars(parsed())
    if given["smooth"] < 1:
        raise UserError(f"--smooth: got {given['smooth']}; a number of rows fits, 1 or more")
    given["thresholds"] = thresholds(given.pop("threshold"))
    given["statistic"] = STATISTICS[given["statistic"]]
    given["against"] = given["against"] or AGAINST[:1]
    folders, out, archived = given.pop("runs"), given.pop("out"), given.pop("archive")
    refuse_absent(folders)  # before it matters where the report goes
    if archived is not None:
        copied, every = archive(find(folders), archived)
        print(f"{many(copied, 'run')} copied to {archived}, which has {every} now\n")
        folders = [archived]
    report(folders, out or beside(folders), **given)
