"""Entanglement: suppress the forget set, then repair what is close to it without moving the rest (Cheng et al. 2026).

The aim is suppression, not a model like a retrained one. What is retained is split into adjacent and remote examples.
Stage 1 ascends gamma·mean min(CE, c) on forget batches under the constraint h = CE(remote) - CE_0(remote) = 0, by an
augmented Lagrangian lambda·h + mu/2·h^2 with an Adam step a batch; then lambda <- lambda + mu·h, with the h before the
step. CE_0 is the original's loss over one pass of the same batches, augmented where these are. Since it is an equality,
lambda may be negative. Updated at every minibatch, lambda also sums up the batches' noise: it is a controller of the
remote loss, and the multiplier only once h has settled. Stage 2 descends CE on adjacent batches with momentum, and
takes out of the velocity what lies in the span of two gradients: G_m of the remote loss, and G_f of
(1 - alpha)·sign·CE(forget) + alpha·W, W the squared 2-Wasserstein distance of the losses on a forget batch between the
model and the one that stage 1 left. The model stays in evaluation mode throughout.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from unlearn_audit.data import Splits
from unlearn_audit.engine import Batches, Hooks, Term, TermGradients, Terms, derive_seed, trainable
from unlearn_audit.engine.task import losses as example_losses
from unlearn_audit.errors import UsageError
from unlearn_audit.inputs import with_as_many, with_neighbours
from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.adjacent import with_settings
from unlearn_audit.methods.generators import NEEDS_CLASSES
from unlearn_audit.methods.loop import (
    LoopSettings,
    Schedule,
    Share,
    Size,
    Step,
    logits_of,
    mean_loss,
    minibatches,
    paired,
)
from unlearn_audit.methods.projection import Gradients, dot, length, projected
from unlearn_audit.methods.stages import Edit, Stage, run_stages

TASK = "entanglement"


class EntanglementSettings(LoopSettings):
    """Settings of both stages: those of the published code for ResNet-18 on CIFAR-100."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {}
    UNKNOWN: ClassVar[tuple[str, ...]] = ("adjacent",)

    adjacent: str | None = Field(
        default=None,
        description="adjacent set, written like --forget; default: the forget set's neighbours in the model's features",
    )
    step_size_1: Step = Field(default=2.5e-6, description="stage 1: learning rate of Adam; small networks need more")
    epochs_1: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        default=1, description="stage 1: budget in passes over the remote examples"
    )
    steps_1: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="stage 1: budget in minibatch steps; default: --steps, where that is given"
    )
    batch_size_1: Size = Field(default=128, description="stage 1: remote examples in one step")
    forget_batch_size_1: Size = Field(default=16, description="stage 1: forget examples in one step")
    gamma: Annotated[float, Field(ge=0, le=1e30)] = Field(default=1.0, description="stage 1: weight of the forget loss")
    mu: Annotated[float, Field(ge=0, le=1e30)] = Field(default=10.0, description="stage 1: weight of h^2 / 2")
    relax: Annotated[float, Field(ge=0, le=1e30)] = Field(
        default=1.0, description="stage 1: lambda grows by this times mu times h"
    )
    loss_clip: Step | None = Field(default=10.0, description="stage 1: c, the largest loss of one example that counts")
    step_size: Step = Field(default=2e-5, description="stage 2: learning rate of SGD")
    epochs: float | None = Field(
        default=6, gt=0, le=1e6, description="stage 2: budget in passes over adjacent examples"
    )
    batch_size: Size = Field(default=128, description="stage 2: adjacent examples in one step; full: all of them")
    forget_batch_size: Size = Field(default=128, description="stage 2: forget examples in a batch of G_f")
    remote_batch_size: Size = Field(default=512, description="stage 2: remote examples in a batch of G_m")
    limit: Annotated[int, Field(gt=0)] = Field(default=10, description="stage 2: most batches in each of G_f and G_m")
    alpha: Share = Field(default=0.5, description="stage 2: weight of the Wasserstein term in G_f")
    sign: Literal["code", "paper"] = Field(
        default="code", description="stage 2: of the forget loss in G_f, -1 as in the code, +1 as in the paper"
    )
    project: bool = Field(default=True, description="stage 2: project at all (without: plain descent, a control)")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="stage 2: of the projected velocity")
    schedule: Schedule = Field(
        default="constant",
        description="stage 2: of the step size: constant, linear or cosine (to zero), "
        "milestones:3,5 (x 0.1 after epochs)",
    )
    optimizer: Literal["sgd"] = Field(default="sgd", description="stage 2: of a projected velocity, sgd alone")
    bn: Literal["frozen"] = Field(default="frozen", description="BatchNorm and dropout are at rest in both stages")

    @model_validator(mode="before")
    @classmethod
    def _budget_of_stage_1(cls, values: Any) -> Any:
        """Let steps of stage 1 replace its epochs, and let steps that are given hold for both stages."""
        if not isinstance(values, Mapping):
            return values
        steps, epochs = values.get("steps_1"), values.get("epochs_1")
        if steps is not None and epochs is not None:
            raise ValueError("steps_1 and epochs_1 exclude each other; give one of them")
        steps = values.get("steps") if steps is None and epochs is None else steps
        return values if steps is None else {**values, "steps_1": steps, "epochs_1": None}

    @model_validator(mode="after")
    def _no_stop(self) -> "EntanglementSettings":
        """Refuse a stop, which would be one of which stage?"""
        if self.stop_at or self.stop_forget_loss or self.stop_retain_loss:
            raise ValueError("stop_at, stop_forget_loss, stop_retain_loss: both stages run to the end of their budgets")
        return self

    @property
    def first(self) -> LoopSettings:
        """Return what the loop is told of stage 1."""
        return LoopSettings(
            step_size=self.step_size_1,
            steps=self.steps_1,
            epochs=self.epochs_1,
            batch_size=self.batch_size_1,
            optimizer="adam",
            weight_decay=self.weight_decay,
            augment=self.augment,
        )

    @property
    def second(self) -> LoopSettings:
        """Return what the loop is told of stage 2; momentum is that of the velocity."""
        return LoopSettings(
            step_size=self.step_size,
            steps=self.steps,
            epochs=self.epochs,
            batch_size=self.batch_size,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            augment=self.augment,
        )


