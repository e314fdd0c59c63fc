"""What a loaded data set is: images, observed and true labels, and the transform that a model sees them through."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from unlearn_audit.errors import DataError

MEASURED = "measured on the whole training split"
CHUNK = 2**23  # values per step of a running sum: bounds the wide copies


@dataclass(frozen=True, eq=False)
class Examples:
    """Images with the labels a model was shown and the labels they really have.

    Attributes:
        images: [N, C, H, W], uint8 in 0-255, or float32 as it stands.
        labels: [N] int64, the observed labels.
        true_labels: [N] int64, before any label change.
        numbers: [N] int64, which example of its split each one is, whatever subset it stands in, for noise that belongs
            to an example; None where its place says it.

    Raises:
        DataError: a tensor has another shape, another type or another length.
    """

    images: Tensor
    labels: Tensor
    true_labels: Tensor
    numbers: Tensor | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype not in (torch.uint8, torch.float32):
            shape = "x".join(map(str, self.images.shape))
            raise DataError(f"images are {self.images.dtype} of shape {shape}; uint8 or float32 [N, C, H, W] is needed")
        for name, labels in (("labels", self.labels), ("true_labels", self.true_labels)):
            if labels.ndim != 1 or labels.dtype != torch.int64:
                raise DataError(f"{name} are {labels.dtype} with {labels.ndim} dimensions; int64 [N] is needed")
            if len(labels) != len(self.images):
                raise DataError(f"{len(self.images)} images, but {len(labels)} {name}")

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: NDArray[np.int64]) -> "Examples":
        """Return the examples at `indices` ([n], any order), as a copy."""
        rows = torch.from_numpy(np.asarray(indices, dtype=np.int64))
        numbers = rows if self.numbers is None else self.numbers[rows]
        return Examples(self.images[rows], self.labels[rows], self.true_labels[rows], numbers)

    @property
    def numbered(self) -> Tensor:
        """Which example of its split each one is, [N] int64."""
        return torch.arange(len(self)) if self.numbers is None else self.numbers


@dataclass(frozen=True)
class Transform:
    """Scale to [0, 1], then `(x - mean) / std` per channel; the same for every split.

    Attributes:
        mean: one number, or one per channel, of inputs scaled to [0, 1].
        std: likewise; positive.

    Raises:
        DataError: a number is not finite, or a standard deviation is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.mean or not self.std or not all(math.isfinite(value) for value in (*self.mean, *self.std)):
            raise DataError(f"mean {self.mean} and std {self.std} must be finite numbers")
        if min(self.std) <= 0:
            raise DataError(f"std {self.std} must be positive")

    def __call__(self, images: Tensor) -> Tensor:
        """Return float32 [N, C, H, W] on the device of `images`; uint8 is divided by 255, float taken as it stands.

        Raises:
            DataError: mean or std has neither one entry nor one per channel.
        """
        scaled = images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images.to(torch.float32)
        mean, std = (self._per_channel(name, scaled) for name in ("mean", "std"))
        return (scaled - mean) / std

    def _per_channel(self, name: str, images: Tensor) -> Tensor:
        """Return `mean` or `std` as [1, C or 1, 1, 1] beside the images."""
        values: tuple[float, ...] = getattr(self, name)
        if len(values) not in (1, images.shape[1]):
            raise DataError(f"{name} has {len(values)} entries, but images have {images.shape[1]} channels")
        # Filled where the images are: copying a tensor to a GPU would wait for it in every batch.
        channels = [torch.full((1,), value, dtype=torch.float32, device=images.device) for value in values]
        return torch.cat(channels).view(1, -1, 1, 1)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set as one data spec names them.

    Attributes:
        spec: canonical spec with absolute paths, so that it can be recorded and found from any folder.
        train: training examples, label changes applied.
        test: held-out examples; their labels are never changed.
        classes: labels are 0 .. classes - 1.
        mean: per channel, of inputs scaled to [0, 1]; the source's constant, else measured on the whole training split,
            so that it is the same whatever `train=` leaves of it.
        std: likewise.
        sha256: digest of both splits' images and labels and of the options.
        origin: for image folders, the training files' paths below the training folder, in index order; else None.
        class_names: in the order of the labels, where the source has names; else empty.
        moments_from: where mean and std come from, in words.
    """

    spec: str
    train: Examples
    test: Examples
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str
    origin: tuple[str, ...] | None = None
    class_names: tuple[str, ...] = ()
    moments_from: str = MEASURED

    def class_text(self, label: int) -> str:
        """Return a class as people know it: its number, and its name where there is one."""
        name = self.class_names[label] if label < len(self.class_names) else str(label)
        return f"class {label}" if name == str(label) else f"class {label} ({name})"

    @property
    def changed(self) -> NDArray[np.int64]:
        """Sorted training indices whose observed label differs from the true one."""
        return np.flatnonzero((self.train.labels != self.train.true_labels).numpy()).astype(np.int64)

    @property
    def transform(self) -> Transform:
        """The evaluation transform with this set's mean and std."""
        return Transform(self.mean, self.std)


