"""The loss of generators on every split, and accuracies and gaps as what they are of them: none."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.audit.context import MOST_NOISED, SPLITS, AuditContext, Split
from unlearn_audit.audit.generators import NO_ACCURACY
from unlearn_audit.audit.measurement import interval, measurement
from unlearn_audit.audit.null_rows import told_of_null_rows
from unlearn_audit.audit.reference import comparison_of, difference_of_logs, reference_of
from unlearn_audit.audit.section import SectionResult
from unlearn_audit.catalogue import METRICS
from unlearn_audit.engine import derive_seed
from unlearn_audit.inputs import Candidate
from unlearn_audit.report import Measurement

Floats = NDArray[np.float64]


def measure_losses(context: AuditContext) -> SectionResult:
    """Return `loss.*` of every generator on the grid of timesteps and noises, and all else of the section as nulls."""
    return SectionResult(tuple(_measurements(context)), told_of_null_rows(context.subjects, context.splits))


def _measurements(context: AuditContext) -> Iterator[Measurement]:
    splits: tuple[Split, ...] = (*SPLITS, *context.parts)
    found: dict[tuple[str, Split], Floats] = {}
    for index, candidate in enumerate(context.subjects):
        found |= {(candidate.label, split): context.losses(candidate, split) for split in splits}
        context.progress("denoising", index + 1, len(context.subjects), candidate.label)
    for candidate in context.subjects:
        for split in splits:
            others = [found[other.label, split] for other in context.references(candidate)]
            yield _loss(context, candidate, split, losses=found[candidate.label, split], others=others)
        yield from _nulls(context, candidate)


def _loss(
    context: AuditContext, candidate: Candidate, split: Split, *, losses: Floats, others: Sequence[Floats]
) -> Measurement:
    """Return the mean loss on one split, read against the retrained models' own."""
    n, total = len(losses), len(context.examples(split))
    draws = context.draws(split)
    bounds = metrics.mean_interval(losses, seed=derive_seed(context.config.seed, "bootstrap")) if n else None
    return measurement(
        f"loss.{split}",
        candidate,
        float(losses.mean()) if n else None,
        f"the {split} set is empty",
        n=n,
        interval=interval(bounds, metrics.skewed_method(n)),
        method=f"mean squared error of the prediction, mean over {draws.count} timesteps and noises an example, the "
        "same for every model, evaluation mode"
        + (f"; {MOST_NOISED} of {total} examples, evenly spread" if n < total else ""),
        reference=reference_of([float(other.mean()) for other in others if len(other)]),
        comparison=comparison_of(difference_of_logs(losses, others), "log ratio"),
    )


def _nulls(context: AuditContext, candidate: Candidate) -> Iterator[Measurement]:
    """Yield what the section has of classifiers besides: neither accuracy nor gap nor change."""
    parts = ("adjacent", "remote")
    for info in METRICS.values():
        if info.section != "gaps" or info.name.startswith("loss."):
            continue
        if context.parts or not info.name.endswith(parts):
            yield measurement(info.name, candidate, None, NO_ACCURACY, n=0, method="not measured of generators")