def run_entanglement(context: UnlearningContext, settings: EntanglementSettings) -> Unlearned:
    """Suppress the forget set while the remote loss stays (stage 1), then repair the adjacent examples (stage 2).

    Without --adjacent these are the tenth of the retain set that is nearest to the forget set in the model's features.
    The published step sizes are for large networks: on small ones stage 1 does nothing in an epoch with them.
    """
    context = replace(context, splits=_with_adjacent(context, settings))
    splits = context.splits
    done = run_stages(context, (_suppress(context, settings), _repair(context, settings)), task=TASK)
    near, named = len(splits.retain) - len(splits.remote), splits.adjacent.spec if splits.adjacent else ""
    told = (
        f"{near} adjacent examples, {len(splits.remote)} remote ones: an audit with --adjacent {named} has them apart"
    )
    return replace(done, notes=(*done.notes, told))


def _with_adjacent(context: UnlearningContext, settings: EntanglementSettings) -> Splits:
    """Return the sets with the adjacent one that was handed over, that is named, or that is found in the features."""
    splits = context.splits
    if not len(splits.retain):
        raise UsageError("the retain set is empty; this method needs something to keep")
    named = splits if splits.adjacent is not None else with_settings(splits, settings)
    if named.adjacent is not None:
        return named
    if context.count_only:  # the model may be an untrained one: nothing is asked of it
        return with_as_many(splits)
    return with_neighbours(splits, context.model, context.transform, context.compute)


# ----- stage 1


def _suppress(context: UnlearningContext, settings: EntanglementSettings) -> Stage:
    """Return the ascent on forget batches under the constraint on remote ones."""
    first = settings.first
    remote = minibatches(context, "remote", first)
    forget = minibatches(context, "forget", first, settings.forget_batch_size_1)
    constraint = _Constraint(context, settings, level=0.0 if context.count_only else _level(context, remote))

    def terms(step: int) -> Terms:
        h = mean_loss(context, remote, step) - constraint.level
        forgotten = mean_loss(context, forget, step, clip=settings.loss_clip)
        return {
            "forget clipped": Term(forgotten, -settings.gamma, "forget"),
            "constraint": Term(constraint.penalty(h), 1.0, "retain"),
        }

    return Stage(first, paired(remote, forget, terms, losses=()), begin=lambda edit: [constraint.hooks()])


