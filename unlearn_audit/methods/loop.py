"""The composition: an objective, transforms of the gradient, transforms of the weights, a budget, an optimiser."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from unlearn_audit.data import Examples
from unlearn_audit.engine import (
    Augment,
    Batches,
    Draws,
    Hooks,
    Stop,
    TermGradients,
    Terms,
    all_at_once,
    autocast_for,
    crop_and_flip,
    descend,
    outcome,
    trainable,
)
from unlearn_audit.errors import ConfigError, UsageError
from unlearn_audit.methods import Course, Extra, Settings, StepTransform, Unlearned, UnlearningContext
from unlearn_audit.methods.published import BUDGET
from unlearn_audit.methods.stopping import StopAt, Unseen, first_of, stop_at_losses
from unlearn_audit.methods.two_sides import refuse_one_sided

LABEL_DROP = 0.1  # of the rows of a generator's retain batches, as in its training: it must keep its null condition

Share = Annotated[float, Field(ge=0, le=1)]
Step = Annotated[float, Field(gt=0, le=1e30)]
Size = Annotated[int, Field(gt=0)] | Literal["full"]


def _known_schedule(text: str) -> str:
    if not re.fullmatch(r"constant|linear|cosine|milestones:[0-9]+(,[0-9]+)*", text):
        raise ValueError(f"must be constant, linear, cosine, or milestones:3,5 (got '{text}')")
    return text


Schedule = Annotated[str, AfterValidator(_known_schedule)]


class LoopSettings(Settings):
    """What every first-order method can be told; each method has its own defaults."""

    step_size: Step = Field(default=0.01, description="learning rate")
    steps: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="budget in minibatch steps, instead of epochs"
    )
    epochs: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        default=None, description="budget in epochs of the method"
    )
    batch_size: Size = Field(default=64, description="examples of a set in one step; full: the whole set in one pass")
    optimizer: Literal["sgd", "adam"] = Field(default="sgd", description="sgd or adam")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.0, description="momentum of SGD")
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="weight decay of the optimiser, on every parameter"
    )
    schedule: Schedule = Field(
        default="constant",
        description="schedule of the step size: constant, linear or cosine (to zero), "
        "milestones:3,5 (x 0.1 after epochs)",
    )
    augment: Literal["recipe", "yes", "no"] = Field(
        default="recipe", description="crops and flips: as in the original's recipe, yes, or no"
    )
    stop_forget_loss: Step | None = Field(
        default=None, description="stop once the forget batches' mean loss of 20 steps is at least this"
    )
    stop_retain_loss: Step | None = Field(
        default=None, description="stop once the retain batches' mean loss of 20 steps is at least this"
    )

    stop_at: StopAt | None = Field(
        default=None,
        description="unseen: stop once forget losses are distributed as on held-out examples outside the twin",
    )

    bn: Literal["train", "frozen"] = Field(
        default="train", description="BatchNorm: batch statistics, or the original's own, which then stay as they are"
    )

    max_norm: Step | Literal["none"] = Field(
        default="none", description="largest norm of a step's gradient, after every transform; or none"
    )

    @model_serializer(mode="wrap")
    def _without_idle(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what came later and is at its default: seeds of treated shadow models come from this text."""
        own = {key: type(self).model_fields[key].default for key in ("stop_at", "bn", "max_norm")}
        later = {key: value for key, value in own.items() if key != "max_norm" or value == "none"}
        return {key: value for key, value in dump(self).items() if key not in later or value != later[key]}

    @model_validator(mode="before")
    @classmethod
    def _one_budget(cls, values: Any) -> Any:
        """Let a budget that is given replace the default one, whichever of the two that is."""
        if not isinstance(values, Mapping):
            return values
        given = [name for name in BUDGET if values.get(name) is not None]
        if len(given) == 2:
            raise ValueError("steps and epochs exclude each other; give one of them")
        return {**values, **dict.fromkeys(name for name in BUDGET if name not in given)} if given else values

    @model_validator(mode="after")
    def _stop_within_reach(self) -> "LoopSettings":
        """Refuse a stop at a loss that a clipped one never reaches."""
        clip = getattr(self, "loss_clip", None)
        if isinstance(clip, float) and self.stop_forget_loss is not None and self.stop_forget_loss > clip:
            raise ValueError("stop_forget_loss is above loss_clip, so that it would never be reached")
        return self


