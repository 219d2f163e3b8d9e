"""The figures: small panels that share one legend. The page shows them one by one, a file for print together."""

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

from trpo_cli.columns import STEPS
from trpo_cli.errors import enumerated
from trpo_cli.report.diagnostics import ACCEPTED, KL, RESIDUAL, compute_diagnostics
from trpo_cli.report.groups import Group, name_groups
from trpo_cli.report.measures import count_unit, curve, name_metric
from trpo_cli.report.numbers import format_tick
from trpo_cli.report.published import NEAR, Published
from trpo_cli.report.styles import Styles
from trpo_cli.statistics import FEWEST, Floats, Statistic, bin_means, bounds, profile, profile_interval

FAR = 30  # the ratio of lengths beyond which curves share a logarithmic axis
WIDE = 60  # letters in a line on or below the axes
CEILING = 4  # the largest KL / δ shown; a longer axis would hide what is near 1
STRETCHES = 40  # the steps are divided into; each is a point of a diagnostic
THRESHOLDS = np.linspace(0.0, 1.2, 121)  # of normalised scores
SIZE = (4.2, 2.9)  # inches, of a panel
LETTER = 0.07  # inches, of a legend
LEGEND = 0.35  # inches, of a line of the legend
AXES = {"seconds": "seconds of sampling and updates"}


@dataclass(frozen=True)
class Panel:
    """One plot: what it shows of which task and of whom, and a function that draws it onto axes."""

    what: str
    task: str
    names: str
    draw: Callable[[Any], None]

    @property
    def alt(self) -> str:
        """Its description in words."""
        return describe_panels([self])


def describe_panels(panels: Sequence[Panel]) -> str:
    """Say what several panels show, on which tasks, and of whom."""
    fields = ([panel.what for panel in panels], [panel.task for panel in panels], [panel.names for panel in panels])
    what, tasks, names = (list(dict.fromkeys(filter(None, texts))) for texts in fields)
    return f"{' on '.join(enumerated(texts) for texts in (what, tasks) if texts)}: {'; '.join(names)}"


@dataclass(frozen=True)
class Key:
    """A line of a legend: a name, and the arguments of matplotlib that draw its curve."""

    name: str
    style: dict[str, Any]

    @property
    def dashes(self) -> str:
        """The dashes of its line in SVG."""
        return {"-": "none", "--": "7 4", ":": "2 3", "-.": "8 3 2 3"}[self.style["linestyle"]]


@dataclass(frozen=True)
class Figure:
    """Panels in `columns` columns with one legend; `name` is the stem of the files."""

    name: str
    panels: Sequence[Panel]
    columns: int
    keys: Sequence[Key]

    @property
    def alt(self) -> str:
        """Its description in words."""
        return describe_panels(self.panels)


def escape_dollars(text: str) -> str:
    """Keep matplotlib from reading `text` as mathematics."""
    return text.replace("$", r"\$")


def wrap_name(name: str) -> str:
    """Break a name into lines no wider than a panel."""
    return escape_dollars("\n".join(wrap(name, WIDE)) or name)


def make_keys(groups: Sequence[Group], styles: Styles) -> list[Key]:
    """Return the legend of the groups of any number of tasks."""
    return [
        Key(name_with_runs([group for group in groups if group.label == label]), styles(label))
        for label in styles.labels
        if any(group.label == label for group in groups)
    ]


def name_with_runs(same: Sequence[Group]) -> str:
    """Return the label of groups with their numbers of runs, and what a band shows if not an interval."""
    counts = sorted({len(group.runs) for group in same})
    runs = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    few = [count for count in counts if 1 < count < FEWEST]
    extremes = ", min to max" if few == counts else f", min to max below {FEWEST}" if few else ""
    return f"{same[0].label} ({runs} {'run' if counts == [1] else 'runs'}{extremes})"


