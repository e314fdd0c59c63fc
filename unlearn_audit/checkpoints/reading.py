"""Read a checkpoint, whatever it is called: recognise it, load it without running anything, vet what is in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from unlearn_audit.checkpoints.metadata import ENTRY, STATE_ENTRY, Metadata, decode_entry
from unlearn_audit.checkpoints.recognition import Kind, recognise
from unlearn_audit.checkpoints.safetensors_files import Loaded, load_safetensors, load_sharded
from unlearn_audit.checkpoints.states import nonfinite, strip_prefixes, unwrap, vet
from unlearn_audit.checkpoints.torch_files import load_torch, refusal
from unlearn_audit.errors import CheckpointError
from unlearn_audit.files import check_input, sha256_of_file

__all__ = ["Checkpoint", "check_finite", "read_checkpoint"]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint as read.

    Attributes:
        path: where it was read from.
        sha256: digest of the file, as `sha256sum` prints it; of shards, over the hex digests of the index and of the
            shards in name order.
        format: "safetensors", "safetensors, 3 shards", "torch zip" or "torch legacy".
        state: name -> dense tensor on the CPU, wrappers and prefixes removed.
        metadata: what it says about itself; None for a file that this package did not write.
        notes: in plain words, what was unwrapped, removed or passed over.
        foreign_metadata: the other metadata entries of a safetensors file.
    """

    path: Path
    sha256: str
    format: str
    state: dict[str, Tensor]
    metadata: Metadata | None = None
    notes: tuple[str, ...] = ()
    foreign_metadata: dict[str, str] = field(default_factory=dict)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read weights from a safetensors file, an index of shards, or a file that torch.save wrote.

    The kind is told by content. Nothing in the file is executed: torch files go through the weights-only reader.
    Large files are mapped, so that weights come from disk as they are touched.

    Args:
        path: the file; for shards, their index.

    Returns:
        The checkpoint. Values may still be NaN: see `check_finite`.

    Raises:
        CheckpointError: the file is missing, empty, damaged, of another kind, would run code, holds no state dict, or
            describes itself in a way that cannot be read. One line, with the way out.
    """
    check_input(path, "checkpoint", CheckpointError)
    try:
        kind = recognise(path)
        if kind in {Kind.SAFETENSORS, Kind.INDEX}:
            return _from_safetensors(path, load_safetensors(path) if kind is Kind.SAFETENSORS else load_sharded(path))
        return _from_torch(path, kind)
    except OSError as problem:
        raise CheckpointError(f"cannot read checkpoint {path}: {problem.strerror or problem}") from problem


def check_finite(checkpoint: Checkpoint) -> None:
    """Refuse weights that are not all finite.

    Args:
        checkpoint: the checkpoint, as read.

    Raises:
        CheckpointError: some value is NaN or infinite; names the first tensor and counts them all.
    """
    counts = nonfinite(checkpoint.state)
    if counts:
        first, number = next(iter(counts.items()))
        raise CheckpointError(
            f"{checkpoint.path}: {sum(counts.values())} weights are NaN or infinite, in {len(counts)} of "
            f"{len(checkpoint.state)} tensors, the first in {first!r:.80} ({number} of "
            f"{checkpoint.state[first].numel()}); the model diverged, use an earlier checkpoint"
        )


def _from_safetensors(path: Path, loaded: Loaded) -> Checkpoint:
    """Make a checkpoint of named tensors and the entries beside them."""
    entries, tensors = dict(loaded.entries), dict(loaded.tensors)
    if STATE_ENTRY in entries:
        raise CheckpointError(
            f"{path} is no checkpoint but the state of a killed run; the command that wrote it goes on with --resume"
        )
    metadata: Metadata | None = None
    notes: tuple[str, ...] = ()
    if (text := entries.pop(ENTRY, None)) is not None:
        metadata, tied, notes = decode_entry(path, text)
        _tie(path, tensors, tied)
    state, removed = strip_prefixes(vet(path, tensors))
    return Checkpoint(path, loaded.sha256, loaded.format, state, metadata, (*notes, *removed), entries)


def _tie(path: Path, tensors: dict[str, Tensor], tied: Mapping[str, str]) -> None:
    """Put each name that was written as shared beside the tensor that it shares."""
    stored = set(tensors)
    for name, owner in sorted(tied.items()):
        if name in stored or owner not in stored:
            raise CheckpointError(f"{path}: its metadata ties {name!r:.80} to {owner!r:.80}, against what it stores")
        tensors[name] = tensors[owner]


def _from_torch(path: Path, kind: Kind) -> Checkpoint:
    """Make a checkpoint of what torch.save wrote."""
    if kind is Kind.PICKLE:
        raise refusal(path, kind)
    found, notes = unwrap(path, load_torch(path, kind))
    state, removed = strip_prefixes(vet(path, found, most_bytes=path.stat().st_size))
    return Checkpoint(path, sha256_of_file(path), kind.value, state, notes=(*notes, *removed))
