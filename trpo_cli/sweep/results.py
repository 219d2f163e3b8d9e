"""What a search has found: a table, a file, and the command line of the best."""

from __future__ import annotations

import csv
import io
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from trpo_cli.cli.command_line import listed
from trpo_cli.cli.tables import aligned
from trpo_cli.run import durable
from trpo_cli.run.layout import command
from trpo_cli.sweep.space import UNSAID
from trpo_cli.sweep.trials import Trials

RESULTS = "search.csv"
RANKS = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)


def write(trials: Trials) -> None:
    """Put `search.csv` into the directory: a row a trial, in order, with its values and what each seed came to."""
    text = io.StringIO()
    rows = [_row(trials, trial, trial.params) for trial in trials.all()]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_head(trials), *rows])
    durable.write(trials.directory / RESULTS, text.getvalue().encode())


def table(trials: Trials) -> str:
    """All trials, the best first, and how many of them came to what end."""
    sign = -1 if trials.options.direction == "maximize" else 1
    ranked = sorted(trials.all(), key=lambda each: (RANKS.index(each.state), sign * (each.value or 0.0)))
    rows = [[_shown(cell) for cell in _row(trials, trial, trial.params)] for trial in ranked]
    ends = Counter(trial.state.name.lower() for trial in ranked)
    count = ", ".join(f"{number} {name}" for name, number in ends.items())
    return f"{aligned([_head(trials), *rows])}\n{len(ranked)} trials: {count}"


def best(trials: Trials) -> str:
    """The command line that runs the best trial's values. Raises `ValueError` if no trial is complete."""
    found = trials.study.best_trial
    texts = [text for text in trials.space.overrides(found.params) if not text.startswith(UNSAID)]
    return f"{command('trpo-train', listed('plugins', texts))} {shlex.join(texts)}"


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
