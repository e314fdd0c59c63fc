"""Turning arrays from outside into examples: where two readings are plausible, neither is taken in silence."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from unlearn_audit.data.examples import Examples
from unlearn_audit.data.spec import Options
from unlearn_audit.errors import DataError

ARRAY_NAMES = ("x_train", "y_train", "x_test", "y_test")
AS_THEY_STAND = Options()
MOST_CHANNELS = 4  # of what is surely an image
NEARLY_BYTES = 100  # non-negative floats beyond this are bytes that were not scaled, or might be


def first_where(mask: NDArray[np.bool_] | np.bool_) -> int | None:
    """Return the first true position of a 1-D mask, or None."""
    return int(mask.argmax()) if mask.any() else None


def image_tensor(name: str, array: NDArray[np.generic], options: Options = AS_THEY_STAND) -> torch.Tensor:
    """Return images as [N, C, H, W]: uint8 from N H W C or N H W, float32 from N C H W.

    Args:
        name: what the array is called, for messages.
        array: uint8 [N, H, W, C] or [N, H, W], or any float [N, C, H, W].
        options: its `layout` and `scale` settle what the array leaves open.

    Raises:
        DataError: another type or shape, a float that is not finite, or an array with two plausible readings.
    """
    shape = "x".join(map(str, array.shape))
    if array.dtype == np.uint8 and array.ndim in (3, 4):
        whole = array[..., None] if array.ndim == 3 else array
        images = _channels_first(name, whole, options.layout, usual="nhwc" if array.ndim == 4 else None)
    elif array.dtype.kind == "f" and array.ndim == 4:
        with np.errstate(over="ignore"):  # what overflows is refused as infinite
            images = _channels_first(name, array, options.layout, usual="nchw").astype(np.float32)
        bad = first_where(~np.isfinite(images).all(axis=(1, 2, 3)))
        if bad is not None:
            raise DataError(f"{name} has NaN or infinite pixels, first in image {bad}")
    else:
        raise DataError(
            f"{name} is {array.dtype} of shape {shape}; images are uint8 N H W C or N H W (0-255), or float N C H W"
        )
    return torch.from_numpy(_scaled(name, np.array(images, order="C"), options.scale))


def _channels_first(
    name: str, array: NDArray[np.generic], layout: str | None, *, usual: str | None
) -> NDArray[np.generic]:
    """Return [N, C, H, W]; `usual` is the layout of this type of array, None where only N H W C is possible."""
    if layout is None and usual is not None and array.size and _may_lie(array.shape, usual):
        _, one, two, three = array.shape
        last, first = f"{three} channels of {one} x {two}", f"{one} channels of {two} x {three}"
        raise DataError(
            f"{name} is {array.dtype} of shape {'x'.join(map(str, array.shape))}, which may be N H W C ({last} pixels) "
            f"or looks like N C H W ({first} pixels); say which in the data spec: npz:FILE?layout=nhwc, or layout=nchw"
        )
    return array.transpose(0, 3, 1, 2) if (layout or usual or "nhwc") == "nhwc" else array


def _may_lie(shape: tuple[int, ...], usual: str) -> bool:
    """Return whether images of this shape may lie the other way than arrays of their type usually do.

    The channels are few where both other sizes are not, or are the one size that is not of a square image.
    """
    _, one, two, three = shape
    channels, height, width = (three, one, two) if usual == "nchw" else (one, two, three)  # of the other reading
    if min(height, width) > MOST_CHANNELS >= channels or (height == width != channels and height > MOST_CHANNELS):
        return True
    return one != three and max(one, three) <= MOST_CHANNELS < two  # a strip either way


def _scaled(name: str, images: NDArray[np.generic], scale: float | None) -> NDArray[np.generic]:
    """Divide by `scale`; without one, refuse pixels that may be bytes that nobody scaled, or scaled ones made bytes."""
    if scale is not None:
        bytes_as_usual = images.dtype == np.uint8 and scale == 255
        return images if bytes_as_usual else images.astype(np.float32) / np.float32(scale)
    least, most = (float(images.min()), float(images.max())) if images.size else (0.0, 0.0)
    if images.dtype == np.uint8:
        if most == 1:
            raise DataError(
                f"{name} is uint8 with no pixel above 1: images of zeros and ones, or ones scaled to [0, 1] that lost "
                "their fractions; if they are right, say what to divide by: scale=1 keeps 0 and 1, scale=255 is usual"
            )
    elif least >= 0 and most > 1 and (most > NEARLY_BYTES or bool((images == np.floor(images)).all())):
        raise DataError(
            f"{name} is {images.dtype} from {least:g} to {most:g}: float images are taken as they stand, but these may "
            "be bytes that were not scaled; say what to divide them by: scale=255 (or the largest possible value) "
            "scales them to [0, 1], scale=1 takes them as they stand"
        )
    return images


def label_array(name: str, array: NDArray[np.generic]) -> NDArray[np.int64]:
    """Return labels as int64 [N]; N x 1 is taken for N.

    Raises:
        DataError: not integers, not one per example, or one is negative.
    """
    flat = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if flat.ndim != 1 or flat.dtype.kind not in "iu":
        shape = "x".join(map(str, array.shape)) or "a single number"
        raise DataError(f"{name} is {array.dtype} of shape {shape}; labels are integers, one per example{_way(array)}")
    if flat.dtype.kind == "u" and flat.size and int(flat.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{name} has a label beyond 64 bits ({flat.max()}); labels number classes from 0")
    wide = flat.astype(np.int64)
    bad = first_where(wide < 0)
    if bad is not None:
        raise DataError(f"{name} has a negative label ({flat[bad]}) at entry {bad}; labels count from 0")
    return wide


def _way(array: NDArray[np.generic]) -> str:
    """Return what to do with labels of another kind, where that is plain."""
    if array.ndim == 2 and array.dtype.kind in "biuf" and array.size and (array.sum(axis=1) == 1).all():
        return "; these are one-hot or probabilities: save y.argmax(axis=1)"
    if array.ndim == 1 and array.dtype.kind == "f":
        return "; save y.astype('int64') if they are whole numbers"
    if array.ndim == 1 and array.dtype.kind in "US":
        return "; save numpy.unique(y, return_inverse=True)[1] of both splits together, which numbers the sorted names"
    return ""


def examples_from_arrays(
    where: str, arrays: Mapping[str, object], options: Options = AS_THEY_STAND
) -> tuple[Examples, Examples]:
    """Return the training and the test examples of a mapping with x_train, y_train, x_test and y_test.

    Args:
        where: where the arrays come from, for messages.
        arrays: the four arrays, as `image_tensor` and `label_array` describe them.
        options: settles what the arrays leave open: `layout`, `scale`, `first_label`.

    Raises:
        DataError: an array is missing, of the wrong kind, or of another length than its partner.
    """
    missing = [name for name in ARRAY_NAMES if name not in arrays]
    if missing:
        raise DataError(f"{where} lacks {', '.join(missing)}; needed are {', '.join(ARRAY_NAMES)}")
    train, test = (_examples(where, split, arrays, options) for split in ("train", "test"))
    return train, test


def _array(name: str, value: object) -> NDArray[np.generic]:
    """Return an array; NumPy hands out the plain bytes of an archive member that is none."""
    if isinstance(value, bytes):
        raise DataError(f"{name} is no array")
    try:
        return np.asarray(value)
    except Exception as problem:  # rows of different lengths, a tensor of a GPU or with a gradient
        raise DataError(f"{name} is no array: {problem}") from problem


def _examples(where: str, split: str, arrays: Mapping[str, object], options: Options) -> Examples:
    """Return one split of the mapping."""
    names = f"x_{split}", f"y_{split}"
    raw_images, raw_labels = (_array(f"{where}: {name}", arrays[name]) for name in names)
    images = image_tensor(f"{where}: {names[0]}", raw_images, options)
    numbers = label_array(f"{where}: {names[1]}", raw_labels) - (options.first_label or 0)
    bad = first_where(numbers < 0)
    if bad is not None:
        raise DataError(
            f"{where}: {names[1]} has label {raw_labels.reshape(-1)[bad]} at entry {bad}, below first_label="
            f"{options.first_label}"
        )
    labels = torch.from_numpy(numbers)
    if len(images) != len(labels):
        raise DataError(f"{where}: {names[0]} has {len(images)} images, but {names[1]} has {len(labels)} labels")
    return Examples(images, labels, labels)
