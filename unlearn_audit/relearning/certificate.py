"""What strong convexity proves of the part of RCD beyond K: an upper bound from the last excess alone."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.relearning.floor import Floor

Floats = NDArray[np.float64]


class Certificate(NamedTuple):
    """The contraction of gradient descent on a strongly convex objective, and how far its fitted floor may be off.

    Attributes:
        kappa: every step leaves at most (1 - 1/kappa) of the excess.
        slack: nats by which the fitted floor may lie above the minimum.
    """

    kappa: float
    slack: float

    @property
    def slowest_rate(self) -> float:
        """The decay of the log excess per step that is proved: -log(1 - 1/kappa)."""
        return float(-np.log1p(-1 / self.kappa))

    def bounds(self, excess: Floats, steps: int) -> tuple[float, float]:
        """Return the ends between which the whole sum lies, as K = `steps` steps of the excess prove it.

        Args:
            excess: [T + 1] objective - fitted floor, in nats.
            steps: 0 <= K <= T.
        """
        low = float(excess[: steps + 1].sum())
        return low, low + (steps + 1) * self.slack + (self.kappa - 1) * (max(float(excess[steps]), 0.0) + self.slack)

    def steps_for(self, excess: Floats, share: float) -> int | None:
        """Return the smallest K for which the part beyond is proved to be at most `share` of RCD_K, or None."""
        beyond = (np.arange(len(excess)) + self.kappa) * self.slack + (self.kappa - 1) * np.maximum(excess, 0.0)
        small = np.flatnonzero(beyond <= share * np.cumsum(excess))
        return int(small[0]) if len(small) else None


def certificate(*, smoothness: float, weight_decay: float, step_size: float, floor: Floor) -> Certificate | None:
    """Return what is proved of full-batch gradient descent with a fixed step on a strongly convex objective.

    With smoothness beta, strong convexity mu (the weight decay) and step eta, the descent lemma gives
    e_(t+1) <= e_t - eta·(1 - beta·eta/2)·|g|², and strong convexity |g|² >= 2·mu·e_t; so every step leaves at most
    (1 - 1/kappa) of the excess e_t, 1/kappa = 2·mu·eta·(1 - beta·eta/2). At eta = 1/beta this is kappa = beta/mu. The
    sum beyond K is then at most e_K·((1 - 1/kappa) + (1 - 1/kappa)² + …) = (kappa - 1)·e_K. The minimum lies at most
    |g|²/(2·mu) below a fitted floor with gradient g, which adds to every term.

    Args:
        smoothness: beta, a bound on the largest eigenvalue of the objective's Hessian everywhere.
        weight_decay: mu, a lower bound on the smallest one.
        step_size: eta.
        floor: the fitted minimum of the objective.

    Returns:
        The certificate, or None where nothing is proved: no weight decay, or a step of 2/beta and more.
    """
    shrinkage = 2 * weight_decay * step_size * (1 - smoothness * step_size / 2)
    if not 0 < shrinkage < 1:
        return None
    return Certificate(kappa=1 / shrinkage, slack=floor.gradient_norm**2 / (2 * weight_decay))
