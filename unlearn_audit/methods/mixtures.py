"""Objectives over several sets that are shuffled together, each row knowing its set."""

import math
from collections.abc import Callable, Sequence

from unlearn_audit.engine import MixedSet, Mixture, Terms
from unlearn_audit.errors import UsageError
from unlearn_audit.methods import UnlearningContext
from unlearn_audit.methods.loop import LoopSettings, Objective, augmentation


def mixture_of(context: UnlearningContext, sets: Sequence[MixedSet], settings: LoopSettings) -> Mixture:
    """Return the minibatches of several sets under one permutation, augmented as the settings say where a set is.

    Args:
        context: transform, seed and device.
        sets: what is mixed.
        settings: their batch size counts rows of all sets together.

    Raises:
        UsageError: all sets are empty.
    """
    size = sum(len(one.examples) for one in sets)
    if not size:
        raise UsageError("the sets that this method mixes are all empty; there is nothing to learn from")
    return Mixture(
        sets,
        context.transform,
        size if settings.batch_size == "full" else settings.batch_size,
        context.seed,
        "mixture",
        context.compute,
        augmentation(context, settings),
    )


def mixed(mixture: Mixture, terms: Callable[[int], Terms]) -> Objective:
    """Return the objective of a step that takes one batch of a mixture; an epoch is a pass over all its sets.

    It has no term "retain" or "forget", so that stops at a loss are refused.
    """
    return Objective(
        terms,
        length=lambda epochs: math.ceil(epochs * mixture.per_epoch - 1e-9),
        epoch_of=lambda step: step // mixture.per_epoch,
        gradients=mixture.taken,
        losses=(),
    )
