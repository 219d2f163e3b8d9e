"""N environments of a task as a policy meets them: encoded observations, unclipped actions, and faults by name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from trpo_cli.envs.backend import Backend
from trpo_cli.envs.contract import Contract
from trpo_cli.envs.failure import Failure, describe_error
from trpo_cli.envs.infos import Infos, gather
from trpo_cli.envs.joining import Joined, own_space
from trpo_cli.envs.make import FASTEST, Parallelism, Task
from trpo_cli.envs.snapshot_check import has_layout_of, mismatch
from trpo_cli.envs.spaces import describe_scale, encode_actions, find_unreadable
from trpo_cli.envs.view import begin_stack, push_on_stack, stack_episode, stack_spec
from trpo_cli.errors import ConfigError, EnvironmentFault, UserError

Array = NDArray[Any]
Flags = NDArray[np.bool_]
Rows = NDArray[np.int64]


class Saved(NamedTuple):
    """One environment in the middle of an episode, as plain data."""

    observation: Array  # (O,)
    state: dict[str, Any]


class Environments:
    """Observations (N, O) have the shape and dtype of `spec`; actions (N, A) are samples of `distribution`."""

    def __init__(
        self,
        task: Task,
        num_envs: int,
        seeds: list[int],
        parallelism: Parallelism = FASTEST,
    ) -> None:
        """Make and reset the environments, number i with `seeds[i]`.

        Raises `ConfigError` if they cannot be made or their spaces are not supported.
        """
        self.task, self.num_envs, self.steps = task, num_envs, 0
        self.parallelism = parallelism
        try:
            envs, self.how, self._make_others = task.make(seeds, parallelism)
        except Failure as failure:
            raise self._fault(failure) from failure
        self._envs: Backend = envs
        spec, self._encode = task.make_encoder(self._envs.single_observation_space)
        self.spec = stack_spec(spec, task.stack)
        self.distribution, self._decode = task.make_decoder(self._envs.single_action_space)
        self.scale_notice = describe_scale(self._envs.single_action_space, task.id, task.rescale_action)
        self._raw: tuple[Any, Any] = (None, None)  # the observations that they gave, the actions that they received
        self._without_lives = np.zeros(num_envs, dtype=bool)
        try:
            self.observation = self._reset(seeds)
        except UserError:
            self.close()
            raise

    def step(self, action: NDArray[Any]) -> tuple[Array, NDArray[np.float64], Flags, Flags]:
        """Take one step with the actions (N, A).

        Returns observations (N, O), rewards (N,), and which episodes terminated (N,) or were truncated (N,), never
        both. Environments whose episodes ended show their last observation; restart them before the next step.
        Raises `EnvironmentFault` if an action, observation or reward is not finite, or the environment raises, and
        `EnvironmentContractError` if the environment returns what its spaces do not declare.
        """
        self.steps += 1
        self._check_finite("action", action)
        try:
            received = self._decode(action)
            observation, reward, terminated, truncated, _ = self._envs.step(received)
            self._raw = observation, received
            observation = self._encode(observation)
        except Exception as error:
            raise self._fault(error) from error
        self._check_finite("observation", observation)
        self._check_finite("reward", reward)
        self.observation = observation if self.task.stack == 1 else push_on_stack(self.observation, observation)
        return self.observation, reward, terminated, truncated & ~terminated

    def restart(self, ended: Flags, seeds: list[int] | None = None) -> Array:
        """Reset only the environments that have `ended` (N,), and return the observations (N, O) of all.

        With `seeds`, one for each environment, everything random until the next restart follows from the seed, except
        where environments of this process draw from global generators, which they share.
        """
        self.observation = self._reset(seeds, ended)
        return self.observation

    @property
    def lost(self) -> Flags:
        """Where (N,) the last step lost a life: an episode ends for the learner, and goes on otherwise."""
        return self._without_lives if self._envs.lost is None else self._envs.lost

    @property
    def spaces(self) -> tuple[Any, Any]:
        """The spaces of one environment: of what it gives, and of what it receives."""
        return self._envs.single_observation_space, self._envs.single_action_space

    @property
    def raw_spaces(self) -> tuple[Any, Any]:
        """The same, where composite observations are not joined."""
        space, received = self.spaces
        return own_space(space), received

    def raw_observations(self) -> list[Any]:
        """Copies (N) of the present observations, as the environments gave them."""
        space, shown = self._envs.single_observation_space, iterate(self._envs.observation_space, self._raw[0])
        if isinstance(space, Joined):
            return [spaces.unflatten(space.source, vector.copy()) for vector in shown]  # it makes views where it can
        return copy.deepcopy(list(shown))

    def raw_actions(self) -> list[Any]:
        """Copies (N) of the actions of the last step, as the environments received them."""
        return copy.deepcopy(list(iterate(self._envs.action_space, self._raw[1])))

    def encode(self, observations: Any, actions: Any) -> tuple[Array, NDArray[Any]]:
        """Return what a policy sees and does, (T + 1, O) and (T, A), in an episode of raw observations and actions.

        Raises `ContractViolation` for a state, or an entry of a composite observation, that is not in its space.
        """
        space, received = self.spaces
        if type(space) is not spaces.Box:
            check, rows = Contract(space, 0).check_reset, batch_space(own_space(space), len(actions) + 1)
            observations = np.stack([check((one, {})) for one in iterate(rows, observations)])
        encoded = stack_episode(self._encode(observations), self.task.stack)
        return encoded, encode_actions(received, actions, self.task.rescale_action)

    def read_infos(self, ended: Flags) -> Infos:
        """Return the numbers of `env.log_info` in the last step, where episodes have `ended` (N,); nothing if none has.

        Call it before `restart`. Raises `EnvironmentContractError` if what has such a name is not one number.
        """
        names = self.task.log_info
        if not names or not ended.any():
            return {}
        found = self._ask(self._envs.read_numbers, np.flatnonzero(ended), names)
        return gather(found, names, self.task.id, self.task.complaints)

    def render(self) -> Any:
        """Draw the first environment, which needs `render_mode=rgb_array`: (H, W, 3). Raises whatever that raises."""
        frames: Any = self._envs.render()
        return frames[0]

    def snapshot_obstacle(self) -> str | None:
        """Return why the environments cannot be saved and restored exactly, or None if they can."""
        return self._envs.snapshot_obstacle()

    def resume_obstacle(self) -> str | None:
        """Return why the environments cannot be kept in a file and continue from it, or None if they can."""
        return self._ask(self._envs.file_obstacle)  # type: ignore[no-any-return]

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state of all environments, for a file. There must be no `resume_obstacle`.

        Its format is the same whether environments step in turn or in worker processes; a native batch has its own.
        """
        return {"steps": self.steps, "observation": self.observation.copy(), "envs": self._ask(self._envs.state_dict)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned: whatever follows is bit for bit what would have followed then.

        Raises `CheckpointError` if it does not fit these environments, whose state is undefined afterwards.
        """
        if type(state) is not dict or state.keys() != {"steps", "observation", "envs"}:
            raise mismatch("they are not the state of environments")
        observation = self._in_shape(state["observation"])
        if type(state["steps"]) is not int or not has_layout_of(observation, self.observation):
            raise mismatch(f"their observations are not arrays of shape {self.observation.shape}")
        self._ask(self._envs.load_state_dict, state["envs"])
        self.steps, self.observation = state["steps"], observation.copy()

    def _in_shape(self, observation: Any) -> Any:
        """Give saved observations their shape and dtype, if they come from a version that made pixels float64."""
        shapes = ((self.num_envs, self.spec.size), self.observation.shape)
        if (
            not isinstance(observation, np.ndarray)
            or observation.dtype != np.float64
            or observation.shape not in shapes
        ):
            return observation
        return observation.reshape(self.observation.shape).astype(self.observation.dtype)

    def save(self, rows: Rows) -> list[Saved]:
        """Return the whole states of the environments `rows` (K,). There must be no `snapshot_obstacle`."""
        return [Saved(*pair) for pair in zip(self.observation[rows], self._envs.save(rows), strict=True)]

    def restore(self, rows: Rows, saved: Sequence[Saved]) -> None:
        """Put the `saved` states (K,) into the environments `rows` (K,), whichever they were saved from."""
        self._envs.restore(rows, [one.state for one in saved])
        for row, one in zip(rows.tolist(), saved, strict=True):
            self.observation[row] = one.observation

    def reseed(self, rows: Rows, seeds: Sequence[int]) -> None:
        """Reseed every generator of the environments `rows` (K,) with `seeds` (K,).

        Two environments in the same state, with the same seed, have the same future under the same actions.
        """
        self._envs.reseed(rows, seeds)

    def rebuild(self, seeds: list[int]) -> None:
        """Replace the environments, whatever their condition, by new ones, and reset number i with `seeds[i]`."""
        self.close()
        self.steps = 0
        try:
            self._envs = self._make_others(seeds)
        except Failure as failure:
            raise self._fault(failure) from failure
        except ConfigError as error:  # they could be made before, so the configuration is not at fault
            raise EnvironmentFault(str(error)) from error
        self.observation = self._reset(seeds)

    def close(self) -> None:
        """Close the environments; a failure to close is only logged."""
        try:
            self.task.close_safely(self._envs.close)
        finally:
            self._envs.closed = True

    def _ask(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method; its `Failure` becomes an error for the user."""
        try:
            return method(*arguments)
        except Failure as failure:
            raise self._fault(failure) from failure

    def _reset(self, seeds: list[int] | None, ended: Flags | None = None) -> Array:
        """Reset all environments or those that have `ended` (N,), and return what a policy sees of all of them."""
        reset: Any = self._envs.reset
        try:
            given = reset(seed=seeds, options=None if ended is None else {"reset_mask": ended})[0]
            self._raw = given, self._raw[1]
            observation = self._encode(given)
        except Exception as error:
            raise self._fault(error) from error
        self._check_finite("observation", observation)
        if self.task.stack == 1:
            return observation
        begun = begin_stack(observation, self.task.stack)
        if ended is not None:
            begun[~ended] = self.observation[~ended]
        return begun

    def _fault(self, error: Exception) -> UserError:
        if not isinstance(error, Failure):
            error = Failure(" raised", f" of each environment: {describe_error(error)}")
        return error.as_user_error(self.task.id, self.steps)

    def _check_finite(self, name: str, value: NDArray[Any]) -> None:
        if (index := find_unreadable(value)) is not None:
            raise EnvironmentFault(
                f"{self.task.id}: {name} is not finite at step {self.steps} of environment {index}: {value[index]}"
            )
