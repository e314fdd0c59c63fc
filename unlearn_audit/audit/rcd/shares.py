"""RCD above the original's own curve as a share of what the retrained models have: 0 as the original, 1 as they."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.audit.rcd.curves import ModelCurves
from unlearn_audit.audit.reference import NO_RETRAINED, compared, no_reference
from unlearn_audit.report import Interval

Floats = NDArray[np.float64]

METHOD = "Student t, paired over examples plus the error of the retrained models' mean"


class Share(NamedTuple):
    """A share, or None with the reason why there is none, with its interval and the reference's spread.

    Attributes:
        value: r = excess / mean excess of the retrained models.
        reason: why it is missing.
        interval: of r.
        spread: standard deviation of the retrained models' excess, in units of their mean; None below two of them.
        difference: r - 1, as that of one more retrained model; None below two of them.
    """

    value: float | None
    reason: str | None = None
    interval: Interval | None = None
    spread: float | None = None
    difference: metrics.Difference | None = None


def share_of_excess(one: ModelCurves, others: Sequence[ModelCurves], *, level: float = 0.95) -> Share:
    """Return a model's excess over the original's curve in units of the retrained models' mean excess.

    With a_i an example's area above the original's, ā_i its mean over the retrained models and m the mean of ā_i, r is
    the mean of a_i / m with the influence (a_i - r·ā_i) / m, whose variance over examples is joined by that of m over
    R seeds, r²·s²/R with s their spread in units of m (degrees of freedom: Welch 1947). It is the interval of this
    model's own share: one more retrained model differs from 1 by its own seed's s besides. Where the retrained models'
    excess is not above 0 by more than chance, there is nothing that a share could be one of.

    Args:
        one: whose share.
        others: the retrained models, without the model itself.
        level: coverage of the interval.
    """
    reason = _why_none(one, others)
    if reason is not None:
        return Share(None, reason)
    areas, sums = np.stack([other.excess_areas for other in others]), [other.raw or 0.0 for other in others]
    mean, raw = float(np.mean(sums)), one.raw or 0.0
    spread = metrics.mean_and_spread([each / mean for each in sums])[1]
    value = raw / mean
    influence = (one.excess_areas - value * areas.mean(axis=0)) / mean
    levels, sides = [each / mean for each in sums], [(one.excess_areas / mean, areas / mean)]
    difference = compared(value, levels, sides) if len(others) > 1 and areas.shape[1] > 1 else None
    return Share(value, None, _interval(value, influence, spread, len(others), level), spread, difference)


def _interval(value: float, influence: Floats, spread: float | None, references: int, level: float) -> Interval | None:
    """Return the interval of a share; None below two retrained models or two examples."""
    n = len(influence)
    if spread is None or n < 2:
        return None
    examples, seeds = float(influence.var(ddof=1)) / n, value**2 * spread**2 / references
    below = examples**2 / (n - 1) + seeds**2 / (references - 1)
    freedom = (examples + seeds) ** 2 / below if below > 0 else float(n - 1)
    low, high = metrics.student_interval(value, (examples + seeds) ** 0.5, freedom, level)
    return Interval(low=low, high=high, level=level, method=METHOD)


def _why_none(one: ModelCurves, others: Sequence[ModelCurves]) -> str | None:
    if one.why_no_sum is not None:
        return one.why_no_sum
    if not others:
        return NO_RETRAINED if one.candidate.role != "retrained" else no_reference("retrained")
    if any(other.why_no_sum is not None for other in others):
        return "a retrained model's curve diverged"
    mean = float(np.mean([other.raw for other in others]))
    ends = paired_mean(np.mean([other.excess_areas for other in others], axis=0))
    half = (ends.high - ends.low) / 2 if ends else 0.0
    if mean > half:
        return None
    told = f"{mean:.3g}" + (f" ± {half:.2g}" if ends else "")
    return (
        f"the retrained models do not relearn this set more slowly than the original by more than chance (excess "
        f"{told}): there is nothing to take a share of"
    )


def paired_mean(differences: Floats) -> metrics.Bounds | None:
    """Return the interval of a mean of paired differences, Student's t over examples; None below two of them."""
    n = len(differences)
    if n < 2:
        return None
    error = float(differences.std(ddof=1)) / n**0.5
    return metrics.student_interval(float(differences.mean()), error, n - 1)
