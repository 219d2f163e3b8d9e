"""What the probes do not show: failures of first-order updates, and a state that comes back whole."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import probes  # noqa: F401  registers the probe environments
import pytest
import torch
from conftest import built, small, thinned
from exactness import exactly
from torch import Tensor

from trpo_cli.algos import Outcome
from trpo_cli.algos.first_order import FirstOrder
from trpo_cli.config.groups import CONF, find_options
from trpo_cli.data import Batch
from trpo_cli.models.linearisation import flat
from trpo_cli.run import checkpoint
from trpo_cli.trust_region import step
from trpo_cli.trust_region.fisher import gauss_newton

SMALL = ("env=Pendulum-v1", "sampler.num_envs=2", "sampler.steps_per_iteration=64")


def later(bad: Callable[[Tensor], Tensor], well: int = 3) -> Callable[[Tensor, Batch], Tensor]:
    """A surrogate that is well for three minibatches, or so many, and `bad` from then on."""
    calls = 0

    def surrogate(log_prob: Tensor, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        return bad(log_prob) if calls > well else (log_prob * batch.advantage).mean()

    return surrogate


FAILURES: dict[str, tuple[Callable[[Tensor, Batch], Tensor], Outcome]] = {
    "loss not finite": (later(lambda log_prob: log_prob.sum() * float("nan")), Outcome.NON_FINITE_LOSS),
    "gradient not finite": (
        later(lambda log_prob: (log_prob - log_prob).clamp(min=0).sqrt().sum()),
        Outcome.NON_FINITE_GRADIENT,
    ),
    "zero gradient": (lambda log_prob, batch: 0.0 * log_prob.sum(), Outcome.ZERO_GRADIENT),
}


def test_every_outcome_of_the_trust_region_has_a_number() -> None:
    assert {outcome.name for outcome in step.Outcome} <= Outcome.__members__.keys()


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_first_order_update_leaves_everything_bit_for_bit(failure: str) -> None:
    """Though three minibatches had moved the policy: it, the shared critic and Adam's moments are what they were."""
    parts = built("algo=ppo", "critic=shared", "critic.coefficient=0.0", "algo.minibatch_size=16", *SMALL)
    parts.iterate(0.0)  # so that Adam has moments to lose
    algorithm = parts.algorithm
    assert isinstance(algorithm, FirstOrder)
    algorithm.objective, outcome = FAILURES[failure]
    before = copy.deepcopy((parts.policy.state_dict(), parts.critic.state_dict(), algorithm.optimizer.state_dict()))
    row = algorithm.iterate().metrics
    assert row["trust_region/outcome"] == outcome
    assert row["trust_region/accepted"] == 0
    assert row["policy/kl"] == 0
    assert exactly((parts.policy.state_dict(), parts.critic.state_dict(), algorithm.optimizer.state_dict()), before)


def test_a_last_step_to_where_nothing_is_finite_is_taken_back() -> None:
    parts = built("algo=vpg_adam", *SMALL)
    assert isinstance(parts.algorithm, FirstOrder)
    parts.algorithm.objective = later(lambda log_prob: log_prob.sum() * float("nan"), well=1)
    before = copy.deepcopy(parts.policy.state_dict())
    row = parts.iterate(0.0).metrics
    assert row["trust_region/outcome"] == Outcome.NON_FINITE_LOSS
    assert exactly(parts.policy.state_dict(), before)


def test_target_kl_ends_the_epochs() -> None:
    parts = built("algo=ppo", "algo.target_kl=1e-6", "algo.epochs=7", *SMALL)
    assert parts.iterate(0.0).metrics["policy/epochs"] == 1
    free = built("algo=ppo", "algo.epochs=7", *SMALL)
    assert free.iterate(0.0).metrics["policy/epochs"] == 7


def test_the_penalty_follows_the_kl_within_bounds() -> None:
    """Halved while the KL is far below its target, doubled while far above; not by a rejected update."""
    for target, factor in (("1e6", 0.5), ("1e-12", 2.0)):
        parts = built("algo=ppo_penalty", f"algo.kl_penalty_target={target}", *SMALL)
        algorithm: Any = parts.algorithm
        found = [algorithm.iterate().metrics["policy/kl_penalty"] for _ in range(14)]
        expected = [min(max(factor**i, 1e-3), 1e3) for i in range(14)]
        assert found == pytest.approx(expected)
        algorithm.objective = lambda log_prob, batch: log_prob.sum() * float("nan")
        before = algorithm.penalty
        assert algorithm.iterate().metrics["trust_region/accepted"] == 0
        assert algorithm.penalty == before


def test_fisher_products_on_a_fraction_of_the_batch() -> None:
    parts = built("algo=trpo", "algo.fvp_fraction=0.25", *SMALL)
    algorithm: Any = parts.algorithm
    batch, _ = algorithm.estimate(parts.sampler.collect(parts.policy))
    geometries: list[Any] = []
    algorithm.metric = lambda geometry: geometries.append(geometry) or gauss_newton(geometry)
    assert algorithm.update(batch)[0] is Outcome.ACCEPTED
    (geometry,) = geometries
    assert geometry.outputs(geometry.theta_old).shape[0] == 16
    assert algorithm.problem(batch).evaluate(geometry.theta_old).kl.shape[0] == 64


