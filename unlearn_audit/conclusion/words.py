"""How instruments, numbers and lists are said in a sentence."""

import math
from collections.abc import Sequence

from unlearn_audit.catalogue import info_or_name
from unlearn_audit.metrics import ScaledDifference
from unlearn_audit.report import Measurement


def number(measurement: Measurement, value: float) -> str:
    """Return a value as its metric is written: fractions with three digits, differences with their sign."""
    if info_or_name(measurement.name).signed:
        return f"{value:+.3f}"
    return f"{value:.3f}" if measurement.unit in ("fraction", "probability") else f"{value:.3g}"


def with_numbers(measurement: Measurement) -> str:
    """Return a metric's name with its value, and the retrained models' where that is not zero by definition."""
    value = measurement.value if isinstance(measurement.value, int | float) else math.nan
    text = f"{measurement.name} {number(measurement, value)}"
    if measurement.reference is None or info_or_name(measurement.name).direction == "zero is best":
        return text
    return f"{text}, retrained {number(measurement, measurement.reference.value)}"


def could_see(comparison: ScaledDifference) -> str:
    """Return how large a difference a comparison could have seen."""
    half = comparison.half_width
    if comparison.scale == "log ratio":
        return f"a factor of {math.exp(half):.3g}" if half < 100 else "no factor"
    if comparison.scale == "share":
        return f"{half:.2f} of the retrained models' excess"
    return f"{half:.3f}" if comparison.scale in ("fraction", "AUC") else f"{half:.2g} {comparison.scale}"


def percent(part: float) -> str:
    """Return a part of something in percent, with two digits.

    >>> percent(0.0465), percent(0.129), percent(1.0)
    ('4.7 %', '13 %', '100 %')
    """
    return f"{100 * part:.1f} %" if part < 0.1 else f"{100 * part:.0f} %"


def named(label: str, role: str) -> str:
    """Return a subject's label, with its role where that is another word."""
    return label if label == role else f"{label} ({role})"


def listed(items: Sequence[str]) -> str:
    """Return items as a sentence has them."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
