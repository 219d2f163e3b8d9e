"""Interrupt real sweeps as a terminal or a scheduler does, at random instants; go on as they say; compare.

`python tests/interrupt.py` does it under every launcher that runs on one machine, a hundred times in all, and prints a
table. An interrupted sweep ends with the status of the signal and the command that goes on, or it had just come to its
end, or nothing was begun yet. That command is run, and interrupted in its turn, until the sweep is finished; then each
of its runs must be that of a sweep that nobody interrupted, bit for bit.
"""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import kill
from comparison import assert_same_run

from trpo_cli.run.layout import METRICS, SUMMARY, SWEEP
from trpo_cli.run.lock import LOCK, is_held

TASK = ("-m", "env=CartPole-v1", "total_steps=6144", "checkpoint.every=2", "eval.every=0", "sweep.report=true")
TASK = (*TASK, "sampler.num_envs=8", "sampler.steps_per_iteration=256", "sampler.num_threads=1")
GRID, SEARCH = ("seed=0,1,2",), ("hydra/sweeper=optuna", "algo.delta=interval(0.005,0.02)", "hydra.sweeper.n_trials=2")
SEARCH = (*SEARCH, "hydra.sweeper.seeds=[0,1]")
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
CASES: dict[str, tuple[str, ...]] = {
    "basic": (*TASK, *GRID),
    "joblib": (*TASK, *GRID, *JOBLIB),
    "submitit_local": (*TASK, *GRID, "hydra/launcher=submitit_local"),
    "optuna, basic": (*TASK, *SEARCH),
    "optuna, joblib": (*TASK, *SEARCH, *JOBLIB, "hydra.sweeper.seeds_at_once=2"),
}
INTERRUPTS = 20  # of each case
SENT = (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ROWS = 24  # of a job; as many lines, with the header, has it before the last of them
LIMIT = 120.0  # seconds that a sweep may take to stop
REPORT = 4.0  # seconds that its report takes


class Interrupt(NamedTuple):
    """When one came, and what it came to."""

    instant: str
    by: signal.Signals
    status: int


def started(words: Sequence[str], folder: Path, **streams: int) -> subprocess.Popen[bytes]:
    """The command in a process group of its own, as from a terminal, though these tests may run under nohup."""
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "cwd": folder, "start_new_session": True, **streams}
    return kill.command(*words, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL), **options)


def instant(sweep: Path) -> str:
    """What the sweep is at, as far as its files tell."""
    if any(is_held(lock) for lock in sweep.glob(f"*/{LOCK}")):
        return "in a job"
    if not list(sweep.glob(f"*/{METRICS}")):
        return "before the first job"
    known = json.loads((sweep / SWEEP).read_text())["jobs"]
    ended = all((sweep / job["directory"] / SUMMARY).exists() for job in known)
    return "when all jobs had ended" if ended else "between jobs"


def wait(process: subprocess.Popen[bytes], sweep: Path, span: float, jobs: int, chance: random.Random) -> None:
    """Up to a random instant: any of all, or about when one of its jobs ends, or after the last one."""
    while process.poll() is None and not hears(process):
        time.sleep(0.001)
    kind, before = chance.random(), ending(sweep)
    number = jobs if kind > 0.85 else min(jobs, before + chance.randrange(1, jobs + 1))
    if kind < 0.4:
        time.sleep(chance.uniform(0, span))
        return
    while ending(sweep) < number and process.poll() is None:
        time.sleep(0.001)
    time.sleep(chance.uniform(0, REPORT if kind > 0.85 else 0.1))


def hears(process: subprocess.Popen[bytes]) -> bool:
    """Whether the command has begun: before, signals come to an interpreter that has not read a line of it."""
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return bool(caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def ending(sweep: Path) -> int:
    """How many jobs have written all but their last row."""
    return sum(path.read_bytes().count(b"\n") >= ROWS for path in sweep.glob(f"*/{METRICS}"))


def interrupted(process: subprocess.Popen[bytes], sweep: Path, by: signal.Signals) -> tuple[Interrupt, str]:
    """Send the signal: SIGTERM to the command alone, others to all that it has started, as a terminal does.

    Returns what it came to, and what was printed. Raises `RuntimeError` if that is no good end.
    """
    at = instant(sweep) if process.poll() is None else "after its end"
    if process.poll() is None:
        (os.kill if by == signal.SIGTERM else os.killpg)(process.pid, by)
    out, errors = (text.decode() for text in process.communicate(timeout=LIMIT))
    at = "before it began" if process.returncode and not out else at
    found = Interrupt(at, by, process.returncode)
    told = f"{found}: {out[-1500:]}\n{errors[-1500:]}"
    if process.returncode not in (0, 128 + by) or "Traceback" in errors:
        raise RuntimeError(f"no good end: {told}")
    if process.returncode and f"stopped by {by.name}" not in out + errors:
        raise RuntimeError(f"nothing was said: {told}")
    if process.returncode and out and "before the sweep began" not in out and "sweep.resume=" not in out:
        raise RuntimeError(f"it was not said how to go on: {told}")
    return found, out


def harried(name: str, folder: Path, count: int, span: float, jobs: int, chance: random.Random) -> list[Interrupt]:
    """A sweep in `folder` that is interrupted so many times at most, and then let end."""
    words: Sequence[str] = (*CASES[name], "hydra.sweep.dir=sweep")
    found: list[Interrupt] = []
    while len(found) < count:
        process = started(words, folder)
        wait(process, folder / "sweep", span, jobs, chance)
        interrupt, out = interrupted(process, folder / "sweep", chance.choice(SENT))
        found += [interrupt] if interrupt.instant != "after its end" else []
        if interrupt.status == 0:
            return found
        words = shlex.split(out.splitlines()[-1])[1:] if "sweep.resume=" in out else words
    status, errors = kill.ended(started(words, folder))
    if status:
        raise RuntimeError(f"it did not go on: {status}: {errors}")
    return found


def case(name: str, count: int, folder: Path, seed: int) -> list[Interrupt]:
    """One case: a whole sweep, interrupted ones, and the comparison. Raises `AssertionError` if they differ."""
    whole, parts = folder / "whole", folder / "parts"
    for place in (whole, parts):
        place.mkdir()
    begun = time.monotonic()
    status, errors = kill.ended(started((*CASES[name], "hydra.sweep.dir=sweep"), whole))
    assert status == 0, errors
    span = time.monotonic() - begun
    names = sorted(path.parent.name for path in whole.glob(f"sweep/*/{SUMMARY}"))
    chance, found = random.Random(f"{name} {seed}"), list[Interrupt]()
    while len(found) < count:  # a sweep may come to its end before it was interrupted so often
        shutil.rmtree(parts)
        parts.mkdir()
        found += harried(name, parts, min(4, count - len(found)), span, len(names), chance)
        assert sorted(path.parent.name for path in parts.glob(f"sweep/*/{SUMMARY}")) == names
        for job in names:
            assert_same_run(whole / "sweep" / job, parts / "sweep" / job)
    return found


def described(found: Sequence[Interrupt]) -> str:
    """How many came when, and what became of them."""
    count = Counter((each.instant, each.status) for each in found)
    return "; ".join(f"{instant}: {number} x {status}" for (instant, status), number in sorted(count.items()))


if __name__ == "__main__":
    kill.table(__doc__, CASES, INTERRUPTS, "interrupts", lambda *given: (len(found := case(*given)), described(found)))
