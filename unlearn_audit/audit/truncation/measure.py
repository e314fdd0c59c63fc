"""Whether the truncation error of RCD_K is exponential in K, judged on one long trajectory of every subject."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from unlearn_audit import relearning
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.generators import nulls
from unlearn_audit.audit.measurement import measurement
from unlearn_audit.audit.reference import reference_of
from unlearn_audit.audit.section import SearchState, SectionResult
from unlearn_audit.audit.truncation.reference_runs import Judged, LongRuns, of_the_sum, take_long_runs
from unlearn_audit.config import TruncationSettings
from unlearn_audit.errors import UsageError
from unlearn_audit.relearning import Truncation
from unlearn_audit.report import Interval, Measurement

NO_OBJECTIVE = (
    "truncation is judged where every step descends one objective, and fresh draws of noise are another in each step; "
    "a generator needs fixed ones"
)
POINTS = 400  # of the excess, kept for the picture
BRACKET = "fastest and slowest decay in the last third, less its slowing down; not a sampling interval"


def measure_truncation(context: AuditContext, settings: TruncationSettings, search: SearchState) -> SectionResult:
    """Return verdict, rate, half-life, relative error at K and the K for 1 % of every subject.

    How to relearn is said in the section `rcd`; the trajectory goes on to `reference_steps`.

    Raises:
        UsageError: the request contradicts itself.
    """
    if context.of_generators and (context.config.rcd is None or context.config.rcd.draws != "fixed"):
        if context.alone:
            raise UsageError(f"{NO_OBJECTIVE}: --draws fixed")
        return SectionResult(tuple(nulls(context, "truncation", NO_OBJECTIVE)))
    taken = take_long_runs(context, settings, search)
    return SectionResult(tuple(_measurements(taken)), tuple(taken.warnings()))


def _measurements(taken: LongRuns) -> Iterator[Measurement]:
    for one in taken.judged:
        yield _verdict(taken, one)
        yield _rate(taken, one)
        yield _half_life(taken, one)
        yield _relative_error(taken, one)
        yield _steps_needed(taken, one)


def _measurement(
    taken: LongRuns, one: Judged, *, name: str, value: float | str | None, details: dict[str, Any], **more: Any
) -> Measurement:
    """Return a measurement of one subject; a value that is missing says why."""
    return measurement(
        f"truncation.{name}",
        one.candidate,
        value,
        one.why_not() if value is None else None,
        n=len(one.curve.areas),
        method=taken.method,
        details=details,
        **more,
    )


def _verdict(taken: LongRuns, one: Judged) -> Measurement:
    """Return the verdict in words, with what it rests on and the picture's points."""
    found, proved = one.found, one.proved
    details = {
        "why": found.reason,
        "status": relearning.status(one.curve) if one.is_no_descent else "falls all along",
        "steps": taken.steps,
        "reference_steps": taken.reference_steps,
        "steps_used": found.used,
        "step_size": taken.relearned.step_size,
        "floor": {"value": one.floor} | (one.fit._asdict() if one.fit else {}),
        "slope_ratio": found.ratio,
        "decay": found.decay,
        "power_law_exponent": found.exponent,
        "sum": of_the_sum(found) if found.verdict == "slower than exponential" else None,
        "proved": proved._asdict() | {"slowest_rate": proved.slowest_rate} if proved else None,
        "excess": _thinned(one),
        "passes": {"forward": one.curve.forwards, "backward": one.curve.backwards},
        "step_size_search": taken.relearned.search._asdict(),
    }
    return _measurement(taken, one, name="verdict", value=found.verdict, details=details)


def _thinned(one: Judged) -> dict[str, list[float]]:
    """Return the excess at evenly spaced steps, as far as it is no rounding."""
    if not len(one.excess):
        return {"steps": [], "values": []}
    steps = np.unique(np.linspace(0, one.found.used, POINTS).astype(int))
    return {"steps": steps.tolist(), "values": one.excess[steps].tolist()}


