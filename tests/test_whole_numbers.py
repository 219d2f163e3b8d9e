"""1e6 and 2048.0 are whole numbers where a key wants one: in overrides, YAML, sweeps and what is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Command, composed

from trpo_cli.cli.whole_numbers import convert_whole_numbers, rewrite_overrides
from trpo_cli.config.build import as_whole, is_whole
from trpo_cli.ranges import Count, NonNegativeInt, Positive

SHORT = ("env=CartPole-v1", "eval.every=0")
WRITTEN = ("total_steps=1e2", "sampler.num_envs=2.0", "sampler.steps_per_iteration=6.4e1", "policy.hidden_sizes=[8.,8]")
PLAIN = ("total_steps=100", "sampler.num_envs=2", "sampler.steps_per_iteration=64", "policy.hidden_sizes=[8,8]")


@pytest.mark.parametrize(
    ("value", "annotation", "is_"),
    [
        (1e6, Count, 1_000_000),
        (1e23, int, 10**23),
        (0.0, NonNegativeInt, 0),
        (2.0, Count | None, 2),
        ([2.0, 3], list[Count], [2, 3]),
        (1.5, Count, 1.5),
        (float("inf"), int, float("inf")),
        (2.0, Positive, 2.0),
        (2.0, int | float, 2.0),
        (2.0, None, 2.0),
        (True, int, True),
        ("1e6", int, "1e6"),
    ],
)
def test_what_is_taken_for_whole(value: object, annotation: object, is_: object) -> None:
    taken = as_whole(value, annotation)
    assert (taken, type(taken)) == (is_, type(is_))


def test_an_interval_of_whole_numbers_is_one() -> None:
    assert is_whole(list[Count])
    assert not is_whole(Positive)


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("seed=1e1", "seed=10"),
        ("+seed=1_0.0", "+seed=10"),
        ("seed=range(0,1e1)", "seed=range(0,10)"),
        ("total_steps=1e5,2e5", "total_steps=100000,200000"),
        ("sampler.num_envs=tag(log,interval(2.0,8))", "sampler.num_envs=tag(log,interval(2,8))"),
        ("sampler.num_threads=2.", "sampler.num_threads=2"),
        ("eval.episodes=1e1", "eval.episodes=10"),
    ],
)
def test_words_are_written_plainly(written: str, plain: str) -> None:
    assert rewrite_overrides([written], composed()) == [plain]


@pytest.mark.parametrize(
    "text",
    [
        "seed=1.5",
        "seed='1e1'",
        "seed=a1e1",
        "algo.delta=1.0",
        "algo/step=1.0",
        "env.kwargs.mass=1.0",
        "x.y=1.0",
        "env=1.0",
    ],
)
def test_other_words_are_left_alone(text: str) -> None:
    assert rewrite_overrides([text], composed()) == [text]


def test_values_are_converted_where_they_are_composed() -> None:
    node = composed("total_steps=1e3", "eval.episodes=3.0", "policy.hidden_sizes=[8.0]", "env.kwargs={a: 1.0}")
    found = convert_whole_numbers(node)
    assert repr((found["total_steps"], found["eval"]["episodes"], found["policy"]["hidden_sizes"])) == "(1000, 3, [8])"
    assert repr(found["env"]["kwargs"]) == "{'a': 1.0}"
    assert found == node
    assert repr(found["algo"]) == repr(node["algo"])


def test_a_run_is_the_same_however_its_numbers_are_written(trpo_train: Command, tmp_path: Path) -> None:
    """Its directory with `resume=auto`, which then is one, and its configuration."""
    assert trpo_train(*SHORT, *WRITTEN, "seed=1e1", "resume=auto").status == 0
    [run] = (tmp_path / "runs" / "CartPole-v1" / "trpo").iterdir()
    assert run.name.endswith("_seed10")
    assert "is finished" in trpo_train(*SHORT, *PLAIN, "seed=10", "resume=auto").out
    assert trpo_train(*SHORT, *PLAIN, "seed=10", "hydra.run.dir=plain").status == 0
    assert (run / "config.yaml").read_text() == (tmp_path / "plain" / "config.yaml").read_text()
    assert trpo_train(f"resume={run}", "total_steps=1.5e2", "sampler.num_envs=2.0").status == 0
    assert "total_steps: 150\n" in (run / "config.yaml").read_text()


def test_a_yaml_file_may_say_so_too(trpo_train: Command, tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    text = "# @package _global_\nseed: 1e1\ntotal_steps: 1e2\nsampler: {num_envs: 2.0, steps_per_iteration: 64.0}\n"
    (tmp_path / "mine" / "experiment" / "short.yaml").write_text(f"{text}policy: {{hidden_sizes: [8.0, 8]}}\n")
    assert trpo_train("--config-dir", "mine", "experiment=short", *SHORT).status == 0
    [run] = (tmp_path / "runs" / "CartPole-v1" / "trpo").iterdir()
    assert trpo_train(*SHORT, *PLAIN, "seed=10", "hydra.run.dir=plain").status == 0
    plain = (tmp_path / "plain" / "config.yaml").read_text()
    assert (run / "config.yaml").read_text() == plain.replace("experiment: null", "experiment: short")


def test_the_jobs_of_a_sweep_are_named_alike(trpo_train: Command, tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    grids = "# @package _global_\nhydra: {sweeper: {params: {seed: '0,1.0'}, grids: [{total_steps: '1e2,2e2'}]}}\n"
    (tmp_path / "mine" / "experiment" / "grids.yaml").write_text(grids)
    dry = ("-m", *SHORT, *PLAIN[1:], "sweep.dry_run=true")
    listed = trpo_train(*dry, "total_steps=100,200", "seed=0,1").out
    assert trpo_train(*dry, "total_steps=1e2,2e2", "seed=range(0,2.0)").out == listed
    by_grid = trpo_train("--config-dir", "mine", "experiment=grids", *dry).out
    assert sorted(by_grid.splitlines()) == sorted(listed.splitlines())
