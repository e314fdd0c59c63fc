"""RMIA: is an example likelier under the target than under other models, more so than examples of the population are?

Zarifzadeh et al. 2024. The paper's score is the share of population examples z with LR(x, z) > gamma; it depends on x
only through p(x | target) / p(x) and grows with it, so examples are ranked by the logarithm of that, without ties.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.attacks import Attack, Evidence, Shadows
from unlearn_audit.attacks.population import probabilities
from unlearn_audit.errors import MeasurementError

__all__ = ["dominated_share", "fitted_a", "offline", "rmia", "rmia_offline"]

Floats = NDArray[np.float64]
LEAST = 1e-300  # of a probability, before its logarithm


def _of_label(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Floats:
    """Return p_y [..., N] of logits [..., N, Q, C], the mean over views."""
    shares = probabilities(logits)
    wanted = np.broadcast_to(labels[:, None, None], (*shares.shape[:-1], 1))
    return np.asarray(np.take_along_axis(shares, wanted, axis=-1)[..., 0].mean(axis=-1))


def _mean(values: Floats, chosen: NDArray[np.bool_]) -> Floats:
    """Return the mean over the models chosen for each example, [N]."""
    counts = chosen.sum(axis=0)
    if (counts == 0).any():
        raise MeasurementError(
            f"{int((counts == 0).sum())} of {len(counts)} examples have no shadow model on one side; more are needed"
        )
    return np.asarray(np.where(chosen, values, 0.0).sum(axis=0) / counts)


def _shadows(evidence: Evidence) -> Shadows:
    if evidence.shadows is None:
        raise MeasurementError("RMIA needs shadow models")
    return evidence.shadows


def _log_ratio(evidence: Evidence, marginal: Floats) -> Floats:
    own = _of_label(evidence.logits, evidence.labels)
    return np.asarray(np.log(np.maximum(own, LEAST)) - np.log(np.maximum(marginal, LEAST)))


def _online(evidence: Evidence) -> Floats:
    """Return log p(x | target) - log p(x), p(x) the mean of what models with and without x say, halved."""
    shadows = _shadows(evidence)
    said = _of_label(shadows.logits, evidence.labels)
    return _log_ratio(evidence, (_mean(said, shadows.inside) + _mean(said, shadows.outside)) / 2)


def _offline(evidence: Evidence, a: float | None) -> Floats:
    """Return the same with p(x) = ((1 + a) p_out(x) + 1 - a) / 2, from models without x alone."""
    shadows = _shadows(evidence)
    share = fitted_a(shadows) if a is None else a
    out = _mean(_of_label(shadows.logits, evidence.labels), shadows.outside)
    return _log_ratio(evidence, ((1 + share) * out + 1 - share) / 2)


def fitted_a(shadows: Shadows) -> float:
    """Return a of p_in ~ a p_out + 1 - a: least squares of 1 - p_in on 1 - p_out over the rest of the pool.

    The attacked examples take no part, since the offline form must not know models that were trained on them.

    Raises:
        MeasurementError: no other example is inside one model and outside of another one.
    """
    said = _of_label(shadows.rest[:, :, None], shadows.rest_labels)
    both = shadows.rest_inside.any(axis=0) & (~shadows.rest_inside).any(axis=0)
    if not both.any():
        raise MeasurementError("a cannot be fitted: no example is in one shadow model and out of another one; give --a")
    inside = shadows.rest_inside[:, both]
    missing_in = 1 - _mean(said[:, both], inside)
    missing_out = 1 - _mean(said[:, both], ~inside)
    total = float((missing_out**2).sum())
    return float(np.clip((missing_in * missing_out).sum() / total, 0, 1)) if total > 0 else 1.0


def dominated_share(ratios: Floats, population: Floats, gamma: float) -> Floats:
    """Return the paper's score: the share of population ratios r(z) with r(x) / r(z) > gamma (its Eq. 3).

    Args:
        ratios: [N] log p(x | target) - log p(x).
        population: [Z] the same of population examples, Z >= 1.
        gamma: > 0; 2 in the paper.
    """
    return np.asarray(np.searchsorted(np.sort(population), ratios - np.log(gamma), side="left") / len(population))


rmia = Attack(
    "rmia",
    "are forget examples likelier under this model than under others, compared with their unseen twin?",
    "Zarifzadeh et al. 2024, Eq. 2, ranked by the log ratio",
    _online,
    ("shadows",),
)


def offline(a: float | None = None) -> Attack:
    """Return RMIA with those models only that never saw the example.

    Args:
        a: of p(x) = ((1 + a) p_out + 1 - a) / 2, in [0, 1]; fitted on the rest of the pool where None.
    """
    return Attack(
        "rmia-offline",
        "are forget examples likelier under this model than models without them would have it, compared with their "
        "unseen twin?",
        "Zarifzadeh et al. 2024, section 3 and appendix B.2.2",
        partial(_offline, a=a),
        ("shadows",),
    )


rmia_offline = offline()
