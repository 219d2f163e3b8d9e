"""The layers of the house: imports run downward only, siblings do not know each other, Hydra stays at the door."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import trpo_cli

PACKAGE = Path(trpo_cli.__file__).parent
LAYERS = {
    "errors": 0,
    "start": 1,
    "__main__": 2,
    "aligned": 0,
    "ranges": 0,
    "schedules": 0,
    "adam": 0,
    "linearisation": 0,
    "threads": 0,
    "seeding": 0,
    "memory": 1,
    "kl_ball": 0,
    "yaml_files": 0,
    "layout": 1,
    "lock": 1,
    "progress": 0,
    "durable": 0,
    "sealing": 0,
    "packing": 0,
    "data": 1,
    "distributions": 1,
    "networks": 1,
    "returns": 1,
    "policies": 2,
    "critics": 3,
    "surrogates": 2,
    "finite_mdp": 2,
    "envs": 2,
    "trust_region": 2,
    "samplers": 4,
    "algos": 5,
    "checkpoint": 5,
    "event_files": 0,
    "settings": 0,
    "tensorboard": 4,
    "trackers": 4,
    "logger": 5,
    "run": 6,
    "composed": 1,
    "state": 2,
    "statistics": 0,
    "telling": 9,
    "whole_numbers": 9,
    "sweep": 8,
    "signals": 0,
    "build": 6,
    "plugins": 1,
    "groups": 2,
    "command_line": 3,
    "help": 3,
    "completion": 4,
    "door": 5,
    "mistakes": 5,
    "search_path": 5,
    "cli": 6,
    "resume": 6,
    "episodes": 7,
    "trained": 7,
    "film": 8,
    "evaluate": 9,
    "parts": 8,
    "train": 10,
    "report": 7,
}
ENTRY_POINTS = {
    "train",
    "evaluate",
    "report",
    "cli",
    "resume",
    "command_line",
    "completion",
    "composed",
    "mistakes",
    "search_path",
    "sweep",
    "whole_numbers",
    "yaml_files",  # reads as it does
}


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


def test_every_module_has_a_layer() -> None:
    assert {name for name, _ in files()} <= LAYERS.keys()


def test_imports_run_downward() -> None:
    wrong = [
        f"{path.name} imports {module}"
        for name, path in files()
        for module in imported(path)
        if module.startswith("trpo_cli.") and part(module) in LAYERS and part(module) != name
        if LAYERS[part(module)] >= LAYERS[name] and name not in ENTRY_POINTS
    ]
    assert not wrong


def test_the_trust_region_knows_torch_and_no_reinforcement_learning() -> None:
    for path in (PACKAGE / "trust_region").glob("*.py"):
        for module in imported(path):
            own = module.startswith(("trpo_cli.trust_region", "trpo_cli.ranges"))
            assert own or module.split(".")[0] in {"torch", *sys.stdlib_module_names}, f"{path.name}: {module}"


def test_samplers_and_the_trust_region_are_strangers() -> None:
    for name, path in files():
        if name == "samplers":
            assert not any(module.startswith("trpo_cli.trust_region") for module in imported(path))


def test_only_the_entry_points_import_hydra() -> None:
    users = {name for name, path in files() if any(m.split(".")[0] in {"hydra", "omegaconf"} for m in imported(path))}
    assert users <= ENTRY_POINTS


def test_the_door_opens_without_torch() -> None:
    code = "import sys; from trpo_cli import evaluate, report, train; print({'torch', 'gymnasium'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