def _level(context: UnlearningContext, remote: Batches) -> float:
    """Return the mean loss over the first pass of the batches themselves: the original's h is 0 on average."""
    _rest(context.model)
    with torch.no_grad():
        sums = (mean_loss(context, remote, step) * len(remote.rows(step)) for step in range(remote.per_epoch))
        return sum(map(float, sums)) / len(remote.examples)


class _Constraint:
    """The multiplier of h = CE(remote batch) - level = 0.

    Args:
        context: the model.
        settings: of the method.
        level: CE_0, the mean loss on remote batches of the model before stage 1.
    """

    def __init__(self, context: UnlearningContext, settings: EntanglementSettings, *, level: float) -> None:
        self.context, self.settings, self.level = context, settings, level
        self._h: Tensor | None = None

    @property
    def multiplier(self) -> Tensor | float:
        """Lambda, a scalar; 0 before the first step."""
        return self.context.memory.get(f"{TASK}/lambda", 0.0)

    def penalty(self, h: Tensor) -> Tensor:
        """Return lambda·h + mu/2·h^2 with its graph, and keep h for the update."""
        self._h = h.detach()
        return self.multiplier * h + self.settings.mu / 2 * h**2

    def after(self, step: int) -> None:
        """Update lambda with the h that the step began with."""
        if self._h is not None:
            grown = self.multiplier + self.settings.relax * self.settings.mu * self._h
            self.context.memory[f"{TASK}/lambda"] = grown

    def hooks(self) -> Hooks:
        """Return the update, and what is shown and told of lambda."""
        return Hooks(
            begin=lambda: _rest(self.context.model),
            after=self.after,
            look=lambda step: {"lambda": float(self.multiplier)},
            figures=lambda: {"lambda": float(self.multiplier)},
        )


def _rest(model: nn.Module) -> None:
    """Keep the whole model in evaluation mode: BatchNorm's statistics and dropout are frozen."""
    model.eval()


# ----- stage 2


def _repair(context: UnlearningContext, settings: EntanglementSettings) -> Stage:
    """Return the descent on adjacent batches, projected."""
    second = settings.second
    later = replace(context, seed=derive_seed(context.seed, "stage", "minibatches"))
    adjacent = minibatches(later, "adjacent", second)
    forget = minibatches(later, "forget", second, settings.forget_batch_size)
    remote = minibatches(later, "remote", second, settings.remote_batch_size)

    def terms(step: int) -> Terms:
        return {"adjacent": Term(mean_loss(context, adjacent, step), 1.0, "retain")}

    def begin(edit: Edit) -> Sequence[Hooks]:
        return [Projection(context, settings, forget, remote, edit).hooks()]

    return Stage(second, paired(adjacent, None, terms, losses=()), begin=begin)


def squared_wasserstein(one: Tensor, two: Tensor) -> Tensor:
    """Return W_2^2 between two one-dimensional empirical laws of equal size, a scalar with its graph.

    >>> squared_wasserstein(torch.tensor([0.0, 1.0]), torch.tensor([3.0, 2.0]))
    tensor(4.)

    Args:
        one: [N] numbers.
        two: [N] numbers.
    """
    return (one.sort().values - two.sort().values).square().mean()


