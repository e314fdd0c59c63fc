"""Write a checkpoint that describes itself: a safetensors file or a pipeline's folder, whole or absent."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from unlearn_audit.checkpoints.described import save_described
from unlearn_audit.checkpoints.metadata import Metadata
from unlearn_audit.checkpoints.pipelines import check_pipeline_output, write_pipeline
from unlearn_audit.errors import OutputError
from unlearn_audit.files import atomic_write, check_output, sha256_of_file, without_ending
from unlearn_audit.pipeline_folder import PipelineConfigs, PipelineFolder

FOREIGN = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".npy", ".npz", ".onnx", ".json")


def check_checkpoint_output(path: Path, *, force: bool, generator: bool = False) -> Path:
    """Return `path` if a checkpoint may be written there; called before any work is done.

    Args:
        path: the file, or of a generator the folder.
        force: replace what is there.
        generator: whether it is one, which is written as a pipeline's folder.

    Raises:
        OutputError: as `files.check_output` or `check_pipeline_output`, or the ending promises another format than
            safetensors.
    """
    if generator:
        return check_pipeline_output(path, force=force)
    if path.suffix.lower() in FOREIGN:
        better = f"{without_ending(path)}.safetensors"
        raise OutputError(f"{path}: checkpoints are written as safetensors; name it {path.with_name(better)}")
    return check_output(path, force=force)


def write_checkpoint(
    path: Path,
    state: Mapping[str, Tensor],
    metadata: Metadata,
    *,
    force: bool,
    beside: PipelineConfigs | PipelineFolder | None = None,
) -> str:
    """Write weights and where they come from.

    Weights that are tied (same memory, shape, strides and dtype) are stored once and come back tied; other views of
    one memory are stored as tensors of their own. Dtypes and shapes stay; strides become contiguous.

    Args:
        path: the file to make, or of a generator the folder.
        state: name -> dense tensor, on any device.
        metadata: what the checkpoint says about itself.
        force: replace what is there.
        beside: of a generator, what stands in its folder beside the U-Net's weights, see `write_pipeline`.

    Returns:
        The SHA-256 of the file, in hex; of a folder its digest.

    Raises:
        OutputError: as `check_checkpoint_output`, or there is no space.
        CheckpointError: the state is empty or holds what safetensors cannot; the metadata is not JSON.
    """
    if beside is not None:
        return write_pipeline(path, state, metadata, beside=beside, force=force)
    check_checkpoint_output(path, force=force)
    digests: list[str] = []

    def write(target: Path) -> None:
        save_described(target, state, metadata, where=path)
        digests.append(sha256_of_file(target))

    atomic_write(path, write)
    return digests[0]