BONUS = {
    "single path": ("env=Pendulum-v1", "sampler.steps_per_iteration=64", "algo.discount_states=true"),
    "vine": (
        "env=CartPole-v1",
        "algo=trpo_vine",
        "algo/step/constraint=max_kl",
        "sampler.num_states=4",
        "sampler.branch_length=30",
        "sampler.steps_per_iteration=600",
        "policy.output_gain=1.0",
    ),
    "exact": ("env=RandomMDP-v0", "sampler=exact", "policy=tabular", "algo/metric=kl_hessian"),
}


@pytest.mark.parametrize("sampler", BONUS)
def test_the_entropy_bonus_is_part_of_what_the_update_maximises_and_compares(sampler: str) -> None:
    """Without it, the objective has the same bits as the surrogate; with it, the weighted mean entropy is added."""
    many = () if sampler == "exact" else ("sampler.num_envs=2",)
    algorithm: Any = built("algo=trpo", *BONUS[sampler], *many).algorithm
    policy, distribution = algorithm.policy, algorithm.policy.distribution
    batch, _ = algorithm.estimate(algorithm.sampler.collect(policy))
    plain = algorithm.problem(batch)
    start, gradient = plain.start, plain.gradient()
    assert start == plain.evaluate(plain.theta_old).objective == algorithm.objective(batch.old_log_prob, batch)

    algorithm.entropy_coefficient = 0.3
    problem = algorithm.problem(batch)
    theta = problem.theta_old.clone().requires_grad_()
    entropy = (batch.weight * distribution.entropy(policy.outputs(theta, batch.states[0].observation))).mean()
    slope = torch.autograd.grad(entropy, theta)[0]
    torch.testing.assert_close(problem.start, start + 0.3 * entropy.detach())
    torch.testing.assert_close(problem.gradient(), gradient + 0.3 * slope, rtol=1e-4, atol=1e-6)

    outcome, row = algorithm.update(batch)
    assert outcome is Outcome.ACCEPTED
    reached = problem.evaluate(flat(policy))
    assert reached.objective > problem.start  # which the line search compared
    assert row["trust_region/improvement"] == (reached.objective - problem.start).item()
    algorithm.entropy_coefficient = 0.0
    surrogate = problem.evaluate(flat(policy)).objective
    assert row["policy/surrogate_improvement"] == pytest.approx((surrogate - start).item(), abs=1e-6)


def test_a_large_entropy_bonus_makes_the_policy_uniform() -> None:
    parts = built("algo=trpo", *BONUS["exact"], "algo.entropy_coefficient=1000", "algo.delta=0.1")
    policy: Any = parts.policy
    with torch.no_grad():
        policy.logits.copy_(torch.randn(policy.logits.shape, generator=torch.Generator().manual_seed(1)))
    rows = [parts.iterate(0.0).metrics for _ in range(30)]
    assert rows[0]["trust_region/improvement"] > 10 * abs(rows[0]["policy/surrogate_improvement"]) > 0
    torch.testing.assert_close(
        policy.table(), torch.full_like(policy.table(), 1 / policy.logits.shape[-1]), atol=0.03, rtol=0
    )


@pytest.mark.parametrize(("constraint", "column"), [("mean_kl", "policy/kl"), ("max_kl", "policy/max_kl")])
def test_the_kl_that_is_reported_is_the_one_that_was_compared(constraint: str, column: str) -> None:
    """At a radius near the rounding of float32, another forward pass would report a KL above it."""
    size = ("sampler.steps_per_iteration=64", "sampler.num_envs=16", "env=CartPole-v1", "critic=zero")
    for seed in range(6):
        parts = built("algo=trpo", f"algo/step/constraint={constraint}", "algo.delta=1e-7", f"seed={seed}", *size)
        rows = [parts.iterate(0.0).metrics for _ in range(10)]
        assert any(row["trust_region/accepted"] for row in rows)
        assert max(row[column] or 0.0 for row in rows) <= 1e-7


