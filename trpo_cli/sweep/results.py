"""The results of a search: a table, a file, and the command line of the best trial."""

from __future__ import annotations

import csv
import io
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from trpo_cli.cli.command_line import read_list
from trpo_cli.cli.tables import format_table
from trpo_cli.run import durable
from trpo_cli.shell import shell_command
from trpo_cli.sweep.space import RUN_ONLY
from trpo_cli.sweep.trials import Trials

RESULTS = "search.csv"
RANKS = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)


def write(trials: Trials) -> None:
    """Write `search.csv`: one row per trial, in order, with its values and the result of each seed."""
    text = io.StringIO()
    rows = [_row(trials, trial, trial.params) for trial in trials.all()]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_head(trials), *rows])
    durable.write(trials.directory / RESULTS, text.getvalue().encode())


def table(trials: Trials) -> str:
    """All trials, best first, and how many of them are in each state."""
    sign = -1 if trials.options.direction == "maximize" else 1
    ranked = sorted(trials.all(), key=lambda each: (RANKS.index(each.state), sign * (each.value or 0.0)))
    rows = [[_shown(cell) for cell in _row(trials, trial, trial.params)] for trial in ranked]
    ends = Counter(trial.state.name.lower() for trial in ranked)
    count = ", ".join(f"{number} {name}" for name, number in ends.items())
    return f"{format_table([_head(trials), *rows])}\n{len(ranked)} trials: {count}"


def best_command(trials: Trials) -> str:
    """The command that trains with the values of the best trial. Raises `ValueError` if no trial is complete."""
    found = trials.study.best_trial
    texts = [text for text in trials.space.overrides(found.params) if not text.startswith(RUN_ONLY)]
    return f"{shell_command('trpo-train', read_list('plugins', texts))} {shlex.join(texts)}"


def _head(trials: Trials) -> list[str]:
    keys = [key.lstrip("+") for key in trials.space.distributions]
    return ["trial", "state", trials.options.metric, *keys, *(f"seed={seed}" for seed in trials.options.seeds)]


def _row(trials: Trials, trial: FrozenTrial, params: Mapping[str, Any]) -> list[Any]:
    values: Sequence[Any] = [trial.intermediate_values.get(index, "") for index in range(len(trials.options.seeds))]
    value = trial.value if trial.state is TrialState.COMPLETE else ""
    return [
        trial.number,
        trial.state.name.lower(),
        value,
        *(params[key] for key in trials.space.distributions),
        *values,
    ]


def _shown(cell: Any) -> str:
    return f"{cell:.5g}" if isinstance(cell, float) else str(cell)
