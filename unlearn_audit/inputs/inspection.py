"""What a checkpoint holds and what would be believed of it, without measuring anything."""

import os.path
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unlearn_audit import models
from unlearn_audit.checkpoints import Checkpoint, SeveralWeights, nonfinite, read_checkpoint, read_overlay
from unlearn_audit.checkpoints.recognition import one_line
from unlearn_audit.config import CheckpointEntry, Resolved, code_is_allowed, outranks_metadata
from unlearn_audit.data import load_data
from unlearn_audit.errors import AuditError, CheckpointError
from unlearn_audit.inputs.candidate import SAMPLE
from unlearn_audit.inputs.candidates import model_spec
from unlearn_audit.model_folder import sha256_of_checkpoint
from unlearn_audit.pipeline_folder import PipelineFolder
from unlearn_audit.streams import derive_seed

MOST_GROUPS = 16  # of tensors, that are told one by one
ANY = 10  # classes, where only names count


def inspect_checkpoint(path: Path, request: Resolved) -> dict[str, Any]:
    """Return what a checkpoint holds and what would be believed of it, as plain values in reading order.

    Args:
        path: the file.
        request: flags and configs that would outrank or fill in the checkpoint's own metadata.

    Returns:
        The same keys whatever was found; where no architecture fits, `model` is null, and the notes say why.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        base = request.config.base
        checkpoint = (
            read_overlay(path, Path(base), weights=request.config.weights)
            if base and not path.is_dir()
            else read_checkpoint(path, weights=request.config.weights)
        )
    except SeveralWeights as several:
        return {
            "file": str(path),
            "format": several.format,
            "sha256": sha256_of_checkpoint(path),
            "weights": several.sets,
            "beside the weights": several.beside or "none",
            "not read": list(several.placeholders) or "none",
            "notes": "which of these weights are meant has to be said: --weights KEY",
        }
    metadata = checkpoint.metadata
    entry = CheckpointEntry(path=str(path))
    spec, origin, _ = model_spec(request.config, request.origins, entry=entry, checkpoint=checkpoint)
    notes = list(checkpoint.notes)
    if spec is None:
        try:
            found = models.identify(checkpoint.state, where=str(checkpoint.path))
        except CheckpointError as problem:
            notes.append(str(problem))
        else:
            spec, origin = found.spec, "state dict"
            notes += found.in_words
    elif checkpoint.pipeline is None:
        notes += _how_it_fits(checkpoint, spec, request, allow_code=code_is_allowed(origin))
    data, data_origin = _who_wins(request, "data", metadata.data if metadata else None)
    said = metadata.model_dump(mode="json", exclude_none=True) if metadata else {}
    notes += _stored_types(checkpoint)
    broken = nonfinite(checkpoint.state)
    return {
        "file": str(path),
        "format": checkpoint.format,
        "sha256": checkpoint.sha256,
        "weights": f"under {checkpoint.weights}" if checkpoint.weights else "the whole file",
        "sets of weights": checkpoint.sets or "one",
        "model": f"{spec} (from {origin})" if spec else None,
        **({"pipeline": _of_pipeline(checkpoint.pipeline, checkpoint)} if checkpoint.pipeline else {}),
        "data": f"{data} (from {data_origin})" if data else None,
        "role": said.get("role"),
        "tensors": len(checkpoint.state),
        "groups": _groups(checkpoint.state),
        "values": f"{sum(tensor.numel() for tensor in checkpoint.state.values()):,} (parameters and buffers)",
        "dtypes": dict(sorted(Counter(str(t.dtype).removeprefix("torch.") for t in checkpoint.state.values()).items())),
        "not finite": [f"{name}: {count} values" for name, count in broken.items()] or "none",
        "beside the weights": checkpoint.beside or "none",
        "not read": list(checkpoint.placeholders) or "none",
        "metadata": {key: value for key, value in said.items() if key not in ("model", "data", "role") and value != {}},
        "notes": notes or "none",
    }


def _groups(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the tensors by the first part of their names in which they differ, each group in words."""
    parts = [name.split(".") for name in state]
    depth = len(os.path.commonprefix(parts)) + 1
    grouped: dict[str, list[Tensor]] = {}
    for names, tensor in zip(parts, state.values(), strict=True):
        grouped.setdefault(".".join(names[:depth]), []).append(tensor)
    shown = {one_line(name, longest=60): _in_words(tensors) for name, tensors in [*grouped.items()][:MOST_GROUPS]}
    return shown | ({"…": f"{len(grouped) - MOST_GROUPS} more"} if len(grouped) > MOST_GROUPS else {})


