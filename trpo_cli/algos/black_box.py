"""Search in parameter space, without a gradient: draw candidates, play whole episodes, move towards the better ones.

These are baselines of the TRPO paper (section 8.1: the cross-entropy method and CMA) and random search. A method says
which candidates to try (`ask`) and what their returns tell it (`tell`); the policy is always its best guess, `mean`.

Sizes: C candidates, D parameters. The search is in float64 on the CPU; candidates are played in float32.
"""

from __future__ import annotations

import copy
import time
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from cmaes import CMA, SepCMA  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn.utils import vector_to_parameters

from trpo_cli.algos import Iteration, Outcome
from trpo_cli.algos.patience import PatientAlgorithm
from trpo_cli.errors import ConfigError
from trpo_cli.models.critics import ZeroCritic
from trpo_cli.models.linearisation import flat
from trpo_cli.models.policies import Policy
from trpo_cli.ranges import Count, Fraction, NonNegative, NonNegativeInt, Positive
from trpo_cli.samplers.whole_episodes import WholeEpisodes


@dataclass(kw_only=True, eq=False)
class BlackBox(PatientAlgorithm):
    """Shared by the methods of the family."""

    sampler: WholeEpisodes
    policy: Policy
    critic: ZeroCritic  # nothing else would be used
    generator: torch.Generator
    mean: Tensor = field(init=False)  # (D,), the best guess

    def __post_init__(self) -> None:
        if self.policy.memory_size and type(self.policy).actor_each is Policy.actor_each:
            name = type(self.policy).__name__
            raise ConfigError(f"policy: {name} has a memory, and no {name}.actor_each, in which candidates have theirs")
        self.mean = flat(self.policy).cpu().double()

    def iterate(self) -> Iteration:
        self._check_patience()
        start = time.perf_counter()
        candidates = self.ask()
        asked = time.perf_counter()
        returns = self.sampler.play(self.policy, candidates)
        sampled = time.perf_counter()
        spread = (candidates - self.mean).square().mean().sqrt().item()
        outcome = self._learn(candidates, returns)
        self._note(outcome)
        metrics = {
            **self.sampler.metrics(),
            **outcome.metrics(),
            "search/best_return": returns.max().item(),
            "search/mean_return": returns.mean().item(),
            "search/sigma": spread,
        }
        update_seconds = (asked - start) + (time.perf_counter() - sampled)
        return Iteration(self.sampler.env_steps, sampled - asked, update_seconds, metrics)

    def _learn(self, candidates: Tensor, returns: Tensor) -> Outcome:
        """Move the search, and the policy with it; leave both as they were if any number would not be finite."""
        before, theta_old = copy.deepcopy(self.state_dict()), self.mean.float()
        self.tell(candidates, returns)
        tensors = [value for value in self.state_dict().values() if isinstance(value, Tensor)]
        if not all(tensor.float().isfinite().all() for tensor in tensors):
            self.load_state_dict(before)
            return Outcome.NON_FINITE_LOSS
        theta = self.mean.float()
        if torch.equal(theta, theta_old):
            return Outcome.ZERO_GRADIENT
        parameter = next(self.policy.parameters())
        vector_to_parameters(theta.to(parameter.device, parameter.dtype), self.policy.parameters())
        return Outcome.ACCEPTED

    @abstractmethod
    def ask(self) -> Tensor:
        """Candidates (C, D) float64 to try."""

    @abstractmethod
    def tell(self, candidates: Tensor, returns: Tensor) -> None:
        """Learn from the returns (C,) of the candidates that `ask` returned last, and set `mean`."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "mean": self.mean, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.mean = state["mean"]
        self.generator.set_state(state["generator"])

    def _normal(self, rows: int) -> Tensor:
        """Standard normal numbers (rows, D)."""
        return torch.randn(rows, len(self.mean), generator=self.generator, dtype=torch.float64)


@dataclass(kw_only=True, eq=False)
class CrossEntropy(BlackBox):
    """The cross-entropy method with decreasing noise (Szita & Lorincz 2006, section 3).

    Independent normal parameters are fitted to the elite; variance is added, ever less, against converging too early.
    """

    population_size: Count
    elite_fraction: Fraction
    initial_std: Positive
    extra_variance: NonNegative  # added in the first generation
    extra_generations: Count  # until none is added
    std: Tensor = field(init=False)  # (D,)
    generation: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.elite_size = round(self.elite_fraction * self.population_size)
        if self.elite_size < 2:
            raise ConfigError(
                f"algo.elite_fraction: {self.elite_fraction} of {self.population_size} candidates is not even 2"
            )
        self.std = torch.full_like(self.mean, self.initial_std)

    @property
    def only_at_first(self) -> tuple[str, ...]:
        return ("population_size", "elite_fraction", "initial_std")

    def ask(self) -> Tensor:
        return self.mean + self.std * self._normal(self.population_size)

    def tell(self, candidates: Tensor, returns: Tensor) -> None:
        elite = candidates[returns.argsort(descending=True, stable=True)[: self.elite_size]]
        extra = self.extra_variance * max(0.0, 1 - self.generation / self.extra_generations)
        self.mean, self.std = elite.mean(0), (elite.var(0, correction=0) + extra).sqrt()
        self.generation += 1

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "std": self.std, "generation": self.generation}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.std, self.generation = state["std"], state["generation"]


@dataclass(kw_only=True, eq=False)
class CMAES(BlackBox):
    """CMA-ES (Hansen 2016, arXiv:1604.00772); for many parameters sep-CMA-ES, whose covariance is diagonal.

    The latter is of Ros & Hansen 2008. Both are those of the library `cmaes`, which minimises.
    """

    population_size: Annotated[int, Ge(4)]  # with fewer, a single one is recombined, and the learning rates divide by 0
    initial_std: Positive
    largest_full: NonNegativeInt  # parameters: with more, the covariance is diagonal

    def __post_init__(self) -> None:
        super().__post_init__()
        self.optimizer = self._new_optimizer(seed=int(torch.randint(2**32, (), generator=self.generator)))

    @property
    def only_at_first(self) -> tuple[str, ...]:
        return ("population_size", "initial_std", "largest_full")

    def _new_optimizer(self, seed: int | None = None) -> CMA | SepCMA:
        kind = CMA if len(self.mean) <= self.largest_full else SepCMA
        mean = self.mean.numpy().copy()  # the library writes over it
        return kind(mean=mean, sigma=self.initial_std, population_size=self.population_size, seed=seed)

    def ask(self) -> Tensor:
        return torch.from_numpy(np.stack([self.optimizer.ask() for _ in range(self.population_size)]))

    def tell(self, candidates: Tensor, returns: Tensor) -> None:
        self.optimizer.tell(list(zip(candidates.numpy(), (-returns).tolist(), strict=True)))
        self.mean = torch.from_numpy(self.optimizer.mean.copy())

    def state_dict(self) -> dict[str, Any]:
        """What changes of the optimiser, between two generations; the rest follows from the configuration."""
        optimizer = self.optimizer
        random = optimizer._rng.get_state(legacy=False)
        return {
            **super().state_dict(),
            "covariance": torch.from_numpy(optimizer._C.copy()),
            "sigma": torch.tensor(optimizer._sigma, dtype=torch.float64),
            "sigma_path": torch.from_numpy(optimizer._p_sigma.copy()),
            "covariance_path": torch.from_numpy(optimizer._pc.copy()),
            "generation": optimizer.generation,
            "random_key": torch.from_numpy(random["state"]["key"].astype(np.int64)),
            "random_position": int(random["state"]["pos"]),
            "random_has_gauss": int(random["has_gauss"]),
            "random_gauss": float(random["gauss"]),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.optimizer = optimizer = self._new_optimizer()
        optimizer._C = state["covariance"].numpy().copy()
        optimizer._sigma = state["sigma"].item()
        optimizer._p_sigma = state["sigma_path"].numpy().copy()
        optimizer._pc = state["covariance_path"].numpy().copy()
        optimizer._g = state["generation"]
        optimizer._rng.set_state(
            {
                "bit_generator": "MT19937",
                "state": {"key": state["random_key"].numpy().astype(np.uint32), "pos": state["random_position"]},
                "has_gauss": state["random_has_gauss"],
                "gauss": state["random_gauss"],
            }
        )


@dataclass(kw_only=True, eq=False)
class RandomSearch(BlackBox):
    """Augmented random search (Mania et al. 2018, algorithm 2; V2-t where observations are normalised, V1-t if not)."""

    directions: Count  # each is tried both ways
    top_directions: Count  # those with the best return either way, which make the step
    step_size: Positive  # alpha
    noise: Positive  # nu, the standard deviation of the candidates

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_directions > self.directions:
            raise ConfigError(f"algo.top_directions: {self.top_directions} is more than all {self.directions}")

    def ask(self) -> Tensor:
        moved = self.noise * self._normal(self.directions)
        return torch.cat([self.mean + moved, self.mean - moved])

    def tell(self, candidates: Tensor, returns: Tensor) -> None:
        forward, backward = returns.chunk(2)
        top = torch.maximum(forward, backward).argsort(descending=True, stable=True)[: self.top_directions]
        deviation = torch.cat([forward[top], backward[top]]).std(correction=0)
        if deviation == 0:  # all returns are the same, and so no direction is better than another
            return
        direction = (candidates[: self.directions] - self.mean)[top] / self.noise
        slope = (forward - backward)[top] @ direction
        self.mean = self.mean + self.step_size / (self.top_directions * deviation) * slope
