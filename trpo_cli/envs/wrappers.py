"""Wrappers around an environment, by configuration: Gymnasium's, and those of packages that `plugins` allows."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, get_args, get_origin, get_type_hints

import gymnasium
import numpy as np
from gymnasium import wrappers
from pydantic import PydanticSchemaGenerationError

from trpo_cli.config.build import as_whole, check_value, locate
from trpo_cli.envs.closing import close_safely
from trpo_cli.envs.failure import INTERRUPTS, describe_error
from trpo_cli.envs.leaf import describe_value
from trpo_cli.errors import ConfigError, suggest_name

Env = gymnasium.Env[Any, Any]
GYMNASIUM = "gymnasium.wrappers"
FORM = "[NAME, {NAME: {ARGUMENT: VALUE}}]"
_FUNCTION = "it takes a function, which no configuration holds; write a class of your own: [my_package.MyWrapper]"
_OBSERVATIONS = "its statistics would be those of one environment alone; env.normalize_observation=true shares them"
_REWARDS = "its statistics would be those of one environment alone; env.normalize_reward=true shares them"
_CHECKED = "everything that an environment returns is checked already"
_FILMED = "trpo-eval RUN --video FILE.mp4 films episodes"
_ARRAYS = "environments exchange NumPy arrays here"
REFUSED = {
    **dict.fromkeys(("TransformAction", "TransformObservation", "TransformReward"), _FUNCTION),
    "NormalizeObservation": _OBSERVATIONS,
    "NormalizeReward": _REWARDS,
    "DtypeObservation": "policies read uint8 and float32, whatever the dtype of an observation is",
    "TimeLimit": "env.max_episode_steps sets the time limit",
    "Autoreset": "samplers restart episodes themselves",
    "PassiveEnvChecker": _CHECKED,
    "OrderEnforcing": _CHECKED,
    "RecordEpisodeStatistics": "returns and lengths of episodes are in metrics.csv already",
    **dict.fromkeys(("RenderCollection", "RecordVideo", "HumanRendering"), _FILMED),
    **dict.fromkeys(("ArrayConversion", "JaxToTorch", "NumpyToTorch"), _ARRAYS),
}
"""Gymnasium's wrappers that make no sense here, and why."""


class Layer(NamedTuple):
    """One wrapper, its arguments, and the place of both in the configuration."""

    kind: type[gymnasium.Wrapper[Any, Any, Any, Any]]
    arguments: dict[str, Any]
    path: str


@dataclass(frozen=True)
class Wrappers:
    """Wrappers that are put around an environment, the innermost first."""

    layers: tuple[Layer, ...] = ()

    @classmethod
    def from_node(cls, node: Any, path: str, plugins: Sequence[str]) -> Self:
        """Read a list of names and `{name: arguments}`. Raises `ConfigError` for anything else."""
        if not isinstance(node, list):
            one = node if isinstance(node, str) else "NAME"
            raise ConfigError(f"{path}: got {node!r}; it should be a list such as [{one}] or {FORM}")
        return cls(tuple(_read_layer(entry, f"{path}[{place}]", plugins) for place, entry in enumerate(node)))

    def wrap(self, env: Env) -> Env:
        """Wrap an environment. Raises `ConfigError`, and closes it, if a wrapper does not take it."""
        for kind, arguments, path in self.layers:
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message=".*precision lowered by casting")  # of a plain number
                    wrapped = kind(env, **arguments)
                if not isinstance(wrapped, gymnasium.Env):
                    raise TypeError(f"it makes no environment but {describe_value(wrapped)}")
            except INTERRUPTS:
                raise
            except BaseException as error:
                close_safely(env.close, path, set())
                given = f" with {arguments}" if arguments else ""
                raise ConfigError(f"{path}: {kind.__name__}{given} does not fit: {describe_error(error)}") from error
            env = wrapped
        return env


def _read_layer(entry: Any, path: str, plugins: Sequence[str]) -> Layer:
    named: Mapping[Any, Any] = {entry: None} if isinstance(entry, str) else entry if isinstance(entry, Mapping) else {}
    name, given = next(iter(named.items()), (None, None))
    if len(named) != 1 or not isinstance(name, str) or not isinstance(given, Mapping | None):
        raise ConfigError(f"{path}: got {entry!r}; it should be NAME or {{NAME: {{ARGUMENT: VALUE}}}}")
    kind = _find_class(name, path, plugins)
    return Layer(kind, _read_arguments(kind, given or {}, path, plugins), path)


def _find_class(name: str, path: str, plugins: Sequence[str]) -> Any:
    short = name.removeprefix(f"{GYMNASIUM}.")
    if "." in short and short == name:
        kind: Any = locate(name, path, plugins)
        if not (inspect.isclass(kind) and issubclass(kind, gymnasium.Wrapper)):
            raise ConfigError(f"{path}: '{name}' is no gymnasium.Wrapper")
        return kind
    if short in REFUSED:
        raise ConfigError(f"{path}: {short} has no place here: {REFUSED[short]}")
    known = [one for one in wrappers.__all__ if one not in ("vector", *REFUSED)]
    if short not in known:
        own = "\none of your own is named with its package: env.wrappers=[my_package.MyWrapper] plugins=[my_package]"
        raise ConfigError(f"{path}: Gymnasium has no wrapper '{short}'{suggest_name(short, known)}{own}")
    try:
        return getattr(wrappers, short)
    except ImportError as error:
        raise ConfigError(f"{path}: {short} cannot be imported: {error}") from error


def _read_arguments(kind: Any, given: Mapping[str, Any], path: str, plugins: Sequence[str]) -> dict[str, Any]:
    """Check the arguments of a wrapper against its signature, whose first parameter is the environment."""
    parameters = list(inspect.signature(kind).parameters.values())[1:]
    named = {one.name: one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    takes_others = any(one.kind is one.VAR_KEYWORD for one in parameters)
    for name in given:
        if name not in named and not takes_others:
            hint = suggest_name(str(name), list(named)) if named else "; it takes none"
            raise ConfigError(f"{path}.{name}: no such argument of {kind.__name__}{hint}")
    for name, one in named.items():
        if one.default is one.empty and name not in given:
            raise ConfigError(f"{path}: {kind.__name__} needs {name}: {{{kind.__name__}: {{{name}: VALUE}}}}")
    hints = _read_hints(kind)
    return {
        str(name): _read_argument(value, hints.get(name, Any), f"{path}.{name}", plugins)
        for name, value in given.items()
    }


def _read_hints(kind: Any) -> dict[str, Any]:
    """Return the type hints of the constructor; none if one cannot be evaluated."""
    try:
        hints = get_type_hints(kind.__init__)
    except Exception:  # an annotation may be any expression
        return {}
    return {name: hint for name, hint in hints.items() if isinstance(hint, Hashable)}


def _read_argument(value: Any, annotation: Any, path: str, plugins: Sequence[str]) -> Any:
    """Return a value as a wrapper takes it: a list becomes an array or a tuple where the annotation asks for one."""
    kinds = {get_origin(one) or one for one in (annotation, *get_args(annotation))}
    if np.ndarray in kinds:
        return np.array(value) if isinstance(value, list) else value
    if isinstance(value, list) and tuple in kinds:
        value = tuple(as_whole(value, annotation))
    try:
        return check_value(value, annotation, path, plugins)
    except PydanticSchemaGenerationError:  # of a class that no plain value can be checked against
        return value
