"""Every distribution against torch's own, against Monte Carlo, and its Fisher matrix against a Hessian."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, kl_divergence

from trpo_cli.models.distributions import Categorical, DiagonalGaussian, Distribution

STATES = 5
FAMILIES: dict[str, tuple[Distribution, int]] = {
    "gaussian": (DiagonalGaussian(3), 6),
    "categorical": (Categorical([4]), 4),
    "factored": (Categorical([3, 2, 4]), 9),
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[Distribution, Tensor, Tensor]:
    """A distribution, and two sets of parameters (S, P)."""
    distribution, size = FAMILIES[request.param]
    generator = torch.Generator().manual_seed(0)
    old, new = torch.randn(2, STATES, size, generator=generator, dtype=torch.float64)
    return distribution, old, new


def drawn(distribution: Distribution, parameters: Tensor, seed: int) -> Tensor:
    noise = distribution.noise(parameters.shape[:-1], torch.Generator().manual_seed(seed))
    return distribution.sample(parameters, noise.to(parameters.dtype))


def reference(distribution: Distribution, parameters: Tensor) -> list[torch.distributions.Distribution]:
    """The same distribution in torch's words: independent factors."""
    if isinstance(distribution, DiagonalGaussian):
        mean, log_std = parameters.chunk(2, dim=-1)
        return [Independent(Normal(mean, log_std.exp()), 1)]
    assert isinstance(distribution, Categorical)
    return [TorchCategorical(logits=logits) for logits in parameters.split(distribution.sizes, dim=-1)]


def test_log_prob_entropy_and_kl_are_torchs(family: tuple[Distribution, Tensor, Tensor]) -> None:
    distribution, old, new = family
    action = drawn(distribution, old, 1)
    factors = [action] if isinstance(distribution, DiagonalGaussian) else list(action.unbind(-1))
    p, q = reference(distribution, old), reference(distribution, new)
    torch.testing.assert_close(
        distribution.log_prob(new, action), sum(f.log_prob(a) for f, a in zip(q, factors, strict=True))
    )
    torch.testing.assert_close(distribution.entropy(old), sum(f.entropy() for f in p))
    torch.testing.assert_close(distribution.kl(old, new), sum(kl_divergence(a, b) for a, b in zip(p, q, strict=True)))


def test_samples_have_the_stated_law(family: tuple[Distribution, Tensor, Tensor]) -> None:
    """Monte Carlo within four standard errors: E[-log p] is the entropy, E[log p - log q] the KL."""
    distribution, old, new = family
    draws = 20_000
    many_old, many_new = old.repeat_interleave(draws, 0), new.repeat_interleave(draws, 0)
    action = drawn(distribution, many_old, 2)
    log_p, log_q = (distribution.log_prob(p, action).view(STATES, draws) for p in (many_old, many_new))
    for sample, expected in ((-log_p, distribution.entropy(old)), (log_p - log_q, distribution.kl(old, new))):
        error = sample.std(1) / draws**0.5
        assert ((sample.mean(1) - expected).abs() < 4 * error).all()


def test_kl_is_zero_only_at_equality_and_not_symmetric(family: tuple[Distribution, Tensor, Tensor]) -> None:
    distribution, old, new = family
    torch.testing.assert_close(distribution.kl(old, old), torch.zeros(STATES, dtype=torch.float64))
    assert (distribution.kl(old, new) > 0).all()
    assert not torch.allclose(distribution.kl(old, new), distribution.kl(new, old))


def test_fisher_is_the_hessian_of_the_kl(family: tuple[Distribution, Tensor, Tensor]) -> None:
    distribution, old, vector = family
    for state, v in zip(old, vector, strict=True):
        hessian = torch.autograd.functional.hessian(
            lambda new, s=state: distribution.kl(s[None], new[None]).sum(), state
        )
        torch.testing.assert_close(distribution.fisher(state[None], v[None])[0], hessian @ v)


def test_the_score_is_the_gradient_of_log_prob(family: tuple[Distribution, Tensor, Tensor]) -> None:
    distribution, old, new = family
    action, parameters = drawn(distribution, new, 4), old.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(distribution.log_prob(parameters, action).sum(), parameters)
    torch.testing.assert_close(distribution.score(old, action), gradient)


def test_fisher_is_the_covariance_of_the_score(family: tuple[Distribution, Tensor, Tensor]) -> None:
    distribution, old, vector = family
    draws = 40_000
    state, v = old[:1].repeat(draws, 1), vector[:1]
    score = distribution.score(state, drawn(distribution, state, 3))
    products = score * (score @ v[0])[:, None]
    error = products.std(0) / draws**0.5
    assert ((products.mean(0) - distribution.fisher(old[:1], v)[0]).abs() < 4.5 * error + 1e-9).all()


def test_mode_is_the_likeliest_action(family: tuple[Distribution, Tensor, Tensor]) -> None:
    distribution, old, _ = family
    best = distribution.log_prob(old, distribution.mode(old))
    for seed in range(50):
        action = drawn(distribution, old, seed)
        assert (distribution.log_prob(old, action) <= best + 1e-12).all()


def test_a_certain_category_is_always_drawn() -> None:
    logits = torch.tensor([[-1e4, 0.0, -1e4]]).repeat(1000, 1)
    assert (drawn(Categorical([3]), logits, 0) == 1).all()


def test_the_largest_noise_draws_the_last_category() -> None:
    """Rounding may take it beyond the sum of the probabilities."""
    assert Categorical([3]).sample(torch.zeros(1, 3), torch.ones(1, 1)).item() == 2


def test_one_category_has_nothing_to_choose() -> None:
    """A single action: entropy, KL and Fisher matrix are zero, and nothing is NaN."""
    family, parameters = Categorical([1]), torch.randn(3, 1)
    zeros = torch.zeros(3)
    torch.testing.assert_close(family.entropy(parameters), zeros)
    torch.testing.assert_close(family.kl(parameters, parameters + 1), zeros)
    torch.testing.assert_close(family.fisher(parameters, torch.ones(3, 1)), zeros[:, None])


def test_the_same_noise_gives_the_same_action(family: tuple[Distribution, Tensor, Tensor]) -> None:
    """What the branches of a vine share, and what lets a rollout draw all its noise at once."""
    distribution, old, _ = family
    generator = torch.Generator().manual_seed(0)
    noise = distribution.noise((5, STATES), generator).double()
    many = distribution.sample(old.repeat(5, 1), noise.flatten(0, 1))
    assert torch.equal(many, torch.cat([distribution.sample(old, step) for step in noise]))
