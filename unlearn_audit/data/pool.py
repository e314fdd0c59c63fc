"""The pool that shadow models are trained on: the training set and the unseen twin, as if both were one set."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from unlearn_audit.data.examples import Dataset, Examples
from unlearn_audit.data.splits import Splits
from unlearn_audit.streams import generator


@dataclass(frozen=True, eq=False)
class Pool:
    """Examples that a shadow model may have seen, each under the label that it was or would have been seen under.

    Attributes:
        examples: [P] the training set in its order, then the twin in its order.
        forget: [n] positions in `examples` of the forget examples that have a partner.
        unseen: [n] positions of their partners, pair by pair.
        population: [Z] held-out examples in neither, labelled by the forget set's process: of the same true class as a
            forget example, its observed label; of a class that the forget set lacks, their own.
        sha256: of the images and labels of both, in order.
    """

    examples: Examples
    forget: NDArray[np.int64]
    unseen: NDArray[np.int64]
    population: Examples
    sha256: str

    @property
    def targets(self) -> NDArray[np.int64]:
        """[2 n] positions of the attacked examples: the forget side, then the twin."""
        return np.concatenate([self.forget, self.unseen])

    @property
    def rest(self) -> NDArray[np.int64]:
        """[P - 2 n] positions of the others, sorted."""
        return np.setdiff1d(np.arange(len(self.examples)), self.targets)


def make_pool(splits: Splits, *, seed: int = 0) -> Pool:
    """Return the pool and the population of an audit.

    Args:
        splits: the audit's sets.
        seed: decides the labels of the population; the audit's own.
    """
    dataset, twin = splits.dataset, splits.unseen
    examples = _joined(dataset.train, twin.examples)
    first = len(dataset.train)
    left = np.setdiff1d(splits.pool, twin.unseen)
    population = _labelled(dataset, splits.forget.indices, left, generator("population", seed))
    return Pool(
        examples,
        twin.forget,
        np.arange(first, first + len(twin)),
        population,
        _digest(examples, population, twin.forget),
    )


def _joined(first: Examples, second: Examples) -> Examples:
    return Examples(
        torch.cat([first.images, second.images]),
        torch.cat([first.labels, second.labels]),
        torch.cat([first.true_labels, second.true_labels]),
    )


def _labelled(
    dataset: Dataset, forget: NDArray[np.int64], rows: NDArray[np.int64], rng: np.random.Generator
) -> Examples:
    """Give held-out examples the labels that the forget set's process would have given them."""
    held_out = dataset.test.subset(rows)
    true = held_out.true_labels.numpy()
    observed = true.copy()
    of_forget = dataset.train.subset(forget)
    for number in np.unique(true):
        seen_as = of_forget.labels.numpy()[of_forget.true_labels.numpy() == number]
        if len(seen_as):
            observed[true == number] = rng.choice(seen_as, size=int((true == number).sum()))
    return replace(held_out, labels=torch.from_numpy(observed))


def _digest(examples: Examples, population: Examples, forget: NDArray[np.int64]) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(forget, dtype="<i8").tobytes())
    for part in (examples, population):
        digest.update(f"{part.images.dtype}{tuple(part.images.shape)}".encode())
        digest.update(np.ascontiguousarray(part.images.numpy()).data)
        digest.update(np.ascontiguousarray(part.labels.numpy(), dtype="<i8").data)
    return digest.hexdigest()
