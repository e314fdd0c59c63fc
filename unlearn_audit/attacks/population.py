"""Attacks that need no shadow model: one threshold for all examples on a statistic of the target's own output.

They see average leakage only and underestimate what single examples reveal.
"""

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.attacks import Attack, Evidence, Signals

__all__ = ["confidence", "entropies", "entropy", "loss", "modified_entropies", "modified_entropy", "probabilities"]

Floats = NDArray[np.float64]


def probabilities(logits: NDArray[np.float32]) -> Floats:
    """Return the softmax of logits [..., C], in float64."""
    return np.asarray(np.exp(_log_softmax(logits)))


def _log_softmax(logits: NDArray[np.float32]) -> Floats:
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _log_others(logits: NDArray[np.float32]) -> Floats:
    """Return log(1 - p_c) of every class c, as the sum of the others' shares: nothing is lost near p_c = 1."""
    shares = probabilities(logits)
    classes = shares.shape[-1]
    others = np.stack([np.delete(shares, c, axis=-1).sum(axis=-1) for c in range(classes)], axis=-1)
    return np.asarray(np.log(np.maximum(others, np.finfo(np.float64).tiny)))


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
    signals = evidence.plain
    return -metrics.cross_entropy(signals.logits.astype(np.float64), signals.labels)


def _confidence(evidence: Evidence) -> Floats:
    return np.asarray(probabilities(evidence.plain.logits).max(axis=-1))


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
