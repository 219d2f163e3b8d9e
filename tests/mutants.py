"""Faults put into the core on purpose, one at a time, to see whether the fast tests find them.

A mutant is a module in which one expression of the syntax tree was changed: an operator or a comparison turned, a term
or a factor dropped, arguments exchanged, old taken for new. It lives in a process of its own, and no file is written.
"""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "trpo_cli"
LIMIT = 600  # seconds: a mutant may never end
TURNED: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult},
    **{ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt},
}
METHODS = {"min": "max", "max": "min", "amax": "amin", "minimum": "maximum", "sum": "mean", "mean": "sum"}
METHODS |= {"all": "any", "any": "all", "zeros_like": "ones_like", "ones_like": "zeros_like"}
DROPPED = ("exp", "log", "square", "sqrt", "rsqrt", "abs", "softmax", "log_softmax", "clamp")
SKIPPED = (ast.Import, ast.ImportFrom, ast.Raise, ast.JoinedStr, ast.Assert)


@dataclass(frozen=True)
class Mutant:
    """One changed expression of one file."""

    file: str
    function: str
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.file}: {self.function}: {self.before} -> {self.after}"


def mutants(file: str) -> Iterator[Mutant]:
    """Every mutant of a file of the package; of what it computes, not of its types and messages."""
    tree = ast.parse((PACKAGE / file).read_text())
    known = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    known |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for function, place, key, node in _expressions(tree, "module"):
        for changed in _changes(node, known):
            before, place[key] = ast.unparse(node), changed
            yield Mutant(file, function, before, ast.unparse(changed), ast.unparse(tree))
            place[key] = node


def _expressions(parent: ast.AST, function: str) -> Iterator[tuple[str, Any, Any, ast.expr]]:
    """All below a node: the function each is in, and a list or mapping with its key there, where it can be changed."""
    function = parent.name if isinstance(parent, ast.FunctionDef) else function
    for field, value in ast.iter_fields(parent):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        place: Any = value if isinstance(value, list) else vars(parent)
        for key, node in enumerate(value) if isinstance(value, list) else [(field, value)]:
            if isinstance(node, ast.expr):
                yield function, place, key, node
            if isinstance(node, ast.AST) and not isinstance(node, SKIPPED):
                yield from _expressions(node, function)


def _changes(node: ast.expr, known: set[str]) -> Iterator[ast.expr]:
    """What an expression may be mistaken for."""
    match node:
        case ast.BinOp() | ast.BoolOp() if type(node.op) in TURNED:
            yield _but(node, op=TURNED[type(node.op)]())
        case ast.Compare(ops=[operator]) if type(operator) in TURNED:
            yield _but(node, ops=[TURNED[type(operator)]()])
        case ast.UnaryOp(operand=operand) if not isinstance(operand, ast.Constant):
            yield operand
        case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in DROPPED and ast.unparse(value) != "math":
            yield value
    match node:
        case ast.BinOp(left=left, right=right):
            yield right if isinstance(node.op, ast.Mult) else left
        case ast.BoolOp(values=values):
            yield from values
        case ast.Call(args=[first, second, *rest]) if type(first) is type(second) and not _commutes(node.func):
            yield _but(node, args=[second, first, *rest])
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield _but(node, test=test, body=orelse, orelse=body)
        case ast.Constant(value=float() as number):
            yield ast.Constant(number * 2 or 1.0)
        case ast.Name(id=name) if (other := name.replace("old", "new")) != name and other in known:
            yield _but(node, id=other)
        case ast.Attribute(attr=name) if name in METHODS:
            yield _but(node, attr=METHODS[name])


def _commutes(function: ast.expr) -> bool:
    return ast.unparse(function).rpartition(".")[2] in ("min", "max", "minimum", "maximum", "isclose")


def _but(node: Any, **fields: Any) -> Any:
    changed = copy.copy(node)
    vars(changed).update(fields)
    return changed


def survivors(file: str, tests: list[str], part: int, parts: int) -> Iterator[Mutant]:
    """Those of every `parts`-th mutant of a file with which the fast tests in some files pass.

    Raises `RuntimeError` if they fail without one.
    """
    hypothesis.settings.register_profile("mutants", phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate])
    hypothesis.settings.load_profile("mutants")  # what it finds need not be made smaller
    module = importlib.import_module(".".join(("trpo_cli", *Path(file).with_suffix("").parts)))
    if not _pass(tests) or not _survives(Mutant(file, "", "", "", (PACKAGE / file).read_text()), module, tests):
        raise RuntimeError(f"the tests fail without any mutant: {tests}")
    yield from (mutant for mutant in list(mutants(file))[part::parts] if _survives(mutant, module, tests))


def _pass(tests: list[str]) -> bool:
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        options = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain", "-m", "not slow")
        return pytest.main([*options, *(str(TESTS / name) for name in tests)]) == pytest.ExitCode.OK


def _survives(mutant: Mutant, module: Any, tests: list[str]) -> bool:
    child = os.fork()
    if not child:
        signal.alarm(LIMIT)
        changed: dict[str, Any] = {"__name__": module.__name__}
        try:
            exec(compile(mutant.source, str(mutant), "exec"), changed)
            _transplant(changed, vars(module))
            os._exit(not _pass(tests))
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def _transplant(source: Any, target: Any) -> None:
    """Give functions the code of others, wherever they were imported to."""
    for name, new in list(source.items()):
        old = target.get(name)
        if isinstance(new, staticmethod | classmethod):
            new, old = new.__func__, old.__func__
        elif isinstance(new, property):
            new, old = new.fget, old.fget
        elif isinstance(new, functools.cached_property):
            new, old = new.func, old.func
        if inspect.isfunction(new) and inspect.isfunction(old):
            inspect.unwrap(old).__code__ = inspect.unwrap(new).__code__
        elif inspect.isclass(new) and new.__module__ == old.__module__ and new is not old:
            _transplant(vars(new), vars(old))
        elif isinstance(new, dict) and new is not old:
            _transplant(new, old)
        elif type(new) is not type(old) and type(new).__qualname__ == type(old).__qualname__:
            _transplant(vars(new), vars(old))  # of a class that is in the file
        elif isinstance(new, int | float) and isinstance(target, dict):
            target[name] = new


if __name__ == "__main__":
    name, part, parts, *tests = sys.argv[1:]
    for survivor in survivors(name, tests, int(part), int(parts)):
        print(survivor)
