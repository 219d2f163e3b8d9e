"""trpo-report: learning curves and a table over the seeds of many runs."""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trpo_cli.cli import reported
from trpo_cli.errors import RunDirectoryError
from trpo_cli.evaluate import read_config

Floats = NDArray[np.float64]
RETURN = "rollout/episode_return_mean"
POINTS = 200  # of a curve
RESAMPLES = 2000  # of the seeds, for an interval


@dataclass(frozen=True)
class History:
    """One run: the training return after so many environment steps."""

    directory: Path
    task: str
    algo: str
    seed: int
    settings: dict[str, Any]  # every key of the configuration but the seed, flat
    steps: Floats  # (I,)
    returns: Floats  # (I,)


def find(folders: Sequence[Path]) -> Iterator[History]:
    """Every run at or below the folders, once. Raises `RunDirectoryError` for a folder that holds none."""
    seen = set()
    for folder in folders:
        found = sorted(path.parent for path in folder.rglob("metrics.csv"))
        if not found:
            raise RunDirectoryError(f"{folder} holds no run: no metrics.csv at or below it")
        for directory in found:
            if directory.resolve() in seen:
                continue
            seen.add(directory.resolve())
            history = read(directory)
            if not len(history.steps):
                print(f"left out: {directory}, where no episode has ended yet")
                continue
            if not (directory / "summary.json").exists():
                print(f"not finished: {directory}, after {history.steps[-1]:,.0f} steps")
            yield history


def read(directory: Path) -> History:
    """The run in `directory`. Raises `RunDirectoryError` if its files are not those of a run."""
    config = read_config(directory)
    try:
        with (directory / "metrics.csv").open(newline="", encoding="utf-8") as file:
            rows = [(float(row["env_steps"]), float(row[RETURN])) for row in csv.DictReader(file) if row[RETURN]]
        steps, returns = np.array(rows).reshape(-1, 2).T
        settings = dict(flat({key: value for key, value in config.items() if key not in ("seed", "choices")}))
        return History(
            directory, config["env"]["id"], config["choices"]["algo"], config["seed"], settings, steps, returns
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RunDirectoryError(f"{directory} holds no readable run: {error!r}") from error


def flat(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """`algo.delta`, 0.01 and the like, for every leaf of a configuration."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def interval(samples: Floats) -> tuple[Floats, Floats]:
    """The 95 % bootstrap interval of the mean over seeds: samples (S, ...) -> low (...), high (...)."""
    chosen = np.random.default_rng(0).integers(len(samples), size=(RESAMPLES, len(samples)))
    means = samples[chosen].mean(1)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return low, high


def curve(histories: Sequence[History]) -> tuple[Floats, Floats]:
    """Steps (P,) that all the runs have reached, and every run's return there (S, P), interpolated."""
    steps = np.linspace(max(h.steps[0] for h in histories), min(h.steps[-1] for h in histories), POINTS)
    return steps, np.stack([np.interp(steps, h.steps, h.returns) for h in histories])


Groups = dict[str, dict[str, list[History]]]


def grouped(histories: Sequence[History]) -> Groups:
    """task -> label -> the runs that differ in nothing but their seed.

    The label is the algorithm, with the settings in which groups of one task and algorithm differ. Raises
    `RunDirectoryError` if a seed comes twice in a group: counted as two it would feign certainty.
    """
    groups: Groups = defaultdict(lambda: defaultdict(list))
    for history in histories:
        alike = [h for h in histories if (h.task, h.algo) == (history.task, history.algo)]
        differing = [
            f"{key}={value}"
            for key, value in sorted(history.settings.items())
            if any(h.settings.get(key) != value for h in alike)
        ]
        group = groups[history.task][" ".join([history.algo, *differing])]
        for other in group:
            if other.seed == history.seed:
                raise RunDirectoryError(f"{other.directory} and {history.directory} are the same run, seed and all")
        group.append(history)
    return groups


def draw(groups: Groups, out: Path) -> None:
    """`learning_curves.png` and `.svg`: one panel a task, one curve an algorithm."""
    from matplotlib.figure import Figure

    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(5.2 * columns + 1.2, 3.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for panel, (task, algorithms) in zip(panels, sorted(groups.items()), strict=False):
        for algo, histories in sorted(algorithms.items()):
            steps, returns = curve(histories)
            (line,) = panel.plot(steps, returns.mean(0), label=f"{algo} ({len(histories)})")
            panel.fill_between(steps, *interval(returns), color=line.get_color(), alpha=0.2, linewidth=0)
        panel.set(title=task, xlabel="environment steps", ylabel="return, last 100 episodes")
        panel.ticklabel_format(axis="x", style="sci", scilimits=(3, 6), useMathText=True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(title="algorithm (seeds)", frameon=False)
    for panel in panels:
        panel.remove()
    for kind in ("png", "svg"):
        figure.savefig(out / f"learning_curves.{kind}", dpi=150, metadata={"Date": None} if kind == "svg" else None)


def table(groups: Groups) -> str:
    """Markdown: each group's mean training return where its shortest run stops, with its interval over seeds."""
    lines = [
        "| task | algorithm | seeds | steps | final training return | 95 % interval |",
        "|---|---|---|---|---|---|",
    ]
    for task, algorithms in sorted(groups.items()):
        for algo, histories in sorted(algorithms.items()):
            at, returns = curve(histories)
            final, steps = returns[:, -1], at[-1]
            low, high = interval(final)
            spread = f"{low:.1f} to {high:.1f}" if len(final) > 1 else "one seed"
            lines.append(f"| {task} | {algo} | {len(final)} | {steps:,.0f} | {final.mean():.1f} | {spread} |")
    return "\n".join(lines) + "\n"


@reported
def main() -> None:
    """The command `trpo-report`."""
    parser = argparse.ArgumentParser(
        prog="trpo-report",
        description="Draw the learning curves of many runs, the mean over seeds with its 95 % bootstrap interval, and "
        "make a table of their final returns.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="run directories, or folders of them")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write; made if need be")
    arguments = parser.parse_args()
    groups = grouped(list(find(arguments.runs)))
    if not groups:
        raise RunDirectoryError("no run has finished an episode: there is nothing to draw")
    arguments.out.mkdir(parents=True, exist_ok=True)
    draw(groups, arguments.out)
    text = table(groups)
    (arguments.out / "results.md").write_text(text, encoding="utf-8")
    print(text, end="")
    print(f"\nwritten to {arguments.out}: learning_curves.png, learning_curves.svg, results.md")
