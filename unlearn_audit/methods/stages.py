"""A run in several stages, each with settings, an objective and transforms of its own, and one state to go on with.

A stage begins with the weights that the one before it has left. These are kept with the state of the run, so that a run
that is killed in a later stage prepares that stage from the same weights again, and comes to the same end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from unlearn_audit.engine import Hooks, Resumable, derive_seed, descend, trainable
from unlearn_audit.errors import UsageError
from unlearn_audit.methods import Course, Settings, StagedResumable, StepTransform, Unlearned, UnlearningContext
from unlearn_audit.methods.loop import (
    LoopSettings,
    Objective,
    budget_of,
    clipping,
    freeze_batchnorm,
    optimizer_of,
    schedule_of,
    with_figures,
)
from unlearn_audit.methods.projection import Gradients
from unlearn_audit.methods.two_sides import refuse_one_sided

Edit = Callable[[int, Gradients], Gradients]  # (step of the stage, gradients) -> as the transforms leave them
BY_STEP = ("terms", "gradient", "mix", "hold", "after", "look")  # hooks whose first argument is the step
START = "stage/"  # where the weights that a stage began with stand in the memory


def _nothing(edit: Edit) -> Sequence[Hooks]:
    return ()


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        settings: budget, optimiser and schedule; a stage has no stop.
        objective: what is descended; its steps count from the beginning of the stage.
        own: transforms of this stage alone.
        begin: called once, with the weights that the stage begins with: what it does in a step after all transforms. It
            is given what edits any gradients as the transforms of `--with` edit a step's own.
    """

    settings: LoopSettings
    objective: Objective
    own: Sequence[tuple[StepTransform, Settings]] = ()
    begin: Callable[[Edit], Sequence[Hooks]] = _nothing


def run_stages(context: UnlearningContext, stages: Sequence[Stage], *, task: str) -> Unlearned:
    """Run the stages one after the other, each with a fresh optimiser.

    Transforms of `--with` are made once, with the weights before the first stage, and their steps and epochs go on from
    stage to stage: a mask is one mask, a penalty that fades does so over the whole run. What a model itself draws in a
    step depends on the seed, the stage and the step.

    Args:
        context: the model, edited in place.
        stages: in order.
        task: the method's name in the progress.

    Raises:
        UsageError: a stage has a stop, or only one side for a transform that needs two.
        MeasurementError: it diverged.
    """
    spans = [budget_of(stage.settings, stage.objective) for stage in stages]
    since = [0, *accumulate(spans)]
    joined = [extra.transform.make(context, extra.settings, _course(stages, since)) for extra in context.extras]
    _check(context, stages, joined, task)
    resumable = None if context.count_only else context.resumable
    done = resumable.recall(context.model) if resumable else 0
    current = max((index for index in range(len(stages)) if done > since[index]), default=0)
    told, taken = [*joined], _taken(joined, since[-1])
    last = max((index for index, span in enumerate(spans) if span), default=0)  # the one with the run's last step
    for index, stage in enumerate(stages):
        if index == current > 0:
            _restore(context)
        there = joined if index == last else [replace(hook, finish=None) for hook in joined]
        hooks, more = _hooks_of(context, stage, Course(spans[index], stage.objective.epoch_of), there, since[index])
        told += more
        taken += stage.objective.gradients(spans[index]) + _taken(more, spans[index])
        if index >= current and not context.count_only:
            state = _Since(resumable, since[index]) if resumable else None
            _descend(context, stage, index, hooks, spans[index], state, f"{task}, stage {index + 1} of {len(stages)}")
        if current <= index < len(stages) - 1 and not context.count_only:
            _remember(context)
    notes = tuple(dict.fromkeys(note for hook in told for note in hook.notes))
    found = Unlearned(since[-1], taken, None, notes)
    return found if context.count_only else with_figures(found, told)


def _check(context: UnlearningContext, stages: Sequence[Stage], joined: Sequence[Hooks], task: str) -> None:
    """Refuse a stop, and a transform for two sides where a stage has one."""
    for stage in stages:
        if stage.settings.stop_at or stage.settings.stop_forget_loss or stage.settings.stop_retain_loss:
            raise UsageError(f"{task} runs in {len(stages)} stages, each to the end of its budget; leave the stop out")
        if not any(hook.terms for hook in joined):
            two_sided = [extra.transform.name for extra in context.extras if extra.transform.two_sided]
            refuse_one_sided(two_sided, stage.objective.sides, task)


