"""Files that torch.save wrote, read through torch's weights-only reader and through nothing else."""

import mmap
import warnings
import zipfile
from io import BytesIO
from pathlib import Path

import torch

from unlearn_audit.checkpoints.pickles import foreign_globals
from unlearn_audit.checkpoints.recognition import RESAVE, Kind, one_line
from unlearn_audit.errors import CheckpointError

__all__ = ["load_torch", "refusal"]

_LEGACY_PICKLES = 5  # magic number, protocol, system, the object, the storage keys
_LARGEST_PICKLE = 1 << 28  # bytes of data.pkl that a refusal looks through


def load_torch(path: Path, kind: Kind) -> object:
    """Return what torch.save put into the file, on the CPU, tensors and plain containers only.

    A zip archive is mapped, not read (unless it is called .safetensors): tensors come from disk as they are touched.

    Args:
        path: the file.
        kind: `Kind.TORCH_ZIP` or `Kind.TORCH_LEGACY`.

    Raises:
        CheckpointError: the file is damaged, or needs more than tensors and would run code; nothing has been run.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about torch's own insides; what matters here is vetted afterwards
            return _load(path, kind)
    except Exception as problem:  # a damaged file can fail in any way; none of them is an answer
        raise refusal(path, kind, problem) from problem


def _load(path: Path, kind: Kind) -> object:
    """Hand the file to torch's weights-only reader, mapped where that is possible."""
    # Newer versions of torch judge a path by its ending, a stream by its content; only a path can be mapped.
    if kind is Kind.TORCH_ZIP and path.suffix != ".safetensors":
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    with path.open("rb") as stream:
        return torch.load(stream, map_location="cpu", weights_only=True, mmap=False)


def refusal(path: Path, kind: Kind, problem: Exception | None = None) -> CheckpointError:
    """Return the error for a pickle that is not read: what it would run, or else what torch said.

    Args:
        path: the file.
        kind: how it is laid out.
        problem: why torch did not read it.
    """
    names = _foreign_globals(path, kind)
    if any(name.startswith("torch.nn.modules.") for name in names):
        what = f"it is a whole pickled model, and loading it would run code ({_listed(names)})"
        return CheckpointError(f"refused: {path}: {what}; only weights are read; {RESAVE}")
    if names:
        return CheckpointError(f"refused: {path}: loading it would run code ({_listed(names)}); {RESAVE}")
    if kind is Kind.PICKLE:
        return CheckpointError(f"{path} is a pickle that torch.save did not write; {RESAVE}")
    return CheckpointError(
        f"cannot read {path} ({kind.value}): truncated, damaged or not of tensors ({_said(problem)}); copy it again"
    )


def _said(problem: Exception | None) -> str:
    """Return the first sentence of what went wrong, without torch's advice to trust the file."""
    text = str(problem).rpartition("WeightsUnpickler error:")[2].strip()
    return one_line(text.partition(". ")[0]) or type(problem).__name__


def _foreign_globals(path: Path, kind: Kind) -> tuple[str, ...]:
    """Return what the file's pickles would import beyond tensors, as far as they can be disassembled."""
    if kind is Kind.TORCH_ZIP:
        return foreign_globals(BytesIO(_data_pickle(path)), pickles=1)
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return foreign_globals(mapped, pickles=_LEGACY_PICKLES)


def _data_pickle(path: Path) -> bytes:
    """Return the archive's data.pkl, empty where it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.partition("/")[2] == "data.pkl")
            with archive.open(name) as stream:
                return stream.read(_LARGEST_PICKLE)
    except Exception:  # damaged in a place that only the disassembly touches
        return b""


def _listed(names: tuple[str, ...]) -> str:
    """Return the first names, fit for one line of a terminal."""
    shown = [one_line(name, longest=80) for name in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
