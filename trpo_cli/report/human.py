"""Human-normalised scores of Atari games: 0 % is a random player, 100 % a professional human tester.

`human.yaml` has both scores of 57 games with their sources.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml  # type: ignore[import-untyped]

from trpo_cli.columns import EVALUATION, RECENT, RETURN
from trpo_cli.report.groups import Group
from trpo_cli.report.measures import common_step, finals, latest, name_metric, shared_step
from trpo_cli.report.published import name_task
from trpo_cli.report.table import Cell, Table
from trpo_cli.report.tables import make_interval, note_unequal_tasks
from trpo_cli.statistics import IQM, MEAN, Floats, Statistic

SCORED = (RETURN, EVALUATION, RECENT)
"""The columns that are returns of whole games."""
TITLE = "Human-normalised scores"


@dataclass(frozen=True)
class Players:
    """What a random and a human player of a game score, by which the returns of others are measured."""

    random: float
    human: float

    def normalise(self, returns: Floats) -> Floats:
        """Return scores in percent, of the shape of the returns."""
        return 100 * (returns - self.random) / (self.human - self.random)


def find_players(task: str) -> Players | None:
    """Return the players of a game, which may have any of its ids; None for other tasks."""
    return _read_all().get(name_task(task))


@functools.cache
def _read_all() -> dict[str, Players]:
    scores = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return {game: Players(float(random), float(human)) for game, (random, human) in scores.items()}


def select_games(tasks: Sequence[Sequence[Group]]) -> list[list[Group]]:
    """Select the tasks that are games, and of these the groups that play them unaltered."""
    games = [[group for group in task if not group.alterations] for task in tasks if find_players(task[0].task)]
    return [game for game in games if game]


def scores_by_game(groups: Sequence[Group], metric: str, statistic: Statistic) -> Table:
    """Make the table of the scores of each group, at its last common step, and of the two players that define them."""
    evaluated = metric == RETURN and any(record.has(EVALUATION) for group in groups for record in group.runs)
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        players = _players(group)
        cells: list[Cell] = [group.task, group.label, len(group.runs), int(common_step(group, metric))]
        for column in (metric, EVALUATION) if evaluated else (metric,):
            scores = players.normalise(finals(group, metric) if column == metric else latest(group, column, metric))
            whole = len(scores) == len(group.runs)
            cells += [float(statistic(scores)), make_interval([scores], statistic)] if whole else [None, None]
        rows.append((*cells, players.random, players.human))
    columns = ("task", "algorithm", "runs", "steps", f"{name_metric(metric)} (%)", "95 % interval")
    beside = ("evaluation (%)", "95 % interval of the evaluation") if evaluated else ()
    return Table("human_scores", TITLE, (*columns, *beside, "random", "human"), tuple(rows))


def _players(group: Group) -> Players:
    players = find_players(group.task)
    assert players is not None  # `select_games` has made sure
    return players


def scores_over_games(games: Sequence[Sequence[Group]], labels: Sequence[str], metric: str) -> Table:
    """Make the table of the scores of all games together, in the order of the labels."""
    strata: dict[str, dict[str, Floats]] = {label: {} for label in labels}
    for game in games:
        step = shared_step(game, metric)
        for group in game:
            strata[group.label][group.task] = _players(group).normalise(finals(group, metric, step))
    played = {label: tasks for label, tasks in strata.items() if tasks}
    columns = ("algorithm", "games", "runs", "mean (%)", "95 % interval", "interquartile mean (%)")
    more = ("95 % interval of the interquartile mean", "median of the games (%)", "games at 100 % or above")
    rows = tuple((label, *_summarise([*tasks.values()])) for label, tasks in played.items())
    return Table("human_scores_of_all", f"{TITLE} of all games", (*columns, *more), rows, note_unequal_tasks(played))


def _summarise(scores: Sequence[Floats]) -> tuple[Cell, ...]:
    """Summarise scores (S_m,) of each game."""
    every = np.concatenate(scores)
    means = np.array([one.mean() for one in scores])
    over = [cell for of in (MEAN, IQM) for cell in (float(of(every)), make_interval(scores, of))]
    return len(scores), len(every), *over, float(np.median(means)), int((means >= 100).sum())
