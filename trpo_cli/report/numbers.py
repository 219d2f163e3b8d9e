"""Numbers as people write them: at most three significant digits, and none that the interval does not support."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

NOTHING = "—"
DIGITS = 3  # significant ones of any number
SUPPORTED = 2  # significant digits of half an interval; its number and ends have none beyond
EXTREMES = " (min to max)"
MINUS = "\N{MINUS SIGN}"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Interval:
    """A 95 % interval, or the smallest and largest of too few runs."""

    low: float
    high: float
    extremes: bool = False

    @property
    def place(self) -> int | None:
        """The decimal place to round to: 0 for units, 1 for tens, -1 for tenths; extremes support no place."""
        ends = max(abs(self.low), abs(self.high))
        half = find_place((self.high - self.low) / 2, SUPPORTED)
        return None if self.extremes else max(find_place(ends, DIGITS), half)

    def ends(self) -> str:
        """The ends alone, for people."""
        return f"{format_number(self.low, self.place)} to {format_number(self.high, self.place)}"

    def format(self) -> str:
        """The ends, and whether they are those of an interval."""
        return f"{self.ends()}{EXTREMES}" if self.extremes else self.ends()

    def __str__(self) -> str:
        """For a CSV file, which has two more digits."""
        ends = f"{_format_fully(self.low)} to {_format_fully(self.high)}"
        return f"{ends}{EXTREMES}" if self.extremes else ends


def _format_fully(number: float) -> str:
    return f"{number:,.5g}" if abs(number) < 99_999.5 else f"{number:,.0f}"


def find_place(number: float, digits: int) -> int:
    """Return the decimal place of the last of so many significant digits; very low for zero and what is not finite."""
    return math.floor(math.log10(abs(number))) - digits + 1 if number and np.isfinite(number) else -99


def format_number(number: float, place: int | None = None) -> str:
    """Round to three significant digits, or to a decimal place if that is coarser.

    Zeros after the point say that they are significant, and are left out of a number that was not rounded.
    """
    if isinstance(number, int):
        return f"{number:,}".replace("-", MINUS)
    if not np.isfinite(number):
        return NOTHING
    least = max(find_place(number, DIGITS), -99 if place is None else place)
    rounded = round(number, -least)
    if rounded == 0:
        return "0"
    if not 1e-4 <= abs(rounded) < 1e7:
        mantissa, exponent = f"{rounded:.1e}".split("e")
        return f"{mantissa} \N{MULTIPLICATION SIGN} 10{str(int(exponent)).translate(SUPERSCRIPTS)}".replace("-", MINUS)
    text = f"{rounded:,.{max(0, -least)}f}"
    if "." in text and number == rounded:
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", MINUS)


def format_steps(steps: float) -> str:
    """`20,480`, `1.02 M`."""
    return f"{steps / 1e6:.3g} M" if steps >= 999_500 else f"{steps:,.0f}"


def format_tick(steps: float, _: int = 0) -> str:
    """`200 k` or `1 M`, on an axis."""
    for size, letter in ((1e6, " M"), (1e3, " k")):
        if abs(steps) >= size:
            return f"{steps / size:g}{letter}"
    return f"{steps:g}"


def format_seconds(seconds: float) -> str:
    """`1.2 s`, `38 s`, `5.1 min`, `2.3 h`."""
    for size, unit, until in ((1, "s", 60), (60, "min", 3600), (3600, "h", np.inf)):
        if seconds < until:
            value = seconds / size
            return f"{value:.1f} {unit}" if value < 9.95 else f"{value:,.0f} {unit}"
    return NOTHING


def format_share(share: float) -> str:
    """`87 %`; `> 99 %` is not all."""
    if 0 < share < 0.005:
        return "< 1 %"
    return "> 99 %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"


def format_p(p: float) -> str:
    """`< 0.001`, `0.012`."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def format_exact(number: float) -> str:
    """A number that was given or published: whole, or else with three significant digits."""
    return format_number(int(number) if number == round(number) else number)
