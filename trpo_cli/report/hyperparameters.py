"""The hyperparameters of the groups: those that differ, with their values, and those that all share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from trpo_cli.config.settings import LATER
from trpo_cli.report.groups import PRESET, Group, find_differing_keys, list_grouping_keys, select_deciding_settings
from trpo_cli.report.runs import RunRecord
from trpo_cli.report.table import Table

NAMED_OTHERWISE = ("algo", "env", "env.id", PRESET)  # in the columns of the task and the algorithm
UNUSED = "none"
LONG = 40  # letters of the names of groups that are not spelled out


def make_tables(groups: Sequence[Group]) -> tuple[Table, Table]:
    """Make the tables of the hyperparameters that differ between groups, and of those that all runs share."""
    values = {id(group): _list_values(group) for group in groups}
    differing = find_differing_keys(values.values())
    keys = sorted({key for own in values.values() for key in own})
    several = {key for key in differing if len({own[key] for own in values.values() if key in own}) > 1}
    rows = [
        (key, _describe(key, groups, values)) for key in sorted(differing, key=lambda key: (key not in several, key))
    ]
    common = {key: values[id(groups[0])][key] for key in keys if key not in differing}
    shared = [(key, value) for key, value in common.items() if value not in (UNUSED, USUAL.get(key))]
    columns = ("setting", "value")
    return (
        Table("hyperparameters", "Hyperparameters", columns, tuple(rows)),
        Table("shared_hyperparameters", "Shared hyperparameters", columns, tuple(shared)),
    )


def _list_values(group: Group) -> dict[str, str]:
    """The value of each setting, or all of them where the runs of the group differ."""
    found: dict[str, set[str]] = defaultdict(set)
    for record in group.runs:
        for key, value in _select(record).items():
            found[key].add(_write(value))
    return {key: ", ".join(sorted(values)) for key, values in found.items()}


def _select(record: RunRecord) -> dict[str, Any]:
    """Options of groups and settings, without the names of classes, which the options stand for."""
    grouped = {key: value for key, value in list_grouping_keys(record).items() if key in record.choices}
    settings = {**grouped, **select_deciding_settings(record)}
    return {
        key: value
        for key, value in settings.items()
        if key not in NAMED_OTHERWISE
        and value != {}
        and not key.endswith(("_target_", "_partial_"))
        and not key.startswith("hydra")
    }


def _write(value: Any) -> str:
    if isinstance(value, bool) or value in (None, "None"):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else str(value)


USUAL = {key: _write(value) for key, value in LATER.items()}
"""What most runs leave as it is, which need not be said."""


def _describe(key: str, groups: Sequence[Group], values: dict[int, dict[str, str]]) -> str:
    """`0.02 (trpo); 0.01 (npg on Hopper-v4)`: each value and the groups that have it, or `else` for most of them."""
    having: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        if key in values[id(group)]:
            having[values[id(group)][key]].append(group)
    known = [group for some in having.values() for group in some]
    ordered = sorted(having.items(), key=lambda pair: len(pair[1]))
    parts = [(value, _name(some, known)) for value, some in ordered]
    most, whose = parts[-1]
    last = f"else {most}" if len(parts) > 1 and len(whose) > LONG else f"{most} ({whose})"
    return "; ".join([*(f"{value} ({named})" for value, named in parts[:-1]), last])


def _name(some: Sequence[Group], known: Sequence[Group]) -> str:
    """Name groups by their tasks where all labels are meant, by their labels where all tasks are, or else by both."""
    every, own = _tasks_by_label(known), _tasks_by_label(some)
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for label, tasks in own.items():
        alike[() if tasks == every[label] else tuple(sorted(tasks))].append(label)
    parts = []
    for among, labels in alike.items():
        names, whole = ", ".join(labels), all(label in labels for label in every if every[label] & {*among})
        parts.append(names if not among else ", ".join(among) if whole else f"{names} on {', '.join(among)}")
    return " and ".join(parts)


def _tasks_by_label(groups: Sequence[Group]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for group in groups:
        found[group.label].add(group.task)
    return found
