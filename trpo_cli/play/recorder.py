"""Records the episodes that a policy plays, as the environments gave and received them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trpo_cli.envs.recorded import Episode, new_record, stack
from trpo_cli.play.episodes import Audience
from trpo_cli.run.directory import provenance

if TYPE_CHECKING:
    from trpo_cli.envs.environments import Environments, Flags
    from trpo_cli.play.trained import Trained
    from trpo_cli.samplers.acting import Step


@dataclass
class _Track:
    """An episode as far as it has come."""

    observations: list[Any]
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)


class Recorder(Audience):
    """Hands every episode that counts to `write` when it ends, in that order."""

    def __init__(self, envs: Environments, write: Callable[[Episode], None]) -> None:
        self._envs, self._write = envs, write
        self._tracks: dict[int, _Track] = {}
        self.begin(np.ones(envs.num_envs, dtype=bool))

    def begin(self, begun: Flags) -> None:
        observations = self._envs.raw_observations()
        for row in np.flatnonzero(begun).tolist():
            self._tracks[row] = _Track([observations[row]])

    def step(self, step: Step, counted: Flags, ended: Flags) -> None:
        observations, actions = self._envs.raw_observations(), self._envs.raw_actions()
        for row in np.flatnonzero(counted).tolist():
            track = self._tracks[row]
            track.observations.append(observations[row])
            track.actions.append(actions[row])
            track.rewards.append(float(step.reward[row]))
            if ended[row]:
                self._write(self._episode(track, bool(step.terminated[row])))

    def _episode(self, track: _Track, terminated: bool) -> Episode:
        """Whatever else ended it has cut it off, even if the environment did not know."""
        observation_space, action_space = self._envs.raw_spaces
        last = np.arange(len(track.rewards)) == len(track.rewards) - 1
        return Episode(
            observations=stack(observation_space, track.observations),
            actions=stack(action_space, track.actions),
            rewards=np.array(track.rewards),
            terminations=last & terminated,
            truncations=last & (not terminated),
        )


@contextlib.contextmanager
def record(trained: Trained, directory: Path, about: dict[str, Any]) -> Iterator[Callable[[Environments], Recorder]]:
    """A function that makes the recorder of some environments; the record appears in `directory` at the end."""
    task = trained.task
    env = {"id": task.id, "kwargs": task.kwargs, "max_episode_steps": task.max_episode_steps}
    told = {**about, "env_steps": trained.env_steps, "env": env, **provenance()}
    with task.probe() as like:
        spaces, spec = (like.observation_space, like.action_space), like.spec
    with new_record(directory, spaces, spec, told) as write:
        yield lambda envs: Recorder(envs, write)
