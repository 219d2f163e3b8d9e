"""Runs made small enough to publish: what each was and came to, and its curve, for a report to be made from anew."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trpo_cli import durable
from trpo_cli.errors import RunDirectoryError
from trpo_cli.layout import CONFIG, METRICS, SUMMARY, plain
from trpo_cli.report.groups import grouped, natural, without_duplicates
from trpo_cli.report.runs import EVALUATION, ITERATIONS, SECONDS, RunRecord, find, read_summary
from trpo_cli.state import RETURN

RESULTS = "results.csv"
SUMMARISED = ("env_steps", "final_training_return", "final_evaluation_return", "best_training_return", "wall_seconds")
HEADER = ["task", "algo", "seed", *SUMMARISED]
ROWS = 100  # of metrics.csv that are kept


def archive(records: Sequence[RunRecord], directory: Path) -> tuple[int, int]:
    """Copy every finished run's configuration, summary and some of its rows to DIRECTORY/TASK/LABEL/seedSEED.

    Runs that are there already stay; `results.csv` has a row for each of all. Returns how many were copied, and how
    many there are now. Raises `RunDirectoryError` if no run is finished, another run is in a place already, or
    `directory` cannot be written to.
    """
    chosen: dict[Path, RunRecord] = {}
    for group in grouped([r for r in without_duplicates(records) if r.rows]):
        for record in (run for run in group.runs if run.status == "finished"):
            path = directory / plain(group.task) / plain(group.label) / f"seed{record.seed}"
            if path in chosen:
                raise RunDirectoryError(f"--archive: {record.where()} and {chosen[path].where()} would both be {path}")
            chosen[path] = record
    if not chosen:
        raise RunDirectoryError("--archive: no run is finished")
    new = {path: record for path, record in chosen.items() if not _has(path, record)}
    for path in new:
        if path.exists():
            raise RunDirectoryError(f"--archive: {path} is another run already; an archive is not written over")
    _refuse_foreign(directory / RESULTS)
    try:
        for path, record in new.items():
            _copy(record, path)
        every = [record for record in find([directory]) if record.status == "finished"]
        _write_results(directory / RESULTS, every)
    except OSError as error:
        raise RunDirectoryError(f"--archive: {error.filename or directory}: {error.strerror}") from error
    return len(new), len(every)


def _has(path: Path, record: RunRecord) -> bool:
    """Whether the copy of the run is there already."""
    return all(
        (path / name).is_file() and (path / name).read_bytes() == (record.directory / name).read_bytes()
        for name in (CONFIG, SUMMARY)
    )


def _refuse_foreign(results: Path) -> None:
    """Raise `RunDirectoryError` for a `results.csv` that is of no archive."""
    if results.exists() and results.read_text("utf-8", errors="replace").partition("\n")[0] != ",".join(HEADER):
        raise RunDirectoryError(f"--archive: {results} is of no archive, and is not written over")


def kept(record: RunRecord) -> list[int]:
    """Which rows stay, at most `ROWS`: the first, the last and the best, then those with an evaluation, then others.

    Where not all of a kind fit, they are taken at equal distances.
    """
    every = range(len(next(iter(record.rows.values()))))
    if len(every) <= ROWS:
        return list(every)
    chosen = {0, every[-1]}
    if record.has(RETURN):
        chosen.add(int(np.nanargmax(record.rows[RETURN])))
    evaluated = np.flatnonzero(~np.isnan(record.rows[EVALUATION])).tolist() if record.has(EVALUATION) else []
    for rows in (evaluated, every):
        places = np.linspace(0, len(rows) - 1, min(len(rows), ROWS - len(chosen)), dtype=int)
        chosen |= {rows[place] for place in places}
    return sorted(chosen)


def _copy(record: RunRecord, path: Path) -> None:
    """A row that stays says which iteration it was, and takes over the seconds of those before it that do not."""
    path.mkdir(parents=True)
    for name in (CONFIG, SUMMARY):
        (path / name).write_bytes((record.directory / name).read_bytes())
    with (record.directory / METRICS).open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    seconds = {place: np.cumsum(record.rows[name]) for place, name in enumerate(header) if name in SECONDS}
    before = dict.fromkeys(seconds, 0.0)
    with (path / METRICS).open("x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*header, ITERATIONS])
        for row in kept(record):
            since = {place: round(float(total[row]) - before[place], 6) for place, total in seconds.items()}
            before = {place: float(total[row]) for place, total in seconds.items()}
            writer.writerow([*(since.get(place, cell) for place, cell in enumerate(lines[row])), row + 1])


def _write_results(path: Path, records: Sequence[RunRecord]) -> None:
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(HEADER)
    for record in sorted(records, key=lambda r: (natural(r.task), natural(r.algo), r.seed)):
        summary = read_summary(record.directory / SUMMARY)
        writer.writerow([record.task, record.algo, record.seed, *(summary.get(name) for name in SUMMARISED)])
    durable.write(path, lines.getvalue().encode())
