"""Copies of runs that are small enough to publish, from which a report can still be made."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trpo_cli.columns import EVALUATION, RECENT
from trpo_cli.errors import RunDirectoryError
from trpo_cli.report.diagnostics import summarise
from trpo_cli.report.groups import group_runs, mark_duplicates, natural_key
from trpo_cli.report.measures import rises
from trpo_cli.report.runs import (
    HEADER,
    ITERATIONS,
    RESULTS,
    SECONDS,
    SUMMARISED,
    RunRecord,
    Whole,
    find_directories,
    is_archive,
    read,
    read_summary,
)
from trpo_cli.run import durable
from trpo_cli.run.layout import ALL_ROWS, CONFIG, HEADLINE, METRICS, SUMMARY, directory_name

ROWS = 100  # of metrics.csv that are kept


def archive(records: Sequence[RunRecord], directory: Path) -> tuple[int, int]:
    """Copy the configuration, summary and some rows of every finished run to DIRECTORY/TASK/LABEL/seedSEED.

    Runs that are already there, including identical ones with the same seed, are kept; `results.csv` has a row for each
    run in the archive. Returns how many runs were copied, and how many the archive contains now. Raises
    `RunDirectoryError` if no run is finished, if two would share a place, or if `directory` cannot be written to.
    """
    if not any(record.status == "finished" for record in records):
        raise RunDirectoryError("--archive: no run is finished")
    _refuse_foreign(directory / RESULTS)
    there = _read_archived(directory)
    taken = {record.directory: record for record in there}
    new: dict[Path, RunRecord] = {}
    for group in group_runs([r for r in mark_duplicates([*there, *records]) if r.rows]):
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
        _write_results(directory / RESULTS, _read_archived(directory))
    except OSError as error:
        raise RunDirectoryError(f"--archive: {error.filename or directory}: {error.strerror}") from error
    return len(new), len(there) + len(new)


def _read_archived(directory: Path) -> list[RunRecord]:
    """Read the runs of an archive, without interrupted copies, which have no summary."""
    found = [read(path) for path in sorted(find_directories(directory))] if directory.is_dir() else []
    return [record for record in found if record.status == "finished"]


def _refuse_foreign(results: Path) -> None:
    """Raise `RunDirectoryError` for a `results.csv` that does not belong to an archive."""
    if results.exists() and not is_archive(results.parent):
        raise RunDirectoryError(f"--archive: {results} does not belong to an archive, and is not overwritten")


def select_rows(record: RunRecord) -> list[int]:
    """Select at most `ROWS` rows: the first, tenth, hundredth and so on, the last and the best, then rows with an
    evaluation, then others.

    If not all rows of a kind fit, evenly spaced ones are taken.
    """
    every = range(record.count_rows())
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
    """Copy a run. The summary comes last, so a copy that has one is complete."""
    path.mkdir(parents=True, exist_ok=True)
    durable.write(path / METRICS, _thin_out(record).encode())
    if whole := summarise_rows(record):
        durable.write(path / ALL_ROWS, whole.to_json().encode())
    durable.write(path / HEADLINE, f"{record.headline}\n".encode())
    for name in (CONFIG, SUMMARY):
        durable.write(path / name, (record.directory / name).read_bytes())


def summarise_rows(record: RunRecord) -> Whole | None:
    """Summarise all rows of a run, if its copy will lack some. An archived run keeps the summary that it has."""
    if record.is_thinned() or len(select_rows(record)) == record.count_rows():
        return record.whole
    returns = [name for name in (record.headline, RECENT, EVALUATION) if record.has(name)]
    return Whole({name: rises(record, name) for name in returns}, summarise(record))


def _thin_out(record: RunRecord) -> str:
    """Format the selected rows, each with its iteration and the seconds since the previous selected row."""
    text = (record.directory / METRICS).read_text(encoding="utf-8")
    if ITERATIONS in record.rows:  # an archived run
        return text
    header, *lines = csv.reader(io.StringIO(text))
    seconds = {place: np.cumsum(record.rows[name]) for place, name in enumerate(header) if name in SECONDS}
    before = dict.fromkeys(seconds, 0.0)
    thinned = io.StringIO(newline="")
    writer = csv.writer(thinned, lineterminator="\n")
    writer.writerow([*header, ITERATIONS])
    for row in select_rows(record):
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
