"""Runs that go on: which one, with what configuration, and that nothing shows that they were ever interrupted."""

from __future__ import annotations

import copy
import os
import shutil
import signal
from pathlib import Path

import pytest
from comparison import assert_same_run, rows
from conftest import Command, Finished, after_rows, thinned, trained

from trpo_cli.cli.resume import expand_resume, find_differences, name_directory, override_saved
from trpo_cli.errors import ConfigError, RunDirectoryError
from trpo_cli.run.directory import Run

SMALL = ("env=CartPole-v1", "sampler.num_envs=4", "sampler.steps_per_iteration=64", "total_steps=640", "eval.every=256")
SMALL = (*SMALL, "eval.episodes=2", "checkpoint.every=1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is finished; tests that change it copy it."""
    return trained(tmp_path_factory.mktemp("whole"), *SMALL)


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, stopped after five of its ten iterations."""
    with pytest.MonkeyPatch.context() as patch:
        after_rows(patch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
        return trained(tmp_path_factory.mktemp("part"), *SMALL, status=143)


def interrupted(
    trpo_train: Command, monkeypatch: pytest.MonkeyPatch, *arguments: str, after: int = 3, by: int = signal.SIGTERM
) -> Finished:
    """Run the command, and send it a signal when it has written so many rows."""
    with monkeypatch.context() as patch:
        after_rows(patch, after, lambda: os.kill(os.getpid(), by))
        return trpo_train(*arguments)


@pytest.mark.parametrize("by", thinned(2, ["SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"]))
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    trpo_train: Command, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    parts = tmp_path / "parts"
    stopped = interrupted(trpo_train, monkeypatch, *SMALL, f"hydra.run.dir={parts}", by=signal.Signals[by])
    assert stopped.status == 128 + signal.Signals[by]
    assert f"stopped by {by}; the last checkpoint is from step 192" in stopped.err
    assert "resume=parts" in stopped.err
    assert len(rows(parts)) == 3
    assert "Traceback" not in (parts / "train.log").read_text()
    assert trpo_train("resume=parts").status == 0
    assert_same_run(whole, parts)


def test_a_run_on_several_entries_goes_on_bit_for_bit(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = ("plugins=[probes]", "env=Probe/Several-v0", "policy=multi_input", "critic=multi_input", *SMALL[1:])
    several = (*several, "env.normalize_observation=true")
    several = (*several, "sampler.vectorization=sync")
    done = trpo_train(*several, "hydra.run.dir=whole")
    assert done.status == 0
    assert "joined to 14 numbers: choice 2, image 4, inner.0 2, inner.1 5, number 1\n" in done.err
    assert done.err.count("observations hold images, which policy and critic read as flat numbers from 0 to 255") == 1
    assert interrupted(trpo_train, monkeypatch, *several, "hydra.run.dir=parts").status == 143
    assert trpo_train("resume=parts", "plugins=[probes]").status == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    "method", [("algo=trpo", "critic=cnn", "critic.convolutions=[[4,4,2]]"), ("algo=ppo", "critic=shared")]
)
def test_convolutions_go_on_bit_for_bit(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: tuple[str, ...]
) -> None:
    """Also on another number of threads."""
    seen = ("plugins=[probes]", "env=Probe/Bar-v0", "policy=cnn", "policy.convolutions=[[8,4,2],[8,3,1]]", *SMALL[1:])
    seen = (*seen, *method, "sampler.steps_per_iteration=320", "total_steps=1600", "sampler.num_threads=2")
    seen = (*seen, "sampler.vectorization=sync", "eval.every=0")
    done = trpo_train(*seen, "hydra.run.dir=whole")
    assert done.status == 0
    assert "flat numbers" not in done.err
    assert interrupted(trpo_train, monkeypatch, *seen, "hydra.run.dir=parts").status == 143
    assert trpo_train("resume=parts", "plugins=[probes]", "sampler.num_threads=1").status == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    "memory", [("algo=trpo", "policy=gru"), pytest.param(("algo=ppo", "policy=lstm"), marks=pytest.mark.slow)]
)
def test_memory_goes_on_bit_for_bit(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: tuple[str, ...]
) -> None:
    """In the middle of episodes, which are longer than an iteration."""
    hidden = ("env=Pendulum-v1", "env.hide=[-1]", *memory, "sampler.num_envs=4", "sampler.steps_per_iteration=128")
    hidden = (*hidden, "total_steps=640", "checkpoint.every=1", "eval.every=0")
    assert trpo_train(*hidden, "hydra.run.dir=whole").status == 0
    assert interrupted(trpo_train, monkeypatch, *hidden, "hydra.run.dir=parts").status == 143
    assert trpo_train("resume=parts").status == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    ("saved", "edited", "said"),
    [("stack: 1", "stack: 2", "normalizer"), ("log_info: []", "log_info: [nope]", "sampler")],
)
def test_a_checkpoint_that_an_edited_configuration_does_not_fit(
    saved: str, edited: str, said: str, trpo_train: Command, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(saved, edited))
    refused = trpo_train("resume=run", "total_steps=1280")
    assert refused.status == 1
    assert f"run: the {said} of the checkpoint does not match config.yaml: " in refused.err


def test_auto_begins_and_continues_one_directory(
    trpo_train: Command, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (*SMALL, "resume=auto")
    assert interrupted(trpo_train, monkeypatch, *command).status == 143
    assert trpo_train(*command).status == 0
    finished = trpo_train(*command)
    assert finished.status == 0
    assert "is finished, after 640 steps" in finished.out
    (directory,) = (path.parent for path in tmp_path.rglob("config.yaml"))
    assert directory.parent.parent == tmp_path / "runs" / "CartPole-v1"
    assert_same_run(directory, whole)


def test_what_was_logged_after_the_checkpoint_is_logged_once(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after SIGKILL: the second run ends between two checkpoints."""

    def fail() -> None:
        raise ZeroDivisionError

    every = (*SMALL, "checkpoint.every=4")
    assert trpo_train(*every, "hydra.run.dir=whole").status == 0
    with monkeypatch.context() as patch:
        after_rows(patch, 7, fail)
        with pytest.raises(ZeroDivisionError):
            trpo_train(*every, "hydra.run.dir=parts")
    assert len(rows(tmp_path / "parts")) == 7
    assert trpo_train("resume=parts").status == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "missing"])
