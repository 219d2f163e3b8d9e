"""Atari in a report: scores between a random and a human player, published numbers, and ids that contain a slash."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Command
from test_claims import caption, table, told
from test_report import rows_of, written

from trpo_cli.columns import EVALUATION, RETURN
from trpo_cli.report import human, published
from trpo_cli.report.human import find_players
from trpo_cli.report.published import find_published, name_task

GAMES = {"ALE/Pong-v5": ["-20.0", "14.6"], "ALE/Breakout-v5": ["1.0", "59.3"]}  # 100 % and 200 % at the end


def play(folder: Path, task: str, algo: str, seed: int, returns: list[str]) -> None:
    written(folder / task / algo / f"{seed}", task, algo, seed, returns)


@pytest.mark.parametrize(
    "id", ["ALE/Pong-v5", "PongNoFrameskip-v4", "PongDeterministic-v4", "Pong-v4", "ale_py:ALE/Pong-v5"]
)
def test_a_game_is_known_by_all_of_its_ids(id: str) -> None:
    assert name_task(id) == "Pong"
    assert find_players(id) == find_players("ALE/Pong-v5") is not None


@pytest.mark.parametrize("id", ["MinAtar/Breakout-v1", "Hopper-v4", "Pong-ram-v4", "mine/Pong-v0"])
def test_other_tasks_have_no_human_score(id: str) -> None:
    assert find_players(id) is None


def test_every_name_is_one_of_a_registered_task() -> None:
    """A misspelt name of a game or a published number would never be found."""
    gymnasium, ale_py = pytest.importorskip("gymnasium"), pytest.importorskip("ale_py")
    gymnasium.register_envs(ale_py)
    known = {name_task(id) for id in gymnasium.registry}
    games = human._read_all()
    assert len(games) == 57
    assert all(players.random < players.human for players in games.values())
    assert {*games} <= known
    assert {name for name in published._read_all() if not name.startswith("MinAtar/")} <= known


def test_published_numbers_of_atari_and_of_minatar_are_apart() -> None:
    atari = {(number.source, number.algo): number for number in find_published("BreakoutNoFrameskip-v4")}
    assert atari == {(number.source, number.algo): number for number in find_published("ALE/Breakout-v5")}
    assert (atari["Baselines", "trpo"].value, atari["Baselines", "trpo"].steps) == (14.98, 10_000_000)
    (minatar,) = find_published("MinAtar/Breakout-v1")
    assert (minatar.source, minatar.value) == ("gymnax", 28)


def test_scores_of_each_game_and_of_all(trpo_tables: Command, tmp_path: Path) -> None:
    for task, returns in GAMES.items():
        for seed in range(2):
            play(tmp_path / "runs", task, "trpo", seed, returns)
    play(tmp_path / "runs", "CartPole-v1", "trpo", 0, ["1.0", "3.0"])
    assert trpo_tables("runs", "--out", "out").status == 0
    breakout, pong = rows_of(tmp_path / "out" / "human_scores.csv")
    assert (pong["task"], float(pong["training return (%)"]), pong["steps"]) == (
        "ALE/Pong-v5",
        pytest.approx(100),
        "200",
    )
    assert (float(breakout["training return (%)"]), breakout["random"], breakout["human"]) == (
        pytest.approx(200),
        "1.7",
        "30.5",
    )
    (both,) = rows_of(tmp_path / "out" / "human_scores_of_all.csv")
    assert (both["games"], both["runs"], both["games at 100 % or above"]) == ("2", "4", "2")
    assert float(both["mean (%)"]) == float(both["median of the games (%)"]) == pytest.approx(150)


def test_the_evaluation_has_a_score_too(tmp_path: Path) -> None:
    play(tmp_path, "ALE/Pong-v5", "trpo", 0, ["-20.0", "-3.05"])
    rows = tmp_path / "ALE/Pong-v5/trpo/0/metrics.csv"
    rows.write_text(f"env_steps,{RETURN},{EVALUATION}\n100,-20.0,\n200,-3.05,14.6\n")
    (row,) = table(told(tmp_path), "human_scores")
    assert (row["training return (%)"], row["evaluation (%)"]) == (pytest.approx(50), pytest.approx(100))
    assert not any("all games" in section.title for section in told(tmp_path).sections)


def test_the_page_names_the_only_game_among_other_tasks(tmp_path: Path) -> None:
    for task in ("CartPole-v1", "ALE/Pong-v5"):
        play(tmp_path, task, "trpo", 0, ["-20.0", "-3.05"])
    content = told(tmp_path)
    (scores,) = (section.table for section in content.sections if section.title == "Human-normalised scores")
    assert scores is not None
    assert [task for task, _ in scores.page_groups(content.num_tasks)] == ["ALE/Pong-v5"]


def test_a_game_that_was_altered_is_left_out_by_name(tmp_path: Path) -> None:
    for name, settings in (("plain", ""), ("hard", ", kwargs: {difficulty: 1}")):
        written(tmp_path / name, f"ALE/Pong-v5{settings}", "trpo", 0, ["-20.0", "14.6"])
    assert len(table(told(tmp_path), "human_scores")) == 1
    left_out = "left out: ALE/Pong-v5 trpo env.kwargs.difficulty=1 (env.kwargs.difficulty)."
    assert caption(told(tmp_path), "Human-normalised scores").endswith(left_out)


def test_a_report_without_games_has_no_scores(tmp_path: Path) -> None:
    for task, settings in (("Hopper-v4", ""), ("ALE/Pong-v5", ", kwargs: {mode: 1}")):
        written(tmp_path / task, f"{task}{settings}", "trpo", 0, ["1.0", "3.0"])
    assert not [section for section in told(tmp_path).sections if "Human" in section.title]


def test_tasks_with_a_slash_are_found_archived_and_drawn(trpo_report: Command, tmp_path: Path) -> None:
    for task, returns in {**GAMES, "MinAtar/Breakout-v1": ["0.5", "3.0"]}.items():
        play(tmp_path / "runs", task, "trpo", 0, returns)
    done = trpo_report("runs", "--out", "out", "--archive", "archive", "--compare", "--threshold", "ALE/Pong-v5=10")
    assert done.status == 0, done.err
    archived = {path.parent.parent.name for path in (tmp_path / "archive").rglob("seed0")}
    assert archived == {"ALE.Pong-v5", "ALE.Breakout-v5", "MinAtar.Breakout-v1"}
    assert {path.parent for path in (tmp_path / "out").rglob("*")} == {tmp_path / "out"}
    assert "| MinAtar/Breakout-v1 | ppo | gymnax | 28 |" in (tmp_path / "out" / "results.md").read_text()
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'id="human-normalised-scores-of-all-games"' in page
    assert "ALE/Pong-v5" in page
