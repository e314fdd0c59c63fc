"""The one place where a measurement is made: its unit and direction are the catalogue's, its subject a candidate."""

from collections.abc import Mapping, Sequence
from typing import Any

from unlearn_audit.catalogue import metric_info
from unlearn_audit.inputs import Candidate
from unlearn_audit.metrics import Bounds
from unlearn_audit.report import Comparison, CouldSee, Interval, Measurement, MeasurementFlag, Reference

SQUARED = "mean squared error per element"  # what the loss of a generator is counted in, where another one's is in nats


def measurement(
    name: str,
    candidate: Candidate,
    value: float | str | None,
    reason: str | None = None,
    *,
    n: int,
    method: str,
    interval: Interval | None = None,
    at_least: float | None = None,
    reference: Reference | None = None,
    comparison: Comparison | None = None,
    could_see: CouldSee | None = None,
    flags: Sequence[MeasurementFlag] = (),
    details: Mapping[str, Any] | None = None,
) -> Measurement:
    """Return a measurement of one candidate.

    Args:
        name: of a metric of the catalogue.
        candidate: what was measured.
        value: the number or verdict, in the catalogue's unit, a generator's loss in mean squared error instead of nats;
            None where there is none.
        reason: why there is no value; of no account where there is one.
        n: how many examples it rests on.
        method: how it was measured, in words.
        interval: where the value may lie; of no account where there is no value.
        at_least: what is known of a value that is missing; of no account where there is one.
        reference: what the value is to be read against.
        comparison: with the retrained models; one that is blind is flagged as such.
        could_see: how small a leak it would have shown, likewise.
        flags: what else is to be known before anything is concluded from the value.
        details: whatever pictures and readers may want beside it; nothing is decided by it.

    Raises:
        KeyError: the catalogue does not know the metric.
        ValidationError: there is neither a value nor a reason.
    """
    info = metric_info(name)
    blind = any(part is not None and part.blind for part in (comparison, could_see))
    return Measurement(
        name=name,
        subject=candidate.label,
        role=candidate.role,
        value=value,
        reason=reason if value is None else None,
        unit=info.unit.replace("nats", SQUARED) if candidate.is_generator else info.unit,
        direction=info.direction,
        n=n,
        interval=None if value is None else interval,
        at_least=at_least if value is None else None,
        reference=reference,
        comparison=comparison,
        could_see=could_see,
        flags=(*flags, "blind") if blind else tuple(flags),
        method=method,
        details=dict(details or {}),
    )


def seeing(found: Measurement, could_see: CouldSee | None) -> Measurement:
    """Return a subject's measurement with how small a leak it would have shown; None leaves it as it is."""
    if could_see is None or found.role == "control":
        return found
    blind = ("blind",) if could_see.blind and "blind" not in found.flags else ()
    return found.model_copy(update={"could_see": could_see, "flags": (*found.flags, *blind)})


def interval(bounds: Bounds | None, method: str) -> Interval | None:
    """Return both ends with the name of what made them; None where there are none."""
    return None if bounds is None else Interval(low=bounds.low, high=bounds.high, method=method)
