"""trpo-report: learning curves and a table over the seeds of many runs."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.experimental.callback import Callback
from numpy.typing import NDArray
from omegaconf import DictConfig

from trpo_cli.cli import reported
from trpo_cli.command_line import Parser
from trpo_cli.errors import RunDirectoryError, nearest
from trpo_cli.layout import METRICS, SUMMARY, read_config

Floats = NDArray[np.float64]
RETURN = "rollout/episode_return_mean"
AGAINST = ("env_steps", "iterations")
POINTS = 200  # of a curve
INDIFFERENT = (
    "seed",
    "choices.",
    "plugins",
    "device",
    "eval.",
    "checkpoint.",
    "fault_patience",
    "env.step_timeout",
    "resume",
    "sampler.num_threads",
    "sampler.vectorization",
)
"""Keys, or how they begin, that decide nothing that is learned, or are told apart otherwise."""
FEW = 5  # curves whose names find room among them
FAR = 30  # curves whose lengths differ by more share a logarithmic axis
RESAMPLES = 2000  # of the seeds, for an interval


@dataclass(frozen=True)
class History:
    """One run: a metric, by default the training return, row by row."""

    directory: Path
    task: str
    algo: str
    seed: int
    choices: dict[str, str]  # the option of each group
    settings: dict[str, Any]  # every key of the configuration that may decide what is learned, but the seed; flat
    x: dict[str, Floats]  # of `AGAINST`, (I,)
    y: Floats  # (I,)


def find(folders: Sequence[Path], metric: str) -> Iterator[History]:
    """Every run at or below the folders, once. Raises `RunDirectoryError` for a folder that holds none."""
    seen = set()
    for folder in folders:
        found = sorted(path.parent for path in folder.rglob(METRICS))
        if not found:
            raise RunDirectoryError(f"{folder} holds no run: no metrics.csv at or below it")
        for directory in found:
            if directory.resolve() in seen:
                continue
            seen.add(directory.resolve())
            history = read(directory, metric)
            if not len(history.y):
                print(f"left out: {directory}, which has no {metric} yet")
                continue
            if not (directory / SUMMARY).exists():
                print(f"not finished: {directory}, after {history.x['env_steps'][-1]:,.0f} steps")
            yield history


def read(directory: Path, metric: str) -> History:
    """The run in `directory`, in the rows that have the metric.

    Raises `RunDirectoryError` if its files are not those of a run, or know no such metric.
    """
    config = read_config(directory)
    try:
        with (directory / METRICS).open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            if metric not in (table.fieldnames or ()):
                known = nearest(metric, table.fieldnames or ())
                raise RunDirectoryError(f"{directory}: metrics.csv has no column '{metric}'{known}")
            rows = [
                (float(row["env_steps"]), float(iteration), float(row[metric]))
                for iteration, row in enumerate(table, 1)
                if row[metric]
            ]
        *x, y = np.array(rows).reshape(-1, 3).T
        settings = {key: value for key, value in flat(config) if not key.startswith(INDIFFERENT)}
        return History(
            directory,
            config["env"]["id"],
            config["choices"]["algo"],
            config["seed"],
            {group: option for group, option in config["choices"].items() if "/" not in group},
            settings,
            dict(zip(AGAINST, x, strict=True)),
            y,
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


def curve(
    histories: Sequence[History], against: str = "env_steps", spacing: Any = np.linspace
) -> tuple[Floats, Floats]:
    """Places (P,) that all the runs have reached, and every run's metric there (S, P), interpolated."""
    first, last = max(h.x[against][0] for h in histories), min(h.x[against][-1] for h in histories)
    places = spacing(first, last, POINTS)
    return places, np.stack([np.interp(places, h.x[against], h.y) for h in histories])


Groups = dict[str, dict[str, list[History]]]


def grouped(histories: Sequence[History]) -> Groups:
    """task -> label -> the runs that differ in nothing but their seed.

    The label is the algorithm, with the options of groups in which runs of one task and algorithm differ, and the
    settings of all other groups. Raises `RunDirectoryError` if a seed comes twice in a group: counted as two it would
    feign certainty.
    """
    groups: Groups = defaultdict(lambda: defaultdict(list))
    for history in histories:
        alike = [h for h in histories if (h.task, h.algo) == (history.task, history.algo)]
        chosen = {
            group: option
            for group, option in sorted(history.choices.items())
            if any(h.choices.get(group) != option for h in alike)
        }
        same = [h for h in alike if h.choices == history.choices]
        settings = {
            key: value
            for key, value in sorted(history.settings.items())
            if any(h.settings.get(key) != value for h in (same if key.partition(".")[0] in chosen else alike))
        }
        differing = [f"{key}={value}" for key, value in {**chosen, **settings}.items()]
        group = groups[history.task][" ".join([history.algo, *differing])]
        for other in group:
            if other.seed == history.seed:
                raise RunDirectoryError(f"{other.directory} and {history.directory} are the same run, seed and all")
        group.append(history)
    return groups


