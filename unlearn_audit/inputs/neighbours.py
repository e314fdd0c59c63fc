"""The default adjacent set: those examples to retain that are nearest to the forget set in a model's features.

Each forget example names the twenty examples to retain whose features, at the input of the last layer, have the
largest cosine with its own; the tenth of the retain set that is named most often is adjacent (Cheng et al. 2026,
appendix B.6). Examples that nobody names are left out, even where the tenth is not full then.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from unlearn_audit.config import NEIGHBOURS
from unlearn_audit.data import IndexSet, Splits, Transform, digest_of, with_adjacent
from unlearn_audit.engine import Device, chunks
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.relearning import Run, last_linear
from unlearn_audit.relearning.scope import Features

NAMED = 20  # neighbours of each forget example
SHARE = 0.1  # of the retain set that is adjacent
ROWS = 256  # forget examples whose cosines with all others are there at once


def with_neighbours(splits: Splits, model: nn.Module, transform: Transform, compute: Device) -> Splits:
    """Return the sets with the forget set's neighbours as the adjacent ones.

    Args:
        splits: the sets; the whole forget set counts, whatever is measured of it.
        model: the original, on the device; left in evaluation mode.
        transform: of its inputs.
        compute: where.

    Raises:
        UsageError: the model has no features, or the retain set is too small to have an adjacent part.
    """
    model.eval()
    try:
        classifier = last_linear(model, Run(model, splits.forget_examples, transform), compute)
    except MeasurementError as problem:
        raise UsageError(f"{NEIGHBOURS} are those of a last layer's inputs; name the adjacent set: {problem}") from None
    features = Features(model, classifier, transform, compute)
    of_forget, of_retain = (
        functional.normalize(features(examples.images), dim=1)
        for examples in (splits.forget_examples, splits.retain_examples)
    )
    return _adjacent(splits, most_named(of_forget, of_retain, count=_tenth(splits)).cpu().numpy())


def with_as_many(splits: Splits) -> Splits:
    """Return the sets with as many adjacent examples as neighbours there can be, but any: to tell what a run takes.

    Raises:
        UsageError: the retain set is too small to have an adjacent part.
    """
    return _adjacent(splits, np.arange(min(_tenth(splits), NAMED * len(splits.forget))))


def _tenth(splits: Splits) -> int:
    """Return how many neighbours there are at most."""
    found = int(SHARE * len(splits.retain) + 1e-9)
    if not found:
        raise UsageError(f"a tenth of {len(splits.retain)} retain examples is none; name the adjacent set")
    return found


def _adjacent(splits: Splits, rows: NDArray[np.int64]) -> Splits:
    """Return the sets with some rows of the retain set as the adjacent ones."""
    indices = splits.retain[rows]
    return with_adjacent(splits, IndexSet(NEIGHBOURS, indices, digest_of(indices), splits.dataset))


def most_named(forget: Tensor, retain: Tensor, *, count: int, named: int = NAMED) -> Tensor:
    """Return which retain examples are most often among the nearest of a forget example, sorted.

    >>> most_named(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0]]), count=1, named=2)
    tensor([1])

    Args:
        forget: features [F, D], each of length one.
        retain: features [R, D], likewise.
        count: how many to return at most; of those named equally often the first ones win.
        named: how many each forget example names.

    Returns:
        [at most count] rows of `retain`, each of them named at least once.
    """
    hits = torch.zeros(len(retain), dtype=torch.int64, device=retain.device)
    for part in chunks(len(forget), ROWS):
        nearest = (forget[part] @ retain.T).topk(min(named, len(retain)), dim=1).indices
        hits += torch.bincount(nearest.reshape(-1), minlength=len(retain))
    order = torch.sort(hits, descending=True, stable=True).indices[:count]
    return order[hits[order] > 0].sort().values
