"""Reading NumPy's files within bounds: sizes are taken from headers and compared before anything is unfolded."""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.errors import AuditError, DataError

UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    MemoryError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    RuntimeError,
)
MOST_INDEX_BYTES = 1 << 28  # of a file of indices or labels: 33 million of them
HARMLESS = 1 << 28  # bytes that any file may unfold to
DENSEST = 100  # times the file's size, beyond that; images pack a few times smaller, zeros a thousand times
MOST_MEMBERS = 1000  # of an archive with four arrays, or one tensor
END_OF_ARCHIVE, COMMENT = b"PK\x05\x06", 1 << 16  # a record of 22 bytes, and the longest comment that may follow it
LONGEST_HEADER = 10_000  # characters; a plain array's has about a hundred


@contextmanager
def reading(kind: str, path: Path) -> Iterator[None]:
    """Turn what a damaged, truncated or foreign file makes a reader raise into one DataError.

    Raises:
        DataError: the body could not read `path`.
    """
    try:
        yield
    except UNREADABLE as problem:
        detail = (str(problem) or type(problem).__name__).partition("\n")[0]
        raise DataError(f"cannot read {kind} {path}: {detail[:200]}") from problem


def check_unfolded(path: Path, size: int) -> None:
    """Refuse a file that announces more than memory holds, or hugely more than its own size.

    Args:
        path: the file.
        size: bytes that it is to become in memory.

    Raises:
        DataError: the size is out of all proportion.
    """
    own = path.stat().st_size
    if size > HARMLESS and size > DENSEST * own:
        raise DataError(
            f"{path} has {own} bytes and announces {size}, {size // max(own, 1)} times as much; images never pack like "
            "that: it was not read. If it is right, store it unpacked"
        )
    check_memory(path, size)


def check_memory(path: Path, size: int) -> None:
    """Refuse what does not fit into this machine's memory, before the machine does.

    Args:
        path: the file or folder.
        size: bytes that it is to become.

    Raises:
        DataError: there are not as many bytes.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise DataError(f"{path} announces {size} bytes, more than this machine's memory ({memory}); take a part of it")


def check_members(shown: str, stream: IO[bytes]) -> None:
    """Refuse an archive whose list of contents would take minutes to read.

    Args:
        shown: the file, for messages.
        stream: its bytes; left wherever.

    Raises:
        DataError: it says that it has too many members.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - 22 - COMMENT))
    tail = stream.read()
    record = tail[tail.rfind(END_OF_ARCHIVE) :][:22]
    count = int.from_bytes(record[10:12], "little") if len(record) == 22 else 0
    if count > MOST_MEMBERS:
        raise DataError(
            f"{shown} is an archive of {count if count < 0xFFFF else '65,535 or more'} members, which was not read"
        )


def read_npy(kind: str, path: Path, most: int = MOST_INDEX_BYTES) -> NDArray[np.generic]:
    """Return the array of a .npy file; pickled objects are refused.

    Args:
        kind: what it should be, for messages.
        path: the file; it is there, see `files.check_input`.
        most: bytes that it may have.

    Raises:
        DataError: damaged, too large, of Python objects, or no single array.
    """
    with reading(kind, path), path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > most:
            raise DataError(f"{kind} {path} has {size} bytes; at most {most} are read")
        if stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06"):
            raise DataError(f"{path} is an .npz archive; a single .npy array is needed")
        stream.seek(0)
        return _array(f"{kind} {path}", stream, size)


def read_npz(path: Path, names: Sequence[str]) -> dict[str, NDArray[np.generic]]:
    """Return those of the named arrays that an .npz file has.

    Args:
        path: the file.
        names: of the arrays; others are left alone.

    Raises:
        DataError: no .npz, damaged, or a member is twice there, too large, or no array.
    """
    with reading("npz file", path):
        with path.open("rb") as stream:
            single = stream.read(6) == np.lib.format.MAGIC_PREFIX
        if single:
            raise DataError(f"{path} holds a single array; an .npz with {', '.join(names)} is needed")
        with path.open("rb") as stream:
            check_members(str(path), stream)
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive, names)
            check_unfolded(path, sum(member.file_size for member in members.values()))
            return {name: _member(path, archive, name, member) for name, member in members.items()}


def _members(path: Path, archive: zipfile.ZipFile, names: Sequence[str]) -> Mapping[str, zipfile.ZipInfo]:
    """Return the members of the names, with or without their ending."""
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in names and name in found:
            raise DataError(f"{path} holds {name} twice; which one is meant, it does not say")
        if name in names:
            found[name] = member
    return found


def _member(path: Path, archive: zipfile.ZipFile, name: str, member: zipfile.ZipInfo) -> NDArray[np.generic]:
    with archive.open(member) as stream:
        if stream.read(6) != np.lib.format.MAGIC_PREFIX:
            raise DataError(f"npz:{path}: {name} is no array")
    with archive.open(member) as stream:
        return _array(f"npz file {path}: {name}", stream, member.file_size)


def _array(what: str, stream: IO[bytes], size: int) -> NDArray[np.generic]:
    """Read one array of a stream of `size` bytes: its header first, whatever that says."""
    try:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, in_columns, dtype = header(stream, max_header_size=LONGEST_HEADER)
        count = 1
        for length in shape:
            if not isinstance(length, int) or length < 0:
                raise ValueError(f"its header announces the shape {shape!r:.60}")
            count *= length
    except AuditError:
        raise
    except Exception as problem:  # headers are Python literals, and can be wrong in every way that those can
        detail = (str(problem) or type(problem).__name__).partition("\n")[0]
        raise DataError(f"cannot read {what}: {detail[:200]}") from problem
    if dtype.hasobject:
        raise DataError(
            f"cannot read {what}: Object arrays cannot be loaded: it holds pickled Python objects, which are never "
            "loaded"
        )
    bytes_there = size - stream.tell()
    if count == 0:
        return np.empty(shape, dtype)
    if dtype.itemsize == 0 or count * dtype.itemsize > bytes_there:
        raise DataError(
            f"cannot read {what}: its header announces {count} entries of {dtype.itemsize} bytes, and {bytes_there} "
            "bytes follow: truncated or damaged"
        )
    data = stream.read(count * dtype.itemsize)
    if len(data) < count * dtype.itemsize:
        raise DataError(f"cannot read {what}: truncated")
    array = np.frombuffer(data, dtype=dtype, count=count)
    return array.reshape(shape, order="F" if in_columns else "C")
