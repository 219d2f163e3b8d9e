"""Networks: the passes written out against automatic differentiation, and memory that is shared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import NO_MEMORY, vectors
from torch import Tensor, nn

from trpo_cli.data import Entry, ObservationSpec
from trpo_cli.models.adam import Adam
from trpo_cli.models.distributions import Categorical, DiagonalGaussian, Distribution
from trpo_cli.models.encoders import Encoder, MLPEncoder
from trpo_cli.models.layers import ACTIVATIONS, FEW, Tanh
from trpo_cli.models.linearisation import flat, linearise, outputs, share_memory
from trpo_cli.models.mlp import MLP, PIECE, MultiInput
from trpo_cli.models.networks import make_network
from trpo_cli.models.passes import Activation
from trpo_cli.models.policies.mlp import MLPPolicy

PLACES = ((0, 2), (2, 4), (6, 1))  # where the entries of an observation begin, and their sizes
SEVERAL = ObservationSpec(
    (7,), np.dtype(np.float64), entries=tuple(Entry(f"{i}", (n,), i, np.dtype(np.float64)) for i, n in PLACES)
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(activation: Activation, hidden: list[int]) -> MLP:
    torch.manual_seed(0)
    return MLP(3, hidden, 2, activation, 1.0).double()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [[], [5], [5, 1, 6]])
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


class Squares(Encoder):
    """An encoder that leaves its passes to automatic differentiation."""

    size = 3

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, self.size)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).square()  # type: ignore[no-any-return]


def several(hidden: list[int]) -> MultiInput:
    """A network with an encoder for each of three entries, of 2, 4 and 1 numbers."""
    torch.manual_seed(0)
    encoders = [MLPEncoder(2, [5, 3], "tanh"), Squares(), MLPEncoder(1, [3], "relu")]
    return MultiInput(encoders, [entry.place for entry in SEVERAL.entries], hidden, 2, "tanh", 1.0)


@pytest.mark.parametrize("hidden", [[], [5, 4]])
@pytest.mark.parametrize("rows", [7, FEW, PIECE + 2])
def test_products_go_through_the_encoders_of_entries(hidden: list[int], rows: int) -> None:
    network, x = several(hidden).double(), drawn(rows, SEVERAL.size)
    ours, theirs = network.linearise(x), linearise(network, x)
    u, v = drawn(rows, 2, seed=1), drawn(len(flat(network)), seed=2)
    for _ in range(2):
        torch.testing.assert_close(ours.output, theirs.output)
        torch.testing.assert_close(ours.jvp(v), theirs.jvp(v))
        torch.testing.assert_close(ours.vjp(u), theirs.vjp(u))
    torch.testing.assert_close(network.infer(x), network(x).detach())
    thetas = flat(network) + 0.1 * drawn(7, len(flat(network)))
    each = [outputs(network, theta, row[None])[0] for theta, row in zip(thetas, x[:7], strict=True)]
    torch.testing.assert_close(network.infer_each(thetas, x[:7]), torch.stack(each))


def test_an_encoder_reads_its_own_entry_alone() -> None:
    network, x = several([]), drawn(1, SEVERAL.size).float()
    for entry, encoder in zip(SEVERAL.entries, network.encoders, strict=True):
        moved = x.clone()
        moved[:, entry.place] += 1
        change = (network.features(moved) - network.features(x)).split([one.size for one in network.encoders], dim=1)
        assert [bool(part.any()) for part in change] == [one is encoder for one in network.encoders]


def test_without_layers_of_encoders_it_is_the_mlp() -> None:
    networks = []
    for sizes in ([], None):
        torch.manual_seed(0)
        networks.append(
            make_network(
                *(SEVERAL, 2),
                hidden_sizes=[4],
                encoder_sizes=sizes,
                convolutions=None,
                activation="tanh",
                output_gain=1.0,
                role="policy",
            )
        )
    assert all(type(network) is MLP for network in networks)
    assert torch.equal(flat(networks[0]), flat(networks[1]))


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


def test_adam_is_torchs() -> None:
    ours, theirs = drawn(6), nn.Parameter(drawn(6))
    optimizer = Adam(6).double()
    reference = torch.optim.Adam([theirs], eps=1e-5)
    for step in range(4):
        gradient, reference.param_groups[0]["lr"] = drawn(6, seed=step), 0.1 / (1 + step)
        theirs.grad = gradient
        optimizer.step(ours, gradient, 0.1 / (1 + step), epsilon=1e-5)
        reference.step()
    torch.testing.assert_close(ours, theirs.detach())


def test_a_large_batch_in_pieces_is_the_batch() -> None:
    mlp, x = network("tanh", [5]), drawn(2 * PIECE + 3, 3)
    ours, theirs = mlp.linearise(x), linearise(mlp, x)
    u, v = drawn(len(x), 2, seed=1), drawn(len(flat(mlp)), seed=2)
    torch.testing.assert_close(ours.output, theirs.output)
    torch.testing.assert_close(ours.jvp(v), theirs.jvp(v))
    torch.testing.assert_close(ours.vjp(u), theirs.vjp(u))
