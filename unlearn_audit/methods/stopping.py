"""When a run ends before its budget: at a loss, or where the forget set looks like examples that were never seen.

"Like never seen" is asked of held-out examples of the same classes with the same observed labels, none of which is in
the unseen twin, so that the twin is still fresh when the model is audited. At every look of the loop, the model's
losses on forget examples are compared with its losses on their partners: the stop is reached as soon as the distance of
Kolmogorov and Smirnov is no larger than it would be in half of all cases if neither side had ever been seen (p >= .5).
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from unlearn_audit.data import Examples, make_spare_twin
from unlearn_audit.engine import Hooks, Stop, modes_kept, predict
from unlearn_audit.errors import UsageError
from unlearn_audit.methods import UnlearningContext
from unlearn_audit.metrics import Distance, cross_entropy, kolmogorov_smirnov

StopAt = Literal["unseen"]
LIKE_UNSEEN = 0.5  # p of the distance from which on two sets are taken for alike
PAIRS = 500  # of which more would make a look dearer than the steps between two of them
LEAST = 20  # pairs, below which a distance says nothing
DISTANCE, CHANCE = "distance from unseen", "chance of it"


def stop_at_losses(limits: Mapping[str, float | None], losses: Sequence[str]) -> Stop | None:
    """Return what to ask at every look; None where nothing was asked for.

    Args:
        limits: the mean loss at which to stop, by set.
        losses: the sets whose losses the method takes.

    Raises:
        UsageError: a limit on a loss that the method never takes.
    """
    wanted = {name: limit for name, limit in limits.items() if limit is not None}
    for name in wanted:
        if name not in losses:
            raise UsageError(f"stop_{name}_loss: no step of this method takes the {name} set's loss; leave it out")

    def stop(found: Mapping[str, float]) -> str | None:
        reached = [name for name, limit in wanted.items() if name in found and found[name] >= limit]
        return f"{reached[0]} loss {found[reached[0]]:.3f} reached {wanted[reached[0]]:g}" if reached else None

    return stop if wanted else None


def first_of(*stops: Stop | None) -> Stop | None:
    """Return the stop that ends a run as soon as one of them does; None where there is none."""
    there = [stop for stop in stops if stop is not None]

    def stop(found: Mapping[str, float]) -> str | None:
        return next((why for each in there if (why := each(found))), None)

    return stop if there else None


class Unseen:
    """Compares the forget set with held-out examples that the audit's twin has none of; see the head of this module.

    Args:
        context: the model and the sets; the nearest look is kept in its memory, so that a killed run knows it still.

    Raises:
        UsageError: fewer than 20 pairs are left beside the twin.
    """

    def __init__(self, context: UnlearningContext) -> None:
        twin = make_spare_twin(context.splits, at_most=PAIRS, seed=context.seed)
        if twin is None or len(twin) < LEAST:
            raise UsageError(
                f"stop_at unseen: beside the unseen twin the held-out data has {len(twin) if twin else 0} partners for "
                f"the forget set, and {LEAST} are needed; stop at a loss instead, with stop_forget_loss"
            )
        self.context, self.twin = context, twin
        self.forget = twin.dataset.train.subset(twin.forget)

    @property
    def looked_at(self) -> tuple[int, ...]:
        """The held-out examples that decide, as test indices: no longer fresh for an audit of this model."""
        return tuple(int(row) for row in self.twin.unseen)

    def hooks(self) -> Hooks:
        """Return what measures the distance at every look."""
        return Hooks(look=self.look)

    def look(self, step: int) -> dict[str, float]:
        """Return the distance and its p after a step, and keep the least distance so far."""
        found = self._distance()
        if found is None:
            return {}
        memory = self.context.memory
        if "unseen/least" not in memory or found.value < float(memory["unseen/least"]):
            memory["unseen/least"] = torch.tensor(found.value, dtype=torch.float64)
            memory["unseen/step"] = torch.tensor(step + 1)
        return {DISTANCE: found.value, CHANCE: found.p}

    def stop(self, found: Mapping[str, float]) -> str | None:
        """Return why to stop, once the two sets are alike."""
        if found.get(CHANCE, 0.0) < LIKE_UNSEEN:
            return None
        return (
            f"losses on forget examples are distributed as on {len(self.twin)} held-out ones "
            f"(distance {found[DISTANCE]:.3f}, p {found[CHANCE]:.2f})"
        )

    def notes(self, stopped: str | None) -> tuple[str, ...]:
        """Return what the reader should know: which examples decided, and that the stop was never reached."""
        told = (
            f"stop_at unseen looked at {len(self.twin)} held-out examples outside the unseen twin of seed "
            f"{self.context.seed}: an audit is fair with that seed and without another choice of the twin",
        )
        memory = self.context.memory
        if stopped or "unseen/least" not in memory:
            return told
        nearest = f"{float(memory['unseen/least']):.3f} after {int(memory['unseen/step'])} steps"
        return (
            *told,
            f"stop_at unseen was not reached, so that the whole budget was spent: the least distance was {nearest}",
        )

    def _distance(self) -> Distance | None:
        with modes_kept(self.context.model):
            ours, theirs = (self._losses(examples) for examples in (self.forget, self.twin.examples))
        return kolmogorov_smirnov(ours, theirs)

    def _losses(self, examples: Examples) -> NDArray[np.float64]:
        logits = predict(self.context.model, examples.images, self.context.transform, compute=self.context.compute)
        return cross_entropy(logits.astype(np.float64), examples.labels.numpy())