def _in_words(tensors: Sequence[Tensor]) -> str:
    if len(tensors) == 1:
        return " x ".join(map(str, tensors[0].shape)) or "a number"
    return f"{len(tensors)} tensors, {sum(tensor.numel() for tensor in tensors):,} values"


def _of_pipeline(folder: PipelineFolder, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what the configs of a generator say: components, images, schedule, null label."""
    schedule, size = folder.scheduler, folder.unet.get("sample_size")
    betas = f"{schedule.get('beta_schedule', 'linear')}, {schedule.get('beta_start')} to {schedule.get('beta_end')}"
    return {
        **folder.components,
        "images": f"{folder.unet.get('in_channels')} x {size if size is not None else 'any size'}"
        + (" (latents)" if folder.is_text_to_image else ""),
        "timesteps": schedule.get("num_train_timesteps", 1000),
        "betas": "given one by one" if schedule.get("trained_betas") else betas,
        "prediction": schedule.get("prediction_type", "epsilon"),
        "null condition": _null_of(folder, checkpoint.metadata.classes if checkpoint.metadata else None),
    }


def _null_of(folder: PipelineFolder, classes: int | None) -> str:
    """Say what stands for no condition."""
    rows = folder.class_rows
    if folder.is_text_to_image:
        return "the empty prompt"
    if rows is None:
        return "none: it takes no condition"
    if classes is None:
        return f"label {rows - 1} of {rows} rows, where the data has {rows - 1} classes"
    return f"label {classes}" if rows == classes + 1 else f"none: {rows} label rows for {classes} classes"


def _stored_types(checkpoint: Checkpoint) -> Iterator[str]:
    """Yield which weights are not stored in the type that models compute in, in words."""
    counts = Counter(t.dtype for t in checkpoint.state.values() if t.is_floating_point() or t.is_complex())
    for kind, count in counts.items():
        if kind != torch.get_default_dtype():
            used = str(torch.get_default_dtype()).removeprefix("torch.")
            yield f"{count} tensors are stored as {str(kind).removeprefix('torch.')}; models compute in {used}"


def _how_it_fits(checkpoint: Checkpoint, spec: str, request: Resolved, *, allow_code: bool) -> list[str]:
    """Say how the weights are read for a model that was named, and how it is served; of one that is refused, why."""
    if models.is_code(spec) and not allow_code:
        return []
    where = str(checkpoint.path)
    try:
        classes, channels, size = _asked_of(checkpoint, request)
        model = models.build(spec, classes=classes or ANY, channels=channels, image_size=size, allow_code=allow_code)
        reading = models.read_for(model, checkpoint.state, spec=spec, where=where)
        if not reading.fitting:
            return [*reading.notes, f"the names of the weights are not those of {spec}"]
        if size is None or not models.is_code(spec):
            return list(reading.notes)
        blank = torch.rand(SAMPLE, channels, *size, generator=torch.Generator().manual_seed(derive_seed(0, "probe")))
        models.materialise(model, blank, spec=spec)
        models.load_state(model, reading.state, where=where)
        return [*reading.notes, *models.adapt(model, blank, spec=spec, classes=classes)]
    except AuditError as problem:
        return [str(problem)]


def _asked_of(checkpoint: Checkpoint, request: Resolved) -> tuple[int | None, int, tuple[int, int] | None]:
    """Return classes, channels and size of the images as the metadata, or the data that were named, have them."""
    metadata, folder = checkpoint.metadata, checkpoint.folder
    if metadata is not None:
        return metadata.classes, metadata.channels or models.RGB, metadata.image_size
    spec = request.config.data
    if not spec:
        return None, folder.channels if folder else models.RGB, None
    dataset = load_data(spec, allow_code=code_is_allowed(request.origins.get("data", "default")))
    channels, height, width = dataset.train.images.shape[1:]
    return dataset.classes, channels, (height, width)


def _who_wins(request: Resolved, key: str, recorded: str | None) -> tuple[str | None, str]:
    """Return a value and who said it, by precedence."""
    asked, origin = getattr(request.config, key), request.origins.get(key, "default")
    if recorded is not None and not (asked is not None and outranks_metadata(origin)):
        return recorded, "metadata"
    return asked, origin
