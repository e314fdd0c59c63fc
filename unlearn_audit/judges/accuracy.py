"""Whether a judge may be believed: what it gets right of real held-out images, before it is asked about samples."""

from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unlearn_audit.data import Examples
from unlearn_audit.judges.images import as_stored

LEAST = 0.9  # on either side, and of each forgotten class; below it nothing that the judge says is a number


class Labelling(Protocol):
    """A judge as far as labels go."""

    def labels(self, images: Tensor) -> NDArray[np.int64] | None:
        """Return the label of each uint8 image, [N]."""


class Share(NamedTuple):
    """How many of n images were given their own label."""

    right: int
    n: int

    @property
    def value(self) -> float | None:
        """The share; None of none."""
        return self.right / self.n if self.n else None


class JudgeAccuracy(NamedTuple):
    """What a judge gets right of real held-out images.

    Attributes:
        forgotten: of the forgotten classes; of 0 images where no whole class is forgotten.
        kept: of the other classes.
        by_class: of each class.
        reason: why nothing that it says is believed; None where it may be believed.
        worst_kept: the kept class of which it gets the least right, and that; None where there is none.
    """

    forgotten: Share
    kept: Share
    by_class: Mapping[int, Share]
    reason: str | None
    worst_kept: tuple[int, Share] | None = None

    @property
    def note(self) -> str | None:
        """What is to be said of a kept class that it knows badly, though it may be believed on the whole."""
        if self.reason is not None or self.worst_kept is None:
            return None
        number, share = self.worst_kept
        if share.right >= LEAST * share.n:
            return None
        return (
            f"the judge is right on {share.right / share.n:.3f} of {share.n} real held-out images of kept class "
            f"{number}, the worst: what it says of samples of that class is little worth"
        )


def judge_accuracy(judge: Labelling, held_out: Examples, forgotten: Collection[int]) -> JudgeAccuracy:
    """Ask a judge about real images whose label is known.

    Args:
        judge: labels are the classes of the data, in their order.
        held_out: real images that neither the generators nor, best, the judge were trained on.
        forgotten: classes that were forgotten as a whole; none where other examples were.
    """
    labels = held_out.labels.numpy()
    given = judge.labels(as_stored(held_out.images))
    if given is None:
        return JudgeAccuracy(Share(0, 0), Share(0, 0), {}, "this judge gives no labels")
    right = given == labels
    by_class = {int(c): Share(int(right[labels == c].sum()), int((labels == c).sum())) for c in np.unique(labels)}
    sides = []
    for wanted in (True, False):
        chosen = [share for c, share in by_class.items() if (c in forgotten) is wanted]
        sides.append(Share(sum(share.right for share in chosen), sum(share.n for share in chosen)))
    on_forgotten, on_kept = sides
    reasons = [
        _why(on_forgotten, "the forgotten classes") if forgotten else None,
        *(_why(by_class.get(c, Share(0, 0)), f"forgotten class {c}") for c in sorted(forgotten)),
        _why(on_kept, "the kept classes"),
    ]
    kept = [(c, share) for c, share in by_class.items() if c not in forgotten]
    worst = min(kept, key=lambda each: each[1].right / each[1].n, default=None)
    return JudgeAccuracy(on_forgotten, on_kept, by_class, next((each for each in reasons if each), None), worst)


def _why(share: Share, of: str) -> str | None:
    """Return why a judge is not believed on one side, or on one forgotten class, whose rate is told by itself."""
    if share.value is None:
        return f"there are no real held-out images of {of} to try the judge on"
    if share.value >= LEAST:
        return None
    return (
        f"the judge is right on {share.value:.3f} of {share.n} real held-out images of {of}; below {LEAST:g} nothing "
        "it says is believed"
    )