def _from_rate(
    taken: LongRuns, one: Judged, *, name: str, convert: Callable[[float], float], details: dict[str, Any]
) -> Measurement:
    """Return something that the rate says, with the bracket of the rate."""
    rates = [other.found.rate for other in taken.references(one) if other.is_exponential and other.found.rate]
    found = one.found
    if not (one.is_exponential and found.rate):
        return _measurement(taken, one, name=name, value=None, details=details)
    ends = sorted(convert(rate) for rate in (found.rate_low, found.rate_high) if rate)
    interval = Interval(low=ends[0], high=ends[1], method=BRACKET) if len(ends) == 2 else None
    reference = reference_of([convert(rate) for rate in rates])
    return _measurement(
        taken, one, name=name, value=convert(found.rate), details=details, interval=interval, reference=reference
    )


def _rate(taken: LongRuns, one: Judged) -> Measurement:
    """Return the decay of the log excess per step, with what it would be of a quadratic's condition number."""
    details = {
        "kappa_effective": one.found.kappa_effective if one.is_exponential else None,
        "rate_at_the_end": one.found.rate,
        "slowest_rate_proved": one.proved.slowest_rate if one.proved else None,
    }
    return _from_rate(taken, one, name="rate", convert=lambda rate: rate, details=details)


def _half_life(taken: LongRuns, one: Judged) -> Measurement:
    return _from_rate(taken, one, name="half_life", convert=lambda rate: float(np.log(2)) / rate, details={})


def _relative_error(taken: LongRuns, one: Judged) -> Measurement:
    """Return the part of the whole sum, tail included, that lies beyond K."""
    steps, excess = taken.steps, one.excess
    value = _beyond(one, steps) if one.is_exponential else None
    levels = [_beyond(other, steps) for other in taken.references(one) if other.is_exponential]
    proof = one.proved if steps is not None and one.curve.diverged_at is None else None
    details = {
        "steps": steps,
        "sum_to_k": float(excess[: steps + 1].sum()) if steps is not None and steps < len(excess) else None,
        "sum": one.found.total if one.is_exponential else None,
        "tail_beyond_reference": float(one.found.error[-1]) if one.is_exponential else None,
        "proved_sum_from_k": proof.bounds(excess, steps) if proof and steps is not None else None,
        "proved_sum_from_reference": proof.bounds(excess, taken.reference_steps) if proof else None,
    }
    interval = _error_interval(one.found, steps) if value is not None and steps is not None else None
    reference = reference_of([level for level in levels if level is not None])
    return _measurement(
        taken, one, name="relative_error", value=value, details=details, interval=interval, reference=reference,
        at_least=None if one.is_exponential else _beyond(one, steps),
    )  # fmt: skip


def _beyond(one: Judged, steps: int | None) -> float | None:
    """Return the part of the sum beyond K, as far as the sum is known; None where K is not."""
    if steps is None or steps >= len(one.found.error) or not one.found.total > 0:
        return None
    return float(one.found.error[steps]) / one.found.total


def _error_interval(found: Truncation, steps: int) -> Interval | None:
    """Return the relative error with the tail at its fastest and its slowest."""
    if found.tail is None or found.tail_low is None or found.tail_high is None or steps > found.used:
        return None
    kept = found.total - float(found.error[steps])
    rest = float(found.error[steps]) - found.tail
    low, high = ((rest + tail) / (kept + rest + tail) for tail in (found.tail_low, found.tail_high))
    return Interval(low=low, high=high, method=BRACKET)


def _steps_needed(taken: LongRuns, one: Judged) -> Measurement:
    """Return the K whose truncation error is 1 % of the whole sum, with those for 10 % and .1 % beside it."""
    needed = {share: relearning.steps_for(one.found, share) for share in (0.1, 0.01, 0.001)}
    proof = one.proved
    details = {
        "10_percent": needed[0.1],
        "0.1_percent": needed[0.001],
        "extrapolated": [share for share, steps in needed.items() if steps is not None and steps > one.found.used],
        "proved": {f"{share:.1%}": proof.steps_for(one.excess, share) for share in needed} if proof else None,
    }
    levels = [relearning.steps_for(other.found, 0.01) for other in taken.references(one)]
    return _measurement(
        taken, one, name="steps_for_1_percent", value=needed[0.01], details=details,
        reference=reference_of([level for level in levels if level is not None]),
    )  # fmt: skip
