"""How instruments, numbers and lists are said in a sentence."""

import math
from collections.abc import Sequence

from unlearn_audit.metrics import ScaledDifference
from unlearn_audit.report import Measurement

RELEARNING = "relearning"
# First part of a metric's name -> what tells models apart in that way; {} is the second part.
INSTRUMENTS = {
    "accuracy": "{} accuracy", "gap": "{} accuracy", "loss": "{} loss", "rcd": RELEARNING, "mia": "the {} attack",
    "truncation": "the decay of relearning", "spectrum": "curvature",
}  # fmt: skip


def instrument_of(name: str) -> str:
    """Return what a metric is a form of: several of them say in different ways what one instrument sees.

    >>> instrument_of("gap.forget"), instrument_of("rcd.raw"), instrument_of("mia.lira-offline.auc")
    ('forget accuracy', 'relearning', 'the lira-offline attack')
    """
    family, _, rest = name.partition(".")
    what = rest.rpartition(".")[0] if family == "mia" else rest
    return INSTRUMENTS.get(family, name).format(what)


def number(measurement: Measurement, value: float) -> str:
    """Return a value as its metric is written: fractions with three digits, gaps with their sign."""
    if measurement.name.startswith("gap."):
        return f"{value:+.3f}"
    return f"{value:.3f}" if measurement.unit in ("fraction", "probability") else f"{value:.3g}"


def with_numbers(measurement: Measurement) -> str:
    """Return a metric's name with its value, and the retrained models' where that is not zero by definition."""
    value = measurement.value if isinstance(measurement.value, int | float) else math.nan
    text = f"{measurement.name} {number(measurement, value)}"
    if measurement.reference is None or measurement.name.startswith("gap."):
        return text
    return f"{text}, retrained {number(measurement, measurement.reference.value)}"


def could_see(comparison: ScaledDifference) -> str:
    """Return how large a difference a comparison could have seen."""
    half = comparison.half_width
    if comparison.scale == "log ratio":
        return f"a factor of {math.exp(half):.3g}" if half < 100 else "no factor"
    return f"{half:.3f}" if comparison.scale in ("fraction", "AUC") else f"{half:.2g} {comparison.scale}"


def named(label: str, role: str) -> str:
    """Return a subject's label, with its role where that is another word."""
    return label if label == role else f"{label} ({role})"


def listed(items: Sequence[str]) -> str:
    """Return items as a sentence has them."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
