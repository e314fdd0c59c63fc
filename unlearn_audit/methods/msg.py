"""MSG: convolution weights that retain and forget set pull alike begin again, then fine-tuning (Cadet et al. 2024).

DeepUnlearn's name for the solution that came second in the NeurIPS 2023 unlearning challenge. With
g = grad CE(retain sample) - grad CE(forget set) at the original, each convolution draws anew the share `redrawn` of its
weights whose |g| is smallest, from Kaiming's normal distribution by fan-out. Then the network descends CE(retain),
and in that the gradients of the other convolution weights are multiplied by `others`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from unlearn_audit.data import Examples
from unlearn_audit.engine import FullBatch, Hooks, TermGradients, derive_seed
from unlearn_audit.errors import UsageError
from unlearn_audit.layers import own_weight
from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.ft import on_retain
from unlearn_audit.methods.generators import UNTRIED
from unlearn_audit.methods.loop import LoopSettings, Schedule, Share, Step, run_composition
from unlearn_audit.methods.transforms.mask import scale_gradients
from unlearn_audit.methods.two_sides import refuse_early


class MsgSettings(LoopSettings):
    """Settings of MSG: those of the DeepUnlearn code, but for the schedule, which rises first there."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {}

    redrawn: Share = Field(default=0.3, description="share of each convolution's weights that begin again")
    others: Share = Field(default=0.1, description="factor on the gradients of all other convolution weights")
    step_size: Step = Field(default=1e-3, description="learning rate at the beginning")
    epochs: float | None = Field(default=5, gt=0, le=1e6, description="passes over the retain set")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(default=5e-4, ge=0, description="weight decay of the optimiser, on every parameter")
    schedule: Schedule = Field(
        default="linear", description="schedule of the learning rate: constant, linear, cosine, milestones:3,5"
    )


def convolution_weights(model: nn.Module) -> list[Tensor]:
    """Return the trainable weights [out, in, height, width] of the two-dimensional convolutions, each one once.

    Raises:
        UsageError: there is none, or one is computed from other parameters.
    """
    weights = dict.fromkeys(own_weight(module, "msg") for module in model.modules() if isinstance(module, nn.Conv2d))
    found: list[Tensor] = [weight for weight in weights if weight.requires_grad]
    if not found:
        raise UsageError("msg draws kernel weights of convolutions anew, and this network has no convolution")
    return found


def least_pulled(context: UnlearningContext, settings: MsgSettings) -> list[Tensor]:
    """Return for each convolution a mask of the weights that begin again: round(share·n) with the smallest |g|.

    Gradients are those of the mean loss over each set as a whole, in evaluation mode; the model is left in it. Of
    equal ones the first are taken.
    """
    splits = context.splits
    generator = torch.Generator().manual_seed(derive_seed(context.seed, "retain", "msg"))
    chosen = torch.randperm(len(splits.retain), generator=generator)[: len(splits.forget)].sort().values
    retain = splits.dataset.train.subset(splits.retain[chosen.numpy()])
    masks = []
    for kept, gone in zip(_slopes(context, retain), _slopes(context, splits.forget_examples), strict=True):
        order = (kept - gone).abs().reshape(-1).sort(stable=True).indices
        mask = torch.zeros_like(order, dtype=torch.bool)
        mask[order[: round(settings.redrawn * len(order))]] = True
        masks.append(mask.reshape(kept.shape))
    return masks


def _slopes(context: UnlearningContext, examples: Examples) -> list[Tensor]:
    """Return the gradient of the mean loss on a set, of each convolution."""
    context.model.eval()
    FullBatch(examples, context.transform, compute=context.compute).forward_backward(context.model)
    weights = convolution_weights(context.model)
    found = [torch.zeros_like(each) if each.grad is None else each.grad.detach().clone() for each in weights]
    context.model.zero_grad(set_to_none=True)
    return found


def _draw_anew(context: UnlearningContext, masks: list[Tensor]) -> None:
    """Give the chosen weights fresh values."""
    with torch.no_grad():
        for number, (weight, mask) in enumerate(zip(convolution_weights(context.model), masks, strict=True)):
            generator = torch.Generator().manual_seed(derive_seed(context.seed, "reinit", "msg", number))
            fresh = torch.empty(weight.shape, dtype=weight.dtype)
            nn.init.kaiming_normal_(fresh, mode="fan_out", nonlinearity="relu", generator=generator)
            weight.copy_(torch.where(mask, fresh.to(weight.device), weight))


def run_msg(context: UnlearningContext, settings: MsgSettings) -> Unlearned:
    """Draw anew what both sets pull alike, then fine-tune on the retain set."""
    weights, objective = convolution_weights(context.model), on_retain(context, settings)
    if settings.steps == 0:
        return run_composition(context, objective, settings, task="MSG")
    refuse_early(context.extras, objective.sides, "MSG")
    looked_at = len(context.splits.forget) + min(len(context.splits.forget), len(context.splits.retain))
    slowed = Hooks(gradient_evaluations=looked_at)
    if not context.count_only:
        masks = least_pulled(context, settings)
        factors = [torch.where(mask, 1.0, settings.others) for mask in masks]
        _draw_anew(context, masks)  # a run that is taken up again gets its own weights back after this

        def gradient(step: int, parts: TermGradients) -> None:
            scale_gradients(weights, factors)

        slowed = Hooks(gradient=gradient, gradient_evaluations=looked_at)
    return run_composition(context, objective, settings, hooks=[slowed], task="MSG")


MSG = Method(
    "msg",
    "Cadet et al. 2024, DeepUnlearn; values of its code",
    MsgSettings,
    run_msg,
    deviations=(
        "gradients are those of the mean loss over each whole set; the published code adds up the mean gradients of "
        "batches, so that an example of a smaller last batch counts more",
        "the learning rate falls from the first step on; in the published code it rises for the first half of the "
        "epochs",
        "biases of convolutions stay; the published code draws them anew when it exchanges the layer",
    ),
    on=UNTRIED,
)
