"""Tell what a file is from its content, whatever it is called; say what to do about the ones that are not read."""

import json
import zipfile
from enum import Enum
from pathlib import Path

from unlearn_audit.checkpoints.pickles import TORCH_MAGIC, first_value, is_old_pickle
from unlearn_audit.errors import CheckpointError

__all__ = ["RESAVE", "Kind", "one_line", "recognise"]

RESAVE = (
    "re-save the weights with safetensors: where you trust the file, load the model and run "
    "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
)
_NEEDED = "a safetensors or torch checkpoint is needed"
_HEAD = 4096

# (offset, magic, what it is, what to do); the first match counts
_MAGICS = (
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first (gunzip, tar xzf)"),
    (0, b"BZh", "a bzip2 archive", "unpack it first (bunzip2, tar xjf)"),
    (0, b"\xfd7zXZ\x00", "an xz archive", "unpack it first (unxz, tar xJf)"),
    (0, b"\x28\xb5\x2f\xfd", "a zstandard archive", "unpack it first (unzstd)"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-zip archive", "unpack it first"),
    (257, b"ustar", "a tar archive", "unpack it first (tar xf) and name the checkpoint inside"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras weights, perhaps)", "load it where it was made; " + RESAVE),
    (0, b"\x93NUMPY", "a NumPy array (.npy)", _NEEDED + "; index files go with --forget"),
    (0, b"GGUF", "a GGUF file", _NEEDED),
    (4, b"TFL3", "a TensorFlow Lite model", _NEEDED),
)


class Kind(Enum):
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


def recognise(path: Path) -> Kind:
    """Return what the file at `path` is, judged by its content.

    Args:
        path: an existing, non-empty file.

    Returns:
        The kind. `Kind.PICKLE` stands for a pickle that torch did not write.

    Raises:
        CheckpointError: it is something else; the message says what it looks like and what to do.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    brace = head[8:9] == b"{"
    # The length comes first: a header of 0x0280 bytes begins like a pickle, one of 0x04034b50 like a zip.
    if brace and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return Kind.SAFETENSORS
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if head[0] == 0x80 and b"\x00" < head[1:2] <= b"\x05":
        return Kind.TORCH_LEGACY if first_value(head) == TORCH_MAGIC else Kind.PICKLE
    if head.lstrip()[:1] == b"{" and _as_text(head) is not None:
        return Kind.INDEX
    if is_old_pickle(head):
        return Kind.PICKLE
    described = _describe(head)
    if described is None and brace:
        return Kind.SAFETENSORS
    raise CheckpointError(f"{path} {described or 'is a binary file of no known kind, or damaged; ' + _NEEDED}")


def _describe(head: bytes) -> str | None:
    """Say what a file that begins with `head` is, and what to do, if that can be told."""
    for offset, magic, what, remedy in _MAGICS:
        if head[offset:].startswith(magic):
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


def _as_text(head: bytes) -> str | None:
    """Return the bytes as text if they are text; the last character may be cut."""
    text = head.decode("utf-8", errors="ignore")
    cut = len(head) - len(text.encode()) <= 3
    return text if text and cut and all(c.isprintable() or c in "\t\r\n\ufeff" for c in text) else None


def _kind_of_zip(path: Path) -> Kind:
    """Tell torch's zip archives from all others by the names of their members."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as problem:  # zipfile raises more than BadZipFile on damaged archives
        raise CheckpointError(f"{path} is a zip archive that is truncated or damaged; copy it again") from problem
    names = [member.filename for member in members]
    leaves = {name.partition("/")[2] for name in names}
    if "constants.pkl" in leaves:
        raise CheckpointError(
            f"refused: {path} is a TorchScript archive, which holds a program; save its weights alone: "
            "safetensors.torch.save_file(torch.jit.load('model.pt').state_dict(), 'model.safetensors')"
        )
    if "data.pkl" not in leaves:
        raise CheckpointError(f"{path} {_describe_zip(names, leaves)}")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise CheckpointError(f"refused: {path} is compressed or claims more bytes than it has; {RESAVE}")
    return Kind.TORCH_ZIP


def _describe_zip(names: list[str], leaves: set[str]) -> str:
    """Say what a zip archive that torch.save did not write is, and what to do."""
    if any(name.endswith(".npy") for name in names):
        return f"looks like an .npz archive of NumPy arrays; {_NEEDED}; data go with --data npz:FILE"
    if "model.weights.h5" in names:
        return f"looks like a Keras model; load it where it was made; {RESAVE}"
    if "models/model.json" in leaves or "archive_format" in leaves:
        return f"looks like a program made by torch.export; {RESAVE}"
    first = json.dumps(names[0][:40]) if names else "nothing"
    return f"is a zip archive with {first} in it, not a torch checkpoint; unpack it and name the checkpoint inside"