def test_a_damaged_checkpoint_is_put_aside_for_an_older_one(
    trpo_train: Command, whole: Path, part: Path, tmp_path: Path, damage: str
) -> None:
    shutil.copytree(part, tmp_path / "parts")
    newest = max((tmp_path / "parts" / "checkpoints").iterdir())
    data = newest.read_bytes()
    match damage:
        case "flip":
            newest.write_bytes(data[:-100] + bytes([data[-100] ^ 4]) + data[-99:])
        case "truncate":
            newest.write_bytes(data[:-1])
        case "empty":
            newest.write_bytes(b"")
        case "missing":
            newest.unlink()
    resumed = trpo_train("resume=parts")
    assert resumed.status == 0
    if damage != "missing":
        assert f"{newest.name}: " in resumed.err
        assert newest.name in (tmp_path / "parts" / "train.log").read_text()
        assert newest.with_name(f"{newest.name}.damaged").exists()
    assert_same_run(whole, tmp_path / "parts")


def test_without_a_whole_checkpoint_nothing_is_touched(trpo_train: Command, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    before = rows(tmp_path / "run")
    refused = trpo_train("resume=run", "total_steps=6400")
    assert refused.status == 1
    assert refused.err.count("step_000000000") >= 3
    assert rows(tmp_path / "run") == before
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_run_that_was_killed_before_it_saved_anything_begins_anew(
    trpo_train: Command, whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "parts").mkdir()
    shutil.copy(whole / "config.yaml", tmp_path / "parts")
    assert trpo_train("resume=parts").status == 0
    assert_same_run(whole, tmp_path / "parts")


def test_a_longer_run_is_what_it_would_have_been(trpo_train: Command, tmp_path: Path) -> None:
    short, long = ("total_steps=320", "hydra.run.dir=run"), ("total_steps=640", "hydra.run.dir=long")
    assert trpo_train(*SMALL, "eval.every=64", *short).status == 0
    assert trpo_train(*SMALL, "eval.every=64", *long).status == 0
    extended = trpo_train("resume=run", "total_steps=640")
    assert extended.status == 0
    assert "changed: total_steps: saved 320, given 640" in extended.err
    assert "its schedule" not in extended.err
    assert_same_run(tmp_path / "run", tmp_path / "long")


def test_an_extension_says_what_becomes_of_schedules(trpo_train: Command, tmp_path: Path) -> None:
    assert trpo_train("algo=ppo", *SMALL, "total_steps=64", "hydra.run.dir=run").status == 0
    extended = trpo_train("resume=run", "total_steps=128")
    assert "algo.learning_rate: its schedule ends at the new total_steps" in extended.err


def test_a_contradiction_is_refused_with_the_differences(trpo_train: Command, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    log = (tmp_path / "run" / "train.log").read_text()
    refused = trpo_train("resume=run", "seed=3", "algo.delta=0.5", "algo=trpo", "total_steps=6400")
    assert refused.status == 1
    assert "  seed: saved 0, given 3\n  algo.delta: saved 0.01, given 0.5\n" in refused.err
    assert "total_steps: " not in refused.err
    other = trpo_train(*SMALL, "hydra.run.dir=run", "resume=auto", "algo=ppo")
    assert "  algo: saved trpo, given ppo" in other.err
    assert "algo.metric" not in other.err
    assert (tmp_path / "run" / "train.log").read_text() == log
    assert trpo_train(*SMALL, "resume=run").status == 0  # what agrees may be said again


def test_one_process_at_a_time(trpo_train: Command, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    with Run(tmp_path / "run"):
        refused = trpo_train("resume=run", "total_steps=6400")
    assert refused.status == 1
    assert f"is being written to by process {os.getpid()} on " in refused.err
    assert trpo_train("resume=run", "total_steps=704").status == 0
    assert not (tmp_path / "run" / ".lock").exists()


def test_code_of_the_users_is_asked_for_again(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_plugin.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert trpo_train(*SMALL, "plugins=[own_plugin]", "hydra.run.dir=run").status == 0
    refused = trpo_train("resume=run", "total_steps=704")
    assert refused.status == 1
    assert "if you trust it, allow it again: plugins=[own_plugin]" in refused.err
    assert trpo_train("resume=run", "total_steps=704", "plugins=[own_plugin]").status == 0


@pytest.mark.parametrize("name", ["metrics.csv", "train.log", "config.yaml", "checkpoints", "tensorboard"])
def test_links_are_not_followed(trpo_train: Command, whole: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(whole, tmp_path / "run")
    outside = tmp_path / "outside"
    (tmp_path / "run" / name).rename(outside)
    (tmp_path / "run" / name).symlink_to(outside)
    before = outside.read_bytes() if outside.is_file() else sorted(outside.iterdir())
    refused = trpo_train("resume=run", "total_steps=6400")
    assert refused.status == 1
    assert f"{name} is a link; for safety, a run" in refused.err
    assert (outside.read_bytes() if outside.is_file() else sorted(outside.iterdir())) == before


def test_what_resume_makes_of_a_command_line(tmp_path: Path) -> None:
    for untouched in (["algo=ppo"], ["resume=null"], ["resume=auto", "hydra.run.dir=x"]):
        assert expand_resume(untouched, multirun=True) == untouched
    for name in ("run", "it's"):
        (tmp_path / name).mkdir()
        choices = "{env: Hopper-v4, algo: ppo, algo/surrogate: clipped}"
        (tmp_path / name / "config.yaml").write_text(f"{{env: {{}}, policy: {{}}, seed: 0, choices: {choices}}}")
    run = [f"resume='{tmp_path}/run'", f"hydra.run.dir='{tmp_path}/run'"]
    said = ["a=1", f"+resume={tmp_path}/run", "algo=ppo", "b.c=1", "algo/surrogate=clipped", "plugins=[d]"]
    assert expand_resume(said) == [*run, "++a=1", "++b.c=1", "plugins=[d]"]
    assert expand_resume([f"resume='{tmp_path}/run'"]) == run
    assert expand_resume([f"resume={tmp_path}/it's"])[0] == rf"resume='{tmp_path}/it\'s'"
    with pytest.raises(ConfigError, match="one run"):
        expand_resume([f"resume={tmp_path}", "seed=1,2"], multirun=True)
    with pytest.raises(ConfigError, match="one value"):
        expand_resume([f"resume={tmp_path}/run", "seed=1,2"])
    with pytest.raises(ConfigError, match="algo: saved ppo, given trpo\n  algo/metric: saved null, given identity"):
        expand_resume([f"resume={tmp_path}/run", "algo=trpo", "algo/metric=identity"])
    with pytest.raises(ConfigError, match="already says where"):
        expand_resume([f"resume={tmp_path}", "hydra.run.dir=elsewhere"])
    with pytest.raises(RunDirectoryError, match="nowhere holds no run"):
        expand_resume([f"resume={tmp_path / 'nowhere'}"])


def test_what_a_new_directory_is_called() -> None:
    command = ["algo=ppo", "seed=1", "resume=auto"]
    assert name_directory(command) == name_directory(["resume=auto", *command[:2], "total_steps=9", "eval.every=0"])
    assert name_directory(command) != name_directory([*command, "algo.gamma=0.9"])
    assert name_directory(command).startswith("auto_")
    assert name_directory(command[:2]) != name_directory(command[:2])  # the time


def test_a_sweep_continues_where_it_began(trpo_train: Command, tmp_path: Path) -> None:
    sweep = ("-m", *SMALL, "total_steps=64", "seed=0,1", "resume=auto")
    assert trpo_train(*sweep).status == 0
    again = trpo_train(*sweep)
    assert again.status == 0
    assert again.out.count("\nfinished  64 ") == 2
    assert len(list(tmp_path.rglob("config.yaml"))) == 2


def test_a_directory_without_a_run_cannot_be_resumed(trpo_train: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused = trpo_train("resume=empty")
    assert refused.status == 1
    assert "empty holds no run" in refused.err
    assert (tmp_path / "empty").exists()


@pytest.mark.parametrize("name", ["a b", "it's", "a=1,b=[x]", "ä{1}", "(x)", "50%"])
def test_directories_of_odd_names(trpo_train: Command, whole: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(whole, tmp_path / name)
    resumed = trpo_train(f"resume={name}", "total_steps=704", "--config-dir", str(tmp_path))
    assert resumed.status == 0, resumed.err
    assert len(rows(tmp_path / name)) == 11


def test_what_is_left_of_a_run_is_not_written_over(trpo_train: Command, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "config.yaml").unlink()
    before = (tmp_path / "run" / "metrics.csv").read_bytes()
    for resume in ("resume=null", "resume=auto"):
        refused = trpo_train(*SMALL, "seed=7", "total_steps=64", "hydra.run.dir=run", resume)
        assert refused.status == 1
        assert "holds metrics.csv and checkpoints of a run, but not its config.yaml" in refused.err
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == before


def test_overrides_are_put_into_the_saved_configuration() -> None:
    node = {"choices": {"algo": "trpo", "algo/step": "fixed"}, "seed": 1, "env": {"kwargs": {"a": 1}}}
    assert (
        find_differences(node, override_saved(node, ["seed=1", "algo=trpo", "++env.kwargs.a=1", "algo/step=fixed"]))
        == {}
    )
    wrong = find_differences(node, override_saved(node, ["seed=2", "env.kwargs={b: 3}", "algo/step=line_search"]))
    assert list(wrong) == ["choices.algo/step", "seed", "env.kwargs.b"]
    for override in ("~seed", "seed=1,2"):
        with pytest.raises(ConfigError, match="one value"):
            override_saved(node, [override])
    for override in ("+sede=1", "++sede=1", "sede.a=1"):
        with pytest.raises(ConfigError, match=r"sede(\.a)?: no such key; did you mean 'seed'\?"):
            override_saved(node, [override])


def test_nan_agrees_with_nan(trpo_train: Command, tmp_path: Path) -> None:
    nan = {"a": float("nan"), "b": [1.0, {"c": float("nan")}]}
    assert find_differences({"env": nan}, {"env": copy.deepcopy(nan) | {"a": float("nan")}}) == {}
    assert list(find_differences(nan, {"a": 1.0, "b": [1.0, {"c": 2.0}]})) == ["a", "b"]
    probe = ("plugins=[probes]", "env=Probe/Faulty-v0", "env.kwargs={after: nan, fault: none}", *SMALL[1:])
    assert trpo_train(*probe, "total_steps=64", "hydra.run.dir=run").status == 0
    assert trpo_train(*probe, "total_steps=128", "resume=run").status == 0
    assert trpo_train(*probe, "total_steps=192", "hydra.run.dir=run", "resume=auto").status == 0
    refused = trpo_train("resume=run", "plugins=[probes]", "env.kwargs.after=3")
    assert "env.kwargs.after: saved nan, given 3" in refused.err


def test_fewer_steps_than_there_are_already_are_refused(trpo_train: Command, part: Path, tmp_path: Path) -> None:
    shutil.copytree(part, tmp_path / "run")
    refused = trpo_train("resume=run", "total_steps=128")
    assert refused.status == 1
    assert "error: total_steps: got 128; run has already taken 320 steps" in refused.err
    assert "total_steps: 640" in (tmp_path / "run" / "config.yaml").read_text()
    assert trpo_train("resume=run", "total_steps=384").status == 0
    assert rows(tmp_path / "run")[-1]["env_steps"] == "384"


@pytest.mark.parametrize("left", [0, 300, 1_500])
def test_rows_that_were_lost_are_missed(trpo_train: Command, part: Path, tmp_path: Path, left: int) -> None:
    shutil.copytree(part, tmp_path / "run")
    path = tmp_path / "run" / "metrics.csv"
    path.write_bytes(path.read_bytes()[:left])
    refused = trpo_train("resume=run")
    assert refused.status == 1
    assert "the run cannot be logged: metrics.csv has lost rows" in refused.err


def test_one_directory_is_no_sweep(trpo_train: Command, tmp_path: Path) -> None:
    assert trpo_train(*SMALL, "total_steps=64", "hydra.run.dir=run").status == 0
    refused = trpo_train("experiment=paper/cartpole", "algo=trpo", "seed=0", "resume=run")
    assert refused.status == 1
    assert "experiment: saved null, given paper/cartpole" in refused.err
    assert "a directory holds one run, but this is a sweep" in trpo_train("-m", "seed=0,1", "resume=run").err
    assert "error: resume: is empty; it takes a run directory, auto, or null" in trpo_train("resume=").err


def test_keys_of_another_algorithm_than_the_default_compose(trpo_train: Command, tmp_path: Path) -> None:
    """What else is said need not name the algorithm again, nor a directory of options, and may agree or not."""
    (tmp_path / "mine" / "algo").mkdir(parents=True)
    (tmp_path / "mine" / "algo" / "quick.yaml").write_text("defaults: [ppo, _self_]\nepochs: 2\n")
    begun = trpo_train(*SMALL, "--config-dir", "mine", "algo=quick", "total_steps=64", "hydra.run.dir=run")
    assert begun.status == 0, begun.err
    resumed = trpo_train("resume=run", "algo.epochs=2", "algo=quick", "total_steps=128")
    assert resumed.status == 0, resumed.err
    refused = trpo_train("resume=run", "algo.epochs=9", "total_steps=192")
    assert "algo.epochs: saved 2, given 9" in refused.err
    assert "algo.epohcs: no such key; did you mean 'algo.epochs'?" in trpo_train("resume=run", "algo.epohcs=9").err


def test_directories_are_named_as_a_shell_takes_them(trpo_train: Command, tmp_path: Path) -> None:
    done = trpo_train(*SMALL, "total_steps=64", "hydra.run.dir='a run, mine'")
    assert "trpo-eval 'a run, mine'" in done.out
    assert "trpo-train 'resume=a run, mine' total_steps=128" in trpo_train("resume=a run, mine").out
