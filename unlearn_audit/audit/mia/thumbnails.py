"""Small pictures of the examples that an attack is surest of, which a report carries only where somebody asked."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unlearn_audit.audit.generated.sheets import OF_ONE_CLASS, sheet

WHITE = 255


def thumbnails(images: Tensor, shown: Sequence[Mapping[str, Any]]) -> NDArray[np.uint8]:
    """Return the most exposed examples in rows of ten, the surest first, twenty at most.

    Args:
        images: [N, C, H, W] of the training set, uint8 or float32.
        shown: entries with the "index" of an example, one or more.

    Returns:
        Pixels [H, W] of images of one channel, or of other than three, whose mean is shown; else [H, W, 3].
    """
    chosen = images[torch.tensor([entry["index"] for entry in shown[:OF_ONE_CLASS]])]
    return sheet(list(_bytes(_grey_or_coloured(chosen))), np.zeros(len(chosen), np.int64))


def _grey_or_coloured(images: Tensor) -> Tensor:
    if images.shape[1] in (1, 3):
        return images
    return images.float().mean(dim=1, keepdim=True).to(images.dtype)


def _bytes(images: Tensor) -> Tensor:
    """Return images as uint8; floats that lie beyond [0, 1], as normalised ones do, are stretched to it together."""
    if images.dtype == torch.uint8:
        return images
    images = torch.nan_to_num(images)
    low, high = images.min(), images.max()
    if low < 0 or high > 1:
        images = (images - low) / (high - low).clamp(min=1e-12)
    return (images * WHITE).round().to(torch.uint8)
