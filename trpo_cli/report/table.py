"""A table: in full for a CSV file, and for people as Markdown, as text for a terminal and as cells of the page."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from textwrap import wrap
from typing import Any

from trpo_cli.cli.tables import format_table
from trpo_cli.report.measures import name_metric
from trpo_cli.report.numbers import (
    EXTREMES,
    NOTHING,
    Interval,
    format_exact,
    format_number,
    format_p,
    format_seconds,
    format_share,
    format_steps,
)

Cell = str | float | int | Interval | None
WIDTH = 120  # letters of a line on a terminal
GAP = 2  # spaces between columns

Format = Callable[[Any], str]
SHOWN: dict[str, tuple[str, Format]] = {
    "steps": ("steps", format_steps),
    "env_steps": ("steps", format_steps),
    "median steps": ("median steps", format_steps),
    "mean steps": ("mean steps", format_steps),
    "wall seconds": ("time", format_seconds),
    "wall_seconds": ("time", format_seconds),
    "final training return of the last iteration": ("last iteration", format_number),
    "final_training_return": ("training return", format_number),
    "final_evaluation_return": ("evaluation", format_number),
    "steps a second": ("steps a second", lambda rate: format_number(float(rate))),
    "threshold": ("threshold", format_exact),
    "return": ("return", format_exact),
    "± over seeds": ("± over seeds", format_exact),
    "best published": ("best published", format_exact),
    "random": ("random", format_exact),
    "human": ("human", format_exact),
    "p": ("p", format_p),
    "p (Holm)": ("p (Holm)", format_p),
    "P(A > B)": ("A is above B", format_share),
    "95 % interval of P": ("95 % interval", format_share),
    "share of KL > δ": ("KL > δ", format_share),
    "accepted share": ("accepted", format_share),
}
"""Of a column: its heading for people, and how its numbers are written. Others are headed by their names."""
UNSHOWN = ("algo", "best_training_return", "steps_per_second")  # left to the CSV file, to keep a table narrow


def _head(column: str) -> str:
    """Return the heading for people of a column of the CSV file."""
    if column in SHOWN:
        return SHOWN[column][0]
    if column.startswith("best ") and column != "best published":
        return "best"
    if column.startswith("95 % interval"):
        return "95 % interval"
    return name_metric(column.removeprefix("final "))


@dataclass(frozen=True)
class Shown:
    """A cell as people see it."""

    text: str
    kind: str = ""  # number, interval, link, long
    beside: str = ""  # the interval of a number, where they share a cell


@dataclass(frozen=True)
class Table:
    """Rows and columns; `name` is the name of the CSV file."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    unit: str = "steps"  # what is counted as steps

    def _places(self) -> list[int]:
        """Of the columns that people see: those that hold anything."""
        return [
            place
            for place, name in enumerate(self.columns)
            if name not in UNSHOWN and not (self.rows and all(row[place] is None for row in self.rows))
        ]

    def is_numeric(self, place: int) -> bool:
        """Whether a column holds numbers, and nothing else."""
        return any(row[place] is not None for row in self.rows) and all(
            isinstance(row[place], int | float | None) for row in self.rows
        )

    def head(self) -> list[str]:
        """The headings for people."""
        return [_head(self.columns[place]).replace("steps", self.unit) for place in self._places()]

    def body(self) -> list[list[str]]:
        """The cells for people, of the columns that they see."""
        return [[self._format(row, place) for place in self._places()] for row in self.rows]

    def _format(self, row: tuple[Cell, ...], place: int) -> str:
        cell = row[place]
        _, write = SHOWN.get(self.columns[place], ("", format_number))
        if cell is None:
            return NOTHING
        if isinstance(cell, str):
            return cell
        if isinstance(cell, Interval):
            return f"{write(cell.low)} to {write(cell.high)}" if write is format_share else cell.format()
        interval = find_interval(row, place) if write is format_number and isinstance(cell, float) else None
        return format_number(cell, interval.place) if interval else write(cell)

    def to_markdown(self) -> str:
        """Return Markdown, with text that it would take for its own escaped."""
        rule = "|".join("---:" if self.is_numeric(place) else "---" for place in self._places())
        rows = "".join(f"| {' | '.join(map(escape, row))} |\n" for row in self.body())
        return f"| {' | '.join(self.head())} |\n|{rule}|\n{rows}"

    def _columns(self) -> list[list[str]]:
        """The columns that people see, each with its heading first, which says once what is said of every cell."""
        return [_say_once([*column]) for column in zip(self.head(), *self.body(), strict=True)]

    def to_text(self) -> str:
        """Return lines for a terminal; headings and then words are broken where they would not fit side by side."""
        every = self._columns()
        columns = every[
            : max(count for count in range(1, len(every) + 1) if count == 1 or not _is_wide(_words(every[:count])))
        ]
        broken = [
            [wrap(cell, width) or [""] for cell in column] for column, width in zip(columns, fit(columns), strict=True)
        ]
        rows = zip(*broken, strict=True)
        text = format_table([line for row in rows for line in zip_longest(*row, fillvalue="")])
        return text + ("\n" if len(columns) == len(every) else "\n(more columns are in the page)\n")

    def to_csv(self) -> str:
        """Return numbers in full, and empty cells for missing ones."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return text.getvalue()

    def page_rows(self) -> list[list[Shown]]:
        """The rows of the page, headings first; an interval shares the cell of its number, and tasks have none."""
        rows = zip(*self._columns(), strict=True)
        cells = [[self._as_shown(text, place) for text, place in zip(row, self._places(), strict=True)] for row in rows]
        return [list(_join(row[self.is_by_task() :])) for row in cells]

    def is_by_task(self) -> bool:
        """Whether the first column is the task, by which the page puts rows together."""
        return self.columns[0] == "task"

    def page_groups(self, num_tasks: int) -> list[tuple[str, list[list[Shown]]]]:
        """The rows of the page, of each task under its name if the report has several."""
        rows = self.page_rows()[1:]
        names = [str(row[0]) if self.is_by_task() else "" for row in self.rows]
        groups: dict[str, list[list[Shown]]] = {}
        for name, row in zip(names, rows, strict=True):
            groups.setdefault(name, []).append(row)
        return [*groups.items()] if num_tasks > 1 or len(groups) > 1 else [("", rows)]

    def _as_shown(self, text: str, place: int) -> Shown:
        follows = place and "interval" in self.columns[place] and self.is_numeric(place - 1)
        kind = "interval" if follows else "number" if self.is_numeric(place) else ""
        return Shown(text, "link" if text.startswith("https://") else kind or ("long" if len(text) > 40 else ""))


def _join(cells: list[Shown]) -> Iterator[Shown]:
    """Put an interval beside its number."""
    for cell, after in zip(cells, [*cells[1:], Shown("")], strict=True):
        if after.kind == "interval":
            yield Shown(cell.text, cell.kind, after.text)
        elif cell.kind != "interval":
            yield cell


def find_interval(row: tuple[Cell, ...], place: int) -> Interval | None:
    """Find the interval that says how many digits of a number count: the next cell, or the last before, or any."""
    if place + 1 < len(row) and isinstance(row[place + 1], Interval):
        return row[place + 1]  # type: ignore[return-value]
    before = [cell for cell in row[:place] if isinstance(cell, Interval)]
    after = [cell for cell in row[place:] if isinstance(cell, Interval)]
    return before[-1] if before else after[0] if after else None


def _say_once(column: list[str]) -> list[str]:
    """Move to the heading what is said of every interval."""
    cells = column[1:]
    if any(cell.endswith(EXTREMES) for cell in cells) and all(
        cell.endswith(EXTREMES) or cell == NOTHING for cell in cells
    ):
        return [EXTREMES.strip(" ()"), *(cell.removesuffix(EXTREMES) for cell in cells)]
    return column


def fit(columns: Sequence[Sequence[str]]) -> list[int]:
    """Return widths at which a line fits a terminal: of whole cells, or else of whole words, the widest first."""
    widths = [max(map(len, column)) for column in columns]
    if _is_wide(widths):
        widths = [max([_longest_word(head), *map(len, cells)]) for head, *cells in columns]
    least = _words(columns)
    while _is_wide(widths) and widths != least:
        spare = [width - enough for width, enough in zip(widths, least, strict=True)]
        widths[spare.index(max(spare))] -= 1
    return widths


def _is_wide(widths: Sequence[int]) -> bool:
    return sum(widths) + GAP * (len(widths) - 1) > WIDTH


def _words(columns: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(_longest_word, column)) for column in columns]


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=1)


def escape(text: str) -> str:
    """Escape `text` for a cell of a Markdown table."""
    for letter, code in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("\n", " ")):
        text = text.replace(letter, code)
    return text
