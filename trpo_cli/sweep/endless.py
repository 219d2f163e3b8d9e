"""Runs in which no episode ends have no training return: what is said of that, before a search and after a trial."""

from __future__ import annotations

from collections.abc import Iterable

from omegaconf import DictConfig

WAYS_OUT = (
    "fewer sampler.num_envs or more total_steps let one end; hydra.sweeper.metric=final_evaluation_return needs none to"
)
LENGTHS = ("env", "sampler", "total_steps")
"""How the keys begin on which it depends whether an episode comes to its end."""


def doubt(config: DictConfig, searched: Iterable[str]) -> str | None:
    """That perhaps no episode ends in a run, whose environments play less than its limit; None if one must end.

    None too where it cannot be known, since lengths are searched. Samplers without `steps_per_iteration` play whole
    episodes, or none.
    """
    sizes = (config.total_steps, config.sampler.get("steps_per_iteration"), config.sampler.get("num_envs"))
    if not all(type(size) is int and size > 0 for size in sizes):
        return None
    total, batch, num_envs = sizes
    limit, played = _limit(config), -(-total // batch) * batch // num_envs
    if limit is None or limit <= played or any(key.lstrip("+").startswith(LENGTHS) for key in searched):
        return None
    return (
        f"an episode of {config.env.id} may take {limit:,} steps, and each of {num_envs} environments plays "
        f"{played:,}; if none ends before, no trial comes to a number: {WAYS_OUT}"
    )


def _limit(config: DictConfig) -> int | None:
    """Of the steps of an episode; None if there is none, or nobody knows the environment."""
    import gymnasium

    from trpo_cli.envs.registered import registered
    from trpo_cli.plugins import import_plugins

    import_plugins(config.plugins)
    limit: int | None = config.env.max_episode_steps
    if limit is None and registered(config.env.id):
        limit = gymnasium.spec(config.env.id).max_episode_steps
    return limit
