"""Building the object that a node of the configuration describes, after checking the node.

A node names a class or function as `_target_`, and its other keys are keyword arguments. A class is called. A function
gets its keyword-only arguments, and is called later by its receiver. Signatures are the schema: unknown and missing
keys, wrong types and values out of range are errors. Code comes only from the parts of `trpo_cli`, from packages that
`plugins` names on this command line, and from installed packages that announce themselves (`plugins.py`).
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from decimal import Decimal
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml  # type: ignore[import-untyped]
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from trpo_cli.config.groups import CONF, find_options
from trpo_cli.config.moved import DECAYS, explain_move, update_target
from trpo_cli.config.plugins import find_announced
from trpo_cli.errors import INHERIT_HINT, ConfigError, UnknownNameError, UserError, did_you_mean

S = TypeVar("S")
R = TypeVar("R")

SCHEDULE, SCHEDULED_GROUPS = "schedule", ("algo", "critic")
"""In a node of these groups: which of its settings move in the course of training (`scheduling.py`)."""
PARTS = tuple(
    f"trpo_cli.{name}"
    for name in (
        "algos",
        "envs",
        "models",
        "returns",
        "run.trackers",
        "samplers",
        "surrogates",
        "trust_region",
    )
)
"""Modules with parts. No configuration may call the rest of the program, which reads and writes files."""


def build(
    node: Any,
    path: str,
    role: type[R],
    plugins: Sequence[str] = (),
    chosen: Mapping[str, str] | None = None,
    **context: Any,
) -> R:
    """Build the instance of `role` that `node` describes, which is at `path` of the configuration.

    `context` holds arguments that no configuration gives (a policy, a generator, ...); each part receives those that
    its signature names. `chosen` holds the option of each group as it was typed. Raises `ConfigError`, naming the key.
    """
    target = find_class(node, path, role, plugins)
    _refuse_unfit(target, path, context, chosen or {})
    arguments = _collect_arguments(target, node, path, plugins, context, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        return target(**arguments)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {target.__name__}: {error}") from error


def find_class(node: Any, path: str, role: type[R], plugins: Sequence[str] = ()) -> type[R]:
    """Return the class that `node`, at `path` of the configuration, names. Raises `ConfigError` if it is no `role`."""
    target = locate(_check_part(node, path)["_target_"], f"{path}._target_", plugins)
    if not (inspect.isclass(target) and issubclass(target, role)):
        raise ConfigError(f"{path}._target_: '{node['_target_']}' is no {role.__name__}")
    return target


def build_function(node: Any, path: str, plugins: Sequence[str] = ()) -> Callable[..., Any]:
    """Return the function that `node` describes with its keyword-only arguments bound; callers pass the others."""
    target = locate(_check_part(node, path)["_target_"], f"{path}._target_", plugins)
    if not inspect.isfunction(target):
        raise ConfigError(f"{path}._target_: '{node['_target_']}' is no function")
    return functools.partial(target, **_collect_arguments(target, node, path, plugins, {}))


def _check_part(node: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(node, Mapping):
        name = node if isinstance(node, str) else "NAME"
        raise ConfigError(
            f"{path}: got {node!r}; a part is chosen from its group, with a slash: {path.replace('.', '/')}={name}"
        )
    if "_target_" not in node:
        raise ConfigError(f"{path}: its YAML has no _target_; {INHERIT_HINT}")
    return node


def _collect_arguments(
    target: Callable[..., Any],
    node: Mapping[str, Any],
    path: str,
    plugins: Sequence[str],
    context: Mapping[str, Any],
    *more_kinds: Any,
) -> dict[str, Any]:
    """Collect the arguments of `target`: values of the node, checked against its signature, and parts of `context`."""
    kinds = (inspect.Parameter.KEYWORD_ONLY, *more_kinds)
    parameters = {name: p for name, p in inspect.signature(target).parameters.items() if p.kind in kinds}
    left_out = ("_target_", SCHEDULE) if path.partition(".")[0] in SCHEDULED_GROUPS else ("_target_",)
    given = {key: value for key, value in node.items() if key not in left_out}
    beside = get_type_hints(getattr(target, "beside", None) or object)
    _refuse_unknown(given, [*(name for name in parameters if name not in context), *beside], f"{path}.")
    annotations = get_hints(target)
    arguments = {
        key: check_value(value, annotations.get(key, Any), f"{path}.{key}", plugins) for key, value in given.items()
    }
    arguments |= {name: context[name] for name in parameters if name in context}
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in arguments:
            raise ConfigError(f"{path}.{name}: missing; {node['_target_']} needs it")
    return arguments


def _refuse_unfit(target: Callable[..., Any], path: str, context: Mapping[str, Any], chosen: Mapping[str, str]) -> None:
    """Raise `ConfigError` if a part of the context has a type that `target` does not accept."""
    for name, wanted in get_hints(target).items():
        if name not in context or not _is_part(wanted) or isinstance(context[name], wanted):
            continue
        part = f"{name}={chosen[name]}" if name in chosen else f"{name}: {type(context[name]).__name__}"
        whole = f"{path}={chosen[path]}" if path in chosen else f"{path}, a {target.__name__}"
        fits = [option for option in find_options(CONF / name) if _describes(name, option, wanted)]
        raise ConfigError(f"{part} does not go with {whole}: {name}={' or '.join(fits)} does")


def _describes(group: str, option: str, role: type) -> bool:
    """Whether the file of an option in this package names a class of that role."""
    node = yaml.safe_load((CONF / group / f"{option}.yaml").read_text(encoding="utf-8"))
    target = node.get(group, node).get("_target_")  # options that also set other groups are written from the root
    found = locate(target, group, ()) if target else None
    return inspect.isclass(found) and issubclass(found, role)


def fill(cls: type[S], node: Mapping[str, Any], path: str = "") -> S:
    """Make the dataclass `cls` and those within it from the plain values of `node`, or else from defaults.

    Raises `ConfigError` like `build`.
    """
    if not isinstance(node, Mapping):
        raise ConfigError(f"{path.rstrip('.')}: got {node!r}; it should hold {', '.join(get_type_hints(cls))}")
    annotations = get_type_hints(cls, include_extras=True)
    known = {field.name: field.default for field in fields(cls)}  # type: ignore[arg-type]
    _refuse_unknown(node, list(known), path)
    for name, default in known.items():
        if name not in node and default is MISSING:
            raise ConfigError(f"{path}{name}: missing")
    values = {
        name: fill(annotations[name], node[name], f"{path}{name}.")
        if is_dataclass(annotations[name])
        else check_value(node[name], annotations[name], f"{path}{name}")
        for name in known
        if name in node
    }
    return cls(**values)


def check_value(value: Any, annotation: Any, path: str, plugins: Sequence[str] = ()) -> Any:
    """Return `value` if it fits `annotation`, or the function that it describes if the annotation is a callable.

    Raises `ConfigError` naming `path`, the given value and what fits.
    """
    if value is not None and _is_function(annotation):
        return build_function(value, path, plugins)
    if hasattr(annotation, "from_node"):  # a type with a syntax of its own
        return annotation.from_node(value, path, plugins)
    value = as_whole(value, annotation)
    adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(strict=True))
    try:
        return adapter.validate_python(value)  # a whole number for a float comes back as a float
    except ValidationError as error:
        details = error.errors()
        where = _format_place(details[0])
        said = dict.fromkeys(detail["msg"] for detail in details if _format_place(detail) == where)
        first, *others = (text.removeprefix("Input ").removeprefix("List ") for text in said)
        fits = " or ".join([first, *(text.removeprefix("should be ") for text in others)])
        mistake = details[0]["type"]
        instead = _suggest(mistake, value if mistake == "list_type" else details[0]["input"])
        raise ConfigError(f"{path}{where}: got {value!r}; it {fits}{instead}") from error


def _format_place(detail: ErrorDetails) -> str:
    """Format the index of an invalid element of a list; each member of a union reports its own."""
    return "".join(f"[{part}]" for part in detail["loc"] if isinstance(part, int))


def _suggest(mistake: str, value: Any) -> str:
    """Suggest what was meant, if that is clear."""
    match mistake, value:
        case "list_type", str() | int() if value != "":
            return f", [{value}]"
        case "list_type", list() if value and not any(isinstance(one, list) for one in value):
            return f", as in {[value]}"
        case "int_type" | "float_type", list() if value:
            return f"; with -m, {','.join(map(str, value))} are several runs"
        case "int_type", str() if found := re.fullmatch(r"(\d+)([kKmM])", value):
            return f", {int(found[1]) * (1_000 if found[2] in 'kK' else 1_000_000):_}"
        case "int_type" | "float_type", str() if re.fullmatch(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?", value.lower()):
            return f", without quotes: {value}"
        case "dict_type", _:
            return ", {NAME: VALUE}"
        case "less_than", float() if value != value:
            return ", and this is not a number"
        case "int_type", str() if all(ends := value.replace("..", "-").partition("-")) and ends[2].isdigit():
            return f"; with -m, range({ends[0]},{int(ends[2]) + 1}) runs each of these"
    return ""


def as_whole(value: Any, annotation: Any) -> Any:
    """Return `value`, with floats such as 1e6 or 2048.0 converted to int if the annotation takes whole numbers."""
    if isinstance(value, list):
        return [as_whole(one, annotation) for one in value]
    if type(value) is float and value.is_integer() and is_whole(annotation):
        return int(Decimal(repr(value)))  # 1e23 is ten to the power of 23
    return value


def is_whole(annotation: Any) -> bool:
    """Whether the annotation takes, contains or allows whole numbers, but no other numbers."""
    inner = {annotation, *_iterate_inner(annotation)}
    return int in inner and float not in inner


def _iterate_inner(annotation: Any) -> Iterator[Any]:
    for one in get_args(annotation):
        yield from (one, *_iterate_inner(one)) if isinstance(one, Hashable) else ()


def _is_part(annotation: Any) -> bool:
    return inspect.isclass(annotation) and not getattr(annotation, "_is_protocol", False)


def _is_function(annotation: Any) -> bool:
    """Whether the annotation is a callable, or a callable or None."""
    return any(get_origin(option) is Callable for option in (annotation, *get_args(annotation)))


def locate(target: Any, path: str, plugins: Sequence[str]) -> Callable[..., Any]:
    """Import the class or function `target`. Raises `ConfigError` unless it is in a package that may define parts."""
    module_name, _, name = update_target(str(target)).rpartition(".")
    package = module_name.partition(".")[0]
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise ConfigError(f"{path}: '{target}' is no name of a class or function with its package: PACKAGE.NAME")
    if not _is_trusted(module_name, plugins):
        allowed = f"plugins=[{package}] of trpo-train allows it, or --plugins {package} of other commands"
        hint = "" if package == "trpo_cli" else f"\nif you trust that package, {allowed}"
        raise ConfigError(f"{path}: '{target}' is not in a package that parts are built from{hint}")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{path}: '{target}' cannot be found: {error}") from error
    if name.startswith("_") or not callable(found) or not _is_trusted(str(getattr(found, "__module__", "")), plugins):
        raise ConfigError(f"{path}: '{target}' is not a public class or function of its package")
    return found  # type: ignore[no-any-return]


def _is_trusted(module: str, plugins: Sequence[str]) -> bool:
    """Whether parts may come from the module; what is installed is read only if nothing else allows it."""
    return _is_within(module, (*PARTS, *plugins)) or _is_within(module, find_announced())


def _is_within(module: str, packages: Sequence[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages if package)


def _refuse_unknown(given: Mapping[str, Any], known: Sequence[str], prefix: str) -> None:
    for key in given:
        if key not in known:
            hint = did_you_mean(str(key), known, prefix) or f"; known keys are: {', '.join(known) or 'none'}"
            hint = explain_move(key, prefix) if key in DECAYS else hint
            raise UnknownNameError(f"{prefix}{key}: no such key{hint}")


@functools.cache
def get_hints(target: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the type hints of the parameters, with their ranges, and of the keys `beside` them in the node."""
    plain_class = inspect.isclass(target) and not is_dataclass(target)
    own = get_type_hints(target.__init__ if plain_class else target, include_extras=True)
    beside = getattr(target, "beside", None)
    return {**get_type_hints(beside, include_extras=True), **own} if beside else own
