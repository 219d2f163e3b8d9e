"""The layers of the house: imports run downward only, siblings do not know each other, Hydra stays at the door."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import trpo_cli

PACKAGE = Path(trpo_cli.__file__).parent
ROOMS = (
    "columns errors seeding schedules ranges shell statistics threads data",  # the ground: they import nothing of ours
    "shards",
    "memory returns surrogates config models exact trust_region",
    "run",
    "envs",
    "samplers",
    "play",
    "algos",
    "parts",
    "cli",
    "evaluate export report __main__",
    "sweep",
    "train",
)
"""What lies on each floor, the lowest first."""
FLOORS = {name: floor for floor, names in enumerate(ROOMS) for name in names.split()}
HYDRA = {"cli", "config", "sweep", "train"}  # who may import it


def imported(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def part(module: str) -> str:
    """`trpo_cli.envs.make` -> `envs`."""
    return module.split(".")[1] if module.count(".") else ""


def files() -> list[tuple[str, Path]]:
    return [
        (path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path)
        for path in PACKAGE.rglob("*.py")
        if path != PACKAGE / "__init__.py"
    ]


def test_every_room_has_a_floor() -> None:
    assert {name for name, _ in files()} == FLOORS.keys()


def test_imports_run_downward() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for name, path in files()
        for module in imported(path)
        if part(module) in FLOORS and part(module) != name and FLOORS[part(module)] >= FLOORS[name]
    ]
    assert not wrong


def test_no_two_modules_of_a_room_import_each_other() -> None:
    modules = {".".join(("trpo_cli", *path.relative_to(PACKAGE).with_suffix("").parts)): path for _, path in files()}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    graph = {name: imported(path) & modules.keys() - {name, name.rpartition(".")[0]} for name, path in modules.items()}
    sorter = TopologicalSorter(graph)  # a package may gather what lies in it
    sorter.prepare()  # raises `CycleError`, naming the circle


def test_the_trust_region_knows_torch_and_no_reinforcement_learning() -> None:
    for path in (PACKAGE / "trust_region").glob("*.py"):
        for module in imported(path):
            own = module.startswith(("trpo_cli.trust_region", "trpo_cli.ranges"))
            assert own or module.split(".")[0] in {"torch", *sys.stdlib_module_names}, f"{path.name}: {module}"


def test_samplers_and_the_trust_region_are_strangers() -> None:
    for name, path in files():
        if name == "samplers":
            assert not any(module.startswith("trpo_cli.trust_region") for module in imported(path))


def test_hydra_stays_at_the_door() -> None:
    users = {name for name, path in files() if any(m.split(".")[0] in {"hydra", "omegaconf"} for m in imported(path))}
    assert users == HYDRA


def test_the_door_opens_without_torch() -> None:
    names = "evaluate, export, report, train"
    code = f"import sys; from trpo_cli import {names}; print({{'torch', 'gymnasium'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
