"""The one minibatch loop that training and unlearning share."""

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from unlearn_audit.engine.device import trainable
from unlearn_audit.errors import MeasurementError
from unlearn_audit.models import models_own
from unlearn_audit.progress import Progress, silent
from unlearn_audit.streams import derive_seed

CHECK_EVERY = 20  # steps between two looks at the losses, each of which waits for the device


Side = Literal["forget", "retain"]


class Term(NamedTuple):
    """One term of an objective.

    Attributes:
        loss: a scalar with its graph.
        weight: below 0 the loss is ascended.
        side: the set whose interest it serves, for a transform that weighs the two; None for a term of neither.
    """

    loss: Tensor
    weight: float = 1.0
    side: Side | None = None


class Part(NamedTuple):
    """The gradient of weight x loss of one term, one tensor a trainable parameter, and the side of the term."""

    gradients: Sequence[Tensor]
    side: Side | None


Terms = Mapping[str, Term]
TermGradients = Mapping[str, Part]  # by the name of the term
StepHook = Callable[[int], None]
Stop = Callable[[Mapping[str, float]], str | None]  # what a look has found, by name -> why to stop


@dataclass(frozen=True)
class Hooks:
    """What may be done in each step besides descending, in the order in which it happens; all get the step.

    Attributes:
        begin: called once before the first step, with the model in training mode: which of its parts are not to be.
        terms: more terms of the objective, under names of their own.
        gradient: edits `.grad` of the parameters, seeing the gradient of each term if `parts` says so, else {}.
        mix: edits weights with the gradient already taken, as decoupled weight decay does.
        hold: looks at the weights as the optimiser will find them.
        after: edits weights after the optimiser's step.
        look: what else is measured at every look, by name: it is shown beside the losses, and a stop is given it.
        parts: whether `gradient` needs the terms' gradients apart, one backward pass for each term.
        gradient_evaluations: gradients of single examples that were taken to prepare.
        gradients: steps -> those that `terms` takes in the first so many steps.
        notes: what the reader should know of it, in words.
        finish: edits weights after the last step, whatever ended the run, if there was one. A run that is killed
            meanwhile begins it again on the same weights.
        told: read once, after that: what the reader should know of how it went, in words.
        figures: read once, after that: what was counted or measured, by name. What is counted over the steps
            belongs into the context's `memory`, so that a run that goes on after a kill comes to the same figures.
    """

    begin: Callable[[], None] | None = None
    terms: Callable[[int], Terms] | None = None
    gradient: Callable[[int, TermGradients], None] | None = None
    mix: StepHook | None = None
    hold: StepHook | None = None
    after: StepHook | None = None
    look: Callable[[int], Mapping[str, float]] | None = None
    parts: bool = False
    gradient_evaluations: int = 0
    gradients: Callable[[int], int] | None = None
    notes: tuple[str, ...] = ()
    finish: Callable[[], None] | None = None
    told: Callable[[], Sequence[str]] | None = None
    figures: Callable[[], Mapping[str, float]] | None = None


class Resumable(Protocol):
    """Keeps a run's state, so that it can go on where it was killed."""

    @property
    def memory(self) -> dict[str, Tensor]:
        """What is kept beside weights and optimiser, restored in place."""

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Restore what was kept, if anything, and return how many steps are done."""

    def keep(self, done: int) -> None:
        """Keep the state after `done` steps; called between two steps, with finite weights."""


class Descent(NamedTuple):
    """How a descent ended: optimiser steps taken, and why it stopped early, if it did."""

    steps: int
    stopped: str | None


def descend(
    model: nn.Module,
    terms: Callable[[int], Terms],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    seed: int = 0,
    schedule: Callable[[int], float] | None = None,
    hooks: Sequence[Hooks] = (),
    stop: Stop | None = None,
    resumable: Resumable | None = None,
    progress: Progress = silent,
    task: str = "training",
) -> Descent:
    """Run the loop, in training mode but for what a hook's `begin` says.

    Between two looks at the losses (every 20 steps) nothing waits for the device.

    Args:
        model: changed in place; left in the mode that it ran in.
        terms: step -> named terms; the sum of weight x loss is descended.
        optimizer: over the model's parameters.
        steps: how many.
        seed: of what the model itself draws (dropout, stochastic depth); the draws of a step depend on it and on the
            step alone, so that a run that goes on after a kill comes to the same weights.
        schedule: step -> factor on the optimiser's initial learning rate.
        hooks: what else a step does; each kind runs in the order given.
        stop: asked at every look.
        resumable: restores a state at the beginning and is given one at every look.
        progress: callback, called at every check with the losses.
        task: its name in the progress.

    Raises:
        MeasurementError: a loss or a weight is not finite any more, or the model raised (BatchNorm has no statistics of
            one value); the message has the step.
    """
    model.train()
    for hook in hooks:
        if hook.begin:
            hook.begin()
    parameters = list(trainable(model).values())
    generators = _generators(parameters)
    watched = [*parameters, *(buffer for buffer in model.buffers() if buffer.is_floating_point())]
    rates = [group["lr"] for group in optimizer.param_groups]
    sources = [terms, *(hook.terms for hook in hooks if hook.terms)]
    first = resumable.start(model, optimizer) if resumable else 0
    seen: list[dict[str, Tensor]] = []
    ended = Descent(steps, None)
    for step in range(first, steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (schedule(step) if schedule else 1.0)
        optimizer.zero_grad(set_to_none=True)
        with models_own(f"{task} stopped at step {step}"), _own_draws(generators, seed, step):
            found = _evaluated(sources, step)
            parts = _backward(found, parameters, apart=any(hook.parts for hook in hooks))
        _step(optimizer, hooks, step, parts)
        seen.append({name: term.loss.detach() for name, term in found.items()})
        if (step + 1) % CHECK_EVERY == 0 or step == steps - 1:
            means = _look(seen, step, watched, task)
            for measured in (hook.look(step) for hook in hooks if hook.look):
                means |= measured
            progress(task, step + 1, steps, ", ".join(f"{name} {value:.3f}" for name, value in means.items()))
            seen.clear()
            why = stop(means) if stop else None
            if why:
                progress(task, steps, steps, why)
                ended = Descent(step + 1, why)
                break
            if resumable:  # not before the stop is asked: who goes on from here would pass it by
                resumable.keep(step + 1)
    with torch.no_grad():
        for hook in hooks if ended.steps else ():
            if hook.finish:
                hook.finish()
    return ended


class Outcome(NamedTuple):
    """What hooks have to say after a run: figures by name, and notes in words."""

    figures: Mapping[str, float]
    notes: tuple[str, ...]


def outcome(hooks: Sequence[Hooks]) -> Outcome:
    """Return what was counted, and what is to be told; what is not finite was not measured, and is said to be so."""
    told = [note for hook in hooks if hook.told for note in hook.told()]
    read = {name: value for hook in hooks if hook.figures for name, value in hook.figures().items()}
    figures = {name: value for name, value in read.items() if math.isfinite(value)}
    missing = (f"{name} could not be measured" for name in read if name not in figures)
    return Outcome(figures, (*told, *missing))


def _generators(parameters: Sequence[Tensor]) -> list[torch.Generator]:
    """Return whatever a model with these parameters may draw from: the CPU's generator and those of its GPUs."""
    devices = {parameter.device for parameter in parameters}
    found = [torch.default_generator]
    if any(device.type == "mps" for device in devices):
        found.append(torch.mps._get_default_mps_generator())
    return [*found, *(torch.cuda.default_generators[device.index] for device in devices if device.type == "cuda")]


