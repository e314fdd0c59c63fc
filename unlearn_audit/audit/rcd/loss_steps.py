"""Steps until a generator's loss is the original's again: there is no accuracy that they could be counted to."""

from typing import NamedTuple

import numpy as np

from unlearn_audit.audit.rcd.curves import ModelCurves, RcdCurves
from unlearn_audit.relearning import Curve

WITHIN = 0.05  # of the original's own loss before any step
MORE = (0.02, 0.1, 0.2)  # told beside it


class LossSteps(NamedTuple):
    """The first step, or None with the reason, and what is known of it then.

    Attributes:
        value: k.
        reason: why it is missing.
        at_least: no step up to here has reached the loss, less one.
    """

    value: float | None
    reason: str | None = None
    at_least: float | None = None


def original_loss(curves: RcdCurves) -> float | None:
    """Return the original's loss on the forget set before any step; None without an original that has one."""
    original = next((one for one in curves.taken if one.candidate.role == "original"), None)
    return float(original.forget.loss[0]) if original is not None and len(original.forget.loss) else None


def first_within(curve: Curve, target: float, share: float) -> int | None:
    """Return the first step k with L(theta_k) <= (1 + share)·target; None where there is none."""
    reached = np.flatnonzero(curve.loss <= (1 + share) * target)
    return int(reached[0]) if len(reached) else None


def steps_to_loss(curves: RcdCurves, one: ModelCurves) -> LossSteps:
    """Return the steps until a model's loss on the forget set is within 5 % of what the original's is."""
    target = original_loss(curves)
    if target is None:
        return LossSteps(None, "no original model to take the loss from was given")
    found = first_within(one.forget, target, WITHIN)
    if found is not None:
        return LossSteps(float(found))
    if one.diverged:
        return LossSteps(None, f"the curve diverged at step {one.forget.diverged_at}")
    steps = len(one.forget.loss) - 1
    reason = f"a loss within {WITHIN:.0%} of the original's ({target:.4g}) is not reached in {steps} steps"
    return LossSteps(None, reason, float(steps + 1))
