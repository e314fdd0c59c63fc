"""SFRon: every few steps ascend forget where it matters more than retain, else descend retain (Huang et al. 2024).

An iteration is a step on a retain batch; each `every`-th begins with a step on a forget batch, which ascends
a_t·mean w_i·CE_i with w_i proportional to CE_i^-lambda and of mean 1, so that examples that are still known count most,
and a_t = alpha·(1 + cos(pi·t/T))/2. Its gradient is kept where F_f/F_r >= gamma, F the diagonal of the Fisher
information as SSD takes it, and then clipped in its norm. Momentum and weight decay move the other weights, too, as in
the released code.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from unlearn_audit.engine import Hooks, Term, TermGradients, Terms, trainable
from unlearn_audit.engine.task import losses as example_losses
from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.ft import on_retain
from unlearn_audit.methods.generators import UNTRIED
from unlearn_audit.methods.loop import (
    LoopSettings,
    Objective,
    Schedule,
    Step,
    budget_of,
    logits_of,
    mean_loss,
    minibatches,
    run_composition,
)
from unlearn_audit.methods.ssd import importance
from unlearn_audit.methods.transforms.mask import scale_gradients
from unlearn_audit.methods.two_sides import refuse_early

TINY = 1e-15  # of the released code, in both quotients
LEAST = torch.finfo(torch.float32).eps  # the smallest loss above 0 that a softmax in single precision tells


class SfronSettings(LoopSettings):
    """Settings of SFRon: those of the released code for CIFAR-10; its 1,500 iterations are 1,800 steps."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {}
    UNKNOWN: ClassVar[tuple[str, ...]] = ("batch_size",)

    every: Annotated[int, Field(ge=1)] = Field(default=5, description="iterations from one step on forget to the next")
    alpha: Annotated[float, Field(ge=0, le=1e30)] = Field(
        default=25.0,
        description="of the ascent in the first iteration, from where it falls to 0 as a cosine; 0: none",
    )
    adapt: Annotated[float, Field(ge=0, le=10)] = Field(
        default=0.5, description="lambda, how much more examples of a small loss are ascended; 0: all alike"
    )
    threshold: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="gamma: weights with F_forget / F_retain below it are not moved by a forget gradient"
    )
    clip_norm: Step = Field(default=7.0, description="largest norm of the gradient of a step on forget")
    step_size: Step = Field(default=0.01, description="learning rate at the beginning")
    steps: Annotated[int, Field(ge=0)] | None = Field(
        default=1800, description="budget in minibatch steps, those on forget included"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(default=5e-4, ge=0, description="weight decay of the optimiser, on every parameter")
    schedule: Schedule = Field(
        default="cosine", description="schedule of the learning rate: constant, linear, cosine, milestones:3,5"
    )

    def without_effect(self) -> tuple[str, ...]:
        """Return what only steps on forget have, where there are none."""
        return ("every", "adapt", "threshold", "clip_norm") if self.alpha == 0 else ()


def adaptive(losses: Tensor, power: float) -> Tensor:
    """Return the mean of w_i·loss_i, w_i proportional to loss_i^-power without a gradient, and of mean 1.

    A loss below `LEAST`, such as 0, has the weight of `LEAST`: it alone would have all the weight of its batch else,
    and no gradient.

    Args:
        losses: [B] of examples, in nats, with their graph.
        power: lambda.
    """
    weights = 1 / (losses.detach().clamp(min=LEAST) ** power + TINY)
    return (weights / weights.mean() * losses).mean()


def matters_more(context: UnlearningContext, settings: SfronSettings) -> list[Tensor]:
    """Return for each parameter where F_forget / F_retain is at least the threshold, by the model as it stands."""
    splits = context.splits
    size = {name: len(each) for name, each in (("forget", splits.forget_examples), ("retain", splits.retain_examples))}
    size = size if settings.batch_size == "full" else dict.fromkeys(size, settings.batch_size)
    forget = importance(context, splits.forget_examples, size["forget"], "SFRon: importance to the forget set")
    retain = importance(context, splits.retain_examples, size["retain"], "SFRon: importance to the retain set")
    return [(one + TINY) / (other + TINY) >= settings.threshold for one, other in zip(forget, retain, strict=True)]


def alternating(context: UnlearningContext, settings: SfronSettings) -> Objective:
    """Return the objective: of every + 1 steps the first ascends a forget batch, the others descend retain batches."""
    forget, retain = minibatches(context, "forget", settings), minibatches(context, "retain", settings)
    cycle = settings.every + 1

    def iteration(step: int) -> int:
        whole, place = divmod(step, cycle)
        return whole * settings.every + max(place - 1, 0)

    def terms(step: int) -> Terms:
        if step % cycle:
            return {"retain": Term(mean_loss(context, retain, iteration(step)), side="retain")}
        images, labels = forget.at(step // cycle)
        loss = adaptive(example_losses(logits_of(context, images), labels), settings.adapt)
        falling = (1 + math.cos(math.pi * iteration(step) / iterations)) / 2
        return {"forget": Term(loss, -settings.alpha * falling, "forget")}

    def gradients(steps: int) -> int:
        on_forget = math.ceil(steps / cycle)
        return forget.taken(on_forget) + retain.taken(steps - on_forget)

    def length(epochs: float) -> int:
        passes = math.ceil(epochs * retain.per_epoch - 1e-9)
        return passes + math.ceil(passes / settings.every)

    objective = Objective(
        terms, length, lambda step: iteration(step) // retain.per_epoch, gradients, ("retain",), sides=()
    )
    iterations = max(iteration(budget_of(settings, objective)), 1)
    return objective


def run_sfron(context: UnlearningContext, settings: SfronSettings) -> Unlearned:
    """Ascend forget now and then, by the weights that matter to it, and descend retain; with alpha 0 only that."""
    if settings.alpha == 0:
        return run_composition(context, on_retain(context, settings), settings, task="SFRon")
    objective = alternating(context, settings)
    refuse_early(context.extras, objective.sides, "SFRon")
    looked_at = len(context.splits.forget) + len(context.splits.retain)
    if context.count_only:
        kept = Hooks(gradient_evaluations=looked_at)
        return run_composition(context, objective, settings, hooks=[kept], task="SFRon")
    masks, parameters = matters_more(context, settings), list(trainable(context.model).values())

    def gradient(step: int, parts: TermGradients) -> None:
        if step % (settings.every + 1):
            return
        scale_gradients(parameters, masks)
        torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)

    share = sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    kept = Hooks(gradient=gradient, gradient_evaluations=looked_at, figures=lambda: {"sfron.share_moved": share})
    return run_composition(context, objective, settings, hooks=[kept], task="SFRon")


SFRON = Method(
    "sfron",
    "Huang et al. 2024; values of the released code",
    SfronSettings,
    run_sfron,
    deviations=(
        "the learning rate falls with steps; in the released code it falls with iterations, of which a step on forget "
        "is a part",
        "importance is the mean over batches as equal as can be, in index order; the released code takes its data "
        "loader's batches, shuffled and with a smaller last one",
        "losses below 1.2e-7 weigh as much as that one does; in the released code a loss of exactly 0 has all the "
        "weight of its batch, so that nothing is ascended",
    ),
    on=UNTRIED,
)
