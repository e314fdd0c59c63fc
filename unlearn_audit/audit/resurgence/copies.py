"""Copies of every subject, altered one after the other, and what each answers: one copy is in memory at a time."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from unlearn_audit import catalogue, metrics
from unlearn_audit.attacks import log_odds
from unlearn_audit.audit.context import AuditContext, Split
from unlearn_audit.audit.parts import Arrays, PartCache
from unlearn_audit.audit.resurgence.alterations import Alteration, FineTuning, with_step_size
from unlearn_audit.config import ResurgenceSettings
from unlearn_audit.data import Examples
from unlearn_audit.engine import derive_seed, predict
from unlearn_audit.errors import ConfigError, MeasurementError
from unlearn_audit.inputs import Candidate
from unlearn_audit.relearning import Run, relearn, relearn_all
from unlearn_audit.training import Recipe, pick_recipe, recorded_recipe

Floats = NDArray[np.float64]
Logits = Callable[[Split], NDArray[np.float32]]
NO_RECIPE = (
    "nothing says how the original was trained; name the recipe with --recipe, or as `recipe` of its [[checkpoint]]"
)


class Answers(NamedTuple):
    """What a model or an altered copy of it answers.

    Attributes:
        right: [n] 1.0 where it is right about a measured forget example.
        log_odds: [2m] of the label: forget examples that have a partner, then their partners in the unseen twin.
        test: [t] 1.0 where it is right about a test example of a class that is kept.
        areas: [2, m] below each example's loss while it is relearned, of forget examples and of their partners; [2, 0]
            where nothing was relearned, or relearning diverged.
    """

    right: Floats
    log_odds: Floats
    test: Floats
    areas: Floats


class Relearning(NamedTuple):
    """How every copy is relearned: steps of full-batch gradient descent, and their size."""

    steps: int
    step_size: float


@dataclass(frozen=True)
class Looks:
    """What every subject answers, before and after each alteration.

    Attributes:
        before: by label.
        after: by label and alteration; or why there is no such copy.
        tuning: how copies were fine-tuned.
        relearning: how copies were relearned; None where they were not.
    """

    before: Mapping[str, Answers]
    after: Mapping[tuple[str, str], Answers | str]
    tuning: FineTuning
    relearning: Relearning | None

    def of(self, label: str, alteration: str) -> Answers | str:
        """Return what a subject's altered copy answers, or why there is none; without an alteration, the subject."""
        return self.after[label, alteration] if alteration else self.before[label]

    def came_through(self, candidates: Sequence[Candidate], alteration: str) -> list[Candidate]:
        """Return those of whom there is an altered copy."""
        return [one for one in candidates if isinstance(self.after[one.label, alteration], Answers)]


def look_at_copies(context: AuditContext, settings: ResurgenceSettings, parts: PartCache) -> Looks:
    """Alter a copy of every subject in every way that was asked for.

    Args:
        context: the models and the sets.
        settings: which alterations, and how copies are fine-tuned.
        parts: asked for what a copy answers before it is made.
    """
    tuning = FineTuning(
        context.splits.retain_examples,
        _recipe(context, settings),
        settings.steps,
        derive_seed(context.config.seed, "resurgence"),
        context.compute,
        context.progress,
    )
    total = len(context.subjects) * len(settings.alterations)
    relearning = _relearning(context, settings.rcd_steps) if settings.rcd_steps else None
    before = {one.label: _as_it_is(context, one) for one in context.subjects}
    after: dict[tuple[str, str], Answers | str] = {}
    for name in settings.alterations:
        alteration: Alteration = catalogue.load("alteration", catalogue.ALTERATIONS, name)
        depends = ["altered copy", name, repr(tuning.recipe), relearning]  # the last two may come from other models
        for one in context.subjects:
            make = partial(_altered, context, one, alteration, tuning, relearning)
            after[one.label, name] = _kept(partial(parts, one, depends), make)
            context.progress("altering copies", len(after), total, f"{one.label}, {name}")
    return Looks(before, after, tuning, relearning)


def _recipe(context: AuditContext, settings: ResurgenceSettings) -> Recipe | str:
    """Return the recipe that all copies are fine-tuned by: named, else the original's as the files have it."""
    if settings.recipe is not None:
        return with_step_size(pick_recipe(settings.recipe, ""), settings.step_size)
    known = [one.recipe for one in (*context.with_role("original"), *context.subjects) if one.recipe]
    if not known:
        return NO_RECIPE
    try:
        return with_step_size(recorded_recipe(known[0]), settings.step_size)
    except ConfigError as problem:
        return str(problem)


def _kept(find: Callable[[Callable[[], Arrays]], Arrays], make: Callable[[], Answers]) -> Answers | str:
    """Return what a copy answers, found or made; or why there is none."""
    try:
        found = find(lambda: make()._asdict())
    except MeasurementError as problem:
        return str(problem)
    return Answers(**found)


def _as_it_is(context: AuditContext, candidate: Candidate) -> Answers:
    return _answers(context, lambda split: context.signals(candidate, split).logits, np.zeros((2, 0)))


def _relearning(context: AuditContext, steps: int) -> Relearning:
    """Return how copies are relearned: at the step size at which no subject's loss rises, as `rcd` finds it."""
    runs = [
        Run(one.model, examples, one.transform) for one in context.subjects for examples in _relearned_sets(context)
    ]
    owners = [one.label for one in context.subjects for _ in range(2)]
    found = relearn_all(
        runs, steps=steps, step_size="auto", compute=context.compute, owners=owners, progress=context.progress
    )
    return Relearning(steps, float(found.step_size))


def _relearned_sets(context: AuditContext) -> tuple[Examples, Examples]:
    return context.splits.paired_examples, context.splits.unseen.examples


def _areas(context: AuditContext, altered: nn.Module, candidate: Candidate, how: Relearning) -> Floats:
    """Return each example's area while a copy relearns the forget set, and while it relearns the twin."""
    curves = [
        relearn(
            Run(altered, examples, candidate.transform),
            steps=how.steps,
            step_size=how.step_size,
            compute=context.compute,
            progress=context.progress,
            task=f"relearning a copy of {candidate.label}",
        )
        for examples in _relearned_sets(context)
    ]
    if any(curve.diverged_at is not None for curve in curves):
        return np.zeros((2, 0))
    return np.stack([curve.areas for curve in curves])


def _altered(
    context: AuditContext, candidate: Candidate, alter: Alteration, tuning: FineTuning, relearning: Relearning | None
) -> Answers:
    """Alter a copy, look at it and let it go."""
    altered = copy.deepcopy(candidate.model)
    alter(altered, candidate.transform, tuning)

    def logits(split: Split) -> NDArray[np.float32]:
        found = predict(altered, context.examples(split).images, candidate.transform, compute=context.compute)
        if not np.isfinite(found).all():
            raise MeasurementError(f"its outputs on the {split} set are not finite")
        return found

    areas = np.zeros((2, 0)) if relearning is None else _areas(context, altered, candidate, relearning)
    return _answers(context, logits, areas)


def _answers(context: AuditContext, logits: Logits, areas: Floats) -> Answers:
    splits = context.splits
    sets: tuple[Split, ...] = ("forget", "unseen", "test")
    forget, unseen, test = ((logits(split), context.examples(split).labels.numpy()) for split in sets)
    odds = [log_odds(forget[0][context.paired], forget[1][context.paired]), log_odds(*unseen)]
    test_right = metrics.correct(*test)[splits.lasting_test]
    return Answers(metrics.correct(*forget), np.concatenate(odds), test_right, areas)
