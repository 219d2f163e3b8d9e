"""Networks that begin with convolutions: their passes, their memory, their threads, and what they refuse."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import old_pictures  # noqa: F401  registers the environment
import probes  # noqa: F401  registers the probe environments
import pytest
import torch
from conftest import built, composed
from torch import Tensor

from trpo_cli.data import Batch, Frames, ObservationSpec
from trpo_cli.errors import ConfigError
from trpo_cli.models import convolutions
from trpo_cli.models.adam import Adam
from trpo_cli.models.critics import PolicyAndValue, SharedCritic, ZeroCritic
from trpo_cli.models.distributions import Categorical, DiagonalGaussian, Distribution
from trpo_cli.models.layers import ACTIVATIONS
from trpo_cli.models.linearisation import flat, linearise, outputs, share_memory, size
from trpo_cli.models.passes import Activation
from trpo_cli.models.policies.mlp import MLPPolicy
from trpo_cli.threads import in_order, limit_threads
from trpo_cli.trust_region.fisher import gauss_newton, kl_hessian

ROWS = 2 * convolutions.PIECE + 3
PICTURES = ObservationSpec((2, 9, 7, 3), np.dtype(np.uint8), stack=2)
SMALL = [[3, 4, 2], [4, 2, 1]]
SEEN = ("plugins=[probes]", "env=gym", "env.id=Probe/Bar-v0", "policy=cnn", "policy.convolutions=[[2,4,3],[3,2,1]]")
SEEN = (*SEEN, "policy.hidden_sizes=[4]", "policy.activation=tanh", "sampler.num_envs=8")


@pytest.fixture
def workers() -> Iterator[Any]:
    """Sets how many threads share the pieces."""
    yield lambda number: limit_threads(workers=number)
    limit_threads()


def policy(
    spec: ObservationSpec = PICTURES,
    distribution: Distribution | None = None,
    activation: Activation = "relu",
    hidden: tuple[int, ...] = (6,),
    layers: list[list[int]] = SMALL,
) -> MLPPolicy:
    torch.manual_seed(0)
    return MLPPolicy(
        *(spec, distribution or Categorical([3])),
        hidden_sizes=[*hidden],
        activation=activation,
        output_gain=1.0,
        initial_log_std=-0.3,
        convolutions=layers,
    )


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pictures(rows: int = ROWS, spec: ObservationSpec = PICTURES) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 256, (rows, *spec.shape), generator=generator, dtype=torch.uint8)
    return drawn if spec.dtype == np.uint8 else drawn > 127


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(), (6,), (5, 4)])
def test_written_out_products_are_those_of_automatic_differentiation(
    activation: Activation, hidden: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the activations of some pieces are kept and those of others are not."""
    network, x = policy(activation=activation, hidden=hidden).double(), pictures()
    theirs = linearise(network, x)
    u, v = drawn(ROWS, 3), drawn(size(network), seed=2)
    one_piece = network.network.passes(network.network.head).trace(x[: convolutions.PIECE]).bytes
    for kept in (0, x.nbytes + one_piece, convolutions.KEPT):
        monkeypatch.setattr(convolutions, "KEPT", kept)
        ours = network.linearise(x)
        for _ in range(2):
            torch.testing.assert_close(ours.output, theirs.output)
            torch.testing.assert_close(ours.jvp(v), theirs.jvp(v))
            torch.testing.assert_close(ours.vjp(u), theirs.vjp(u))
    torch.testing.assert_close(network.infer(x), network(x).detach())


def test_products_are_derivatives() -> None:
    """J v is how the outputs move along v, and u . J v = v . J^T u."""
    network, x = policy(activation="tanh").double(), pictures(7)
    theta, v, u, epsilon = flat(network), drawn(size(network)), drawn(7, 3, seed=2), 1e-6
    moved = (outputs(network, theta + epsilon * v, x) - outputs(network, theta - epsilon * v, x)) / (2 * epsilon)
    model = network.linearise(x)
    torch.testing.assert_close(model.jvp(v), moved.detach(), atol=1e-7, rtol=1e-6)
    torch.testing.assert_close((u * model.jvp(v)).sum(), v.dot(model.vjp(u)))


