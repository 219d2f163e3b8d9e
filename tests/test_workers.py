"""Worker processes that die, hang or raise: faults with names, and nobody left behind."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import probes  # noqa: F401  registers the probe environments
import pytest
from conftest import built

from trpo_cli.envs import workers as parent
from trpo_cli.envs.environments import Environments
from trpo_cli.envs.failure import Failure
from trpo_cli.envs.make import Parallelism, Task
from trpo_cli.errors import ConfigError, EnvironmentFault

ONE, TWO = np.zeros((2, 1), dtype=np.int64), np.array([True, True])
SCRIPT = """
import os, signal, sys
import numpy as np, probes
from trpo_cli.envs.environments import Environments
from trpo_cli.envs.make import Parallelism, Task

def main(seconds):
    task = Task("Probe/Slow-v0", {"seconds": seconds}, None, False, False, 10.0, 10.0)
    envs = Environments(task, 2, [0, 1], Parallelism("async"))
    print(*(process.pid for process in envs._envs._processes), flush=True)
    return envs

if __name__ == "__main__":
"""


def workers(env_id: str, timeout: float = 30.0, **kwargs: Any) -> Environments:
    task = Task(env_id, kwargs, None, False, False, 10.0, 10.0, timeout)
    return Environments(task, 2, [0, 1], Parallelism("async"))


def pids(envs: Environments) -> list[int]:
    return [process.pid for process in envs._envs._processes]


def gone(numbers: Iterable[int], seconds: float = 10.0) -> bool:
    """Whether the processes have ended, or do soon."""
    deadline = time.monotonic() + seconds
    while any(running(number) for number in numbers):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def running(number: int) -> bool:
    status = Path(f"/proc/{number}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def play(envs: Environments, episodes: int) -> None:
    """Episodes of one step."""
    for _ in range(episodes):
        envs.step(ONE)
        envs.restart(TWO)


def sleep_long(seconds: float, rows: range) -> Any:
    time.sleep(seconds)


def goes_on(envs: Environments) -> None:
    """After `rebuild`, in other processes."""
    before = pids(envs)
    envs.rebuild([3, 4])
    assert gone(before)
    play(envs, 3)
    now = pids(envs)
    envs.close()
    assert gone(now)


@pytest.mark.parametrize("when", ["step", "reset", "save"])
def test_a_killed_worker_is_named(when: str) -> None:
    envs = workers("Probe/Constant-v0")
    envs.step(ONE)
    os.kill(pids(envs)[1], signal.SIGKILL)
    asked = {"step": lambda: envs.step(ONE), "reset": lambda: envs.restart(TWO), "save": envs.state_dict}
    step = 2 if when == "step" else 1
    with pytest.raises(
        EnvironmentFault, match=f"^Probe/Constant-v0: worker process 1 was killed by signal 9 at step {step}$"
    ):
        asked[when]()
    goes_on(envs)


def test_a_worker_that_hangs_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    envs = workers("Probe/Slow-v0", timeout=0.3, seconds=1000.0)
    start = time.monotonic()
    with pytest.raises(
        EnvironmentFault, match=r"^Probe/Slow-v0: worker process 0 gave no answer within 0.3 s at step 1$"
    ):
        envs.step(ONE)
    hung = pids(envs)
    envs.close()
    assert time.monotonic() - start < 10
    assert gone(hung, seconds=1)
    assert capfd.readouterr() == ("", "")


def test_a_worker_that_never_starts_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parent, "START", 0.3)
    before = set(multiprocessing.active_children())
    endless, env = functools.partial(sleep_long, 1000.0), gymnasium.make("Probe/Constant-v0")
    with pytest.raises(Failure) as failure:
        parent.Workers(endless, (env.observation_space, env.action_space), [0, 1], timeout=30.0, count=None)
    assert failure.value.summary == ": worker process 0 did not make its environment within 0.3 s"
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raise", r"^Probe/Faulty-v0 raised at step 3 of environment 0: RuntimeError: the simulator fell over$"),
        ("reset", r"^Probe/Faulty-v0 raised in a reset at step 3 of environment 0: Unsendable: the door is stuck$"),
        ("reward", r"^Probe/Faulty-v0: reward is not finite at step 3 of environment 0: nan$"),
        ("huge reward", r"^Probe/Faulty-v0: reward is not finite at step 3 of environment 0: 1e\+39$"),
        ("observation", r"^Probe/Faulty-v0: observation is not finite at step 3 of environment 0: \[inf\]$"),
    ],
)
def test_what_an_environment_does_wrong_is_a_fault(
    fault: str, said: str, vectorization: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    task = Task("Probe/Faulty-v0", {"fault": fault, "after": 2}, None, False, False, 10.0, 10.0)
    envs = Environments(task, 2, [0, 1], Parallelism(vectorization))
    with pytest.raises(EnvironmentFault, match=said):
        play(envs, 3)
    envs.rebuild([0, 1])
    envs.step(ONE)
    envs.close()
    envs.close()
    assert capfd.readouterr() == ("", "")


def test_no_time_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"env.step_timeout: got 0"):
        built("env=CartPole-v1", "env.step_timeout=0")


def test_where_a_worker_raised_is_told_to_the_log() -> None:
    envs = workers("Probe/Faulty-v0", fault="raise", after=0)
    with pytest.raises(EnvironmentFault) as fault:
        envs.step(ONE)
    assert "probes.py" in "".join(fault.value.__cause__.__notes__)  # type: ignore[union-attr]
    envs.close()


def test_an_environment_that_no_worker_can_make_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task("Probe/Slow-v0", {"seconds": 0.0}, None, False, False, 10.0, 10.0)
    made: list[Any] = []
    make_one = Task.make_one

    def spoiled(self: Task, spec: Any = None) -> Any:
        env = make_one(self, spec)
        made.append(env)
        self.kwargs.update(no_such="argument")
        return env

    monkeypatch.setattr(Task, "make_one", spoiled)
    with pytest.raises(ConfigError, match="no such argument"):
        Environments(task, 2, [0, 1], Parallelism("async"))


def script(body: str, **environment: str) -> subprocess.Popen[str]:
    """A program of its own, in a process group of its own, that does `body`."""
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    path = f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT + lines],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )


def started(process: subprocess.Popen[str]) -> list[int]:
    assert process.stdout is not None
    return [int(word) for word in process.stdout.readline().split()]


@pytest.mark.parametrize("short", [True, False])
def test_a_long_name_of_the_temporary_folder(tmp_path: Path, short: bool) -> None:
    """The paths of sockets are short: only multiprocessing keeps out of it, and all is tidied up."""
    long = tmp_path / ("long" * 30)
    long.mkdir()
    place = "/tmp" if short else str(tmp_path / "nowhere")
    body = f"""
