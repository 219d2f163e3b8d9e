"""The figures: each made of panels, which the page shows one by one, and a file for print shows together."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np

from trpo_cli.report.diagnostics import ACCEPTED, KL, RESIDUAL, compute_diagnostics
from trpo_cli.report.groups import Group
from trpo_cli.report.measures import curve
from trpo_cli.report.published import NEAR, Published
from trpo_cli.report.runs import STEPS
from trpo_cli.run.state import RETURN
from trpo_cli.statistics import FEWEST, Floats, Statistic, bin_means, bounds, profile, profile_interval

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)  # Okabe and Ito's, without yellow
STYLES = ("-", "--", ":", "-.")  # the next style when all colours are taken
FEW = 5  # curves that leave room for a legend among them
FAR = 30  # the ratio of lengths beyond which curves share a logarithmic axis
WIDE = 60  # letters in a line beside or below the axes
LONG = 22  # letters; a longer name has a line to itself
APART = 0.055  # the distance of names beside the axes, as a fraction of the height
CEILING = 4  # the largest KL / δ shown; a longer axis would hide what is near 1
STRETCHES = 40  # the steps are divided into; each is a point of a diagnostic
THRESHOLDS = np.linspace(0.0, 1.2, 121)  # of normalised scores
SIZE = (5.2, 3.6)  # inches, of a panel
LINE = 0.19  # inches, of a legend below the axes
LABELS = 0.5  # inches, of what stands between the axes and such a legend
AXES = {STEPS: "environment steps", "seconds": "seconds of sampling and updates"}


@dataclass(frozen=True)
class Panel:
    """One plot: a description, and a function that draws it onto axes."""

    alt: str
    names: Sequence[str]  # of its curves
    draw: Callable[[Any], None]
    roomy: bool = True  # whether a legend fits among the curves


class Styles:
    """Return the colour and line style of each label, the same in every figure."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels)

    def __call__(self, label: str) -> dict[str, Any]:
        place = self.labels.index(label)
        style = STYLES[place // len(COLOURS) % len(STYLES)]
        return {"color": COLOURS[place % len(COLOURS)], "linestyle": style}


def escape_dollars(text: str) -> str:
    """Keep matplotlib from reading `text` as mathematics."""
    return text.replace("$", r"\$")


def wrap_name(name: str) -> str:
    """Break a name for a legend into lines no wider than a panel."""
    return escape_dollars("\n".join(wrap(name, WIDE)) or name)


def curves(
    groups: Sequence[Group],
    against: str,
    metric: str,
    statistic: Statistic,
    smooth: int,
    styles: Styles,
    references: Sequence[Published],
) -> Panel:
    """Draw the learning curves of one task with their intervals, and mark published numbers."""

    def draw(axes: Any) -> None:
        ends = [curve(group.runs, metric, against)[0][-1] for group in groups]
        logarithmic = max(ends) > FAR * min(ends)
        for group in groups:
            spacing = np.geomspace if logarithmic else np.linspace
            places, values = curve(group.runs, metric, against, spacing, smooth)
            draw_curve(axes, places, values, statistic, name_with_runs(group), styles(group.label))
        if against == STEPS:
            mark_published(axes, references, max(ends), groups, styles)
        ylabel = "return, last 100 episodes" if metric == RETURN else metric
        axes.set(title=escape_dollars(groups[0].task), xlabel=AXES.get(against, against), ylabel=escape_dollars(ylabel))
        if logarithmic:
            axes.set_xscale("log")
        else:
            thin_out_ticks(axes)
        add_legend(axes, "algorithm (runs)")

    names = [name_with_runs(group) for group in groups]
    return Panel(f"{metric} against {AXES.get(against, against)} on {groups[0].task}: {', '.join(names)}", names, draw)


def name_with_runs(group: Group) -> str:
    """Return the label of a group with its number of runs, and what its band shows if not an interval."""
    count = len(group.runs)
    return f"{group.label} ({count}{', min to max' if 1 < count < FEWEST else ''})"


def draw_curve(
    axes: Any, places: Floats, values: Floats, statistic: Statistic, label: str, style: dict[str, Any]
) -> None:
    """Draw a curve over runs (S, P) with its interval, or min to max; a single point becomes a marker with a bar."""
    low, high = bounds([values], statistic)
    if len(places) > 1:
        axes.plot(places, statistic(values), label=wrap_name(label), **style)
        axes.fill_between(places, low, high, color=style["color"], alpha=0.18, linewidth=0)
    else:
        axes.vlines(places, low, high, color=style["color"])
        axes.plot(places, statistic(values), "o", label=wrap_name(label), color=style["color"])


def mark_published(
    axes: Any, references: Sequence[Published], end: float, groups: Sequence[Group], styles: Styles
) -> None:
    """A diamond at each published number of these algorithms whose steps are shown, hollow if it is of a single run.

    Its source stands beside the axes.
    """
    colours = {group.runs[0].algo: styles(group.label)["color"] for group in reversed(groups)}
    near = [p for p in references if p.algo in colours and p.steps is not None and p.steps <= NEAR * end]
    near.sort(key=lambda number: number.value)
    for number in near:
        fill = "none" if number.seeds == 1 else "full"
        axes.plot(number.steps, number.value, "D", markersize=4, color=colours[number.algo], fillstyle=fill, zorder=3)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)  # the names below are placed by it
    height = -APART
    for number in near:
        height = max(height + APART, (number.value - low) / (high - low))
        axes.annotate(
            number.source,
            (number.steps, number.value),
            (1.03, height),
            textcoords="axes fraction",
            va="center",
            size=7,
            color=colours[number.algo],
            arrowprops={"arrowstyle": "-", "color": "0.75", "linewidth": 0.6},
        )


