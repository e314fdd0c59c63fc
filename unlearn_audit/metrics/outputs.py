"""How far two models' answers to the same examples are from each other, and what is said of a model by it.

Everything is computed from log-probabilities in float64: probabilities that underflow would be taken for equal.
"""

from collections.abc import Sequence
from math import log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from unlearn_audit.metrics.skewed import resampled_means
from unlearn_audit.metrics.values import Bounds, student_interval

Floats = NDArray[np.float64]
LN2 = log(2)
MOST_RESAMPLED = 5000  # examples from which on Student's t does, and resampling takes too long
NUMBERS = 4_000_000  # probabilities of each model that are looked at at a time, which bounds memory


class Divergences(NamedTuple):
    """Of the answers of two models to the same examples, p of ours and q of the other: one number an example, [n].

    Attributes:
        js: Jensen-Shannon divergence, 1/2·KL(p‖m) + 1/2·KL(q‖m) with m = (p + q) / 2, nats, 0 to ln 2.
        kl: KL(q‖p), nats: what is lost by taking our answers for the other's.
        tv: total variation, 1/2·sum |p - q|, 0 to 1.
        l2: Euclidean distance ‖p - q‖, 0 to the root of 2; the field's activation distance.
        agreement: 1.0 where both have the same largest logit, else 0.0; the field's prediction difference is 1 - this.
    """

    js: Floats
    kl: Floats
    tv: Floats
    l2: Floats
    agreement: Floats


def divergences(ours: NDArray[np.floating], theirs: NDArray[np.floating]) -> Divergences:
    """Return how far the answers of two models are from each other, example by example.

    Args:
        ours: logits [n, C] of the model in question, p.
        theirs: logits [n, C] of the other, q.

    >>> far = divergences(np.array([[800.0, 0.0]]), np.array([[0.0, 800.0]]))
    >>> far.js.round(4).tolist(), far.kl.tolist(), far.tv.tolist()
    ([0.6931], [800.0], [1.0])
    """
    rows = max(1, NUMBERS // max(1, ours.shape[1]))
    parts = [slice(start, start + rows) for start in range(0, len(ours), rows)] or [slice(0)]
    found = [_divergences(ours[part], theirs[part]) for part in parts]
    return Divergences(*(np.concatenate(each) for each in zip(*found, strict=True)))


def _divergences(ours: NDArray[np.floating], theirs: NDArray[np.floating]) -> Divergences:
    log_p, log_q = (log_softmax(logits.astype(np.float64), axis=1) for logits in (ours, theirs))
    log_m = np.logaddexp(log_p, log_q) - LN2
    p, q = np.exp(log_p), np.exp(log_q)
    js = ((p * (log_p - log_m)).sum(axis=1) + (q * (log_q - log_m)).sum(axis=1)) / 2
    apart = p - q
    return Divergences(
        np.clip(js, 0.0, LN2),
        np.maximum((q * (log_q - log_p)).sum(axis=1), 0.0),
        np.abs(apart).sum(axis=1) / 2,
        np.sqrt((apart * apart).sum(axis=1)),
        np.asarray(ours.argmax(axis=1) == theirs.argmax(axis=1), dtype=np.float64),
    )


def zero_retrain_forgetting(js: Floats) -> Floats:
    """Return 1 - JS / ln 2 of each example: 1 where a model answers as its ignorant teacher, 0 where quite otherwise.

    Its mean is the zero-retrain forgetting metric, ZRF (Chundawat et al. 2023, section 5).

    Args:
        js: [n], Jensen-Shannon divergences to the teacher, nats.
    """
    return 1 - js / LN2


def tug_of_war(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the product of 1 - |difference| over some accuracies, 1 where all agree (Zhao et al. 2024, ToW).

    >>> round(tug_of_war((0.90, 0.99, 0.93), (0.91, 1.00, 0.94)), 3)
    0.97

    Args:
        ours: fractions, of forget, retain and test set.
        theirs: a retrained model's, in the same order.
    """
    return float(np.prod([1 - abs(one - other) for one, other in zip(ours, theirs, strict=True)]))


# ----- many models, many examples


def as_if_apart(levels: Floats) -> Floats:
    """Return numbers of R >= 3 models, each a mean over pairs with the others, as far apart as one more model's lie.

    A pair counts for both of its models, which brings their means together: where the number of a pair is the sum of
    what its two models bring along, deviations from the common mean are (R - 2) / (R - 1) of those of a model that is
    held against all R. Where pairs are independent, the variance that follows is (R - 1) / (R - 2) of the true one, on
    the safe side.

    Args:
        levels: [R, ...].
    """
    count, mean = len(levels), levels.mean(axis=0)
    return np.asarray(mean + (levels - mean) * (count - 1) / (count - 2))


def paired_bootstrap(
    ours: Floats, theirs: Floats, *, seed: int, resamples: int = 2000, level: float = 0.95
) -> Bounds | None:
    """Return the interval of mean(ours) - mean(theirs) over examples, these models given: percentiles of resamples.

    Args:
        ours: [n].
        theirs: [n], of the same examples.
        seed: of the resampling.
        resamples: how many.
        level: how often the interval is to hold the difference on other examples from the same source.

    Returns:
        The interval; None below two examples. Above 5,000 it is Student's.
    """
    apart, n = ours - theirs, len(ours)
    if n < 2:
        return None
    if n > MOST_RESAMPLED:
        return student_interval(float(apart.mean()), float(apart.std(ddof=1)) / n**0.5, n - 1, level)
    means = resampled_means(apart[:, None], np.random.default_rng(seed), resamples)[:, 0]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Bounds(float(low), float(high))
