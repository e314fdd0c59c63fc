"""Shuffled minibatches of several sets under one permutation, each row with the set that it comes from."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from unlearn_audit.data import Examples
from unlearn_audit.engine.batches import Augment
from unlearn_audit.engine.device import Device, packed, upload
from unlearn_audit.engine.passes import Inputs
from unlearn_audit.streams import derive_seed


class MixedSet(NamedTuple):
    """One set of a mixture, and whether its images are augmented where the mixture augments."""

    examples: Examples
    augment: bool = True


class MixedBatch(NamedTuple):
    """A minibatch of a mixture; its rows are sorted by set, within a set in the order of the permutation.

    Attributes:
        images: [B, C, H, W], transformed.
        labels: [B].
        sets: [B] the set of each row, by its place among the sets.
        rows: [B] the place of each row in its set.
    """

    images: Tensor
    labels: Tensor
    sets: Tensor
    rows: Tensor


class Mixture:
    """Shuffled minibatches of the union of resident sets; the batch of a step depends on (seed, name, step) alone.

    An epoch is one pass over all sets together, its last batch may be short, and a batch size beyond the union is the
    union. Each set stays as it is stored, so that uint8 and float images may be mixed. A mixture of one set has the
    same batches as `Batches` of the same name.

    Args:
        sets: what is mixed; empty ones are fine as long as one is not.
        transform: of the images, the same for all sets.
        batch_size: rows of all sets together.
        seed: of the permutations and of the augmentation.
        name: of the stream.
        compute: where the sets live.
        augment: for the sets that say so.
    """

    def __init__(
        self,
        sets: Sequence[MixedSet],
        transform: Inputs,
        batch_size: int,
        seed: int,
        name: str,
        compute: Device,
        augment: Augment | None = None,
    ) -> None:
        self.sets, self.transform, self.batch_size = tuple(sets), transform, batch_size
        self.seed, self.name, self.compute, self.augment = seed, name, compute, augment
        self.sizes = tuple(len(one.examples) for one in self.sets)
        self._images = [one.examples.images.to(compute.device) for one in self.sets]
        self._labels = [one.examples.labels.to(compute.device) for one in self.sets]
        self._ends = torch.tensor(list(accumulate(self.sizes)))
        self._order = (-1, torch.empty(0, dtype=torch.int64))

    def __len__(self) -> int:
        return sum(self.sizes)

    @property
    def per_epoch(self) -> int:
        """How many batches make one epoch."""
        return math.ceil(len(self) / self.batch_size)

    def taken(self, steps: int) -> int:
        """Return how many examples the first `steps` batches hold, repeats counted."""
        epochs, more = divmod(steps, self.per_epoch)
        return epochs * len(self) + more * self.batch_size

    def at(self, step: int) -> MixedBatch:
        """Return the minibatch of a step (counted from 0)."""
        epoch, index = divmod(step, self.per_epoch)
        chosen = self._permutation(epoch)[index * self.batch_size : (index + 1) * self.batch_size]
        owners = torch.bucketize(chosen, self._ends, right=True)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.name, "augment", step))
        images, labels, placed = [], [], []
        for number, one in enumerate(self.sets):
            rows = chosen[owners == number] - (int(self._ends[number]) - self.sizes[number])
            if not len(rows):
                continue
            rows = upload(rows, self.compute.device)
            part = self.transform(self._images[number][rows])
            images.append(self.augment(part, generator) if self.augment and one.augment else part)
            labels.append(self._labels[number][rows])
            placed.append(rows)
        owners = upload(owners.sort().values, self.compute.device)
        return MixedBatch(packed(torch.cat(images)), torch.cat(labels), owners, torch.cat(placed))

    def _permutation(self, epoch: int) -> Tensor:
        """Return the order of the union in an epoch, on the CPU, where it is split into its sets without a wait."""
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.name, epoch))
            self._order = (epoch, torch.randperm(len(self), generator=generator))
        return self._order[1]
