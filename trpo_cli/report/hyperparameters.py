"""The hyperparameters of the groups: those that differ, with their values, and those that all share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from trpo_cli.config.settings import LATER, format_setting
from trpo_cli.errors import counted
from trpo_cli.report.groups import PRESET, Group, find_differing_keys, list_grouping_keys, select_deciding_settings
from trpo_cli.report.runs import RunRecord
from trpo_cli.report.table import Table

NAMED_OTHERWISE = ("algo", "env", "env.id", PRESET)  # in the columns of the task and the algorithm
NONE = format_setting(None)
LONG = 40  # letters of the names of groups that are not spelled out


def make_tables(groups: Sequence[Group]) -> tuple[Table, Table, Table]:
    """Make the tables of the hyperparameters that differ between groups, that only some have, and that all share."""
    values = {id(group): _list_values(group) for group in groups}
    differing = find_differing_keys(values.values())
    keys = sorted({key for own in values.values() for key in own})
    several = {key for key in differing if len({own[key] for own in values.values() if key in own}) > 1}
    own = {key for key in differing - several if any(mine.get(key, NONE) != NONE for mine in values.values())}
    several_rows, own_rows = (
        tuple((key, _describe(key, groups, values)) for key in sorted(some)) for some in (several, own)
    )
    common = {key: values[id(groups[0])][key] for key in keys if key not in differing}
    shared = [(key, value) for key, value in common.items() if value not in (NONE, USUAL.get(key))]
    columns = ("setting", "value")
    return (
        Table("hyperparameters", "Hyperparameters", columns, several_rows),
        Table("own_hyperparameters", "Hyperparameters of some groups", columns, own_rows),
        Table("shared_hyperparameters", "Shared hyperparameters", columns, tuple(shared)),
    )


def _list_values(group: Group) -> dict[str, str]:
    """The value of each setting, or all of them where the runs of the group differ."""
    found: dict[str, set[str]] = defaultdict(set)
    for record in group.runs:
        for key, value in _select(record).items():
            found[key].add(format_setting(value))
    return {key: ", ".join(sorted(values)) for key, values in found.items()}


def _select(record: RunRecord) -> dict[str, Any]:
    """Options of groups, without those that have none, and settings, without the classes that options stand for."""
    grouped = {key: value for key, value in list_grouping_keys(record).items() if record.choices.get(key, NONE) != NONE}
    settings = {**grouped, **select_deciding_settings(record)}
    return {
        key: value
        for key, value in settings.items()
        if key not in NAMED_OTHERWISE
        and value != {}
        and not key.endswith(("_target_", "_partial_"))
        and not key.startswith("hydra")
    }


USUAL = {key: format_setting(value) for key, value in LATER.items()}
"""What most runs leave as it is, which need not be said."""


def _describe(key: str, groups: Sequence[Group], values: dict[int, dict[str, str]]) -> str:
    """`0.02 (trpo); 0.01 (npg on Hopper-v4)`: each value and the groups that have it, or `else` for most of them."""
    having: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        if key in values[id(group)]:
            having[values[id(group)][key]].append(group)
    known = [group for some in having.values() for group in some]
    ordered = sorted(having.items(), key=lambda pair: len(pair[1]))
    parts = [(value, _count(key, some) or _name(some, known)) for value, some in ordered]
    most, whose = parts[-1]
    last = f"else {most}" if len(parts) > 1 and len(whose) > LONG else f"{most} ({whose})"
    return "; ".join([*(f"{value} ({named})" for value, named in parts[:-1]), last])


def _count(key: str, some: Sequence[Group]) -> str:
    """Count groups that are many words to name, and whose names say the value anyway."""
    said = all(f"{key}=" in group.label for group in some) and sum(len(group.label) for group in some) > LONG
    return counted(len(some), "group") if said else ""


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
