"""Whole episodes are what a plain loop plays; each search finds optima, forgets nothing and refuses nonsense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import probes  # noqa: F401  registers the probe environments
import pytest
import torch
from conftest import Command, built, quiet_make, thinned
from exactness import exactly
from torch import Tensor

from trpo_cli.algos import Outcome
from trpo_cli.algos.black_box import CMAES, BlackBox, CrossEntropy, RandomSearch
from trpo_cli.errors import ConfigError, TrainingError
from trpo_cli.models.linearisation import flat, size
from trpo_cli.models.policies import Policy
from trpo_cli.parts import Parts
from trpo_cli.play.episodes import Episodes
from trpo_cli.run import checkpoint
from trpo_cli.samplers.whole_episodes import WholeEpisodes
from trpo_cli.seeding import environment_seeds, torch_generator

METHODS = {
    "cem": ("algo=cem",),
    "cma_es": ("algo=cma_es",),
    "sep_cma_es": ("algo=cma_es", "algo.largest_full=0"),
    "random_search": ("algo=random_search",),
}
each_method = pytest.mark.parametrize("method", METHODS)


def parts(method: str, *more: str) -> Parts:
    settings = ("policy=linear", "env=CartPole-v1")
    return built(*METHODS[method], *settings, *more)


def searched(run: Parts) -> BlackBox:
    assert isinstance(run.algorithm, BlackBox)
    return run.algorithm


def player(*more: str) -> tuple[WholeEpisodes, Policy]:
    run = parts("cem", *more)
    assert isinstance(run.sampler, WholeEpisodes)
    return run.sampler, run.policy


def candidates(policy: Policy, count: int, scale: float = 0.5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(count, size(policy), generator=generator, dtype=torch.float64)


# --- whole episodes


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize(("env", "limit"), [("CartPole-v1", 40), ("Pendulum-v1", 25), ("Hopper-v4", 40)])
@pytest.mark.parametrize("policy", ["linear", "mlp"])
def test_returns_are_those_of_a_plain_loop(env: str, limit: int, policy: str, sample: bool) -> None:
    each, seed = 2, 3
    sampler, network = player(
        f"env={env}",
        f"policy={policy}",
        f"seed={seed}",
        "env.normalize_observation=false",
        "sampler.num_envs=3",
        f"sampler.episodes_per_candidate={each}",
        f"sampler.max_episode_steps={limit}",
        f"sampler.sample_actions={sample}",
    )
    thetas = candidates(network, 5)
    plain, distribution = quiet_make(env), network.distribution
    for generation in range(2):
        seeds = environment_seeds(seed, f"episodes of generation {generation}", each)
        noise = distribution.noise((each, limit), torch_generator(seed, f"actions of generation {generation}"))
        expected = []
        for theta in thetas.float():
            returns = []
            for episode in range(each):
                observation, ended, total, time = plain.reset(seed=seeds[episode])[0], False, 0.0, 0
                while not ended and time < limit:
                    row = torch.from_numpy(observation.astype(np.float32))[None]
                    parameters = network.infer_each(theta[None], row)
                    sampled = distribution.sample(parameters, noise[episode, time][None])
                    action = (sampled if sample else distribution.mode(parameters))[0].numpy()
                    box = hasattr(plain.action_space, "low")
                    taken = action.clip(plain.action_space.low, plain.action_space.high) if box else int(action[0])
                    observation, reward, terminated, truncated, _ = plain.step(taken)
                    total, time, ended = total + reward, time + 1, terminated or truncated
                returns.append(total)
            expected.append(np.mean(returns))
        np.testing.assert_array_equal(sampler.play(network, thetas), expected)


@pytest.mark.parametrize("policy", ["linear", "mlp"])
def test_returns_depend_neither_on_the_number_of_environments_nor_on_threads(policy: str) -> None:
    results = []
    for num_envs, threads in ((1, 1), (4, 2), (16, 1)):
        sampler, network = player(
            "env=Hopper-v4",
            f"policy={policy}",
            "env.normalize_observation=false",
            f"sampler.num_envs={num_envs}",
            f"sampler.num_threads={threads}",
            "sampler.sample_actions=true",
        )
        returns = [sampler.play(network, candidates(network, 6)) for _ in range(2)]
        results.append((torch.cat(returns).tolist(), sampler.metrics()))
    assert results[0] == results[1] == results[2]
    assert len(set(results[0][0])) == 12


def test_candidates_of_a_generation_meet_the_same_episodes_and_the_next_meets_others() -> None:
    sampler, network = player("sampler.num_envs=4", "sampler.episodes_per_candidate=3", "sampler.sample_actions=true")
    alike = candidates(network, 1).expand(7, -1)
    first, second = sampler.play(network, alike), sampler.play(network, alike)
    assert len(set(first.tolist())) == len(set(second.tolist())) == 1
    assert first[0] != second[0]


def test_every_step_of_every_environment_counts() -> None:
    """Seven episodes of three steps over four environments: in the second round, one of them plays for nothing."""
    sampler, network = player("env=gym", "env.id=Probe/TimeLimit-v0", "sampler.num_envs=4")
    returns = sampler.play(network, candidates(network, 7))
    assert returns.tolist() == [3.0] * 7
    assert sampler.env_steps == 4 * sampler.environments[0].steps == 2 * 3 * 4
    assert sampler.metrics() == {
        "rollout/episode_return_mean": 3.0,
        "rollout/recent_return_mean": 3.0,
        "rollout/episode_length_mean": 3.0,
        "rollout/episodes": 7.0,
    }


def test_an_environment_takes_the_next_episode_at_once() -> None:
    """Long and short episodes: the steps of all environments together are hardly more than those that count."""
    sampler, network = player("sampler.num_envs=4", "sampler.episodes_per_candidate=20")
    sampler.play(network, candidates(network, 10))
    assert sampler.episodes.finished == 200
    alone, same_network = player("sampler.num_envs=1", "sampler.episodes_per_candidate=20")
    alone.play(same_network, candidates(network, 10))
    longest = max(alone.episodes.lengths)
    assert alone.env_steps <= sampler.env_steps < alone.env_steps + 4 * longest


def test_statistics_change_only_between_generations_and_learn_what_counts() -> None:
    def played(num_envs: int) -> WholeEpisodes:
        sampler, network = player(
            "env=Pendulum-v1",
            "env.normalize_observation=true",
            "sampler.max_episode_steps=20",
            f"sampler.num_envs={num_envs}",
        )
        sampler.play(network, candidates(network, 5))
        return sampler

    one, four = played(1).normalizer.moments, played(4).normalizer.moments
    assert one.count == four.count == 5 * 20  # the fourth environment's second round is not counted
    np.testing.assert_allclose(one.mean, four.mean, rtol=1e-12)
    np.testing.assert_allclose(one.variance, four.variance, rtol=1e-12)


@pytest.mark.parametrize("env", ["CartPole-v1", "Hopper-v4"])
@pytest.mark.parametrize("policy", ["linear", "mlp"])
def test_each_row_is_inferred_with_its_own_parameters(env: str, policy: str) -> None:
    sampler, network = player(f"env={env}", f"policy={policy}")
    thetas = candidates(network, 6).float()
    observation = torch.randn(6, sampler.environments[0].spec.size, generator=torch.Generator().manual_seed(1))
    expected = []
    for theta, row in zip(thetas, observation, strict=True):
        torch.nn.utils.vector_to_parameters(theta, network.parameters())
        expected.append(network.infer(row[None]))
    torch.testing.assert_close(network.infer_each(thetas, observation), torch.cat(expected))
    torch.testing.assert_close(Policy.infer_each(network, thetas, observation), torch.cat(expected))


# --- the searches


@each_method
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_finds_the_optimum_of_a_quadratic(method: str, noise: float) -> None:
    """Of differently steep axes, and with returns that are a little wrong."""
    search = searched(parts(method, "algo.extra_generations=20" if method == "cem" else "seed=0"))
    optimum = torch.linspace(-1, 1, len(search.mean), dtype=torch.float64)
    steepness = torch.linspace(1, 5, len(search.mean), dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    start = (search.mean - optimum).norm()
    for _ in range(150):
        asked = search.ask()
        returns = -((asked - optimum).square() * steepness).sum(1)
        search.tell(asked, returns + noise * torch.randn(returns.shape, generator=generator, dtype=torch.float64))
    assert (search.mean - optimum).norm() < 0.3 * start


@pytest.mark.parametrize("method", thinned(3, METHODS))
def test_cartpole_is_balanced_the_same_way_twice(method: str) -> None:
    def learnt() -> tuple[float, list[Any]]:
        run = parts(method)
        rows = [run.iterate(0.0).metrics for _ in range(12)]
        return float(run.evaluate(Episodes(10, 1000), 0).returns.mean()), rows

    reached, rows = learnt()
    assert reached >= 200
    assert (reached, rows) == learnt()


@each_method
def test_goes_on_from_a_checkpoint_as_if_nothing_had_happened(method: str, tmp_path: Path) -> None:
    def rows(run: Parts) -> list[Any]:
        return [run.iterate(0.5).metrics for _ in range(3)]

    settings = ["env=Pendulum-v1", "env.max_episode_steps=20", "sampler.num_envs=5"]
    if "cma" in method:
        settings.append("algo.population_size=5")  # an odd number of normal numbers, which are drawn in pairs
    run, again = (parts(method, *settings) for _ in range(2))
    rows(run)
    checkpoint.save(tmp_path / "state", run.state_dict())
    again.load_state_dict(checkpoint.load(tmp_path / "state"))
    assert exactly(run.state_dict(), again.state_dict())
    assert rows(run) == rows(again)
    assert exactly(run.state_dict(), again.state_dict())


@each_method
def test_the_policy_is_the_best_guess(method: str) -> None:
    run = parts(method)
    before = flat(run.policy)
    row = run.iterate(0.0).metrics
    assert row["trust_region/accepted"] == 1
    assert torch.equal(flat(run.policy), searched(run).mean.float())
    assert not torch.equal(flat(run.policy), before)
    assert row["search/best_return"] >= row["search/mean_return"] == row["rollout/episode_return_mean"]


def test_cross_entropy_fits_the_elite_and_adds_ever_less_variance() -> None:
    search = searched(parts("cem", "algo.population_size=4", "algo.elite_fraction=0.5", "algo.extra_variance=3"))
    assert isinstance(search, CrossEntropy)
    search.extra_generations = 2
    asked = torch.tensor([1.0, 5.0, 3.0, 100.0], dtype=torch.float64)[:, None].expand(4, len(search.mean))
    for extra in (3.0, 1.5, 0.0, 0.0):
        search.tell(asked, torch.tensor([2.0, -1.0, 1.0, -2.0]))  # the first and the third are the elite
        torch.testing.assert_close(search.mean, torch.full_like(search.mean, 2.0))
        torch.testing.assert_close(search.std, torch.full_like(search.mean, (1 + extra) ** 0.5))


def test_random_search_weighs_the_top_directions_by_their_slopes() -> None:
    search = searched(
        parts("random_search", "algo.directions=3", "algo.top_directions=2", "algo.step_size=0.5", "algo.noise=0.1")
    )
    assert isinstance(search, RandomSearch)
    start = search.mean.clone()
    asked = search.ask()
    direction = (asked[:3] - start) / 0.1
    torch.testing.assert_close(asked[3:], start - 0.1 * direction)
    # Either way: 5, 1 and 4 at best; so the first and the last count, with 5, 0, 2 and 4, whose deviation is below.
    search.tell(asked, torch.tensor([5.0, 1.0, 2.0, 0.0, 1.0, 4.0], dtype=torch.float64))
    deviation = float(np.std([5, 2, 0, 4]))
    torch.testing.assert_close(search.mean, start + 0.5 / (2 * deviation) * (5 * direction[0] - 2 * direction[2]))


@pytest.mark.parametrize(("largest_full", "shape"), [(10, (10, 10)), (9, (10,))])
def test_the_covariance_is_full_for_few_parameters_and_diagonal_for_many(
    largest_full: int, shape: tuple[int, ...]
) -> None:
    search = searched(parts("cma_es", f"algo.largest_full={largest_full}"))
    assert isinstance(search, CMAES)
    assert search.state_dict()["covariance"].shape == shape


# --- what goes wrong


def test_a_generation_that_overflows_is_rejected_and_training_ends_after_so_many() -> None:
    run = parts("random_search", "algo.step_size=1e300", "algo.max_rejected=2")
    search = searched(run)
    policy, mean = flat(run.policy), search.mean.clone()
    first, second = (run.iterate(0.0).metrics for _ in range(2))
    assert first["trust_region/outcome"] == second["trust_region/outcome"] == Outcome.NON_FINITE_LOSS
    assert first["search/sigma"] != second["search/sigma"]  # the second tried others
    assert torch.equal(flat(run.policy), policy)
    assert torch.equal(search.mean, mean)
    with pytest.raises(TrainingError, match="2 updates in a row were rejected"):
        run.iterate(0.0)


def test_equal_returns_move_no_random_search() -> None:
    run = parts("random_search", "env=gym", "env.id=Probe/Silent-v0")
    before = flat(run.policy)
    row = run.iterate(0.0).metrics
    assert row["trust_region/outcome"] == Outcome.ZERO_GRADIENT
    assert torch.equal(flat(run.policy), before)


@pytest.mark.parametrize(
    ("method", "override", "said"),
    [
        (
            "cem",
            "sampler=single_path",
            "sampler: SinglePath does not go with algo, a CrossEntropy: sampler=whole_episodes does",
        ),
        ("cem", "algo.elite_fraction=0.04", r"algo.elite_fraction: 0.04 of 32 candidates is not even 2"),
        ("cma_es", "algo.population_size=3", r"algo.population_size: got 3"),
        ("random_search", "algo.top_directions=9", r"algo.top_directions: 9 is more than all 8"),
    ],
)
def test_what_does_not_fit_is_refused(method: str, override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parts(method, override)


def test_the_commands_train_and_play(trpo_train: Command, trpo_eval: Command, tmp_path: Path) -> None:
    settings = ("policy=linear", "env=CartPole-v1", "total_steps=2000")
    finished = trpo_train("algo=cem", *settings, f"hydra.run.dir={tmp_path / 'run'}", "eval.every=1000")
    assert finished.status == 0, finished.err
    played = trpo_eval(str(tmp_path / "run"), "--episodes", "2")
    assert played.status == 0, played.err
    assert "| CartPole-v1, run" in played.out