@contextmanager
def _own_draws(generators: Sequence[torch.Generator], seed: int, step: int) -> Iterator[None]:
    """Let what a model draws in the block come from a stream of its own; the generators' state is put back after it.

    `torch.manual_seed` in `fork_rng` gives the same draws, but sees to every kind of device that there is: as long as a
    tenth of a small network's step.
    """
    before = [each.get_state() for each in generators]
    for generator in generators:
        generator.manual_seed(derive_seed(seed, "dropout", step))
    try:
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)


def _evaluated(sources: Sequence[Callable[[int], Terms]], step: int) -> Terms:
    """Evaluate the terms of a step."""
    found: dict[str, Term] = {}
    for source in sources:
        for name, term in source(step).items():
            found[_free(name, found)] = term
    return found


def _free(name: str, taken: Container[str]) -> str:
    """Return the name, numbered where it is taken: a transform may join twice."""
    return next(each for each in chain([name], (f"{name} {n}" for n in count(2))) if each not in taken)


def _backward(found: Terms, parameters: Sequence[nn.Parameter], *, apart: bool) -> TermGradients:
    """Leave the gradient of the sum in `.grad`; return each term's own one where that is wanted."""
    weighted = {name: term.loss if term.weight == 1 else term.weight * term.loss for name, term in found.items()}
    if not apart:
        torch.autograd.backward(torch.stack(list(weighted.values())).sum())
        return {}
    parts = {
        name: Part(
            torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True),
            found[name].side,
        )
        for name, loss in weighted.items()
    }
    for parameter, *gradients in zip(parameters, *(part.gradients for part in parts.values()), strict=True):
        parameter.grad = torch.stack(gradients).sum(dim=0)
    return parts


def _step(optimizer: torch.optim.Optimizer, hooks: Sequence[Hooks], step: int, parts: TermGradients) -> None:
    """Edit the gradient, edit the weights, take the optimiser's step, edit the weights again."""
    with torch.no_grad():
        for hook in hooks:
            if hook.gradient:
                hook.gradient(step, parts)
        for edit in [*(hook.mix for hook in hooks), *(hook.hold for hook in hooks)]:
            if edit:
                edit(step)
        optimizer.step()
        for hook in hooks:
            if hook.after:
                hook.after(step)


def _look(seen: Sequence[Mapping[str, Tensor]], step: int, weights: Sequence[Tensor], task: str) -> dict[str, float]:
    """Return the mean of each term's losses since the last look; stop where one, a weight or a buffer is not finite."""
    values = [dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True)) for losses in seen]
    for index, losses in enumerate(values):
        if not all(math.isfinite(value) for value in losses.values()):
            at, note = step + 1 - len(values) + index, ", ".join(f"{name} {x:.3f}" for name, x in losses.items())
            raise MeasurementError(f"{task} diverged at step {at}: {note}; use a smaller step size")
    if weights and not bool(torch.stack([torch.isfinite(each).all() for each in weights]).all()):
        raise MeasurementError(f"{task} diverged at step {step}: the weights are not finite; use a smaller step size")
    return {
        name: math.fsum(losses[name] for losses in values if name in losses) / sum(name in losses for losses in values)
        for name in dict.fromkeys(name for losses in values for name in losses)
    }
