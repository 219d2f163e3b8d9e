"""A run may begin from a checkpoint of another: what it takes, what it leaves, what it refuses, and what it records."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml  # type: ignore[import-untyped]
from comparison import assert_same_run
from conftest import TESTS, Command, after_rows, built, trained
from torch import Tensor

from trpo_cli.config.settings import LATER, flatten
from trpo_cli.errors import ConfigError
from trpo_cli.models.adam import Adam
from trpo_cli.run import checkpoint
from trpo_cli.run.layout import read_config

SOURCE = ("env=Pendulum-v1", "sampler.num_envs=2", "sampler.steps_per_iteration=64", "env.max_episode_steps=20")
SOURCE = (*SOURCE, "env.normalize_reward=true", "eval.every=0")
SMALL = (*SOURCE, "total_steps=256", "seed=5")
OLD = TESTS / "old_runs"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to begin from, with checkpoints of several steps, the best among them."""
    folder = tmp_path_factory.mktemp("source")
    return trained(folder, *SOURCE, "total_steps=320", "checkpoint.every=1", "checkpoint.best=train")


@pytest.fixture(autouse=True)
def beside(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to the source where commands are typed, so that its path is short."""
    (tmp_path / "source").symlink_to(source)
    monkeypatch.chdir(tmp_path)


def saved(directory: Path, chosen: int | str = "newest") -> dict[str, Any]:
    return checkpoint.load_chosen(directory / "checkpoints", chosen).state


def test_the_policy_the_critic_and_the_statistics_are_taken(source: Path) -> None:
    state, fresh, tuned = saved(source), built(*SMALL), built(*SMALL, "init_from=source")
    for name in ("policy", "critic"):
        mine, other, theirs = (part[name] for part in (tuned.state_dict(), fresh.state_dict(), state))
        for key, value in mine.items():
            if isinstance(value, Tensor) and "optimizer" not in key:
                assert torch.equal(value, theirs[key])
                assert not torch.equal(value, other[key])
    assert tuned.normalizer.state_dict() == state["normalizer"]
    assert tuned.reward_scaler.state_dict()["moments"] == state["reward_scaler"]["moments"]
    observation = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    linear = tuned.policy.linearise(observation).output  # of the vector that is learned, not of a copy
    torch.testing.assert_close(linear, tuned.policy.forward(observation).detach())


def test_generators_optimisers_and_episodes_are_the_run_s_own() -> None:
    fresh, tuned = built(*SMALL).state_dict(), built(*SMALL, "init_from=source")
    state = tuned.state_dict()
    assert torch.equal(state["critic"]["_extra_state"]["generator"], fresh["critic"]["_extra_state"]["generator"])
    [adam] = [module for module in tuned.critic.modules() if isinstance(module, Adam)]
    assert (adam.steps.item(), adam.first.abs().sum().item()) == (0, 0)
    assert state["reward_scaler"]["running_return"] == fresh["reward_scaler"]["running_return"]
    assert state["sampler"]["env_steps"] == 0
    assert str(state["environments"]) == str(fresh["environments"])


@pytest.mark.parametrize("chosen", ["64", "best"])
def test_any_checkpoint_may_be_chosen(source: Path, chosen: str) -> None:
    if chosen == "64":
        steps = min(map(checkpoint.steps_of, checkpoint.list_checkpoints(source / "checkpoints")))
        chosen = str(steps)
    policy = saved(source, int(chosen) if chosen.isdigit() else chosen)["policy"]
    tuned = built(*SMALL, "init_from=source", f"init.checkpoint={chosen}")
    assert all(torch.equal(value, policy[key]) for key, value in tuned.policy.state_dict().items())


def test_what_is_not_wanted_begins_anew() -> None:
    fresh = built(*SMALL)
    tuned = built(*SMALL, "init_from=source", "init.critic=false", "init.statistics=false")
    assert str(tuned.critic.state_dict()) == str(fresh.critic.state_dict())
    assert tuned.normalizer.state_dict() == fresh.normalizer.state_dict()
    assert tuned.origin is not None
    assert (tuned.origin["taken"], tuned.origin["not_taken"]) == (["policy"], {})


def test_other_methods_and_settings_may_go_on_from_it(source: Path) -> None:
    policy = saved(source)["policy"]
    for algo in ("algo=ppo", "algo=a2c", "algo=cem"):
        tuned = built(*SMALL[:1], algo, "sampler.num_envs=2", "init_from=source", "policy.initial_log_std=-3")
        tuned.iterate(0.0)
        assert not torch.equal(next(tuned.policy.parameters()), next(iter(policy.values())))
        tuned.algorithm.load_state_dict(built(*SMALL[:1], algo, "sampler.num_envs=2").algorithm.state_dict())
    search = built(*SMALL[:1], "algo=cem", "sampler.num_envs=2", "init_from=source").algorithm
    assert torch.equal(search.mean.float(), torch.cat([value.flatten() for value in policy.values()]))  # type: ignore[attr-defined]


def test_a_part_that_does_not_fit_is_named_in_the_log(trpo_train: Command, tmp_path: Path) -> None:
    done = trpo_train(*SMALL, "init_from=source", "critic=linear", "env.normalize_reward=false", "hydra.run.dir=run")
    assert done.status == 0, done.err
    log = (tmp_path / "run" / "train.log").read_text()
    of = "of source (trpo on Pendulum-v1, 320 steps)"
    assert f"begins with the policy and the statistics of observations {of}" in log
    assert f"the critic {of} is not taken: critic=mlp there, critic=linear here" in log
    assert f"the statistics of rewards {of} is not taken: env.normalize_reward: true there, false here" in log


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("env.observe=[2,1,0]", "init.statistics=false"), "env.observe: null there, [2,1,0] here"),
        (("env.observe=[2,1,0]", "env.kwargs={g:5}"), "env.observe: null there, [2,1,0] here"),
        (("env.rescale_action=true", "env.kwargs={g:5}"), "env.rescale_action: auto there, true here"),
        (("env.rescale_action=false",), None),
        (("init.policy=false", "env.rescale_action=true"), None),
    ],
)
def test_what_a_policy_saw_or_did_otherwise_is_told(words: tuple[str, ...], said: str | None) -> None:
    origin = built(*SMALL, "init_from=source", *words).origin
    assert origin is not None
    assert origin["differs"] == ([said] if said else [])
    assert origin["not_taken"].get("critic") == (said if "init.statistics=false" in words else None)


def test_actions_of_another_kind_are_refused(source: Path, tmp_path: Path) -> None:
    state = saved(source)
    assert state["actions"] == "DiagonalGaussian(1)"
    (tmp_path / "other" / "checkpoints").mkdir(parents=True)
    shutil.copy(source / "config.yaml", tmp_path / "other")
    path = tmp_path / "other" / "checkpoints" / "step_9.safetensors"
    checkpoint.save(path, {**state, "actions": "Categorical([2, 2])"})
    with pytest.raises(ConfigError, match="an action is one of 2 and one of 2 there, 1 number here"):
        built(*SMALL, "init_from=other")


MISTAKES = {
    (
        "policy.hidden_sizes=[8]",
    ): "init.policy: that of source does not fit: policy.hidden_sizes: [64,64] there, [8] here",
    ("policy.activation=relu",): "init.policy: that of source does not fit: policy.activation: tanh there, relu here",
    ("policy=linear",): "policy.hidden_sizes: [64,64] there, [] here",
    ("critic=zero", "init.critic=true"): "init.critic: that of source does not fit: this run has none",
    ("critic.hidden_sizes=[8]", "init.critic=true"): "critic.hidden_sizes: [64,64] there, [8] here\ninit.critic=false",
    (
        "env=CartPole-v1",
        "env.normalize_observation=true",
    ): "that of source does not fit: an observation has 3 numbers there, 4 here\ninit.policy=false",
    ("env.normalize_observation=false",): "env.normalize_observation: true there, false here, so the policy would see",
    ("env.observe=[2,1,0]",): "env.observe: null there, [2,1,0] here, so the policy would see",
    ("env.stack=2",): "an observation has 3 numbers there, 6 here (env.stack: 1 there, 2 here)",
    ("env.rescale_action=true",): "env.rescale_action: auto there, true here, so its actions would mean something else",
    ("init.checkpoint=7",): "init_from: source/checkpoints: holds no checkpoint of step 7; available steps: ",
    ("init.checkpoint=last",): "init.checkpoint: got 'last'; it should be 'newest' or 'best' or a valid integer",
    ("init.policy=maybe",): "init.policy: got 'maybe'; it should be 'auto' or a valid boolean",
    ("init.policy=false", "init.critic=false", "init.statistics=false"): "init: nothing would be taken from init_from",
    ("init.policy=false", "critic=zero", "init.statistics=false"): "init_from: nothing of source is taken",
    (
        "init_from=sourec",
    ): "init_from: sourec is not a run directory, since it has no config.yaml; did you mean 'source'?",
    ("init_from=",): "init_from: is empty; it takes a run directory",
    ("init_from=null", "init.critic=false"): "init.critic: takes effect only with init_from=RUN",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes(words: tuple[str, ...], trpo_train: Command, tmp_path: Path) -> None:
    given = words if words[0].startswith("init_from") else ("init_from=source", *words)
    refused = trpo_train(*SMALL, *given, "hydra.run.dir=run")
    assert refused.status == 1
    assert MISTAKES[words] in refused.err
    assert not (tmp_path / "run").exists()


def test_a_run_remembers_its_source_and_needs_it_no_more(
    trpo_train: Command, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").unlink()
    shutil.copytree(source, tmp_path / "source")
    words = (*SMALL, "init_from=source")
    assert trpo_train(*words, "hydra.run.dir=whole").status == 0
    with monkeypatch.context() as patch:
        after_rows(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert trpo_train(*words, "hydra.run.dir=parts").status == 143
    newest = max((tmp_path / "source" / "checkpoints").glob("*.safetensors"))
    digest = hashlib.sha256(newest.read_bytes()).hexdigest()
    shutil.rmtree(tmp_path / "source")
    refused = trpo_train("resume=parts", "init_from=elsewhere")
    assert "init_from: saved source, given elsewhere" in refused.err
    assert trpo_train("resume=parts").status == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    record = json.loads((tmp_path / "parts" / "summary.json").read_text())["init_from"]
    assert record == saved(tmp_path / "parts")["init_from"]
    assert (record["run"], record["env_steps"], record["sha256"]) == ("source", 320, digest)
    assert record["taken"] == ["policy", "critic", "statistics of observations", "statistics of rewards"]
    assert yaml.safe_load((tmp_path / "parts" / "config.yaml").read_text())["init_from"] == "source"


@pytest.mark.parametrize("name", ["trpo", "ppo"])
def test_runs_of_earlier_revisions_are_sources(name: str, trpo_train: Command, tmp_path: Path) -> None:
    shutil.copytree(OLD / name, tmp_path / "old")
    env, critic = ("Hopper-v4", "mlp") if name == "trpo" else ("CartPole-v1", "shared")
    small = (f"algo={name}", f"env={env}", f"critic={critic}", "policy.hidden_sizes=[4]", *SMALL[1:3], "eval.every=0")
    small = (*small, *(["critic.hidden_sizes=[4]"] if critic == "mlp" else []), "total_steps=64")
    done = trpo_train(*small, "init_from=old", "init.critic=true", "hydra.run.dir=run")
    assert done.status == 0, done.err


def test_the_code_that_a_stranger_s_configuration_names_is_not_run(
    trpo_train: Command, source: Path, tmp_path: Path
) -> None:
    shutil.copytree(source, tmp_path / "strange")
    config = yaml.safe_load((source / "config.yaml").read_text())
    for group, target in (("policy", "antigravity.fly"), ("critic", "os.system"), ("env", "nowhere.Task")):
        config[group]["_target_"] = target
    (tmp_path / "strange" / "config.yaml").write_text(yaml.safe_dump({**config, "plugins": ["nowhere"]}))
    refused = trpo_train(*SMALL, "init_from=strange", "hydra.run.dir=run")
    assert "init.policy: that of strange does not fit: policy._target_ is another there" in refused.err
    state = saved(source)
    for path in checkpoint.list_checkpoints(tmp_path / "strange" / "checkpoints"):
        path.unlink()
    checkpoint.save(tmp_path / "strange" / "checkpoints" / "step_9.safetensors", {**state, "policy": ["no", "dict"]})
    shutil.copy(source / "config.yaml", tmp_path / "strange")
    refused = trpo_train(*SMALL, "init_from=strange", "hydra.run.dir=run")
    assert refused.status == 1
    assert "strange: the checkpoint does not match config.yaml" in refused.err


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("sampler", "env_steps"), "lots", "ValueError"),
        (("normalizer", "variance"), [-1.0, 1.0, 1.0], "its running statistics are not finite, or have a negative"),
        (("policy", "log_std"), torch.tensor([torch.nan]), "policy.log_std is not finite"),
    ],
)
def test_a_checkpoint_that_makes_no_sense_is_refused(
    path: tuple[str, str], value: Any, said: str, source: Path, tmp_path: Path, trpo_train: Command, trpo_eval: Command
) -> None:
    state, (part, name) = saved(source), path
    shutil.copytree(source, tmp_path / "odd", ignore=shutil.ignore_patterns("*.safetensors"))
    place = tmp_path / "odd" / "checkpoints" / "step_9.safetensors"
    checkpoint.save(place, {**state, part: {**state[part], name: value}})
    begun, played = trpo_train(*SMALL, "init_from=odd", "hydra.run.dir=run"), trpo_eval("odd")
    assert (begun.status, played.status) == (1, 1)
    assert "init_from: odd: the checkpoint does not match config.yaml" in begun.err
    assert said in begun.err
    assert said in played.err


def test_sweeps_over_sources_and_from_one(trpo_train: Command, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "source", tmp_path / "algo=trpo,seed=0")
    both = trpo_train("-m", *SMALL, "init_from=source,nowhere", "sweep.dry_run=true")
    assert both.status == 1
    assert "init_from: nowhere is not a run directory" in both.out + both.err
    sweep = ("-m", *SMALL, "total_steps=64", "seed=0,1", "init_from=source", "hydra.sweep.dir=sweep")
    assert trpo_train(*sweep).status == 0
    assert all("init_from=source" in path.name for path in (tmp_path / "sweep").glob("*seed*"))
    assert trpo_train(*SMALL, "total_steps=64", "init_from=algo=trpo,seed=0", "hydra.run.dir=odd").status == 0
    (tmp_path / "source").unlink()
    assert trpo_train(*sweep[:-1], "total_steps=128", "sweep.resume=sweep").status == 0


def test_a_run_without_what_earlier_versions_did_not_save_goes_on_as_it_is(
    trpo_train: Command, source: Path, tmp_path: Path
) -> None:
    conf = TESTS.parent / "conf"
    names = ("train.yaml", "env/gym.yaml", "algo/trpo.yaml", "sampler/single_path.yaml")
    root, env, algo, sampler = (yaml.safe_load((conf / name).read_text()) for name in names)
    known = dict(flatten({**root, "env": env, "algo": algo, "sampler": sampler}))
    assert {key: known[key] for key in LATER} == LATER
    shutil.copytree(source, tmp_path / "old")
    config = read_config(source)
    older = {key: value for key, value in config.items() if key not in ("stop", "init", "init_from")}
    for group in ("env", "algo"):
        older[group] = {key: value for key, value in config[group].items() if f"{group}.{key}" not in LATER}
    (tmp_path / "old" / "config.yaml").write_text(yaml.safe_dump(older))
    words = (*SOURCE, "checkpoint.every=1", "checkpoint.best=train", "hydra.run.dir=old", "resume=auto")
    assert "init.policy: saved null, given false" in trpo_train(*words, "total_steps=384", "init.policy=false").err
    done = trpo_train(*words, "total_steps=384", "stop.at_return=1e9")
    assert done.status == 0, done.err
    assert "changed: stop.at_return: saved null, given 1000000000.0" in done.err
    kept = read_config(tmp_path / "old")
    assert (kept.keys() - older.keys(), kept["stop"]) == ({"stop"}, {"at_return": 1e9})
    assert (kept["env"], kept["algo"]) == (older["env"], older["algo"])
