"""Membership inference: can forget examples be told from examples that the model never saw?

An attack is a pure function of signals: it gives each example a score, higher for "member".
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Attack", "Signals"]


class Signals(NamedTuple):
    """What a model says about a set: logits [N, C], float32, and the labels it was seen under, [N]."""

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]


class Attack(NamedTuple):
    """An attack: its name, the question it answers in words, its source, and its score [N], higher for "member"."""

    name: str
    hypothesis: str
    source: str
    score: Callable[[Signals], NDArray[np.float64]]