@dataclass(frozen=True)
class Objective:
    """What a composition descends.

    Attributes:
        terms: step -> named terms; "retain" and "forget" are the mean losses on a batch of these sets.
        length: epochs -> steps in them.
        epoch_of: step -> its epoch, from 0.
        gradients: steps -> gradients of single examples taken in the first so many steps.
        losses: which of the terms "retain" and "forget" it has, so that a stop may ask for them.
        sides: of which sets every step has a batch, as far as is known; none where the sets take turns.
    """

    terms: Callable[[int], Terms]
    length: Callable[[float], int]
    epoch_of: Callable[[int], int]
    gradients: Callable[[int], int]
    losses: tuple[str, ...]
    sides: tuple[str, ...] = ("forget", "retain")


def run_composition(
    context: UnlearningContext,
    objective: Objective,
    settings: LoopSettings,
    *,
    own: Sequence[tuple[StepTransform, Settings]] = (),
    hooks: Sequence[Hooks] = (),
    stop: Stop | None = None,
    task: str,
) -> Unlearned:
    """Run the loop: gradient of the objective, its transforms, mixing of weights, the optimiser's step.

    Args:
        context: the model, edited in place.
        objective: what is descended.
        settings: budget, optimiser, schedule, stops.
        own: the method's own transforms; those of `--with` follow them.
        hooks: what else the method does in a step, after all transforms.
        stop: the method's own reason to end before the budget is spent, asked at every look.
        task: the method's name in the progress.

    Returns:
        What was done.

    Raises:
        UsageError: a stop asks for a loss that the method never takes, or a transform for two sides of one step.
        MeasurementError: it diverged.
    """
    at_losses = stop_at_losses(
        {"forget": settings.stop_forget_loss, "retain": settings.stop_retain_loss}, objective.losses
    )
    unseen = Unseen(context) if settings.stop_at else None
    course = Course(budget_of(settings, objective), objective.epoch_of)
    extras = [*(Extra(transform, chosen) for transform, chosen in own), *context.extras]
    hooks = [*(extra.transform.make(context, extra.settings, course) for extra in extras), *hooks]
    if not any(hook.terms for hook in hooks):  # a term that joins may be of the side that the objective lacks
        refuse_one_sided([each.transform.name for each in extras if each.transform.two_sided], objective.sides, task)
    hooks = [*hooks, unseen.hooks()] if unseen else hooks
    hooks = [*hooks, *clipping(context.model, settings)]
    if settings.bn == "frozen":
        hooks = [Hooks(begin=lambda: freeze_batchnorm(context.model)), *hooks]
    steps, stopped = course.steps, None
    if not context.count_only:
        steps, stopped = descend(
            context.model,
            objective.terms,
            optimizer_of(context, settings),
            steps=course.steps,
            seed=context.seed,
            schedule=schedule_of(settings.schedule, course),
            hooks=hooks,
            stop=first_of(at_losses, unseen.stop if unseen else None, stop),
            resumable=context.resumable,
            progress=context.progress,
            task=task,
        )
    taken = [hook.gradient_evaluations + (hook.gradients(steps) if hook.gradients else 0) for hook in hooks]
    told = [note for hook in hooks for note in hook.notes]
    done = Unlearned(steps, objective.gradients(steps) + sum(taken), stopped, tuple(dict.fromkeys(told)))
    done = done if context.count_only else with_figures(done, hooks)
    return replace(done, notes=(*done.notes, *unseen.notes(stopped)), looked_at=unseen.looked_at) if unseen else done


def with_figures(done: Unlearned, hooks: Sequence[Hooks]) -> Unlearned:
    """Add what the hooks counted and have to say."""
    found = outcome(hooks)
    return replace(done, figures=found.figures, notes=(*done.notes, *found.notes))


def freeze_batchnorm(model: nn.Module) -> None:
    """Set every BatchNorm of a model to evaluation: it normalises by its running statistics and leaves them alone."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def clipping(model: nn.Module, settings: LoopSettings) -> tuple[Hooks, ...]:
    """Return what scales a step's gradient down to the largest norm that the settings allow; it comes last of all."""
    most = settings.max_norm
    if most == "none":
        return ()
    parameters = list(trainable(model).values())

    def gradient(step: int, parts: TermGradients) -> None:
        nn.utils.clip_grad_norm_(parameters, most)

    return (Hooks(gradient=gradient),)


def budget_of(settings: LoopSettings, objective: Objective) -> int:
    """Return the number of steps."""
    if settings.steps is not None:
        return settings.steps
    if settings.epochs is None:
        raise ConfigError("settings", ["steps: neither steps nor epochs is given"])
    return objective.length(settings.epochs)


