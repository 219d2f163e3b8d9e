"""A node of the configuration -> the object it describes, checked before anything is made.

A node names its class or function as `_target_`; the other keys are its keyword arguments, `_partial_: true` leaves the
call to whoever receives it. Signatures are the schema: unknown keys, missing keys, wrong types and values out of range
are found here. Code comes from `trpo_cli` and from the packages that the user named in `plugins` on this command line,
from nowhere else.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from trpo_cli.errors import ConfigError, UserError, nearest

S = TypeVar("S")


def build(node: Any, path: str, plugins: Sequence[str] = (), **context: Any) -> Any:
    """The object that `node`, found at `path` of the configuration, describes.

    `context` holds what only the program knows (a policy, a generator, ...); each part receives what its signature
    names. Raises `ConfigError`, naming the key.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(
            f"{path}: got {node!r}; a part is chosen from its group, with a slash: {path.replace('.', '/')}=NAME"
        )
    target = locate(node["_target_"], f"{path}._target_", plugins)
    given = {key: value for key, value in node.items() if key not in ("_target_", "_partial_")}
    partial = bool(node.get("_partial_", False))
    parameters = _parameters(target, partial)
    known = [name for name in parameters if name not in context]
    _refuse_unknown(given, known, f"{path}.")
    annotations = _annotations(target)
    arguments = {
        key: build(value, f"{path}.{key}", plugins, **context)
        if isinstance(value, Mapping) and "_target_" in value
        else checked(value, annotations.get(key, Any), f"{path}.{key}")
        for key, value in given.items()
    }
    arguments |= {name: value for name, value in context.items() if name in parameters}
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in arguments:
            raise ConfigError(f"{path}.{name}: missing; {node['_target_']} needs it")
    return functools.partial(target, **arguments) if partial else _call(target, arguments, path)


def fill(cls: type[S], node: Mapping[str, Any], path: str = "") -> S:
    """The dataclass `cls`, nested ones included, with the plain values of `node`. Raises `ConfigError` like `build`."""
    annotations = get_type_hints(cls, include_extras=True)
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    _refuse_unknown(node, known, path)
    values = {
        name: fill(annotations[name], node[name], f"{path}{name}.")
        if is_dataclass(annotations[name])
        else checked(node[name], annotations[name], f"{path}{name}")
        for name in known
    }
    return cls(**values)


def checked(value: Any, annotation: Any, path: str) -> Any:
    """`value` if it fits `annotation`. Raises `ConfigError` naming `path`, what was given and what fits."""
    if get_origin(annotation) is Callable:
        return build(value, path)  # says how a part is chosen: a plain value is none
    adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(strict=True))
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        detail = error.errors()[0]
        where = "".join(f"[{part}]" for part in detail["loc"] if isinstance(part, int))
        message = detail["msg"].removeprefix("Input ")
        raise ConfigError(f"{path}{where}: got {value!r}; it {message}") from error
    return value


def locate(target: Any, path: str, plugins: Sequence[str]) -> Callable[..., Any]:
    """The class or function called `target`, if it is defined in an allowed package. Raises `ConfigError` otherwise."""
    allowed = ("trpo_cli", *plugins)
    module_name, _, name = str(target).rpartition(".")
    if module_name.partition(".")[0] not in allowed:
        raise ConfigError(
            f"{path}: '{target}' is not in an allowed package ({', '.join(allowed)}); "
            f"plugins=[{module_name.partition('.')[0]}] allows its package"
        )
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{path}: '{target}' cannot be found: {error}") from error
    home = getattr(found, "__module__", None) or ""
    if not callable(found) or home.partition(".")[0] not in allowed:
        raise ConfigError(f"{path}: '{target}' is no class or function of {', '.join(allowed)}")
    return found  # type: ignore[no-any-return]


def _parameters(target: Callable[..., Any], partial: bool) -> dict[str, inspect.Parameter]:
    """What a node may set: every named parameter; of a partial call, not the positional ones: its caller has those."""
    kinds = {inspect.Parameter.KEYWORD_ONLY} | (set() if partial else {inspect.Parameter.POSITIONAL_OR_KEYWORD})
    return {name: p for name, p in inspect.signature(target).parameters.items() if p.kind in kinds}


def _refuse_unknown(given: Mapping[str, Any], known: Sequence[str], prefix: str) -> None:
    for key in given:
        if key not in known:
            hint = nearest(key, known) or f"; known are: {', '.join(known)}"
            raise ConfigError(f"{prefix}{key}: no such key{hint}")


def _annotations(target: Callable[..., Any]) -> dict[str, Any]:
    """Type hints of the parameters, with their ranges."""
    plain_class = inspect.isclass(target) and not is_dataclass(target)
    return get_type_hints(target.__init__ if plain_class else target, include_extras=True)


def _call(target: Callable[..., Any], arguments: dict[str, Any], path: str) -> Any:
    try:
        return target(**arguments)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {getattr(target, '__name__', target)}: {error}") from error
