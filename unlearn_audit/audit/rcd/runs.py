"""Which trajectories an audit takes: who relearns what, how, and which part of it is measured."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.audit.context import DRAWS, AuditContext
from unlearn_audit.audit.generators import check_relearning
from unlearn_audit.audit.null_rows import with_null_row
from unlearn_audit.audit.rcd.matched_twin import Matched, matched_twin
from unlearn_audit.config import RcdSettings
from unlearn_audit.data import Examples, digest_of
from unlearn_audit.engine import crop_and_flip, derive_seed
from unlearn_audit.errors import UsageError
from unlearn_audit.inputs import Candidate
from unlearn_audit.relearning import Algorithm, Curve, Run, scoped
from unlearn_audit.streams import generator

RelearnKind = Literal["forget", "paired", "unseen"]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class RelearnPlan(NamedTuple):
    """One trajectory to take: of whom, on what ("paired" is the part of the forget set that has a twin).

    `indices` are those of the measured examples, into the training set, or into the test set for the twin; `sets` names
    what is relearned and what is measured by digests.
    """

    candidate: Candidate
    kind: RelearnKind
    run: Run
    indices: Integers
    sets: tuple[str, ...] = ()

    def summed(self, curve: Curve) -> Floats:
        """Return Phi: the objective that is descended, or the loss of a rest that is measured but not relearned."""
        return curve.objective if self.run.measured is None else curve.loss


class RelearnSplit(NamedTuple):
    """What of a set is relearned, and what is measured: None for the same, with the measured examples' indices.

    `sets` names both by digests of their indices.
    """

    relearned: Examples
    measured: Examples | None
    indices: Integers
    sets: tuple[str, ...]


def check_request(settings: RcdSettings, *, generators: bool = False) -> None:
    """Refuse options that cannot be combined, or that are of the other kind of model.

    Raises:
        UsageError: an option lacks another one that it requires, or two options contradict each other.
    """
    given, head = settings.model_fields_set, settings.scope == "head"
    refusals = (
        ("momentum" in given and settings.optimizer != "sgd", "--momentum requires --optimizer sgd"),
        ("tolerance" in given and settings.steps != "auto", "--tolerance requires --steps auto"),
        ("max_steps" in given and settings.steps != "auto", "--max-steps requires --steps auto"),
        (settings.steps == "auto" and settings.floor in ("best", "original"), "--steps auto requires --floor zero, "
         "fit or a number"),
        (settings.floor == "fit" and settings.relearn < 1, "--floor fit is the minimum over the relearned part, "
         "which is no floor for the rest that --relearn measures; use zero, best or a number"),
        (settings.steps == "auto" and settings.relearn < 1, "--steps auto cannot be combined with --relearn below "
         "1: it judges the curve of the part that is relearned"),
        (head and settings.augment, "--augment cannot be combined with --scope head, which relearns on fixed features"),
        (head and settings.bn == "train", "--bn train cannot be combined with --scope head, whose body is fixed"),
        (settings.step_size == "lambda" and settings.bn == "train", "--step-size lambda cannot be combined with --bn "
         "train: the curvature is computed with frozen statistics"),
        (settings.step_size == "lambda" and settings.optimizer != "gd", "--step-size lambda requires --optimizer gd"),
    )  # fmt: skip
    for wrong, text in refusals:
        if wrong:
            raise UsageError(text)
    check_relearning(settings, generators=generators)


def algorithm_of(context: AuditContext, settings: RcdSettings) -> Algorithm:
    """Return the requested relearning algorithm."""
    return Algorithm(
        optimizer=settings.optimizer,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        minibatch=settings.minibatch,
        bn=settings.bn,
        augment=crop_and_flip if settings.augment else None,
        gradient_draws=settings.gradient_draws,
        seed=derive_seed(context.config.seed, "relearning"),
    )


def algorithm_text(settings: RcdSettings) -> str:
    """Describe the algorithm in words, the step size and K left out."""
    name = {"gd": "GD", "sgd": f"SGD with momentum {settings.momentum:g}", "adam": "Adam"}[settings.optimizer]
    batch = "full-batch" if settings.minibatch is None else f"minibatch ({settings.minibatch})"
    parts = [f"{batch} {name}"]
    if settings.gradient_draws is not None:
        parts.append(f"gradients on {settings.gradient_draws} fresh draws an example")
    if settings.draws is not None:
        parts.append(f"measured on {DRAWS if settings.draws == 'fixed' else settings.draws} fixed ones")
    if settings.draws == "fixed":
        parts.append("gradients on these, which relearns this noise and not the set")
    if settings.weight_decay:
        parts.append(f"weight decay {settings.weight_decay:g}")
    if settings.augment:
        parts.append("gradients on crops and flips")
    if settings.scope != "all":
        parts.append("classifier alone on fixed features, float64" if settings.scope == "head" else settings.scope)
    return ", ".join(parts)


def matched_twins(context: AuditContext, candidates: Sequence[Candidate]) -> tuple[dict[str, Matched], tuple[str, ...]]:
    """Return each candidate's twin matched on difficulty, by label, and what is to be said of them.

    A retrained model is matched under the other ones: under itself the two losses would be equal by construction.

    Raises:
        UsageError: there is no retrained model.
    """
    retrained = context.with_role("retrained")
    if not retrained:
        raise UsageError("--match-difficulty needs a model that saw neither set; add one with --retrained CKPT")
    made: dict[tuple[str, ...], Matched] = {}
    found = {}
    for candidate in candidates:
        reference_models = context.references(candidate) or retrained
        key = tuple(model.label for model in reference_models)
        made[key] = made.get(key) or matched_twin(context, reference_models)
        found[candidate.label] = made[key]
    return found, tuple(_about_matching(context, found, retrained))


def _about_matching(
    context: AuditContext, found: Mapping[str, Matched], retrained: Sequence[Candidate]
) -> Iterator[str]:
    random = context.splits.unseen.unseen
    if all(np.array_equal(np.sort(one.twin.unseen), np.sort(random)) for one in found.values()):
        yield (
            "--match-difficulty had no choice: every held-out example of the forget set's classes is in the twin "
            "anyway; more held-out examples, or a --sample of the forget set, would give it one"
        )
    if len(retrained) == 1:
        yield (
            f"{retrained[0].label} is the only retrained model: its own twin is matched under itself, which draws its "
            "ratio to 1 by construction"
        )


def plan(
    context: AuditContext, settings: RcdSettings, candidates: Sequence[Candidate], twins: dict[str, Matched]
) -> tuple[RelearnPlan, ...]:
    """Return the trajectories: every candidate's forget set, its paired part where they differ, and its unseen twin.

    Args:
        context: the models and the sets.
        settings: scope, weight decay and the fraction that is relearned.
        candidates: who relearns.
        twins: those matched on difficulty, by label; a candidate without one takes the random twin.

    Raises:
        UsageError: the fraction relearns nothing or leaves nothing to measure.
    """
    chosen = _chosen(context, settings.relearn)
    return tuple(
        RelearnPlan(candidate, kind, _run(context, settings, candidate, part), part.indices, part.sets)
        for candidate in candidates
        for kind, part in _parts(context, chosen, twins.get(candidate.label))
    )


def _run(context: AuditContext, settings: RcdSettings, candidate: Candidate, part: RelearnSplit) -> Run:
    run = Run(
        with_null_row(candidate, context.splits),
        part.relearned,
        candidate.transform,
        candidate.task,
        measured=part.measured,
        draws=context.draws("forget"),
    )
    return scoped(run, settings.scope, compute=context.compute, weight_decay=settings.weight_decay)


def _chosen(context: AuditContext, fraction: float) -> Integers | None:
    """Return the training indices that are relearned, seeded; None for all of them."""
    measured = context.splits.measured
    if fraction == 1:
        return None
    count = round(fraction * len(measured))
    if not 0 < count < len(measured):
        what = "leaves nothing to measure" if count else "relearns nothing"
        raise UsageError(f"--relearn {fraction:g} of {len(measured)} forget examples {what}; use another fraction")
    found = np.sort(generator("relearned part", context.config.seed).choice(measured, count, replace=False))
    paired = np.isin(context.splits.unseen.forget, found)
    if paired.all() or not paired.any():
        raise UsageError(
            f"--relearn {fraction:g}: {int(paired.sum())} of {len(paired)} pairs with the twin would be relearned; "
            "either part needs one; use another fraction"
        )
    return found


def _parts(
    context: AuditContext, chosen: Integers | None, matched: Matched | None
) -> Iterator[tuple[RelearnKind, RelearnSplit]]:
    """Yield what one candidate relearns; forget examples and their twins are parted in the same way."""
    splits = context.splits
    twin = matched.twin if matched else splits.unseen
    yield "forget", _part(splits.measured_examples, splits.measured, chosen)
    if not splits.unseen.complete:
        yield "paired", _part(splits.paired_examples, splits.unseen.forget, chosen)
    yield "unseen", _part(twin.examples, twin.forget, chosen, twin.unseen)


def _part(examples: Examples, members: Integers, chosen: Integers | None, own: Integers | None = None) -> RelearnSplit:
    """Split a set by its (partners') training indices; `own` are the indices of examples that are held-out ones."""
    indices = members if own is None else own
    sets = tuple(map(digest_of, (members, indices, *(() if chosen is None else (chosen,)))))
    if chosen is None:
        return RelearnSplit(examples, None, indices, sets)
    inside = np.isin(members, chosen)
    rest = np.flatnonzero(~inside)
    return RelearnSplit(examples.subset(np.flatnonzero(inside)), examples.subset(rest), indices[rest], sets)
