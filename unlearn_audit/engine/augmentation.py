"""Random changes of training images: crops and flips."""

import torch
from torch import Tensor
from torch.nn import functional

from unlearn_audit.engine.device import upload


def crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to an eighth of its size (zeros come in) and mirror every other one, at random.

    Args:
        images: [B, C, H, W], already normalised.
        generator: on the CPU, so that every device sees the same augmentation.

    Returns:
        [B, C, H, W].
    """
    count, _, height, width = images.shape
    pad = max(1, height // 8)
    padded = functional.pad(images, (pad, pad, pad, pad))
    shifts = upload(torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator), images.device)
    rows = shifts[0] + torch.arange(height, device=images.device)
    columns = shifts[1] + torch.arange(width, device=images.device)
    mirrored = upload(torch.rand(count, 1, generator=generator) < 0.5, images.device)
    columns = torch.where(mirrored, columns.flip(1), columns)
    index = torch.arange(count, device=images.device)
    return padded[index[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
