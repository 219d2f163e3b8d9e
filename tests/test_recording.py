"""Episodes are recorded as they were played, whole or not at all, and cloned from there."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import probes  # noqa: F401  registers the probe environments
import pytest
import screens  # noqa: F401  registers an environment
import torch
from comparison import rows
from conftest import Command, built, quiet_make, thinned
from demonstrations import record_episodes
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector.utils import batch_space, iterate

from trpo_cli.envs.environments import Environments
from trpo_cli.envs.recorded import RecordError, new_record, read_record
from trpo_cli.errors import ConfigError, EnvironmentFault
from trpo_cli.play.episodes import STREAM
from trpo_cli.play.recorder import Recorder
from trpo_cli.samplers.acting import Acting
from trpo_cli.seeding import environment_seeds

minari = pytest.importorskip("minari", reason="pip install 'trpo-cli[record]'")
h5py = pytest.importorskip("h5py", reason="pip install 'trpo-cli[record]'")
KINDS = {
    "continuous": ("env=Pendulum-v1", "env.max_episode_steps=40"),
    "native": ("env=Hopper-v4",),
    "discrete": ("env=CartPole-v1",),
    "one-hot": ("env=FrozenLake-v1",),
    "multi-discrete": ("env=Probe/Multi-v0",),
    "multi-binary": ("env=Probe/Binary-v0",),
    "several": ("env=Probe/Several-v0",),
}
VIEWS = {
    "a stack of some": ("env=CartPole-v1", "env.hide=[1,3]", "env.stack=3"),
    "a stack of states": ("env=FrozenLake-v1", "env.stack=2"),
    "rescaled actions": ("env=Probe/Wide-v0",),
    "several entries": ("env=Probe/Several-v0", "env.observe=[inner,number]", "env.stack=2"),
    "small grey images": (
        *("env=Screens-v0", "env.kwargs={shape: [12, 9, 3]}", "env.grey=true", "env.resize=[8,6]"),
        *("env.stack=3", "policy=mlp", "critic=zero"),
    ),
    "black and white": ("env=Screens-v0", "env.kwargs={shape: [4, 3, 2], dtype: bool}", "policy=mlp", "critic=zero"),
}
BC = ("algo=bc", "sampler.path=record", "sampler.transitions_per_iteration=64", "algo.minibatch_size=16")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", thinned(2, KINDS))
def test_a_record_replays(kind: str, tmp_path: Path) -> None:
    played = record_episodes(tmp_path / "record", *KINDS[kind], sample=True)
    dataset = minari.MinariDataset(tmp_path / "record" / "data")
    assert dataset.total_episodes == 4
    assert played.returns.tolist() == [sum(episode.rewards.tolist()) for episode in dataset]
    assert played.lengths.tolist() == [len(episode.rewards) for episode in dataset]
    (env_id,) = (word.removeprefix("env=") for word in KINDS[kind] if word.startswith("env="))
    for episode in dataset:
        assert any(replays(env_id, seed, episode) for seed in environment_seeds(0, STREAM, 4))
        assert not (episode.terminations | episode.truncations)[:-1].any()
        assert bool(episode.terminations[-1]) != bool(episode.truncations[-1])


def rows_of(space: Any, episode: Any) -> list[Any]:
    """The observations of an episode, one by one."""
    return list(iterate(batch_space(space, len(episode.rewards) + 1), episode.observations))


def replays(env_id: str, seed: int, episode: Any) -> bool:
    """Whether Gymnasium's environment with this seed plays the episode, to the bit."""
    env = quiet_make(env_id)

    def is_same(one: Any, other: Any) -> bool:
        return np.array_equal(*(spaces.flatten(env.observation_space, shown) for shown in (one, other)))

    told = [(env.reset(seed=seed)[0], 0.0, False)]
    given = rows_of(env.observation_space, episode)
    for action in episode.actions:
        told.append(env.step(action)[:3])
        if not is_same(told[-1][0], given[len(told) - 1]):
            return False
    observations, rewards, terminations = zip(*told, strict=True)
    return (
        all(map(is_same, observations, given))
        and np.array_equal(rewards[1:], episode.rewards)
        and np.array_equal(terminations[1:], episode.terminations)
    )