@pytest.mark.parametrize(
    "overrides",
    [
        ("env=Pendulum-v1", "sampler.steps_per_iteration=64"),
        ("env=Pendulum-v1", "sampler.steps_per_iteration=1025", "policy=linear"),
        ("env=Pendulum-v1", "sampler.steps_per_iteration=1027", "policy.hidden_sizes=[33]", "policy.output_gain=1.0"),
        ("env=FrozenLake-v1", "sampler.steps_per_iteration=64", "policy=tabular"),
    ],
)
def test_a_candidate_at_theta_old_has_the_outputs_of_the_batch(
    overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, in the first iteration and later, or the line search would compare rounding errors."""
    algorithm: Any = built("algo=trpo", "critic=zero", "sampler.num_envs=1", *overrides).algorithm
    for _ in range(2):
        batch, _ = algorithm.estimate(algorithm.sampler.collect(algorithm.policy))
        problem = algorithm.problem(batch)
        assert problem.start == problem.evaluate(problem.theta_old).objective
        with monkeypatch.context() as patch:
            patch.setattr(algorithm, "evaluate", lambda batch, infer, surrogate: infer(batch.states[0].observation))
            assert torch.equal(problem.evaluate(problem.theta_old), batch.states[0].old_parameters)
        algorithm.update(batch)


@pytest.mark.parametrize(
    ("overrides", "more"),
    [
        (("algo=trpo",), 0),  # and one for each candidate
        (("algo=ppo", "algo.epochs=3"), 1),
        (("algo=ppo", "algo.epochs=3", "algo.target_kl=1e6"), 3),
        (("algo=ppo_penalty", "algo.kl_penalty_target=1e6"), 1),
    ],
)
def test_the_policy_runs_over_the_batch_no_more_often_than_it_must(
    overrides: tuple[str, ...], more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = built(*overrides, *SMALL)
    kind, rows = type(parts.policy), []
    infer = kind.infer
    monkeypatch.setattr(kind, "infer", lambda self, x: (rows.append(len(x)), infer(self, x))[1])
    row = parts.iterate(0.0).metrics
    assert row["trust_region/accepted"] == 1
    candidates = 1 + int(row["trust_region/backtracks"] or 0) if overrides == ("algo=trpo",) else 0
    assert rows.count(64) == 1 + candidates + more


def test_a_resumed_run_rounds_as_one_that_went_on() -> None:
    """How a product of an odd number of rows with one column rounds depends on where in memory the column begins."""
    size = ("sampler.num_envs=3", "sampler.steps_per_iteration=1209", "critic.hidden_sizes=[33]")
    overrides = ("algo=trpo", "env=Pendulum-v1", "critic.learning_rate=1e-2", *size)
    first, second = built(*overrides), built(*overrides)
    first.iterate(0.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for parts in (first, second):
        parts.iterate(0.1)
    assert exactly(first.policy.state_dict(), second.policy.state_dict())


@pytest.mark.parametrize("algo", thinned(3, [algo for algo in find_options(CONF / "algo") if algo != "bc"]))
def test_a_checkpoint_holds_all_but_the_environments(algo: str, tmp_path: Any) -> None:
    """Loaded into fresh parts, the state is whole: the next iteration on the same environments' states is the same.

    TwoSteps' episodes end with the rollout, and the one thing random in it does not matter.
    """
    if algo in ("cpi", "monotone_pi"):
        overrides: tuple[str, ...] = (f"algo={algo}", "env=FrozenLake-v1")
    else:
        probe = ("env=gym", "env.id=Probe/TwoSteps-v0", "env.normalize_observation=true", "env.normalize_reward=true")
        overrides = small(f"algo={algo}", *probe)
    first = built(*overrides)
    for progress in (0.0, 0.1):
        first.iterate(progress)
    checkpoint.save(tmp_path / "step.safetensors", first.state_dict())
    second = built(*overrides, "seed=5")
    second.load_state_dict(checkpoint.load(tmp_path / "step.safetensors"))
    assert exactly(second.state_dict(), first.state_dict())
    if algo in ("cem", "cma_es", "random_search"):  # whose episodes are those of a seed and a number
        second.sampler.seed = first.sampler.seed
    rows = [parts.iterate(0.2).metrics for parts in (first, second)]
    assert rows[0] == rows[1]
    assert exactly(second.state_dict(), first.state_dict())


def test_evaluation_of_an_endless_task_is_cut_off() -> None:
    from trpo_cli.play.episodes import Episodes, evaluate

    parts = built("env=gym", "env.id=CliffWalking-v1", "seed=1", *SMALL[1:])
    with torch.no_grad():
        for parameter in parts.policy.parameters():
            parameter.zero_()  # always up: never falls, never arrives
    played = evaluate(parts.task, parts.policy, parts.normalizer, Episodes(3, 40), seed=0)
    assert played.lengths.tolist() == [40, 40, 40]
    assert played.returns.tolist() == [-40, -40, -40]


@pytest.mark.parametrize("algo", ["trpo", "ppo"])
def test_the_critic_is_fitted_after_the_advantages_are_taken(algo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = built(f"algo={algo}", *SMALL)
    order: list[str] = []

    def recorded(owner: object, name: str) -> None:
        call = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args: (order.append(name), call(*args))[1])

    recorded(parts.sampler, "collect")
    recorded(parts.algorithm, "estimate")
    recorded(parts.algorithm, "update")
    recorded(parts.critic, "fit")
    parts.iterate(0.0)
    assert order == ["collect", "estimate", "fit", "update"]


@pytest.mark.parametrize("override", ["algo.delta=1", "algo.damping=1"])
def test_whole_numbers_are_floats_where_floats_are_wanted(override: str) -> None:
    row = built(override, *SMALL).algorithm.iterate().metrics
    assert all(value is None or isinstance(value, float) for value in row.values())
