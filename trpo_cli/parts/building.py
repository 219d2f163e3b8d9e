"""How a configuration becomes the parts of a run."""

from __future__ import annotations

from dataclasses import fields
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar

from trpo_cli.config.groups import GROUPS
from trpo_cli.config.settings import OF_THE_COMMAND, Settings
from trpo_cli.errors import ConfigError
from trpo_cli.parts import Parts, close_all, split_seeds
from trpo_cli.play.origin import Source
from trpo_cli.schedules import Schedules

if TYPE_CHECKING:  # torch takes a second to import, and `--help` does not need it
    import torch

    from trpo_cli.envs.environments import Environments
    from trpo_cli.envs.make import Task
    from trpo_cli.run.trackers import Tracker
    from trpo_cli.shards import Shards
    from trpo_cli.shards.ranks import Ranks

R = TypeVar("R")


def root_settings(node: dict[str, Any]) -> Settings:
    """Return the settings at the root of a resolved configuration. Raises `ConfigError` for one that does not fit."""
    from trpo_cli.config.build import fill

    others = (*GROUPS, "choices", *OF_THE_COMMAND)
    return fill(Settings, {key: value for key, value in node.items() if key not in others})


def check(node: dict[str, Any], begins: bool) -> None:
    """Build the parts of a run that `begins` or goes on, and discard them. Raises what building them raises."""
    from trpo_cli.config.plugins import import_plugins

    settings = root_settings(node)
    import_plugins(settings.plugins)
    build_tracker(node, settings)
    build_parts(node, settings, begins).close()


def build_parts(node: dict[str, Any], settings: Settings, begins: bool = True, ranks: Ranks | None = None) -> Parts:
    """Build the parts that a resolved configuration describes, for a run that `begins` or one that goes on.

    Of several `ranks`, each builds the parts of its own shards. Raises `ConfigError` before any environment step.
    """
    from trpo_cli.config.build import build
    from trpo_cli.envs.make import Task
    from trpo_cli.memory import keep_freed_memory
    from trpo_cli.seeding import seed_globals
    from trpo_cli.shards import Shards
    from trpo_cli.threads import cores, limit_threads

    keep_freed_memory()
    limit_threads(settings.update_threads or cores())
    shards = Shards(settings.shards, ranks) if ranks else Shards(settings.shards)
    source = Source.read(settings.init_from, settings.init) if begins and settings.init_from is not None else None
    seed_globals(settings.seed, "environments")
    task = build(node.get("env"), "env", Task, settings.plugins, node.get("choices"))
    environments, sampler_node = make_environments(node, settings, task, shards)
    try:
        return _build_others(shards, environments, {**node, "sampler": sampler_node}, settings, source)
    except BaseException:
        close_all(environments)
        raise


def make_environments(
    node: dict[str, Any], settings: Settings, task: Task, shards: Shards
) -> tuple[list[Environments], dict[str, Any]]:
    """Make the environments of the shards of this process; return them and the sampler's node without their keys.

    Raises `ConfigError`.
    """
    from trpo_cli.config.build import fill, find_class
    from trpo_cli.envs.environments import Environments
    from trpo_cli.envs.global_generators import refuse_use
    from trpo_cli.envs.make import Parallelism, Width
    from trpo_cli.samplers import Sampler

    kind, given = find_class(node.get("sampler"), "sampler", Sampler, settings.plugins), node["sampler"]
    keys = {field.name for field in fields(kind.beside)} if kind.beside else set()
    if taken := keys & signature(kind).parameters.keys():
        name = ", ".join(sorted(taken))
        raise ConfigError(f"sampler: {kind.__name__} takes {name}, a setting of the environments that it is given")
    if shards.count > 1 and "shards" not in signature(kind).parameters:
        raise ConfigError(f"shards: got {shards.count}; {kind.__name__} does not work in shards, and takes 1")
    width = fill(Width, {key: value for key, value in given.items() if key in keys}, "sampler.")
    if kind.in_process and width.vectorization == "async":
        raise ConfigError("sampler.vectorization: got 'async'; it should be 'auto', 'native' or 'sync' here")
    own = shards.divide(width.num_envs, "sampler.num_envs")
    parallelism = Parallelism(width.vectorization, width.num_threads, kind.in_process)
    others = {key: value for key, value in given.items() if key not in keys}
    made: list[Environments] = []
    try:
        with refuse_use(shards.count, task.id):
            for seeds in split_seeds(shards, settings.seed, "environments", width.num_envs):
                made.append(Environments(task, own, seeds, parallelism))
    except BaseException:
        close_all(made)
        raise
    return made, others


