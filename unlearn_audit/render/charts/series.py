"""What a chart holds, apart from how it is drawn."""

from collections.abc import Sequence
from typing import NamedTuple

from unlearn_audit.render.charts.scales import Axis

# Colours on light and on dark paper, after Okabe & Ito, each at least three times as light or dark as the paper;
# the last two are for what the others are compared with.
COLOURS = (
    ("#0072B2", "#56B4E9"),
    ("#C95600", "#F08A4B"),
    ("#008060", "#2FC498"),
    ("#B04C8C", "#E3A0C8"),
    ("#8A6500", "#E6C200"),
    ("#5560C8", "#A3B0FF"),
    ("#1A1A1A", "#EDEDED"),
    ("#6B7078", "#A7ADB5"),
)
HUES = len(COLOURS) - 2
DASHES = ("", "8 3", "2 3", "8 3 2 3", "14 4")
MARKS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "M-3.5 -3.5h7v7h-7z",
    "M0 -4.6L4.4 3.4H-4.4z",
    "M0 -5L4.6 0L0 5L-4.6 0z",
    "M0 4.6L4.4 -3.4H-4.4z",
    "M-4.5 0h9M0 -4.5v9",
    "M4.6 0L-3.4 4.4V-4.4z",
    "M-4.6 0L3.4 4.4V-4.4z",
    "M-4.2 -2.4L0 -4.8L4.2 -2.4V2.4L0 4.8L-4.2 2.4z",
    "M-3.6 -3.6l7.2 7.2m0 -7.2l-7.2 7.2",
)


class Style(NamedTuple):
    """How a series is told from the others: indices into the tables above, so that no colour is needed to read one."""

    colour: int
    dash: int
    mark: int


RETRAINED = Style(HUES, 0, 3)
CONTROL = Style(HUES + 1, 2, len(MARKS) - 1)
ORIGINAL = Style(1, 1, 1)
FREE = tuple(mark for mark in range(len(MARKS)) if mark not in (RETRAINED.mark, CONTROL.mark, ORIGINAL.mark))


def style_of(index: int) -> Style:
    """Return the style of the series of that number: the first thirty differ in colour or dash.

    Marks of originals, retrained models and controls are theirs alone.
    """
    turn = index + index // HUES
    return Style(index % HUES, turn % len(DASHES), FREE[turn % len(FREE)])


class Series(NamedTuple):
    """Points in order, joined by a line or standing alone, with error bars where `ends` has them.

    Series of the same label share one entry of the legend.
    """

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    style: Style
    joined: bool = True
    ends: Sequence[tuple[float, float] | None] = ()
    note: str = ""


class Guide(NamedTuple):
    """A vertical line at a value, with its name."""

    at: float
    label: str


class Chart(NamedTuple):
    """A picture: what it says, its axes and its series; `described` is its text alternative."""

    title: str
    caption: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    guides: tuple[Guide, ...] = ()
    diagonal: bool = False
    described: str = ""
