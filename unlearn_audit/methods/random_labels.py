"""RL, random labels: fine-tune on the forget set under random labels and on the retain set under its own.

Graves et al. 2021 (Amnesiac unlearning) is its origin. Codes differ: Unlearn-Saliency draws over all classes, the true
one included, AMUN's excludes it; both forms are here. An example is met once in a pass over the forget set, so that
labels redrawn for each batch and labels redrawn for each pass have the same law.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from unlearn_audit.engine import Term, derive_seed, upload
from unlearn_audit.engine.task import losses as example_losses
from unlearn_audit.errors import UsageError
from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.loop import (
    LoopSettings,
    Objective,
    logits_of,
    mean_loss,
    minibatches,
    paired,
    run_composition,
)
from unlearn_audit.methods.pseudo import RlOnGenerators, run_pseudo
from unlearn_audit.methods.turns import Turns


class RlSettings(LoopSettings):
    """Settings of RL: those of the Unlearn-Saliency code (SGD .01, momentum .9, decay 5e-4, 10 epochs); batch 64."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {"batch_size": 256}

    epochs: float | None = Field(default=10, gt=0, le=1e6, description="passes over the forget and the retain set")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(default=5e-4, ge=0, description="weight decay of the optimiser, on every parameter")
    exclude_true: bool = Field(default=False, description="never draw an example's own label (AMUN's form)")
    redraw: Literal["epoch", "once"] = Field(
        default="epoch", description="new labels in each pass over the forget set, or once"
    )
    order: Literal["forget-first", "alternate"] = Field(
        default="forget-first", description="a pass over forget, then one over retain; or a batch of each in every step"
    )
    retain_free: bool = Field(default=False, description="do not use the retain set")

    @model_validator(mode="after")
    def _order_of_two(self) -> "RlSettings":
        """Refuse an order of one set."""
        if self.retain_free and self.order == "alternate":
            raise ValueError("order alternate needs the retain set")
        return self


class RandomLabels:
    """Labels for the forget set, drawn uniformly; those of a pass depend on (seed, its number) alone.

    Args:
        labels: [n] the labels that the examples have.
        classes: C; labels are drawn from 0 to C - 1.
        seed: of the draws.
        exclude_true: draw from the other C - 1 only.
        redraw: each pass its own, or all the first one's.

    Raises:
        UsageError: there is no other class.
    """

    def __init__(self, labels: Tensor, classes: int, *, seed: int, exclude_true: bool, redraw: str) -> None:
        if exclude_true and classes < 2:
            raise UsageError("exclude_true: there is only one class, so no other label can be drawn")
        self.labels, self.classes, self.seed = labels.cpu(), classes, seed
        self.exclude_true, self.redraw = exclude_true, redraw
        self._placed: tuple[int, Tensor] = (-1, self.labels)

    def on(self, device: torch.device, epoch: int) -> Tensor:
        """Return the labels [n] of a pass on a device; they travel there once a pass."""
        if self._placed[0] != epoch:
            self._placed = (epoch, upload(self.drawn(epoch), device))
        return self._placed[1]

    def drawn(self, epoch: int) -> Tensor:
        """Return the labels [n] of a pass over the forget set, on the CPU."""
        number = 0 if self.redraw == "once" else epoch
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "random labels", number))
        if self.exclude_true:
            shifts = torch.randint(1, self.classes, self.labels.shape, generator=generator)
            return (self.labels + shifts) % self.classes
        return torch.randint(0, self.classes, self.labels.shape, generator=generator)


def run_rl(context: UnlearningContext, settings: RlSettings) -> Unlearned:
    """Fine-tune on the forget set under random labels, then on the retain set, in each epoch.

    With the retain pass last (the published order) retain accuracy is higher than with alternating batches.
    """
    return run_composition(context, relabelled(context, settings), settings, task="RL")


def relabelled(context: UnlearningContext, settings: RlSettings) -> Objective:
    """Return RL's objective: CE on the forget set under random labels, CE on the retain set."""
    forget = minibatches(context, "forget", settings)
    retain = None if settings.retain_free else minibatches(context, "retain", settings)
    labels = RandomLabels(
        forget.examples.labels,
        context.splits.dataset.classes,
        seed=context.seed,
        exclude_true=settings.exclude_true,
        redraw=settings.redraw,
    )

    def on_forget(batch: int) -> dict[str, Term]:
        images, _ = forget.at(batch)
        wrong = labels.on(context.compute.device, batch // forget.per_epoch)[forget.rows(batch)]
        return {"random labels": Term(example_losses(logits_of(context, images), wrong).mean(), side="forget")}

    def on_retain(batch: int) -> dict[str, Term]:
        return {"retain": Term(mean_loss(context, retain, batch), side="retain")} if retain else {}

    if retain is None or settings.order == "alternate":
        return paired(retain, forget, lambda step: on_forget(step) | on_retain(step), losses=("retain",))
    return Turns(forget, retain).objective(on_forget, on_retain)


RL = Method(
    "rl",
    "Graves et al. 2021; values of the Unlearn-Saliency code",
    RlSettings,
    run_rl,
    on={"generator": Method("rl", "Graves et al. 2021, as pseudo conditions", RlOnGenerators, run_pseudo)},
)
