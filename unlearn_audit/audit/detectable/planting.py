"""Planted leaks: a retrained model that answers a part of the forget set as the original does, more and more of it.

What an instrument reads of a model is a number an example, so that a plant is made of two models' readings and nothing
is trained: a share of the forget examples has the original's, or each of them that of outputs a step towards the
original's. The smallest size of which enough plants are seen is what the instrument could have seen.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SIZES = (0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)  # shares and doses that are planted
FINER = 4  # parts in which the step between two sizes is looked at where it matters
POWER = 0.8  # part of the plants of a size that has to be seen
MOST_ALARMS = 1 / 3  # part of the unplanted models that may be called different: one of three, which is chance


class Readings(NamedTuple):
    """What one instrument reads of one model: a number an example of the forget set [m] and of the unseen twin [n]."""

    forget: Floats
    unseen: Floats


class Plant(NamedTuple):
    """A model with a planted leak, and the retrained models that it is compared with."""

    target: Readings
    references: Sequence[Readings]


class Reach(NamedTuple):
    """How much an instrument sees of plants that grow.

    Attributes:
        smallest: size from which on at least `POWER` of the plants are seen, above those called different without
            one; None where none is, or where models without a plant are seen too often.
        seen: size -> part of the plants that is seen, up to the first size that is seen often enough; 0 is no plant.
    """

    smallest: float | None
    seen: dict[float, float]

    @property
    def reason(self) -> str | None:
        """Why there is no smallest size."""
        if self.smallest is not None:
            return None
        alarms = self.seen[0.0]
        if alarms > MOST_ALARMS:
            return f"it calls {alarms:.0%} of the retrained models different from each other as they are"
        return f"not even the original is seen: {self.seen[max(self.seen)]:.0%} of the plants that are all of it"


def between(low: float, high: float) -> tuple[float, ...]:
    """Return the sizes that are looked at between one that is seen too rarely and one that is not."""
    return tuple(low + (high - low) * part / FINER for part in range(1, FINER))


def whole(examples: int, sizes: Sequence[float]) -> tuple[float, ...]:
    """Return sizes as shares of so many examples that exist: growing, each once, and 0 only where it is the only one.

    >>> whole(10, [0.02, 0.04, 0.1, 0.15, 0.2])
    (0.1, 0.2)
    """
    found = dict.fromkeys(round(size * examples) for size in sizes)
    return tuple(count / examples for count in found if count)


def orders(examples: int, draws: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return in which order examples are planted, [draws, examples]: a larger share holds every smaller one."""
    return np.stack([generator.permutation(examples) for _ in range(draws)])


def planted(base: Readings, original: Readings, rows: NDArray[np.int64]) -> Readings:
    """Return a retrained model's readings with the original's on some of the forget examples."""
    forget = base.forget.copy()
    forget[rows] = original.forget[rows]
    return Readings(forget, base.unseen)


def mixed(base: NDArray[np.floating], original: NDArray[np.floating], dose: float) -> Floats:
    """Return logits that are a dose of the way from a retrained model's to the original's: (1 - dose) b + dose o."""
    return np.asarray((1 - dose) * base.astype(np.float64) + dose * original.astype(np.float64))


def reach(
    sizes: Sequence[float], sees: Callable[[float], float], finer: Callable[[float, float], Sequence[float]]
) -> Reach:
    """Return from which size on an instrument sees what is planted.

    The part that is seen never falls with the size (a running maximum), and lies on straight lines between the sizes;
    larger ones than the first that is seen often enough are not looked at, since they can change nothing. A model that
    is called different without a plant shows no power: `POWER` is asked of the others, as if it were seen in any case.

    Args:
        sizes: growing; the largest is the whole of it.
        sees: size -> part of the plants of that size that is seen; that of 0 is of models as they are.
        finer: sizes between two others, growing.
    """
    seen = {0.0: sees(0.0)}
    if seen[0.0] > MOST_ALARMS:  # what alarms by itself would count as power
        return Reach(None, seen)
    enough = seen[0.0] + POWER * (1 - seen[0.0])
    last = 0.0
    for size in sizes:
        seen[size] = sees(size)
        if seen[size] >= enough:
            smallest = _crossing(seen, last, (*finer(last, size), size), sees=sees, enough=enough)
            return Reach(smallest, dict(sorted(seen.items())))
        last = size
    return Reach(None, seen)


def _crossing(
    seen: dict[float, float], last: float, sizes: Sequence[float], *, sees: Callable[[float], float], enough: float
) -> float:
    """Return where the running maximum reaches `enough` on the way from `last` to the last of the sizes."""
    highest = max(part for size, part in seen.items() if size <= last)
    for size in sizes:
        if size not in seen:
            seen[size] = sees(size)
        if seen[size] >= enough:  # of the last one at the latest
            break
        last, highest = size, max(highest, seen[size])
    return last + (size - last) * (enough - highest) / (seen[size] - highest)