def channel_moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and (population) standard deviation per channel of inputs scaled to [0, 1], in float64.

    uint8 is summed in integers, hence exactly; float in fixed chunks, in two passes. A constant channel has no scale:
    its std is 1, which centres it and leaves it alone.

    Args:
        images: [N, C, H, W], uint8 or float32, N >= 1.

    Returns:
        Two tuples of C numbers.
    """
    moments = _integer_moments(images) if images.dtype == torch.uint8 else _float_moments(images)
    mean, variance = moments
    std = torch.where(variance > 0, variance.sqrt(), torch.ones_like(variance))
    return tuple(mean.tolist()), tuple(std.tolist())


def _chunks(images: Tensor) -> Iterator[Tensor]:
    """Yield consecutive views of the images, of a size that depends on their shape alone."""
    step = max(1, CHUNK // images[0].numel())
    for start in range(0, len(images), step):
        yield images[start : start + step]


def _integer_moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance [C] of uint8 images over 255, from exact integer sums."""
    total, squares = torch.zeros(images.shape[1], dtype=torch.int64), torch.zeros(images.shape[1], dtype=torch.int64)
    for chunk in _chunks(images):
        wide = chunk.to(torch.int32)
        total += wide.sum(dim=(0, 2, 3), dtype=torch.int64)
        squares += (wide * wide).sum(dim=(0, 2, 3), dtype=torch.int64)
    count = images.numel() // images.shape[1]
    variances = [
        (count * s - t * t) / (count * count * 255 * 255) for t, s in zip(total.tolist(), squares.tolist(), strict=True)
    ]
    return total.double() / (255 * count), torch.tensor(variances, dtype=torch.float64)


def _float_moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance [C] of float images: the mean first, then the squared distances to it."""
    count = images.numel() // images.shape[1]
    mean = torch.stack([chunk.double().sum(dim=(0, 2, 3)) for chunk in _chunks(images)]).sum(dim=0) / count
    centre = mean.view(1, -1, 1, 1)
    squares = [(chunk.double() - centre).square().sum(dim=(0, 2, 3)) for chunk in _chunks(images)]
    return mean, torch.stack(squares).sum(dim=0) / count


def means_of_pixels(images: Tensor, size: int) -> Tensor:
    """Return images [N, C, size, size], each pixel the mean of those that it stands for, rounded where they are uint8.

    Args:
        images: [N, C, H, W].
        size: at most H and W.
    """
    chunks = (functional.adaptive_avg_pool2d(chunk.float(), size) for chunk in _chunks(images))
    return torch.cat([chunk.round().to(images.dtype) if images.dtype == torch.uint8 else chunk for chunk in chunks])


def content_digest(train: Examples, test: Examples, described: Mapping[str, object]) -> str:
    """Return the hex SHA-256 of both splits (types, shapes, images, observed and true labels) and of `described`.

    Args:
        train: training examples.
        test: held-out examples.
        described: what else makes this data what it is (options, class count); JSON values.
    """
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for part in (train, test):
        for tensor in (part.images, part.labels, part.true_labels):
            array = np.ascontiguousarray(tensor.numpy())
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            digest.update(f"{little.dtype.str}{little.shape}".encode())
            digest.update(little.data)
    return digest.hexdigest()


def rows_digest(examples: Examples, rows: NDArray[np.int64] | None = None) -> str:
    """Return the hex SHA-256 of what a model that is trained on some examples sees of them: images and observed labels.

    Neither the spec that named them nor the rest of the data has a part in it.

    Args:
        examples: a training set.
        rows: which of them, [n], in this order; all where None.
    """
    chosen = torch.arange(len(examples)) if rows is None else torch.from_numpy(np.asarray(rows, dtype=np.int64))
    digest = hashlib.sha256(f"{examples.images.dtype} {len(chosen)} {tuple(examples.images.shape[1:])}".encode())
    size = max(1, CHUNK // examples.images[0].numel())
    for start in range(0, len(chosen), size):
        part = chosen[start : start + size]
        for tensor in (examples.images[part], examples.labels[part]):
            array = np.ascontiguousarray(tensor.numpy())
            digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).data)
    return digest.hexdigest()
