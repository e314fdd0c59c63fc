"""Images that stand in a data set twice, byte for byte: what is forgotten in one place is still there in the other."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.data.examples import Dataset, Examples


class Copies(NamedTuple):
    """Index of an image -> index of its first copy elsewhere; images without one are left out.

    Attributes:
        forget_in_test: training indices of forget images -> test indices.
        forget_in_rest: training indices of forget images -> training indices that are not to be forgotten.
        test_in_rest: test indices -> training indices that are not to be forgotten.
    """

    forget_in_test: Mapping[int, int]
    forget_in_rest: Mapping[int, int]
    test_in_rest: Mapping[int, int]


def find_copies(dataset: Dataset, forget: NDArray[np.int64]) -> Copies:
    """Return which images of forget set, other training images and test set are the same, whatever their labels.

    Args:
        dataset: the data.
        forget: [n] training indices.
    """
    train, test = list(_digests(dataset.train)), list(_digests(dataset.test))
    chosen = forget.tolist()
    forgotten = set(chosen)
    rest = [index for index in range(len(train)) if index not in forgotten]
    in_test, in_rest = _places(test, range(len(test))), _places(train, rest)
    return Copies(
        _found(train, chosen, in_test), _found(train, chosen, in_rest), _found(test, range(len(test)), in_rest)
    )


def _digests(examples: Examples) -> Iterator[bytes]:
    """Yield a 16-byte digest per image."""
    images = np.ascontiguousarray(examples.images.numpy())
    return (hashlib.blake2b(memoryview(image), digest_size=16).digest() for image in images)


def _places(digests: Sequence[bytes], indices: Sequence[int]) -> dict[bytes, int]:
    """Return where each image stands first."""
    return {digests[index]: index for index in reversed(indices)}


def _found(digests: Sequence[bytes], indices: Sequence[int], places: Mapping[bytes, int]) -> dict[int, int]:
    return {index: places[digests[index]] for index in indices if digests[index] in places}
