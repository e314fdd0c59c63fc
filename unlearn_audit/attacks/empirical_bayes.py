"""What few models say of each example, made better by what they say of all: means and variances that are shrunken.

With four shadow models an example has two on each side. A variance of its own is then hopeless, and one for all
examples ignores that easy and hard examples differ. So each side's variances are drawn towards a trend in difficulty,
as far as their own scatter says (the moment method of Smyth 2004, section 6, with a trend in place of a constant), and
the difference between the sides towards another trend (as Efron and Morris 1973 draw means towards theirs).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
LEAST_EXAMPLES = 20  # with two models on a side; below, trends of three coefficients would follow the noise
LEAST_SQUARE = 1e-8  # of a sample variance, in squared nats: its logarithm is taken
MOST_PRIOR = 1000.0  # degrees of freedom of the trend: above, no example's own scatter is heard


class Side(NamedTuple):
    """What the models of one side say of N examples.

    Attributes:
        models: [N] how many.
        mean: [N] of their values.
        squares: [N] sum of squared deviations from the mean.
    """

    models: Floats
    mean: Floats
    squares: Floats


class Variances(NamedTuple):
    """Variances [N] of one side, and how many degrees of freedom the trend that they are drawn to is worth."""

    values: Floats
    prior: float


class Fit(NamedTuple):
    """Normal distributions for N examples on two sides, and what they were shrunken by.

    Attributes:
        means: of the side with the example and of the one without it: [N] each.
        variances: likewise, of a value that is still to come: what is not known of the mean is in them.
        prior: degrees of freedom that the trend of a side's variances is worth, beside an example's own.
        spread: standard deviation of the differences between the sides about their trend: tau.
        trend: of the differences in difficulty: coefficients of 1, z and z² - 1.
        own: [N] weight of an example's own difference; the rest is the trend's.
    """

    means: tuple[Floats, Floats]
    variances: tuple[Floats, Floats]
    prior: tuple[float, float]
    spread: float
    trend: Floats
    own: Floats


def side_of(values: Floats, chosen: Mask) -> Side:
    """Return what the models chosen for each example say of it.

    Args:
        values: [M, N].
        chosen: [M, N], at least one for each example.
    """
    models = chosen.sum(axis=0).astype(np.float64)
    mean = np.where(chosen, values, 0.0).sum(axis=0) / models
    return Side(models, mean, np.where(chosen, (values - mean) ** 2, 0.0).sum(axis=0))


def enough(*sides: Mask) -> bool:
    """Return whether there are enough examples with two models on every side for trends to be fitted.

    Args:
        sides: [M, N] which models are on it.
    """
    counts = [chosen.sum(axis=0) for chosen in sides]
    return int(np.logical_and.reduce([count >= 2 for count in counts]).sum()) >= LEAST_EXAMPLES


def difficulty_terms(ease: Floats) -> Floats:
    """Return the covariates [N, 3] of trends: 1, z and z² - 1 of the standardised ease; [N, 1] where all are alike."""
    spread = float(ease.std())
    if not spread > 1e-12 * max(1.0, float(np.abs(ease).max())):
        return np.ones((len(ease), 1))
    z = (ease - ease.mean()) / spread
    return np.stack([np.ones_like(z), z, z * z - 1], axis=1)


def shrunken_variances(side: Side, terms: Floats) -> Variances:
    """Return each example's variance, drawn towards the trend: (nu0·s0² + SS) / (nu0 + f).

    The trend is that of log s² on the terms, corrected for E log s² = log sigma² + psi(f/2) - log(f/2); nu0 follows
    from how much more the logarithms scatter about it than f degrees of freedom explain. An example with a single
    model has the trend alone.

    Args:
        side: with two models for at least one example.
        terms: [N, k] covariates.
    """
    from scipy.special import digamma, polygamma

    freedom = side.models - 1
    heard = freedom > 0
    half = freedom[heard] / 2
    logarithms = np.log(np.maximum(side.squares[heard] / freedom[heard], LEAST_SQUARE)) - digamma(half) + np.log(half)
    coefficients, _, rank, _ = np.linalg.lstsq(terms[heard], logarithms, rcond=None)
    about = logarithms - terms[heard] @ coefficients
    scatter = float(about @ about) / max(1, len(about) - int(rank))
    prior = _degrees_of_freedom(scatter - float(polygamma(1, half).mean()))
    level = np.exp(terms @ coefficients + digamma(prior / 2) - np.log(prior / 2))
    return Variances((prior * level + side.squares) / (prior + freedom), prior)


def _degrees_of_freedom(excess: float) -> float:
    """Return nu with trigamma(nu / 2) = excess, at most MOST_PRIOR; that many where nothing is in excess."""
    from scipy.special import polygamma

    if not excess > 0:
        return MOST_PRIOR
    x = 0.5 + 1 / excess  # Newton's method on 1 / trigamma, which is convex and nearly linear (Smyth 2004, appendix)
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1 - trigamma / excess) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return min(2 * x, MOST_PRIOR)


def fit_both(inside: Side, outside: Side) -> Fit:
    """Return the distributions of both sides: shrunken variances, and a shrunken difference about the common centre.

    With a the mean of both sides' means, d their difference and noise = v_in/n_in + v_out/n_out the variance of d: a
    trend of d in difficulty (weighted least squares), tau² = what d scatters about it beyond its noise, and the weight
    w = tau²/(tau² + noise) of an example's own d.

    Args:
        inside: at least one model for each example, and `enough` of them.
        outside: likewise, of the same N examples.
    """
    centre, difference = (inside.mean + outside.mean) / 2, inside.mean - outside.mean
    terms = difficulty_terms(centre)
    variances = [shrunken_variances(side, terms) for side in (inside, outside)]
    noise = variances[0].values / inside.models + variances[1].values / outside.models
    weights = 1 / (noise + 0.1 * float(difference.var()))
    root = np.sqrt(weights)
    trend = np.asarray(np.linalg.lstsq(root[:, None] * terms, root * difference, rcond=None)[0], dtype=np.float64)
    about = difference - terms @ trend
    left = max(1, len(about) - terms.shape[1])
    square = max(0.0, float((weights * (about * about * (len(about) / left) - noise)).sum() / weights.sum()))
    own = square / (square + noise)
    shrunken = terms @ trend + own * about
    unsure = noise / 4 * (1 + own)  # of the centre, and of half of the difference
    return Fit(
        (centre + shrunken / 2, centre - shrunken / 2),
        (variances[0].values + unsure, variances[1].values + unsure),
        (variances[0].prior, variances[1].prior),
        float(np.sqrt(square)),
        trend,
        own,
    )
