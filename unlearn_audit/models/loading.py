"""Weights into a model, strictly, with one line where they do not fit; and how large a model is."""

from collections import Counter, OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unlearn_audit.errors import CheckpointError, MeasurementError
from unlearn_audit.models.adapting import evaluating
from unlearn_audit.models.building import Shapes, first_line, shapes_of
from unlearn_audit.models.denoisers import Denoiser
from unlearn_audit.user_code import raised

SHOWN = 3  # differing keys named per kind; the rest is counted


def is_counter(name: str) -> bool:
    """Return whether a tensor is BatchNorm's count of batches, which old checkpoints lack and no prediction uses."""
    return name.rpartition(".")[2] == "num_batches_tracked"


def other_types(model: nn.Module, state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Tell which types of a state dict are not those that the model computes in; () where all are.

    Args:
        model: the model that the state dict is for.
        state: names and tensors.
    """
    own = model.state_dict()
    pairs = Counter(
        (state[name].dtype, tensor.dtype)
        for name, tensor in own.items()
        if name in state and state[name].dtype != tensor.dtype and not is_counter(name)
    )
    return tuple(
        f"{count} tensor{'s are' if count > 1 else ' is'} stored as {str(stored).removeprefix('torch.')} and computed "
        f"with as {str(used).removeprefix('torch.')}"
        for (stored, used), count in pairs.items()
    )


def check_fits(model: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Refuse a state dict whose names and shapes are not a model's; the model may stand on no device.

    Args:
        model: the model that would be filled.
        state: names and tensors, without wrappers' prefixes.
        where: the checkpoint's name, for the message.

    Raises:
        CheckpointError: as `load_state`.
    """
    own = model.state_dict()
    counters = {name: tensor for name, tensor in own.items() if is_counter(name) and name not in state}
    needed, found = shapes_of(own), shapes_of({**counters, **state})
    if needed != found:
        raise CheckpointError(f"{where}: {_misfit(needed, found)}")


def load_state(model: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Copy a state dict into a model, in place; every name and every shape has to agree.

    The one thing that may be absent is BatchNorm's `num_batches_tracked`, which PyTorch before 0.4.1 did not write.

    Args:
        model: the model to fill; its own precision is kept.
        state: names and tensors, without wrappers' prefixes.
        where: the checkpoint's name, for the message.

    Raises:
        CheckpointError: the first differing names and shapes, or both class counts where only the head differs.
    """
    check_fits(model, state, where=where)
    own = model.state_dict()
    counters = {name: tensor for name, tensor in own.items() if is_counter(name) and name not in state}
    for name, tensor in state.items():
        if tensor.is_complex() and not own[name].is_complex():
            raise CheckpointError(
                f"{where}: tensor '{name:.80}' holds complex numbers ({tensor.dtype}) where the model has "
                f"{own[name].dtype}; name the architecture that computes in complex numbers with --model"
            )
    entries = OrderedDict({**counters, **state})
    # Modules that changed their layout (MNASNet) ask for the version of the layout, which safetensors does not carry.
    entries._metadata = getattr(own, "_metadata", None)  # type: ignore[attr-defined]
    try:
        model.load_state_dict(entries, strict=True)
    except (RuntimeError, ValueError) as problem:
        raise CheckpointError(f"{where}: the weights do not fit the model: {first_line(problem)}") from problem


def _misfit(needed: Shapes, found: Shapes) -> str:
    """Tell two class counts or two channel counts where that is all, else the differing keys."""
    channels = _channel_counts(needed, found)
    if channels is not None:
        return (
            f"checkpoint takes images of {channels[0]} channels, data has {channels[1]}; "
            "name the data that it was trained on with --data, or another checkpoint"
        )
    counts = _class_counts(needed, found)
    if counts is None:
        return f"the weights do not fit the model; {differences(needed, found)}"
    return (
        f"checkpoint has {counts[0]} classes, data has {counts[1]}; "
        "name the data that it was trained on with --data, or another checkpoint"
    )


def _class_counts(needed: Shapes, found: Shapes) -> tuple[int, int] | None:
    """Return the class counts (found, needed) if the shapes differ in the first dimension of the head alone.

    Another layer's outputs are a later layer's inputs, its second dimension, so only the head can differ like this.
    """
    if needed.keys() != found.keys():
        return None
    pairs = [(found[name], needed[name]) for name in needed if found[name] != needed[name]]
    if any(not has or not wants or has[1:] != wants[1:] for has, wants in pairs):
        return None
    counts = {(has[0], wants[0]) for has, wants in pairs}
    return counts.pop() if len(counts) == 1 else None


def _channel_counts(needed: Shapes, found: Shapes) -> tuple[int, int] | None:
    """Return the counts of input channels (found, needed) if one convolution's second dimension is all that differs.

    A layer's outputs differ wherever a later layer's inputs do, so only the first convolution can differ like this.
    """
    names = [name for name in needed if found.get(name) != needed[name]] if needed.keys() == found.keys() else []
    if len(names) != 1:
        return None
    has, wants = found[names[0]], needed[names[0]]
    alike = len(has) == len(wants) == 4 and (has[0], *has[2:]) == (wants[0], *wants[2:])
    return (has[1], wants[1]) if alike else None


def differences(needed: Shapes, found: Shapes) -> str:
    """Return the first names that are missing, unexpected or of another shape, in words.

    >>> differences({"fc.weight": (10, 64), "fc.bias": (10,)}, {"fc.weight": (10, 32), "linear.bias": (10,)})
    "missing: 'fc.bias'; unexpected: 'linear.bias'; other shape: 'fc.weight' is [10, 32] where [10, 64] is needed"
    """
    kinds = {
        "missing": [f"'{name}'" for name in needed if name not in found and not is_counter(name)],
        "unexpected": [f"'{name}'" for name in found if name not in needed and not is_counter(name)],
        "other shape": [
            f"'{name}' is {list(found[name])} where {list(shape)} is needed"
            for name, shape in needed.items()
            if found.get(name, shape) != shape
        ],
    }
    return "; ".join(f"{kind}: {_some(names)}" for kind, names in kinds.items() if names)


def _some(names: list[str]) -> str:
    """Join the first few and count the rest."""
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def parameter_count(model: nn.Module) -> int:
    """Return the number of learnable parameters, shared ones once; buffers are not counted.

    >>> parameter_count(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in model.parameters())


def flops_per_image(model: nn.Module, image: Tensor) -> int:
    """Return the floating-point operations of one forward pass over one image, in eval mode.

    A multiplication with its addition counts as two; matrix products, convolutions and attention are counted,
    element-wise operations are not (the convention of `torch.utils.flop_counter`).

    Args:
        model: the model; its training mode is put back afterwards.
        image: one normalised image, [C, H, W] or [1, C, H, W], on the model's device.

    Raises:
        MeasurementError: the model cannot take the image.
    """
    batch = image.unsqueeze(0) if image.ndim == 3 else image
    asked = model.asked if isinstance(model, Denoiser) else lambda images: images
    try:
        return flops_of(model, asked(batch))
    except Exception as problem:
        with suppress(Exception):  # some models take no single image
            return flops_of(model, asked(batch.repeat_interleave(2, dim=0))) // 2
        raise MeasurementError(f"the model cannot take an image {list(batch.shape)}: {raised(problem)}") from problem


def flops_of(model: nn.Module, batch: Any) -> int:
    """Return the floating-point operations of one forward pass over whatever a model is called with, in eval mode."""
    counter = FlopCounterMode(display=False)
    with evaluating(model), torch.no_grad(), counter:
        model(batch)
    return counter.get_total_flops()
