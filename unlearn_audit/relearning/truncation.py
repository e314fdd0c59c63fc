"""Is the truncation error of RCD_K exponential in K? One long trajectory answers.

The error of RCD_K is the part of the sum beyond K. Theorem 6 of Tran & Woo 2026 bounds it by O(e^-K) for gradient
descent; on a strongly convex loss the rate is governed by the condition number, on separable data without weight decay
the loss decays like 1/t and the sum diverges. Which of these a model shows is read off the slopes of the log excess
over the floor, not off which curve fits best: on held-out later steps a stretched exponential fits a true sum of
exponentials better than one exponential does.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Precision = Literal["float64", "float32", "reduced"]
Verdict = Literal["exponential", "slower than exponential", "not converged", "diverged"]

FADED = {"float64": 1e-9, "float32": 1e-5, "reduced": 1e-2}  # share of the first excess below which rounding rules
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "reduced": 2.0**-10}
ROUNDINGS = 4  # epsilons of the largest loss that a mean of cross-entropies may be off by
NOISES = 20  # standard deviations of the curve's own noise below which slopes mean nothing
SAME_RATE, ENOUGH_DECAY = 0.85, 3.0
POWER_LAW = (0.4, 1.5)  # least and most decay of what is called a power law
LEVELS_OFF = 0.48  # decay of the last half / of the half before it; a power law has at least .5
SPEEDS_UP = 1.1  # decay of the last sixth / of the sixth before it
SCALE_FREE = 1.15  # octaves whose slowing agrees to this factor slow for ever
STEADY = 0.03  # log of the slowing per octave that counts as none
WINDOWS = 6  # pieces of the last third whose slopes bound the rate
FEWEST = 30  # steps needed to speak of thirds
FADED_SOON = 16  # fewer do where the excess faded into rounding within them


@dataclass(frozen=True)
class Truncation:
    """What one trajectory tells of truncation.

    Attributes:
        verdict: how the excess decays at its end; None where there is no excess from the start.
        reason: why it is not exponential, in words; None where it is.
        rate: decay of the log excess per step over its last third, or None.
        rate_low: slowest decay over a piece of the last third, less what the decay slowed down from the middle third
            to the last one, at least 0: the rate may go on falling towards that of the slowest mode.
        rate_high: fastest decay over a piece of the last third.
        ratio: rate of the last third / rate of the middle third; 1 for an exponential, .59 for 1/t.
        decay: rate x steps used; how far into its last mode the curve has come.
        exponent: a of the power law t^-a that the slopes of both thirds make, whatever its start; None where the
            decay does not slow down.
        used: steps used before the excess faded into rounding.
        tail: estimate of the sum beyond the steps used; None unless exponential.
        tail_low: from `rate_high`.
        tail_high: from `rate_low`; None where that is 0.
        error: [T + 1] error of RCD_K for K = 0..T; with `tail` where it is known, else a lower bound.
        total: the whole sum, as far as it is known; `error[K] / total` is the relative error.
    """

    verdict: Verdict | None
    reason: str | None
    rate: float | None
    rate_low: float | None
    rate_high: float | None
    ratio: float | None
    decay: float | None
    exponent: float | None
    used: int
    tail: float | None
    tail_low: float | None
    tail_high: float | None
    error: Floats
    total: float

    @property
    def half_life(self) -> float | None:
        """Steps in which the excess halves."""
        return float(np.log(2) / self.rate) if self.rate and self.rate > 0 else None

    @property
    def kappa_effective(self) -> float | None:
        """1 / rate: the condition number that gradient descent with step 1/lambda_max would show."""
        return 1 / self.rate if self.rate and self.rate > 0 else None


def truncation(
    loss: Floats,
    floor: float,
    *,
    diverged: bool = False,
    precision: Precision = "float64",
    regularised: bool = False,
) -> Truncation:
    """Judge a relearning curve.

    The excess over the floor is followed until rounding or the curve's own noise rules. With r_mid and r_last the decay
    rates of its middle and last third and p = r_last x steps: r_last / r_mid >= .85 and p >= 3 is exponential; below
    .85 with .4 <= p <= 1.5 is slower than exponential (1/t has .59 and 1.2); everything else has not converged. Neither
    has a curve that

    - falls below its floor, or speeds up at its end, as one does whose floor is too high;
    - levels off above its floor: the decay of a power law halves at most when the time doubles;
    - would be exponential, but slows by one and the same share over each of three doublings, as a stretched exponential
      does and a sum of exponentials does not.

    Args:
        loss: [T + 1] losses of t = 0..T.
        floor: the minimum that the curve falls to.
        diverged: whether the curve ended in a loss that is not finite.
        precision: of the computation, for the level at which the excess drowns in rounding; "reduced" is TF32 or
            bfloat16.
        regularised: whether the objective has weight decay, which makes the decay exponential in the end: a power law
            within the steps taken is then a curve that has not converged.
    """
    values = np.asarray(loss, dtype=np.float64)
    excess = values - floor
    if diverged or not len(excess) or not np.isfinite(excess).all():
        return _nothing("diverged", "the loss was not finite any more", excess)
    resolution = _resolution(values, floor, precision)
    if excess.min() < -resolution:
        return _nothing("not converged", "the loss falls below the floor, which is not the lowest then", excess)
    used = int(np.argmax(excess <= resolution)) - 1 if (excess <= resolution).any() else len(excess) - 1
    faded = used < len(excess) - 1
    if used < (FADED_SOON if faded else FEWEST):
        return _short(excess, used, faded)
    return _judged(excess, used, regularised)


def _resolution(loss: Floats, floor: float, precision: Precision) -> float:
    """Return the excess below which nothing can be read off the curve: rounding, or its noise at the end."""
    rounding = ROUNDINGS * EPSILON[precision] * max(abs(floor), abs(float(loss[0])))
    late = np.diff(loss[2 * len(loss) // 3 :], n=4)  # smooth curves have none; noise of sd s gives sd s·sqrt(70)
    noise = float(np.sqrt(np.mean(late**2) / 70)) if len(late) else 0.0
    return max(FADED[precision] * (float(loss[0]) - floor), rounding, NOISES * noise)


def _short(excess: Floats, used: int, faded: bool) -> Truncation:
    """Judge a curve of few steps: where it faded into rounding so soon, it decayed exponentially at least."""
    if used < 0:
        return _nothing(None, "the curve starts at its floor: there is no excess to decay", excess)
    if not faded:
        return _nothing("not converged", f"fewer than {FEWEST} steps do not show a trend", excess)
    if used < 3:
        return replace(_nothing("exponential", None, excess[: used + 1]), error=_errors(excess, used, 0.0, None))
    log = np.log(excess[: used + 1])
    steps = log[used // 2 : -1] - log[used // 2 + 1 :]
    if steps.min() <= 0:
        return _nothing("not converged", "the loss rises before it fades into rounding", excess)
    rate = float(steps.mean())
    return _exponential(excess, used, rates=(rate, float(steps.min()), float(steps.max())), ratio=None, decay=None)


def _judged(excess: Floats, used: int, regularised: bool) -> Truncation:
    """Judge a curve that has thirds."""
    log = np.log(excess[: used + 1])
    third = used // 3
    r_mid, r_last = _slopes(log, [third, 2 * third, used])
    pieces = _slopes(log, [int(at) for at in np.linspace(2 * third, used, WINDOWS + 1)])
    ratio = float(r_last / r_mid) if r_mid > 0 else None
    decay = float(r_last * used)
    low = max(min(*pieces, r_last) - max(r_mid - r_last, 0.0), 0.0)
    rates = (float(r_last), float(low), float(max(*pieces, r_last)))
    verdict, reason = _verdict(log, ratio, decay, regularised)
    if verdict == "exponential":
        return _exponential(excess, used, rates=rates, ratio=ratio, decay=decay)
    found = _nothing(verdict, reason, excess, used)
    slowing = 1 / r_last - 1 / r_mid if r_last > 0 and r_mid > 0 else 0.0
    exponent = float((used + 2 * third - 3 * third) / 2 / slowing) if slowing > 0 else None
    return replace(
        found, rate=rates[0], rate_low=rates[1], rate_high=rates[2], ratio=ratio, decay=decay, exponent=exponent
    )


def _slopes(log: Floats, edges: list[int]) -> list[float]:
    """Return the decay per step between consecutive steps."""
    return [float((log[a] - log[b]) / (b - a)) for a, b in zip(edges, edges[1:], strict=False)]


def _verdict(log: Floats, ratio: float | None, decay: float, regularised: bool) -> tuple[Verdict, str | None]:
    """Return the verdict on a log excess, and why it is not exponential."""
    used = len(log) - 1
    if ratio is None or decay <= 0:
        return "not converged", "the loss does not fall any more, above its floor"
    octaves = _ratios(_slopes(log, [used // 16, used // 8, used // 4, used // 2, used]))
    if ratio >= SAME_RATE and decay >= ENOUGH_DECAY:
        early, late = _slopes(log, [used - 2 * (used // 6), used - used // 6, used])
        if late > SPEEDS_UP * early:
            return "not converged", "the decay still speeds up at the end, as it does over a floor that is too high"
        if _scale_free(octaves):
            return "not converged", "the decay slows by the same share over every doubling of the steps"
        return "exponential", None
    if octaves[-1] < LEVELS_OFF:
        return "not converged", "the loss levels off above its floor"
    if decay < POWER_LAW[0]:
        return "not converged", "the loss hardly falls at the end, above its floor"
    if ratio < SAME_RATE and decay <= POWER_LAW[1]:
        if regularised:
            return "not converged", "with weight decay the decay turns exponential in the end: more steps are needed"
        return "slower than exponential", "the decay slows down as a power of the steps does"
    return "not converged", "the decay has not settled: more steps are needed"


def _ratios(rates: list[float]) -> list[float]:
    """Return each rate over the one before it; rates that are not positive are taken for none at all."""
    kept = [max(rate, 1e-300) for rate in rates]
    return [slower / faster for faster, slower in zip(kept, kept[1:], strict=False)]


def _scale_free(octaves: list[float]) -> bool:
    """Return whether the decay slows, and by the same share over each octave."""
    slowing = [-float(np.log(octave)) for octave in octaves]
    return min(slowing) > STEADY and max(slowing) < SCALE_FREE * min(slowing)


def _exponential(
    excess: Floats, used: int, *, rates: tuple[float, float, float], ratio: float | None, decay: float | None
) -> Truncation:
    """Return the result for an exponential, its tail summed beyond the steps used."""
    rate, low, high = rates
    last = float(excess[used])
    tail, tail_low = last / float(np.expm1(rate)), last / float(np.expm1(high))
    tail_high = last / float(np.expm1(low)) if low > 0 else None
    error = _errors(excess, used, tail, rate)
    decay = rate * used if decay is None else decay
    return Truncation(
        verdict="exponential",
        reason=None,
        rate=rate,
        rate_low=low,
        rate_high=high,
        ratio=ratio,
        decay=decay,
        exponent=None,
        used=used,
        tail=tail,
        tail_low=tail_low,
        tail_high=tail_high,
        error=error,
        total=float(excess[0] + error[0]),
    )


def _errors(excess: Floats, used: int, tail: float, rate: float | None) -> Floats:
    """Return the sum beyond each K: what is left of the steps used, plus the tail, which goes on beyond them."""
    left = np.append(np.cumsum(excess[used:0:-1])[::-1], 0.0) + tail
    beyond = np.arange(1, len(excess) - used)
    return np.append(left, tail * np.exp(-(rate or 0.0) * beyond))


def _nothing(verdict: Verdict | None, reason: str | None, excess: Floats, used: int | None = None) -> Truncation:
    """Return the result for a curve without a tail; its errors are what the trajectory itself has left, if finite."""
    used = len(excess) - 1 if used is None else used
    known = len(excess) > 0 and bool(np.isfinite(excess).all())
    error = _errors(excess, used, 0.0, None) if known else np.full(len(excess), np.inf)
    total = float(excess[0] + error[0]) if known else float("inf")
    used = max(used, 0)
    return Truncation(
        verdict=verdict,
        reason=reason,
        rate=None,
        rate_low=None,
        rate_high=None,
        ratio=None,
        decay=None,
        exponent=None,
        used=used,
        tail=None,
        tail_low=None,
        tail_high=None,
        error=error,
        total=total,
    )


def unsettled(loss: Floats, floor: float, reason: str) -> Truncation:
    """Return the result for a curve that cannot be judged, for a reason that the curve itself does not show."""
    return _nothing("not converged", reason, np.asarray(loss, dtype=np.float64) - floor)


def steps_for(found: Truncation, share: float) -> int | None:
    """Return the smallest K whose truncation error is at most `share` of the whole sum, or None if none is known.

    Beyond the steps used the tail goes on at its rate.

    Args:
        found: of one trajectory; None comes back unless its verdict is "exponential".
        share: e.g. .01.
    """
    if found.verdict != "exponential" or found.total <= 0:
        return None
    small = np.flatnonzero(found.error <= share * found.total)
    if len(small):
        return int(small[0])
    if not found.rate:
        return None
    return len(found.error) - 1 + int(np.ceil(np.log(found.error[-1] / (share * found.total)) / found.rate))