def profiles(strata: dict[str, dict[str, Floats]], styles: Styles) -> Panel:
    """Draw the fraction of runs above each normalised score, over all tasks."""

    def draw(axes: Any) -> None:
        for label, tasks in strata.items():
            scores = np.concatenate([*tasks.values()])
            name = wrap_name(f"{label} ({len(scores)})")
            axes.plot(THRESHOLDS, profile(scores, THRESHOLDS), label=name, **styles(label))
            if len(scores) >= FEWEST:
                low, high = profile_interval(scores, THRESHOLDS)
                axes.fill_between(THRESHOLDS, low, high, color=styles(label)["color"], alpha=0.18, linewidth=0)
        axes.set(title="performance profile", xlabel="normalised score τ", ylabel="share of runs above τ")
        axes.set_ylim(-0.02, 1.02)
        add_legend(axes, "algorithm (runs)")

    return Panel(
        f"performance profile: the share of runs above each normalised score: {', '.join(strata)}", list(strata), draw
    )


def trust_region(groups: Sequence[Group], name: str, styles: Styles) -> Panel:
    """Draw one diagnostic of one task, averaged over stretches of steps and then over runs."""

    def draw(axes: Any) -> None:
        tops = {}
        for group in groups:
            told = [(record.rows[STEPS], compute_diagnostics(record)[name]) for record in group.runs]
            end = min(x[-1] for x, _ in told)
            edges = np.linspace(0, end, min(STRETCHES, *(len(x) for x, _ in told)) + 1)
            values = np.stack([bin_means(x[x <= end], y[x <= end], edges) for x, y in told])
            there = ~np.isnan(values).any(0)
            middles = (edges[1:] + edges[:-1])[there] / 2
            marker = {"marker": "o"} if len(middles) == 1 else {}
            means = values[:, there].mean(0)
            tops[group.label] = means.max(initial=0.0)
            axes.plot(middles, means, label=wrap_name(group.label), **styles(group.label), **marker)
        if name == KL:
            axes.axhline(1, color="0.6", linewidth=0.8)
            cut_axis(axes, tops)
        elif name == RESIDUAL:
            axes.set_yscale("log", nonpositive="mask")
        elif name == ACCEPTED:
            axes.set_ylim(-0.02, 1.05)
        axes.set(title=escape_dollars(groups[0].task), xlabel=AXES[STEPS], ylabel=name)
        thin_out_ticks(axes)
        add_legend(axes, "algorithm", roomy=False)

    names = [group.label for group in groups]
    return Panel(f"{name} on {groups[0].task}: {', '.join(names)}", names, draw, roomy=False)


