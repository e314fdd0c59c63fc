"""Images as judges take them: uint8 in 0-255 and nothing else, in colour and of a size where one needs that.

Public code hands images in [-1, 1] to a cast to uint8, which leaves 0, 1 and 255 of 256 grey levels. Here whatever is
not uint8 is refused, and real images that are stored as floats are rounded once, in `as_stored`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional

from unlearn_audit.errors import AuditError, DataError, MeasurementError, UsageError
from unlearn_audit.user_code import raised

RESIZER = "bilinear, antialiased, rounded to uint8"
GREY, COLOUR = 1, 3


def check_stored(images: Tensor) -> Tensor:
    """Return the images if they are as a file would hold them.

    Args:
        images: uint8 [N, C, H, W], grey or in colour.

    Raises:
        UsageError: they are anything else, such as floats in [-1, 1].
    """
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (GREY, COLOUR):
        shape = " x ".join(map(str, images.shape))
        raise UsageError(
            f"a judge was given {str(images.dtype).removeprefix('torch.')} of shape {shape}; it takes uint8 images "
            "[N, 1 or 3, H, W] in 0-255: round floats yourself, since a cast would leave three grey levels of them"
        )
    return images


def as_stored(images: Tensor) -> Tensor:
    """Return real images as uint8: those that are stays, floats in [0, 1] are rounded to 256 levels.

    >>> as_stored(torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)).flatten().tolist()
    [0, 128, 255]

    Args:
        images: [N, C, H, W] of a data set, uint8 or float32.

    Raises:
        DataError: floats beyond [0, 1], of which nobody knows what white is.
    """
    if images.dtype == torch.uint8:
        return images
    if images.numel() and not (float(images.min()) >= 0 and float(images.max()) <= 1):  # also where one is NaN
        raise DataError(
            f"the data's images lie in [{float(images.min()):g}, {float(images.max()):g}]; a judge needs uint8, or "
            "floats in [0, 1]"
        )
    return (images * 255).round().to(torch.uint8)


def in_colour(images: Tensor) -> Tensor:
    """Return grey images three times beside each other as colours; those in colour as they are."""
    return images.expand(-1, COLOUR, -1, -1) if images.shape[1] == GREY else images


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return uint8 images [N, C, H, W] of another height and width; those that have them are returned as they are."""
    if tuple(images.shape[2:]) == size or not len(images):
        return images.new_empty((0, images.shape[1], *size)) if not len(images) else images
    floats = functional.interpolate(images.float(), size=size, mode="bilinear", antialias=True, align_corners=False)
    return floats.round().clamp(0, 255).to(torch.uint8)


@contextmanager
def judging(name: str) -> Iterator[None]:
    """Tell what somebody else's code raises within the block as that judge's own failure.

    Args:
        name: of the judge.

    Yields:
        Nothing.

    Raises:
        MeasurementError: the code raised.
    """
    try:
        yield
    except AuditError:
        raise
    except (Exception, SystemExit) as problem:
        raise MeasurementError(f"judge {name} failed: {raised(problem)}") from problem