def draw(groups: Groups, out: Path, metric: str, against: Sequence[str]) -> None:
    """`learning_curves.png` and `.svg`: a panel a task and axis, one curve an algorithm, of one colour everywhere."""
    from matplotlib.figure import Figure

    plots = [(task, axis) for task in sorted(groups) for axis in against]
    columns = len(against) if len(against) > 1 else min(3, math.ceil(math.sqrt(len(plots))))
    rows = -(-len(plots) // columns)
    algorithms = sorted({algo for task in groups.values() for algo in task})
    figure = Figure(figsize=(5.2 * columns + 1.2, 3.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for (task, axis), panel in zip(plots, panels, strict=False):  # in this order: panels then holds the ones left over
        ends = [min(h.x[axis][-1] for h in histories) for histories in groups[task].values()]
        logarithmic = max(ends) > FAR * min(ends)
        for algo, histories in sorted(groups[task].items()):
            places, values = curve(histories, axis, np.geomspace if logarithmic else np.linspace)
            colour = f"C{algorithms.index(algo)}"
            panel.plot(places, values.mean(0), label=f"{algo} ({len(histories)})", color=colour)
            panel.fill_between(places, *interval(values), color=colour, alpha=0.2, linewidth=0)
        label = "return, last 100 episodes" if metric == RETURN else metric
        panel.set(title=task, xlabel="environment steps" if axis == "env_steps" else axis, ylabel=label)
        if logarithmic:
            panel.set_xscale("log")
        else:
            panel.ticklabel_format(axis="x", style="sci", scilimits=(0, 6), useMathText=True)
        panel.spines[["top", "right"]].set_visible(False)
        if axis == against[-1]:
            crowded = len(groups[task]) > FEW
            place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if crowded else {}
            panel.legend(title="algorithm (seeds)", frameon=False, fontsize="small", **place)
    for panel in panels:
        panel.remove()
    for kind in ("png", "svg"):
        figure.savefig(out / f"learning_curves.{kind}", dpi=150, metadata={"Date": None} if kind == "svg" else None)


def table(groups: Groups, metric: str) -> str:
    """Markdown: each group's mean where its shortest run stops, with its interval over seeds."""
    what = "training return" if metric == RETURN else metric
    lines = [
        f"| task | algorithm | seeds | steps | final {what} | 95 % interval |",
        "|---|---|---|---|---|---|",
    ]
    for task, algorithms in sorted(groups.items()):
        for algo, histories in sorted(algorithms.items()):
            at, values = curve(histories)
            final, steps = values[:, -1], at[-1]
            low, high = interval(final)
            spread = f"{low:.5g} to {high:.5g}" if len(final) > 1 else "one seed"
            lines.append(f"| {task} | {algo} | {len(final)} | {steps:,.0f} | {final.mean():.5g} | {spread} |")
    return "\n".join(lines) + "\n"


def report(runs: Sequence[Path], out: Path, metric: str = RETURN, against: Sequence[str] = AGAINST[:1]) -> None:
    """Write the curves and the table of `runs` into `out`, and print the table.

    Raises `RunDirectoryError` if there is nothing to draw.
    """
    groups = grouped(list(find(runs, metric)))
    if not groups:
        raise RunDirectoryError(f"no run has a {metric} yet: there is nothing to draw")
    out.mkdir(parents=True, exist_ok=True)
    draw(groups, out, metric, against)
    text = table(groups, metric)
    (out / "results.md").write_text(text, encoding="utf-8")
    print(text, end="")
    print(f"\nwritten to {out}: learning_curves.png, learning_curves.svg, results.md")


class SweepReport(Callback):
    """A Hydra callback: a multirun ends with the report of its runs, in `report/` beside them."""

    def __init__(self, metric: str = RETURN) -> None:
        self.metric = metric

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        directory = Path(config.hydra.sweep.dir)
        try:
            report([directory], directory / "report", self.metric, AGAINST)
        except RunDirectoryError as error:
            print(f"no report: {error}")


@reported
def main() -> None:
    """The command `trpo-report`."""
    parser = Parser(
        prog="trpo-report",
        description="Draw the learning curves of many runs, the mean over seeds with its 95 % bootstrap interval, and "
        "make a table of their final returns.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="run directories, or folders of them")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write; made if need be")
    parser.add_argument("--metric", default=RETURN, help="a column of metrics.csv (default: %(default)s)")
    parser.add_argument(
        "--against", nargs="+", choices=AGAINST, default=AGAINST[:1], help="one panel each (default: env_steps)"
    )
    arguments = parser.parse_args()
    report(arguments.runs, arguments.out, arguments.metric, arguments.against)
