"""Tell what a file is from its content, whatever it is called; say what to do about the ones that are not read."""

import json
import struct
import tarfile
import zipfile
from enum import Enum
from itertools import islice
from pathlib import Path

from unlearn_audit.checkpoints import ways_out
from unlearn_audit.checkpoints.pickles import TORCH_MAGIC, first_value, is_old_pickle
from unlearn_audit.errors import CheckpointError

_NEEDED = "a safetensors or torch checkpoint is needed"
_AGAIN = "it is damaged or was made to look like a checkpoint; copy it again"
_HEAD = 4096
_MOST_MEMBERS = 200_000
_LONGEST_TABLE = 50_000_000  # bytes
_LONGEST_END = 1 << 17  # bytes in which a zip archive says where its table is

_KERAS = (
    "its layers have other names and layouts than torch's, so that no command converts it: build the model in torch, "
    "copy the weights layer by layer, and run safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
)

# (offset, magic, what it is, what to do; of packed files the program that unpacks them); the first match counts
_MAGICS = (
    (0, b"\x1f\x8b", "a gzip archive", "gzip"),
    (0, b"BZh", "a bzip2 archive", "bzip2"),
    (0, b"\xfd7zXZ\x00", "an xz archive", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "a zstandard archive", "zstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-zip archive", "unpack it first (7z x) and name the checkpoint inside"),
    (257, b"ustar", "a tar archive", "tar"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras weights, perhaps)", _KERAS),
    (0, b"\x93NUMPY", "a NumPy array (.npy)", _NEEDED + "; index files go with --forget"),
    (0, b"GGUF", "a GGUF file, of quantised weights", "name the model in floating point that it was made from"),
    (4, b"TFL3", "a TensorFlow Lite model", _KERAS),
)
_PACKERS = ("gzip", "bzip2", "xz", "zstd")


class FileKind(Enum):
    """The four kinds of checkpoint that are read, and the one that is refused only after a look inside."""

    SAFETENSORS = "safetensors"
    INDEX = "safetensors index"
    TORCH_ZIP = "torch zip"
    TORCH_LEGACY = "torch legacy"
    PICKLE = "pickle"  # not torch's: only ever refused, with the names of what it would run


def one_line(text: str, *, longest: int = 200) -> str:
    """Return the first line of text that comes from a file or a library, fit for a terminal."""
    line = text.strip().partition("\n")[0][:longest]
    return "".join(c if c.isprintable() else "?" for c in line)


