"""How far each subject's answers are from retrained models', read against how far these are from each other.

The floor of a subject is the mean over all pairs of the retrained models that it is compared with. With three of them
each has a level of its own, so that there is a spread, and a comparison that knows the chance of training seeds; the
interval over examples alone, these models given, stands in the details.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import inf, log
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.measurement import interval, measurement
from unlearn_audit.audit.reference import compared, comparison_of, no_reference, reference_of
from unlearn_audit.engine import derive_seed
from unlearn_audit.inputs import Candidate
from unlearn_audit.report import Measurement, Reference, Scale

Floats = NDArray[np.float64]
Answers = Mapping[str, NDArray[np.floating]]  # label of a subject -> its logits, [n, C]

KINDS = metrics.Divergences._fields
NOT_WHOLE_CLASSES = "the forget set is not all training examples of some classes"
FEWEST_FOR_SPREAD = 3  # retrained models: two have one pair, and so no spread
# On which scale a difference is judged: a tenth matters of what is bounded by 1, of nats of the bounded JS as well.
SCALES: Mapping[str, Scale] = {
    "js": "fraction",
    "kl": "nats",
    "tv": "fraction",
    "l2": "fraction",
    "agreement": "fraction",
}
# What a mean, and so a difference of two, can be at most.
LARGEST: Mapping[str, float] = {"js": log(2), "kl": inf, "tv": 1.0, "l2": 2**0.5, "agreement": 1.0}
METHOD = "mean over examples, then over retrained models; log-probabilities in float64"
FLOOR = "; reference: the same between pairs of retrained models"


class Levels(NamedTuple):
    """One subject beside the retrained models that it is compared with: numbers of every kind, example by example.

    Attributes:
        each: of the subject to each of the R models, [R, kinds, n].
        floor: of each of the R models to the others, means over these, [R, kinds, n]; None below two models.
    """

    each: Floats
    floor: Floats | None


def measure_divergences(context: AuditContext, *, class_test: bool | None) -> Iterator[Measurement]:
    """Yield `outputs.js|kl|tv|l2|agreement` of every subject, and those on test examples of the forgotten classes.

    Args:
        context: models and sets.
        class_test: whether the latter are wanted; None: where the forget set is whole classes.
    """
    forget = {one.label: context.signals(one, "forget").logits for one in context.subjects}
    yield from _of_set(context, forget, "", "the forget set is empty")
    whole = bool(context.splits.forgotten_classes)
    if whole if class_test is None else class_test:
        rows = context.splits.test_of_forgotten_classes
        test = {one.label: context.signals(one, "test").logits[rows] for one in context.subjects}
        empty = "no test example is of the forgotten classes" if whole else NOT_WHOLE_CLASSES
        yield from _of_set(context, test, ".class_test", empty)


def _of_set(context: AuditContext, answers: Answers, suffix: str, empty: str) -> Iterator[Measurement]:
    sums = _sums(context, answers)
    seed = derive_seed(context.config.seed, "bootstrap")
    for index, candidate in enumerate(context.subjects):
        n = len(answers[candidate.label])
        levels = levels_of(context, candidate, answers, sums) if n else None
        reason = no_reference(candidate.role) if n else empty
        for place, kind in enumerate(KINDS):
            name = f"outputs.{kind}{suffix}"
            if levels is None:
                yield measurement(name, candidate, None, reason, n=n or len(context.splits.measured), method=METHOD)
            else:
                others = tuple(other.label for other in context.references(candidate))
                yield _one(name, candidate, kind, levels=_of_kind(levels, place), others=others, seed=seed)
        context.progress("comparing answers", index + 1, len(context.subjects), candidate.label)


def _sums(context: AuditContext, answers: Answers) -> dict[str, Floats]:
    """Return for each retrained model the sum of its divergences to all the others, [kinds, n]."""
    labels = [one.label for one in context.with_role("retrained")]
    shape = (len(KINDS), len(answers[labels[0]]) if labels else 0)
    return {
        one: sum((_apart(answers, one, other) for other in labels if other != one), start=np.zeros(shape))
        for one in labels
    }


def _apart(answers: Answers, one: str, other: str) -> Floats:
    """Return every divergence of a model to another, [kinds, n]."""
    return np.stack(metrics.divergences(answers[one], answers[other]))


def levels_of(
    context: AuditContext, candidate: Candidate, answers: Answers, sums: Mapping[str, Floats]
) -> Levels | None:
    """Return a subject's divergences and the floor that they are read against; None without a retrained model.

    Args:
        context: whose retrained models it is compared with.
        candidate: the subject; where it is retrained itself it has no part in its floor.
        answers: of every subject.
        sums: of `_sums`.
    """
    others = [one.label for one in context.references(candidate)]
    if not others:
        return None
    each = np.stack([_apart(answers, candidate.label, other) for other in others])
    if len(others) < 2:
        return Levels(each, None)
    own = candidate.label in sums
    floor = [
        (sums[other] - (_apart(answers, other, candidate.label) if own else 0.0)) / (len(others) - 1)
        for other in others
    ]
    return Levels(each, np.maximum(np.stack(floor), 0.0))


def _of_kind(levels: Levels, place: int) -> Levels:
    """Return one kind's numbers, [R, n]."""
    return Levels(levels.each[:, place], None if levels.floor is None else levels.floor[:, place])


