"""RCD on the forget set over RCD on its twin, where partners share their noise: chance is that of pairs."""

from collections.abc import Sequence

import numpy as np

from unlearn_audit import metrics
from unlearn_audit.audit.rcd.curves import ModelCurves
from unlearn_audit.audit.reference import compared, comparison_of
from unlearn_audit.report import Comparison, Interval

OF_A_CLASS = (
    "whole classes are forgotten, so that forget set and twin are members of the same class: it compares these with "
    "each other, and not with what a model never met; read rcd.ratio_to_retrained"
)


def paired_ratio(one: ModelCurves, *, seed: int, resamples: int) -> Interval | None:
    """Return the interval of the ratio over pairs of a forget example and its partner.

    Args:
        one: whose curves; both sets in the order of the twin.
        seed: of the resampling.
        resamples: how many.
    """
    above, below = one.paired.areas, one.unseen.areas
    bounds = metrics.paired_ratio_interval(above, below, seed=seed, resamples=resamples)
    if bounds is None:
        return None
    return Interval(low=bounds.low, high=bounds.high, method=f"{metrics.skewed_method(len(above))}, pairs")


def paired_comparison(one: ModelCurves, others: Sequence[ModelCurves]) -> Comparison | None:
    """Compare the log ratio with the retrained models', over pairs; None below two of them or two pairs."""
    ratios = [each.ratio or 0.0 for each in (one, *others)]
    if len(ratios) < 3 or min(ratios) <= 0 or len(one.paired.areas) < 2:
        return None
    # d log(ratio) is a pair's share of the one sum, less its share of the other.
    shares = [
        each.paired.areas / each.paired.areas.mean() - each.unseen.areas / each.unseen.areas.mean()
        for each in (one, *others)
    ]
    logs = [float(np.log(ratio)) for ratio in ratios]
    return comparison_of(compared(logs[0], logs[1:], [(shares[0], np.stack(shares[1:]))]), "log ratio")