def _build_others(
    shards: Shards, every: list[Environments], node: dict[str, Any], settings: Settings, source: Source | None
) -> Parts:
    """Build the parts that depend on the environments."""
    from trpo_cli.algos import Algorithm
    from trpo_cli.config.build import build
    from trpo_cli.config.scheduling import find_schedules
    from trpo_cli.envs.normalize import ObservationNormalizer, RewardScaler
    from trpo_cli.models.critics import Critic
    from trpo_cli.models.policies import Policy
    from trpo_cli.samplers import Sampler
    from trpo_cli.seeding import seed_globals, torch_generator

    def part(role: type[R], group: str, **context: Any) -> R:
        return build(node.get(group), group, role, settings.plugins, node.get("choices"), **context)

    envs = every[0]
    task, seed, device, gamma = envs.task, settings.seed, find_device(settings.device), node["algo"].get("gamma")
    normalizer = ObservationNormalizer(envs.spec, task.normalize_observation, task.observation_clip)
    scaled = task.normalize_reward and gamma is not None
    total = shards.count * envs.num_envs
    reward_scaler = RewardScaler(total, gamma or 0.0, scaled, task.reward_clip, task.sign_reward)
    given = {"shards": shards, "environments": every, "normalizer": normalizer, "reward_scaler": reward_scaler}
    sampler = part(Sampler, "sampler", **given, seed=seed, gamma=gamma)
    seed_globals(seed, "initial parameters")  # they do not depend on what the environments drew
    shape = {"observation": envs.spec}
    policy = part(Policy, "policy", **shape, distribution=envs.distribution).to(device)
    lent = {"policy": policy, "generator": torch_generator(seed, "critic"), "shards": shards}
    critic = part(Critic, "critic", **shape, **lent).to(device)
    origin = source.lend(node, envs.spaces[1], policy, critic, normalizer, reward_scaler) if source else None
    core = {"shards": shards, "sampler": sampler, "policy": policy, "critic": critic}
    algorithm = part(Algorithm, "algo", **core, generator=torch_generator(seed, "algorithm"))
    schedules = Schedules(find_schedules(node["algo"], "algo", algorithm))
    for one in schedules:
        if one.key == "algo.gamma":
            one.owners.extend(vars(other) for other in (sampler, reward_scaler) if hasattr(other, "gamma"))
    schedules += find_schedules(node["critic"], "critic", critic)
    own = (normalizer, reward_scaler, sampler, policy, critic, algorithm)
    obstacles = (one.resume_obstacle() for one in every)
    return Parts(shards, task, every, *own, schedules, next(filter(None, obstacles), None), origin)


def build_tracker(node: dict[str, Any], settings: Settings) -> Tracker | None:
    """Build the tracker that receives a copy of every row, or None if no logger is chosen. Raises `ConfigError`."""
    from trpo_cli.config.build import build
    from trpo_cli.run.trackers import Tracker

    return build(node["logger"], "logger", Tracker, settings.plugins) if "logger" in node else None


def find_device(name: str) -> torch.device:
    """Return the device called `name`. Raises `ConfigError` if there is no such device, or torch cannot use it here."""
    import torch

    try:
        device = torch.device(name)
        torch.ones(1, dtype=torch.float64, device=device).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device: got '{name}'; names such as cpu, cuda and cuda:1 fit. {reason}") from error
    return device
