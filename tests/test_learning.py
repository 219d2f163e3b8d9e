"""Learning, over seeds: what every method reaches on CartPole within 200,000 steps, in four seeds of five."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

import pytest
from conftest import built

from trpo_cli.play.episodes import Episodes

STEPS, SEEDS = 200_000, 5
SOLVED = 475.0  # Gymnasium's threshold
METHODS: dict[tuple[str, ...], float] = {
    **{
        (f"algo={algo}",): SOLVED
        for algo in (
            *("trpo", "trpo_max_kl", "trpo_empirical_fisher", "trpo_penalty", "npg", "npg_fixed"),
            *("vpg", "vpg_adam", "ppo", "ppo_penalty"),
        )
    },
    ("algo=trpo", "experiment=closed_vine"): 350.0,
    ("algo=a2c",): 350.0,
    ("algo=rwr", "critic=mlp"): SOLVED,
    ("algo=rwr",): 150.0,  # without a baseline
}
SEARCHES = ("cem", "cma_es", "random_search")


def best_training_return(overrides: tuple[str, ...], wanted: float, seed: int) -> float:
    """The best mean over the last 100 episodes within `STEPS`; ends as soon as it is what was wanted."""
    parts = built(*overrides, "env=CartPole-v1", f"seed={seed}", f"total_steps={STEPS}")
    best, steps = 0.0, 0.0
    while steps < STEPS and best < wanted:
        iteration = parts.iterate(steps / STEPS)
        steps = iteration.env_steps
        best = max(best, iteration.metrics["rollout/episode_return_mean"] or 0.0)
    return best


def evaluation_of_the_best_guess(algo: str, seed: int) -> float:
    """After `STEPS`: what a search plays while it learns are candidates about its best guess."""
    parts = built(f"algo={algo}", "policy=linear", "env=CartPole-v1", f"seed={seed}")
    while parts.sampler.env_steps < STEPS:
        parts.iterate(0.0)
    return float(parts.evaluate(Episodes(20, 500), seed).returns.mean())


@pytest.mark.slow
@pytest.mark.parametrize("overrides", METHODS, ids=" ".join)
def test_cartpole_is_learned_in_four_of_five_seeds(overrides: tuple[str, ...]) -> None:
    wanted = METHODS[overrides]
    with ProcessPoolExecutor(2) as pool:
        returns = list(pool.map(best_training_return, [overrides] * SEEDS, [wanted] * SEEDS, range(SEEDS)))
    assert sum(value >= wanted for value in returns) >= 4, returns


@pytest.mark.slow
@pytest.mark.parametrize("algo", SEARCHES)
def test_searches_find_a_policy_for_cartpole_in_four_of_five_seeds(algo: str) -> None:
    with ProcessPoolExecutor(2) as pool:
        returns = list(pool.map(evaluation_of_the_best_guess, [algo] * SEEDS, range(SEEDS)))
    assert sum(value >= SOLVED for value in returns) >= 4, returns
