"""Pixels as a PNG file: eight bits a channel, grey or in colour."""

import io

import numpy as np
from numpy.typing import NDArray


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels [H, W] or [H, W, 3] as the bytes of a PNG file."""
    from PIL import Image  # imported here: most pages have no picture

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