import tempfile
from trpo_cli.envs import workers
from trpo_cli.errors import ConfigError
workers.SHORT_FOLDER = {place!r}
try:
    main(0.0).close()
except ConfigError as error:
    print(error)
print(tempfile.gettempdir())
"""
    process = script(body, TMPDIR=str(long))
    out, err = process.communicate(timeout=60)
    assert err == ""
    first, folder = out.splitlines()
    assert folder == str(long)
    if short:
        assert len(first.split()) == 2  # workers
    else:
        assert first == (
            f"sampler.vectorization: TMPDIR={long} is too long for the sockets of worker processes, and {place} "
            "is not writable: No such file or directory; set a shorter TMPDIR, or use sync"
        )


@pytest.mark.parametrize("seconds", [pytest.param(0.0, marks=pytest.mark.slow), 1000.0])
def test_a_killed_program_leaves_no_worker(seconds: float) -> None:
    """Neither waiting ones nor busy ones."""
    process = script(
        f"envs = main({seconds})\nwhile True: envs.step(np.zeros((2, 1), dtype=int)); envs.restart(np.ones(2, bool))"
    )
    numbers = started(process)
    assert len(numbers) == 2
    time.sleep(0.3)
    process.kill()
    _, err = process.communicate(timeout=20)
    assert gone(numbers)
    assert err == ""


def test_a_program_that_forgets_its_workers_ends() -> None:
    process = script("envs = main(0.0)\nraise SystemExit(3)")
    numbers = started(process)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 3
    assert err == ""
    assert gone(numbers)


def test_a_signal_to_all_is_for_the_first_alone() -> None:
    """Workers go on with what they do, and end when they are told to."""
    body = """
signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
heard = []
for number in signals: signal.signal(number, lambda number, frame: heard.append(number))
envs = main(0.0)
sys.stdin.readline()
for _ in range(3):
    envs.step(np.zeros((2, 1), dtype=int)); envs.restart(np.ones(2, bool))
envs.rebuild([0, 1])
envs.step(np.zeros((2, 1), dtype=int))
envs.close()
print(sorted(heard) == sorted(signals))
"""
    process = script(body)
    numbers = started(process)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
        os.killpg(process.pid, number)
    out, err = process.communicate("go\n", timeout=30)
    assert (process.returncode, out, err) == (0, "True\n", "")
    assert gone(numbers)
