"""Files that torch.save wrote: the pickle is read by a machine of our own, tensors come from disk when taken.

Not `torch.load(weights_only=True)`: it refuses a whole file for one class among its values, and reads every tensor
into memory before any is chosen.
"""

import mmap
import struct
import zipfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unlearn_audit.checkpoints.recognition import FileKind
from unlearn_audit.checkpoints.stored import Damaged, Storage, StoredTensor
from unlearn_audit.checkpoints.unpickling import Unpickler
from unlearn_audit.errors import CheckpointError

_LONGEST_PICKLE = 1 << 28  # bytes of a zip archive's data.pkl
_LEGACY_HEAD = 3  # pickles before the object: magic number, protocol, system
_LOCAL_HEADER = struct.Struct("<4s22xHH")


class _Piece(NamedTuple):
    """Where a storage lies in a file, and how many bytes it has."""

    start: int
    nbytes: int


class TorchFile(NamedTuple):
    """What a torch file holds, tensors still on disk.

    Attributes:
        path: the file.
        content: what was saved: plain values, `StoredTensor` and `Placeholder`.
        names: what loading the file with pickle would have brought in beyond tensors, in order.
        calls_made: those of them that no object which was merely saved needs.
        pieces: where each storage is.
        swapped: whether the bytes of each number stand the other way round.
    """

    path: Path
    content: Any
    names: tuple[str, ...]
    calls_made: tuple[str, ...]
    pieces: Mapping[str, _Piece]
    swapped: bool = False

    def read(self, tensors: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        """Return tensors of the file, mapped from disk where their place allows it; ties stay ties.

        Raises:
            CheckpointError: a tensor lies outside the file.
        """
        with self.path.open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        read: dict[Storage, Tensor] = {}
        try:
            for stored in tensors.values():
                if stored.storage not in read:
                    read[stored.storage] = self._flat(mapped, stored.storage)
            return {name: _view(read[stored.storage], stored) for name, stored in tensors.items()}
        except (Damaged, RuntimeError, ValueError) as problem:
            raise _damaged(self.path, problem) from problem

    def _flat(self, mapped: mmap.mmap, storage: Storage) -> Tensor:
        """Return the numbers of a storage as one row."""
        if storage.numel == 0:
            return torch.empty(0, dtype=storage.dtype)
        piece, width = self.pieces.get(storage.key), storage.dtype.itemsize
        if piece is None:
            raise Damaged("a tensor's numbers are missing")
        first = storage.start * width
        if first + storage.numel * width > piece.nbytes:
            raise Damaged("a tensor has fewer numbers than it claims")
        at = piece.start + first
        if self.swapped and width > 1:
            found = torch.frombuffer(mapped, dtype=torch.uint8, count=storage.numel * width, offset=at)
            return found.view(-1, width).flip(1).contiguous().view(-1).view(storage.dtype)
        if at % width:
            found = torch.frombuffer(mapped, dtype=torch.uint8, count=storage.numel * width, offset=at)
            return found.clone().view(storage.dtype)
        return torch.frombuffer(mapped, dtype=storage.dtype, count=storage.numel, offset=at)


def open_torch(path: Path, kind: FileKind) -> TorchFile:
    """Return what torch.save put into the file; nothing of it is imported or called, no tensor is read yet.

    Args:
        path: the file.
        kind: `FileKind.TORCH_ZIP` or `FileKind.TORCH_LEGACY`.

    Raises:
        CheckpointError: the file is damaged, or needs more steps or memory to be read than weights do.
    """
    try:
        return _open_zip(path) if kind is FileKind.TORCH_ZIP else _open_legacy(path)
    except Damaged as problem:
        raise _damaged(path, problem) from problem


def _damaged(path: Path, problem: Exception) -> CheckpointError:
    """Return the error for a torch file that cannot be read."""
    return CheckpointError(f"cannot read {path}: truncated, damaged or not of tensors ({problem}); copy it again")


def _view(flat: Tensor, stored: StoredTensor) -> Tensor:
    return torch.as_strided(flat, stored.size, stored.stride, stored.offset)


def _open_zip(path: Path) -> TorchFile:
    """Read the archive's table and its pickle."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.filename.partition("/")[2]: member for member in archive.infolist()}
            data = archive.read(_limited(members["data.pkl"]))
            order = archive.read(_limited(members["byteorder"])) if "byteorder" in members else b"little"
    except Damaged:
        raise
    except Exception as problem:  # zipfile raises more than BadZipFile on damaged archives
        raise Damaged(f"its archive is damaged ({type(problem).__name__})") from problem
    machine = Unpickler(most_bytes=len(data))
    content = machine.load(BytesIO(data))
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        pieces = {
            name.removeprefix("data/"): _piece(mapped, member)
            for name, member in members.items()
            if name.startswith("data/")
        }
    return TorchFile(path, content, tuple(machine.names), tuple(machine.calls_made), pieces, order == b"big")


def _limited(member: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """Refuse a member that is read whole and is larger than such a member ever is."""
    if member.file_size > _LONGEST_PICKLE:
        raise Damaged(f"its pickle has {member.file_size} bytes")
    return member


def _piece(mapped: mmap.mmap, member: zipfile.ZipInfo) -> _Piece:
    """Return where a member's bytes lie, which only its local header tells."""
    head = mapped[member.header_offset : member.header_offset + _LOCAL_HEADER.size]
    if len(head) < _LOCAL_HEADER.size:
        raise Damaged("its archive is damaged")
    magic, name, extra = _LOCAL_HEADER.unpack(head)
    start = member.header_offset + _LOCAL_HEADER.size + name + extra
    if magic != b"PK\x03\x04" or start + member.file_size > len(mapped):
        raise Damaged("its archive is damaged")
    return _Piece(start, member.file_size)


def _open_legacy(path: Path) -> TorchFile:
    """Read the pickles one after the other, then find where the storages behind them lie."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        machine = Unpickler(most_bytes=min(len(mapped), _LONGEST_PICKLE))
        for _ in range(_LEGACY_HEAD):
            machine.load(mapped)
        content, keys = machine.load(mapped), machine.load(mapped)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise Damaged("its list of storages is damaged")
        widths = {storage.key: storage.dtype.itemsize for storage in machine.storages}
        pieces = dict(_pieces(mapped, keys, widths))
    return TorchFile(path, content, tuple(machine.names), tuple(machine.calls_made), pieces)


def _pieces(mapped: mmap.mmap, keys: list[str], widths: Mapping[str, int]) -> Iterator[tuple[str, _Piece]]:
    """Yield where each storage lies: after a count of its elements, in the order of their keys."""
    for key in keys:
        head = mapped.read(8)
        if len(head) < 8 or key not in widths:
            raise Damaged("its storages are cut short")
        start, nbytes = mapped.tell(), int.from_bytes(head, "little", signed=True) * widths[key]
        if nbytes < 0 or start + nbytes > len(mapped):
            raise Damaged("its storages are cut short")
        yield key, _Piece(start, nbytes)
        mapped.seek(start + nbytes)
