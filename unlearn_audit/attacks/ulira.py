"""U-LiRA: is an example's log-odds like that of models that unlearned it, or of models that never saw it?

Hayes et al. 2025. Both sides went through the unlearning method, with or without the example in the forget set.
"""

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.attacks import Attack, Evidence
from unlearn_audit.attacks.lira import log_ratio
from unlearn_audit.errors import MeasurementError


def _score(evidence: Evidence) -> NDArray[np.float64]:
    """Return log p(phi | unlearned) - log p(phi | never seen), with the variance as in LiRA."""
    if evidence.unlearned is None:
        raise MeasurementError("U-LiRA needs shadow models that were unlearned")
    return log_ratio(evidence, evidence.unlearned, "auto")


ulira = Attack(
    "ulira",
    "are the log-odds of forget examples likelier under models that unlearned them in the same way than under models "
    "that never saw them, compared with their unseen twin's?",
    "Hayes et al. 2025",
    _score,
    ("unlearned",),
    threshold=0.0,
)
