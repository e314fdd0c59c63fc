"""Shokri's attack: do the target's outputs look like a shadow model's on examples that it was trained on?

Shokri et al. 2017: for each class a small network learns, from all shadow models' outputs, to tell inside from outside.
"""

import warnings
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.attacks import Attack, Evidence, Shadows
from unlearn_audit.attacks.threshold import probabilities
from unlearn_audit.errors import MeasurementError
from unlearn_audit.streams import derive_seed, generator

HIDDEN, ROWS = 64, 5_000  # units of the network (section VI-D); examples of either side a class, at random


_trained: WeakKeyDictionary[Shadows, dict[tuple[int, int], Any]] = WeakKeyDictionary()  # once for all targets


def _score(evidence: Evidence) -> NDArray[np.float64]:
    """Return the probability of "inside" that the network of the example's class gives, [N]."""
    if evidence.shadows is None:
        raise MeasurementError("Shokri's attack needs shadow models")
    networks = _networks(evidence.shadows, evidence.labels, evidence.seed)
    asked = _features(evidence.plain.logits)
    found = np.full(len(evidence.labels), np.nan)
    for number in np.unique(evidence.labels):
        mine = evidence.labels == number
        found[mine] = networks[int(number)].predict_proba(asked[mine])[:, 1]
    return found


def _networks(shadows: Shadows, labels: NDArray[np.int64], seed: int) -> Mapping[int, Any]:
    """Return the network of each class among the labels of the attacked examples, which go with the shadow models."""
    known = _trained.setdefault(shadows, {})
    wanted = [int(number) for number in np.unique(labels)]
    if any((seed, number) not in known for number in wanted):
        features, seen_as, inside = _training_set(shadows, labels)
        for number in wanted:
            rows = _drawn(seen_as == number, inside, generator("shokri", seed, number))
            network_seed = derive_seed(seed, "shokri network", number)
            known[seed, number] = _fitted(features[rows], inside[rows], network_seed)
    return {number: known[seed, number] for number in wanted}


def _features(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return what the network sees: the probability vector, and its logarithm, in which sure outputs differ, too."""
    shares = probabilities(logits)
    return np.concatenate([shares, np.log10(np.maximum(shares, 1e-10)) / 10], axis=-1)


def _training_set(
    shadows: Shadows, labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return features, labels and membership of everything that shadow models were asked about."""
    models = len(shadows.logits)
    known = shadows.inside | shadows.outside
    outputs = np.concatenate([shadows.logits[:, :, 0], shadows.rest], axis=1)
    inside = np.concatenate([shadows.inside, shadows.rest_inside], axis=1)
    seen_as = np.broadcast_to(np.concatenate([labels, shadows.rest_labels]), (models, outputs.shape[1]))
    usable = np.concatenate([known, np.ones_like(shadows.rest_inside)], axis=1)
    return _features(outputs[usable]), seen_as[usable], inside[usable]


def _drawn(of_class: NDArray[np.bool_], inside: NDArray[np.bool_], stream: np.random.Generator) -> NDArray[np.int64]:
    """Return rows of a class, as many inside as outside, at most `ROWS` of each."""
    sides = [np.flatnonzero(of_class & side) for side in (inside, ~inside)]
    size = min(ROWS, *(len(side) for side in sides))
    if size == 0:
        raise MeasurementError("a class has no shadow outputs on one side; more shadow models are needed")
    return np.sort(np.concatenate([stream.choice(side, size, replace=False) for side in sides]))


def _fitted(features: NDArray[np.float64], inside: NDArray[np.bool_], seed: int) -> Any:
    """Train one class's network."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    network = MLPClassifier((HIDDEN,), random_state=seed % 2**32, max_iter=100, batch_size=min(200, len(features)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 100 passes are what is asked for, whether or not enough
        return network.fit(features, inside)


shokri = Attack(
    "shokri",
    "do the outputs on forget examples look more like those on training examples than the outputs on their unseen twin "
    "do?",
    "Shokri et al. 2017",
    _score,
    ("shadows",),
    threshold=0.5,
)
