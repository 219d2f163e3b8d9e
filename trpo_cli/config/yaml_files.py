"""Reading YAML that people write. Mistakes are described in a sentence, with their line and column."""

from __future__ import annotations

import codecs
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf._utils import get_yaml_loader

SLIPPED = (yaml.YAMLError, ValueError, RecursionError)
"""The errors that reading a file with a mistake raises; `describe_slip` explains them."""
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
NAMES = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")  # the tags that keys may have
DEEP = "its brackets are nested too deeply"
SLIPS = {
    r"found character '\\t'.*": "a TAB; YAML is indented with spaces",
    r"found character '(.)' that cannot.*": r"a text that begins with \1 is written in quotes",
    r"found undefined alias.*": r"\g<0>; a text that begins with * is written in quotes",
    r"could not determine a constructor.*": "there is no such tag; a text that begins with ! is written in quotes",
    r"mapping values are not allowed here": "a ':' too many: a line that is not indented like those around it, or a "
    "text with ': ' in it, which is written in quotes",
    r"found duplicate key (.*)": r"the key '\1' occurs twice",
    r"expected <block end>.*": "this line is not indented like those around it",
    r"expected the node content.*<stream end>.*": "the file ends within a bracket",
    r"but found another document": "a second document begins, but an option is one document",
}
"""Message of PyYAML -> a clearer one, for mistakes at the place where PyYAML notices them."""
OPENED = {
    r"could not find expected ':'": "no ': ' follows this key",
    r"expected ',' or .*<stream end>.*|.*end of stream": "the bracket or quote that opens here is never closed",
}
"""The same, for mistakes at the beginning of the node that PyYAML is reading."""


@functools.lru_cache(maxsize=256)  # composing one configuration reads some files several times
def read_option(data: bytes) -> tuple[str, dict[Any, Any]]:
    """Return the text and the content of an option's file. Raises one of `SLIPPED` if it is not a valid option."""
    text = decode(data)
    return text, parse(text, get_yaml_loader(), _refuse_misshapen) or {}


def parse(text: str, loader_class: Any, accept: Callable[[Any], None] = lambda root: None) -> Any:
    """Parse a text with a loader of PyYAML; `accept` may reject the root node. Raises one of `SLIPPED`."""
    loader = loader_class(text)
    root = loader.get_single_node()
    if root is None:
        return None
    _refuse_twice(root)
    accept(root)
    return loader.construct_document(root)


def decode(data: bytes) -> str:
    """Decode a file. Raises `MarkedYAMLError` for an encoding or a character that YAML forbids."""
    if data.startswith(UTF16):
        raise _make_error("", "it is UTF-16; save it as UTF-8")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise _make_error(data[: error.start].decode(), "it is not UTF-8; save it as UTF-8") from error
    if strange := yaml.reader.Reader.NON_PRINTABLE.search(text):
        raise _make_error(text[: strange.start()], f"the character {strange[0]!r} is not allowed in YAML")
    return text


def _make_error(before: str, problem: str) -> yaml.MarkedYAMLError:
    """Make an error whose mark follows the text `before` it."""
    mark = yaml.Mark("", len(before), before.count("\n"), len(before) - before.rfind("\n") - 1, None, None)
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _refuse_twice(root: Any) -> None:
    """Raise `MarkedYAMLError` if a mapping at or below this node has a key twice; PyYAML would take the last."""
    for node in _iterate_nodes(root):
        keys: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.value in keys:
                raise _make_node_error(key, f"found duplicate key {key.value}")
            keys.add(str(key.value))


def describe_slip(error: Exception) -> str:
    """Describe a mistake and its place, in a form to append to the name of the file."""
    match error:
        case yaml.MarkedYAMLError(problem=str(problem), problem_mark=mark, context_mark=beginning):
            for pattern, told in OPENED.items():
                if beginning and re.fullmatch(pattern, problem):
                    return f"{format_place(beginning)}: {told}"
            told = next((re.sub(p, told, problem) for p, told in SLIPS.items() if re.fullmatch(p, problem)), problem)
            return f"{format_place(mark or beginning)}: {told}"
        case RecursionError():
            return f": {DEEP}"
        case _:
            return f": {str(error).splitlines()[0]}"


def format_place(mark: Any) -> str:
    """Format line and column, in a form to append to the name of a file."""
    return f", line {mark.line + 1}, column {mark.column + 1}"


def find_place(data: bytes, fits: Callable[[str], object]) -> str:
    """Find the first key or text of a file that `fits`; empty if there is none or the file cannot be read."""
    try:
        root = yaml.compose(decode(data), get_yaml_loader())
    except SLIPPED:
        return ""
    found = (node for node in _iterate_nodes(root) if isinstance(node, yaml.ScalarNode) and fits(node.value))
    return format_place(node.start_mark) if (node := next(found, None)) else ""


def find_top_key(data: bytes, name: str) -> str:
    """Find a key at the top of a valid file; empty if there is none."""
    root = yaml.compose(decode(data), get_yaml_loader())
    return next((format_place(key.start_mark) for key, _ in root.value if key.value == name), "")


def _iterate_nodes(node: Any) -> Iterator[Any]:
    """Yield a node and every node within it, in the order of the text."""
    yield node
    for child in node.value if isinstance(node, yaml.CollectionNode) else ():
        for one in child if isinstance(child, tuple) else [child]:
            yield from _iterate_nodes(one)


def _refuse_misshapen(root: Any) -> None:
    """Raise `MarkedYAMLError` unless the root maps names to values, and `defaults` to a list of options."""
    if not isinstance(root, yaml.MappingNode):
        raise _make_node_error(root, "an option consists of lines KEY: VALUE, but there is none here")
    for key, value in root.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag not in NAMES:
            raise _make_node_error(key, "a key is a name; one that YAML reads as something else is written in quotes")
        if key.value == "defaults":
            _refuse_defaults(value)


def _refuse_defaults(node: Any) -> None:
    if not isinstance(node, yaml.SequenceNode):
        raise _make_node_error(node, "defaults are a list, such as [OPTION, GROUP: OPTION, _self_]")
    for item in node.value:
        pair = item.value[0] if isinstance(item, yaml.MappingNode) and len(item.value) == 1 else None
        if not _is_text(item) and not (pair and _is_text(pair[0])):
            raise _make_node_error(item, "each of the defaults is OPTION or GROUP: OPTION")
    if len(selves := [item for item in node.value if item.value == "_self_"]) > 1:
        raise _make_node_error(selves[1], "_self_ occurs twice")


def _is_text(node: Any) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == NAMES[0]


def _make_node_error(node: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