class Projection:
    """The velocity of stage 2: momentum, then a projection; what is stored is the projected one.

    Args:
        context: the model, which has the weights that stage 1 left.
        settings: of the method.
        forget: batches of G_f.
        remote: batches of G_m.
        edit: edits the two gradients as a step's own are edited, so that a mask holds for all three.
    """

    def __init__(
        self,
        context: UnlearningContext,
        settings: EntanglementSettings,
        forget: Batches,
        remote: Batches,
        edit: Edit,
    ) -> None:
        self.context, self.settings, self.forget, self.remote, self.edit = context, settings, forget, remote, edit
        self.parameters = list(trainable(context.model).values())
        self.anchor = copy.deepcopy(context.model).eval().requires_grad_(False)

    def gradient(self, step: int, parts: TermGradients) -> None:
        """Put the projected velocity in the place of the gradient, and keep it."""
        memory = self.context.memory
        found: list[Tensor] = []
        for index, parameter in enumerate(self.parameters):
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            before = memory.get(f"{TASK}/velocity/{index}")
            found.append(gradient.clone() if before is None else self.settings.momentum * before + gradient)
        if self.settings.project:
            found = self._projected(step, found)
        for index, (parameter, velocity) in enumerate(zip(self.parameters, found, strict=True)):
            memory[f"{TASK}/velocity/{index}"] = velocity
            parameter.grad = velocity.clone()

    def _projected(self, step: int, velocity: Gradients) -> list[Tensor]:
        """Return the velocity without its part in the span of G_f and G_m, and keep the largest cosine that is left."""
        memory, name = self.context.memory, f"{TASK}/cosine"
        spanning = [self.edit(step, self.of_forget(step)), self.edit(step, self.of_remote(step))]
        found = projected(velocity, spanning)
        left = [(dot(found, each) / (length(found) * length(each))).abs() for each in spanning]
        largest = torch.stack(left).max()
        memory[name] = torch.maximum(memory[name], largest) if name in memory else largest
        return found

    def of_forget(self, step: int) -> Gradients:
        """Return G_f: the sum over forget batches of the gradient of (1 - alpha)·sign·CE + alpha·W."""
        alpha, sign = self.settings.alpha, 1.0 if self.settings.sign == "paper" else -1.0

        def loss(images: Tensor, labels: Tensor) -> Tensor:
            losses = example_losses(logits_of(self.context, images), labels)
            with torch.no_grad(), self.context.compute.autocast():
                before = example_losses(self.anchor(images), labels)
            return (1 - alpha) * sign * losses.mean() + alpha * squared_wasserstein(losses, before)

        return self._sum(self.forget, step, loss)

    def of_remote(self, step: int) -> Gradients:
        """Return G_m: the sum over remote batches of the gradient of CE; its sign is no matter of a span."""
        return self._sum(
            self.remote, step, lambda images, labels: example_losses(logits_of(self.context, images), labels).mean()
        )

    def _many(self, batches: Batches) -> int:
        """Return how many batches a step takes."""
        return min(self.settings.limit, batches.per_epoch)

    def _sum(self, batches: Batches, step: int, loss: Callable[[Tensor, Tensor], Tensor]) -> Gradients:
        """Return the sum of the gradients of a step's batches, which follow each other through the set."""
        many = self._many(batches)
        total = [torch.zeros_like(parameter) for parameter in self.parameters]
        for batch in range(step * many, (step + 1) * many):
            with torch.enable_grad():
                value = loss(*batches.at(batch))
                found = torch.autograd.grad(value, self.parameters, allow_unused=True, materialize_grads=True)
            total = [before + more for before, more in zip(total, found, strict=True)]
        return total

    def _taken(self, steps: int) -> int:
        return sum(each.taken(steps * self._many(each)) for each in (self.forget, self.remote))

    def hooks(self) -> Hooks:
        """Return the projection, what it costs, and how well it did."""
        name = f"{TASK}/cosine"
        return Hooks(
            begin=lambda: _rest(self.context.model),
            gradient=self.gradient,
            gradients=self._taken if self.settings.project else None,
            figures=lambda: {"largest cosine": float(self.context.memory[name])} if name in self.context.memory else {},
        )


ENTANGLEMENT = Method(
    "entanglement",
    "Cheng et al. 2026; values of the published code for CIFAR-100",
    EntanglementSettings,
    run_entanglement,
    deviations=(
        "the two gradients are scaled to length one before the ridge of 1e-12 in float64; the published code adds 1e-8 "
        "to products of gradients as they are, tensor by tensor",
        "the default adjacent set leaves out retain examples that no forget example names, even where a tenth of the "
        "retain set is not full without them; the published one is that tenth",
    ),
    takes=("mask", "reinit", "clip"),
    because="its velocity is projected as a whole, and another term or another edit of the gradient would undo that",
    on=NEEDS_CLASSES,
)
