"""A fleet's own models as targets whose truth is known: what an attack finds of the very kind of unlearning it is for.

Models come in pairs, one trained on a half of the pool and the other on the rest. A target's whole pair is left out of
the models that it is compared with. Leaving out the target alone would leave its examples with one model less on their
true side than on the other one, so that the spread of the sides gave the truth away: without any leak U-LiRA then has
an AUC of about .46 with six models.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.attacks import Evidence, Shadows
from unlearn_audit.errors import MeasurementError

Floats = NDArray[np.float64]
MOST_PAIRS = 16  # as targets: the mean of 32 areas is known to about a hundredth


class OwnTarget(NamedTuple):
    """Scores of one model of a fleet: on what it unlearned (or was trained on), and on what it never saw."""

    model: int
    members: Floats
    non_members: Floats


def pairs_of(shadows: Shadows) -> list[tuple[int, int]]:
    """Return the complementary pairs among M models, by their numbers; a model whose partner is missing has none."""
    found, number = [], 0
    while number + 1 < len(shadows.inside):
        whole = (shadows.inside[number] ^ shadows.inside[number + 1]).all()
        if whole and (shadows.rest_inside[number] ^ shadows.rest_inside[number + 1]).all():
            found.append((number, number + 1))
        number += 2 if whole else 1
    return found


def only(shadows: Shadows, models: Sequence[int]) -> Shadows:
    """Return what some of the models say.

    Args:
        shadows: M models.
        models: their numbers.
    """
    rows = np.asarray(models, dtype=np.int64)
    per_model = ("logits", "inside", "outside", "rest", "rest_inside", "population")
    return replace(shadows, **{name: getattr(shadows, name)[rows] for name in per_model})


def without(shadows: Shadows, left_out: Sequence[int]) -> Shadows:
    """Return the fleet without some of its models, whole pairs of them.

    Raises:
        MeasurementError: of a pair only one model is to be left out.
    """
    for pair in pairs_of(shadows):
        if len(set(pair) & set(left_out)) == 1:
            raise MeasurementError(
                f"shadow models {pair[0]} and {pair[1]} are a pair: with one of them left out alone, the number of "
                "models on each side would tell what the other one has seen; leave out both"
            )
    return only(shadows, [number for number in range(len(shadows.inside)) if number not in set(left_out)])


def own_targets(
    score: Callable[[Evidence], Floats], shadows: Shadows, labels: NDArray[np.int64], *, most: int = MOST_PAIRS
) -> Iterator[OwnTarget]:
    """Yield an attack's scores on the fleet's own models, each compared with the fleet without its pair.

    Args:
        score: of an attack that reads `unlearned` and the target's answers, and nothing else.
        shadows: six models or more, since four have to be left.
        labels: [N] of the attacked examples.
        most: so many pairs, the first ones.

    Raises:
        MeasurementError: there are too few models, or the attack cannot score.
    """
    pairs = pairs_of(shadows)
    if len(pairs) < 3:
        raise MeasurementError("the fleet's own models are targets from three whole pairs on")
    nothing = np.zeros((len(labels), 0), np.float32)
    for pair in pairs[:most]:
        others = without(shadows, pair)
        for model in pair:
            found = score(Evidence(shadows.logits[model], labels, nothing, unlearned=others))
            yield OwnTarget(model, found[shadows.inside[model]], found[shadows.outside[model]])
