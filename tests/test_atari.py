"""Games of Atari: by name, equal to Gymnasium's preprocessing, saved exactly, alike on any number of processes."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from comparison import assert_same_run, rows
from conftest import Command, composed

from trpo_cli.config.build import build
from trpo_cli.config.changes import change_environment
from trpo_cli.envs import registered, snapshot
from trpo_cli.envs.environments import Environments
from trpo_cli.envs.make import Parallelism, Task
from trpo_cli.errors import CheckpointError, ConfigError, EnvironmentFault

pytest.importorskip("ale_py", reason="needs the extra atari")

SEVEN = ("Pong", "Breakout", "Qbert", "Seaquest", "BeamRider", "Enduro", "SpaceInvaders")
GAMES = [pytest.param(name, marks=[pytest.mark.slow] if name not in SEVEN[1:3] else []) for name in SEVEN]
STEPS = 400
SMALL = [f"{part}.{size}" for part in ("policy", "critic") for size in ("convolutions=[[4,8,4]]", "hidden_sizes=[8]")]
SMALL += ["eval.every=0", "sampler.steps_per_iteration=32"]
Trace = list[tuple[Any, ...]]


def task(id: str, *overrides: str) -> Any:
    return build(composed(f"env={id}", *overrides)["env"], "env", Task)


def random_actions(env: gymnasium.Env[Any, Any], count: int, seed: int = 0) -> list[int]:
    actions: list[int] = np.random.default_rng(seed).integers(env.action_space.n, size=count).tolist()  # type: ignore[attr-defined]
    return actions


def play(env: gymnasium.Env[Any, Any], actions: Sequence[int]) -> Trace:
    """What an environment returns, step by step and at resets."""
    trace: Trace = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        trace.append((observation.tobytes(), reward, terminated, truncated, info["lives"]))
        if terminated or truncated:
            trace.append((env.reset()[0].tobytes(),))
    return trace


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("overrides", [(), ("env.grey=false", "env.resize=[52,40]", "env.noop_max=0")], ids=str)
def test_pictures_rewards_and_ends_are_those_of_gymnasium(name: str, overrides: tuple[str, ...]) -> None:
    id = f"{name}NoFrameskip-v4"
    ours = task(id, "env.fire=false", *overrides).make_one()
    wanted = {"grayscale_obs": False, "screen_size": (40, 52), "noop_max": 0} if overrides else {}
    theirs = gymnasium.wrappers.AtariPreprocessing(gymnasium.make(id), **wanted)
    assert (ours.reset(seed=3)[0] == theirs.reset(seed=3)[0]).all()
    assert ours.observation_space == theirs.observation_space
    actions = random_actions(ours, STEPS)
    assert play(ours, actions) == play(theirs, actions)


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("overrides", [(), ("env.frame_skip=1", "env.noop_max=0", "env.fire=false")], ids=str)
def test_a_saved_game_goes_on_in_any_other(name: str, overrides: tuple[str, ...]) -> None:
    """Whatever was played there before, with sticky actions, and beyond the end of the game."""
    chosen = task(f"ALE/{name}-v5", *overrides)
    here, used, fresh = (chosen.make_one() for _ in range(3))
    here.reset(seed=1)
    used.reset(seed=2)
    play(used, random_actions(used, 60, seed=5))
    for before in (0, 1, 90):
        play(here, random_actions(here, before, seed=before))
        saved = snapshot.save(here)
        actions = random_actions(here, STEPS)
        expected = play(here, actions)
        fresh.reset(seed=4)
        for other in (used, fresh, here):
            snapshot.restore(other, saved)
            assert play(other, actions) == expected


@pytest.mark.parametrize("name", ["Breakout"])
def test_a_life_lost_is_told_apart_from_the_end_and_fire_is_pressed(name: str) -> None:
    envs = Environments(task(f"{name}NoFrameskip-v4"), 3, [0, 1, 2], Parallelism("sync"))
    deaf = task(f"{name}NoFrameskip-v4", "env.life_loss_ends=false", "env.fire=false").make_one()
    lost, ended = 0, 0
    for _ in range(400):
        _, _, terminated, _ = envs.step(np.zeros((3, 1), dtype=np.int64))  # never pressing FIRE
        lost, ended = lost + int(envs._envs.lost.sum()), ended + int(terminated.sum())  # type: ignore[union-attr]
        assert not (envs._envs.lost & terminated).any()
        if terminated.any():
            envs.restart(terminated)
    assert ended
    assert lost in range(4 * ended, 4 * ended + 3 * 4 + 1)  # of five lives, the last of which ends the game
    deaf.reset(seed=0)
    assert {trace[4] for trace in play(deaf, [0] * 200)} == {5}  # the ball never comes
    assert not deaf.unwrapped.life_lost
    envs.close()


@pytest.mark.parametrize("id", ["ALE/Pong-v5", "Qbert-v4"])
def test_games_are_the_same_in_turn_and_in_any_number_of_processes(id: str) -> None:
    ways = [Parallelism("sync"), Parallelism("native", 1), Parallelism("native", 2)]
    made = [Environments(task(id), 3, [5, 6, 7], way) for way in ways]
    assert [envs.how for envs in made[1:]] == ["games in turn", "games in turn in each of 2 worker processes"]
    rng = np.random.default_rng(0)

    def alike(steps: int, rows: Any = slice(None)) -> None:
        for _ in range(steps):
            action = rng.integers(6, size=(3, 1))
            first, *others = ([*envs.step(action), envs._envs.lost] for envs in made)
            for other in others:
                assert all((one[rows] == two[rows]).all() for one, two in zip(first, other, strict=True))
            for envs in made:
                if (first[2] | first[3]).any():
                    envs.restart(first[2] | first[3])

    alike(30)
    everywhere = np.arange(3)
    saved = [envs.save(everywhere) for envs in made]
    state = made[2].state_dict()
    alike(20)
    for envs, one in zip(made, saved, strict=True):  # crosswise, from one process to another
        envs.restore(everywhere, one[::-1])
        envs.reseed(everywhere, [1, 2, 3])
    alike(20)
    for envs in made:
        assert envs.snapshot_obstacle() is None
        assert envs.resume_obstacle() is None
        envs.load_state_dict(state)
    alike(20)
    for envs in made:
        envs.close()


def test_a_process_of_games_that_dies_is_named_and_replaced() -> None:
    envs = Environments(task("PongNoFrameskip-v4"), 3, [0, 1, 2], Parallelism("native", 2))
    actions = np.zeros((3, 1), dtype=np.int64)
    envs.step(actions)
    os.kill(envs._envs._processes[1].pid, signal.SIGKILL)  # type: ignore[attr-defined]
    with pytest.raises(
        EnvironmentFault, match=r"^PongNoFrameskip-v4: worker process 1 was killed by signal 9 at step 2$"
    ):
        envs.step(actions)
    envs.rebuild([3, 4, 5])
    envs.step(actions)
    envs.close()


def damaged(state: dict[str, Any], place: int, content: bytes) -> dict[str, Any]:
    emulator = state["emulator"].copy()
    emulator[place : place + len(content)] = np.frombuffer(content, dtype=np.uint8)
    return {**state, "emulator": emulator}


def test_a_state_that_does_not_fit_is_refused_before_the_emulator_reads_it() -> None:
    game = task("BeamRiderNoFrameskip-v4").make_one().unwrapped
    other = task("PongNoFrameskip-v4").make_one().unwrapped
    for env in (game, other):
        env.reset(seed=0)
        play(env, [0] * 5)
    state = game.clone_state()
    bank = state["emulator"].tobytes().index(b"CartridgeF8") + len("CartridgeF8")
    wrong = {
        "another game": other.clone_state(),
        "bank": damaged(state, bank, b"\xff\xff\xff\x7f"),
        "is that of another game, or damaged": damaged(state, 40, b"xyz"),
        "is no array": {**state, "screen": np.zeros((3, 3), dtype=np.uint8)},
        "not a row of bytes": {**state, "emulator": state["emulator"].astype(np.int64)},
        "no action 18": {**state, "held": 18},
        "frames ago": {**state, "played": -1},
        "is missing": {"emulator": state["emulator"]},
    }
    for said, one in wrong.items():
        with pytest.raises(CheckpointError, match=said):
            game.restore_state(one)
    game.restore_state(state)
    assert (game.clone_state()["emulator"] == state["emulator"]).all()


def test_the_generator_of_an_emulator_may_have_shorter_numbers() -> None:
    game = task("BeamRiderNoFrameskip-v4").make_one().unwrapped
    game.reset(seed=0)
    play(game, [0] * 5)
    state = game.clone_state()
    whole = state["emulator"].tobytes()
    begin = whole.index(b"System") + len("System") + 4  # after a count of cycles
    length = int.from_bytes(whole[begin : begin + 4], "little")
    first, others = whole[begin + 4 : begin + 4 + length].split(b" ", 1)

    def with_first(word: bytes) -> dict[str, Any]:
        text = word + b" " + others
        rest = whole[28:begin] + len(text).to_bytes(4, "little") + text + whole[begin + 4 + length :]
        changed = whole[:24] + (len(rest) - 8).to_bytes(4, "little") + rest
        return {**state, "emulator": np.frombuffer(changed, dtype=np.uint8)}

    shorter = with_first(first[: len(first) // 2])
    game.restore_state(shorter)
    assert (game.clone_state()["emulator"] == shorter["emulator"]).all()
    with pytest.raises(CheckpointError, match="damaged"):
        game.restore_state(with_first(b"x"))


def test_what_an_id_says_and_what_the_configuration_says_instead() -> None:
    def rules(id: str, *overrides: str) -> Any:
        return task(id, *overrides).make_one().unwrapped.rules

    v5 = rules("ALE/Pong-v5")
    assert (v5.frame_skip, v5.repeat_action_probability, v5.max_frames) == (4, 0.25, 108_000)
    assert rules("PongNoFrameskip-v4") == replace(v5, repeat_action_probability=0.0)
    assert rules("Pong-v4") == replace(v5, repeat_action_probability=0.0, frame_skip=(2, 5))
    own = ("env.frame_skip=2", "env.repeat_action_probability=0.5", "env.kwargs.max_num_frames_per_episode=10")
    assert rules("Pong-v4", *own) == replace(v5, frame_skip=2, repeat_action_probability=0.5, max_frames=10)
    every = task("PongNoFrameskip-v4", "env.full_action_space=true").make_one()
    assert every.action_space.n == 18  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("env.kwargs.mode=7", r"^env.kwargs.mode: got 7; pong has: 0, 1$"),
        ("env.kwargs.difficulty=x", r"^env.kwargs.difficulty: got 'x'; it should be a whole number from 0 to 2,147"),
        ("env.kwargs.max_num_frames_per_episode=3000000000", r"_episode: got 3000000000; it should be a whole number"),
        ("env.kwargs.render_mode=human", r"^env.kwargs.render_mode: got 'human'; it should be rgb_array or null$"),
        ("env.kwargs.frameskip=2", r"^env.kwargs.frameskip: write env.frame_skip=2$"),
        ("env.kwargs.game=breakout", r"^env.kwargs.game: PongNoFrameskip-v4 is a game already"),
        ("env.noop_max=1000000", r"^env.noop_max: got 1000000; it should be less than or equal to 108000$"),
        ("env.resize=[84]", r"^env.resize: got \[84\]; it should be \[HEIGHT, WIDTH\] in pixels$"),
        ("env.resize=[1000000, 1000000]", r"^env.resize: the resized observations have 1,000,000,000,000 numbers; "),
    ],
)
def test_a_setting_that_does_not_fit(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        task("PongNoFrameskip-v4", override).make_one()
    with pytest.raises(ConfigError, match=r"^env.id: CartPole-v1 is no game of Atari; "):
        replace(task("PongNoFrameskip-v4"), id="CartPole-v1").make_one()


def test_versions_of_what_draws_and_prepares_the_pictures_belong_to_a_run() -> None:
    assert registered.is_registered("ALE/Pong-v5")
    assert registered.find_distributions("ALE/Pong-v5", "cv2")[0] == "ale-py"
    assert registered.find_distributions("CartPole-v1") == []


def test_an_argument_that_games_do_not_have_makes_the_environment_of_ale_py() -> None:
    envs = Environments(task("ALE/Pong-v5", "env.kwargs.obs_type=ram", "env.grey=false", "env.resize=null"), 1, [0])
    assert "not native: env.kwargs.obs_type is for ale-py's own environment, without no-ops, FIRE and lives" in envs.how
    assert envs.observation.shape == (1, 4, 128)
    envs.close()


def test_the_log_says_what_a_step_is() -> None:
    assert task("ALE/Pong-v5").describe_rules() == (
        "a step is 4 frames, each of which repeats the action of the last with probability 0.25"
    )
    assert task("Pong-v4").describe_rules() == "a step is 2 to 4 frames, without sticky actions"
    assert (
        task("PongNoFrameskip-v4", "env.frame_skip=1").describe_rules() == "a step is 1 frame, without sticky actions"
    )
    assert task("ALE/Pong-v5", "+env.kwargs.obs_type=grayscale").describe_rules() == ""


def test_a_game_ends_after_so_many_steps_or_frames() -> None:
    for override, steps in (("env.max_episode_steps=7", 7), ("env.kwargs.max_num_frames_per_episode=200", None)):
        env = task("PongNoFrameskip-v4", override).make_one()
        env.reset(seed=0)
        ends = [one[3] for one in play(env, [0] * 60) if len(one) > 1]
        assert ends.index(True) + 1 == (steps or ends.index(True) + 1)
        assert ends.index(True) < 50


def test_a_misspelt_game_and_one_that_is_not_installed(
    trpo_train: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong = trpo_train("env=ALE/Brekout-v5", f"hydra.run.dir={tmp_path}")
    assert wrong.status == 1
    assert "error: env: no option 'ALE/Brekout-v5'; did you mean 'ALE/Breakout-v5'?" in wrong.err
    games = {id: spec for id, spec in gymnasium.registry.items() if str(spec.entry_point).startswith("ale_py.")}
    for id in games:
        del gymnasium.registry[id]
    monkeypatch.setattr(registered, "find_spec", lambda name: None)
    try:
        missing = trpo_train("env=BreakoutNoFrameskip-v4", f"hydra.run.dir={tmp_path}")
    finally:
        gymnasium.registry.update(games)
    assert missing.status == 1
    assert re.search(r"pip install 'trpo-cli\[atari\]' installs this game", missing.err)


BRANCHES = ("sampler=vine", "sampler.num_states=4", "sampler.actions_per_state=all", "sampler.branch_length=30")
BRANCHES = (*BRANCHES, "sampler.steps_per_iteration=640")  # of which 160 are for the trunks


@pytest.mark.parametrize(
    "method", [("critic.hidden_sizes=[8]", "sampler.steps_per_iteration=240"), BRANCHES], ids=["single path", "vine"]
)
def test_a_run_goes_on_as_if_nothing_had_happened(trpo_train: Command, tmp_path: Path, method: tuple[str, ...]) -> None:
    """Whatever number of processes it goes on with, or as if there had never been any."""
    small = ("policy.hidden_sizes=[8]", "env.resize=[52,40]", "eval.every=0", "checkpoint.every=1", "seed=1")
    run = ("env=ALE/Breakout-v5", "sampler.num_envs=4", *small, *method)
    assert trpo_train(*run, "total_steps=1800", "hydra.run.dir=whole", "sampler.vectorization=sync").status == 0
    assert trpo_train(*run, "total_steps=600", "hydra.run.dir=cut", "sampler.num_threads=1").status == 0
    for processes, steps in ((2, 1200), (1, 1800)):
        assert trpo_train("resume=cut", f"total_steps={steps}", f"sampler.num_threads={processes}").status == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert any(float(row["policy/kl"]) > 0 for row in rows(tmp_path / "cut"))


def test_an_evaluation_with_other_rules_and_a_film_in_colour(
    trpo_train: Command, trpo_eval: Command, tmp_path: Path
) -> None:
    little = ("sampler.num_envs=2", "sampler.num_threads=1", "total_steps=32", "hydra.run.dir=run")
    assert trpo_train("env=PongNoFrameskip-v4", *SMALL, *little).status == 0
    short = ("--episodes", "2", "--set", "env.max_episode_steps=9", "--set", "env.repeat_action_probability=0.25")
    done = trpo_eval("run", *short, "--json", "played.json")
    assert (done.status, done.err) == (0, "")
    assert "likeliest actions, seed 0, env.max_episode_steps=9, env.repeat_action_probability=0.25" in done.out
    (played,) = json.loads((tmp_path / "played.json").read_text())
    assert (played["lengths"], played["set"]) == ([9, 9], [short[3], short[5]])
    assert "error: --set: the policy of run was trained with other" in trpo_eval("run", "--set", "env.stack=2").err
    pytest.importorskip("imageio_ffmpeg", reason="needs the extra video")
    import imageio_ffmpeg

    filmed = trpo_eval("run", *short[:4], "--video", "pong.mp4")
    assert "filmed in pong.mp4" in filmed.out
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "pong.mp4"))
    about, frame = next(reader), np.frombuffer(next(reader), dtype=np.uint8).reshape(210, 160, 3).astype(int)
    reader.close()
    assert (about["size"], about["fps"]) == ((160, 210), 15.0)
    assert np.abs(frame[..., 0] - frame[..., 2]).max() > 50  # brown and green, not grey


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("algo.gamma=1", "--set: got 'algo.gamma=1'; it should be a setting of the environment, env.KEY=VALUE"),
        ("env.noop_mx=1", "env.noop_mx: no such key; did you mean 'env.noop_max'?"),
        ("env.kwargs={a:", "--set: got 'env.kwargs={a:', whose value cannot be read"),
        ("env.noop_max.a=1", "--set: got 'env.noop_max.a=1', but noop_max has no keys"),
    ],
)
def test_a_change_for_an_evaluation_that_does_not_fit(change: str, said: str) -> None:
    node = composed("env=PongNoFrameskip-v4")
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}"):
        build(change_environment(node, [change])["env"], "env", Task)