def cut_axis(axes: Any, tops: dict[str, float]) -> None:
    """End the axis at `CEILING` where some curves, whose highest points these are, exceed it, and say which."""
    beyond = {label: top for label, top in tops.items() if top > CEILING}
    if not 0 < len(beyond) < len(tops):
        return
    axes.set_ylim(0, CEILING)
    told = ", ".join(f"{label} up to {top:,.3g}" for label, top in beyond.items())
    said = wrap_name(f"cut at {CEILING}: {told}")
    axes.text(0.98, 0.98, said, transform=axes.transAxes, ha="right", va="top", size=8)


def thin_out_ticks(axes: Any) -> None:
    """Keep the numbers on the axis of steps from overlapping."""
    axes.ticklabel_format(axis="x", style="sci", scilimits=(0, 6), useMathText=True)
    axes.locator_params(axis="x", nbins=6)


def count_lines_below(names: Sequence[str], roomy: bool) -> int:
    """Return how many lines a legend of these names takes below the axes; 0 if it fits among the curves."""
    longest = max(map(len, names))
    if roomy and len(names) <= FEW and longest <= 2 * LONG:
        return 0
    columns = count_columns_below(longest)
    return sum(wrap_name(name).count("\n") + 1 for name in names) if columns == 1 else -(-len(names) // columns)


def count_columns_below(longest: int) -> int:
    """Return how many names of this length fit side by side."""
    return 1 if longest > 2 * LONG else 2 if longest > LONG else 3


def add_legend(axes: Any, title: str, roomy: bool = True) -> None:
    """Put the legend among the curves if they are few, with short names, and leave room; otherwise below."""
    from matplotlib.transforms import ScaledTranslation

    axes.spines[["top", "right"]].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    place: dict[str, Any] = {}
    if count_lines_below(names, roomy):
        lower = axes.transAxes + ScaledTranslation(0, -LABELS, axes.figure.dpi_scale_trans)
        place = {"loc": "upper center", "bbox_to_anchor": (0.45, 0.0), "bbox_transform": lower}
        place["ncols"] = count_columns_below(max(map(len, names)))
    axes.legend(handles, names, title=title, frameon=False, fontsize="small", **place)


def save_together(panels: Sequence[Panel], columns: int, file: Path) -> None:
    """Save all panels in one figure: `file` with the suffixes .png and .svg."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = draw_panels(panels, rows, columns)
    for kind in ("png", "svg"):
        file.with_suffix(f".{kind}").write_bytes(render(figure, kind))


def choose_columns(count: int) -> int:
    """Return how many columns arrange `count` panels nearly as a square, at most three."""
    return min(3, math.ceil(math.sqrt(count)))


def embed(panel: Panel) -> str:
    """Return one panel as a data URL of its image."""
    return "data:image/svg+xml;base64," + base64.b64encode(render(draw_panels([panel], 1, 1), "svg")).decode()


def draw_panels(panels: Sequence[Panel], rows: int, columns: int) -> Any:
    """Draw a figure of the panels, without empty places."""
    from matplotlib.figure import Figure

    height = SIZE[1] + LINE * max(count_lines_below(panel.names, panel.roomy) for panel in panels)
    figure = Figure(figsize=(SIZE[0] * columns, height * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).flat
    for panel, axes in zip(panels, places, strict=False):  # in this order: places then holds the ones left over
        panel.draw(axes)
    for axes in places:
        axes.remove()
    return figure


def render(figure: Any, kind: str) -> bytes:
    """Return the bytes of a figure, which are the same for the same runs."""
    import matplotlib

    data = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "trpo-report"}):
        figure.savefig(data, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return data.getvalue()