def recognise(path: Path) -> FileKind:
    """Return what the file at `path` is, judged by its content.

    Args:
        path: an existing, non-empty file.

    Returns:
        The kind. `FileKind.PICKLE` stands for a pickle that torch did not write.

    Raises:
        CheckpointError: it is something else; the message says what it looks like and what to do.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    brace = head[8:9] == b"{"
    # The length comes first: a header of 0x0280 bytes begins like a pickle, one of 0x04034b50 like a zip.
    if brace and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return FileKind.SAFETENSORS
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if head[0] == 0x80 and b"\x00" < head[1:2] <= b"\x05":
        return FileKind.TORCH_LEGACY if first_value(head) == TORCH_MAGIC else FileKind.PICKLE
    if head.lstrip()[:1] == b"{" and _as_text(head) is not None:
        return FileKind.INDEX
    if is_old_pickle(head):
        return FileKind.PICKLE
    described = _describe(path, head)
    if described is None and brace:
        return FileKind.SAFETENSORS
    raise CheckpointError(f"{path} {described or 'is a binary file of no known kind, or damaged; ' + _NEEDED}")


def _describe(path: Path, head: bytes) -> str | None:
    """Say what a file that begins with `head` is, and what to do, if that can be told."""
    for offset, magic, what, remedy in _MAGICS:
        if head[offset:].startswith(magic):
            if remedy in _PACKERS:
                return f"looks like {what}; {ways_out.unpacked(path, remedy)}"
            if remedy == "tar":
                return f"looks like {what}; {ways_out.archived(path, by_torch=_is_tar_of_torch(path))}"
            return f"looks like {what}; {remedy}"
    text = _as_text(head)
    if text is None:
        return None
    start = text.lstrip().lower()
    if start.startswith("version https://git-lfs"):
        return "is a git-lfs pointer, not the file itself; run: git lfs pull"
    if start.startswith(("<!doctype html", "<html")):
        return "is an HTML page, perhaps an error page of a download; download the file itself"
    return f"is a text file that begins {json.dumps(text[:30])}; {_NEEDED}"


def _is_tar_of_torch(path: Path) -> bool:
    """Return whether torch wrote a tar archive, as it did before version 0.1.10."""
    try:
        with tarfile.open(path, "r:") as archive:
            names = {member.name for member in islice(archive, 4)}
    except (tarfile.TarError, ValueError, OverflowError):
        return False
    return {"storages", "tensors", "pickle"} <= names


def _as_text(head: bytes) -> str | None:
    """Return the bytes as text if they are text; the last character may be cut."""
    text = head.decode("utf-8", errors="ignore")
    cut = len(head) - len(text.encode()) <= 3
    return text if text and cut and all(c.isprintable() or c in "\t\r\n\ufeff" for c in text) else None


def _kind_of_zip(path: Path) -> FileKind:
    """Tell torch's zip archives from all others by the names of their members."""
    _check_table(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as problem:  # zipfile raises more than BadZipFile on damaged archives
        raise CheckpointError(f"{path} is a zip archive that is truncated or damaged; copy it again") from problem
    names = [member.filename for member in members]
    leaves = {name.partition("/")[2] for name in names}
    if "constants.pkl" in leaves:
        raise CheckpointError(
            f"refused: {path} is a TorchScript archive, which holds a program; {ways_out.scripted(path)}"
        )
    if "models/model.json" in leaves or "archive_format" in leaves:
        raise CheckpointError(f"{path} looks like a program made by torch.export; {ways_out.exported(path)}")
    if "data.pkl" not in leaves:
        raise CheckpointError(f"{path} {_describe_zip(path, names)}")
    if len(leaves) < len(names):
        raise CheckpointError(
            f"refused: {path} holds two members of one name, as no file of torch's does; copy it again"
        )
    if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
        raise CheckpointError(f"refused: {path} is compressed; {ways_out.compressed(path)}")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise CheckpointError(f"refused: {path} claims more bytes than it has; {_AGAIN}")
    return FileKind.TORCH_ZIP


def _check_table(path: Path) -> None:
    """Refuse an archive whose table of members is longer than a file of weights needs, before it is read."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(0, size - _LONGEST_END))
        end = stream.read(_LONGEST_END)
    at = end.rfind(b"PK\x05\x06")
    members, length = struct.unpack_from("<HL", end, at + 10) if 0 <= at <= len(end) - 22 else (0, 0)
    at = end.rfind(b"PK\x06\x06")
    if 0 <= at <= len(end) - 56:  # the wide form
        members, length = struct.unpack_from("<QQ", end, at + 32)
    if members > _MOST_MEMBERS or (length > _LONGEST_TABLE and length != 0xFFFFFFFF):
        raise CheckpointError(f"refused: {path} is a zip archive of {members} members; {_AGAIN}")


def _describe_zip(path: Path, names: list[str]) -> str:
    """Say what a zip archive that torch.save did not write is, and what to do."""
    if any(name.endswith(".npy") for name in names):
        return (
            f"looks like an .npz archive of NumPy arrays; data go with --data npz:FILE; {ways_out.numpy_arrays(path)}"
        )
    if "model.weights.h5" in names:
        return f"looks like a Keras model; {_KERAS}"
    first = json.dumps(names[0][:40]) if names else "nothing"
    return f"is a zip archive with {first} in it, not a torch checkpoint; unpack it and name the checkpoint inside"