@pytest.mark.parametrize("view", VIEWS)
def test_a_clone_sees_and_does_what_its_teacher_saw_and_did(
    view: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    act, record_step, seen_now, told = Acting.step, Recorder.step, [np.empty(0)], []
    pending: dict[int, list[Any]] = defaultdict(list)

    def acting(self: Acting, *arguments: Any, **named: Any) -> Any:
        seen_now[0] = self.environments.observation.copy()
        return act(self, *arguments, **named)

    def listening(self: Recorder, step: Any, counted: Any, ended: Any) -> None:
        for row in np.flatnonzero(counted).tolist():
            pending[row].append((seen_now[0][row], step.action[row].copy()))
            if ended[row]:
                told.extend(pending.pop(row))
        record_step(self, step, counted, ended)

    monkeypatch.setattr(Acting, "step", acting)
    monkeypatch.setattr(Recorder, "step", listening)
    record_episodes(tmp_path / "record", *VIEWS[view], longest=20, sample=True)
    parts = built(*VIEWS[view], *BC, "sampler.held_out=0")
    sampler: Any = parts.sampler
    seen, done = (np.stack(values) for values in zip(*told, strict=True))
    np.testing.assert_array_equal(sampler.observation, seen)
    assert sampler.observation.dtype == seen.dtype
    clipped = done.clip(-1, 1) if done.dtype.kind == "f" else done
    np.testing.assert_allclose(sampler.action, clipped, rtol=0, atol=1e-6)
    assert np.isfinite(parts.iterate(0.0).metrics["bc/log_likelihood"])


def test_a_record_has_the_space_and_the_types_of_the_environment(tmp_path: Path) -> None:
    record_episodes(tmp_path / "record", "env=Probe/Several-v0")
    record, space = read_record(tmp_path / "record"), quiet_make("Probe/Several-v0").observation_space
    assert record.observation_space == space
    for episode in record.read_episodes():
        assert all(map(space.contains, rows_of(space, episode)))
        assert episode.observations["image"].dtype == np.uint8


def test_trpo_eval_records_what_it_reports(trpo_train: Command, trpo_eval: Command, tmp_path: Path) -> None:
    small = ("env=CartPole-v1", "sampler.num_envs=2", "sampler.steps_per_iteration=64", "total_steps=64")
    assert trpo_train(*small, "hydra.run.dir=run").status == 0
    cut = ("--max-steps", "7", "--episodes", "3", "--json", "played.json")
    done = trpo_eval("run", "--record", "records/poles", *cut)
    assert (done.status, done.out.splitlines()[-1]) == (0, "recorded in records/poles: 3 episodes")
    assert [path.name for path in (tmp_path / "records").iterdir()] == ["poles"]
    (told,) = json.loads((tmp_path / "played.json").read_text())
    recorded = read_record(tmp_path / "records" / "poles").read_episodes()
    assert told["returns"] == [episode.rewards.sum() for episode in recorded]
    assert all(episode.truncations[-1] for episode in recorded)
    about = json.loads((tmp_path / "records" / "poles" / "data" / "metadata.json").read_text())
    assert about["dataset_id"] == "poles-v0"
    assert about["trpo_cli"]["env"] == {"id": "CartPole-v1", "kwargs": {}, "max_episode_steps": None}
    assert about["trpo_cli"]["env_steps"] == 64
    again = trpo_eval("run", "--record", "records/poles")
    assert again.err == "error: --record: records/poles already exists and is not overwritten"
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    assert trpo_eval("run", "other", "--record", "two").err == "error: --record: records one run, but 2 were given"


def test_what_is_missing_is_said_before_any_work(trpo_eval: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert trpo_eval("run", "--record", "new").err == (
        "error: --record: minari is not installed: pip install 'trpo-cli[record]'"
    )
    with pytest.raises(ConfigError, match=r"^sampler.path: minari is not installed"):
        built("env=CartPole-v1", *BC)


def test_what_a_class_costs_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    named, held = (EnvSpec("Own-v0", entry_point=entry) for entry in ("own:Own", gymnasium.Env))
    for name, spec in (("named", named), ("held", held)):
        with new_record(tmp_path / name, (spaces.Discrete(2), spaces.Discrete(2)), spec, {}):
            pass
    about = [json.loads((tmp_path / name / "data" / "metadata.json").read_text()) for name in ("named", "held")]
    assert ["env_spec" in each for each in about] == [True, False]
    (said,) = caplog.messages
    assert said.startswith("Minari's recover_environment will not work with this record, since Own-v0 is registered ")


def test_a_spoiled_record_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, count = Environments.step, 0

    def failing(self: Environments, action: Any) -> Any:
        nonlocal count
        count += 1
        if count == 12:
            raise EnvironmentFault("it broke")
        return step(self, action)

    monkeypatch.setattr(Environments, "step", failing)
    with pytest.raises(EnvironmentFault):
        record_episodes(tmp_path / "place" / "record", "env=CartPole-v1")
    assert list((tmp_path / "place").iterdir()) == []


@pytest.mark.parametrize("kind", thinned(2, [kind for kind in KINDS if kind != "several"]))
def test_a_clone_does_what_its_teacher_does(kind: str, tmp_path: Path) -> None:
    episodes = 60 if kind.startswith("multi") else 8
    record_episodes(tmp_path / "record", *KINDS[kind], "policy.output_gain=3", episodes=episodes)
    parts = built(*KINDS[kind], *BC, "algo.learning_rate=0.01", "seed=3")
    metrics = [parts.iterate(0.0).metrics for _ in range(30)]
    assert metrics[0].keys() == metrics[-1].keys()
    for column in ("bc/log_likelihood", "bc/held_out_log_likelihood"):
        assert metrics[-1][column] > metrics[0][column]
    sampler: Any = parts.sampler
    held = sampler.held_out()
    if held.action.dtype == torch.int64:
        act = parts.policy.actor()
        action, _ = act(held.observation.numpy(), np.empty((len(held), 0), np.float32), None)
        assert (action == held.action.numpy()).mean() > 0.8
    assert parts.algorithm.headline in metrics[-1]
    assert metrics[-1]["bc/epochs"] == 30 * 64 / len(sampler.action)


KNOBS = ("algo.learning_rate=0.01", "algo.adam_epsilon=1", "algo.minibatch_size=null", "algo.max_gradient_norm=1e-3")
KNOBS = (*KNOBS, "sampler.held_out=0.6", "sampler.transitions_per_iteration=32", "env.observation_clip=0.1")


def test_every_knob_of_a_clone_turns_something(tmp_path: Path) -> None:
    record_episodes(tmp_path / "record", "env=Pendulum-v1")

    def outcome(*knob: str) -> list[Any]:
        parts = built("env=Pendulum-v1", *BC, *knob)
        return [parts.iterate(i / 3).metrics for i in range(3)]

    plain = outcome()
    assert outcome() == plain
    for knob in KNOBS:
        assert outcome(knob) != plain, knob


def test_every_transition_is_seen_once_before_any_is_seen_again(tmp_path: Path) -> None:
    record_episodes(tmp_path / "record", "env=CartPole-v1", episodes=10)
    parts = built("env=CartPole-v1", *BC, "sampler.transitions_per_iteration=1", "sampler.held_out=0.3")
    sampler: Any = parts.sampler
    total = sum(len(episode.rewards) for episode in read_record(tmp_path / "record").read_episodes())
    assert len(sampler.action) + len(sampler._held[1]) == total
    for _ in range(2):
        seen = [sampler.collect().observation for _ in range(len(sampler.action))]
        assert sorted(map(str, seen)) == sorted(str(torch.from_numpy(row[None]).float()) for row in sampler.observation)
    none = built("env=CartPole-v1", *BC, "sampler.held_out=0")
    assert none.iterate(0.0).metrics["bc/held_out_log_likelihood"] is None


def test_the_scale_is_that_of_the_record(tmp_path: Path) -> None:
    record_episodes(tmp_path / "record", "env=Pendulum-v1")
    parts = built("env=Pendulum-v1", *BC)
    sampler: Any = parts.sampler
    assert parts.normalizer.enabled
    assert parts.normalizer.moments.mean == pytest.approx(sampler.observation.mean(0))
    before = parts.normalizer.state_dict()
    parts.iterate(0.0)
    assert parts.normalizer.state_dict() == before


def test_a_clone_resumes_from_the_same_record_alone(trpo_train: Command, tmp_path: Path) -> None:
    record_episodes(tmp_path / "record", "env=CartPole-v1")
    learn = ("env=CartPole-v1", *BC, "eval.every=64", "checkpoint.every=1", "hydra.run.dir=run")
    assert trpo_train(*learn, "total_steps=128").status == 0
    assert trpo_train("resume=run", "total_steps=192").status == 0
    done = rows(tmp_path / "run")
    assert [row["env_steps"] for row in done] == ["64", "128", "192"]
    assert done[-1]["eval/episode_return_mean"] != ""
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["final_training_return"] == float(done[-1]["bc/log_likelihood"])
    shutil.rmtree(tmp_path / "record")
    record_episodes(tmp_path / "record", "env=CartPole-v1", "seed=1")
    changed = trpo_train("resume=run", "total_steps=256")
    assert changed.err.startswith("error: sampler.path: the record has changed since the checkpoint")


MISTAKES = {
    "what is no record": ((), "^sampler.path: .*record is no dataset of Minari: it has no data/metadata.json"),
    "other observations": (
        ("env=MountainCar-v0",),
        r"^sampler.path: the observations in record are Box.*, and those of CartPole-v1 are Box",
    ),
    "other actions": (("env=Probe/Wide-v0",), "^sampler.path: the actions in record are Box.*those of .* are Discrete"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_record_that_does_not_fit_is_refused(mistake: str, tmp_path: Path) -> None:
    of, said = MISTAKES[mistake]
    if of:
        record_episodes(tmp_path / "record", *of)
    env = "Probe/Action-v0" if mistake == "other actions" else "CartPole-v1"
    with pytest.raises(ConfigError, match=said):
        built(f"env={env}", *BC)


BOMB = '{"type": "Tuple", "subspaces": [' * 500 + '{"type": "Discrete", "n": 2, "start": 0}' + "]}" * 500
SPOILED: dict[str, tuple[Any, str]] = {
    "no spaces": (
        {"observation_space": ..., "env_spec": '{"id": "A-v0", "entry_point": "no_such_module:Env"}'},
        "metadata.json cannot be read: the dataset does not keep its spaces and its episodes in HDF5$",
    ),
    "endlessly many": (
        {"total_episodes": float("inf")},
        "metadata.json cannot be read: total_episodes is inf, which is no number of episodes$",
    ),
    "one too many": ({"total_episodes": 5}, "main_data.hdf5 cannot be read: episode_4 is missing$"),
    "a deep space": ({"action_space": BOMB}, "metadata.json: action_space cannot be read: it is nested too deeply$"),
    "no space": ({"action_space": "[1]"}, "metadata.json: action_space cannot be read: it is not what Minari writes$"),
    "deep text": (b"[" * 100_000, "metadata.json cannot be read: it is nested too deeply$"),
    "no text": (b"\xff", "metadata.json cannot be read: .*can't decode byte"),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_metadata_of_strangers_are_refused_with_a_reason(spoiled: str, tmp_path: Path) -> None:
    changes, said = SPOILED[spoiled]
    record_episodes(tmp_path / "record", "env=CartPole-v1")
    file = tmp_path / "record" / "data" / "metadata.json"
    if isinstance(changes, dict):
        about = {**json.loads(file.read_text()), **changes}
        changes = json.dumps({key: value for key, value in about.items() if value is not ...}).encode()
    file.write_bytes(changes)
    with pytest.raises(ConfigError, match=f"^sampler.path: record/data/{said}"):
        built("env=CartPole-v1", *BC)


@pytest.mark.parametrize("name", ["metadata.json", "main_data.hdf5"])
def test_only_regular_files_are_opened(name: str, tmp_path: Path) -> None:
    record_episodes(tmp_path / "record", "env=CartPole-v1")
    file = tmp_path / "record" / "data" / name
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ConfigError, match=f"^sampler.path: .*/{name} cannot be read: it is not a regular file"):
        built("env=CartPole-v1", *BC)


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    record_episodes(tmp_path / "record", "env=CartPole-v1")
    file = tmp_path / "record" / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(RecordError, match=r"main_data.hdf5 cannot be read: OSError: .*truncated"):
        read_record(tmp_path / "record").read_episodes()


def lies_outside(group: Any, name: str) -> None:
    group.create_dataset(name, (len(group["rewards"]),), "i8", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def is_virtual(group: Any, name: str) -> None:
    layout = h5py.VirtualLayout((len(group["rewards"]),), "i8")
    layout[:] = h5py.VirtualSource("other.hdf5", "actions", (len(group["rewards"]),))
    group.create_virtual_dataset(name, layout)


ELSEWHERE: dict[str, tuple[Any, str]] = {
    "external storage": (lies_outside, "lies outside the file"),
    "a virtual dataset": (is_virtual, "lies outside the file"),
    "an external link": (h5py.ExternalLink("other.hdf5", "/actions"), "is a link"),
    "a soft link": (h5py.SoftLink("/episode_0/actions"), "is a link"),
    "a group": (lambda group, name: group.create_group(name), "is a Group in place of an array"),
    "nothing": (lambda group, name: None, "is missing"),
}


@pytest.mark.parametrize("where", ELSEWHERE)
def test_nothing_is_read_from_outside_a_record(where: str, tmp_path: Path) -> None:
    make, said = ELSEWHERE[where]
    record_episodes(tmp_path / "record", "env=CartPole-v1")
    with h5py.File(tmp_path / "record" / "data" / "main_data.hdf5", "r+") as file:
        del file["episode_1/actions"]
        if callable(make):
            make(file["episode_1"], "actions")
        else:
            file["episode_1/actions"] = make
    with pytest.raises(ConfigError, match=f"^sampler.path: .*/main_data.hdf5 cannot be read: episode_1/actions {said}"):
        built("env=CartPole-v1", *BC)


TEXT = h5py.string_dtype()
MISFITS: dict[str, tuple[str, str, Any, str]] = {
    "a state": ("FrozenLake-v1", "observations", lambda a: a - 5, "it holds numbers outside their ranges, such as -5"),
    "a half": ("CartPole-v1", "actions", lambda a: a + 0.5, "it holds numbers that int64 cannot represent"),
    "a choice": ("CartPole-v1", "actions", lambda a: a + 7, "it holds numbers outside their ranges, such as (7|8)"),
    "a bound": ("Pendulum-v1", "actions", lambda a: a + 9, "it holds numbers outside their bounds, such as "),
    "a column": ("CartPole-v1", "observations", lambda a: np.hstack([a, a[:, :1]]), r"its shape is \(\d+, 5\) instead"),
    "a row": ("CartPole-v1", "observations", lambda a: a[1:], r"its shape is \(\d+, 4\) instead of \(\d+, 4\)"),
    "an axis": ("CartPole-v1", "actions", lambda a: np.stack([a] * 3, 1), r"its shape is \(\d+, 3\) instead"),
    "text": ("CartPole-v1", "observations", lambda a: a.astype("S"), "it holds something other than numbers"),
    "texts": ("CartPole-v1", "actions", lambda a: a.astype("S").astype(TEXT), "it holds something other than numbers"),
    "an entry": ("Probe/Several-v0", "observations/inner/_index_1", lambda a: a + 9, "it holds numbers outside"),
    "a flag": ("CartPole-v1", "truncations", lambda a: a + 2, "it holds numbers outside their ranges"),
    "no steps": (
        "CartPole-v1",
        "rewards",
        lambda a: a[:0],
        r"its shape is \(0,\), but an episode has one step or more",
    ),
    "no number": ("Pendulum-v1", "observations", lambda a: a + np.nan, "it holds numbers that are not finite"),
}


@pytest.mark.parametrize("what", MISFITS)
def test_values_outside_their_space_are_refused(what: str, tmp_path: Path) -> None:
    env, name, change, said = MISFITS[what]
    record_episodes(tmp_path / "record", f"env={env}")
    with h5py.File(tmp_path / "record" / "data" / "main_data.hdf5", "r+") as file:
        changed = change(file["episode_1"][name][()])
        del file["episode_1"][name]
        file["episode_1"][name] = changed
    with pytest.raises(ConfigError, match=f"^sampler.path: record.*: episode_1/{name}: {said}"):
        built(f"env={env}", *BC)


def test_images_of_minari_are_read(tmp_path: Path) -> None:
    """It compresses them, and we do not."""
    space = spaces.Box(0, 255, (40, 32, 3), np.uint8)
    image = np.full(space.shape, 90, np.uint8)
    image[20:] = 200
    storage = minari.dataset.minari_storage.MinariStorage.new(tmp_path / "data", space, spaces.Discrete(2))
    flags, steps = np.zeros(2, bool), {"actions": np.zeros(2, int), "rewards": np.zeros(2)}
    episode = minari.data_collector.EpisodeBuffer(
        observations=np.stack([image, image, image]), **steps, terminations=flags, truncations=flags
    )
    storage.update_episodes([episode])
    (found,) = read_record(tmp_path).read_episodes()
    assert found.observations.shape == (3, *space.shape)
    assert np.abs(found.observations.astype(int) - image).max() < 12


def test_other_methods_refuse_a_record(tmp_path: Path) -> None:
    record_episodes(tmp_path / "record", "env=CartPole-v1")
    with pytest.raises(
        ConfigError, match="sampler: Recorded does not go with algo, a FirstOrder: sampler=exact or single_path or"
    ):
        built("env=CartPole-v1", "algo=ppo", "sampler=recorded", "sampler.path=record")


def test_an_update_that_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    record_episodes(tmp_path / "record", "env=CartPole-v1")
    parts = built("env=CartPole-v1", *BC)
    parts.iterate(0.0)
    before = {name: value.clone() for name, value in parts.policy.state_dict().items()}
    parts.algorithm.learning_rate = float("nan")  # type: ignore[attr-defined]
    assert parts.iterate(0.0).metrics["trust_region/accepted"] == 0
    assert all(torch.equal(value, before[name]) for name, value in parts.policy.state_dict().items())
