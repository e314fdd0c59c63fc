"""Overlays: a file with some of a U-Net's weights, which are put over those of the pipeline that it belongs to."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from unlearn_audit.checkpoints.reading import Checkpoint, read_checkpoint
from unlearn_audit.errors import CheckpointError
from unlearn_audit.files import sha256_of_bytes

PREFIX = "unet."
OTHER_NAMES = "model.diffusion_model."  # of the first releases of Stable Diffusion
PARTS_OF_UNETS = ("down_blocks.", "up_blocks.", "mid_block.")
SHOWN = 3


def read_overlay(path: Path, base: Path, *, weights: str | None = None) -> Checkpoint:
    """Read weights that stand over those of a pipeline's U-Net.

    Args:
        path: a file with some of the U-Net's tensors, by the names that they have in the folder, all of them perhaps
            after "unet.".
        base: the folder of the pipeline that they were trained in.
        weights: which of several sets of weights in the file.

    Returns:
        A checkpoint of the whole U-Net; its digest is over the hex digests of base and overlay.

    Raises:
        CheckpointError: one of both cannot be read, a name or a shape is not the base's, or nothing differs from it.
    """
    under, over = read_checkpoint(base), read_checkpoint(path, weights=weights)
    if under.pipeline is None:
        raise CheckpointError(f"{base} is no folder of a diffusion pipeline, and --base needs one")
    if over.pipeline is not None:
        raise CheckpointError(f"{path} is a whole pipeline; leave out --base, which is for a file of some weights")
    tensors = _named(path, over.state)
    _check_fits(path, base, tensors, under.state)
    changed = [name for name, tensor in tensors.items() if not torch.equal(tensor.float(), under.state[name].float())]
    if not changed:
        raise CheckpointError(f"{path} changes nothing of {base}: all its {len(tensors)} tensors are equal there")
    said = (
        f"{len(tensors)} of {len(under.state)} tensors of the U-Net from {path} (sha256 {over.sha256[:12]}…), "
        f"{len(changed)} of them changed, over {base} (sha256 {under.sha256[:12]}…)"
    )
    return replace(
        over,
        sha256=sha256_of_bytes(under.sha256.encode(), over.sha256.encode()),
        format=f"overlay ({over.format}) on a {under.format}",
        state={**under.state, **tensors},
        notes=(said, *over.notes, *under.notes),
        pipeline=under.pipeline,
    )


def is_part_of_unet(state: Mapping[str, Tensor]) -> bool:
    """Return whether tensors have the names of a U-Net's, so that they need the pipeline that they belong to."""
    return any(name.removeprefix(PREFIX).startswith(PARTS_OF_UNETS) for name in state)


def _named(path: Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by the names that a pipeline's folder has for them."""
    if any(name.startswith(OTHER_NAMES) for name in state):
        raise CheckpointError(
            f"{path} has the names of another release ('{OTHER_NAMES}…'); convert it first to a diffusers folder "
            "(diffusers' scripts/convert_original_stable_diffusion_to_diffusers.py)"
        )
    headed = all(name.startswith(PREFIX) for name in state)
    return {name.removeprefix(PREFIX) if headed else name: tensor for name, tensor in state.items()}


def _check_fits(path: Path, base: Path, tensors: Mapping[str, Tensor], under: Mapping[str, Tensor]) -> None:
    """Refuse what was trained in another network."""
    unknown = [name for name in tensors if name not in under]
    if unknown:
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        names = ", ".join(f"{name!r:.80}" for name in unknown[:SHOWN])
        raise CheckpointError(f"{path} is not of {base}, whose U-Net has no {names}{more}; name its own with --base")
    other = [name for name, tensor in tensors.items() if tensor.shape != under[name].shape]
    if other:
        name = other[0]
        raise CheckpointError(
            f"{path} is not of {base}: {name!r:.80} is {list(tensors[name].shape)}, there {list(under[name].shape)}; "
            "name its own with --base"
        )
