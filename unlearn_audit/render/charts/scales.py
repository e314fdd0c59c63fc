"""From numbers to places: what an axis spans, and where its labels stand."""

import math
from collections.abc import Iterable
from typing import NamedTuple

LARGEST = 1e300  # beyond it, and below its inverse, a span is no float any more
MOST_DECADES = 8
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Axis(NamedTuple):
    """What an axis shows; ends that are not fixed come from the data; `names` stand at 0, 1, 2, …, if given."""

    title: str
    log: bool = False
    low: float | None = None
    high: float | None = None
    names: tuple[str, ...] = ()

    def shows(self, value: float) -> bool:
        """Return whether a value has a place on such an axis."""
        return abs(value) < LARGEST and (value > 1 / LARGEST or not self.log)


class Scale(NamedTuple):
    """An axis with its ends (logarithms on a logarithmic one) and the pixels that they stand at."""

    log: bool
    low: float
    high: float
    start: float
    end: float
    names: tuple[str, ...] = ()

    def place(self, value: float) -> float:
        """Return the pixel of a value; a value beyond the ends stands at the end."""
        at = math.log10(value) if self.log else value
        part = (at - self.low) / (self.high - self.low)
        return self.start + min(max(part, 0.0), 1.0) * (self.end - self.start)

    def within(self, value: float) -> bool:
        """Return whether a value lies between the ends."""
        return (value > 0 or not self.log) and self.low <= (math.log10(value) if self.log else value) <= self.high

    def ticks(self) -> list[tuple[float, str]]:
        """Return values to label, with their labels."""
        if self.names:
            return [(float(index), name) for index, name in enumerate(self.names)]
        return _log_ticks(self.low, self.high) if self.log else _linear_ticks(self.low, self.high)


def scale_of(axis: Axis, values: Iterable[float], start: float, end: float) -> Scale:
    """Return the scale around values; a linear one holds zero."""
    shown = [value for value in values if axis.shows(value)]
    low, high = _log_ends(shown) if axis.log else _linear_ends(shown)
    if axis.low is not None:
        low = math.log10(axis.low) if axis.log else axis.low
    if axis.high is not None:
        high = math.log10(axis.high) if axis.log else axis.high
    return Scale(axis.log, low, max(high, low + max(1 / LARGEST, 1e-9 * abs(low))), start, end, axis.names)


def _linear_ends(shown: list[float]) -> tuple[float, float]:
    low, high = min([0.0, *shown]), max([0.0, *shown])
    room = 0.04 * (high - low)
    return (low - room if low else low), (high + room if high else high) or 1.0


def _log_ends(shown: list[float]) -> tuple[float, float]:
    logs = [math.log10(value) for value in shown] or [0.0]
    room = max(0.05, 0.03 * (max(logs) - min(logs)))
    return min(logs) - room, max(logs) + room


def _linear_ticks(low: float, high: float) -> list[tuple[float, str]]:
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((times * power for times in (1, 2, 5) if times * power >= rough), 10 * power)
    found = [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [(value, f"{value:.6g}") for value in found]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    first, last = math.ceil(low - 1e-9), math.floor(high + 1e-9)
    every = max(1, math.ceil((last - first + 1) / MOST_DECADES))
    decades = list(range(first, last + 1, every))
    if len(decades) >= 2:
        return [(10.0**power, _power(power)) for power in decades]
    fine = [times * 10.0**power for power in range(first - 1, last + 1) for times in (1, 2, 5)]
    inside = [value for value in fine if low <= math.log10(value) <= high]
    ends = [10**low, 10**high]
    return [(value, f"{value:.3g}") for value in (inside if len(inside) >= 2 else ends)]


def _power(power: int) -> str:
    """Return a power of ten as people write it: plain near one, raised beyond."""
    return f"{10.0**power:g}" if -2 <= power <= 3 else "10" + str(power).translate(RAISED)
