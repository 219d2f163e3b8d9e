"""Searches: trials hold the values that the space allows, end as their seeds do, and survive an interruption."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from comparison import assert_same_run
from conftest import Command, after_rows
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from trpo_cli.errors import ConfigError, TrainingError
from trpo_cli.run.layout import SWEEP
from trpo_cli.run.state import State
from trpo_cli.sweep import results
from trpo_cli.sweep.job import Job
from trpo_cli.sweep.space import Space, make_space
from trpo_cli.sweep.trials import WAYS_OUT, Options, Trials

SMALL = ("env=CartPole-v1", "total_steps=128", "sampler.num_envs=2", "sampler.steps_per_iteration=64", "eval.every=0")
DELTA = "algo.delta=tag(log,interval(0.003,0.1))"
SPACE = (DELTA, "algo.cg_iterations=tag(int,interval(2,12))", "critic.learning_rate=3e-4,1e-3")
SEARCH = ("-m", "hydra/sweeper=optuna", *SMALL)
TINY = ("hydra.sweeper.n_trials=3", "hydra.sweeper.seeds=[3,5]", "hydra.sweeper.sampler.n_startup_trials=2")


def rows(search: Path) -> list[dict[str, str]]:
    with (search / "search.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_search_from_the_first_trial_to_the_best(trpo_train: Command, tmp_path: Path) -> None:
    done = trpo_train(*SEARCH, *SPACE, *TINY, "hydra.sweep.dir=s")
    assert done.status == 0, done.err
    table = rows(tmp_path / "s")
    assert [row["algo.delta"] for row in table][:1] == ["0.01"]  # the default, of which all lies inside
    assert len({row["algo.delta"] for row in table}) == 3
    for row in table:
        runs = [tmp_path / "s" / f"trial_{int(row['trial']):03d},seed={seed}" for seed in (3, 5)]
        values = [json.loads((run / "summary.json").read_text())["final_training_return"] for run in runs]
        assert [float(row["seed=3"]), float(row["seed=5"])] == values
        assert float(row["final_training_return"]) == fmean(values)
        config = yaml.safe_load((runs[0] / "config.yaml").read_text())
        assert config["algo"]["delta"] == float(row["algo.delta"])
        assert config["algo"]["cg_iterations"] == int(row["algo.cg_iterations"])
        assert config["seed"] == 3
    best = max(table, key=lambda row: float(row["final_training_return"]))
    command = shlex.split(done.out.rpartition("best trial:  ")[2])
    assert command[0] == "trpo-train"
    assert {f"algo.delta={best['algo.delta']}", SMALL[0]} < set(command)
    again = trpo_train(*command[1:], "seed=3", "hydra.run.dir=again")
    assert again.status == 0, again.err
    assert_same_run(tmp_path / "again", tmp_path / "s" / f"trial_{int(best['trial']):03d},seed=3")


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = (*SEARCH, *SPACE, *TINY, "hydra.sweeper.seeds=[3]", "checkpoint.every=1", "hydra.sweeper.trials_at_once=2")
    assert trpo_train(*search, "hydra.sweep.dir=whole").status == 0
    with monkeypatch.context() as patch:
        after_rows(patch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
        stopped = trpo_train(*search, "hydra.sweep.dir=parts")
    assert stopped.status == 143
    assert "sweep.resume=parts" in stopped.out
    before = {path.parent.name: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("*/summary.json")}
    assert len(before) == 2
    done = trpo_train(*search, "sweep.resume=parts")
    assert done.status == 0, done.err
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    names = [job["name"] for job in json.loads((tmp_path / "parts" / SWEEP).read_text())["jobs"]]
    assert len(names) == len(set(names)) == 3
    for name in names:
        assert_same_run(tmp_path / "parts" / name, tmp_path / "whole" / name)
    for name, written in before.items():
        assert (tmp_path / "parts" / name / "summary.json").stat().st_mtime_ns == written
    other = trpo_train(*search, "hydra.sweeper.seeds=[6]", "sweep.resume=parts")
    assert "parts holds another search, with seeds [3] instead of [6]" in other.err


def test_a_trial_that_cannot_run_fails_alone(trpo_train: Command, tmp_path: Path) -> None:
    values = ("algo.gamma=0.9,7", "hydra/sweeper/sampler=random", "hydra.sweeper.n_trials=4")
    done = trpo_train(*SEARCH, *values, "hydra.sweeper.seeds=[0]", "hydra.sweep.dir=s")
    assert done.status == 0, done.err
    ends = {(row["algo.gamma"], row["state"]) for row in rows(tmp_path / "s")}
    assert ends == {("0.9", "complete"), ("7", "fail")}
    assert "algo.gamma: got 7" in done.out
    hopeless = trpo_train(*SEARCH, "algo.gamma=7,8", "hydra.sweeper.n_trials=1", "hydra.sweep.dir=none")
    assert hopeless.status == 1
    assert "no trial has a result" in hopeless.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "nothing to search: give a key several values"),
        ((DELTA, "seed=0,1"), "seed: cannot be searched; hydra.sweeper.seeds=[0,1,2] sets the seeds"),
        ((DELTA, "seed=0"), "seed: cannot be searched; hydra.sweeper.seeds=[0,1,2] sets the seeds"),
        ((DELTA, "hydra.sweeper.metric=final_return"), "hydra.sweeper.metric: got 'final_return'; it should be"),
        (
            (DELTA, "hydra.sweeper.metric=final_evaluation_return"),
            "final_evaluation_return needs evaluations, but eval.every=0",
        ),
        ((DELTA, "hydra.sweeper.seeds=[1,1]"), "hydra.sweeper.seeds: got [1, 1]"),
        ((DELTA, "hydra.sweeper.n_trails=9"), "n_trails: no such key; did you mean 'hydra.sweeper.n_trials'?"),
        ((DELTA, "hydra/sweeper/sampler=tpu"), "no option 'tpu'; did you mean 'tpe'?"),
        ((DELTA, "hydra/sweeper/pruner=medium"), "no option 'medium'; did you mean 'median'?"),
        (
            (DELTA, "hydra.sweeper.sampler.n_startup_trials=few"),
            "hydra.sweeper.sampler.n_startup_trials: got 'few'; it should be a valid integer",
        ),
        (
            ("algo.cg_iterations=interval(2,9)",),
            "algo.cg_iterations: 10 is a whole number; write tag(int,interval(2,9))",
        ),
        (("algo.delta=tag(lg,interval(1,2))",), "algo.delta: unknown tag 'lg'; did you mean 'log'?"),
        (("algo.delta=tag(log,interval(0,1))",), "algo.delta: tag(log,interval(0,1)): "),
        (("algo.delta=tag(log,choice(1,2))",), "choices take no tags and cannot be shuffled"),
    ],
)
def test_mistakes_are_said_before_any_work(
    trpo_train: Command, tmp_path: Path, given: tuple[str, ...], said: str
) -> None:
    done = trpo_train(*SEARCH, *given)
    assert done.status == 1
    assert said in done.err
    assert not list(tmp_path.rglob("metrics.csv"))


def test_without_optuna_the_extra_is_named(trpo_train: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "optuna" else found(name))
    assert (
        "hydra/sweeper=optuna: optuna is not installed: pip install 'trpo-cli[optuna]'"
        in trpo_train(*SEARCH, DELTA).err
    )


def test_an_interval_is_for_a_search(trpo_train: Command) -> None:
    assert "algo.delta: an interval has infinitely many values; hydra/sweeper=optuna" in trpo_train("-m", DELTA).err


def test_a_preset_holds_a_space_and_the_best_of_it_is_one_run(trpo_train: Command, tmp_path: Path) -> None:
    preset = ("experiment=search/trust_region", *SMALL)
    done = trpo_train("-m", "hydra/sweeper=optuna", *preset, "hydra.sweeper.n_trials=1", "hydra.sweeper.seeds=[0]")
    assert done.status == 0, done.err
    best = trpo_train(*shlex.split(done.out.rpartition("best trial:  ")[2])[1:], "hydra.run.dir=best")
    assert best.status == 0, best.err
    assert (tmp_path / "best" / "summary.json").is_file()


def test_a_dry_run_says_the_space_and_builds_a_sample(trpo_train: Command, tmp_path: Path) -> None:
    done = trpo_train(*SEARCH, *SPACE, "sweep.dry_run=true")
    assert done.status == 0, done.err
    assert "algo.delta: from 0.003 to 0.1, log scale" in done.out
    assert "20 trials of 3 seeds, at most 60 jobs" in done.out
    wrong = trpo_train(*SEARCH, "algo.gamma=interval(2,3)", "sweep.dry_run=true")
    assert "a sample cannot start" in wrong.err
    assert list(tmp_path.iterdir()) == []


def described(*texts: str, **defaults: Any) -> tuple[Space, dict[str, Any] | None]:
    """The space of these overrides of a configuration, and its default."""
    config = OmegaConf.create({"a": None, "hydra": {"runtime": {"choices": {"algo": "npg"}}}, **defaults})
    found = make_space(OverridesParser.create().parse_overrides(list(texts)), config)
    return found, found.default(config)


def test_the_grammar_of_sweeps_is_that_of_the_space() -> None:
    cases: list[tuple[str, Any]] = [
        ("interval(0,1)", FloatDistribution(0.0, 1.0)),
        ("tag(log,interval(0.1,1))", FloatDistribution(0.1, 1.0, log=True)),
        ("tag(int,interval(1,8))", IntDistribution(1, 8)),
        ("int(interval(1,8))", IntDistribution(1, 8)),
        ("tag(log,int,interval(1,8))", IntDistribution(1, 8, log=True)),
        ("range(1,9,3)", IntDistribution(1, 7, step=3)),
        ("range(9,1,-4)", IntDistribution(5, 9, step=4)),
        ("range(0.5,2,0.5)", FloatDistribution(0.5, 1.5, step=0.5)),
        ("1,2,2", CategoricalDistribution(("1", "2"))),
        ("choice(true,0.5,[8,8])", CategoricalDistribution(("True", "0.5", "[8,8]"))),
    ]
    for text, distribution in cases:
        assert described(f"a={text}")[0].distributions["a"] == distribution
    assert described("a=1,2", "a=3,4", "b=1", "b=2")[0] == Space(
        {"a": CategoricalDistribution(("3", "4"))}, constants=("b=2",)
    )
    assert described("a=1,2", "b=x")[0].overrides({"a": "2"}) == ["b=x", "a=2"]


def test_the_default_is_a_trial_if_all_of_it_may_be_chosen() -> None:
    assert described("a=interval(0,1)", a=0.5)[1] == {"a": 0.5}
    assert described("a=interval(0,1)", a=1.5)[1] is None
    assert described("a=interval(0,1)", "algo=trpo,ppo", a=0.5)[1] is None
    assert described("a=1e-3,1", "algo=trpo,npg", a=0.001)[1] == {"a": "0.001", "algo": "npg"}
    assert described("a=[8],[4,4]", a=[4, 4])[1] == {"a": "[4,4]"}
    assert described("a=range(1,9,2)", a=4)[1] is None
    assert described("a=range(1,9,2)", a=5)[1] == {"a": 5}


class Played:
    """A campaign whose runs take no time: each comes to what a function of its overrides says."""

    def __init__(self, outcome: Callable[[float, int], float | None]) -> None:
        self.outcome, self.status, self.launched = outcome, self, list[str]()

    def add(self, jobs: Sequence[Job]) -> None:
        """As `Status` does."""

    wait = add

    def run(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            values = dict(text.split("=") for text in job.overrides)
            value = self.outcome(float(values["a"]), int(values["seed"]))
            self.launched.append(job.name)
            if value is not None:
                job.directory.mkdir()
                (job.directory / "summary.json").write_text(json.dumps({"final_training_return": value}))

    def state(self, job: Job) -> State:
        done = (job.directory / "summary.json").exists()
        return State("finished" if done else "failed", error=None if done else "it broke")


def searched(directory: Path, outcome: Callable[[float, int], float | None], **options: Any) -> tuple[Trials, Played]:
    """A search of `a` between 0 and 1."""
    given: dict[str, Any] = {
        "n_trials": 12,
        "seeds": [0, 1, 2],
        "trials_at_once": 1,
        "seeds_at_once": 1,
        "metric": "final_training_return",
        "over_seeds": "mean",
        "direction": "maximize",
        "seed": 0,
        "sampler": {"_target_": "optuna.samplers.RandomSampler"},
        "pruner": {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 2},
    }
    directory.mkdir(exist_ok=True)
    trials = Trials(directory, described("a=interval(0,1)")[0], Options(**{**given, **options}))
    played: Any = Played(outcome)
    trials.run(played, {"a": 0.5})
    return trials, played


def test_the_hopeless_are_pruned_between_seeds(tmp_path: Path) -> None:
    trials, played = searched(tmp_path / "s", lambda a, seed: a + seed)
    ends = [(trial.state.name, len(trial.intermediate_values)) for trial in trials.all()]
    assert set(ends) == {("COMPLETE", 3), ("PRUNED", 1)}
    assert len(played.launched) == sum(seeds for _, seeds in ends)
    pruned = [trial.params["a"] for trial in trials.all() if trial.state.name == "PRUNED"]
    complete = [trial.params["a"] for trial in trials.all() if trial.state.name == "COMPLETE"]
    assert max(pruned) < max(complete) == trials.study.best_trial.params["a"]
    assert f"12 trials: {len(complete)} complete, {len(pruned)} pruned" in results.table(trials)
    without, _ = searched(tmp_path / "all", lambda a, seed: a + seed, seeds_at_once=3)
    assert {trial.state.name for trial in without.all()} == {"COMPLETE"}


def test_what_is_minimised_and_over_which_seeds(tmp_path: Path) -> None:
    trials, _ = searched(tmp_path / "s", lambda a, seed: a * (seed + 1), direction="minimize", over_seeds="median")
    assert trials.study.best_value == 2 * min(trial.params["a"] for trial in trials.all())
    assert results.best_command(trials) == f"trpo-train a={trials.study.best_trial.params['a']}"


def test_a_seed_that_fails_ends_its_trial(tmp_path: Path) -> None:
    trials, played = searched(tmp_path / "s", lambda a, seed: None if seed == 1 and a > 0.5 else a)
    failed = [trial for trial in trials.all() if trial.state.name == "FAIL"]
    assert failed
    for trial in failed:
        assert trial.params["a"] > 0.5
        assert trial.user_attrs["error"] == "it broke"
        assert f"trial_{trial.number:03d},seed=2" not in played.launched
    infinite, _ = searched(tmp_path / "nan", lambda a, seed: float("nan"))
    assert {trial.user_attrs["error"] for trial in infinite.all()} == {"its final_training_return is nan"}


def test_a_search_without_the_end_of_an_episode_says_why(trpo_train: Command) -> None:
    search = (
        "-m",
        "hydra/sweeper=optuna",
        DELTA,
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.seeds=[0]",
        "eval.every=0",
    )
    sizes = ("sampler.num_envs=4", "sampler.steps_per_iteration=256", "total_steps=500")
    done = trpo_train(*search, "env=Pendulum-v1", *sizes)
    assert done.status == 1
    assert f"trial_000  no episode ended in 512 steps, so there is no final_training_return; {WAYS_OUT}\n" in done.out
    assert "error: no trial has a result. The first failed: no episode ended in 512 steps, so there is no" in done.err


def test_a_search_killed_anywhere_asks_and_runs_the_same(tmp_path: Path) -> None:
    """Whatever run the process dies after: no trial is lost, none repeated, and none is another."""

    class Killed(Exception):
        pass

    sampler = {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 2}
    options: dict[str, Any] = {"n_trials": 5, "seeds": [0, 1], "trials_at_once": 2, "sampler": sampler}

    def outcome(a: float, seed: int) -> float:
        return seed - (a - 0.3) ** 2

    whole, played = searched(tmp_path / "whole", outcome, **options)
    for after in range(1, len(played.launched), 3):
        left = iter(range(after))

        def dies(a: float, seed: int, left: Any = left) -> float:
            if next(left, None) is None:
                raise Killed
            return outcome(a, seed)

        with pytest.raises(Killed):
            searched(tmp_path / f"parts{after}", dies, **options)
        parts, _ = resumed_play(tmp_path / f"parts{after}", outcome, options)
        assert [(t.params, t.value, t.state) for t in parts.all()] == [
            (t.params, t.value, t.state) for t in whole.all()
        ]


def resumed_play(
    directory: Path, outcome: Callable[[float, int], float | None], options: dict[str, Any]
) -> tuple[Trials, Played]:
    """The same search once more, in which finished runs are left, as a campaign leaves them."""

    def leaving(played: Played, jobs: Sequence[Job], run: Any = Played.run) -> None:
        run(played, [job for job in jobs if not job.directory.exists()])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Played, "run", leaving)
        return searched(directory, outcome, **options)


def test_a_job_stopped_from_outside_fails_no_trial(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Played, "state", lambda self, job: State("stopped"))
        with pytest.raises(TrainingError, match="was stopped before its end"):
            searched(tmp_path / "s", lambda a, seed: a)
    trials, _ = resumed_play(tmp_path / "s", lambda a, seed: a, {})
    assert trials.all()[0].state.name == "COMPLETE"


def test_every_sampler_and_pruner_can_be_had(trpo_train: Command, tmp_path: Path) -> None:
    groups = Path(__file__).parent.parent / "conf" / "hydra" / "sweeper"
    for kind in ("sampler", "pruner"):
        for path in (groups / kind).glob("*.yaml"):
            node = yaml.safe_load(path.read_text())
            trials, _ = searched(tmp_path / path.stem, lambda a, seed: a, n_trials=4, **{kind: node})
            assert len(trials.all()) == 4
    with pytest.raises(ConfigError, match=r"hydra.sweeper.pruner: .*Nothing"):
        searched(tmp_path / "wrong", lambda a, seed: a, pruner={"_target_": "optuna.pruners.Nothing"})
