"""CT: every convolution kernel is transposed, then fine-tuning on the retain set (Cadet et al. 2024).

DeepUnlearn's name for a solution of the NeurIPS 2023 unlearning challenge: kernels [out, in, k, k] exchange their two
spatial axes, which the retain set repairs in a few epochs and the forget set does not. Done twice it undoes itself.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from unlearn_audit.errors import UsageError
from unlearn_audit.layers import own_weight
from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.ft import on_retain
from unlearn_audit.methods.generators import UNTRIED
from unlearn_audit.methods.loop import LoopSettings, Schedule, Step, run_composition


class CtSettings(LoopSettings):
    """Settings of CT: those of the DeepUnlearn code."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {}

    step_size: Step = Field(default=1e-3, description="learning rate at the beginning")
    epochs: float | None = Field(default=3, gt=0, le=1e6, description="passes over the retain set")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(default=5e-4, ge=0, description="weight decay of the optimiser, on every parameter")
    schedule: Schedule = Field(
        default="cosine", description="schedule of the learning rate: constant, linear, cosine, milestones:3,5"
    )


def transposable(model: nn.Module) -> list[Tensor]:
    """Return the square kernels [out, in, k, k] with k > 1, each one once.

    Raises:
        UsageError: there is none, or one is computed from other parameters.
    """
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    square = [each for each in convolutions if each.kernel_size[0] == each.kernel_size[1] > 1]
    found: list[Tensor] = list(dict.fromkeys(own_weight(each, "ct") for each in square))
    if not found:
        raise UsageError("ct transposes square convolution kernels, and this network has none larger than 1x1")
    return found


def transpose_kernels(model: nn.Module) -> None:
    """Exchange the two spatial axes of every square kernel, in place."""
    with torch.no_grad():
        for kernel in transposable(model):
            kernel.copy_(kernel.transpose(2, 3).clone())


def run_ct(context: UnlearningContext, settings: CtSettings) -> Unlearned:
    """Transpose the kernels, then fine-tune on the retain set; the forget set is never looked at."""
    transposable(context.model)
    if settings.steps != 0 and not context.count_only:  # a run that is taken up again gets its own weights after this
        transpose_kernels(context.model)
    return run_composition(context, on_retain(context, settings), settings, task="CT")


CT = Method(
    "ct",
    "Cadet et al. 2024, DeepUnlearn; values of its code",
    CtSettings,
    run_ct,
    deviations=("the learning rate falls in every step; in the published code it falls once an epoch",),
    on=UNTRIED,
)
