"""MinAtar by its own ids: registered when asked for, read by the network that fits, and every game exact."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from comparison import rows, saved
from conftest import Command
from exactness import exactly

from trpo_cli.envs import games
from trpo_cli.envs.environments import Environments
from trpo_cli.envs.make import Parallelism, Task
from trpo_cli.envs.registered import registered_ids
from trpo_cli.envs.slot import Slot
from trpo_cli.envs.snapshot import obstacle, reseed, save
from trpo_cli.errors import CheckpointError
from trpo_cli.play.film import draw_frame, with_rendering
from trpo_cli.run import packing

INSTALLED = importlib.util.find_spec("minatar") is not None
pytestmark = pytest.mark.skipif(not INSTALLED, reason="needs trpo-cli[minatar]")
GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
SMALL = ("env=MinAtar/Breakout-v1", "sampler.num_envs=2", "sampler.steps_per_iteration=64", "eval.every=0")


def slot(game: str, seed: int | None = None) -> Slot:
    task = Task(f"MinAtar/{game}-v1", {}, None, False, False, 10.0, 10.0)
    made = Slot(task.make_one())
    if seed is not None:
        made.observation, _ = made.env.reset(seed=seed)
    return made


def future(one: Slot, steps: int) -> list[Any]:
    """What random actions bring, through resets."""
    seen: list[Any] = []
    for action in np.random.default_rng(steps).integers(one.env.action_space.n, size=steps):  # type: ignore[attr-defined]
        one.observation, reward, one.ended, _, _ = one.env.step(int(action))
        seen.append((one.observation.copy(), float(reward), one.ended))
        if one.ended:
            one.observation, _ = one.env.reset()
    return seen


@pytest.mark.parametrize("game", GAMES)
def test_a_game_goes_on_from_a_file_bit_for_bit(game: str) -> None:
    """In a new instance too, where two parts of the game do not share their generator before the first reset."""
    played = slot(game, seed=3)
    future(played, 137)
    assert obstacle(played.env) is None
    file = packing.unpack(packing.pack({"slot": played.save()}))["slot"]
    expected = future(played, 300)
    fresh = slot(game)
    fresh.load(file)
    assert exactly(future(fresh, 300), expected)
    played.load(file)
    assert exactly(future(played, 300), expected)
    assert fresh.env.unwrapped.game.random is fresh.env.unwrapped.game.env.random  # type: ignore[attr-defined]


@pytest.mark.parametrize("game", GAMES)
def test_a_seed_is_one_future(game: str) -> None:
    one, other = slot(game, seed=1), slot(game, seed=2)
    future(one, 50)
    other.restore(one.save())
    reseed(one.env, 9)
    assert not exactly(save(one.env)[-1]["game"], save(other.env)[-1]["game"])
    reseed(other.env, 9)
    assert exactly(future(one, 200), future(other, 200))


@pytest.mark.parametrize(
    "change",
    [
        lambda game: game.pop("env"),
        lambda game: game.update(act="x"),
        lambda game: game.update(env=3),
        lambda game: game.update(random={"__same__": 0}),
        lambda game: game.update(random=[1, 2]),
        lambda game: game["env"]["__object__"].update(random={"__same__": 1}),
        lambda game: game["env"]["__object__"].update(ball_x=[{"__object__": {"x": 1}}]),
    ],
)
def test_a_file_that_no_game_wrote_is_refused(change: Any) -> None:
    one = slot("Breakout", seed=0)
    state = one.save()
    change(state["env"][-1]["game"]["__object__"])
    before = one.save()
    with pytest.raises(CheckpointError, match="do not match"):
        one.load(state)
    assert exactly(one.save(), before)


def test_the_ids_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are registered without importing it, and once."""
    monkeypatch.setattr(gymnasium.envs.registration, "registry", {})
    from minatar.gym import register_envs  # type: ignore[import-untyped]

    register_envs()
    theirs = {id: (spec.entry_point, spec.kwargs) for id, spec in gymnasium.envs.registration.registry.items()}
    gymnasium.envs.registration.registry.clear()
    (package,) = (one for one in games.PACKAGES if one.module == "minatar")
    package.register()
    assert {id: (spec.entry_point, spec.kwargs) for id, spec in gymnasium.envs.registration.registry.items()} == theirs


def test_a_misspelt_game_and_a_missing_package(trpo_train: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "did you mean 'MinAtar/Breakout-v1'?" in trpo_train("env=MinAtar/Brekout-v1").err
    assert {f"MinAtar/{game}-v{version}" for game in GAMES for version in (0, 1)} <= {*registered_ids()}
    monkeypatch.setattr(games.Games, "is_installed", False)
    assert "pip install 'trpo-cli[minatar]' installs it" in trpo_train("env=MinAtar/Breakout-v1").err


def test_a_run_says_what_it_chose_and_resumes_by_its_id(
    trpo_train: Command, trpo_eval: Command, tmp_path: Path
) -> None:
    """The slash of the id is a folder of the run directory, which everything else finds."""
    long = (*SMALL, "total_steps=256")
    assert trpo_train(*long, "hydra.run.dir=whole").status == 0
    first = trpo_train(*SMALL, "total_steps=128", "resume=auto", "checkpoint.every=1")
    assert "policy=cnn_small and critic=cnn_small, because MinAtar/Breakout-v1 shows images" in first.err
    (run,) = (tmp_path / "runs" / "MinAtar" / "Breakout-v1" / "trpo").iterdir()
    assert "policy: cnn_small" in (run / "config.yaml").read_text()
    assert "because" not in trpo_train(f"resume={run}", "total_steps=256").err
    assert rows(run) == rows(tmp_path / "whole")
    for part in ("policy", "critic", "environments"):
        assert exactly(saved(run)[part], saved(tmp_path / "whole")[part])
    assert trpo_eval(str(run), "--episodes", "1").status == 0


def test_a_film_has_the_colours_of_a_game_and_is_large_enough_to_watch() -> None:
    task, _ = with_rendering(Task("MinAtar/Breakout-v1", {}, None, False, False, 10.0, 10.0))
    with contextlib.closing(Environments(task, 1, [0], Parallelism("sync"))) as envs:
        drawn, shown = envs.render(), draw_frame(envs)
    assert shown.shape == (160, 160, 3)
    assert np.array_equal(shown[8::16, 8::16], np.rint(255 * drawn))
    assert np.unique(shown).size > 3


def test_games_are_branched_exactly(trpo_train: Command) -> None:
    """The states of vine, with pixels of bool and no critic; a bonus for entropy."""
    sampler = ("sampler=vine", "sampler.num_envs=4", "sampler.num_states=2", "sampler.branch_length=4")
    assert trpo_train(*SMALL[:1], *sampler, "sampler.steps_per_iteration=64", "total_steps=64").status == 0
