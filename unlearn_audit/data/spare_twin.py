"""A second matched hold-out set beside the unseen twin: what may be looked at while a model is made."""

from dataclasses import replace

import numpy as np

from unlearn_audit.data.splits import Splits
from unlearn_audit.data.twin import Twin, make_twin
from unlearn_audit.errors import DataError
from unlearn_audit.streams import generator


def make_spare_twin(splits: Splits, *, at_most: int, seed: int = 0) -> Twin | None:
    """Return held-out partners of forget examples of which the unseen twin has none; None where there are none left.

    Whoever decides by the unseen twin how a model is made has none left to audit it with; these may be looked at.

    Args:
        splits: of an audit with this seed; its twin stays untouched.
        at_most: pairs; of more a random choice is taken.
        seed: decides the pairing and the choice.
    """
    draws = generator("spare twin", seed)
    left = np.setdiff1d(splits.pool, splits.unseen.unseen)
    try:
        twin = make_twin(splits.dataset, np.sort(splits.forget.indices), left, draws)
    except DataError:
        return None
    if len(twin) <= at_most:
        return twin
    chosen = np.sort(draws.choice(len(twin), at_most, replace=False))
    return replace(
        twin,
        forget=twin.forget[chosen],
        unseen=twin.unseen[chosen],
        examples=twin.examples.subset(chosen),
        complete=False,
    )