def optimizer_of(context: UnlearningContext, settings: LoopSettings) -> torch.optim.Optimizer:
    """Return the optimiser that the settings ask for, with fresh state, over all trainable parameters."""
    parameters = list(trainable(context.model).values())
    fused, foreach = context.compute.device.type == "cuda" or None, all_at_once(parameters)
    rate, decay = settings.step_size, settings.weight_decay
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=fused, foreach=foreach)
    return torch.optim.SGD(
        parameters, lr=rate, momentum=settings.momentum, weight_decay=decay, fused=fused, foreach=foreach
    )


def schedule_of(text: str, course: Course) -> Callable[[int], float]:
    """Return step -> factor on the learning rate.

    >>> [schedule_of("milestones:1,2", Course(6, lambda step: step // 2))(step) for step in range(6)]
    [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    >>> schedule_of("linear", Course(4, int))(3)
    0.25
    """
    kind, _, numbers = text.partition(":")
    if kind == "linear":
        return lambda step: 1 - step / course.steps
    if kind == "cosine":
        return lambda step: 0.5 * (1 + math.cos(math.pi * step / course.steps))
    if kind == "milestones":
        epochs = [int(number) for number in numbers.split(",")]
        return lambda step: round(0.1 ** sum(course.epoch_of(step) >= epoch for epoch in epochs), 15)
    return lambda step: 1.0


# ----- what objectives are made of


def minibatches(
    context: UnlearningContext,
    which: Literal["retain", "forget", "adjacent", "remote"],
    settings: LoopSettings,
    batch_size: Size | None = None,
) -> Batches:
    """Return the shuffled minibatches of a set; each has its own stream of the seed.

    Raises:
        UsageError: the set is empty.
    """
    examples = examples_of(context, which)
    size = settings.batch_size if batch_size is None else batch_size
    return Batches(
        examples,
        context.transform,
        len(examples) if size == "full" else size,
        context.seed,
        which,
        context.compute,
        augmentation(context, settings),
        context.task,
        Draws(context.seed, count=1, grid=False, drop=LABEL_DROP if which != "forget" else 0.0),
    )


def examples_of(context: UnlearningContext, which: str) -> Examples:
    """Return the "retain", "forget" or another set of the splits by its name.

    Raises:
        UsageError: the set is empty.
    """
    examples: Examples = getattr(context.splits, f"{which}_examples")
    if not len(examples):
        raise UsageError(f"the {which} set is empty; this method needs something to keep")
    return examples


def augmentation(context: UnlearningContext, settings: LoopSettings) -> Augment | None:
    """Return the augmentation of training images that the settings ask for, None where there is none."""
    as_trained = settings.augment == "recipe" and bool(context.recipe.get("augment"))
    return crop_and_flip if settings.augment == "yes" or as_trained else None


def logits_of(context: UnlearningContext, inputs: Any, model: nn.Module | None = None) -> Tensor:
    """Return a model's outputs with their graph: a classifier's logits [B, classes], in the precision asked for.

    Args:
        context: whose model is asked where no other is given.
        inputs: images, or what else the model is called with.
        model: another one.
    """
    with autocast_for(context.task, context.compute):
        outputs: Tensor = (context.model if model is None else model)(inputs)
    return outputs


def mean_loss(context: UnlearningContext, batches: Batches, step: int, *, clip: float | None = None) -> Tensor:
    """Return the mean loss of the minibatch of a step, a scalar with its graph: what the context's task calls the loss.

    Args:
        context: the model, and the task that says what its loss is.
        batches: which set.
        step: counted from 0.
        clip: the largest loss of one row (an example, or one draw of noise) that counts, on a generator as a multiple
            of the loss of predicting nothing; above it there is no gradient.
    """
    rows = batches.rows_at(step)
    losses = context.task.losses(logits_of(context, rows.inputs), rows.target)
    if clip is None:
        return losses.mean()
    most = clip if context.task.rows is None else clip * rows.target.square().flatten(1).mean(dim=1)
    return losses.clamp(max=most).mean()


def paired(
    retain: Batches | None,
    forget: Batches | None,
    terms: Callable[[int], Terms],
    *,
    losses: tuple[str, ...] = ("retain", "forget"),
) -> Objective:
    """Return the objective of a step that takes one batch of each set it is given.

    An epoch is a pass over the retain set, or over the forget set where there is no other. `losses` are the terms that
    are a set's own mean loss, where the set is there.
    """
    there = {"retain": retain is not None, "forget": forget is not None}
    batches = [each for each in (retain, forget) if each is not None]
    per_epoch = batches[0].per_epoch
    return Objective(
        terms,
        length=lambda epochs: math.ceil(epochs * per_epoch - 1e-9),
        epoch_of=lambda step: step // per_epoch,
        gradients=lambda steps: sum(each.taken(steps) for each in batches),
        losses=tuple(name for name in losses if there[name]),
        sides=tuple(name for name in there if there[name]),
    )
