"""Attacks that need no shadow model: one threshold for all examples on a statistic of the target's own output.

They see average leakage only and underestimate what single examples reveal.
"""

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.attacks import Attack, Evidence

__all__ = ["loss"]


def _negative_loss(evidence: Evidence) -> NDArray[np.float64]:
    signals = evidence.plain
    return -metrics.cross_entropy(signals.logits.astype(np.float64), signals.labels)


loss = Attack(
    "loss",
    "is the loss of forget examples lower than that of their unseen twin, on this model?",
    "Yeom et al. 2018",
    _negative_loss,
)