def curves(
    groups: Sequence[Group],
    against: str,
    metric: str,
    statistic: Statistic,
    smooth: int,
    styles: Styles,
    references: Sequence[Published] = (),
) -> Panel:
    """Draw the curves of one task with their intervals, and mark published numbers."""
    unit = "iterations" if count_unit(groups) == "iterations" else "environment steps"
    below = AXES.get(against, unit if against == STEPS else against)

    def draw(axes: Any) -> None:
        ends = [curve(group.runs, metric, against)[0][-1] for group in groups]
        logarithmic = max(ends) > FAR * min(ends)
        for group in groups:
            spacing = np.geomspace if logarithmic else np.linspace
            places, values = curve(group.runs, metric, against, spacing, smooth)
            draw_curve(axes, places, values, statistic, styles(group.label))
        if against == STEPS:
            mark_published(axes, references, max(ends), groups, styles)
        if logarithmic:
            axes.set_xscale("log")
        else:
            write_ticks(axes)
        finish(axes, groups[0].task, below, name_metric(metric))

    return Panel(f"{name_metric(metric)} against {below}", groups[0].task, name_groups(groups), draw)


def draw_curve(axes: Any, places: Floats, values: Floats, statistic: Statistic, style: dict[str, Any]) -> None:
    """Draw a curve over runs (S, P) with its interval, or min to max; a single point becomes a marker with a bar."""
    low, high = bounds([values], statistic)
    if len(places) > 1:
        axes.plot(places, statistic(values), **style)
        axes.fill_between(places, low, high, color=style["color"], alpha=0.15, linewidth=0)
    else:
        axes.vlines(places, low, high, color=style["color"])
        axes.plot(places, statistic(values), "o", color=style["color"])


def mark_published(
    axes: Any, references: Sequence[Published], end: float, groups: Sequence[Group], styles: Styles
) -> None:
    """Put a diamond at each published number of these algorithms whose steps are shown, hollow if of a single run."""
    colours = {group.runs[0].algo: styles(group.label)["color"] for group in reversed(groups) if not group.alterations}
    for number in references:
        if number.algo in colours and number.steps is not None and number.steps <= NEAR * end:
            fill = "none" if number.seeds == 1 else "full"
            axes.plot(number.steps, number.value, "D", markersize=5, color=colours[number.algo], fillstyle=fill,
                zorder=3, clip_on=False)  # fmt: skip


def profiles(strata: dict[str, dict[str, Floats]], styles: Styles) -> Panel:
    """Draw the fraction of runs above each normalised score, over all tasks."""

    def draw(axes: Any) -> None:
        for label, tasks in strata.items():
            scores = np.concatenate([*tasks.values()])
            axes.plot(THRESHOLDS, profile(scores, THRESHOLDS), **styles(label))
            if len(scores) >= FEWEST:
                low, high = profile_interval(scores, THRESHOLDS)
                axes.fill_between(THRESHOLDS, low, high, color=styles(label)["color"], alpha=0.15, linewidth=0)
        axes.set_ylim(-0.02, 1.02)
        finish(axes, "performance profile", "normalised score τ", "share of runs above τ")

    return Panel("share of runs above each normalised score over all tasks", "", ", ".join(strata), draw)


def trust_region(groups: Sequence[Group], name: str, styles: Styles) -> Panel:
    """Draw one diagnostic of one task, averaged over stretches of steps and then over runs."""

    def draw(axes: Any) -> None:
        tops = {}
        for group in groups:
            found = [(record.rows[STEPS], compute_diagnostics(record)[name]) for record in group.runs]
            end = min(x[-1] for x, _ in found)
            edges = np.linspace(0, end, min(STRETCHES, *(len(x) for x, _ in found)) + 1)
            values = np.stack([bin_means(x[x <= end], y[x <= end], edges) for x, y in found])
            there = ~np.isnan(values).any(0)
            middles = (edges[1:] + edges[:-1])[there] / 2
            marker = {"marker": "o"} if len(middles) == 1 else {}
            means = values[:, there].mean(0)
            tops[group.label] = means.max(initial=0.0)
            axes.plot(middles, means, **styles(group.label), **marker)
        if name == KL:
            axes.axhline(1, color="0.6", linewidth=0.8)
            cut_axis(axes, tops)
        elif name == RESIDUAL:
            axes.set_yscale("log", nonpositive="mask")
        elif name == ACCEPTED:
            axes.set_ylim(-0.02, 1.05)
        write_ticks(axes)
        finish(axes, groups[0].task, count_unit(groups), name)

    return Panel(name, groups[0].task, name_groups(groups), draw)


