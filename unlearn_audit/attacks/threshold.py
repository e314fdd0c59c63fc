"""Attacks that need no shadow model: one threshold for all examples on a statistic of the target's own output.

They see average leakage only and underestimate what single examples reveal.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.attacks import Attack, Evidence, Signals

Floats = NDArray[np.float64]


def probabilities(logits: NDArray[np.floating[Any]]) -> Floats:
    """Return the softmax of logits [..., C], in float64."""
    return np.asarray(np.exp(_log_softmax(logits)))


def _log_softmax(logits: NDArray[np.floating[Any]]) -> Floats:
    """Return log p_c [..., C]; that of a p_c near 1 is minus the others' share and not rounded to zero."""
    wide = logits.astype(np.float64)
    top = wide.argmax(axis=-1)[..., None]
    shifted = wide - np.take_along_axis(wide, top, axis=-1)
    odds = np.exp(shifted)
    np.put_along_axis(odds, top, 0.0, axis=-1)
    return np.asarray(shifted - np.log1p(odds.sum(axis=-1, keepdims=True)))


def _log_others(logits: NDArray[np.float32]) -> Floats:
    """Return log(1 - p_c) of every class c, the largest one's summed over the others: nothing is lost near 1."""
    logs = _log_softmax(logits)
    top = logs.argmax(axis=-1)[..., None]
    rest = logs.copy()
    np.put_along_axis(rest, top, -np.inf, axis=-1)
    others = np.log1p(-np.exp(rest))  # at most 1/2 each, so that 1 - p_c loses nothing
    peak = rest.max(axis=-1, keepdims=True)
    of_top = peak + np.log(np.exp(rest - peak).sum(axis=-1, keepdims=True))
    np.put_along_axis(others, top, of_top, axis=-1)
    return np.asarray(others)


def entropies(logits: NDArray[np.float32]) -> Floats:
    """Return the entropy of the outputs of [N, C] logits, in nats."""
    logs = _log_softmax(logits)
    return np.asarray(-(np.exp(logs) * logs).sum(axis=-1))


def modified_entropies(signals: Signals) -> Floats:
    """Return -(1 - p_y) log p_y - sum over c != y of p_c log(1 - p_c) (Song & Mittal 2021, Eq. 10), in nats.

    Unlike the entropy it is low only where the output is sure *and* agrees with the label y.
    """
    shares, logs, others = probabilities(signals.logits), _log_softmax(signals.logits), _log_others(signals.logits)
    rows = np.arange(len(signals.labels))
    own = np.exp(others[rows, signals.labels]) * logs[rows, signals.labels]
    rest = shares * others
    rest[rows, signals.labels] = 0.0
    return np.asarray(-own - rest.sum(axis=-1))


def _negative_loss(evidence: Evidence) -> Floats:
    """Return log p_y, [N]."""
    signals = evidence.plain
    return np.asarray(_log_softmax(signals.logits)[np.arange(len(signals.labels)), signals.labels])


def _confidence(evidence: Evidence) -> Floats:
    """Return the logarithm of the largest probability, which ranks as that does, without ties at 1."""
    return np.asarray(_log_softmax(evidence.plain.logits).max(axis=-1))


def _negative_entropy(evidence: Evidence) -> Floats:
    return -entropies(evidence.plain.logits)


def _negative_modified_entropy(evidence: Evidence) -> Floats:
    return -modified_entropies(evidence.plain)


loss = Attack(
    "loss",
    "is the loss of forget examples lower than that of their unseen twin, on this model?",
    "Yeom et al. 2018",
    _negative_loss,
)
confidence = Attack(
    "confidence",
    "is the model surer of its answer, right or wrong, on forget examples than on their unseen twin?",
    "Salem et al. 2019, adversary 3",
    _confidence,
)
entropy = Attack(
    "entropy",
    "is the entropy of the outputs lower on forget examples than on their unseen twin?",
    "Shokri et al. 2017; Song & Mittal 2021",
    _negative_entropy,
)
modified_entropy = Attack(
    "modified-entropy",
    "is the entropy, counted towards the label, lower on forget examples than on their unseen twin?",
    "Song & Mittal 2021, Eq. 10",
    _negative_modified_entropy,
)
