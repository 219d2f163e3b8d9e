"""Kill the real command with SIGKILL, at random instants and inside the save; resume it; compare with a whole run.

`python tests/kill.py` does it over all tasks below, and prints a table. A run under test is started as `trpo-train ...
resume=auto`, again and again, until it has come to its end; then its parameters, optimisers, statistics, generators,
simulators, rows and TensorBoard scalars must be those of a run that nobody killed, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from comparison import assert_same_run
from launched import finish, launch

TESTS = Path(__file__).parent
COMMON = ("eval.every=0", "checkpoint.every=2", "sampler.num_threads=1")
TRPO = (*COMMON, "sampler.num_envs=8", "sampler.steps_per_iteration=256")
HIDDEN = ("env=CartPole-v1", "env.hide=[1,3]", *TRPO)  # without velocities
SEQUENCES = ("critic=shared", "sampler.sequence_length=8", "sampler.burn_in=3")
EXACT, SEARCH = ("total_steps=20_000", "checkpoint.every=5"), (*COMMON, "algo.population_size=8")
VINE = (*COMMON, "sampler.num_envs=8", "sampler.num_states=4", "sampler.branch_length=20")
VINE = (*VINE, "sampler.steps_per_iteration=1024")
REMEMBERED = ("sampler=vine", "critic=gru", "critic.minibatch_size=88", "sampler.steps_per_iteration=1024")
REMEMBERED = (*REMEMBERED, "total_steps=100_000")
CHANCE = ("plugins=[probes]", "env=Probe/Chance-v0", "total_steps=20_000", *TRPO, "eval.episodes=2")
CHANCE = (*CHANCE, "algo.max_rejected=1000")  # it converges
EARLY = ("env=CartPole-v1", "total_steps=120_000", "checkpoint.best=eval", "stop.patience=12")
TUNED = ("env=Hopper-v4", "algo=ppo", "total_steps=30_000", f"init_from={TESTS / 'old_runs' / 'trpo'}")
TUNED = (*TUNED, "policy.hidden_sizes=[4]", "critic.hidden_sizes=[4]", "checkpoint.best=train")
RECORDED = "sampler.path=record"  # in the folder of the case
BEGUN = "init_from=origin"  # a run of the first rows of the case itself, in its folder
ALL = ("plugins=[probes]", "env=Probe/Several-v0", "policy=multi_input", "critic=multi_input", "algo.max_rejected=1000")
ALL = (*ALL, "env.normalize_observation=true", "env.normalize_reward=true", "env.stack=2", "env.log_info=[agreed]")
ALL = (*ALL, "env.wrappers=[{probes.Remembering:{k:3}},{StickyAction:{repeat_action_probability:0.2}}]", BEGUN)
ALL = (*ALL, "algo.schedule.delta=[step,[0.3,0.02],[0.6,0.005]]", "checkpoint.best=eval", "total_steps=20_000", *TRPO)
MOVING = ("algo=ppo", "algo.schedule.gamma=[linear,0.9]", "algo.surrogate.schedule.clip=[step,[0.5,0.1]]")
MOVING = ("env=Hopper-v4", *MOVING, "critic.schedule.learning_rate=cosine", "total_steps=30_000", *TRPO)
BONUS = ("algo.entropy_coefficient=0.02", "algo.schedule.entropy_coefficient=linear", "algo.max_rejected=1000")
SEEN = ("plugins=[probes]", "env=Probe/Bar-v0", "total_steps=20_000", *TRPO, "algo.max_rejected=1000")
SEEN = (*SEEN, "policy=cnn", "policy.convolutions=[[8,4,2],[8,3,1]]", "policy.hidden_sizes=[16]")
GAMES = ("sampler.num_envs=4", "sampler.steps_per_iteration=128", "checkpoint.every=1", "eval.every=0")
GAMES = (*GAMES, "policy.hidden_sizes=[8]", "env.resize=[52,40]", "total_steps=4_000")
PONG = ("env=ALE/Pong-v5", "critic.hidden_sizes=[8]", "sampler.num_threads=2")
GAME_VINE = (*GAMES, "sampler.num_states=2", "sampler.branch_length=10", "sampler.actions_per_state=all")
CASES: dict[str, tuple[str, ...]] = {
    "convolutions trpo": (*SEEN, "critic=cnn", "critic.convolutions=[[4,4,2]]", "critic.hidden_sizes=[16]"),
    "convolutions ppo, shared": (*SEEN, "algo=ppo", "critic=shared"),
    "Hopper-v4 trpo": ("env=Hopper-v4", "algo=trpo", "total_steps=60_000", *TRPO),
    "Walker2d-v4 npg": ("env=Walker2d-v4", "algo=npg", "total_steps=50_000", *TRPO),
    "Ant-v4 trpo": ("env=Ant-v4", "algo=trpo", "total_steps=30_000", *TRPO),
    "Ant-v5 ppo": ("env=Ant-v5", "algo=ppo", "total_steps=20_000", *TRPO),
    "Humanoid-v4 trpo": ("env=Humanoid-v4", "algo=trpo", "total_steps=40_000", *TRPO),
    "Ant-v4 vpg, plain Gymnasium": (
        "env=Ant-v4",
        "algo=vpg",
        "total_steps=40_000",
        "sampler.vectorization=sync",
        *TRPO,
    ),
    "Pendulum-v1 trpo, worker processes": (
        "env=Pendulum-v1",
        "total_steps=30_000",
        "sampler.vectorization=async",
        *TRPO,
    ),
    "Pendulum-v1 trpo, wrappers and a stack": (
        "env=Pendulum-v1",
        "env.wrappers=[{DelayObservation:{delay:1}},{StickyAction:{repeat_action_probability:0.2}}]",
        "env.hide=[-1]",
        "env.stack=3",
        "total_steps=30_000",
        *TRPO,
    ),
    "noise of global generators, in turn": (*CHANCE, "sampler.vectorization=sync", "eval.every=2048"),
    "noise of global generators, worker processes": (*CHANCE, "sampler.vectorization=async"),
    "several entries, each with an encoder, worker processes": (
        "plugins=[probes]",
        "env=Probe/Several-v0",
        "env.normalize_observation=true",
        "policy=multi_input",
        "critic=multi_input",
        "sampler.vectorization=async",
        "algo.max_rejected=1000",
        "total_steps=20_000",
        *TRPO,
    ),
    "CartPole-v1 trpo": ("env=CartPole-v1", "algo=trpo", "total_steps=120_000", *TRPO),
    "Hopper-v4 trpo, numbers from infos": (
        "env=Hopper-v4",
        "env.log_info=[x_position,x_velocity]",
        "total_steps=30_000",
        *TRPO,
    ),
    "CartPole-v1 ppo": ("env=CartPole-v1", "algo=ppo", "total_steps=60_000", *TRPO),
    "FrozenLake-v1 trpo": ("env=FrozenLake-v1", "total_steps=150_000", "algo.max_rejected=1000", *TRPO),  # it converges
    "CartPole-v1 trpo, the best and an early end": (*EARLY, *TRPO, "eval.every=1024", "eval.episodes=2"),
    "Hopper-v4 ppo that begins from another run": (*TUNED, *TRPO),
    "several entries and all that may be added to them": (*ALL, "eval.every=1024", "eval.episodes=2"),
    "Hopper-v4 ppo, schedules": MOVING,
    "ALE/Pong-v5 trpo, sticky, worker processes": (*PONG, *GAMES),
    "QbertNoFrameskip-v4 ppo": ("env=QbertNoFrameskip-v4", "algo=ppo", "sampler.num_threads=1", *GAMES),
    "BreakoutNoFrameskip-v4 vine, worker processes": (
        "env=BreakoutNoFrameskip-v4",
        "sampler=vine",
        "sampler.num_threads=2",
        *GAME_VINE,
    ),
    "CartPole-v1 trpo, gru": (*HIDDEN, "policy=gru", "total_steps=60_000"),
    "CartPole-v1 ppo, lstm shared, sequences": (*HIDDEN, "algo=ppo", "policy=lstm", *SEQUENCES, "total_steps=40_000"),
    "CartPole-v1 vine, gru": ("env=CartPole-v1", "env.hide=[1,3]", "policy=gru", *VINE[:-1], *REMEMBERED),
    "CartPole-v1 vine": ("env=CartPole-v1", "sampler=vine", "total_steps=300_000", *VINE),
    "Walker2d-v4 vine": ("env=Walker2d-v4", "sampler=vine", "total_steps=200_000", *VINE),
    "MinAtar/Seaquest-v1 trpo, an entropy bonus": ("env=MinAtar/Seaquest-v1", "total_steps=20_000", *BONUS, *TRPO),
    "MinAtar/Breakout-v1 vine": ("env=MinAtar/Breakout-v1", "sampler=vine", "total_steps=60_000", *VINE),
    "CartPole-v1 bc": ("algo=bc", "env=CartPole-v1", "total_steps=200_000", RECORDED, "checkpoint.every=2"),
    "FrozenLake-v1 cpi, exact": ("env=FrozenLake-v1", "algo=cpi", *EXACT),
    "CartPole-v1 cma_es": ("env=CartPole-v1", "algo=cma_es", "total_steps=400_000", *SEARCH),
}
RANKS = (*COMMON, "sampler.num_envs=8", "sampler.steps_per_iteration=256", "shards=4", "rank_timeout=60")
ON_RANKS: dict[str, tuple[str, ...]] = {
    "Hopper-v4 trpo, ranks": ("env=Hopper-v4", "algo=trpo", "total_steps=20_000", *RANKS),
    "Ant-v5 npg, ranks": ("env=Ant-v5", "algo=npg", "total_steps=10_000", *RANKS),
    "CartPole-v1 ppo, ranks": ("env=CartPole-v1", "algo=ppo", "critic=shared", "total_steps=30_000", *RANKS),
    "CartPole-v1 trpo, lstm, ranks": ("env=CartPole-v1", "policy=lstm", "total_steps=20_000", *RANKS),
    "Walker2d-v4 vine, ranks": ("env=Walker2d-v4", "sampler=vine", "total_steps=50_000", *VINE, *RANKS[-2:]),
    "CartPole-v1 cem, ranks": ("env=CartPole-v1", "algo=cem", "total_steps=100_000", *COMMON, *RANKS[-2:]),
}
CASES |= ON_RANKS
CALLS = ("open", "write", "fsync", "close", "replace", "unlink")  # of the system, in a save
KILLS = 16  # of each case


class Outcome(NamedTuple):
    """What became of one case."""

    kills: int
    in_saves: int


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """The status that a process ended with, and its last words."""
    _, errors = process.communicate()
    return process.returncode, errors.decode()[-2000:]


def command(*overrides: str, rigged: tuple[str, int] | None = None, **options: Any) -> subprocess.Popen[bytes]:
    """The command in a process of its own; `rigged` to kill itself at the n-th call of a kind within saves."""
    program = [sys.executable, "-m", "trpo_cli"]
    if rigged:
        call, count = rigged
        program = [sys.executable, "-c", f"import kill; kill.rig({call!r}, {count}); kill.train()"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    options = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([*program, *overrides], **options)


def train() -> None:
    """`trpo-train`, in this process."""
    from trpo_cli.train import main

    main()


def rig(name: str, count: int) -> None:
    """Have this process kill itself at the `count`-th call of `os.NAME` from within `Run.save`.

    Every second time before the call, otherwise after it; of a write, half is written.
    """
    from trpo_cli.run import directory as run

    original, inside, calls = getattr(os, name), False, 0

    def deadly(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += inside
        if inside and calls == count:
            if name == "write":
                descriptor, data = arguments
                original(descriptor, data[: len(data) // 2])
            elif count % 2:
                original(*arguments, **keywords)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **keywords)

    def saving(self: run.Run, *arguments: Any) -> None:
        nonlocal inside
        inside = True
        keep(self, *arguments)
        inside = False

    keep = run.Run.save
    setattr(os, name, deadly)
    run.Run.save = saving  # type: ignore[method-assign]


def survive(overrides: Sequence[str], directory: Path, kills: int, span: float, chance: random.Random) -> Outcome:
    """Kill a run at most `kills` times, after `span` seconds of training at most, then let it end.

    Raises `RuntimeError` if it ends by itself in any other way.
    """
    done, in_saves = 0, 0
    arguments = (*overrides, "resume=auto", f"hydra.run.dir={directory}")
    while True:
        rigged = (chance.choice(CALLS), chance.randrange(1, 8)) if done < kills and chance.random() < 0.4 else None
        before = newest(directory)
        process = command(*arguments, rigged=rigged)
        if done < kills and not rigged:
            wait_and_kill(process, directory, before, span, chance)
        status, errors = ended(process)
        match status:
            case 0:
                return Outcome(done, in_saves)
            case number if number == -signal.SIGKILL:
                done, in_saves = done + 1, in_saves + bool(rigged)
            case _:
                raise RuntimeError(f"{directory} ended with {status}: {errors}")


def survive_on_ranks(
    overrides: Sequence[str], directory: Path, kills: int, span: float, chance: random.Random
) -> Outcome:
    """The same with one to four ranks at each start, any of which is killed."""
    done, arguments = 0, (*overrides, "resume=auto", f"hydra.run.dir={directory}")
    while True:
        before, ranks = newest(directory), launch(chance.randint(1, 4), *arguments)
        if done < kills:
            wait_and_kill(chance.choice(ranks), directory, before, span, chance)
        ends = finish(ranks)
        statuses = {status for status, _, _ in ends}
        if statuses == {0}:
            return Outcome(done, 0)
        if not statuses <= {0, 1, -signal.SIGKILL} or (1 in statuses and -signal.SIGKILL not in statuses):
            raise RuntimeError(f"{directory} ended with {ends}")
        done += 1


def wait_and_kill(
    process: subprocess.Popen[Any], directory: Path, before: str, span: float, chance: random.Random
) -> None:
    """SIGKILL, one time in six before it has begun to train, otherwise up to `span` seconds after its first save."""
    if chance.random() < 1 / 6:
        time.sleep(chance.uniform(0, 3))
    else:
        while newest(directory) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, span))
    process.kill()


def newest(directory: Path) -> str:
    """The name of the last checkpoint, which changes with every save."""
    return max((path.name for path in (directory / "checkpoints").glob("step_*")), default="")


def case(name: str, kills: int, folder: Path, seed: int) -> Outcome:
    """One case: a whole run, a killed one, and the comparison. Raises `AssertionError` if they differ."""
    overrides = prepared(CASES[name], folder)
    whole, killed = folder / "whole", folder / "killed"
    status, errors = ended(command(*overrides, f"hydra.run.dir={whole}"))
    assert status == 0, errors
    seconds = json.loads((whole / "summary.json").read_text())["wall_seconds"]
    survived = survive_on_ranks if name in ON_RANKS else survive
    chance, outcome = random.Random(f"{name} {seed}"), Outcome(0, 0)
    while outcome.kills < kills:  # a run may come to its end before it was killed so often
        shutil.rmtree(killed, ignore_errors=True)
        more = survived(overrides, killed, kills - outcome.kills, seconds / kills, chance)
        assert_same_run(whole, killed)
        outcome = Outcome(outcome.kills + more.kills, outcome.in_saves + more.in_saves)
    return outcome


def prepared(overrides: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """The overrides, with what they name made in the folder: a record, or a run to begin from."""
    if RECORDED in overrides:
        code = "import sys, demonstrations as made; made.record_episodes(made.Path(sys.argv[1]), 'env=CartPole-v1')"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", code, str(folder / "record")], env=environment, check=True)
    if BEGUN in overrides:
        first = (*(one for one in overrides if one != BEGUN), "total_steps=2048", "seed=1")
        status, errors = ended(command(*first, f"hydra.run.dir={folder / 'origin'}"))
        assert status == 0, errors
    there = {RECORDED: f"sampler.path={folder / 'record'}", BEGUN: f"init_from={folder / 'origin'}"}
    return tuple(there.get(override, override) for override in overrides)


def table(
    about: str | None,
    cases: Collection[str],
    count: int,
    what: str,
    case: Callable[[str, int, Path, int], tuple[int, str]],
) -> None:
    """The command line of a harness: do to each case something so many times, and print a row of what it came to."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument(f"--{what}", type=int, default=count, dest="count", help="of each case (default: %(default)s)")
    parser.add_argument("--cases", nargs="+", default=list(cases), choices=cases, metavar="CASE")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="at a time (default: %(default)s)")
    arguments = parser.parse_args()

    def told(name: str) -> tuple[int, str]:
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcome, verdict = case(name, arguments.count, Path(folder), arguments.seed), "equal"
            except (AssertionError, RuntimeError) as error:
                outcome, verdict = (0, ""), f"DIFFERENT: {error}"
        print(f"| {name} | {outcome[0]} | {outcome[1]} | {verdict} |", flush=True)
        return outcome[0], verdict

    print(f"| case | {what} | of these | compared with an uninterrupted run |\n|---|---|---|---|")
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(told, arguments.cases))
    print(f"{sum(number for number, _ in results)} {what}")
    sys.exit(any(verdict != "equal" for _, verdict in results))


def row(name: str, kills: int, folder: Path, seed: int) -> tuple[int, str]:
    """Of the table: how many kills, and how many of them inside a save."""
    outcome = case(name, kills, folder, seed)
    return outcome.kills, f"{outcome.in_saves} inside a save"


if __name__ == "__main__":
    table(__doc__, CASES, KILLS, "kills", row)
