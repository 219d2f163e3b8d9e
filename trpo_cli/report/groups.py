"""Groups of runs to average over: runs of a task that differ only in their seed, or agree in chosen keys."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trpo_cli.config.scheduling import list_scheduled_keys
from trpo_cli.config.settings import INDIFFERENT, LATER, MAY_CHANGE, format_setting
from trpo_cli.errors import RunDirectoryError, did_you_mean, enumerated
from trpo_cli.report.runs import RunRecord
from trpo_cli.shell import short_path

PRESET = "experiment"  # the group whose options only set keys of others
ALTERING = ("env.kwargs", "env.max_episode_steps", "env.wrappers", "env.observe", "env.hide")
"""Keys that make another task of a registered one, whose published returns do not compare with it."""
NUMBER = re.compile(r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)")


FEW = 4  # names in a sentence
SPELT = 90  # letters of all names in a sentence


@dataclass(frozen=True)
class Group:
    """Runs of one task under one label."""

    task: str
    label: str
    runs: tuple[RunRecord, ...]

    @property
    def algo(self) -> str:
        """The algorithm of its runs; several are separated by commas."""
        return ", ".join(sorted({record.algo for record in self.runs}))

    @property
    def alterations(self) -> list[str]:
        """The settings by which its runs have another task than the registered one."""
        settings = [setting for record in self.runs for setting in record.settings.items()]
        return sorted({key for key, value in settings if key.startswith(ALTERING) and value not in (None, [], {})})


def are_few(groups: Sequence[Group]) -> bool:
    """Whether a sentence can name all groups."""
    labels = {group.label for group in groups}
    return len(labels) <= FEW and sum(map(len, labels)) <= SPELT


def name_groups(groups: Sequence[Group]) -> str:
    """Name groups in a sentence: by their labels or, where these are many or long, by their algorithms."""
    algos = {group.label: group.algo for group in groups}
    if are_few(groups):
        return enumerated([*algos])
    counts = Counter(algos.values())
    if len(counts) > FEW or any(len({run.algo for run in group.runs}) > 1 for group in groups):
        return f"{len(algos)} groups of runs"
    return enumerated([f"{count} variants of {algo}" if count > 1 else algo for algo, count in counts.items()])


def natural_key(text: str) -> list[Any]:
    """Return a sort key that orders texts by the numbers in them."""
    return [float(part) if place % 2 else part for place, part in enumerate(NUMBER.split(text))]


def select_deciding_settings(record: RunRecord) -> dict[str, Any]:
    """Select the settings that may decide what is learned."""
    return {key: value for key, value in record.settings.items() if not key.startswith(INDIFFERENT)}


def mark_duplicates(records: Sequence[RunRecord], by: Sequence[str] = ()) -> list[RunRecord]:
    """Mark all but the longest of identical runs, with the same seed, as duplicates, and return all records.

    Counting a run twice would overstate the certainty. Groups `by` chosen keys may contain runs with different
    `total_steps`: unless a schedule ends there, the shorter run is the beginning of the longer one.
    """
    alike: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.status != "broken" and record.task:
            alike[identify(record, by)].append(record)
    taken = {id(record): max(same, key=lambda r: r.steps) for same in alike.values() for record in same}
    return [_mark(record, taken.get(id(record), record)) for record in records]


def identify(record: RunRecord, by: Sequence[str]) -> str:
    """Return a text that is equal for runs that would learn the same; groups agree in the keys in `by`."""
    options = {key: option for key, option in record.choices.items() if key != PRESET}
    settings = select_deciding_settings(record)
    if by and not list_scheduled_keys(settings):
        settings = {key: value for key, value in settings.items() if key in by or not key.startswith(MAY_CHANGE)}
    return repr((record.seed, sorted(options.items()), sorted(settings.items())))


def _mark(record: RunRecord, taken: RunRecord) -> RunRecord:
    if record is taken:
        return record
    how = "got further" if taken.steps > record.steps else "is taken instead"
    note = f"{record.status}; the same run, seed and all, as {taken.where()}, which {how}"
    return replace(record, status="duplicate", note=note)


def group_runs(records: Sequence[RunRecord], by: Sequence[str] = ()) -> list[Group]:
    """Return groups sorted by task and label. Raises `RunDirectoryError` if `by` names a key that no run has."""
    for key in by:
        known = sorted({name for record in records for name in list_grouping_keys(record)})
        if key not in known:
            raise RunDirectoryError(f"--by: no run has a key '{key}'{did_you_mean(key, known)}")
    found: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    labels = [make_label(record, by) for record in records] if by else make_default_labels(records)
    for record, label in zip(records, labels, strict=True):
        found[record.task, label].append(record)
    order = sorted(found, key=lambda place: (natural_key(place[0]), natural_key(place[1])))
    return [Group(task, label, tuple(found[task, label])) for task, label in order]


def select_finished(group: Group) -> Group:
    """Return the group with its finished runs, since others would end its curves early; with all if none is."""
    runs = tuple(record for record in group.runs if record.status == "finished")
    return replace(group, runs=runs or group.runs)


def list_grouping_keys(record: RunRecord) -> dict[str, Any]:
    """Return everything by which a run can be grouped: options of groups, and settings."""
    return {**record.settings, **record.choices, "algo": record.algo, "env": record.task}


def make_label(record: RunRecord, by: Sequence[str]) -> str:
    """Make a label from the values of the keys; those of `algo` and `env` need no name."""
    values = list_grouping_keys(record)
    parts = [_name(key, values[key]) for key in by if key in values and (key, values[key]) != ("init_from", None)]
    return " ".join(parts) or f"no {by[0]}"


def _name(key: str, value: Any) -> str:
    if key in ("algo", "env"):
        return str(value)
    place = key == "init_from" and value is not None
    return f"{key}={short_path(Path(value)) if place else format_setting(value)}"


def _is_said(key: str, value: Any) -> bool:
    """Whether a value belongs in a label: not the usual one of a key that most runs leave alone."""
    return value != {} and (key not in LATER or value != LATER[key])


def make_default_labels(records: Sequence[RunRecord]) -> list[str]:
    """Make a label for each run: its algorithm, and what distinguishes it from others of its task and algorithm."""
    alike: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        alike[record.task, record.algo].append(record)
    labels: dict[int, str] = {}
    for family in alike.values():
        for record, named in zip(family, distinguish(family), strict=True):
            parts = [_name(key, value) for key, value in named.items() if _is_said(key, value)]
            labels[id(record)] = " ".join([record.algo, *parts])
    return [labels[id(record)] for record in records]


def distinguish(family: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Return for each run the options of groups in which the runs differ, and the other settings that differ.

    A different option represents all settings of its group.
    """
    options = [{key: value for key, value in r.choices.items() if "/" not in key and key != PRESET} for r in family]
    chosen = find_differing_keys(options)
    settings = [select_deciding_settings(record) for record in family]
    varying = find_differing_keys(settings)
    found = []
    for mine, values in zip(options, settings, strict=True):
        same = [other for other, theirs in zip(settings, options, strict=True) if theirs == mine]
        within = find_differing_keys(same) if chosen else varying
        named = {key for key in varying if key in within or key.partition(".")[0] not in chosen}
        found.append(
            {key: mine[key] for key in sorted(chosen & mine.keys())}
            | {key: values[key] for key in sorted(named & values.keys())}
        )
    return found


def find_differing_keys(tables: Iterable[dict[str, Any]]) -> set[str]:
    """Return the keys that not all tables have with the same value."""
    texts = [{key: repr(value) for key, value in table.items()} for table in tables]
    names = {key for table in texts for key in table}
    return {key for key in names if len({table.get(key) for table in texts}) > 1}


def find_averaged_settings(group: Group) -> list[str]:
    """Return the options and keys, except the seed, in which the runs of a group differ."""
    return sorted({key for named in distinguish(group.runs) for key in named})


def count_repeated_seeds(group: Group) -> dict[int, int]:
    """Count how often each seed occurs, for seeds that occur more than once."""
    times = Counter(record.seed for record in group.runs if record.seed is not None)
    return {seed: times[seed] for seed in sorted(times) if times[seed] > 1}