def _one(
    name: str, candidate: Candidate, kind: str, *, levels: Levels, others: Sequence[str], seed: int
) -> Measurement:
    ours, floor = levels.each.mean(axis=0), levels.floor
    n, count = len(ours), len(others)
    apart = metrics.as_if_apart(floor) if floor is not None and count >= FEWEST_FOR_SPREAD else None
    scale = SCALES[kind]
    difference = None
    if apart is not None and n >= 2:
        means = [float(one.mean()) for one in apart]
        # What seeds add to the chance of these examples can only widen it; heavy tails hide it from e of `compared`.
        least = max(1 / n**2 if scale == "fraction" else 0.0, float((ours - apart.mean(axis=0)).var(ddof=1)) / n)
        difference = compared(float(ours.mean()), means, [(ours, apart)], least=least, reach=LARGEST[kind])
    return measurement(
        name,
        candidate,
        float(ours.mean()),
        n=n,
        interval=_interval(ours, kind, seed),
        reference=_reference(floor, apart),
        comparison=comparison_of(difference, scale),
        method=METHOD + (FLOOR if floor is not None else ""),
        details={
            "by_reference": {label: float(one.mean()) for label, one in zip(others, levels.each, strict=True)},
            **_over_examples(ours, floor, seed),
        },
    )


def _interval(ours: Floats, kind: str, seed: int) -> Any:
    n = len(ours)
    if kind == "agreement":  # also where all agree, which a finite set does not show of all
        return interval(metrics.wilson_interval(round(float(ours.sum())), n), "Wilson")
    ends = metrics.mean_interval(ours, seed=seed)
    within = None if ends is None else metrics.Bounds(ends.low, min(ends.high, LARGEST[kind]))
    return interval(within, metrics.skewed_method(n))


def _reference(floor: Floats | None, apart: Floats | None) -> Reference | None:
    """Return the floor, with the spread of one more retrained model's value where three models tell one."""
    if apart is not None:
        return reference_of([float(one.mean()) for one in apart])
    return None if floor is None else Reference(role="retrained", value=float(floor.mean()), n=len(floor))


def _over_examples(ours: Floats, floor: Floats | None, seed: int) -> dict[str, Any]:
    """Return floor and difference, with the paired interval over examples; these models are taken as given."""
    if floor is None:
        return {}
    level = floor.mean(axis=0)
    ends = metrics.paired_bootstrap(ours, level, seed=seed)
    return {
        "floor": float(level.mean()),
        "difference": float((ours - level).mean()),
        "difference_low": None if ends is None else ends.low,
        "difference_high": None if ends is None else ends.high,
    }
