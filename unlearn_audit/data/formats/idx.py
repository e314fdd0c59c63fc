"""Reading MNIST-format (idx) files of unsigned bytes, gzipped or not.

Not torchvision's reader: it reads whatever is in the file before it looks at the header, and says "AssertionError" of a
truncated one; here the header is held against the file's size first, and the message names what is missing.
"""

import gzip
import io
import math
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.data.formats.array_files import check_unfolded, reading
from unlearn_audit.errors import DataError
from unlearn_audit.files import check_input

UNSIGNED_BYTE = 0x08
GZIP_MAGIC = b"\x1f\x8b"
DENSEST = 1100  # deflate packs at most 1032 bytes into one; a header that announces more is damaged


def find_idx(folder: Path, name: str) -> Path:
    """Return `folder/name`, or `folder/name.gz` where only that exists.

    Raises:
        DataError: neither exists, both do and differ, or the one that does is a directory, empty or unreadable.
    """
    plain, zipped = folder / name, folder / f"{name}.gz"
    if plain.is_file() and zipped.is_file() and not _same(plain, zipped):
        raise DataError(f"{plain} and {zipped.name} beside it are different data; leave the one that is meant")
    if not plain.exists() and not zipped.exists():
        raise DataError(f"idx file not found: {plain} (nor {zipped.name})")
    return check_input(plain if plain.exists() else zipped, "idx", DataError)


def _same(plain: Path, zipped: Path) -> bool:
    """Return whether a file and its gzipped neighbour have the same bytes."""
    with reading("idx file", zipped), plain.open("rb") as one, gzip.open(zipped) as other:
        while mine := one.read(1 << 20):
            if other.read(len(mine)) != mine:
                return False
        return not other.read(1)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the array of an idx file.

    The format: two zero bytes, the type (0x08 is unsigned byte), the number of dimensions, each size as a big-endian
    uint32, then the data (http://yann.lecun.com/exdb/mnist/). Whether it is gzipped is read from its content.

    Args:
        path: the file.
        dimensions: how many dimensions it must have (3 for images, 1 for labels).

    Raises:
        DataError: not idx, another type or number of dimensions, or fewer or more bytes than the header announces.
    """
    with reading("idx file", path), path.open("rb") as raw:
        zipped = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        if not zipped:
            return _read(raw, path, dimensions)
        with gzip.GzipFile(fileobj=raw) as stream:
            return _read(stream, path, dimensions)


def _read(stream: BinaryIO | gzip.GzipFile, path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read header and data, and nothing beyond one byte more than announced."""
    magic = stream.read(4)
    expected = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if magic != expected:
        raise DataError(
            f"{path} starts with {magic.hex() or 'nothing'}, not {expected.hex()} (idx, {dimensions}-D bytes)"
        )
    header = stream.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise DataError(f"{path} is truncated: it ends within the header")
    shape = struct.unpack(f">{dimensions}I", header)
    count = math.prod(shape)
    if count > DENSEST * path.stat().st_size:
        raise DataError(f"{path} is truncated or damaged: its header announces {'x'.join(map(str, shape))} bytes")
    check_unfolded(path, count)
    if isinstance(stream, io.BufferedReader):  # what is not packed need not be read to know how long it is
        _check_length(path, path.stat().st_size - stream.tell(), count)
    data = stream.read(count)
    _check_length(path, len(data) + len(stream.read(1)), count)
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _check_length(path: Path, there: int, announced: int) -> None:
    """Refuse data that is shorter or longer than its header says."""
    if there < announced:
        raise DataError(f"{path} is truncated: {there} of {announced} bytes")
    if there > announced:
        raise DataError(f"{path} has more than the {announced} bytes that its header announces")
