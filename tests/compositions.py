"""What every algorithm is configured as, on each task, with each sampler: `python tests/compositions.py` writes it.

`compositions.txt` keeps the answer, so that a change of `conf/` shows what it changes. Each entry has a number, and
holds what differs from an entry above it, on a task that nothing is tuned for; then, for each tuned task, what differs
there. Such a set of differences is written once, under a name such as Ant-v4.1, and named wherever it comes again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from conftest import composed

LISTING = Path(__file__).with_suffix(".txt")
Settings = dict[str, str]
Rows = dict[str, Settings]
ALGORITHMS = (
    *("trpo", "trpo_vine", "trpo_max_kl", "trpo_empirical_fisher", "trpo_penalty", "npg", "npg_fixed"),
    *("vpg", "vpg_adam", "ppo", "ppo_penalty", "a2c", "rwr", "cpi", "monotone_pi", "cem", "cma_es", "random_search"),
)
SAMPLERS = ("single_path", "vine", "exact", "whole_episodes")
NORMALISED = (
    *("Ant-v4", "Ant-v5", "HalfCheetah-v4", "HalfCheetah-v5", "Hopper-v4", "Hopper-v5", "Humanoid-v4", "Humanoid-v5"),
    *("HumanoidStandup-v4", "HumanoidStandup-v5", "Pusher-v5", "Reacher-v4", "Reacher-v5", "Swimmer-v4", "Swimmer-v5"),
    *("Walker2d-v4", "Walker2d-v5", "MountainCarContinuous-v0", "Pendulum-v1"),
)
PLAIN = (
    *("Acrobot-v1", "CartPole-v1", "FrozenLake-v1", "InvertedDoublePendulum-v4", "InvertedDoublePendulum-v5"),
    *("InvertedPendulum-v4", "InvertedPendulum-v5", "MountainCar-v0", "RandomMDP-v0", "Taxi-v4"),
)
TASKS = (*PLAIN, *NORMALISED)  # the first is the one that nothing is tuned for
PARTS = (
    *("critic=linear", "critic=zero", "critic=shared", "algo/advantage=monte_carlo", "algo/advantage=n_step"),
    *("algo/surrogate=clipped", "algo/surrogate=importance_sampled", "policy=linear"),
)
EXPERIMENTS = (
    *("benchmark/atari_10m_frames", "benchmark/minatar", "benchmark/mujoco_1m"),
    *("closed_vine", "large_batch", "npg_multiplier", "search/trust_region"),
    *(f"paper/{task}" for task in ("cartpole", "hopper", "hopper_small", "swimmer", "swimmer_small")),
    *("paper/walker", "paper/walker_small", "paper/atari", "paper/atari_small", "paper/atari_vine"),
    "paper/atari_vine_small",
)


def entries() -> Iterator[str]:
    """The choices that are composed for every task."""
    for algo, sampler in itertools.product(ALGORITHMS, SAMPLERS):
        yield f"algo={algo}" if (algo, sampler) == ("trpo_vine", "vine") else f"algo={algo} sampler={sampler}"
    yield "algo=bc"
    for algo, part in itertools.product(("trpo", "npg", "vpg", "ppo", "a2c"), PARTS):
        yield f"algo={algo} {part}"


def presets() -> Iterator[str]:
    """Experiments, which choose a task themselves, and what else is typed beside them."""
    others = ("", " sampler=single_path", " sampler=vine")
    tasks = ("", " env=CartPole-v1", " env=Swimmer-v4", " env=Ant-v4")
    typed = [f" algo={algo}{task}" for algo in ("npg_fixed", "ppo", "cem") for task in tasks]
    for experiment, more in itertools.product(EXPERIMENTS, (*others, *typed)):
        yield f"experiment={experiment}{more}"


TITLES = (*(f"{entry} env={TASKS[0]}" for entry in entries()), *presets())


def elsewhere(title: str) -> Iterator[tuple[str, str]]:
    """The other tasks of an entry, and what is chosen there."""
    entry, _, task = title.rpartition(" env=")
    if task == TASKS[0]:
        yield from ((other, f"{entry} env={other}") for other in TASKS[1:])


ALL = (*TITLES, *(choices for title in TITLES for _, choices in elsewhere(title)))


def settings(choices: str) -> Settings:
    """Every key and its value, the class instead of the path of a target."""
    node = composed(*choices.split())
    return {key: value for key, value in leaves(node) if not key.startswith(("sweep.", "resume"))}


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """`algo.delta`, `0.01` and the like."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, str(node).rpartition(".")[2] if path.endswith("_target_") else repr(node)


def difference(one: Settings, other: Settings) -> list[str]:
    """What turns `one` into `other`."""
    changed = [f"{key}: {value}" for key, value in sorted(other.items()) if one.get(key) != value]
    return changed + [f"without {key}" for key in sorted(one.keys() - other.keys())]


def changed(one: Settings, changes: Iterable[str]) -> Settings:
    """The reverse of `difference`."""
    found = dict(one)
    for text in changes:
        key, colon, value = text.partition(": ")
        if colon:
            found[key] = value
        else:
            del found[key.removeprefix("without ")]
    return found


def on_task(entry: Settings, task: str) -> Settings:
    """The entry of an untuned task, on another one that is not tuned either."""
    return entry | {"env.id": repr(task), "env.normalize_observation": str(task in NORMALISED)}


def written(rows: Rows) -> str:
    """The rows as a text."""
    lines: list[str] = []
    above: list[Settings] = []
    names: dict[tuple[str, str], str] = {}
    for title in TITLES:
        here = rows[title]
        count = len(above)
        near = min(range(count), key=lambda other: len(difference(above[other], here)), default=count)
        lines.append(f"{count} {title} like {near}")
        lines += [f" {text}" for text in difference(above[near] if above else {}, here)]
        above.append(here)
        again = []
        for task, choices in elsewhere(title):
            text = "; ".join(difference(on_task(here, task), rows[choices]))
            if (task, text) in names:
                again.append(names[task, text])
            elif text:
                names[task, text] = f"{task}.{sum(known == task for known, _ in names)}"
                lines.append(f"  {names[task, text]} {text}")
        if again:
            lines.append(f"  again {' '.join(again)}")
    return "".join(f"{line}\n" for line in lines)


def read(text: str) -> Rows:
    """The reverse of `written`."""
    above: list[Settings] = []
    texts: dict[str, str] = {}
    tuned: list[dict[str, str]] = []
    for line in text.splitlines():
        words = line.split()
        if line.startswith("  "):
            if words[0] != "again":
                texts[words[0]] = line.strip().partition(" ")[2]
            found = words[1:] if words[0] == "again" else words[:1]
            tuned[-1] |= {name.rpartition(".")[0]: texts[name] for name in found}
        elif line.startswith(" "):
            above[-1] = changed(above[-1], [line.strip()])
        else:
            above.append(above[int(words[-1])] if above else {})
            tuned.append({})
    rows: Rows = {}
    for title, here, there in zip(TITLES, above, tuned, strict=True):
        rows[title] = here
        for task, choices in elsewhere(title):
            changes = there[task].split("; ") if task in there else []
            rows[choices] = changed(on_task(here, task), changes)
    return rows


if __name__ == "__main__":
    LISTING.write_text(written({choices: settings(choices) for choices in ALL}), encoding="utf-8")
