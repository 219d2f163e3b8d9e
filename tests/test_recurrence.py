"""Policies and critics that remember: their passes through time, where memory begins and ends, and what they learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import probes  # noqa: F401  registers the probe environments
import pytest
import torch
from conftest import built, composed, thinned, vectors
from torch import Tensor, nn

from trpo_cli.algos.behaviour_cloning import BehaviourCloning
from trpo_cli.data import Batch, Frames, ObservationSpec, Rollout, Sequences
from trpo_cli.errors import ConfigError
from trpo_cli.models.cells import CELLS, Memory
from trpo_cli.models.critics import PolicyAndValue, SharedCritic, ZeroCritic
from trpo_cli.models.distributions import Categorical, DiagonalGaussian, Distribution
from trpo_cli.models.linearisation import flat, linearise, outputs, share_memory
from trpo_cli.models.policies import Policy
from trpo_cli.models.policies.mlp import MLPPolicy
from trpo_cli.parts import Parts
from trpo_cli.play.episodes import Episodes, evaluate
from trpo_cli.trust_region.fisher import gauss_newton, kl_hessian
from trpo_cli.trust_region.geometry import Geometry

COUNT, WIDTH, UNITS = 5, 7, 4  # sequences, their steps, and units of the memory
PICTURES = ObservationSpec((2, 9, 7), np.dtype(np.uint8), stack=2)
REMEMBERING = ("policy=gru", "critic=gru")
SMALL = (*(f"{part}.{key}" for part in ("policy", "critic") for key in ("encoder_sizes=[6]", "hidden_sizes=[5]")),)
SMALL = (*REMEMBERING, *SMALL, "policy.memory_size=4", "critic.memory_size=3")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def policy(
    memory: Memory = "gru", encoder: list[int] | None = None, hidden: tuple[int, ...] = (6,), **others: Any
) -> MLPPolicy:
    """A policy whose first outputs are far from uniform."""
    torch.manual_seed(0)
    given = {"observation": vectors(3), "distribution": Categorical([3]), "convolutions": None, **others}
    made = MLPPolicy(
        **given,
        hidden_sizes=[*hidden],
        activation="tanh",
        output_gain=1.0,
        initial_log_std=-0.5,
        encoder_sizes=encoder,
        memory=memory,
        memory_size=UNITS,
    ).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * drawn(*parameter.shape))
    return made


def sequences(network: MLPPolicy, length: int = WIDTH, size: int = 3) -> Sequences:
    """In which episodes begin, also at the first step, and some begin before the memory is known."""
    begins = drawn(COUNT, WIDTH, seed=1) > 0.9
    begins[0, 0] = begins[1, 3] = True
    first = torch.tensor([0, 1, 3, 0, 2]).clamp(max=WIDTH - length)
    return Sequences(drawn(COUNT, WIDTH, size), drawn(COUNT, network.memory_size, seed=2), first, begins, length)


LAYERS: dict[str, tuple[list[int] | None, tuple[int, ...]]] = {
    "bare": (None, ()),
    "encoder": ([5], ()),
    "hidden": (None, (6,)),
    "both": ([4, 5], (6, 3)),
}
LENGTHS = {"whole": WIDTH, "half": 3, "one": 1}


@pytest.mark.parametrize(("memory", "layers", "part"), thinned(5, CELLS, LAYERS, LENGTHS))
def test_passes_through_time_are_those_of_automatic_differentiation(memory: Memory, layers: str, part: str) -> None:
    length = LENGTHS[part]
    network = policy(memory, *LAYERS[layers])
    seen = sequences(network, length)
    ours, theirs = network.linearise(seen), linearise(network, seen)
    u, v = drawn(*ours.output.shape, seed=3), drawn(len(flat(network)), seed=4)
    assert ours.output.shape == (COUNT * length, 3)
    for _ in range(2):  # a product changes nothing that the next one needs
        torch.testing.assert_close(ours.output, theirs.output)
        torch.testing.assert_close(ours.jvp(v), theirs.jvp(v))
        torch.testing.assert_close(ours.vjp(u), theirs.vjp(u))
    torch.testing.assert_close(network.infer(seen), theirs.output)
    theta = flat(network).requires_grad_()
    for known in (None, theirs.output):
        (gradient,) = torch.autograd.grad(network.outputs(theta, seen, known), theta, u)
        torch.testing.assert_close(gradient, theirs.vjp(u))
    step = 1e-6
    moved = [outputs(network, flat(network) + sign * step * v, seen) for sign in (1, -1)]
    torch.testing.assert_close((moved[0] - moved[1]).detach() / (2 * step), ours.jvp(v), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("memory", CELLS)
def test_cells_are_those_of_torch(memory: Memory) -> None:
    cell = CELLS[memory](3, UNITS).double()
    torch.nn.init.normal_(cell.recall.bias)
    theirs: Any = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}[memory](3, UNITS).double()
    with torch.no_grad():
        for ours, own in zip(cell.parameters(), ("weight_ih", "bias_ih", "weight_hh", "bias_hh"), strict=True):
            getattr(theirs, own).copy_(ours)
    x, before = drawn(COUNT, 3), drawn(COUNT, cell.memory_size, seed=1)
    after = theirs(x, before if memory == "gru" else before.split(UNITS, 1))
    torch.testing.assert_close(cell(x, before), after if memory == "gru" else torch.cat(after, 1))


@pytest.mark.parametrize("memory", CELLS)
def test_products_go_through_images_and_the_head_of_a_critic(memory: Memory) -> None:
    layers = {"observation": PICTURES, "convolutions": [[3, 4, 2]], "distribution": DiagonalGaussian(2)}
    network = policy(memory, [5], **layers)
    pixels = torch.randint(256, (COUNT * WIDTH + 1, 9, 7), dtype=torch.uint8)
    index = torch.arange(COUNT * WIDTH).view(COUNT, WIDTH, 1) + torch.arange(2)
    as_vectors = sequences(network, 3)
    seen = Sequences(Frames(pixels, index), *list(vars(as_vectors).values())[1:])
    both = PolicyAndValue(network, SharedCritic(network, coefficient=0.5).double())
    share_memory(both)
    ours, theirs = both.linearise(seen), linearise(both, seen)
    u, v = drawn(*ours.output.shape, seed=3), drawn(len(flat(both)), seed=4)
    torch.testing.assert_close(ours.output, theirs.output)
    torch.testing.assert_close(ours.jvp(v), theirs.jvp(v))
    torch.testing.assert_close(ours.vjp(u), theirs.vjp(u))
    torch.testing.assert_close(both.infer(seen), theirs.output)
    torch.testing.assert_close(both.critic.predict(seen), theirs.output[:, -1])


def alone(seen: Sequences, number: int, start: int, memory: Tensor) -> Sequences:
    """The steps of one sequence from `start`, with all of them counted."""
    steps = WIDTH - start
    nothing = torch.zeros(1, dtype=torch.int64)
    begins = seen.begins[number : number + 1, start:]
    return Sequences(seen.seen[number : number + 1, start:], memory, nothing, begins, steps)


@pytest.mark.parametrize("memory", CELLS)
def test_padding_and_what_comes_before_an_episode_count_nowhere(memory: Memory) -> None:
    """Outputs, gradients and products of a batch are those of its sequences one by one, without what is not theirs."""
    network = policy(memory, [5])
    seen = sequences(network, 3)
    whole, v = network.linearise(seen), drawn(len(flat(network)), seed=4)
    u = drawn(COUNT * 3, 3, seed=3)
    gradient = torch.zeros_like(v)
    for number in range(COUNT):
        first = int(seen.first[number])
        start = max(first, *(t for t in range(WIDTH - 2) if seen.begins[number, t]), 0)
        memory_there = seen.memory[number : number + 1]
        own = alone(seen, number, start, memory_there if start == first else torch.zeros_like(memory_there))
        one, rows = network.linearise(own), slice(3 * number, 3 * number + 3)
        torch.testing.assert_close(one.output[-3:], whole.output[rows])
        torch.testing.assert_close(one.jvp(v)[-3:], whole.jvp(v)[rows])
        padded = torch.cat([torch.zeros(len(one.output) - 3, 3, dtype=torch.float64), u[rows]])
        gradient += one.vjp(padded)
    torch.testing.assert_close(gradient, whole.vjp(u))
    some = torch.tensor([3, 1])
    torch.testing.assert_close(network.infer(seen[some]), whole.output.unflatten(0, (COUNT, 3))[some].flatten(0, 1))


@pytest.mark.parametrize("memory", CELLS)
@pytest.mark.parametrize("distribution", [Categorical([3]), DiagonalGaussian(2)])
def test_fisher_products_are_those_of_the_hessian(memory: Memory, distribution: Distribution) -> None:
    network = policy(memory, [5], distribution=distribution)
    seen = sequences(network, 4)
    old, weight = network.infer(seen), torch.ones(COUNT * 4, dtype=torch.float64)
    geometry = Geometry(
        theta_old=flat(network),
        weight=weight,
        outputs=lambda theta: network.outputs(theta, seen),
        kl=lambda new: distribution.kl(old, new),
        linearise=lambda: network.linearise(seen),
        fisher=lambda vector: distribution.fisher(old, vector),
        scores=NotImplemented,
    )
    ours, theirs = gauss_newton(geometry), kl_hessian(geometry)
    v, w = (drawn(len(flat(network)), seed=seed) for seed in (4, 5))
    torch.testing.assert_close(ours(v), theirs(v))
    torch.testing.assert_close(w.dot(ours(v)), v.dot(ours(w)))


@pytest.mark.parametrize("memory", CELLS)
@pytest.mark.parametrize("distribution", [Categorical([3]), DiagonalGaussian(2)])
def test_candidates_act_each_with_parameters_of_its_own(memory: Memory, distribution: Distribution) -> None:
    network = policy(memory, [5], distribution=distribution).float()
    thetas = flat(network) + 0.3 * drawn(4, len(flat(network))).float()
    seen, before = drawn(4, 3, seed=1).float().numpy(), drawn(4, network.memory_size, seed=2).float().numpy()
    action, after = network.actor_each(thetas)(seen, before, None)
    for row, theta in enumerate(thetas):
        nn.utils.vector_to_parameters(theta, network.parameters())
        wanted = network.actor()(seen[row : row + 1], before[row : row + 1], None)
        np.testing.assert_allclose(action[row], wanted[0][0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(after[row], wanted[1][0], rtol=1e-4, atol=1e-5)


PATH = ("sampler.num_envs=8", "sampler.steps_per_iteration=256")
CARTS = ("env=CartPole-v1", "env.hide=[1,3]", "env.max_episode_steps=11", *PATH)


def collected(parts: Parts) -> Rollout:
    (sample,) = parts.sampler.collect(parts.algorithm.actor)  # type: ignore[attr-defined]
    return sample  # type: ignore[no-any-return]


@pytest.mark.parametrize("memory", CELLS)
@pytest.mark.parametrize(
    "cut", [(), ("sampler.sequence_length=8",), ("sampler.sequence_length=4", "sampler.burn_in=6")]
)
def test_a_rollout_gives_bit_for_bit_what_acting_gave(memory: Memory, cut: tuple[str, ...]) -> None:
    parts = built(*CARTS, f"policy={memory}", f"critic={memory}", *cut)
    policy, critic = parts.policy, parts.critic
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    told: list[tuple[Tensor, Tensor]] = []
    network: Any = policy.network  # type: ignore[attr-defined]
    acting = network.acting

    def watched() -> Any:
        act = acting()

        def watch(observation: Any, memory: Any) -> Any:
            output, after = act(observation, memory)
            told.append(torch.from_numpy(output.copy()))
            return output, after

        return watch

    network.acting = watched
    collected(parts)
    told.clear()
    rollout = collected(parts)
    remembered, own = rollout.remembered, policy.memory_size
    assert remembered is not None
    assert remembered.begins.any()
    assert torch.equal(policy.infer(rollout.states), rollout.rows(torch.stack(told)))  # type: ignore[arg-type]
    after = torch.cat([remembered.memory[1:], remembered.at_end[None]])[..., own:]  # of the critic, where none ended
    its_network: Any = critic.network
    goes_on = ~(rollout.terminated | rollout.truncated)
    value = rollout.values(rollout.states, critic.predict)[0]
    wanted = its_network.rest(after[..., : its_network.cell.size].flatten(0, 1)).view_as(value)
    torch.testing.assert_close(value[goes_on], wanted[goes_on].detach())
    assert value.std() > 0


def test_a_time_limit_is_judged_with_the_memory_after_the_last_observation() -> None:
    parts = built(*CARTS, *SMALL)
    critic, act = parts.critic, parts.algorithm.actor.actor()  # type: ignore[attr-defined]
    rollout = collected(parts)
    remembered = rollout.remembered
    assert remembered is not None
    own = parts.policy.memory_size
    _, next_value = rollout.values(rollout.states, critic.predict)
    times, rows = np.nonzero(rollout.truncated.numpy())
    assert len(times)
    for number, (t, row) in enumerate(zip(times, rows, strict=True)):
        before = remembered.memory[t].numpy()
        _, after = act(rollout.observation[t].numpy(), before, np.zeros((8, 1), np.float32))
        seen = rollout.truncated_observation[number : number + 1]
        value = critic.predict(Sequences.of_single_steps(seen, torch.from_numpy(after[row : row + 1])))
        torch.testing.assert_close(next_value[t, row], value[0])
        assert after[row, own:].any()


def test_sequences_are_selected_whole() -> None:
    parts = built(*CARTS, *SMALL, "sampler.sequence_length=8")
    batch, lesson = parts.algorithm.estimate([collected(parts)])  # type: ignore[attr-defined]
    assert (batch.length, batch.units, len(batch)) == (8, 32, 256)
    some = batch.select(torch.tensor([5, 2]))
    assert isinstance(some, Batch)
    rows = torch.cat([torch.arange(40, 48), torch.arange(16, 24)])
    for name in ("advantage", "return_", "weight", "old_log_prob"):
        assert torch.equal(getattr(some, name), getattr(batch, name)[rows])
    assert torch.equal(some.states[0].action, batch.states[0].action[rows])
    inferred = parts.policy.infer(some.states[0].observation)
    torch.testing.assert_close(inferred, batch.states[0].old_parameters[rows])
    assert len(lesson.return_) == 256


ALGORITHMS = ("trpo", "npg", "vpg", "trpo_max_kl", "trpo_empirical_fisher", "ppo", "a2c", "trpo_penalty", "rwr")


@pytest.mark.parametrize("algo", thinned(2, ALGORITHMS))
def test_every_method_that_learns_from_rollouts_moves_the_policy(algo: str) -> None:
    parts = built(f"algo={algo}", *CARTS, *SMALL, "sampler.sequence_length=8", *MINIBATCHES.get(algo, ()))
    before, value = flat(parts.policy), flat(parts.critic)
    metrics = [parts.iterate(progress).metrics for progress in (0.0, 0.5)][-1]
    assert metrics["trust_region/accepted"] == 1.0
    assert not torch.equal(flat(parts.policy), before)
    parts.critic.state_dict()
    assert not torch.equal(flat(parts.critic), value)


MINIBATCHES = {"ppo": ("algo.minibatch_size=64",)}


def best_return(parts: Parts, episodes: int = 64) -> float:
    return evaluate(parts.task, parts.policy, parts.normalizer, Episodes(episodes, 100), seed=0).returns.mean()


SHORT = ("sampler.num_envs=16", "sampler.steps_per_iteration=320")
LEARNING = {
    "trpo": (
        "algo=trpo",
        "algo.delta=0.05",
        "critic.learning_rate=1e-2",
        "critic.minibatch_size=80",
        "critic.epochs=5",
    ),
    "ppo": ("algo=ppo", "algo.learning_rate=1e-2", "algo.minibatch_size=80", "algo.epochs=5", "critic=shared"),
}


@pytest.mark.parametrize(("algo", "memory"), thinned(3, LEARNING, CELLS))
def test_remembers_a_bit_for_as_long_as_it_matters(algo: str, memory: str) -> None:
    """A guess is right half of the time."""
    critic = () if algo == "ppo" else (f"critic={memory}",)
    sizes = ("policy.memory_size=16", "policy.encoder_sizes=null", "policy.hidden_sizes=[]")
    task = ("env=gym", "env.id=Probe/Recall-v0", "env.kwargs={k:4}", *SHORT)
    parts = built(*LEARNING[algo], *task, f"policy={memory}", *critic, *sizes)
    for i in range(60):
        parts.iterate(i / 60)
        if i % 5 == 4 and best_return(parts) == 1.0:
            return
    pytest.fail(f"the return is {best_return(parts)}")


def test_nothing_is_remembered_from_one_episode_to_the_next() -> None:
    """If memory outlived an episode while the policy acts, the return would be 1."""
    task = ("env=gym", "env.id=Probe/Leak-v0", *SHORT)
    parts = built(*LEARNING["trpo"], *task, *SMALL)
    for i in range(15):
        parts.iterate(i / 15)
    assert 0.35 < best_return(parts, 400) < 0.65


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("sampler.sequence_length=5",), "sequence_length: 5 does not divide the 32 steps"),
        (("sampler.burn_in=1",), "sampler.burn_in: got 1, and an iteration takes 0 steps before"),
        (("sampler.sequence_length=8", "sampler.burn_in=25"), "at most 24 fit"),
        (
            ("policy=mlp", "critic=mlp", "sampler.sequence_length=8"),
            "sampler.sequence_length: takes effect only with a memory",
        ),
        (("policy.memory=rnn",), "policy.memory"),
        (("policy.memory_size=0",), "policy.memory_size"),
        (("policy.memory_size=null",), "policy.memory_size: got null, and a memory has"),
        (("critic.memory=null",), "critic.memory_size: takes effect only with a memory"),
    ],
)
def test_refuses_what_no_memory_can_do(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        built(*CARTS, *REMEMBERING, *overrides)


def test_samplers_that_follow_no_episodes_refuse_a_memory() -> None:
    with pytest.raises(ConfigError, match="policy: this one remembers earlier states, and Exact takes each by itself"):
        built("sampler=exact", "critic=zero", "env=FrozenLake-v1", "policy=gru")


def test_images_need_a_layer_in_front_of_the_memory() -> None:
    seen = ("env=gym", "env.id=Probe/Bar-v0", "policy=gru", "+policy.convolutions=[[4,4,2]]", *PATH, "critic=zero")
    with pytest.raises(ConfigError, match=r"policy.encoder_sizes: a memory reads"):
        built(*seen, "policy.encoder_sizes=null")
    parts = built(*seen, "policy.encoder_sizes=[8]")
    parts.iterate(0.0)


def test_branches_go_on_from_the_memory_of_their_trunk(monkeypatch: pytest.MonkeyPatch) -> None:
    vine = ("algo=trpo", "sampler=vine", "sampler.steps_per_iteration=640", "sampler.num_states=8")
    parts = built("env=CartPole-v1", *vine, "sampler.branch_length=6", "sampler.num_envs=32", *SMALL)
    actor, seen = parts.algorithm.actor, []  # type: ignore[attr-defined]

    def watched(act: Any) -> Any:
        def watch(observation: Any, memory: Any, noise: Any) -> Any:
            seen.append(memory.copy())
            return act(observation, memory, noise)

        return watch

    with monkeypatch.context() as patch:
        acts = actor.actor
        patch.setattr(actor, "actor", lambda: watched(acts()))
        (sample,) = parts.sampler.collect(actor)  # type: ignore[attr-defined]
    trunk, own = sample.trunk, parts.policy.memory_size
    branches = seen[len(trunk.reward) :]
    begun = trunk.memory_at(sample.place).repeat_interleave(4, 0)  # as many branches as environments
    assert begun.any(dim=1).sum() > 16
    np.testing.assert_array_equal(branches[0], begun.numpy())
    inferred = parts.policy.infer(trunk.states_at(sample.place))
    everywhere = trunk.remembered.restore(parts.policy.infer(trunk.states)[:, 0])
    torch.testing.assert_close(inferred[:, 0], everywhere.flatten()[sample.place])
    assert sample.last_memory[:, own:].any(dim=1).all()
    before = flat(parts.policy)
    assert parts.iterate(0.0).metrics["trust_region/accepted"] == 1.0
    assert not torch.equal(flat(parts.policy), before)


def test_a_critic_may_remember_alone() -> None:
    parts = built(*CARTS, "policy=mlp", "critic=lstm", "critic.memory_size=4")
    assert parts.policy.memory_size == 0
    rollout = collected(parts)
    assert rollout.remembered is not None
    network: Any = parts.critic.network
    shown, goes_on = rollout.remembered.memory[1:, :, :4], ~rollout.remembered.begins[1:]
    value = rollout.values(rollout.states, parts.critic.predict)[0][:-1]
    wanted = network.rest(shown.flatten(0, 1)).view_as(value)
    torch.testing.assert_close(value[goes_on], wanted[goes_on].detach())
    assert parts.iterate(0.0).metrics["trust_region/accepted"] == 1.0


def test_black_box_methods_remember() -> None:
    task = ("env=gym", "env.id=Probe/Recall-v0", "env.kwargs={k:1}", "sampler.num_envs=32", "algo=cem")
    sizes = ("policy.memory_size=2", "policy.encoder_sizes=null", "policy.hidden_sizes=[]", "algo.population_size=64")
    parts = built(*task, "policy=gru", *sizes, "sampler.episodes_per_candidate=8")
    for i in range(12):
        parts.iterate(i / 12)
        if best_return(parts) == 1.0:
            return
    pytest.fail(f"the return is {best_return(parts)}")


def test_cloning_refuses_a_memory() -> None:
    parts = built("env=CartPole-v1", "policy=gru", *PATH)
    others: dict[str, Any] = {"learning_rate": 1e-3, "adam_epsilon": 1e-5, "minibatch_size": None, "max_rejected": 1}
    with pytest.raises(ConfigError, match="policy: algo=bc learns from transitions by themselves"):
        BehaviourCloning(
            sampler=NotImplemented, policy=parts.policy, critic=ZeroCritic(), max_gradient_norm=None, **others
        )


@pytest.mark.parametrize(("memory", "gate", "sign"), [("gru", 1, 1), ("lstm", 1, 1), ("lstm", 0, -1)])
def test_units_begin_with_memories_of_many_lengths(memory: Memory, gate: int, sign: int) -> None:
    """With nothing to read, unit i forgets a part 1 / (1 + t) in each step, for t between 1 and the span less one."""
    torch.manual_seed(0)
    cell = CELLS[memory](3, 1000, span=50)
    steps = (sign * cell.read.bias.detach().chunk(cell.gates)[gate]).exp()
    assert 0.99 < steps.min() < 2 < 48 < steps.max() < 49.01
    assert steps.mean() == pytest.approx(25, abs=1.5)
    if gate == 1:
        cell.recall.weight.detach().zero_()
        kept = cell(torch.zeros(1, 3), torch.ones(1, cell.memory_size))[0, -1000:]
        torch.testing.assert_close(kept.detach(), steps / (1 + steps))


@pytest.mark.parametrize("algo", ["vpg_adam", "a2c", "vpg"])
def test_what_is_set_for_memory_stays_with_the_methods_that_it_is_for(algo: str) -> None:
    for key in ("minibatch_size", "damping"):
        assert composed(f"algo={algo}", "policy=gru")["algo"].get(key) == composed(f"algo={algo}")["algo"].get(key)


def test_candidates_of_a_policy_without_actors_for_them_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MLPPolicy, "actor_each", Policy.actor_each)
    with pytest.raises(ConfigError, match=r"no MLPPolicy\.actor_each"):
        built("env=CartPole-v1", "algo=cem", "policy=gru", "sampler.num_envs=2", "algo.population_size=16")