def cut_axis(axes: Any, tops: dict[str, float]) -> None:
    """End the axis at `CEILING` where some curves, whose highest points these are, exceed it, and say which."""
    beyond = {label: top for label, top in tops.items() if top > CEILING}
    if not 0 < len(beyond) < len(tops):
        return
    axes.set_ylim(0, CEILING)
    said = wrap_name(f"cut at {CEILING}: " + ", ".join(f"{label} up to {top:,.3g}" for label, top in beyond.items()))
    axes.text(0.98, 0.98, said, transform=axes.transAxes, ha="right", va="top", size=8)


def write_ticks(axes: Any) -> None:
    """Write few numbers on the axis of steps, such as 200 k."""
    axes.locator_params(axis="x", nbins=6)
    axes.xaxis.set_major_formatter(format_tick)


def finish(axes: Any, title: str, below: str, beside: str) -> None:
    """Name the axes, and draw a light grid behind the curves."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    axes.set(title=escape_dollars(title), xlabel=below, ylabel=escape_dollars(beside))


def choose_columns(count: int) -> int:
    """Return how many columns arrange `count` panels nearly as a square, at most three."""
    return min(3, math.ceil(math.sqrt(count)))


def save_together(figure: Figure, directory: Path) -> None:
    """Save all panels and their legend as `directory`/NAME.png and .svg."""
    columns = min(figure.columns, len(figure.panels))
    drawn = draw_panels(figure.panels, -(-len(figure.panels) // columns), columns, figure.keys)
    for kind in ("png", "svg"):
        (directory / f"{figure.name}.{kind}").write_bytes(render(drawn, kind))


def embed(panel: Panel) -> str:
    """Return one panel as a data URL of its image."""
    return "data:image/svg+xml;base64," + base64.b64encode(render(draw_panels([panel], 1, 1), "svg")).decode()


def draw_panels(panels: Sequence[Panel], rows: int, columns: int, keys: Sequence[Key] = ()) -> Any:
    """Draw a figure of the panels, without empty places, and the legend below them."""
    from matplotlib.figure import Figure as Canvas
    from matplotlib.lines import Line2D

    width = SIZE[0] * columns
    names = [wrap_name(key.name) for key in keys]
    longest = max((len(line) for name in names for line in name.split("\n")), default=1)
    beside = max(1, min(len(names), int(width / (LETTER * longest + 0.6))))
    lines = -(-len(names) // beside) * max((name.count("\n") + 1 for name in names), default=1)
    figure = Canvas(figsize=(width, SIZE[1] * rows + LEGEND * bool(names) + LETTER * 2.2 * lines), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).flat
    for panel, axes in zip(panels, places, strict=False):  # in this order: places then holds the ones left over
        panel.draw(axes)
    for axes in places:
        axes.remove()
    if names:
        handles = [Line2D([], [], **key.style) for key in keys]
        figure.legend(handles, names, loc="outside lower center", ncols=beside, frameon=False, fontsize="small")
    return figure


def render(figure: Any, kind: str) -> bytes:
    """Return the bytes of a figure, which are the same for the same runs."""
    import matplotlib

    data = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "trpo-report"}):
        figure.savefig(data, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return data.getvalue()
