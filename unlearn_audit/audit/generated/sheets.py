"""A sheet of a subject's first samples: small images side by side, which a report carries beside its numbers."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

COLUMNS = 10
OF_ONE_CLASS, OF_EACH = 20, 10  # samples that are shown
ROWS = 10
CELL = 48  # pixels of an image's longer side; a larger one is made smaller
WHITE = 255


def sheet(images: Sequence[Tensor], classes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the first images of each class in rows of ten, a white line between them.

    Args:
        images: uint8 [C, H, W] each, grey or in colour, one or more.
        classes: [n] of each; those of one class are shown together, at most ten classes.

    Returns:
        Pixels [H, W] where all images are grey, else [H, W, 3].
    """
    groups = [np.flatnonzero(classes == c) for c in dict.fromkeys(classes.tolist())][:ROWS]
    most = OF_ONE_CLASS if len(groups) == 1 else OF_EACH
    rows = [
        rows[start : start + COLUMNS]
        for group in groups
        for rows in [group[:most]]
        for start in range(0, len(rows), COLUMNS)
    ]
    grey = all(len(images[int(place)]) == 1 for row in rows for place in row)
    cells = [[_cell(images[int(place)], grey=grey) for place in row] for row in rows]
    height = max(cell.shape[1] for row in cells for cell in row) + 1
    width = max(cell.shape[2] for row in cells for cell in row) + 1
    across = max(map(len, cells))
    page = torch.full((1 if grey else 3, height * len(cells) + 1, width * across + 1), WHITE, dtype=torch.uint8)
    for top, row in enumerate(cells):
        for left, cell in enumerate(row):
            y, x = top * height + 1, left * width + 1
            page[:, y : y + cell.shape[1], x : x + cell.shape[2]] = cell
    pixels: NDArray[np.uint8] = (page[0] if grey else page.permute(1, 2, 0)).contiguous().numpy()
    return pixels


def _cell(image: Tensor, *, grey: bool) -> Tensor:
    """Return an image no larger than a cell, with as many channels as the sheet has."""
    longer = max(image.shape[1:])
    if longer > CELL:
        size = [max(1, round(side * CELL / longer)) for side in image.shape[1:]]
        smaller = functional.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0]
        image = smaller.round().clamp(0, WHITE).to(torch.uint8)
    return image if grey or len(image) == 3 else image.expand(3, -1, -1)
