"""Is the truncation error of RCD_K exponential in K? One long trajectory answers.

The error of RCD_K is the part of the sum beyond K. Theorem 6 of Tran & Woo 2026 bounds it by O(e^-K) for gradient
descent; on a strongly convex loss the rate is governed by the condition number, on separable data without weight decay
the loss decays like 1/t and the sum diverges. Which of these a model shows is read off the slopes of the log excess
over the floor, not off which curve fits best: on held-out later steps a stretched exponential fits a true sum of
exponentials better than one exponential does.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Truncation", "Verdict", "steps_for", "truncation"]

Floats = NDArray[np.float64]
Verdict = Literal["exponential", "slower than exponential", "not converged", "diverged"]

FADED = {"float64": 1e-9, "float32": 1e-5}  # share of the first excess below which rounding rules
SAME_RATE, ENOUGH_DECAY, POWER_LAW = 0.85, 3.0, 1.5
WINDOWS = 6  # pieces of the last third whose slopes bound the rate
FEWEST = 30  # steps needed to speak of thirds


@dataclass(frozen=True)
class Truncation:
    """What one trajectory tells of truncation.

    Attributes:
        verdict: how the excess decays at its end.
        rate: decay of the log excess per step over its last third, or None.
        rate_low: slowest decay over a piece of the last third.
        rate_high: fastest one.
        ratio: rate of the last third / rate of the middle third; 1 for an exponential, .59 for 1/t.
        decay: rate x steps used; how far into its last mode the curve has come.
        used: steps used before the excess faded into rounding.
        tail: estimate of the sum beyond the trajectory, with `tail_low` and `tail_high`; None unless exponential.
        tail_low: from the fastest rate.
        tail_high: from the slowest rate.
        error: [T + 1] error of RCD_K for K = 0..T, the tail included where it is known.
    """

    verdict: Verdict
    rate: float | None
    rate_low: float | None
    rate_high: float | None
    ratio: float | None
    decay: float | None
    used: int
    tail: float | None
    tail_low: float | None
    tail_high: float | None
    error: Floats

    @property
    def half_life(self) -> float | None:
        """Steps in which the excess halves."""
        return float(np.log(2) / self.rate) if self.rate and self.rate > 0 else None

    @property
    def kappa_effective(self) -> float | None:
        """1 / rate: the condition number that gradient descent with step 1/lambda_max would show."""
        return 1 / self.rate if self.rate and self.rate > 0 else None


def truncation(
    loss: Floats, floor: float, *, diverged: bool = False, precision: Literal["float64", "float32"] = "float64"
) -> Truncation:
    """Judge a relearning curve.

    The excess over the floor is followed until it falls below the rounding of its precision. With r_mid and r_last the
    decay rates of its middle and last third and p = r_last x steps: r_last / r_mid >= .85 and p >= 3 is exponential;
    below .85 with p <= 1.5 is slower than exponential (1/t has .59 and 1.2); everything else has not converged.

    Args:
        loss: [T + 1] losses of t = 0..T.
        floor: the loss that the excess is taken over, common to all models that are compared.
        diverged: whether the curve ended in a loss that is not finite.
        precision: of the computation, for the level at which the excess drowns in rounding.
    """
    excess = np.asarray(loss, dtype=np.float64) - floor
    if diverged or not len(excess) or not np.isfinite(excess).all():
        return _nothing("diverged", excess)
    used = _used(excess, FADED[precision])
    if used < FEWEST:
        return _nothing("exponential" if used < len(excess) - 1 and used > 2 else "not converged", excess, used)
    log = np.log(excess[: used + 1])
    third = used // 3
    r_mid = (log[third] - log[2 * third]) / third
    r_last = (log[2 * third] - log[used]) / (used - 2 * third)
    edges = np.unique(np.linspace(2 * third, used, WINDOWS + 1).astype(int))
    pieces = (log[edges[:-1]] - log[edges[1:]]) / np.diff(edges)
    low, high = float(min(pieces.min(), r_last)), float(max(pieces.max(), r_last))
    ratio = float(r_last / r_mid) if r_mid > 0 else None
    decay = float(r_last * used)
    verdict = _verdict(ratio, decay, r_last)
    if verdict != "exponential" or low <= 0:
        return Truncation(verdict, float(r_last), low, high, ratio, decay, used, None, None, None, _errors(excess, 0.0))
    tail, tail_low, tail_high = (_geometric(float(excess[-1]), rate) for rate in (float(r_last), high, low))
    errors = _errors(excess, tail)
    return Truncation(verdict, float(r_last), low, high, ratio, decay, used, tail, tail_low, tail_high, errors)


def _used(excess: Floats, faded: float) -> int:
    """Return the last step before the excess falls below the rounding level (or is not positive)."""
    below = np.flatnonzero(excess <= faded * max(excess[0], 0.0))
    return int(below[0]) - 1 if len(below) else len(excess) - 1


def _verdict(ratio: float | None, decay: float, r_last: float) -> Verdict:
    if ratio is None or r_last <= 0:
        return "not converged"
    if ratio >= SAME_RATE and decay >= ENOUGH_DECAY:
        return "exponential"
    return "slower than exponential" if ratio < SAME_RATE and decay <= POWER_LAW else "not converged"


def _geometric(last: float, rate: float) -> float:
    """Return the sum of last·q^j over j = 1, 2, ... with q = e^-rate."""
    return max(last, 0.0) / float(np.expm1(rate))


def _errors(excess: Floats, tail: float) -> Floats:
    """Return the sum beyond each K: what is left of the trajectory, plus the tail."""
    return np.append(np.cumsum(excess[::-1])[::-1][1:], 0.0) + tail


def _nothing(verdict: Verdict, excess: Floats, used: int = 0) -> Truncation:
    return Truncation(verdict, None, None, None, None, None, used, None, None, None, _errors(excess, 0.0))


def steps_for(found: Truncation, total: float, share: float) -> int | None:
    """Return the smallest K whose truncation error is at most `share` of the whole sum, or None if none is known.

    Args:
        found: of one trajectory; None comes back unless its verdict is "exponential".
        total: the whole sum, tail included.
        share: e.g. .01.
    """
    if found.verdict != "exponential" or total <= 0:
        return None
    small = np.flatnonzero(found.error <= share * total)
    return int(small[0]) if len(small) else None