def _hooks_of(
    context: UnlearningContext, stage: Stage, course: Course, joined: Sequence[Hooks], since: int
) -> tuple[list[Hooks], list[Hooks]]:
    """Return all that is done in a step of a stage, in order, and what of it is the stage's own."""
    shifted = [_shifted(hook, since) for hook in joined]
    own = [transform.make(context, settings, course) for transform, settings in stage.own]
    begun = [*stage.begin(_edit_of(context.model, [*own, *shifted]))]
    if stage.settings.bn == "frozen":
        begun.append(Hooks(begin=lambda: freeze_batchnorm(context.model)))
    begun += clipping(context.model, stage.settings)
    return [*own, *shifted, *begun], [*own, *begun]


def _descend(
    context: UnlearningContext,
    stage: Stage,
    index: int,
    hooks: Sequence[Hooks],
    span: int,
    resumable: Resumable | None,
    task: str,
) -> None:
    """Run the loop of one stage, with a fresh optimiser."""
    descend(
        context.model,
        stage.objective.terms,
        optimizer_of(context, stage.settings),
        steps=span,
        seed=derive_seed(context.seed, "stage", index) if index else context.seed,
        schedule=schedule_of(stage.settings.schedule, Course(span, stage.objective.epoch_of)),
        hooks=hooks,
        resumable=resumable,
        progress=context.progress,
        task=task,
    )


def _taken(hooks: Sequence[Hooks], steps: int) -> int:
    """Return how many gradients of single examples some hooks take, to prepare and in so many steps."""
    return sum(hook.gradient_evaluations + (hook.gradients(steps) if hook.gradients else 0) for hook in hooks)


def _course(stages: Sequence[Stage], since: Sequence[int]) -> Course:
    """Return the course of the whole run: epochs go on counting where a stage ends."""
    epochs = [
        stage.objective.epoch_of(end - start - 1) + 1 if end > start else 0
        for stage, start, end in zip(stages, since, since[1:], strict=False)
    ]
    before = [0, *accumulate(epochs)]

    def epoch_of(step: int) -> int:
        index = max(index for index in range(len(stages)) if step >= since[index])
        return before[index] + stages[index].objective.epoch_of(step - since[index])

    return Course(since[-1], epoch_of)


def _shifted(hook: Hooks, since: int) -> Hooks:
    """Return a hook that is told the step of the whole run where the loop counts those of a stage."""
    if not since:
        return hook

    def later(what: Callable[..., Any]) -> Callable[..., Any]:
        return lambda step, *more: what(step + since, *more)

    there = {name: what for name in BY_STEP if (what := getattr(hook, name)) is not None}
    moved: dict[str, Any] = {name: later(what) for name, what in there.items()}
    return replace(hook, **moved)


def _edit_of(model: nn.Module, hooks: Sequence[Hooks]) -> Edit:
    """Return what edits any gradients as some hooks edit those of a step."""
    edits = [hook.gradient for hook in hooks if hook.gradient and not hook.parts]  # parts are those of a step alone
    parameters = list(trainable(model).values())

    def edit(step: int, gradients: Gradients) -> Gradients:
        if not edits:
            return gradients
        kept = [parameter.grad for parameter in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        for each in edits:
            each(step, {})
        found = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        for parameter, before in zip(parameters, kept, strict=True):
            parameter.grad = before
        return found

    return edit


def _remember(context: UnlearningContext) -> None:
    """Keep the weights that the next stage begins with."""
    context.memory.update({f"{START}{name}": each.clone() for name, each in context.model.state_dict().items()})


def _restore(context: UnlearningContext) -> None:
    """Load the weights that the stage began with which the state is of."""
    kept = {key.removeprefix(START): each for key, each in context.memory.items() if key.startswith(START)}
    context.model.load_state_dict(kept)


@dataclass(frozen=True)
class _Since:
    """The state of a run as one of its stages sees it, whose steps begin at 0."""

    inner: StagedResumable
    since: int

    @property
    def memory(self) -> dict[str, Tensor]:
        """What is kept beside weights and optimiser."""
        return self.inner.memory

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Restore what was kept in this stage, if anything, and return how many of its steps are done."""
        return self.inner.start(model, optimizer, since=self.since) - self.since

    def keep(self, done: int) -> None:
        """Keep the state after so many steps of this stage."""
        self.inner.keep(self.since + done)
