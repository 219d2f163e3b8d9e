"""Copies of runs that are small enough to publish, from which a report can still be made."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trpo_cli.errors import RunDirectoryError
from trpo_cli.report.diagnostics import measured
from trpo_cli.report.groups import group_runs, natural_key, without_duplicates
from trpo_cli.report.measures import rises
from trpo_cli.report.runs import (
    EVALUATION,
    HEADER,
    ITERATIONS,
    RECENT,
    RESULTS,
    SECONDS,
    SUMMARISED,
    RunRecord,
    Whole,
    directories,
    is_archive,
    read,
    read_summary,
)
from trpo_cli.run import durable
from trpo_cli.run.layout import ALL_ROWS, CONFIG, HEADLINE, METRICS, SUMMARY, directory_name

ROWS = 100  # of metrics.csv that are kept


def archive(records: Sequence[RunRecord], directory: Path) -> tuple[int, int]:
    """Copy every finished run's configuration, summary and some of its rows to DIRECTORY/TASK/LABEL/seedSEED.

    Runs that are there already, or the same to the seed, stay as they are; `results.csv` has a row for each of all.
    Returns how many were copied, and how many there are now. Raises `RunDirectoryError` if no run is finished, two
    would share a place, or `directory` cannot be written to.
    """
    if not any(record.status == "finished" for record in records):
        raise RunDirectoryError("--archive: no run is finished")
    _refuse_foreign(directory / RESULTS)
    there = _archived(directory)
    taken = {record.directory: record for record in there}
    new: dict[Path, RunRecord] = {}
    for group in group_runs([r for r in without_duplicates([*there, *records]) if r.rows]):
        home = next((run.directory.parent for run in group.runs if run.directory in taken), None)
        home = home or directory / directory_name(group.task) / directory_name(group.label)
        for record in (run for run in group.runs if run.status == "finished" and run.directory not in taken):
            path = home / f"seed{record.seed}"
            if other := new.get(path) or taken.get(path):
                raise RunDirectoryError(f"--archive: {record.where()} and {other.where()} would both be {path}")
            new[path] = record
    try:
        for path, record in new.items():
            _copy(record, path)
        _write_results(directory / RESULTS, _archived(directory))
    except OSError as error:
        raise RunDirectoryError(f"--archive: {error.filename or directory}: {error.strerror}") from error
    return len(new), len(there) + len(new)


def _archived(directory: Path) -> list[RunRecord]:
    """The runs of an archive; a copy that was interrupted has no summary yet, and does not count."""
    found = [read(path) for path in sorted(directories(directory))] if directory.is_dir() else []
    return [record for record in found if record.status == "finished"]


def _refuse_foreign(results: Path) -> None:
    """Raise `RunDirectoryError` for a `results.csv` that is of no archive."""
    if results.exists() and not is_archive(results.parent):
        raise RunDirectoryError(f"--archive: {results} is of no archive, and is not written over")


def kept(record: RunRecord) -> list[int]:
    """Which rows stay, at most `ROWS`: the first, tenth, hundredth and so on, the last and the best, then those with an
    evaluation, then others.

    Where not all of a kind fit, they are taken at equal distances.
    """
    every = range(record.length())
    if len(every) <= ROWS:
        return list(every)
    chosen = {every[-1], *(10**power - 1 for power in range(len(str(len(every)))))}
    if record.has(record.headline):
        chosen.add(int(np.nanargmax(record.rows[record.headline])))
    evaluated = np.flatnonzero(~np.isnan(record.rows[EVALUATION])).tolist() if record.has(EVALUATION) else []
    for rows in (evaluated, every):
        places = np.linspace(0, len(rows) - 1, min(len(rows), ROWS - len(chosen)), dtype=int)
        chosen |= {rows[place] for place in places}
    return sorted(chosen)


def _copy(record: RunRecord, path: Path) -> None:
    """The summary comes last: a copy with one is whole."""
    path.mkdir(parents=True, exist_ok=True)
    durable.write(path / METRICS, _thinned(record).encode())
    if told := whole(record):
        durable.write(path / ALL_ROWS, told.text().encode())
    durable.write(path / HEADLINE, f"{record.headline}\n".encode())
    for name in (CONFIG, SUMMARY):
        durable.write(path / name, (record.directory / name).read_bytes())


def whole(record: RunRecord) -> Whole | None:
    """What all rows of a run come to, if its copy lacks some; of a run that lacks rows itself, what came with it."""
    if record.thinned() or len(kept(record)) == record.length():
        return record.whole
    returns = [name for name in (record.headline, RECENT, EVALUATION) if record.has(name)]
    return Whole({name: rises(record, name) for name in returns}, measured(record))


def _thinned(record: RunRecord) -> str:
    """A row that stays says which iteration it was, and takes over the seconds of those before it that do not."""
    text = (record.directory / METRICS).read_text(encoding="utf-8")
    if ITERATIONS in record.rows:  # an archived run
        return text
    header, *lines = csv.reader(io.StringIO(text))
    seconds = {place: np.cumsum(record.rows[name]) for place, name in enumerate(header) if name in SECONDS}
    before = dict.fromkeys(seconds, 0.0)
    thinned = io.StringIO(newline="")
    writer = csv.writer(thinned, lineterminator="\n")
    writer.writerow([*header, ITERATIONS])
    for row in kept(record):
        since = {place: round(float(total[row]) - before[place], 6) for place, total in seconds.items()}
        before = {place: float(total[row]) for place, total in seconds.items()}
        writer.writerow([*(since.get(place, cell) for place, cell in enumerate(lines[row])), row + 1])
    return thinned.getvalue()


def _write_results(path: Path, records: Sequence[RunRecord]) -> None:
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(HEADER)
    for record in sorted(records, key=lambda r: (natural_key(r.task), natural_key(r.algo), r.seed)):
        summary = read_summary(record.directory / SUMMARY)
        writer.writerow([record.task, record.algo, record.seed, *(summary.get(name) for name in SUMMARISED)])
    durable.write(path, lines.getvalue().encode())