SPECS = {
    "grey": ObservationSpec((9, 7), np.dtype(np.uint8)),
    "colour": ObservationSpec((9, 7, 3), np.dtype(np.uint8)),
    "stack": ObservationSpec((4, 9, 7), np.dtype(np.uint8), stack=4),
    "bool": ObservationSpec((9, 9, 4), np.dtype(np.bool_)),
}


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("distribution", [DiagonalGaussian(2), Categorical([3, 2])])
def test_a_policy_reads_images_of_all_kinds(kind: str, distribution: Distribution) -> None:
    spec = SPECS[kind]
    network, x = policy(spec, distribution), pictures(5, spec)
    ours, theirs = network.linearise(x), linearise(network, x)
    u, v = drawn(*ours.output.shape).float(), drawn(size(network), seed=2).float()
    torch.testing.assert_close(ours.output, theirs.output)
    torch.testing.assert_close(ours.jvp(v), theirs.jvp(v))
    torch.testing.assert_close(ours.vjp(u), theirs.vjp(u))
    scaled = x.float() / 255 if spec.dtype == np.uint8 else x.float()
    torch.testing.assert_close(network(scaled), network(x))
    thetas = flat(network) + 0.1 * drawn(5, size(network)).float()
    each = [outputs(network, theta, row[None])[0] for theta, row in zip(thetas, x, strict=True)]
    torch.testing.assert_close(network.infer_each(thetas, x), torch.stack(each).detach())
    noise = distribution.noise((5,), torch.Generator().manual_seed(1))
    action = torch.from_numpy(network.actor()(x.numpy(), np.empty((5, 0)), noise.numpy())[0])
    torch.testing.assert_close(action, distribution.sample(network.infer(x), noise))


def test_frames_are_read_as_their_stacks() -> None:
    spec = SPECS["stack"]
    frame = pictures(20, SPECS["grey"])
    frames = Frames(frame, torch.arange(17)[:, None] + torch.arange(4))
    network, u = policy(spec), drawn(17, 3).float()
    ours, theirs = network.linearise(frames), network.linearise(frames.read())
    assert torch.equal(network.infer(frames), network.infer(frames.read()))
    assert torch.equal(ours.vjp(u), theirs.vjp(u))


def test_any_number_of_threads_gives_the_same_bits(workers: Any) -> None:
    network, x, u = policy(), pictures(), drawn(ROWS, 3).float()
    v, found = drawn(size(network)).float(), []
    for number in (1, 2, 3):
        workers(number)
        model = network.linearise(x)
        found.append([network.infer(x), model.output, model.jvp(v), model.vjp(u)])
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_no_thread_keeps_a_graph(workers: Any) -> None:
    """It would hold the activations of every product, until the update ends."""
    network, x = policy(), pictures()
    for number in (1, 2):
        workers(number)
        theta = flat(network).requires_grad_()
        (gradient,) = torch.autograd.grad(network.outputs(theta, x).sum(), theta)
        assert not gradient.requires_grad


@pytest.mark.parametrize("distribution", [DiagonalGaussian(2), Categorical([3])])
def test_outputs_have_a_graph(distribution: Distribution) -> None:
    """Once differentiable piece by piece, and twice for the Hessian of the KL."""
    network, x = policy(distribution=distribution, activation="tanh").double(), pictures()
    theta = (flat(network) + 0.1 * drawn(size(network))).requires_grad_()
    u, gradients = drawn(*network(x).shape), []
    for twice in (False, True):
        found = network.outputs(theta, x)
        torch.testing.assert_close(found, outputs(network, theta, x))
        gradients.append(torch.autograd.grad((u * found).sum(), theta, create_graph=twice)[0])
    torch.testing.assert_close(*gradients)
    known = network.outputs(theta, x, known=found.detach())
    assert torch.equal(known, found)
    torch.testing.assert_close(torch.autograd.grad((u * known).sum(), theta)[0], gradients[0])
    assert torch.autograd.grad(gradients[1].square().sum(), theta)[0].any()


