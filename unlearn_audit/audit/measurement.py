"""The one place where a measurement is made: its unit and direction are the catalogue's, its subject a candidate."""

from collections.abc import Mapping
from typing import Any

from unlearn_audit.catalogue import metric_info
from unlearn_audit.inputs import Candidate
from unlearn_audit.metrics import Bounds
from unlearn_audit.report import Interval, Measurement, Reference


def measurement(
    name: str,
    candidate: Candidate,
    value: float | str | None,
    reason: str | None = None,
    *,
    n: int,
    method: str,
    interval: Interval | None = None,
    reference: Reference | None = None,
    details: Mapping[str, Any] | None = None,
) -> Measurement:
    """Return a measurement of one candidate.

    Args:
        name: of a metric of the catalogue.
        candidate: what was measured.
        value: the number or verdict, in the catalogue's unit; None where there is none.
        reason: why there is no value; of no account where there is one.
        n: how many examples it rests on.
        method: how it was measured, in words.
        interval: where the value may lie; of no account where there is no value.
        reference: what the value is to be read against.
        details: whatever pictures and readers may want beside it; nothing is decided by it.

    Raises:
        KeyError: the catalogue does not know the metric.
        ValidationError: there is neither a value nor a reason.
    """
    info = metric_info(name)
    return Measurement(
        name=name,
        subject=candidate.label,
        role=candidate.role,
        value=value,
        reason=reason if value is None else None,
        unit=info.unit,
        direction=info.direction,
        n=n,
        interval=None if value is None else interval,
        reference=reference,
        method=method,
        details=dict(details or {}),
    )


def interval(bounds: Bounds | None, method: str) -> Interval | None:
    """Return both ends with the name of what made them; None where there are none."""
    return None if bounds is None else Interval(low=bounds.low, high=bounds.high, method=method)
