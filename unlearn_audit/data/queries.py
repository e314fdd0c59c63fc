"""Queries of an attack: an image, its mirror image, and both shifted, always the same ones."""

from torch import Tensor
from torch.nn import functional

from unlearn_audit.errors import UsageError

QUERY_COUNTS = (1, 2, 18)  # the image; and its mirror image; and both shifted by -s, 0 or s in each direction


def query(images: Tensor, number: int) -> Tensor:
    """Return one augmented view of normalised images; number 0 is the plain one.

    18 queries give all of the gain there is (Carlini et al. 2022, section VI-C: mirror times shifts). Shifts are by a
    sixteenth of the image, at least one pixel, and zeros come in, as in training.

    Args:
        images: [N, C, H, W].
        number: 0 to 17; odd ones are mirrored.

    Raises:
        UsageError: there is no such query.
    """
    if not 0 <= number < QUERY_COUNTS[-1]:
        raise UsageError(f"there is no query {number}; there are {QUERY_COUNTS[-1]}")
    shift, mirrored = divmod(number, 2)
    height, width = images.shape[-2:]
    size = max(1, min(height, width) // 16)
    order = (4, 0, 1, 2, 3, 5, 6, 7, 8)  # the middle of the 3 x 3 shifts comes first
    down, right = divmod(order[shift], 3)
    padded = functional.pad(images, (size, size, size, size))
    view = padded[..., down * size : down * size + height, right * size : right * size + width]
    return view.flip(-1) if mirrored else view