def test_a_gradient_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations that a graph and its outputs hold in a circle would wait for the collector, gigabytes of them."""
    traced: list[weakref.ref[Any]] = []
    original = convolutions.ImagePasses.trace

    def trace(self: Any, observation: Any) -> Any:
        found = original(self, observation)
        traced.append(weakref.ref(found))
        return found

    monkeypatch.setattr(convolutions.ImagePasses, "trace", trace)
    network, x = policy(), pictures(4)
    theta = flat(network).requires_grad_()
    gc.disable()
    try:
        torch.autograd.grad(network.outputs(theta, x).sum(), theta)
    finally:
        gc.enable()
    assert traced
    assert not any(ref() for ref in traced)


@pytest.mark.parametrize("distribution", [DiagonalGaussian(2), Categorical([3])])
def test_a_shared_trunk_is_passed_once(distribution: Distribution) -> None:
    network, x = policy(distribution=distribution).double(), pictures()
    critic = SharedCritic(network, coefficient=0.5).double()
    both = PolicyAndValue(network, critic)
    ours, theirs = both.linearise(x), linearise(both, x)
    u, v = drawn(*ours.output.shape), drawn(size(both), seed=2)
    torch.testing.assert_close(ours.output, theirs.output)
    assert torch.equal(ours.output, both.infer(x))
    torch.testing.assert_close(ours.jvp(v), theirs.jvp(v))
    torch.testing.assert_close(ours.vjp(u), theirs.vjp(u))
    torch.testing.assert_close(critic.predict(x), critic(x).detach())


def test_no_baseline_reads_no_frame() -> None:
    frames = Frames(torch.empty(0, 9, 7, dtype=torch.uint8), torch.zeros(5, 4, dtype=torch.int64))
    assert torch.equal(ZeroCritic().predict(frames), torch.zeros(5))
    assert torch.equal(ZeroCritic().predict(pictures(5)), torch.zeros(5))


def test_torch_has_one_thread_however_many_share_the_pieces(workers: Any) -> None:
    """A piece that is in pieces itself is done by the thread that has it: others might all be waiting for it."""

    def work(number: int) -> tuple[int, set[int]]:
        return torch.get_num_threads(), {threading.get_ident(), *in_order(lambda _: threading.get_ident(), range(3))}

    workers(2)
    done = [*in_order(work, range(6))]
    assert [threads for threads, _ in done] == [1] * 6
    assert all(len(some) == 1 and threading.get_ident() not in some for _, some in done)
    assert torch.get_num_threads() == 1


def test_the_papers_network_has_its_parameters() -> None:
    """The TRPO paper counts 33,500, with four frames of 52 x 40 pixels as channels, without padding."""
    node = composed("policy=cnn_paper")["policy"]
    spec = ObservationSpec((4, 52, 40), np.dtype(np.uint8), stack=4)
    assert size(policy(spec, Categorical([6]), hidden=node["hidden_sizes"], layers=node["convolutions"])) == 33_458


@pytest.mark.parametrize(
    ("option", "convolved", "hidden", "parameters"),
    [("cnn", [32, 64, 64], [512], 1_687_206), ("cnn_nips", [16, 32], [256], 677_686)],
)
def test_networks_of_mnih(option: str, convolved: list[int], hidden: list[int], parameters: int) -> None:
    for group in ("policy", "critic"):
        node = composed(f"{group}={option}")[group]
        assert [layer[0] for layer in node["convolutions"]] == convolved
        assert (node["hidden_sizes"], node["activation"]) == (hidden, "relu")
    spec = ObservationSpec((4, 84, 84), np.dtype(np.uint8), stack=4)
    network = policy(spec, Categorical([6]), hidden=hidden, layers=node["convolutions"])  # type: ignore[arg-type]
    assert size(network) == parameters
    assert not any(layer.bias.any() for layer in network.network.convolutions.layers)
    rows = network.network.convolutions.layers[0].weight.detach().flatten(1)
    torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(len(rows)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("group", ["policy", "critic"])
@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ("env=CartPole-v1",),
            "{group}: convolutions read images.*shape \\(4,\\) and is float64",
        ),
        (
            ("env=gym", "env.id=OldPictures-v0", "{group}.convolutions=[[4,2,1],[4,4,1]]"),
            r"{group}.convolutions\[1\]: a kernel of 4 x 4 pixels does not fit into the 3 x 2 this layer gets",
        ),
        (
            ("env=gym", "env.id=OldPictures-v0", "{group}.convolutions=[[4,2]]"),
            r"{group}.convolutions\[0\]: got \[4, 2\]; it should be \[CHANNELS, KERNEL, STRIDE\]",
        ),
        (
            ("env=gym", "env.id=OldPictures-v0", "{group}.convolutions=[4,2,1]"),
            r"{group}.convolutions\[0\]: got \[4, 2, 1\]; it should be a valid list, as in \[\[4, 2, 1\]\]",
        ),
        (
            ("env=gym", "env.id=OldPictures-v0", "{group}.convolutions=[[4,0,1]]"),
            r"{group}.convolutions\[0\]\[1\]: got",
        ),
    ],
)
def test_what_does_not_fit_is_refused(group: str, overrides: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem.format(group=group)):
        built(f"{group}=cnn", "plugins=[old_pictures]", *(one.format(group=group) for one in overrides))


def sampled(*overrides: str) -> tuple[Any, Any, Batch]:
    """The parts of a run and their algorithm, in float64, and a batch of it."""
    parts = built(*SEEN, *overrides)
    algorithm: Any = parts.algorithm
    for module in (parts.policy, parts.critic):
        module.double()
    batch, _ = algorithm.estimate(parts.sampler.collect(parts.policy))
    assert batch.states[0].old_parameters.dtype == torch.float64
    doubled = {name: value.double() for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return parts, algorithm, replace(batch, **doubled)


def test_a_step_of_trpo_is_that_of_a_dense_reference() -> None:
    """The Fisher matrix as the Hessian of the mean KL, the gradient by automatic differentiation, an exact solution."""
    overrides = ("critic=zero", "sampler.steps_per_iteration=160", "algo.damping=0.1", "algo.cg_iterations=400")
    parts, algorithm, batch = sampled("algo=trpo", *overrides, "algo.cg_tolerance=1e-12")
    theta, distribution, (states,) = flat(parts.policy), parts.policy.distribution, batch.states

    def kl(theta: Tensor) -> Tensor:
        new = outputs(parts.policy, theta, states.observation)
        return (batch.weight * distribution.kl(states.old_parameters, new)).mean()

    fisher = torch.autograd.functional.hessian(kl, theta)
    eye = torch.eye(len(theta), dtype=torch.float64)
    for metric in (gauss_newton, kl_hessian):
        product = metric(algorithm.geometry(states, batch.weight, batch.old_log_prob, batch.log_q))
        torch.testing.assert_close(torch.stack([product(v) for v in eye]), fisher, atol=1e-10, rtol=1e-6)
    log_prob = distribution.log_prob(
        outputs(parts.policy, theta.requires_grad_(), states.observation)[:, None], states.action
    )
    (gradient,) = torch.autograd.grad(algorithm.objective(log_prob, batch), theta)
    direction = torch.linalg.solve(fisher + algorithm.damping * eye, gradient)
    step = (2 * algorithm.delta / (direction @ fisher @ direction)).sqrt() * direction
    outcome, metrics = algorithm.update(batch)
    assert outcome.name == "ACCEPTED"
    moved = flat(parts.policy) - theta.detach()
    expected = step * 0.8 ** metrics["trust_region/backtracks"]
    torch.testing.assert_close(moved, expected, atol=1e-7 * step.abs().max().item(), rtol=1e-5)


@pytest.mark.parametrize("critic", ["zero", "shared"])
def test_a_minibatch_of_ppo_is_a_step_of_torchs_adam(critic: str) -> None:
    more = (
        "sampler.steps_per_iteration=320",
        "algo.epochs=1",
        "algo.minibatch_size=320",
        "algo.entropy_coefficient=0.01",
    )
    parts, algorithm, batch = sampled("algo=ppo", f"critic={critic}", *more)
    algorithm.theta, algorithm.optimizer = share_memory(algorithm.model), Adam(size(algorithm.model)).double()
    reference = copy.deepcopy(algorithm.model)
    optimizer = torch.optim.Adam(reference.parameters(), lr=algorithm.learning_rate, eps=algorithm.adam_epsilon)
    (states,), distribution = batch.states, parts.policy.distribution
    found = reference(states.observation)
    parameters, value = found[:, : states.old_parameters.shape[1]], found[:, -1]
    surrogate = algorithm.objective(distribution.log_prob(parameters[:, None], states.action), batch)
    loss = -surrogate - 0.01 * (batch.weight * distribution.entropy(parameters)).mean()
    if critic == "shared":
        loss = loss + 0.5 * (value - batch.return_).square().mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(reference.parameters(), algorithm.max_gradient_norm)
    optimizer.step()
    algorithm.update(batch)
    torch.testing.assert_close(flat(algorithm.model), flat(reference), atol=1e-9, rtol=1e-6)
