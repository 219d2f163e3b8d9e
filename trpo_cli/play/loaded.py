"""A trained run in Python: `trpo_cli.load`."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from trpo_cli.config.build import check_value
from trpo_cli.errors import RunDirectoryError, UserError, check_names
from trpo_cli.play.controller import Array, Controller
from trpo_cli.play.episodes import Episodes, Evaluation
from trpo_cli.play.trained import Trained
from trpo_cli.play.trained import load as load_trained
from trpo_cli.ranges import Count, NonNegativeInt
from trpo_cli.run.layout import BEST, METRICS, NEWEST, SUMMARY, read_config
from trpo_cli.run.rows import read_json, read_rows
from trpo_cli.seeding import isolate_globals, torch_generator
from trpo_cli.shell import keep_working_directory, short_path
from trpo_cli.threads import limited_threads


def load(run: str | os.PathLike[str], checkpoint: int | str = NEWEST, plugins: Iterable[str] = ()) -> LoadedRun:
    """Load a run with a checkpoint: `newest`, `best`, or the steps of another.

    `plugins` are packages that it may be built from. Raises `UserError` if there is no such run or checkpoint, or if
    it needs code that `plugins` does not allow.
    """
    if not isinstance(run, str | os.PathLike):
        raise UserError(f"run: got {run!r}; it should be the path of a run directory")
    if checkpoint not in (NEWEST, BEST) and (isinstance(checkpoint, bool) or not isinstance(checkpoint, int)):
        raise UserError(f"checkpoint: got {checkpoint!r}; it should be '{NEWEST}', '{BEST}', or a number of steps")
    directory, plugins = Path(run), check_names(plugins, "plugins", "modules: ['my_package']")
    with keep_working_directory(), isolate_globals(0, "plugins"):  # importing them may draw random numbers
        return LoadedRun(directory.absolute(), load_trained(directory, plugins, checkpoint))


class LoadedRun:
    """A run, with the policy of one checkpoint, as `load` and `train` return it."""

    directory: Path
    config: dict[str, Any]
    """The whole configuration, as in `config.yaml`."""
    env_steps: int
    """Environment steps at the checkpoint."""
    policy: torch.nn.Module
    """Normalised, encoded observations (N, O), or stacks of them, -> parameters of the action distribution (N, P)."""
    generator: torch.Generator
    """Draws sampled actions; `generator.manual_seed(1)` starts another stream."""
    trained: Trained
    """What the rest is made of."""

    def __init__(self, directory: Path, trained: Trained) -> None:
        self.directory, self.trained = directory, trained
        self.config, self.env_steps, self.policy = read_config(directory), trained.env_steps, trained.policy
        self.generator = torch_generator(0, "actions")
        self._controller = Controller(trained)

    @property
    def observation_space(self) -> gymnasium.Space[Any]:
        """Of the environment's own observations, which `act` takes."""
        return self._controller.observation_space

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """Of the environment's own actions, which `act` returns."""
        return self._controller.action_space

    def act(self, observation: Any, sample: bool = False) -> Any:
        """Return the likeliest action for an observation of the environment, or for a batch of them; or sample one.

        The shape tells which it is: actions of a batch (N, ...) are an array (N, ...). A batch of dictionaries is a
        dictionary of arrays, and one of tuples a tuple of arrays, as vector environments of Gymnasium give them.
        Observations are normalised, actions scaled, clipped and converted as in training, so that `env.step` takes
        them. Raises `UserError` for anything but finite observations of `observation_space`, and if actions depend on
        earlier observations, for which `step` is.
        """
        if (stack := self.trained.task.stack) > 1:
            raise UserError(f"act: this policy sees {stack} observations at once; step(observation, memory) keeps them")
        if self.trained.policy.memory_size:
            raise UserError("act: this policy remembers what it saw; step(observation, memory) passes that on")
        return self.step(observation, sample=sample)[0]

    def step(self, observation: Any, memory: Any = None, sample: bool = False) -> tuple[Any, Array]:
        """Like `act`, for policies with a memory or a stack of observations.

        Return the action, and the memory (M,) to pass with the next step. Episodes begin with None. A batch has
        memories (N, M), in which a row of zeros begins an episode. Raises `UserError` for other memories.
        """
        controller = self._controller
        batch, is_single = controller.as_batch(observation)
        shape = (len(batch), controller.memory_size)
        before = self._read_memory(memory, shape[1:] if is_single else shape).reshape(shape)
        distribution = self.trained.policy.distribution
        noise = distribution.noise(shape[:1], self.generator).numpy() if sample else None
        action, after = controller(batch, before, noise)
        return (action[0], after[0]) if is_single else (action, after)

    def _read_memory(self, memory: Any, shape: tuple[int, ...]) -> Array:
        dtype = self._controller.memory_dtype
        try:
            before = np.zeros(shape, dtype=dtype) if memory is None else np.array(memory, dtype=dtype)
        except (ValueError, TypeError) as error:
            raise UserError(f"memory: should be what the last step returned, or None: {error}") from error
        if before.shape != shape:
            raise UserError(f"memory: has shape {before.shape}; for these observations it has {shape}")
        if not np.isfinite(before).all():
            raise UserError("memory: is not finite")
        return before

    def evaluate(
        self, episodes: int = 10, seed: int = 0, sample: bool = False, max_steps: int | None = None
    ) -> Evaluation:
        """Play whole episodes in new environments, and return what `trpo-eval` prints for the same arguments.

        `max_steps` cuts off longer episodes; None: `eval.max_episode_steps` of the run. `returns` and `lengths` have
        one entry per episode; `interval()` is that of the mean return.
        """
        longest = self.trained.longest if max_steps is None else check_value(max_steps, Count, "max_steps")
        plan = Episodes(check_value(episodes, Count, "episodes"), longest)
        with keep_working_directory(), limited_threads():
            return self.trained.evaluate(plan, check_value(seed, NonNegativeInt, "seed"), sample)

    def make_env(self, **kwargs: Any) -> gymnasium.Env[Any, Any]:
        """Make an environment like those of training; more arguments, such as `render_mode`, go to its constructor."""
        task = self.trained.task
        with keep_working_directory():
            return replace(task, kwargs={**task.kwargs, **kwargs}).make_one()

    @functools.cached_property
    def metrics(self) -> Mapping[str, NDArray[np.float64]]:
        """The columns of `metrics.csv` at the first access, (I,) for I iterations; an empty cell is NaN."""
        with _report_damage(self.directory):
            return read_rows(self.directory / METRICS)

    @functools.cached_property
    def summary(self) -> Mapping[str, Any] | None:
        """The content of `summary.json`; None if the run had not finished at the first access."""
        with _report_damage(self.directory):
            return read_json(self.directory / SUMMARY) or None

    def __repr__(self) -> str:
        algo, task, seed = self.config["choices"].get("algo"), self.trained.task.id, self.config["seed"]
        return f"<LoadedRun {short_path(self.directory)}: {algo} on {task}, seed {seed}, {self.env_steps:,} steps>"


@contextlib.contextmanager
def _report_damage(directory: Path) -> Iterator[None]:
    """Raise `RunDirectoryError` for a file that is no table or summary of a run."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{short_path(directory)}: {error}") from error
