"""The unseen twin: held-out examples that went through the same process as the forget set."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from unlearn_audit.data.examples import Dataset, Examples
from unlearn_audit.errors import DataError


@dataclass(frozen=True, eq=False)
class Twin:
    """Forget examples and held-out examples in pairs: entry i of one belongs to entry i of the other.

    Both sides have the same size, the same true classes and the same observed labels, pair by pair.

    Attributes:
        forget: [n] training indices, sorted: the measured forget examples that have a partner.
        unseen: [n] test indices, unique: their partners.
        examples: [n] the partners, with their own images and true labels, and the observed labels of `forget`.
        complete: whether every measured forget example has a partner.
        dataset: the data that both sides are of.
    """

    forget: NDArray[np.int64]
    unseen: NDArray[np.int64]
    examples: Examples
    complete: bool
    dataset: Dataset

    def __len__(self) -> int:
        return len(self.forget)


def make_twin(dataset: Dataset, measured: NDArray[np.int64], pool: NDArray[np.int64], rng: np.random.Generator) -> Twin:
    """Return a random twin.

    An example with true class t and observed label y is paired with a distinct held-out example of true class t, which
    is then labelled y. A class with fewer held-out than forget examples is subsampled on the forget side, at random.

    Args:
        dataset: the data.
        measured: [m] training indices of the forget examples to be measured, sorted.
        pool: [p] test indices that partners may be drawn from.
        rng: decides the pairing.

    Raises:
        DataError: no example has a partner.
    """
    classes = dataset.train.true_labels.numpy()[measured]
    pool_classes = dataset.test.true_labels.numpy()[pool]
    members, partners = [], []
    for number in np.unique(classes):
        mine, theirs = rng.permutation(measured[classes == number]), rng.permutation(pool[pool_classes == number])
        count = min(len(mine), len(theirs))
        members.append(mine[:count])
        partners.append(theirs[:count])
    forget, unseen = np.concatenate(members), np.concatenate(partners)
    if len(forget) == 0:
        raise DataError(
            f"no unseen twin: none of the {len(pool)} held-out examples is of a class of the forget set; "
            "name others with --unseen"
        )
    order = np.argsort(forget)
    return _paired(dataset, forget[order], unseen[order], complete=len(forget) == len(measured))


def _paired(dataset: Dataset, forget: NDArray[np.int64], unseen: NDArray[np.int64], *, complete: bool) -> Twin:
    """Give the held-out examples the observed labels of their partners, and their numbers: pairs share noise."""
    rows = torch.from_numpy(forget)
    examples = replace(dataset.test.subset(unseen), labels=dataset.train.labels[rows], numbers=rows)
    return Twin(forget, unseen, examples, complete, dataset)
