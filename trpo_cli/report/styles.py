"""Colours and line styles: an algorithm has the same colour in every figure of every report."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from trpo_cli.report.groups import Group, natural_key

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255")
"""Okabe and Ito's colours, which also the colour-blind tell apart, with wine instead of yellow."""
FAMILIES = {
    "trpo": "#0072B2",
    "ppo": "#D55E00",
    "npg": "#009E73",
    "vpg": "#CC79A7",
    "a2c": "#E69F00",
    "rwr": "#000000",
    "cem": "#56B4E9",
    "cma_es": "#882255",
    "cpi": "#999933",
    "monotone_pi": "#44AA99",
    "random_search": "#661100",
    "bc": "#7F7F7F",
}
"""An algorithm has the colour of its family, as `trpo_max_kl` has TRPO's; that of others follows from their names."""
LINES = ("-", "--", ":", "-.")
SHADES = (0.0, 0.45, -0.45, 0.65)  # towards white, or towards black


class Styles:
    """The colour and line style of each label; those of one colour differ in shade and style.

    Where there are only variants of one algorithm, and more than there are shades, each has a colour of its own.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        algos = {group.label: group.algo for group in groups}
        self.labels = sorted(algos, key=natural_key)
        colours = [choose_colour(algos[label]) for label in self.labels]
        if len(colours) > len(SHADES) and len({*algos.values()}) == 1:
            several = list(dict.fromkeys([colours[0], *PALETTE]))
            colours = [several[place % len(several)] for place in range(len(colours))]
        self._styles = {
            label: _vary(colour, colours[:place].count(colour))
            for place, (label, colour) in enumerate(zip(self.labels, colours, strict=True))
        }

    def __call__(self, label: str) -> dict[str, Any]:
        """Return arguments of matplotlib."""
        return self._styles[label]


def choose_colour(algo: str) -> str:
    """Return the colour of an algorithm, from its name alone."""
    for family, colour in FAMILIES.items():
        if algo == family or algo.startswith(f"{family}_"):
            return colour
    return PALETTE[zlib.crc32(algo.encode()) % len(PALETTE)]


def _vary(colour: str, variant: int) -> dict[str, Any]:
    shade = SHADES[variant % len(SHADES)]
    target = 255 if shade > 0 else 0
    parts = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    mixed = "".join(f"{round(part + abs(shade) * (target - part)):02X}" for part in parts)
    return {"color": f"#{mixed}", "linestyle": LINES[(variant + variant // len(SHADES)) % len(LINES)]}
