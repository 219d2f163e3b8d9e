"""Networks: the passes written out against automatic differentiation, and memory that is shared."""

from __future__ import annotations

import pytest
import torch
from conftest import NO_MEMORY, vectors
from torch import Tensor, nn

from trpo_cli.models.adam import Adam
from trpo_cli.models.distributions import Categorical, DiagonalGaussian, Distribution
from trpo_cli.models.linearisation import flat, linearise, outputs, share_memory
from trpo_cli.models.networks import ACTIVATIONS, FEW, MLP, PIECE, Activation, Tanh
from trpo_cli.models.policies.mlp import MLPPolicy
from trpo_cli.threads import WORTH_THREADS, limit_threads, threads_for


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(activation: Activation, hidden: list[int]) -> MLP:
    torch.manual_seed(0)
    return MLP(3, hidden, 2, activation, 1.0).double()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [[], [5], [5, 4, 6]])
@pytest.mark.parametrize("rows", [7, FEW])
def test_written_out_passes_are_those_of_automatic_differentiation(
    activation: Activation, hidden: list[int], rows: int
) -> None:
    mlp, x = network(activation, hidden), drawn(rows, 3)
    ours, theirs = mlp.linearise(x), linearise(mlp, x)
    u, v = drawn(rows, 2, seed=1), drawn(len(flat(mlp)), seed=2)
    for _ in range(2):  # a product changes nothing that the next one needs
        torch.testing.assert_close(ours.output, theirs.output)
        torch.testing.assert_close(ours.jvp(v), theirs.jvp(v))
        torch.testing.assert_close(ours.vjp(u), theirs.vjp(u))
    torch.testing.assert_close(mlp.infer(x), mlp(x).detach())


@pytest.mark.parametrize("distribution", [DiagonalGaussian(2), Categorical([3, 2])])
def test_a_policys_products_are_those_of_automatic_differentiation(distribution: Distribution) -> None:
    torch.manual_seed(0)
    policy = MLPPolicy(
        vectors(3), distribution, hidden_sizes=[5], activation="tanh", output_gain=1.0, initial_log_std=-0.3
    )
    policy, x = policy.double(), drawn(7, 3)
    ours, theirs = policy.linearise(x), linearise(policy, x)
    u, v = drawn(*ours.output.shape, seed=1), drawn(len(flat(policy)), seed=2)
    torch.testing.assert_close(ours.output, theirs.output)
    torch.testing.assert_close(ours.jvp(v), theirs.jvp(v))
    torch.testing.assert_close(ours.vjp(u), theirs.vjp(u))
    torch.testing.assert_close(policy.infer(x), policy(x).detach())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("distribution", [DiagonalGaussian(2), Categorical([3, 2])])
def test_a_policy_acts_as_its_distribution_samples(distribution: Distribution, activation: Activation) -> None:
    torch.manual_seed(0)
    policy = MLPPolicy(
        vectors(3), distribution, hidden_sizes=[5], activation=activation, output_gain=1.0, initial_log_std=-0.3
    )
    x, noise = drawn(7, 3).float(), distribution.noise((7,), torch.Generator().manual_seed(1))
    action = torch.from_numpy(policy.actor()(x.numpy(), NO_MEMORY, noise.numpy())[0])
    torch.testing.assert_close(action, distribution.sample(policy.infer(x), noise))


def test_products_are_derivatives() -> None:
    """J v is how the outputs move along v, by central differences."""
    mlp, x = network("tanh", [5, 4]), drawn(7, 3)
    theta, v, epsilon = flat(mlp), drawn(len(flat(mlp)), seed=2), 1e-6
    moved = (outputs(mlp, theta + epsilon * v, x) - outputs(mlp, theta - epsilon * v, x)) / (2 * epsilon)
    torch.testing.assert_close(mlp.linearise(x).jvp(v), moved.detach(), atol=1e-8, rtol=1e-6)


def test_tanh_is_tanh() -> None:
    x = torch.linspace(-100, 100, 2001)
    torch.testing.assert_close(Tanh()(x), x.tanh(), atol=2e-7, rtol=0)


def test_to_write_the_shared_vector_is_to_move_the_module() -> None:
    mlp, x = network("relu", [5]), drawn(7, 3)
    theta = share_memory(mlp)
    before = mlp(x)
    theta.mul_(2)
    assert torch.equal(flat(mlp), theta)
    assert not torch.equal(mlp(x), before)
    mlp.load_state_dict({name: torch.ones_like(value) for name, value in mlp.state_dict().items()})
    assert torch.equal(theta, torch.ones_like(theta))


def test_threads_are_given_back() -> None:
    try:
        limit_threads(updates=2)
        for rows, wanted in ((WORTH_THREADS, 2), (WORTH_THREADS - 1, 1)):
            with threads_for(rows):
                assert torch.get_num_threads() == wanted
            assert torch.get_num_threads() == 1
    finally:
        limit_threads()


def test_adam_is_torchs() -> None:
    ours, theirs = drawn(6), nn.Parameter(drawn(6))
    optimizer = Adam(6, epsilon=1e-5).double()
    reference = torch.optim.Adam([theirs], eps=1e-5)
    for step in range(4):
        gradient, reference.param_groups[0]["lr"] = drawn(6, seed=step), 0.1 / (1 + step)
        theirs.grad = gradient
        optimizer.step(ours, gradient, 0.1 / (1 + step))
        reference.step()
    torch.testing.assert_close(ours, theirs.detach())


def test_a_large_batch_in_pieces_is_the_batch() -> None:
    mlp, x = network("tanh", [5]), drawn(2 * PIECE + 3, 3)
    ours, theirs = mlp.linearise(x), linearise(mlp, x)
    u, v = drawn(len(x), 2, seed=1), drawn(len(flat(mlp)), seed=2)
    torch.testing.assert_close(ours.output, theirs.output)
    torch.testing.assert_close(ours.jvp(v), theirs.jvp(v))
    torch.testing.assert_close(ours.vjp(u), theirs.vjp(u))
