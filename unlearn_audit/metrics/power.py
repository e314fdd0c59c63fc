"""How large a difference a comparison could have seen, and from which size on it is called blind."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from unlearn_audit.metrics.values import Bounds

# The sizes, in one place: a comparison whose interval reaches further than this to either side is called blind, since
# a difference that matters could hide in it.
# - Accuracies, rates of attacks: a tenth of the examples. Published methods are told apart by gaps of .01 to .05, and a
#   model that has lost a tenth of its accuracy is no candidate for anything.
# - AUC: a tenth. The shipped policies let .35 to .65 pass; half of that way to the limit must not be chance.
# - Ratios: a factor of 1.5. An original model whose whole class is to be forgotten has an RCD of .53 to .59 of its
#   unseen twin's (a factor of 1.7 to 1.9 below a retrained one's): the mildest memory that the instrument knows, which
#   it has to see with something to spare.
# - Losses: log 1.5 nats, which is the same factor in the (geometric mean) probability of the label.
# - MMD² of standardised features: .05. Retrained generators lie within .01 of each other, unlearning that ruins what
#   was to be kept at .3 and beyond.
# - Shares of what the retrained models relearn above the original: .5 of the way from it to them.
BLIND_ABOVE: Mapping[str, float] = {
    "fraction": 0.1,
    "AUC": 0.1,
    "log ratio": math.log(1.5),
    "nats": math.log(1.5),
    "MMD²": 0.05,
    "share": 0.5,
}


class ScaledDifference(NamedTuple):
    """A difference with its interval, on its scale, one of `BLIND_ABOVE`."""

    scale: str
    value: float
    low: float
    high: float

    @property
    def seen(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0

    @property
    def half_width(self) -> float:
        """How large a difference has to be to be seen about half of the time: half of the interval's width."""
        return (self.high - self.low) / 2

    @property
    def weakness(self) -> float:
        """The half width in units of the size from which on a comparison is called blind."""
        return self.half_width / BLIND_ABOVE.get(self.scale, math.inf)

    @property
    def blind(self) -> bool:
        """Whether a difference that matters would not have been seen."""
        return self.half_width > BLIND_ABOVE.get(self.scale, math.inf)

    @property
    def plain(self) -> bool:
        """Whether the difference is larger than what a comparison may be blind to, all of its interval."""
        size = BLIND_ABOVE.get(self.scale, math.inf)
        return self.low > size or self.high < -size


def difference_of_values(ours: float, around: Bounds, theirs: float, around_theirs: Bounds) -> Bounds:
    """Return the interval of `ours - theirs` from the intervals of both (Newcombe 1998, method 10; Zou & Donner 2008).

    Each end adds the squares of the distances to the two ends that matter to it. The two are taken as independent; of
    values on the same examples, which mostly move together, the interval is too wide rather than too narrow.

    Args:
        ours: a value.
        around: its interval.
        theirs: the value that is taken off.
        around_theirs: the interval of that.

    >>> ends = difference_of_values(0.994, Bounds(0.987, 0.997), 0.0, Bounds(0.0, 0.004))
    >>> round(ends.low, 3), round(ends.high, 3)
    (0.986, 0.997)
    """
    difference = ours - theirs
    below = math.hypot(ours - around.low, around_theirs.high - theirs)
    above = math.hypot(around.high - ours, theirs - around_theirs.low)
    return Bounds(difference - below, difference + above)
