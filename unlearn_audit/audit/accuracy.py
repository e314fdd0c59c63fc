"""Accuracy and loss on every split, and the signed gaps to models retrained without the forget set."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.audit.changes import measure_changes
from unlearn_audit.audit.context import SPLITS, AuditContext, Split
from unlearn_audit.audit.losses import measure_losses
from unlearn_audit.audit.measurement import interval, measurement
from unlearn_audit.audit.reference import PAIRED, comparison_of, difference_of_means, no_reference, reference_of
from unlearn_audit.audit.section import SearchState, SectionResult
from unlearn_audit.config import GapSettings
from unlearn_audit.engine import derive_seed
from unlearn_audit.inputs import Candidate
from unlearn_audit.report import Measurement, Scale

Floats = NDArray[np.float64]
GAP_SPLITS: tuple[Split, ...] = ("retain", "forget", "test")


class SubjectAccuracy(NamedTuple):
    """One candidate on one split: 1.0 where it is right, and its loss, for each example."""

    right: Floats
    losses: Floats


def measure_gaps(context: AuditContext, _settings: GapSettings, _search: SearchState) -> SectionResult:
    """Return `accuracy.*`, `loss.*`, `gap.*` and `change.*` of every subject."""
    if context.of_generators:
        return measure_losses(context)
    return SectionResult((*_measurements(context), *measure_changes(context)))


def _measurements(context: AuditContext) -> Iterator[Measurement]:
    outcomes: dict[tuple[str, Split], SubjectAccuracy] = {}
    seed = derive_seed(context.config.seed, "bootstrap")
    for index, candidate in enumerate(context.subjects):
        for split in (*SPLITS, *context.parts):
            outcomes[candidate.label, split] = _outcome(context, candidate, split)
        context.progress("predicting", index + 1, len(context.subjects), candidate.label)
    for candidate in context.subjects:
        for split in (*SPLITS, *context.parts):
            others = [outcomes[other.label, split] for other in context.references(candidate)]
            yield from _levels(candidate, split, outcome=outcomes[candidate.label, split], others=others, seed=seed)
        yield from (_gap(context, candidate, part, outcomes) for part in context.parts)
        gaps = [_gap(context, candidate, split, outcomes) for split in GAP_SPLITS]
        yield from gaps
        yield _average(candidate, gaps, _constant_columns(context, outcomes))


def _outcome(context: AuditContext, candidate: Candidate, split: Split) -> SubjectAccuracy:
    signals = context.signals(candidate, split)
    logits = signals.logits.astype(np.float64)
    return SubjectAccuracy(metrics.correct(logits, signals.labels), metrics.cross_entropy(logits, signals.labels))


def _levels(
    candidate: Candidate, split: Split, *, outcome: SubjectAccuracy, others: Sequence[SubjectAccuracy], seed: int
) -> Iterator[Measurement]:
    """Yield the accuracy and the mean loss on one split, read against the retrained models' own."""
    n = len(outcome.right)
    bounds = metrics.wilson_interval(int(outcome.right.sum()), n)
    empty = f"the {split} set is empty"
    yield measurement(
        f"accuracy.{split}",
        candidate,
        float(outcome.right.mean()) if n else None,
        empty,
        n=n,
        interval=interval(bounds, "Wilson"),
        method="top-1, evaluation mode, evaluation transform",
        **_read_against(outcome.right, [other.right for other in others], "fraction"),
    )
    yield measurement(
        f"loss.{split}",
        candidate,
        float(outcome.losses.mean()) if n else None,
        empty,
        n=n,
        interval=interval(metrics.mean_interval(outcome.losses, seed=seed), metrics.skewed_method(n)),
        method="mean cross-entropy, evaluation mode, evaluation transform",
        **_read_against(outcome.losses, [other.losses for other in others], "nats"),
    )


def _read_against(ours: Floats, others: Sequence[Floats], scale: Scale) -> dict[str, Any]:
    """Return the fields of a measurement that say what the retrained models have, and how far this one is from it."""
    levels = [float(other.mean()) for other in others if len(other)]
    difference = difference_of_means(ours, others, scale) if levels else None
    return {"reference": reference_of(levels), "comparison": comparison_of(difference, scale)}


def _gap(
    context: AuditContext, candidate: Candidate, split: Split, outcomes: dict[tuple[str, Split], SubjectAccuracy]
) -> Measurement:
    """Return accuracy(candidate) - mean accuracy(retrained) on one split."""
    others = [outcomes[other.label, split].right for other in context.references(candidate)]
    right = outcomes[candidate.label, split].right
    levels = [float(other.mean()) for other in others]
    difference = difference_of_means(right, others, "fraction")
    value = float(right.mean() - np.mean(levels)) if others else None
    ends = None if difference is None else metrics.Bounds(difference.low, difference.high)
    floor = max(levels) - min(levels) if len(levels) > 1 else None
    return measurement(
        f"gap.{split}",
        candidate,
        value,
        no_reference(candidate.role),
        n=len(right),
        interval=interval(ends, PAIRED),
        reference=reference_of(levels),
        comparison=comparison_of(difference, "fraction"),
        method="accuracy minus mean accuracy of the retrained models",
        details={
            "noise_floor": floor,
            "within_noise_floor": None if floor is None or value is None else abs(value) <= floor,
        },
    )


def _constant_columns(context: AuditContext, outcomes: dict[tuple[str, Split], SubjectAccuracy]) -> set[str]:
    """Return the splits on which every model has the same accuracy, so that their gap says nothing."""
    if len(context.subjects) < 2:
        return set()
    levels = {
        split: {round(float(outcomes[candidate.label, split].right.mean()), 12) for candidate in context.subjects}
        for split in GAP_SPLITS
    }
    return {split for split, found in levels.items() if len(found) == 1}


def _average(candidate: Candidate, gaps: list[Measurement], constant: set[str]) -> Measurement:
    """Return the mean of the absolute gaps (the field's Avg. Gap), with and without columns that never vary."""
    sizes = {gap.name.removeprefix("gap."): abs(float(gap.value)) for gap in gaps if gap.value is not None}
    varying = [size for split, size in sizes.items() if split not in constant]
    return measurement(
        "gap.average",
        candidate,
        float(np.mean(list(sizes.values()))) if sizes else None,
        no_reference(candidate.role),
        n=sum(gap.n for gap in gaps),
        method="mean of |gap| on retain, forget and test; published tables mostly average four, the fourth that of a "
        "membership attack (MIA-efficacy): not to be compared with them",
        details={
            "without_constant_columns": float(np.mean(varying)) if varying else None,
            "constant_columns": sorted(constant),
        },
    )
