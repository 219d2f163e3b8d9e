"""The real commands, briefly: every algorithm on every kind of task, the run directory, and what mistakes answer."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from comparison import saved
from conftest import TESTS, Command, small, thinned
from exactness import exactly

import trpo_cli
from trpo_cli.config.groups import CONF, GROUPS, OF_SWEEPS, find_options
from trpo_cli.run import checkpoint

SHORT = (
    "total_steps=256",
    "sampler.num_envs=2",
    "sampler.steps_per_iteration=128",
    "checkpoint.every=1",
    "eval.every=128",
    "eval.episodes=2",
)
PROBE = ("plugins=[probes]", "env=gym")
ENVIRONMENTS = {
    "continuous": ("env=Pendulum-v1", "env.max_episode_steps=20"),
    "discrete": ("env=CartPole-v1",),
    "multi-discrete": (*PROBE, "env.id=Probe/Multi-v0"),
    "multi-binary": (*PROBE, "env.id=Probe/Binary-v0"),
    "several entries": (*PROBE, "env.id=Probe/Several-v0", "policy=multi_input"),
}
FILES = {"config.yaml", "metrics.csv", "tensorboard", "checkpoints", "train.log", "summary.json", "headline.txt"}
ANATOMY = (TESTS.parent / "runs" / "README.md").read_text(encoding="utf-8")
WORKERS = ("sampler.num_envs=4", "sampler.vectorization=async")
TRAIN = [sys.executable, "-c", "from trpo_cli.train import main; main()"]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


EXACT = ("cpi", "monotone_pi")  # for finite processes alone
PLAYING = [algo for algo in find_options(CONF / "algo") if algo != "bc"]  # test_recording has that of records
SAMPLED = [algo for algo in PLAYING if algo not in EXACT]


@pytest.mark.parametrize(("kind", "algo"), thinned(7, list(ENVIRONMENTS), SAMPLED))
def test_every_algorithm_on_every_kind_of_task(
    trpo_train: Command, trpo_eval: Command, tmp_path: Path, algo: str, kind: str
) -> None:
    task = ENVIRONMENTS[kind]
    done = trpo_train(*small(f"algo={algo}", *task), *SHORT[3:], "total_steps=256", "hydra.run.dir=run")
    assert done.status == 0, done.err
    assert "tensorboard --logdir run" in done.out
    whole(tmp_path / "run", 256)
    plugins = ["--plugins", "probes"] if "plugins=[probes]" in task else []
    played = trpo_eval("run", "--episodes", "2", *plugins)
    assert played.status == 0, played.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert f"| {summary['final_evaluation_return']:9.2f} | " in played.out


@pytest.mark.parametrize("algo", thinned(2, ["cpi", "monotone_pi", "trpo", "npg", "vpg", "ppo"]))
def test_finite_processes_exactly(trpo_train: Command, trpo_eval: Command, tmp_path: Path, algo: str) -> None:
    """A row an iteration, in which one sees the guarantee hold: the bound below the return, wherever there is one."""
    process = ("sampler=exact", "env=FrozenLake-v1", "total_steps=4", "checkpoint.every=1")
    done = trpo_train(f"algo={algo}", *process, "hydra.run.dir=run")
    assert done.status == 0, done.err
    found = whole(tmp_path / "run", 4)
    assert [row["env_steps"] for row in found] == ["1", "2", "3", "4"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["final_training_return"] == float(found[-1]["exact/return"])
    for row in found:
        assert float(row["exact/return"]) >= float(row["exact/lower_bound"]) - 1e-12
        if algo in EXACT:
            assert float(row["exact/true_change"]) > 0
    assert trpo_eval("run", "--episodes", "2").status == 0


@pytest.mark.parametrize("algo", thinned(2, ["trpo", "npg", "cpi", "monotone_pi"]))
def test_where_nothing_is_random_convergence_is_no_fault(trpo_train: Command, tmp_path: Path, algo: str) -> None:
    process = ("env=RandomMDP-v0", "env.kwargs.num_states=4", "algo.gamma=0.3", "total_steps=150")
    done = trpo_train(f"algo={algo}", "sampler=exact", *process, "checkpoint.every=50", "hydra.run.dir=run")
    assert done.status == 0, done.err
    last = rows(tmp_path / "run")[-1]
    assert last["trust_region/accepted"] == "0" or float(last["exact/true_change"]) < 1e-4


def whole(run: Path, steps: int) -> list[dict[str, str]]:
    """The rows of a run directory, which has all it should."""
    assert {path.name for path in run.iterdir()} == FILES
    found = rows(run)
    columns = [re.sub("^schedule/.*", "schedule/KEY", name) for name in found[0]]
    assert [name for name in columns if f"`{name}`" not in ANATOMY] == []
    summary = json.loads((run / "summary.json").read_text())
    assert summary["env_steps"] == int(found[-1]["env_steps"]) >= steps
    assert len(list((run / "checkpoints").iterdir())) == min(3, len(found) + 1)
    assert summary["final_evaluation_return"] == float(found[-1]["eval/episode_return_mean"])
    return found


def test_a_preset_sweeps_by_itself_and_ends_in_a_report(trpo_train: Command, tmp_path: Path) -> None:
    task = ("env=CartPole-v1", "total_steps=256", "sampler.num_envs=2", "sampler.steps_per_iteration=128")
    fewer = ("algo.step.multiplier=0.3,1", "hydra.sweeper.params.seed='0'", "hydra.sweep.dir=sweep")
    done = trpo_train("experiment=npg_multiplier", *task, *fewer)
    assert done.status == 0, done.err
    assert re.search(r"CartPole-v1 +npg_fixed +1 +256 .*\n +algo.step.multiplier=0.3", done.out)
    runs = [path.parent.name for path in (tmp_path / "sweep").rglob("summary.json")]
    assert len(runs) == 2
    assert not any("experiment" in name for name in runs)
    assert (tmp_path / "sweep" / "report" / "learning_curves.png").exists()


def test_a_preset_of_the_paper_begins_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Hydra keeps what an earlier call in the same process set, and with that more resolves."""
    program = [sys.executable, "-c", "from trpo_cli.train import main; main()"]
    few = ("algo=cem", "seed=0", "total_steps=1", "algo.population_size=10", "sampler.max_episode_steps=20")
    done = subprocess.run([*program, "experiment=paper/cartpole", *few], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs" / "paper" / "cartpole").rglob("summary.json"))) == 1


def test_the_default_directory_names_task_algorithm_time_and_seed(trpo_train: Command, tmp_path: Path) -> None:
    for _ in range(2):
        assert trpo_train("env=CartPole-v1", *SHORT, "seed=7").status == 0
    first, second = sorted((tmp_path / "runs" / "CartPole-v1" / "trpo").iterdir())
    assert first.name.endswith("_seed7")
    assert {path.name for path in second.iterdir()} == FILES


@pytest.mark.parametrize("algo", thinned(5, PLAYING))
def test_the_same_seed_gives_the_same_bits(trpo_train: Command, tmp_path: Path, algo: str) -> None:
    exact = algo in EXACT
    overrides = small(f"algo={algo}", f"env={'FrozenLake-v1' if exact else 'Hopper-v4'}")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        steps = f"total_steps={3 if exact else 128}"
        done = trpo_train(*overrides, steps, "eval.episodes=1", f"seed={seed}", f"hydra.run.dir={name}")
        assert done.status == 0, done.err
    a, b, c = (saved(tmp_path / name) for name in "abc")
    assert exactly(a, b)
    assert exactly(a["policy"], c["policy"]) is exact  # where nothing is random


def test_evaluation_does_not_disturb_training(trpo_train: Command, tmp_path: Path) -> None:
    for name, every in (("a", 0), ("b", 128)):
        trpo_train("env=Hopper-v4", *SHORT, f"eval.every={every}", f"hydra.run.dir={name}")
    a, b = (saved(tmp_path / name) for name in "ab")
    assert a.pop("progress") != b.pop("progress")
    assert exactly(a, b)
    assert {row["eval/episode_return_mean"] for row in rows(tmp_path / "a")} == {""}


def test_a_run_is_evaluated_ten_times_however_short_and_says_what_is_recent(
    trpo_train: Command, tmp_path: Path
) -> None:
    size = ("sampler.num_envs=2", "sampler.steps_per_iteration=64", "total_steps=1280", "eval.episodes=1")
    done = trpo_train("env=CartPole-v1", *size, "hydra.run.dir=run")
    found, summary = rows(tmp_path / "run"), json.loads((tmp_path / "run" / "summary.json").read_text())
    assert sum(row["eval/episode_return_mean"] != "" for row in found) == 10
    recent = [float(row["rollout/recent_return_mean"]) for row in found if row["rollout/recent_return_mean"]]
    assert summary["recent_training_return"] == recent[-1]
    assert f"recent {recent[-1]:.5g}, best" in done.out


def test_a_run_is_never_overwritten(trpo_train: Command, tmp_path: Path) -> None:
    assert trpo_train("env=CartPole-v1", *SHORT, "hydra.run.dir=run").status == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    again = trpo_train("env=CartPole-v1", *SHORT, "hydra.run.dir=run", "seed=1")
    assert again.status == 1
    assert "run already holds a run: resume=run continues it" in again.err
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_only_the_last_checkpoints_are_kept(trpo_train: Command, tmp_path: Path) -> None:
    trpo_train("env=CartPole-v1", *SHORT, "total_steps=768", "checkpoint.keep=2", "hydra.run.dir=run")
    names = [f"step_{steps:012d}.safetensors" for steps in (640, 768)]
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == names


def test_trust_region_diagnostics_are_true(trpo_train: Command, tmp_path: Path) -> None:
    radius = ("algo.delta=0.01", "algo.schedule.delta=constant")
    longer = ("total_steps=2048", "sampler.steps_per_iteration=256")
    trpo_train("env=Hopper-v4", *SHORT, *radius, *longer, "hydra.run.dir=run")
    for row in rows(tmp_path / "run"):
        number = {name: float(value) for name, value in row.items() if value}
        assert number["trust_region/accepted"] == 1
        assert 0 < number["policy/kl"] <= 0.01
        assert number["policy/max_kl"] >= number["policy/kl"]
        assert number["policy/surrogate_improvement"] > 0
        shrunk = 0.8 ** number["trust_region/backtracks"]
        assert number["trust_region/step_length"] == pytest.approx(
            shrunk * (2 * 0.01 / number["trust_region/curvature"]) ** 0.5, rel=1e-5
        )
        assert number["trust_region/predicted_improvement"] > 0
        assert 0 <= number["trust_region/cg_residual"] < 1
        rate = 256 / (number["time/sample_seconds"] + number["time/update_seconds"])
        assert number["time/steps_per_second"] == pytest.approx(rate)


MISTAKES = {
    ("algo=trop",): "algo: no option 'trop'; did you mean 'trpo'?",
    ("env=Hoper-v4",): "env: no option 'Hoper-v4'; did you mean 'Hopper-v4'?",
    ("critic=quadratic",): "critic: no option 'quadratic'; there are: linear, mlp, multi_input, shared, zero",
    ("algoo=trpo",): "algoo: no such key; did you mean 'algo'?",
    ("sede=1",): "sede: no such key; did you mean 'seed'?",
    ("algo.detla=0.01",): "algo.detla: no such key; did you mean 'algo.delta'?",
    ("algo=ppo", "algo.delta=0.01"): "algo.delta: no such key",
    ("+algo.detla=0.01",): "algo.detla: no such key; did you mean 'algo.delta'?",
    ("+colour=red",): "colour: no such key; known keys are: seed, total_steps",
    ("algo=trpo", "algo.delta=-1"): "algo.delta: got -1; it should be greater than 0",
    ("algo.delta=small",): "algo.delta: got 'small'; it should be a valid number",
    ("algo.gamma=1.5",): "algo.gamma: got 1.5; it should be less than or equal to 1",
    (
        "algo.advantage=gae",
    ): "algo.advantage: got 'gae'; a part is chosen from its group, with a slash: algo/advantage=gae",
    ("algo/advantage=gea",): "algo/advantage: no option 'gea'; did you mean 'gae'?",
    ("seed=a",): "seed: got 'a'; it should be a valid integer",
    ("total_steps=0",): "total_steps: got 0; it should be greater than or equal to 1",
    ("device=gpu",): "device: got 'gpu'; names such as cpu, cuda and cuda:1 fit",
    ("device=meta",): "device: got 'meta'; names such as cpu, cuda and cuda:1 fit",
    (
        "sampler.vectorization=fast",
    ): "sampler.vectorization: got 'fast'; it should be 'auto', 'native', 'sync' or 'async'",
    ("env=CartPole-v1", "sampler.vectorization=native"): (
        "sampler.vectorization: native is not for CartPole-v1: it is not a MuJoCo task of Gymnasium"
    ),
    ("sampler.num_threads=0",): "sampler.num_threads: got 0; it should be greater than or equal to 1",
    ("sampler.num_envs=many",): "sampler.num_envs: got 'many'; it should be a valid integer",
    ("sampler.num_envs=3",): "sampler.steps_per_iteration: 4096 is not a multiple of sampler.num_envs = 3; 4095 is",
    ("policy.hidden_sizes=[0]",): "policy.hidden_sizes[0]: got [0]; it should be greater than or equal to 1",
    ("policy.activation=tahn",): "policy.activation: got 'tahn'; it should be 'tanh', 'relu', 'elu' or 'silu'",
    ("critic=shared",): "critic=shared is for first-order methods",
    ("env=gym",): "env.id: has no default; give it with env.id=VALUE",
    (
        "env=gym",
        "env.id=Hoper-v4",
    ): "env.id: no environment is registered as 'Hoper-v4'; did you mean 'Hopper-v4'?\nOne of your own is "
    "registered by its package: plugins=[PACKAGE] of trpo-train, or --plugins PACKAGE of other commands",
    ("env=gym", "env.id=nowhere:Thing-v0"): "write plugins=[nowhere] env.id=Thing-v0",
    ("env.kwargs={wings: 2}",): "env.kwargs.wings: no such argument of Hopper-v4; there are: forward_reward_weight, ",
    (
        "env=FrozenLake-v1",
        "env.kwargs.is_slipery=true",
    ): "no such argument of FrozenLake-v1; did you mean 'is_slippery'?",
    (
        "env=gym",
        "env.id=FrozenLake-v1",
        "env.kwargs.map_name=5x5",
    ): "FrozenLake-v1 cannot be made with {'map_name': '5x5'}",
    ("env.kwargs=[1,2]",): "env.kwargs: got a list; it takes a mapping, {NAME: VALUE}",
    ("eval=[1]",): "eval: got a list; it takes a mapping",
    ("algo.step=[1]",): "algo.step: got a list; a part is chosen from its group, with a slash: algo/step=NAME",
    ("plugins={a: 1}",): "plugins: got a mapping; it takes a list",
    ("gamma=0.9",): "gamma: no such key; did you mean 'algo.gamma'?",
    ("env.gamma=0.9",): "env.gamma: no such key; did you mean 'algo.gamma'?",
    ("algo=ppo", "lr=0.1"): "lr: no such key; did you mean 'critic.learning_rate' or 'algo.learning_rate'?",
    ("every=3",): "every: no such key; did you mean 'eval.every' or 'checkpoint.every'?",
    ("logger=wandb", "logger.fail=1"): "logger.fail: no such key; there are: project, entity, group, mode",
    ("-m", "algo=trpo,npg,"): "'algo=trpo,npg,': nothing follows its last comma; write algo=trpo,npg",
    ("plugins=mine", "env=Mine-v0"): "plugins: got 'mine'; it should be a valid list, [mine]",
    ("seed=0-4",): "seed: got '0-4'; it should be a valid integer; with -m, range(0,5) runs each of these",
    ("seed=1..3",): "with -m, range(1,4) runs each of these",
    (*PROBE, "env.id=Probe/Mission-v0"): "entry 'inner.mission' of the observations is Text(...)",
    (
        *PROBE,
        "env.id=Probe/Words-v0",
    ): "supported are Box (of one float or more), Discrete",
    (
        "plugins=[no_such_package]",
    ): "plugins: no module 'no_such_package' is installed; if it is your own, name its directory",
    ("policy._target_=os.system",): "policy._target_: 'os.system' is not in a package that parts are built from",
    ("policy=null",): "policy: every run has one; only the groups experiment and logger can be empty",
    ("eval=3",): "eval: got 3; it should hold every, episodes, max_episode_steps",
    ("~total_steps",): "total_steps",
    ("~eval.every",): "eval.every: missing",
    ("plugins=['']",): "plugins: '' is not the name of a module",
    ("seed=[1",): "'seed=[1' cannot be read",
    ("hydra.run.dir=/proc/nowhere",): "/proc/nowhere: No such file or directory",
    ("hydra.run.dir=",): "hydra.run.dir: is empty; it takes a directory",
    ("env=Hopper-v9",): "env: no option 'Hopper-v9'; there are Hopper-v4, Hopper-v5",
    ("env=hopper",): "env: no option 'hopper'; there are Hopper-v4, Hopper-v5",
    ("env=gym", "env.id=Hopper-v9"): "is registered as 'Hopper-v9'; its versions are Hopper-v4, Hopper-v5",
    ("env=CliffWalkin-v1",): "env: no option 'CliffWalkin-v1'; did you mean 'CliffWalking-v1'?",
    ("env=Nowhere-v0",): "any id that is registered with Gymnasium will do; plugins=[PACKAGE] imports a package",
    ("env=[Hopper-v4]",): "a group takes the name of one of its options; -m and commas run several",
    ("algo=ppo", "algo/metric=identity"): (
        "algo/metric: no such part of this algorithm; it has algo/advantage, algo/surrogate\n"
    ),
    ("algo/surogate=clipped",): "algo/surogate: no such group; did you mean 'algo/surrogate'?",
    ("experiment=paper/cartpoles",): "experiment: no option 'paper/cartpoles'; did you mean 'paper/cartpole'?",
    ("+algo=trpo",): "algo: is chosen twice; leave out the +",
    ("+algo/step=fixed",): "algo/step: is chosen twice; leave out the +",
    ("seed=1,2",): "seed: got several values; -m runs each of them",
    ("seed=range(3)",): "seed=range(3): stands for several values; -m runs each of them",
    ("algo=trpo,ppo",): "algo: got several values; -m runs each of them",
    ("--hlep",): "unrecognized arguments: --hlep; did you mean '--help'?",
    ("--multi",): "unrecognized arguments: --multi; did you mean '--multirun'?",
    ("--algo=trpo",): "--algo=trpo: keys and groups take no dashes; write algo=trpo",
    ("--seed", "3"): "--seed: keys and groups take no dashes; write seed=3",
    ("--cfg", "jobs"): "argument --cfg/-c: invalid choice: 'jobs'",
    ("--config-dir", "nowhere"): "--config-dir: there is no directory",
    ("seed", "=", "1"): "'seed': an override has no spaces around '='; write seed=1",
    ("seed", "=1"): "'seed': an override has no spaces around '='; write seed=1",
    ("seed=", "1"): "'1' is not an override: overrides are GROUP=OPTION and KEY=VALUE",
    ("algo==trpo",): "'algo==trpo': '=' occurs twice; write algo=trpo",
    ("algo:trpo",): "'algo:trpo': a value follows '='; write algo=trpo",
    ("hopper",): "did you mean env=Hopper-v4 or env=Hopper-v5?",
    ("vine",): "did you mean sampler=vine?",
    ("total_steps=1.5",): "total_steps: got 1.5; it should be a valid integer",
    ("--seed",): "--seed: keys and groups take no dashes; write seed=VALUE",
    ("--total-steps", "1000"): "--total-steps: keys and groups take no dashes; write total_steps=1000",
    ("--num_envs=4",): "--num_envs=4: keys and groups take no dashes; write num_envs=4",
    ("--delta", "0.1"): "--delta: keys and groups take no dashes; write delta=0.1",
    ("-help",): "a long option begins with two dashes; did you mean '--help'?",
    ("help",): "'help' is not an override: overrides are GROUP=OPTION and KEY=VALUE; did you mean --help?",
    ("version",): "did you mean --version?",
    ("--foo",): "unrecognized arguments: --foo\n",
    ("--resolve",): "--resolve: takes effect only with --cfg job",
    ("--experimental-rerun", "x"): "--experimental-rerun: is not supported; resume=DIR resumes a run",
    ("--config-name", "x"): "there is one configuration; --config-dir DIR adds options to it",
    ("env", "CartPole-v1"): "'env': a name and its value are joined by '='; write env=CartPole-v1",
    ("seed=0,", "1"): "'1': values are listed without spaces; write seed=0,1",
    ("policy.hidden_sizes=[32", "32]"): "'32]': values are listed without spaces; write policy.hidden_sizes=[32,32]",
    ("~algo",): "algo: every run has one; only the groups experiment and logger can be empty",
    ("hydra.run.dir=~/x",): "'hydra.run.dir=~/x': the shell does not expand this ~; write hydra.run.dir=/",
    ("-m", "seed=0,1", "sweep.resume="): "sweep.resume: is empty; it takes a directory",
    ("env.id.a=3",): "env.id.a: no such key; env.id is a value and has no keys",
    ("hidden_sizes=[8]",): "hidden_sizes: no such key; did you mean 'policy.hidden_sizes' or 'critic.hidden_sizes'?",
    ("policy.hidden_sizes=(8,8)",): "lists have square brackets; write policy.hidden_sizes=[8,8]",
    ("policy.hidden_sizes=8,8",): "-m runs each of them, and a list is written policy.hidden_sizes=[8,8]",
    ("algo.delta=0,01",): "-m runs each of them, and one number is written with a point, algo.delta=0.01",
    ("total_steps=1,000,000",): "-m runs each of them, and one number is written total_steps=1_000_000",
    ("total_steps=1M",): "total_steps: got '1M'; it should be a valid integer, 1_000_000",
    ("algo.delta='0.01'",): "algo.delta: got '0.01'; it should be a valid number, without quotes: 0.01",
    ("algo.delta=nan",): "algo.delta: got nan; it should be less than inf, and this is not a number",
    ("update_threads=5000",): "update_threads: got 5000; it should be less than or equal to 1024",
    ("hydra.run.dri=x",): "hydra.run.dri: no such key; did you mean 'hydra.run.dir'?",
    ("run.dir=x",): "run: no such key; did you mean 'hydra.run.dir' or 'hydra.sweep.dir'?",
    ("metric=identity",): "metric: no such key; did you mean 'algo/metric'?",
    ("algo/metric.damping=1",): "'algo/metric.damping=1': a slash is for groups; write algo.metric.damping=1",
    ("env.log_info=[ü,b]",): "are quoted twice; write \"env.log_info=['ü','b']\"",
    (
        "env=my_package:Mine-v0",
    ): "env: no option 'my_package:Mine-v0'; no package is named in an id: plugins=[my_package]",
    ("env=größe",): "are quoted twice; write \"env='größe'\"",
    ("-m", "seed=rang(2)"): "'seed=rang(2)': there is no rang(); did you mean 'range'?",
    ("-m", "seed=,0"): "'seed=,0': nothing precedes its first comma; write seed=0",
    ("-m", "seed=range(0)"): "nothing to run: one of the keys has no values",
    (
        "-m",
        "env=CartPole-v1",
        "seed=[0,1]",
    ): "seed: got [0, 1]; it should be a valid integer; with -m, 0,1 are several runs",
    ("-m", "env=CartPole-v1", "seed=0-4"): "it should be a valid integer; with -m, range(0,5) runs each of these",
    ("env.kwargs=3",): "env.kwargs: got 3; it should be a valid dictionary, {NAME: VALUE}",
    ("logger=none",): "logger: no option 'none'; logger=null chooses none",
    ("logger.project=x",): "logger: has no keys before an option is chosen: logger=wandb",
    ("hydra/launcher=joblib",): "hydra/launcher=joblib: applies to sweeps only; add -m (--multirun) to run one",
    ("hydra/sweeper=optuna",): "hydra/sweeper=optuna: applies to sweeps only; add -m (--multirun) to run one",
    (
        "-m",
        "seed=0,1",
        "hydra.sweeper.n_trials=3",
    ): "hydra.sweeper.n_trials: applies only to a search, with hydra/sweeper=optuna",
    ("-m", "hydra/sweeper/pruner=none"): "hydra/sweeper/pruner: applies only to a search, with -m hydra/sweeper=optuna",
    ("seed=${nowhere}",): "'${nowhere}' refers to no key",
    ("seed=${oc.env:NO_SUCH_VARIABLE}",): "Environment variable 'NO_SUCH_VARIABLE' not found",
    ("resume=true",): "there is no config.yaml in it; resume=auto resumes the run of the same command line",
    ("plugins=mine",): "plugins: got 'mine'; it should be a valid list, [mine]",
    ("algo=cem", "sampler=single_path"): "sampler=single_path does not go with algo=cem: sampler=whole_episodes does",
    ("algo=cpi", "env=FrozenLake-v1", "critic=mlp"): "critic=mlp does not go with algo=cpi: critic=zero does",
    (
        "policy._target_=my_package.Mine",
    ): "plugins=[my_package] of trpo-train allows it, or --plugins my_package of other commands",
}

A_NAME = re.compile(r"no such (key|group|part)|no option|is not an override|unrecognized|invalid choice")


@pytest.mark.parametrize("overrides", thinned(3, MISTAKES))
def test_a_mistake_is_said_in_a_few_lines(trpo_train: Command, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    """Exit status 1, nothing trained, no directory left behind, no traceback."""
    done = trpo_train(*overrides)
    assert done.status == 1
    assert MISTAKES[overrides] in done.err
    assert len(done.err.splitlines()) <= 6
    assert ("--help lists all" in done.err) is bool(A_NAME.search(done.err))
    assert "Traceback" not in done.err
    assert done.out == ""
    assert list(tmp_path.iterdir()) == []


def test_faults_end_the_run_and_leave_it_loadable(trpo_train: Command, trpo_eval: Command, tmp_path: Path) -> None:
    done = trpo_train(
        *PROBE,
        "env.id=Probe/Faulty-v0",
        "env.kwargs={fault: reward, after: 100}",
        *SHORT,
        "hydra.run.dir=run",
        "fault_patience=0",
    )
    assert done.status == 1
    assert "Probe/Faulty-v0: reward is not finite at step 101 of environment 0: nan" in done.err
    assert len(rows(tmp_path / "run")) == 1
    assert "the run ended early: Probe/Faulty-v0: reward" in (tmp_path / "run" / "train.log").read_text()
    assert not (tmp_path / "run" / "summary.json").exists()
    assert trpo_eval("run", "--episodes", "1", "--plugins", "probes").status == 0


def test_the_log_has_the_traceback_of_an_environment_that_ended_the_run(trpo_train: Command, tmp_path: Path) -> None:
    fault = ("env.id=Probe/Faulty-v0", "env.kwargs={fault: raise, after: 100}", "fault_patience=0")
    done = trpo_train(*PROBE, *fault, *SHORT, "hydra.run.dir=run")
    assert "Traceback" not in done.err
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count('raise RuntimeError("the simulator fell over")') == 1


@pytest.mark.parametrize(
    ("name", "text", "choice", "place"),
    [
        ("algo/wide", "defaults: [trpo, _self_]\ndleta: 0.1\n", "algo=wide", "line 2, column 1"),
        ("tuned/Pendulum-v1", "algo=trpo:\n  algo:\n    dleta: 0.1\n", "env=Pendulum-v1", "line 3, column 5"),
    ],
)
def test_a_mistaken_key_in_a_users_own_yaml_is_found_there(
    name: str, text: str, choice: str, place: str, trpo_train: Command, tmp_path: Path
) -> None:
    path = tmp_path / "mine" / f"{name}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    done = trpo_train("--config-dir", "mine", choice)
    said = f"algo.dleta: no such key; did you mean 'algo.delta'?\nit is set in mine/{name}.yaml, {place}\n"
    assert said in done.err


def test_a_users_tuned_file_does_not_make_its_name_an_environment(trpo_train: Command, tmp_path: Path) -> None:
    (tmp_path / "mine" / "tuned").mkdir(parents=True)
    (tmp_path / "mine" / "tuned" / "Bad-v1.yaml").write_text("algo=trpo:\n  seed: 1\n")
    done = trpo_train("--config-dir", "mine", "env=Bad-v1")
    assert "env: no option 'Bad-v1'" in done.err
    assert "'Bad-v1'?" not in done.err


def test_a_jobs_mistake_is_looked_up_while_the_sweep_goes_on(trpo_train: Command) -> None:
    done = trpo_train("-m", "env=CartPole-v1", *SHORT, "algo=trpo,ppo", "algo.cg_iteration=5", "hydra.sweep.dir=none")
    assert "did you mean 'algo.cg_iterations'?" in done.err  # of the first job, since no job can start
    done = trpo_train("-m", "env=CartPole-v1", *SHORT, "algo=trpo,ppo", "algo.cg_iterations=5", "hydra.sweep.dir=sweep")
    assert "algo.cg_iterations: no such key" in done.out
    assert "1 of 2 jobs failed" in done.err


def test_too_many_rejected_updates_end_the_run(trpo_train: Command, tmp_path: Path) -> None:
    done = trpo_train(
        "env=CartPole-v1",
        "algo=random_search",
        "algo.step_size=1e300",
        "algo.max_rejected=2",
        "total_steps=999_999",
        "hydra.run.dir=run",
    )
    assert done.status == 1
    assert "2 updates in a row were rejected: the policy no longer moves" in done.err
    assert "update rejected (non finite loss)" in (tmp_path / "run" / "train.log").read_text()
    assert [row["trust_region/outcome"] for row in rows(tmp_path / "run")] == ["3", "3"]


def test_a_task_without_a_gradient_is_no_fault(trpo_train: Command, tmp_path: Path) -> None:
    """No reward found yet, or a task that is solved: training goes on, and says so once."""
    silent = (*PROBE, "env.id=Probe/Silent-v0", "critic=zero", "algo.max_rejected=1", *SHORT, "total_steps=384")
    done = trpo_train(*silent, "hydra.run.dir=run")
    assert done.status == 0, done.err
    assert {row["trust_region/outcome"] for row in rows(tmp_path / "run")} == {"1"}
    assert (tmp_path / "run" / "train.log").read_text().count("no gradient") == 1


EVALUATIONS = (
    (("nowhere",), "nowhere is not a run directory, since it has no config.yaml"),
    (("run", "--episodes", "0"), "argument --episodes: 0 is not at least 1"),
    (("run", "--episods", "3"), "unrecognized arguments: --episods 3; did you mean '--episodes'?"),
    ((), "the following arguments are required: RUN"),
    (("run",), "holds no checkpoint"),
    (("list",), "list/config.yaml is not the configuration of a run"),
    (("broken",), "broken/config.yaml, line 1, column 5: the file ends within a bracket"),
)


def test_mistakes_in_evaluation(trpo_train: Command, trpo_eval: Command, tmp_path: Path) -> None:
    trpo_train("env=CartPole-v1", *SHORT, "hydra.run.dir=run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.unlink()
    for name, text in (("list", "- 1"), ("broken", "a: [")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
    for arguments, said in EVALUATIONS:
        done = trpo_eval(*arguments)
        assert done.status == 1, arguments
        assert said in done.err


PLACES = {
    (
        "trpo-train",
        "resume=runs/abc",
    ): "resume: runs/abc holds no run: there is no config.yaml in it; did you mean 'runs/abd'?",
    ("trpo-train", "resume=runs"): "there is no config.yaml in it; the newest run below it is 'runs/abd'",
    ("trpo-train", "resume=runs/abd/train.log"): "there is no config.yaml in it; did you mean 'runs/abd'?",
    ("trpo-train", "resume=runs/abd", "delta=1"): "delta: no such key; did you mean 'algo.delta'?",
    ("trpo-train", "resume=runs/abd", "algo.detla=1"): "algo.detla: no such key; did you mean 'algo.delta'?",
    ("trpo-train", "hydra.run.dir=file"): "hydra.run.dir: file is a file, but this key takes a directory",
    ("trpo-train", "hydra.run.dir=sweep"): "sweep holds a sweep: hydra.run.dir=DIR starts a run elsewhere",
    (
        "trpo-train",
        "-m",
        "seed=0,1",
        "hydra.sweep.dir=runs/abd",
    ): "runs/abd holds a run; choose another directory with hydra.sweep.dir=DIR",
    ("trpo-train", "-m", "seed=0,1", "sweep.resume=runs/abd"): "resume=runs/abd resumes the run in it",
    ("trpo-eval", "runs/abc"): "runs/abc is not a run directory, since it has no config.yaml; did you mean 'runs/abd'?",
    ("trpo-eval", "runs/abd/checkpoints"): "it has no config.yaml; did you mean 'runs/abd'?",
    ("trpo-eval", ""): "argument RUN: is empty",
    ("trpo-eval", "runs/abd", "--episodes", "a"): "argument --episodes: 'a' is not a whole number",
    ("trpo-eval", "runs/abd", "--episodes", "1.5"): "argument --episodes: '1.5' is not a whole number",
    ("trpo-eval", "runs/abd", "--video-episodes", "2"): "--video-episodes: takes effect only with --video FILE.mp4",
    ("trpo-eval", "--plugins", "x", "runs/abd"): "--plugins takes everything that follows it, so put RUN before it",
    ("trpo-eval", "runs/abd", "--foo"): "unrecognized arguments: --foo\n",
    ("trpo-report", "file"): "file is a file; a run directory fits, or a folder of them",
    ("trpo-report", "runs/abd", "seed=1"): "seed=1 is no folder; a run directory fits, or a folder of them",
    ("trpo-report", "runs/abd/config.yaml"): "a run directory fits, or a folder of them; did you mean 'runs/abd'?",
    ("trpo-report", "runs/abd", "--out", ""): "argument --out: is empty",
    (
        "trpo-report",
        "runs/abd",
        "--metric",
        "x",
    ): "metrics.csv has no column 'x'; there are: critic/explained_variance,",
}


def test_mistakes_about_places(
    trpo_train: Command, trpo_eval: Command, trpo_report: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may have been meant is said, and nothing is printed before it."""
    assert trpo_train("env=CartPole-v1", *SHORT, "hydra.run.dir=runs/abd").status == 0
    (tmp_path / "file").touch()
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.status.json").write_text("{}")
    commands = {"trpo-train": trpo_train, "trpo-eval": trpo_eval, "trpo-report": trpo_report}
    before = sorted(tmp_path.rglob("*"))
    for (name, *arguments), said in PLACES.items():
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        done = commands[name](*arguments)
        assert (done.status, done.out) == (1, ""), arguments
        assert said in done.err
    assert sorted(tmp_path.rglob("*")) == before
    for name in ("trpo-eval", "trpo-report"):
        assert commands[name]("--version").out == f"trpo-cli {trpo_cli.__version__}\n"
    assert "|        2 |" in trpo_eval("runs/abd", "--episodes", "2e0").out


def test_sampled_evaluation_differs_and_repeats(trpo_train: Command, trpo_eval: Command) -> None:
    trpo_train("env=Pendulum-v1", *SHORT, "hydra.run.dir=run")
    mode, first, second = trpo_eval("run"), trpo_eval("run", "--sample"), trpo_eval("run", "--sample")
    assert first.out == second.out
    assert first.out.splitlines()[-1] != mode.out.splitlines()[-1]
    assert trpo_eval("run", "--seed", "1").out != mode.out


def test_multirun_gives_each_job_its_directory(trpo_train: Command, tmp_path: Path) -> None:
    done = trpo_train("-m", "env=CartPole-v1", *SHORT, "seed=0,1", "algo=trpo,ppo", "hydra.sweep.dir=sweep")
    assert done.status == 0, done.err
    runs = {path.parent.name for path in (tmp_path / "sweep").rglob("summary.json")}
    assert len(runs) == 4
    assert all("algo=" in name and "seed=" in name for name in runs)


def test_help_is_ours_and_complete(trpo_train: Command, tmp_path: Path) -> None:
    done = trpo_train("--help")
    assert done.status == 0
    for group in (*GROUPS, *OF_SWEEPS):
        for name in find_options(CONF / group):
            assert f" {name}" in done.out
    assert "algo/advantage" in done.out
    assert "powered by" not in done.out
    assert trpo_train("--version").out == f"trpo-cli {trpo_cli.__version__}\n"
    assert list(tmp_path.iterdir()) == []


def test_the_composed_configuration_is_printed(trpo_train: Command, tmp_path: Path) -> None:
    done = trpo_train("--cfg", "job", "algo=ppo", "env=HalfCheetah-v4")
    assert done.status == 0
    assert "clip: 0.3" in done.out
    assert "id: HalfCheetah-v4" in done.out
    assert list(tmp_path.iterdir()) == []


def test_a_users_own_yaml(trpo_train: Command, tmp_path: Path) -> None:
    (tmp_path / "mine" / "env").mkdir(parents=True)
    (tmp_path / "mine" / "env" / "Short-v0.yaml").write_text("defaults: [CartPole-v1, _self_]\nmax_episode_steps: 10\n")
    done = trpo_train("--config-dir", "mine", "env=Short-v0", *SHORT, "hydra.run.dir=run")
    assert done.status == 0, done.err
    assert float(rows(tmp_path / "run")[-1]["rollout/episode_length_mean"]) <= 10


@pytest.mark.parametrize(
    ("number", "status", "workers"),
    [
        (signal.SIGINT, 130, WORKERS),
        pytest.param(signal.SIGTERM, 143, (), marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, (), marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, WORKERS, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_the_run_after_a_checkpoint(
    tmp_path: Path, number: int, status: int, workers: tuple[str, ...]
) -> None:
    """A terminal sends Ctrl-C to worker processes too; SIGTERM comes to the program alone."""
    command = [*TRAIN, "env=CartPole-v1", *workers, "checkpoint.every=1000", "hydra.run.dir=run"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    metrics = tmp_path / "run" / "metrics.csv"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (metrics.exists() and len(rows(tmp_path / "run")) > 2):
        time.sleep(0.05)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert f"stopped by {signal.Signals(number).name}; the last checkpoint is from step" in err
    newest = checkpoint.load_newest(tmp_path / "run" / "checkpoints")
    assert newest.state["sampler"]["env_steps"] == int(rows(tmp_path / "run")[-1]["env_steps"]) > 0


def test_a_terminal_gets_one_live_line(tmp_path: Path) -> None:
    """On a pseudo-terminal: steps, return, KL, steps a second and time left, and no log lines between them."""
    controller, terminal = pty.openpty()
    command = [*TRAIN, "env=CartPole-v1", *SHORT, "hydra.run.dir=run"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=terminal, stdout=subprocess.DEVNULL, env=environment
    ) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # the far end was closed
            while piece := os.read(controller, 4096):
                shown += piece
        os.close(controller)
    assert process.returncode == 0
    text = shown.decode()
    assert "256 / 256 steps" in text
    assert re.search(r"return \d+\.\d  recent \d+\.\d  kl 0\.\d{4}  [\d,]+ steps/s", text)
    assert "left" in text
    assert "training on" not in text


def test_the_command_is_installed_and_quiet(tmp_path: Path) -> None:
    """The console script itself, from another working directory, with standard error no terminal."""
    script = Path(sys.executable).with_name("trpo-train")
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONWARNINGS": "error::UserWarning"}
    done = subprocess.run(
        [script, "env=Hopper-v4", *SHORT, "hydra.run.dir=run"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "256 / 256 steps" in done.stderr
    assert "Warning" not in done.stderr
