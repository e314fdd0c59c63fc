"""Pixels as a PNG file: eight bits a channel, grey or in colour, the same pixels always the same bytes."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, COLOUR = 0, 2  # colour types of the format


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels [H, W] or [H, W, 3] as the bytes of a PNG file (ISO/IEC 15948), each row unfiltered."""
    height, width = pixels.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, 8, GREY if pixels.ndim == 2 else COLOUR, 0, 0, 0)
    rows = np.zeros((height, 1 + pixels[0].size), dtype=np.uint8)  # each begins with the number of its filter, 0
    rows[:, 1:] = pixels.reshape(height, -1)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(kind, content) for kind, content in parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
