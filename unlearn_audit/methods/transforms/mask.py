"""A mask on the weights: only some of them take the optimiser's steps (SalUn's weight saliency, Fan et al. 2024).

It holds against the optimiser alone: a transform that mixes weights (reinit) mixes all of them, masked ones included.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from unlearn_audit.engine import Draws, FullBatch, Hooks, TermGradients, derive_seed, trainable
from unlearn_audit.methods import Course, Settings, StepTransform, UnlearningContext
from unlearn_audit.methods.loop import Share

GRID_OF = 8  # timesteps, on a generator


class MaskSettings(Settings):
    """Settings of the mask; density .5 is the paper's median threshold."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {}

    variant: Literal["saliency", "random"] = Field(
        default="saliency",
        description="the weights whose forget gradient is largest, or as many random ones (a control)",
    )
    density: Share = Field(default=0.5, description="share of all weights that move")
    strict: bool = Field(default=True, description="masked weights do not move by momentum or weight decay either")


def saliency(context: UnlearningContext) -> list[Tensor]:
    """Return |gradient of the mean loss on the forget set| of each trainable parameter, in evaluation mode.

    The absolute value is taken of the sum over the whole set, not of each batch; on a generator the loss is that over a
    grid of timesteps. The model is left in evaluation mode.
    """
    context.model.eval()
    batch = FullBatch(
        context.splits.forget_examples,
        context.transform,
        compute=context.compute,
        task=context.task,
        draws=Draws(context.seed, ("forget",), count=GRID_OF),
    )
    batch.forward_backward(context.model)
    parameters = trainable(context.model).values()
    found = [torch.zeros_like(each) if each.grad is None else each.grad.detach().abs() for each in parameters]
    context.model.zero_grad(set_to_none=True)
    return found


def top_share(scores: Sequence[Tensor], density: float) -> list[Tensor]:
    """Return boolean masks of the floor(density·n) largest scores, ranked over all tensors together.

    Of equal scores the one that comes first wins, so that the share is exact and the same each time.

    >>> [mask.tolist() for mask in top_share([torch.tensor([3.0, 1.0]), torch.tensor([3.0, 2.0, 0.0])], 0.4)]
    [[True, False], [True, False, False]]
    """
    flat = torch.cat([score.reshape(-1) for score in scores])
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    order = torch.sort(flat, descending=True, stable=True).indices
    chosen[order[: int(density * len(flat) + 1e-9)]] = True
    parts = torch.split(chosen, [score.numel() for score in scores])
    return [part.reshape(score.shape) for part, score in zip(parts, scores, strict=True)]


def random_mask(model: nn.Module, density: float, seed: int) -> list[Tensor]:
    """Return boolean masks of floor(density·n) random weights."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "random mask"))
    scores = [torch.rand(each.shape, generator=generator).to(each.device) for each in trainable(model).values()]
    return top_share(scores, density)


def scale_gradients(parameters: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
    """Multiply the gradient of each parameter that has one by factors of its shape, or by a mask, in place."""
    for parameter, factor in zip(parameters, factors, strict=True):
        if parameter.grad is not None:
            parameter.grad.mul_(factor)


def _make(context: UnlearningContext, settings: MaskSettings, course: Course) -> Hooks:
    """Mask gradients; where it is strict, put masked weights back after the optimiser's step."""
    parameters = list(trainable(context.model).values())
    salient = settings.variant == "saliency"
    rows = 1 if context.task.rows is None else GRID_OF
    count = len(context.splits.forget) * rows if salient else 0
    if context.count_only:
        return Hooks(gradient_evaluations=count)
    masks = (
        top_share(saliency(context), settings.density)
        if salient
        else random_mask(context.model, settings.density, context.seed)
    )
    held: list[Tensor] = []

    def gradient(step: int, parts: TermGradients) -> None:
        scale_gradients(parameters, masks)

    def hold(step: int) -> None:
        held[:] = [parameter.detach().clone() for parameter in parameters]

    def after(step: int) -> None:
        for parameter, mask, before in zip(parameters, masks, held, strict=True):
            parameter.copy_(torch.where(mask, parameter, before))

    strict = settings.strict
    return Hooks(
        gradient=gradient,
        hold=hold if strict else None,
        after=after if strict else None,
        gradient_evaluations=count,
    )


MASK = StepTransform(
    "mask",
    "Fan et al. 2024, with the Unlearn-Saliency code's fix of 2026-02",
    MaskSettings,
    _make,
    deviations=(
        "saliency is the gradient of the mean loss over the whole forget set; the published code adds up the mean "
        "gradients of its batches, so that an example of a smaller last batch counts more",
    ),
)
