"""Quantile regression: is the margin higher than held-out images like this one lead to expect? No shadow models.

Bertran et al. 2023 regress the margin's distribution on the image, with examples that were never seen, by a network
that was pretrained elsewhere. Here a ridge regression on principal components of the image and on the label stands in
its place (ours): it needs no download, and with few held-out examples there is little more to learn.
"""

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.attacks import Attack, Evidence, Signals
from unlearn_audit.errors import MeasurementError

Floats = NDArray[np.float64]
FEWEST, COMPONENTS = 50, 20
STRENGTHS = tuple(10.0**power for power in range(-2, 5))


def margins(signals: Signals) -> Floats:
    """Return the label's logit minus the largest other one, [N]."""
    wide = signals.logits.astype(np.float64)
    rows = np.arange(len(signals.labels))
    own = wide[rows, signals.labels]
    wide[rows, signals.labels] = -np.inf
    return np.asarray(own - wide.max(axis=-1))


def _score(evidence: Evidence) -> Floats:
    """Return by how many of its expected deviations each margin is above its expected mean, [N]."""
    held_out = evidence.population
    count = 0 if held_out is None else len(held_out.signals.labels)
    if held_out is None or count < FEWEST:
        raise MeasurementError(f"needs {FEWEST} held-out examples besides the unseen twin; there are {count}")
    from sklearn.decomposition import PCA
    from sklearn.linear_model import RidgeCV

    components = PCA(min(COMPONENTS, count // 5, held_out.inputs.shape[1]), svd_solver="full").fit(held_out.inputs)
    classes = evidence.logits.shape[-1]

    def features(inputs: NDArray[np.float32], labels: NDArray[np.int64]) -> Floats:
        return np.concatenate([components.transform(inputs), np.eye(classes)[labels]], axis=1)

    known = features(held_out.inputs, held_out.signals.labels)
    values = margins(held_out.signals)
    mean = RidgeCV(STRENGTHS).fit(known, values)
    residuals = np.abs(values - mean.predict(known))
    spread = RidgeCV(STRENGTHS).fit(known, np.log(np.maximum(residuals, 1e-6)))
    asked = features(evidence.inputs, evidence.labels)
    return np.asarray((margins(evidence.plain) - mean.predict(asked)) / np.exp(spread.predict(asked)))


quantile = Attack(
    "quantile",
    "is the margin of forget examples higher, for what their images lead to expect, than their unseen twin's?",
    "Bertran et al. 2023, Gaussian form; regressor ours",
    _score,
    ("population",),
)
