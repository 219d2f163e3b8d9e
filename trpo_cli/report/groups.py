"""Groups of runs to average over: runs of a task that differ only in their seed, or agree in chosen keys."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trpo_cli.cli.resume import find_schedules
from trpo_cli.config.settings import INDIFFERENT, MAY_CHANGE
from trpo_cli.errors import RunDirectoryError, did_you_mean
from trpo_cli.report.runs import RunRecord

PRESET = "experiment"  # the group whose options only set keys of others
NUMBER = re.compile(r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)")


@dataclass(frozen=True)
class Group:
    """Runs of one task under one label."""

    task: str
    label: str
    runs: tuple[RunRecord, ...]

    @property
    def algo(self) -> str:
        """The algorithm of its runs, or those of them."""
        return ", ".join(sorted({record.algo for record in self.runs}))


def natural_key(text: str) -> list[Any]:
    """A sort key that orders texts by the numbers in them."""
    return [float(part) if place % 2 else part for place, part in enumerate(NUMBER.split(text))]


def deciding_settings(record: RunRecord) -> dict[str, Any]:
    """The settings that may decide what is learned."""
    return {key: value for key, value in record.settings.items() if not key.startswith(INDIFFERENT)}


def without_duplicates(records: Sequence[RunRecord], by: Sequence[str] = ()) -> list[RunRecord]:
    """The records; of those that are the same run, seed and all, all but the one that got furthest are duplicates.

    Counted as two they would feign certainty. Groups `by` chosen keys may hold runs that were to take more steps than
    others: where nothing falls to 0 at the last one, the shorter run is the beginning of the longer.
    """
    alike: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.status != "broken" and record.task:
            alike[identity(record, by)].append(record)
    taken = {id(record): max(same, key=lambda r: r.steps) for same in alike.values() for record in same}
    return [_marked(record, taken.get(id(record), record)) for record in records]


def identity(record: RunRecord, by: Sequence[str]) -> str:
    """A text that is the same for runs that would learn the same; `by` are the keys that groups agree in."""
    options = {key: option for key, option in record.choices.items() if key != PRESET}
    settings = deciding_settings(record)
    if by and not find_schedules(settings):
        settings = {key: value for key, value in settings.items() if key in by or not key.startswith(MAY_CHANGE)}
    return repr((record.seed, sorted(options.items()), sorted(settings.items())))


def _marked(record: RunRecord, taken: RunRecord) -> RunRecord:
    if record is taken:
        return record
    how = "got further" if taken.steps > record.steps else "is taken instead"
    note = f"{record.status}; the same run, seed and all, as {taken.where()}, which {how}"
    return replace(record, status="duplicate", note=note)


def group_runs(records: Sequence[RunRecord], by: Sequence[str] = ()) -> list[Group]:
    """Groups sorted by task and label. Raises `RunDirectoryError` if `by` names a key that no run has."""
    for key in by:
        known = sorted({name for record in records for name in grouping_keys(record)})
        if key not in known:
            raise RunDirectoryError(f"--by: no run has a key '{key}'{did_you_mean(key, known)}")
    found: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    labels = [chosen_label(record, by) for record in records] if by else default_labels(records)
    for record, label in zip(records, labels, strict=True):
        found[record.task, label].append(record)
    order = sorted(found, key=lambda place: (natural_key(place[0]), natural_key(place[1])))
    return [Group(task, label, tuple(found[task, label])) for task, label in order]


def finished(group: Group) -> Group:
    """The group without runs that are not finished, which would end its curves early; with them if none is."""
    runs = tuple(record for record in group.runs if record.status == "finished")
    return replace(group, runs=runs or group.runs)


def grouping_keys(record: RunRecord) -> dict[str, Any]:
    """Whatever a run can be grouped by: options of groups, and settings."""
    return {**record.settings, **record.choices, "algo": record.algo, "env": record.task}


def chosen_label(record: RunRecord, by: Sequence[str]) -> str:
    """The values of the keys; those of `algo` and `env` speak for themselves."""
    values = grouping_keys(record)
    parts = [str(values[key]) if key in ("algo", "env") else f"{key}={values[key]}" for key in by if key in values]
    return " ".join(parts) or f"no {by[0]}"


def default_labels(records: Sequence[RunRecord]) -> list[str]:
    """The algorithm of each run, and what distinguishes the run from others of its task and algorithm."""
    alike: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        alike[record.task, record.algo].append(record)
    labels: dict[int, str] = {}
    for family in alike.values():
        for record, told in zip(family, distinguish(family), strict=True):
            labels[id(record)] = " ".join([record.algo, *(f"{key}={value}" for key, value in told.items())])
    return [labels[id(record)] for record in records]


def distinguish(family: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Of each run, the options of groups in which the runs differ, and the other settings.

    Where an option differs it stands for all settings of its group.
    """
    options = [{key: value for key, value in r.choices.items() if "/" not in key and key != PRESET} for r in family]
    chosen = find_differing_keys(options)
    settings = [deciding_settings(record) for record in family]
    varying = find_differing_keys(settings)
    found = []
    for mine, values in zip(options, settings, strict=True):
        same = [other for other, theirs in zip(settings, options, strict=True) if theirs == mine]
        within = find_differing_keys(same) if chosen else varying
        told = {key for key in varying if key in within or key.partition(".")[0] not in chosen}
        found.append(
            {key: mine[key] for key in sorted(chosen & mine.keys())}
            | {key: values[key] for key in sorted(told & values.keys())}
        )
    return found


def find_differing_keys(tables: Iterable[dict[str, Any]]) -> set[str]:
    """The keys that not all tables have with the same value."""
    texts = [{key: repr(value) for key, value in table.items()} for table in tables]
    names = {key for table in texts for key in table}
    return {key for key in names if len({table.get(key) for table in texts}) > 1}


def averaged_settings(group: Group) -> list[str]:
    """The options and keys, seed aside, in which the runs of a group differ."""
    return sorted({key for told in distinguish(group.runs) for key in told})


def repeated_seeds(group: Group) -> dict[int, int]:
    """seed -> how often it occurs, if more than once."""
    times = Counter(record.seed for record in group.runs if record.seed is not None)
    return {seed: times[seed] for seed in sorted(times) if times[seed] > 1}
