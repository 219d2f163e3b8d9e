"""The parts of a run, and how they are built from a configuration."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields, replace
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar

from trpo_cli.config.groups import GROUPS
from trpo_cli.config.settings import OF_THE_COMMAND, Settings
from trpo_cli.errors import ConfigError, EnvironmentFault, NoSnapshot
from trpo_cli.play.episodes import Episodes, Evaluation, evaluate
from trpo_cli.play.origin import Source
from trpo_cli.play.trained import with_own_scales
from trpo_cli.run.layout import name_part
from trpo_cli.schedules import Schedules

if TYPE_CHECKING:  # torch takes a second to import, and `--help` does not need it
    import torch

    from trpo_cli.algos import Algorithm, Iteration
    from trpo_cli.envs.environments import Environments
    from trpo_cli.envs.make import Task
    from trpo_cli.envs.normalize import ObservationNormalizer, RewardScaler
    from trpo_cli.models.critics import Critic
    from trpo_cli.models.policies import Policy
    from trpo_cli.run.trackers import Tracker
    from trpo_cli.samplers import Sampler

log = logging.getLogger("trpo_cli")
R = TypeVar("R")
INEXACT = "a resume will not be exact, and resets the environments: %s"
LEARNING = ("normalizer", "reward_scaler", "sampler", "policy", "critic", "algorithm")  # parts that have a state


@dataclass
class Parts:
    """All parts of a run."""

    task: Task
    environments: Environments
    normalizer: ObservationNormalizer  # of the policy's observations
    reward_scaler: RewardScaler
    sampler: Sampler
    policy: Policy
    critic: Critic
    algorithm: Algorithm
    schedules: Schedules
    obstacle: str | None  # the reason why a resume has to reset the environments, if there is one
    origin: dict[str, Any] | None = None  # what it began with in place of random numbers

    @property
    def packages(self) -> list[str]:
        """The installed packages, beside those of every run, on which observations depend."""
        from trpo_cli.envs.registered import find_distributions

        return find_distributions(self.task.id, *(["cv2"] if self.task.grey or self.task.resize else []))

    def evaluate(self, plan: Episodes, seed: int) -> Evaluation:
        """Play episodes with the likeliest actions, with the same parallelism as in training.

        Raises `EnvironmentFault` if the environments for it cannot be made, or if one of them fails.
        """
        parallelism = self.environments.parallelism
        try:
            return evaluate(self.task, self.policy, self.normalizer, plan, seed, parallelism=parallelism)
        except ConfigError as error:  # the training environments could be made, so the configuration is valid
            raise EnvironmentFault(
                f"no {self.task.id} can be made for the evaluation: {error}\neval.every=0 turns evaluations off"
            ) from error

    def iterate(self, progress: float) -> Iteration:
        """Improve the policy once, after the fraction `progress` in [0, 1] of training, which schedules follow."""
        scheduled = self.schedules.follow(progress)
        done = self.algorithm.iterate()
        return replace(done, metrics={**done.metrics, **scheduled})

    def renew_environments(self, seed: int, event: str) -> None:
        """Start new episodes in new environments, seeded by the seed of the run and the name of the event.

        Raises `EnvironmentFault` if they cannot be made or reset.
        """
        from trpo_cli.seeding import environment_seeds

        self.environments.rebuild(environment_seeds(seed, f"environments after {event}", self.environments.num_envs))
        self.sampler.abandon()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all parts for a checkpoint."""
        environments = None
        try:
            environments = None if self.obstacle else self.environments.state_dict()
        except NoSnapshot as obstacle:  # it may arise during training
            self.obstacle = str(obstacle)
            log.warning(INEXACT, obstacle)
        actions = repr(self.policy.distribution)  # for runs that begin from this one
        learning = {name: getattr(self, name).state_dict() for name in LEARNING}
        return {**learning, "environments": environments, "actions": actions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        state = with_own_scales(state)
        for name in LEARNING:
            if name in state or name != "reward_scaler":  # earlier versions had one only where a sampler used it
                own = state[name]
                with name_part(name.replace("_", " ")):
                    getattr(self, name).load_state_dict(own)
        if state["environments"] is not None:
            self.environments.load_state_dict(state["environments"])


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
    build_parts(node, settings, begins).environments.close()


def build_parts(node: dict[str, Any], settings: Settings, begins: bool = True) -> Parts:
    """Build the parts that a resolved configuration describes, for a run that `begins` or one that goes on.

    Raises `ConfigError` before any environment step.
    """
    from trpo_cli.config.build import build
    from trpo_cli.envs.make import Task
    from trpo_cli.memory import keep_freed_memory
    from trpo_cli.seeding import seed_globals
    from trpo_cli.threads import cores, limit_threads

    keep_freed_memory()
    limit_threads(settings.update_threads, workers=node["sampler"].get("num_threads") or cores())
    source = Source.read(settings.init_from, settings.init) if begins and settings.init_from is not None else None
    seed_globals(settings.seed, "environments")
    task = build(node.get("env"), "env", Task, settings.plugins, node.get("choices"))
    environments, sampler_node = make_environments(node, settings, task)
    try:
        return _build_others(environments, {**node, "sampler": sampler_node}, settings, source)
    except BaseException:
        environments.close()
        raise


def make_environments(node: dict[str, Any], settings: Settings, task: Task) -> tuple[Environments, dict[str, Any]]:
    """Make the environments of a run; return them and the sampler's node without their keys. Raises `ConfigError`."""
    from trpo_cli.config.build import fill, find_class
    from trpo_cli.envs.environments import Environments
    from trpo_cli.envs.make import Parallelism, Width
    from trpo_cli.samplers import Sampler
    from trpo_cli.seeding import environment_seeds

    kind, given = find_class(node.get("sampler"), "sampler", Sampler, settings.plugins), node["sampler"]
    keys = {field.name for field in fields(kind.beside)} if kind.beside else set()
    if taken := keys & signature(kind).parameters.keys():
        name = ", ".join(sorted(taken))
        raise ConfigError(f"sampler: {kind.__name__} takes {name}, a setting of the environments that it is given")
    width = fill(Width, {key: value for key, value in given.items() if key in keys}, "sampler.")
    if kind.in_process and width.vectorization == "async":
        raise ConfigError("sampler.vectorization: got 'async'; it should be 'auto', 'native' or 'sync' here")
    seeds = environment_seeds(settings.seed, "environments", width.num_envs)
    parallelism = Parallelism(width.vectorization, width.num_threads, kind.in_process)
    others = {key: value for key, value in given.items() if key not in keys}
    return Environments(task, width.num_envs, seeds, parallelism), others


def _build_others(envs: Environments, node: dict[str, Any], settings: Settings, source: Source | None) -> Parts:
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

    task, seed, device, gamma = envs.task, settings.seed, find_device(settings.device), node["algo"].get("gamma")
    normalizer = ObservationNormalizer(envs.spec, task.normalize_observation, task.observation_clip)
    scaled = task.normalize_reward and gamma is not None
    reward_scaler = RewardScaler(envs.num_envs, gamma or 0.0, scaled, task.reward_clip, task.sign_reward)
    given = {"environments": envs, "normalizer": normalizer, "reward_scaler": reward_scaler}
    sampler = part(Sampler, "sampler", **given, seed=seed, gamma=gamma)
    seed_globals(seed, "initial parameters")  # they do not depend on what the environments drew
    shape = {"observation": envs.spec}
    policy = part(Policy, "policy", **shape, distribution=envs.distribution).to(device)
    if policy.works_in_pieces and settings.update_threads > 1:
        raise ConfigError(
            f"update_threads: got {settings.update_threads}; with convolutions sampler.num_threads threads share the "
            "pieces of a batch, one per core by default, and torch needs no others; update_threads=1"
        )
    critic = part(Critic, "critic", **shape, policy=policy, generator=torch_generator(seed, "critic")).to(device)
    origin = source.lend(node, envs.spaces[1], policy, critic, normalizer, reward_scaler) if source else None
    core = {"sampler": sampler, "policy": policy, "critic": critic}
    algorithm = part(Algorithm, "algo", **core, generator=torch_generator(seed, "algorithm"))
    schedules = Schedules(find_schedules(node["algo"], "algo", algorithm))
    for one in schedules:
        if one.key == "algo.gamma":
            one.owners.extend(vars(other) for other in (sampler, reward_scaler) if hasattr(other, "gamma"))
    schedules += find_schedules(node["critic"], "critic", critic)
    own = (normalizer, reward_scaler, sampler, policy, critic, algorithm)
    return Parts(task, envs, *own, schedules, envs.resume_obstacle(), origin)


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
