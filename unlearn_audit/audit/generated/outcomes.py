"""What a judge says of each subject's samples, and the shares that follow: forget rate, kept rate and its change."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.measurement import interval, measurement
from unlearn_audit.audit.reference import comparison_of, difference_of_means, reference_of
from unlearn_audit.inputs import Candidate
from unlearn_audit.report import Measurement

Floats = NDArray[np.float64]
NO_ORIGINAL = "no original model to compare with was given"


class Outcome(NamedTuple):
    """What a judge says of one subject's samples of one side; sample i began with the same noise for every subject.

    Attributes:
        right: [n] 1.0 where it takes a sample for what was asked for; None where it cannot say that.
        features: [n, d]; None where the judge has none.
        asked: [n] the class that was asked for; -1 for a prompt.
    """

    right: Floats | None
    features: Floats | None
    asked: NDArray[np.int64]


class Told(NamedTuple):
    """How the shares of one side are told.

    Attributes:
        name: of the metric.
        reason: why there is no number at all; None where there is one.
        method: how samples were drawn and judged, in words.
        details: what is the same for every subject.
    """

    name: str
    reason: str | None
    method: str
    details: Mapping[str, Any]


def measure_rate(context: AuditContext, outcomes: Mapping[str, Outcome], told: Told) -> Iterator[Measurement]:
    """Yield one share of every subject: Wilson's interval, and the difference to retrained models paired by noise.

    Args:
        context: the subjects.
        outcomes: of each subject, by label.
        told: the metric and how it was measured.
    """
    for candidate in context.subjects:
        ours = outcomes[candidate.label]
        others = [other for one in context.references(candidate) if (other := outcomes[one.label].right) is not None]
        right = ours.right
        n, reason = len(ours.asked), told.reason
        if reason is None and (right is None or not n):
            reason = "no sample was drawn" if not n else "this judge gives no labels"
        if right is None or reason is not None:
            yield measurement(told.name, candidate, None, reason, n=n, method=told.method, details=told.details)
            continue
        yield measurement(
            told.name,
            candidate,
            float(right.mean()),
            n=n,
            interval=interval(metrics.wilson_interval(int(right.sum()), n), "Wilson"),
            reference=reference_of([float(other.mean()) for other in others]),
            comparison=comparison_of(difference_of_means(right, others, "fraction"), "fraction"),
            method=told.method,
            details={**told.details, "by_class": _by_class(ours.asked, right)},
        )


def _by_class(asked: NDArray[np.int64], right: Floats) -> list[list[int]]:
    """Return for each class that was asked for its number, how many samples were right, and how many there are."""
    return [[int(c), int(right[asked == c].sum()), int((asked == c).sum())] for c in np.unique(asked)]


def measure_kept_change(context: AuditContext, outcomes: Mapping[str, Outcome], told: Told) -> Iterator[Measurement]:
    """Yield the kept rate minus the original's of every subject, from the same noise."""
    levels = [
        level
        for one in context.with_role("original")
        if (level := outcomes[one.label].right) is not None and len(level)
    ]
    for candidate in context.subjects:
        ours = outcomes[candidate.label].right
        value, ends = None, None
        reason = told.reason or _why_no_change(candidate, ours, levels)
        if reason is None and ours is not None:
            gaps = ours - np.mean(levels, axis=0)
            value, ends = float(gaps.mean()), _paired_interval(gaps)
        yield measurement(
            told.name,
            candidate,
            value,
            reason,
            n=len(outcomes[candidate.label].asked),
            interval=interval(ends, "Student t, paired over samples"),
            method=f"kept rate minus the original's, sample by sample; {told.method}",
        )


def _why_no_change(candidate: Candidate, ours: Floats | None, levels: Sequence[Floats]) -> str | None:
    if ours is None or not len(ours):
        return "there is no kept rate"
    if candidate.role == "original":
        return "this is the original"
    return None if levels else NO_ORIGINAL


def _paired_interval(gaps: Floats) -> metrics.Bounds | None:
    """Return the interval of a mean of differences of 0s and 1s; one disagreement is counted where there is none."""
    n = len(gaps)
    if n < 2:
        return None
    return metrics.student_interval(float(gaps.mean()), max(float(gaps.var(ddof=1)) / n, 1 / n**2) ** 0.5, n - 1)
