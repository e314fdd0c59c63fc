"""Write a generator as a checkpoint: a pipeline's folder, whole or absent, whose U-Net describes itself."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from unlearn_audit.checkpoints.described import save_described
from unlearn_audit.checkpoints.metadata import Metadata
from unlearn_audit.errors import OutputError
from unlearn_audit.files import WEIGHTS, atomic_folder, check_replaced_folder
from unlearn_audit.pipeline_folder import (
    CONFIG,
    SCHEDULER,
    SCHEDULER_CONFIG,
    UNET,
    UNET_WEIGHTS,
    PipelineConfigs,
    PipelineFolder,
    beside_weights,
    read_pipeline_folder,
    sha256_of_pipeline,
    stranger_in,
)


def check_pipeline_output(path: Path, *, force: bool) -> Path:
    """Return `path` if a pipeline's folder may be written there; called before any work is done.

    Raises:
        OutputError: as `files.check_replaced_folder`, or it is named like a file.
    """
    if path.suffix.lower() in WEIGHTS:
        raise OutputError(f"{path}: a generator is written as a folder; name it {path.with_suffix('')}")
    return check_replaced_folder(path, force=force, stranger_in=stranger_in, kind="a pipeline")


def write_pipeline(
    path: Path,
    state: Mapping[str, Tensor],
    metadata: Metadata,
    *,
    beside: PipelineConfigs | PipelineFolder,
    force: bool,
) -> str:
    """Write the U-Net's weights and where they come from, with the files that make them a pipeline.

    Args:
        path: the folder to make.
        state: name -> dense tensor of the U-Net, on any device.
        metadata: what the checkpoint says about itself.
        beside: the configs of a new pipeline; or the folder of another one, whose other files are hard-linked here,
            or copied where the file system has no such links.
        force: replace an existing folder of a pipeline.

    Returns:
        The digest of the folder, as `sha256_of_pipeline` defines it.

    Raises:
        OutputError: as `check_pipeline_output`, or there is no space.
        CheckpointError: the state is empty or holds what safetensors cannot; the metadata is not JSON.
    """
    check_pipeline_output(path, force=force)

    def fill(folder: Path) -> None:
        (folder / UNET).mkdir()
        weights = folder / UNET / UNET_WEIGHTS
        save_described(weights, state, metadata, where=path, entries={"format": "pt"})
        if isinstance(beside, PipelineConfigs):
            (folder / SCHEDULER).mkdir()
            _write_json(folder / UNET / CONFIG, beside.unet)
            _write_json(folder / SCHEDULER / SCHEDULER_CONFIG, beside.scheduler)
        else:
            for file in beside_weights(beside):
                _link(file, folder / file.relative_to(beside.path))

    atomic_folder(path, fill)
    return sha256_of_pipeline(read_pipeline_folder(path))


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a config as diffusers does: sorted, so that equal configs are equal bytes."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def _link(source: Path, target: Path) -> None:
    """Make a file of the same content: a hard link, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source.resolve(), target)
