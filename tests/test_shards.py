"""Shards: the same mathematics as the whole, and the same bits on any number of threads and processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparison import assert_same_run
from conftest import built, thinned
from exactness import exactly
from launched import finish, launch

from trpo_cli.algos.first_order import FirstOrder
from trpo_cli.data import Batch, States
from trpo_cli.errors import ConfigError, EnvironmentFault, TrainingError
from trpo_cli.models.critics import MLPCritic
from trpo_cli.models.helper import Helper
from trpo_cli.parts import LEARNING
from trpo_cli.shards import Shards
from trpo_cli.shards.ranks import Ranks
from trpo_cli.threads import limit_threads

SMALL = ("sampler.num_envs=8", "sampler.steps_per_iteration=256", "eval.every=0")
VINE = ("sampler=vine", "sampler.num_envs=8", "sampler.num_states=8", "sampler.branch_length=5")
VINE = (*VINE, "sampler.steps_per_iteration=480", "eval.every=0")
BEGUN = (
    f"init_from={Path(__file__).parent / 'old_runs' / 'trpo'}",
    "policy.hidden_sizes=[4]",
    "critic.hidden_sizes=[4]",
)


# --- who works on what


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_every_shard_belongs_to_one_rank_and_neighbours_stay_together(count: int) -> None:
    for size in range(1, count + 1):
        owned = [Shards(count, Ranks(rank, size)).own for rank in range(size)]
        assert [number for own in owned for number in own] == list(range(count))
        assert {*map(len, owned)} <= {count // size, -(-count // size)}


def test_what_is_put_together_is_in_the_order_of_shards() -> None:
    shards = Shards(3)
    parts = [(torch.full((2, 2), float(i)), torch.full((2,), 10.0 * i)) for i in range(3)]
    wide, flat = shards.join(parts)
    assert wide[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert [share.tolist() for share in shards.split(flat)] == [[0, 0], [10, 10], [20, 20]]
    assert shards.sum([(torch.tensor(0.1),), (torch.tensor(0.2),), (torch.tensor(0.3),)])[0] == (
        torch.tensor(0.1) + torch.tensor(0.2)
    ) + torch.tensor(0.3)


def test_a_shard_that_fails_lets_the_others_work_first() -> None:
    worked = []

    def work(number: int) -> None:
        worked.append(number)
        if number:
            raise EnvironmentFault(f"shard {number} failed")

    with pytest.raises(EnvironmentFault, match="shard 1 failed"):
        Shards(3).attempt(work, range(3))
    assert worked == [0, 1, 2]


# --- the same mathematics


def in_shards(batch: Batch, count: int) -> Batch:
    """A batch of one shard as one of several."""
    (whole,) = batch.states
    columns = [value.chunk(count) for value in vars(whole).values()]
    return Batch(**{**vars(batch), "states": [States(*column) for column in zip(*columns, strict=True)]})


@pytest.mark.parametrize(
    "overrides",
    [
        ("algo=trpo", "env=CartPole-v1", "algo.entropy_coefficient=0.1", "algo.discount_states=true"),
        ("algo=trpo", "env=Pendulum-v1", "algo.cg_iterations=4"),  # more of them would amplify the rounding
        ("algo=trpo", "env=Pendulum-v1", "algo.cg_iterations=4", "algo/metric=kl_hessian"),
        ("algo=trpo_empirical_fisher", "env=CartPole-v1"),
        ("algo=ppo", "env=CartPole-v1", "critic=shared", "algo.entropy_coefficient=0.1", "algo.minibatch_size=null"),
        ("algo=ppo_penalty", "env=Pendulum-v1", "algo.minibatch_size=null"),
        ("algo=rwr", "env=CartPole-v1", "algo.minibatch_size=null"),
    ],
    ids=" ".join,
)
def test_an_update_in_shards_is_the_update_of_the_whole(overrides: tuple[str, ...]) -> None:
    steps = []
    for count in (1, 4):
        run = built(*overrides, *SMALL)
        run.policy.double(), run.critic.double()
        algorithm: Any = run.algorithm
        algorithm.__post_init__()  # the optimiser's numbers become float64 too
        (sample,) = run.sampler.collect(run.policy.float())
        run.policy.double()
        tensors = {name: value for name, value in vars(sample).items() if isinstance(value, torch.Tensor)}
        doubled = {name: value.double() for name, value in tensors.items() if value.is_floating_point()}
        batch, lesson = algorithm.estimate([type(sample)(**{**vars(sample), **doubled})])
        shards = Shards(count)
        algorithm.shards = shards
        outcome, metrics = algorithm.update(in_shards(batch, count))
        if hasattr(run.critic, "fit"):
            run.critic.shards = shards
            run.critic.minibatch_size, run.critic.epochs = 256, 1  # likewise
            run.critic.fit([lesson.observations[0].chunk(count)[i] for i in range(count)], lesson.return_)
        learned = [*run.policy.parameters(), *run.critic.parameters()]
        steps.append((outcome, metrics, torch.cat([one.detach().flatten() for one in learned])))
    (outcome, metrics, whole), (other, others, cut) = steps
    assert outcome == other
    torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-11)
    assert metrics.keys() == others.keys()
    for name, value in metrics.items():
        assert others[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name


def test_minibatches_take_equally_many_states_of_each_shard() -> None:
    run = built("algo=ppo", "env=CartPole-v1", *SMALL, "shards=4", "algo.minibatch_size=32")
    algorithm = run.algorithm
    assert isinstance(algorithm, FirstOrder)
    batch, _ = algorithm.estimate(run.sampler.collect(run.policy))
    seen = list(algorithm._minibatches(batch))
    assert [len(one) for one in seen] == [32] * 8
    assert all(len(states.action) == 8 for one in seen for states in one.states)
    met = torch.cat([one.old_log_prob.view(4, 8) for one in seen], dim=1)
    assert exactly(met.sort().values, batch.old_log_prob.view(4, 64).sort().values)


# --- the same bits


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    yield
    limit_threads()


@pytest.mark.parametrize(
    "overrides",
    thinned(
        3,
        [
            ("algo=trpo", "env=Hopper-v4"),
            ("algo=trpo", "env=CartPole-v1", *VINE),
            ("algo=ppo", "env=Pendulum-v1", "critic=shared"),
            ("algo=trpo", "env=CartPole-v1", "policy=lstm", "critic.epochs=2"),
            ("algo=npg", "env=CartPole-v1", "critic=linear", "algo/metric=kl_hessian", "algo.fvp_fraction=0.5"),
            ("algo=trpo", "env=Pendulum-v1", "env.normalize_reward=true", "sampler.vectorization=sync"),
            ("algo=a2c", "env=Hopper-v4", "env.log_info=[x_position]"),
            ("algo=cem", "env=CartPole-v1", "algo.population_size=10", "sampler.num_envs=4"),
        ],
    ),
)
def test_threads_that_share_shards_change_no_bit(overrides: tuple[str, ...]) -> None:
    states = []
    for threads in (1, 2, 4):
        small = () if "algo=cem" in overrides else SMALL
        run = built(*small, *overrides, "shards=4", f"update_threads={threads}")
        for _ in range(2):
            run.iterate(0.0)
        state = run.state_dict()
        states.append([state[name] for name in (*LEARNING, "environments")])
        run.close()
    assert exactly(states[1:], 2 * states[:1])


@pytest.mark.parametrize(
    ("size", "overrides"),
    [
        (2, ("algo=trpo", "env=Hopper-v4", *SMALL, "env.log_info=[x_position]")),
        *(
            pytest.param(size, overrides, marks=pytest.mark.slow)
            for size, overrides in (
                (3, ("algo=trpo", "env=Hopper-v4", *SMALL)),
                (2, ("algo=npg", "env=Ant-v5", *SMALL)),
                (2, ("algo=ppo", "env=CartPole-v1", "critic=shared", *SMALL, "env.normalize_reward=true")),
                (3, ("algo=trpo", "env=CartPole-v1", *VINE, "critic=linear")),
                (
                    3,
                    ("algo=ppo", "env=CartPole-v1", "policy=gru", "critic.epochs=2", "algo.minibatch_size=128", *SMALL),
                ),
                (2, ("algo=cem", "env=CartPole-v1", "algo.population_size=10", "sampler.num_envs=4")),
                (2, ("algo=a2c", "env=Pendulum-v1", *SMALL, "sampler.vectorization=async")),
                (2, ("algo=trpo", "env=Hopper-v4", *SMALL, *BEGUN)),
            )
        ),
    ],
)
def test_a_run_on_several_ranks_is_that_of_one(size: int, overrides: tuple[str, ...], tmp_path: Path) -> None:
    words = (*overrides, "shards=4", "total_steps=1000", "checkpoint.every=2")
    (alone,) = finish(launch(1, *words, "hydra.run.dir=alone", folder=tmp_path))
    assert alone[0] == 0, alone
    together = finish(launch(size, *words, "hydra.run.dir=together", folder=tmp_path))
    assert [status for status, _, _ in together] == [0] * size, together
    assert_same_run(tmp_path / "alone", tmp_path / "together")
    assert [bool(out or errors) for _, out, errors in together] == [True] + [False] * (size - 1)  # only one speaks


# --- what goes wrong


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("shards=3",), "sampler.num_envs: 8 is not a multiple of shards = 3; 9 is"),
        (
            ("shards=8", "critic.minibatch_size=100"),
            "critic.minibatch_size: 100 is not a multiple of shards = 8; 96 is",
        ),
        (
            ("shards=8", "algo=ppo", "algo.minibatch_size=60"),
            "algo.minibatch_size: 60 is not a multiple of shards = 8; 64 is",
        ),
        (
            ("shards=2", "critic.schedule.minibatch_size=[step,[0.5,33]]"),
            "critic.schedule.minibatch_size, after 50 % of training: 33 is not a multiple of shards = 2; 32 is",
        ),
        (("env=FrozenLake-v1", "algo=cpi", "shards=2"), "shards: got 2; Exact does not work in shards, and takes 1"),
    ],
)
def test_what_does_not_divide_into_shards_is_refused(overrides: tuple[str, ...], message: str) -> None:
    small = () if "algo=cpi" in overrides else SMALL
    with pytest.raises(ConfigError) as refused:
        built(*small, *overrides)
    assert message in str(refused.value)


def test_more_ranks_than_shards_are_refused() -> None:
    with pytest.raises(ConfigError, match="shards: got 2, and 3 processes share them; start as many or fewer"):
        Shards(2, Ranks(0, 3))


def test_a_shard_may_have_no_candidate_to_play() -> None:
    few = ("algo.population_size=4", "algo.elite_fraction=0.5", "sampler.max_episode_steps=50", "sampler.num_envs=8")
    run = built("algo=cem", "env=Hopper-v4", "shards=8", *few)
    assert run.iterate(0.0).env_steps > 0


def test_a_fault_of_one_shard_spoils_the_sample_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    run = built("algo=trpo", "env=CartPole-v1", "shards=4", *SMALL)
    envs = run.environments[1]

    def fails(*_: Any) -> None:
        raise EnvironmentFault("it broke")

    monkeypatch.setattr(envs, "step", fails)
    with pytest.raises(EnvironmentFault, match="it broke"):
        run.iterate(0.0)
    assert run.sampler.env_steps == 3 * 64  # of the other shards, which went on to the end
    monkeypatch.undo()
    run.renew_environments(0, "fault 1")
    assert run.iterate(0.0).env_steps == 3 * 64 + 256


def test_what_environments_draw_may_not_depend_on_who_has_the_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    run = built("algo=trpo", "env=CartPole-v1", "shards=2", *SMALL)
    step = run.environments[1].step

    def draws(action: Any) -> Any:
        np.random.random()
        return step(action)

    monkeypatch.setattr(run.environments[1], "step", draws)
    with pytest.raises(ConfigError, match=r"shards: got 2; CartPole-v1 draws from numpy\.random, whose generator all"):
        run.iterate(0.0)


def test_a_bug_on_one_rank_is_not_kept_back_until_the_others_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    run, ranks = built("algo=trpo", "env=CartPole-v1", *SMALL), Ranks(0, 2)
    ordered: list[str] = []
    monkeypatch.setattr("torch.distributed.broadcast_object_list", lambda orders, **_: ordered.append(orders[0].name))
    monkeypatch.setattr(run.algorithm, "iterate", lambda: 1 // 0)
    object.__setattr__(run.shards, "ranks", ranks)
    with pytest.raises(ZeroDivisionError):
        run.iterate(0.0)
    ranks.order("end")
    assert ordered == ["iterate"]


@pytest.mark.slow
def test_what_fails_on_the_leader_alone_ends_all(tmp_path: Path) -> None:
    words = ("algo=trpo", "env=CartPole-v1", "shards=2", *SMALL, "hydra.run.dir=run", "init_from=nowhere")
    (status, _, errors), _ = finish(launch(2, *words, folder=tmp_path))
    assert status == 1
    assert "init_from" in errors
    assert "has ended" not in errors


@pytest.mark.slow
def test_a_lost_rank_ends_the_run_and_its_checkpoint_goes_on_with_another_number(tmp_path: Path) -> None:
    words = ("algo=trpo", "env=CartPole-v1", "shards=4", *SMALL, "total_steps=3000", "checkpoint.every=1")
    ranks = launch(2, *words, "hydra.run.dir=run", "rank_timeout=60", folder=tmp_path)
    while not list((tmp_path / "run" / "checkpoints").glob("step_0*")):
        assert ranks[0].poll() is None, finish(ranks)
    ranks[1].kill()
    (status, _, errors), (killed, _, _) = finish(ranks)
    if status:  # it may have come to its end first
        assert (status, killed) == (1, -signal.SIGKILL)
        assert re.search("error: (rank 1|another rank) has ended", errors)
        assert "Traceback" not in errors
    (again,) = finish(launch(1, "resume=run", folder=tmp_path))
    assert again[0] == 0, again
    (whole,) = finish(launch(1, *words, "hydra.run.dir=whole", folder=tmp_path))
    assert whole[0] == 0, whole
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_ranks_that_disagree_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(0, 2)
    monkeypatch.setattr(ranks, "gather", lambda value: [value, value + 1])
    with pytest.raises(TrainingError, match="different parameters"):
        ranks.expect_same(7)


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_run_in_time(tmp_path: Path) -> None:
    words = ("algo=trpo", "env=CartPole-v1", "shards=4", *SMALL, "total_steps=1_000_000", "checkpoint.every=1")
    ranks = launch(2, *words, "hydra.run.dir=run", "rank_timeout=3", folder=tmp_path)
    while not list((tmp_path / "run" / "checkpoints").glob("step_0*")):
        assert ranks[0].poll() is None, finish(ranks)
    ranks[1].send_signal(signal.SIGSTOP)
    status, _, errors = finish(ranks[:1])[0]
    ranks[1].kill()
    finish(ranks[1:])
    assert status == 1
    assert re.search(r"error: (rank 1|another rank) does not answer within 3 seconds \(rank_timeout\)", errors)
    assert "Traceback" not in errors


DYING = """
import os, signal
from trpo_cli.parts import Parts

