"""Shared by the tests: composed configurations, built parts, and the real commands run in this process."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import math
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from trpo_cli import evaluate, export, report, train
from trpo_cli.cli.command_line import allow_new_keys, read
from trpo_cli.cli.search_path import search_everywhere
from trpo_cli.config.groups import CONF
from trpo_cli.data import ObservationSpec
from trpo_cli.parts import LEARNING, Parts
from trpo_cli.parts.building import build_parts, root_settings
from trpo_cli.report import figures
from trpo_cli.run.logger import Logger
from trpo_cli.threads import limit_threads

TESTS = Path(__file__).parent
NO_MEMORY = np.empty((0, 0), dtype=np.float32)  # of a policy that keeps nothing from step to step
limit_threads()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts in the background ignore it
# The commands are found by their names, as where `.venv/bin/activate` was sourced.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@dataclass(frozen=True)
class Finished:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


Command = Callable[..., Finished]


def vectors(size: int, num_states: int | None = None) -> ObservationSpec:
    """The observations of an environment that shows vectors of numbers, or the states of a finite set."""
    return ObservationSpec((size,), np.dtype(np.float64), num_states)


def composed(*overrides: str, options: Sequence[str] = ()) -> dict[str, Any]:
    """The resolved configuration of these overrides, without Hydra's own node."""
    return copy.deepcopy(_composed(overrides, tuple(options)))


@functools.cache
def _composed(overrides: tuple[str, ...], options: tuple[str, ...]) -> dict[str, Any]:
    with search_everywhere(read(options)), initialize_config_dir(str(CONF), version_base="1.3"):
        node: Any = OmegaConf.to_container(compose("train", allow_new_keys(overrides)), resolve=True)
    return node


def built(*overrides: str) -> Parts:
    """The parts of a run with these overrides."""
    node = composed(*overrides)
    return build_parts(node, root_settings(node))


def learned(*overrides: str) -> dict[str, Any]:
    """All that two iterations on Hopper-v4 learn."""
    parts = built("env=Hopper-v4", "sampler.num_envs=6", "sampler.steps_per_iteration=192", *overrides)
    for progress in (0.0, 0.5):
        parts.iterate(progress)
    state = parts.state_dict()
    parts.close()
    return {name: state[name] for name in LEARNING}


def thinned(every: int, *groups: Iterable[str | tuple[str, ...]]) -> list[Any]:
    """All choices from these groups: each `every`-th for the fast tests, the others for the slow ones.

    Of several groups every member has its turn, since `every` may have no divisor in common with their sizes.
    """
    slow = pytest.mark.slow
    members = [list(group) for group in groups]
    if len(groups) > 1 and any(math.gcd(every, len(group)) > 1 for group in members):
        raise ValueError(f"every {every} would always choose the same of {[len(group) for group in members]}")
    return [
        pytest.param(
            *choice,
            id="-".join(member if isinstance(member, str) else " ".join(member) for member in choice),
            marks=[slow] if number % every else [],
        )
        for number, choice in enumerate(itertools.product(*members))
    ]


def small(*overrides: str) -> tuple[str, ...]:
    """The overrides, and others that make an iteration of whatever they chose a matter of milliseconds."""
    match _composed(tuple(word for word in overrides if word.startswith(("algo=", "sampler="))), ()):
        case {"sampler": {"steps_per_iteration": _, "num_states": _}}:
            less = ("sampler.num_envs=2", "sampler.steps_per_iteration=128", "sampler.num_states=4")
            less = (*less, "sampler.actions_per_state=2", "sampler.branch_length=4")
        case {"sampler": {"steps_per_iteration": _}}:
            less = ("sampler.num_envs=2", "sampler.steps_per_iteration=64")
        case {"sampler": {"episodes_per_candidate": _}, "algo": {"population_size": _}}:
            less = ("sampler.num_envs=2", "algo.population_size=8")
        case {"sampler": {"episodes_per_candidate": _}, "algo": {"directions": _}}:
            less = ("sampler.num_envs=2", "algo.directions=4")
        case _:
            less = ()
    return (*overrides, *less)


def _command(main: Callable[[], None], name: str, monkeypatch: Any, capsys: Any, directory: Path) -> Command:
    def run(*arguments: str) -> Finished:
        monkeypatch.chdir(directory)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        capsys.readouterr()
        status: Any = 0
        message = ""
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
            message = end.code if isinstance(end.code, str) else ""
        out, err = capsys.readouterr()
        return Finished(status, out, err + message)

    return run


def trained(directory: Path, *arguments: str, status: int = 0) -> Path:
    """The run that `trpo-train ARGUMENTS` makes in `directory`, for a fixture that several tests share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setattr(sys, "argv", ["trpo-train", *arguments, "hydra.run.dir=run"])
        try:
            train.main()
            ended: Any = 0
        except SystemExit as end:
            ended = end.code
    assert (ended or 0) == status
    return directory / "run"


@pytest.fixture
def trpo_train(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run `trpo-train ARGUMENTS` in `tmp_path`."""
    return _command(train.main, "trpo-train", monkeypatch, capsys, tmp_path)


@pytest.fixture
def trpo_eval(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run `trpo-eval ARGUMENTS` in `tmp_path`."""
    return _command(evaluate.main, "trpo-eval", monkeypatch, capsys, tmp_path)


@pytest.fixture
def trpo_export(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run `trpo-export ARGUMENTS` in `tmp_path`."""
    return _command(export.main, "trpo-export", monkeypatch, capsys, tmp_path)


@pytest.fixture
def trpo_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run `trpo-report ARGUMENTS` in `tmp_path`."""
    return _command(report.main, "trpo-report", monkeypatch, capsys, tmp_path)


@pytest.fixture
def trpo_tables(trpo_report: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `trpo-report ARGUMENTS` without its figures, which take most of the time; those of `trpo-train` go too."""
    monkeypatch.setattr(figures, "draw_panels", lambda *_: None)
    monkeypatch.setattr(figures, "render", lambda figure, kind: b"")
    return trpo_report


def quiet_make(env_id: str, **kwargs: Any) -> Any:
    """`gymnasium.make`, without the news that a version is old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return gymnasium.make(env_id, disable_env_checker=True, **kwargs)


@contextlib.contextmanager
def small_disk(size: int) -> Iterator[None]:
    """A disk on which no file grows beyond so many bytes; Python ignores the signal that says so."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def after_rows(monkeypatch: pytest.MonkeyPatch, count: int, happens: Callable[[], object]) -> None:
    """Have something happen once a run has written so many rows."""
    write, seen = Logger.write, itertools.count(1)

    def writing(self: Logger, env_steps: int, metrics: Any) -> None:
        write(self, env_steps, metrics)
        if next(seen) == count:
            happens()

    monkeypatch.setattr(Logger, "write", writing)
