"""U-LiRA: is an example's log-odds like that of models that unlearned it, or of models that never saw it?

Hayes et al. 2025. Both sides went through the unlearning method, with or without the example in the forget set. What a
model keeps can give an AUC on either side of one half: where the method makes shadow models less sure of what they
forgot than of what they never saw, whoever is surer lies below. So both ends count, and the difference to retrained
models under the same shadow models, who were never treated and need not lie at one half.
"""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.attacks import Attack, Evidence, Shadows
from unlearn_audit.attacks.lira import DEFAULT, LiraSettings, Variance, explanation, log_ratio
from unlearn_audit.errors import MeasurementError


def _score(evidence: Evidence, variance: Variance) -> NDArray[np.float64]:
    """Return log p(phi | unlearned) - log p(phi | never seen), with the variance as in LiRA."""
    return log_ratio(evidence, _unlearned(evidence), variance)


def _explained(evidence: Evidence, variance: Variance) -> dict[str, Any]:
    return explanation(evidence, _unlearned(evidence), variance)


def _unlearned(evidence: Evidence) -> Shadows:
    if evidence.unlearned is None:
        raise MeasurementError("U-LiRA needs shadow models that were unlearned")
    return evidence.unlearned


def with_settings(settings: LiraSettings = DEFAULT) -> Attack:
    """Return U-LiRA with these settings."""
    return Attack(
        "ulira",
        "are the log-odds of forget examples likelier under models that unlearned them in the same way than under "
        "models that never saw them, compared with their unseen twin's?",
        "Hayes et al. 2025",
        partial(_score, variance=settings.variance),
        ("unlearned",),
        threshold=0.0,
        settings=settings,
        make=with_settings,
        explain=partial(_explained, variance=settings.variance),
    )


ulira = with_settings()
