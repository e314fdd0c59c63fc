"""Turning arrays from outside into examples, and reading errors into one clear line."""

import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from unlearn_audit.data.examples import Examples
from unlearn_audit.errors import DataError

__all__ = ["ARRAY_NAMES", "examples_from_arrays", "first_where", "image_tensor", "label_array", "reading"]

ARRAY_NAMES = ("x_train", "y_train", "x_test", "y_test")
UNREADABLE = (OSError, EOFError, ValueError, KeyError, MemoryError, struct.error, zlib.error, zipfile.BadZipFile)


@contextmanager
def reading(kind: str, path: Path) -> Iterator[None]:
    """Turn what a damaged, truncated or foreign file makes a reader raise into one DataError.

    Raises:
        DataError: the body could not read `path`.
    """
    try:
        yield
    except UNREADABLE as problem:
        detail = str(problem) or type(problem).__name__
        raise DataError(f"cannot read {kind} {path}: {detail}") from problem


def first_where(mask: NDArray[np.bool_] | np.bool_) -> int | None:
    """Return the first true position of a 1-D mask, or None."""
    return int(mask.argmax()) if mask.any() else None


def image_tensor(name: str, array: NDArray[np.generic]) -> torch.Tensor:
    """Return images as [N, C, H, W]: uint8 from N H W C or N H W, float32 from N C H W.

    Args:
        name: what the array is called, for messages.
        array: uint8 [N, H, W, C] or [N, H, W], or any float [N, C, H, W].

    Raises:
        DataError: another type or shape, or a float that is not finite.
    """
    shape = "x".join(map(str, array.shape))
    if array.dtype == np.uint8 and array.ndim in (3, 4):
        if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] > 4:
            raise DataError(f"{name} is uint8 of shape {shape}, which looks like N C H W; uint8 images are N H W C")
        channels_first = array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2)
        return torch.from_numpy(np.array(channels_first, order="C"))
    if np.issubdtype(array.dtype, np.floating) and array.ndim == 4:
        with np.errstate(over="ignore"):  # what overflows is refused as infinite
            single = np.array(array, dtype=np.float32, order="C")
        bad = first_where(~np.isfinite(single).all(axis=(1, 2, 3)))
        if bad is not None:
            raise DataError(f"{name} has NaN or infinite pixels, first in image {bad}")
        return torch.from_numpy(single)
    raise DataError(
        f"{name} is {array.dtype} of shape {shape}; images are uint8 N H W C or N H W (0-255), or float N C H W"
    )


def label_array(name: str, array: NDArray[np.generic]) -> NDArray[np.int64]:
    """Return labels as int64 [N].

    Raises:
        DataError: not integers, not one-dimensional, or one is negative.
    """
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        shape = "x".join(map(str, array.shape)) or "a single number"
        raise DataError(f"{name} is {array.dtype} of shape {shape}; labels are integers, one per example")
    wide = array.astype(np.int64)
    bad = first_where(wide < 0)
    if bad is not None:
        raise DataError(f"{name} has a negative label ({array[bad]}) at entry {bad}; labels count from 0")
    return wide


def examples_from_arrays(where: str, arrays: Mapping[str, object]) -> tuple[Examples, Examples]:
    """Return the training and the test examples of a mapping with x_train, y_train, x_test and y_test.

    Args:
        where: where the arrays come from, for messages.
        arrays: the four arrays, as `image_tensor` and `label_array` describe them.

    Raises:
        DataError: an array is missing, of the wrong kind, or of another length than its partner.
    """
    missing = [name for name in ARRAY_NAMES if name not in arrays]
    if missing:
        raise DataError(f"{where} lacks {', '.join(missing)}; needed are {', '.join(ARRAY_NAMES)}")
    train, test = (_examples(where, split, arrays) for split in ("train", "test"))
    return train, test


def _array(name: str, value: object) -> NDArray[np.generic]:
    """Return an array; NumPy hands out the plain bytes of an archive member that is none."""
    if isinstance(value, bytes):
        raise DataError(f"{name} is no array")
    return np.asarray(value)


def _examples(where: str, split: str, arrays: Mapping[str, object]) -> Examples:
    """Return one split of the mapping."""
    names = f"x_{split}", f"y_{split}"
    raw_images, raw_labels = (_array(f"{where}: {name}", arrays[name]) for name in names)
    images = image_tensor(f"{where}: {names[0]}", raw_images)
    labels = torch.from_numpy(label_array(f"{where}: {names[1]}", raw_labels))
    if len(images) != len(labels):
        raise DataError(f"{where}: {names[0]} has {len(images)} images, but {names[1]} has {len(labels)} labels")
    return Examples(images, labels, labels)
