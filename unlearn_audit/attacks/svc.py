"""The field's MIA-efficacy: a support vector classifier of retain against test outputs, asked about the forget set.

Fan et al. 2024 (SalUn), after Jia et al. 2023. Legacy: it sees average confidence only, and its non-members are clean
test examples, so that on changed labels a model that never saw the forget set scores like one that forgot it. The
published code takes log p where log(1 - p) is meant in the modified entropy; here it is as defined.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.attacks import Attack, Evidence, Signals
from unlearn_audit.attacks.threshold import entropies, modified_entropies, probabilities
from unlearn_audit.errors import MeasurementError

Floats = NDArray[np.float64]
MOST = 10_000  # examples of either side: the fit is quadratic in them


def _confidences(signals: Signals) -> Floats:
    found: Floats = probabilities(signals.logits)[np.arange(len(signals.labels)), signals.labels]
    return found


def _correctness(signals: Signals) -> Floats:
    return np.asarray(signals.logits.argmax(axis=-1) == signals.labels, dtype=np.float64)


FEATURES: Mapping[str, Callable[[Signals], Floats]] = {
    "confidence": _confidences,
    "correctness": _correctness,
    "entropy": lambda signals: entropies(signals.logits),
    "modified entropy": modified_entropies,
    "probabilities": lambda signals: probabilities(signals.logits),
}


def _rows(signals: Signals, feature: str) -> Floats:
    found = FEATURES[feature](signals)
    return found if found.ndim == 2 else found[:, None]


def _fitted(retain: Signals, test: Signals, feature: str) -> Any:
    """Fit the classifier: the first examples of the retain set, as many as of the test set, are the members."""
    from sklearn.svm import SVC

    size = min(len(retain.labels), len(test.labels), MOST)
    sides = [_rows(Signals(side.logits[:size], side.labels[:size]), feature) for side in (retain, test)]
    return SVC(C=3, gamma="auto", kernel="rbf").fit(np.concatenate(sides), np.repeat([1, 0], size))


def efficacy(retain: Signals, test: Signals, forget: Signals, feature: str = "confidence") -> float | None:
    """Return the share of the forget set that the classifier takes for non-members; None where a set is empty.

    Higher is not better: the target is the retrained models' value.

    Args:
        retain: signals of one model on its retain set; the first min(retain, test, 10,000) are used.
        test: on the test set.
        forget: on the forget set.
        feature: one of `FEATURES`.
    """
    if not min(len(retain.labels), len(test.labels), len(forget.labels)):
        return None
    return float(1 - _fitted(retain, test, feature).predict(_rows(forget, feature)).mean())


def _score(evidence: Evidence) -> Floats:
    """Return the classifier's decision function on confidences, [N]."""
    if evidence.retain is None or evidence.test is None:
        raise MeasurementError("MIA-efficacy needs a retain and a test set")
    if not len(evidence.retain.labels) or not len(evidence.test.labels):
        raise MeasurementError("MIA-efficacy needs retain and test examples; one of the two sets is empty")
    model = _fitted(evidence.retain, evidence.test, "confidence")
    return np.asarray(model.decision_function(_rows(evidence.plain, "confidence")))


LEGACY = "an average attack of the field's tables, kept for comparison with them; never a verdict"
svc = Attack(
    "svc",
    "does a classifier of retain against test confidences take forget examples for members more than their twin?",
    "Fan et al. 2024, MIA-efficacy",
    _score,
    ("splits",),
    threshold=0.0,
    legacy=LEGACY,
)