iterate, calls = Parts.iterate, []

def dying(self, progress):
    calls.append(progress)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return iterate(self, progress)

if (os.environ.get("RANK"), os.environ.get("TORCHELASTIC_RESTART_COUNT")) == ("1", "0"):
    Parts.iterate = dying
"""


@pytest.mark.slow
def test_torchrun_starts_lost_ranks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    words = ("algo=trpo", "env=CartPole-v1", "shards=2", *SMALL, "total_steps=3000", "plugins=[dying]", "resume=auto")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    command = [*torchrun, "-m", "trpo_cli", *words, "checkpoint.every=2"]
    done = subprocess.run([*command, "hydra.run.dir=run"], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert re.search("error: (rank 1|another rank) has ended", done.stderr)
    assert "resuming after 1,024 steps" in done.stderr
    (whole,) = finish(launch(1, *words, "checkpoint.every=2", "hydra.run.dir=whole", folder=tmp_path))
    assert whole[0] == 0, whole
    assert_same_run(tmp_path / "whole", tmp_path / "run")


# --- the helper that fits the critic


@pytest.mark.parametrize(
    ("shards", "end"), [pytest.param(1, signal.SIGKILL, marks=pytest.mark.slow), (4, signal.SIGSTOP)]
)
def test_a_critic_fitted_by_a_helper_is_the_one_fitted_here(
    monkeypatch: pytest.MonkeyPatch, shards: int, end: signal.Signals
) -> None:
    monkeypatch.setattr("trpo_cli.models.helper.WORTH_A_PROCESS", 0.0)

    def dying(self: Helper, seconds: float) -> None:
        self.close()
        raise EOFError

    states = []
    for threads in (1, 2, 2):
        words = ("algo=trpo", "env=Hopper-v4", *SMALL, f"shards={shards}", "critic.epochs=40")
        run = built(*words, f"update_threads={threads}")
        critic = run.critic
        assert isinstance(critic, MLPCritic)
        for number in range(4):
            run.iterate(0.0)
            if threads > 1 and number in (1, 2):
                assert critic._helper is not None
                while not critic._helper.is_ready:
                    time.sleep(0.01)
            if len(states) == 2 and number == 2:
                monkeypatch.setattr("trpo_cli.models.helper.PATIENCE", 0.2)
                monkeypatch.setattr("trpo_cli.models.helper.LONGER", 0)
                os.kill(critic._helper._process.pid, end)
        assert critic.may_use_helper is (len(states) == 1)
        states.append(run.state_dict())
        run.close()
    for state in states[1:]:
        assert exactly([states[0][name] for name in LEARNING], [state[name] for name in LEARNING])


def test_a_process_that_is_lost_before_it_is_ready_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trpo_cli.models.helper.WORTH_A_PROCESS", 0.0)
    run = built("algo=trpo", "env=Hopper-v4", *SMALL, "update_threads=2")
    critic = run.critic
    assert isinstance(critic, MLPCritic)
    run.iterate(0.0)
    run.iterate(0.0)
    assert critic._helper is not None
    critic._helper._process.kill()
    critic._helper._process.wait()
    assert not critic._helper.is_ready
    run.iterate(0.0)
    assert critic._helper is None
    assert not critic.may_use_helper
    run.close()
