"""What the two-sample test says: a p-value of its own instead of a difference to the retrained models."""

from collections.abc import Sequence

from unlearn_audit.conclusion.words import listed, named
from unlearn_audit.metrics import TOLD_P
from unlearn_audit.report import Measurement


def tells_apart(measurement: Measurement) -> bool:
    """Return whether a p-value is small enough to be told."""
    return isinstance(measurement.value, int | float) and measurement.value <= TOLD_P


def trace_numbers(measurements: Sequence[Measurement], measurement: Measurement) -> str:
    """Return a p; a small one with the AUC at which the same test tells the sets apart, where there is one."""
    area = next((m for m in measurements if (m.name, m.subject) == ("twosample.auc", measurement.subject)), None)
    known = tells_apart(measurement) and area is not None and isinstance(area.value, int | float)
    told = f", told apart with AUC {area.value:.3f}" if known and area else ""
    return f"{measurement.name} {float(measurement.value or 0):.3f}{told}"


def trace_sentence(measurements: Sequence[Measurement], label: str, role: str) -> str | None:
    """Return what differs between forget examples and their twin; None where the test sees or can say nothing.

    An original's answers differ in so many ways that none of them needs words.
    """
    found = next((m for m in measurements if (m.name, m.subject) == ("twosample.p", label)), None)
    words = [str(word) for word in found.details.get("differs", ())] if found and tells_apart(found) else []
    if not words or role == "original":
        return None
    return (
        f"{named(label, role)}: given the retrained models, its log-odds on forget examples {listed(words)} than those "
        "on their unseen twin."
    )
