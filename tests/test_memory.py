"""What does not fit into memory: refused before any work, or told in a sentence, with the keys that decide it."""

from __future__ import annotations

import functools
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import probes  # noqa: F401  registers the probe environments
import pytest
import torch
from conftest import Command, built
from gymnasium import spaces

from trpo_cli import memory
from trpo_cli.algos.trust_region import TrustRegion
from trpo_cli.envs.make import Task
from trpo_cli.errors import ConfigError, TrainingError
from trpo_cli.memory import explain_out_of_memory, refuse_oversized_batch, total_memory

CARTPOLE = ("env=CartPole-v1", "sampler.num_envs=2", "sampler.vectorization=sync", "eval.every=0")
HUGE = 10**15  # elements


def test_a_batch_that_can_never_fit_is_refused(trpo_train: Command, tmp_path: Path) -> None:
    refused = trpo_train(*CARTPOLE, f"sampler.steps_per_iteration={HUGE}", f"total_steps={HUGE}", "hydra.run.dir=run")
    assert refused.status == 1
    assert refused.err.startswith(f"error: sampler.steps_per_iteration: a batch of {HUGE:,} steps takes ")
    assert refused.err.count("\n") < 2
    assert not (tmp_path / "run").exists()


def test_so_is_one_of_a_vine() -> None:
    with pytest.raises(ConfigError, match=r"sampler\.steps_per_iteration: .* at least .* GiB"):
        built(*CARTPOLE, "sampler=vine", f"sampler.steps_per_iteration={HUGE}")


def test_what_is_refused_takes_more_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "total_memory", lambda: 5.0 * 2**30)
    refuse_oversized_batch(5 * 2**20, 1024)
    with pytest.raises(ConfigError, match=r"6,291,456 steps takes at least 6 GiB, .* has 5\.0 GiB; 1,000,000 or fewer"):
        refuse_oversized_batch(6 * 2**20, 1024)


LARGE = 10**9
NESTED: Any = functools.reduce(lambda inner, _: spaces.Dict(a=inner), range(500), spaces.Discrete(2))


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (
            spaces.Discrete(LARGE),
            f"env.id: the observations have {LARGE:,} numbers; a layer of 64 units that reads them",
        ),
        (spaces.Dict(a=spaces.Discrete(3), b=spaces.Discrete(LARGE)), "env.id: with entry 'b' the observations have "),
        (spaces.MultiDiscrete([2**62] * 4), f"the observations have {2**64:,} numbers"),
        (spaces.Dict(a=spaces.MultiDiscrete([2**62] * 4)), f"with entry 'a' the observations have {2**64:,} numbers"),
        (NESTED, "env.id: the observations are nested more than 50 levels deep"),
    ],
)
def test_observations_that_no_network_can_hold_are_refused(
    space: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "total_memory", lambda: 20.0 * 2**30)
    with pytest.raises(ConfigError, match=re.escape(said)):
        Task("Probe/Careless-v0", {"space": space}, None, False, False, 10.0, 10.0).make([0])


def test_so_is_a_stack_of_them() -> None:
    with pytest.raises(
        ConfigError, match=r"env\.stack: the stacked observations have 4,0.* numbers; a layer of 64 units"
    ):
        built(*CARTPOLE, "env.stack=1e30")


@pytest.mark.parametrize(
    ("limits", "whole"),
    [(None, 3 * 1024), (("1000", "24"), 1024), (("1000", "max"), 3 * 1024), (("max", "0"), 3 * 1024)],
)
def test_how_much_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: tuple[str, str] | None, whole: float
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:   2 kB\nMemFree:   7 kB\nSwapTotal:   1 kB\n")
    for name, limit in zip(("max", "swap.max"), limits or (), strict=False):
        (tmp_path / f"memory.{name}").write_text(f"{limit}\n")
    monkeypatch.setattr(memory, "MACHINE_FILE", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CONTAINER_FOLDER", tmp_path)
    assert total_memory() == whole
    monkeypatch.setattr(memory, "MACHINE_FILE", tmp_path / "nowhere")
    assert total_memory() == (whole if whole == 1024 else np.inf)


@pytest.mark.parametrize("ask", [lambda: np.empty(HUGE), lambda: torch.empty(HUGE)])
def test_an_update_without_memory_is_an_error_of_two_lines(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Any
) -> None:
    monkeypatch.setattr(TrustRegion, "update", lambda *arguments: ask())
    done = trpo_train(*CARTPOLE, "sampler.steps_per_iteration=64", "total_steps=64", "hydra.run.dir=run")
    assert done.status == 1
    assert done.err.splitlines()[-2].startswith("error: out of memory: ")
    assert done.err.splitlines()[-1].startswith("reduce sampler.steps_per_iteration, ")
    assert "ended early: out of memory" in (tmp_path / "run" / "train.log").read_text()


def test_networks_without_memory_are_an_error(trpo_train: Command) -> None:
    sizes = "policy.hidden_sizes=[10_000_000,1_000_000]"
    for sweep in ((), ("-m", "seed=0,1")):
        done = trpo_train(*CARTPOLE, sizes, *sweep)
        assert done.status == 1
        assert "error: out of memory: DefaultCPUAllocator" in done.err
        assert "Traceback" not in done.err


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), explain_out_of_memory():
        raise RuntimeError("shapes differ")
    with pytest.raises(TrainingError, match="out of memory: CUDA out of memory"), explain_out_of_memory():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")
    with pytest.raises(TrainingError, match=r"^out of memory\n"), explain_out_of_memory():
        raise MemoryError


FAULTS = """
import resource, torch, trpo_cli.memory
%s
torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_large_tensors_reuse_memory_that_was_freed() -> None:
    """In a process of its own, since a failed request, as in other tests, changes where a thread gets its memory."""
    faults = [
        int(subprocess.check_output([sys.executable, "-c", FAULTS % call]))
        for call in ("", "trpo_cli.memory.keep_freed_memory()")
    ]
    assert faults[1] < faults[0] / 2
