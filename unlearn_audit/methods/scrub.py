"""SCRUB: a student leaves its teacher on the forget set and stays with it on the retain set (Kurmanji et al. 2023).

The teacher is the original, frozen. Each of the first epochs makes a pass over the forget set that ascends
d = T^2·KL(teacher || student), then every epoch a pass over the retain set that descends gamma·CE + alpha·d. At the
start student and teacher are the same, so d is stationary: a network without BatchNorm does not move in the first
forget pass. With rewind (SCRUB+R) the epoch is chosen whose forget error is nearest to that of held-out data.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from unlearn_audit.data import Examples
from unlearn_audit.engine import Hooks, Term, modes_kept, predict
from unlearn_audit.engine.task import losses as example_losses
from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.generators import NEEDS_CLASSES
from unlearn_audit.methods.loop import (
    LoopSettings,
    Schedule,
    Size,
    Step,
    logits_of,
    minibatches,
    run_composition,
)
from unlearn_audit.methods.turns import Turns

Weight = Annotated[float, Field(ge=0, le=1e30)]


class ScrubSettings(LoopSettings):
    """Settings of SCRUB: those of the published code for ResNet and All-CNN on CIFAR-10."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {}

    step_size: Step = Field(default=5e-4, description="learning rate")
    epochs: float | None = Field(default=3, gt=0, le=1e6, description="passes over the retain set")
    forget_epochs: Annotated[int, Field(ge=0)] = Field(
        default=2, description="msteps: epochs that begin with a forget pass"
    )
    batch_size: Size = Field(default=128, description="retain examples in one step; full: the whole set")
    forget_batch_size: Annotated[int, Field(gt=0)] = Field(default=32, description="forget examples in one step")
    alpha: Weight = Field(default=0.001, description="weight of d on the retain set")
    gamma: Weight = Field(default=0.99, description="weight of the cross-entropy on the retain set")
    temperature: Step = Field(default=4.0, description="T, of both softmaxes in d")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(default=5e-4, ge=0, description="weight decay of the optimiser, on every parameter")
    schedule: Schedule = Field(
        default="milestones:3,5,9",
        description="schedule of the learning rate; the published one has x 0.1 after epochs 3, 5, 9",
    )
    rewind: bool = Field(
        default=False, description="SCRUB+R: take the epoch whose forget error is nearest to the twin's"
    )


def divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Return d = T^2·KL(softmax(teacher/T) || softmax(student/T)), the mean over the batch, a scalar.

    Args:
        teacher: logits [B, classes].
        student: logits [B, classes], with their graph.
        temperature: T.
    """
    return temperature**2 * functional.kl_div(
        functional.log_softmax(student.float() / temperature, dim=1),
        functional.log_softmax(teacher.float() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )


def run_scrub(context: UnlearningContext, settings: ScrubSettings) -> Unlearned:
    """Ascend the divergence from the original on forget, then descend CE and the divergence on retain, in each epoch.

    The student is in training mode and the teacher in evaluation mode, as in the published code.
    """
    teacher = copy.deepcopy(context.model).eval().requires_grad_(False)
    forget = minibatches(context, "forget", settings, settings.forget_batch_size)
    retain = minibatches(context, "retain", settings)

    def both(images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), context.compute.autocast():
            wanted: Tensor = teacher(images)
        return wanted, logits_of(context, images)

    def on_forget(batch: int) -> dict[str, Term]:
        images, _ = forget.at(batch)
        return {"divergence on forget": Term(divergence(*both(images), settings.temperature), -1.0, "forget")}

    def on_retain(batch: int) -> dict[str, Term]:
        images, labels = retain.at(batch)
        wanted, logits = both(images)
        return {
            "retain": Term(example_losses(logits, labels).mean(), settings.gamma, "retain"),
            "divergence": Term(divergence(wanted, logits, settings.temperature), settings.alpha, "retain"),
        }

    turns = Turns(forget, retain, until=settings.forget_epochs)
    rewind = _Rewind(context, turns) if settings.rewind else None
    done = run_composition(
        context,
        turns.objective(on_forget, on_retain),
        settings,
        hooks=[Hooks(after=rewind.after)] if rewind else [],
        task="SCRUB",
    )
    return replace(done, notes=(*done.notes, rewind.choose())) if rewind and not context.count_only else done


class _Rewind:
    """Keeps the weights of each epoch and goes back to the one that has forgotten just enough (section 3.3).

    "Enough" is the final model's error on the unseen twin: held-out examples of the same classes and labels.
    """

    def __init__(self, context: UnlearningContext, turns: Turns) -> None:
        self.context, self.turns = context, turns
        self.twin = context.splits.unseen.examples

    def after(self, step: int) -> None:
        """Keep the weights and the forget error at the end of an epoch."""
        turn = self.turns.at(step)
        if self.turns.at(step + 1).epoch == turn.epoch:
            return
        memory, model = self.context.memory, self.context.model
        with modes_kept(model):
            memory[f"{turn.epoch}/error"] = torch.tensor(self._error(self.context.splits.forget_examples))
        memory.update({f"{turn.epoch}/weights/{name}": each.clone() for name, each in model.state_dict().items()})

    def choose(self) -> str:
        """Load the chosen epoch's weights and say which one it is."""
        memory = self.context.memory
        errors = {int(key.partition("/")[0]): float(each) for key, each in memory.items() if key.endswith("/error")}
        if not errors:
            return "rewind: no epoch was finished, so there was nothing to choose from"
        wanted = self._error(self.twin)
        epoch = min(errors, key=lambda epoch: (abs(errors[epoch] - wanted), -epoch))
        start = f"{epoch}/weights/"
        self.context.model.load_state_dict({
            key.removeprefix(start): each for key, each in memory.items() if key.startswith(start)
        })
        return f"rewound to epoch {epoch + 1} of {len(errors)}: forget error {errors[epoch]:.3f}, twin {wanted:.3f}"

    def _error(self, examples: Examples) -> float:
        context = self.context
        logits = predict(context.model, examples.images, context.transform, compute=context.compute)
        return float(np.mean(logits.argmax(axis=1) != examples.labels.numpy()))


SCRUB = Method(
    "scrub",
    "Kurmanji et al. 2023; values of the published code",
    ScrubSettings,
    run_scrub,
    on=NEEDS_CLASSES,
)
