"""KLOM and the NeurIPS 2023 F: many models unlearned in one way against as many retrained ones, example by example.

Both depend on how many models there are, so that each is told beside its floor at the same number: what two disjoint
halves of the retrained models have of each other. Models belong to one population where their metadata say the same
method, settings and transforms.
"""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.attacks import log_odds
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.measurement import measurement
from unlearn_audit.inputs import Candidate
from unlearn_audit.report import Measurement, Reference

Floats = NDArray[np.float64]
FEWEST = metrics.FEWEST_MODELS
NOT_UNLEARNED = "a population of unlearned models is meant, and this is none of them"
FEW_OF_KIND = "needs {} unlearned models of one method and its settings, with other seeds; there {} {}"
FEW_RETRAINED = "needs {} retrained models; there {} {}"
NO_FLOOR = "needs {} retrained models, half of which give the floor at the same number of models; there {} {}"


class _Population(NamedTuple):
    """Log-odds of the observed label of every forget example: unlearned models and two lots of retrained ones, [N, n].

    `spare` are further retrained models, as many, whose distance to `retrained` is the floor; None where there are
    fewer.
    """

    unlearned: Floats
    retrained: Floats
    spare: Floats | None


def measure_populations(context: AuditContext) -> Iterator[Measurement]:
    """Yield `klom.gaussian` and `neurips.forgetting_quality` of every subject: of the population it is in."""
    retrained = [_odds(context, one) for one in context.with_role("retrained")]
    kinds: dict[str, list[Candidate]] = {}
    for one in context.with_role("unlearned"):
        kinds.setdefault(_kind(one), []).append(one)
    for candidate in context.subjects:
        members = kinds.get(_kind(candidate), []) if candidate.role == "unlearned" else []
        yield _klom(context, candidate, members, retrained)
        yield _quality(context, candidate, members, retrained)


def _odds(context: AuditContext, candidate: Candidate) -> Floats:
    signals = context.signals(candidate, "forget")
    return log_odds(signals.logits, signals.labels)


def _kind(candidate: Candidate) -> str:
    """Return what models of one population have in common; a model that does not say it is alone."""
    said = candidate.metadata
    if said is None or said.method is None:
        return f"alone: {candidate.label}"
    return json.dumps([said.method, dict(said.settings), list(said.transforms)], sort_keys=True, default=str)


def _population(
    context: AuditContext, members: Sequence[Candidate], retrained: Sequence[Floats], *, spare: bool
) -> _Population | str:
    """Return as many models of each side as there are of the smaller; else what is missing.

    Args:
        context: models and sets.
        members: the unlearned models.
        retrained: log-odds of the retrained ones.
        spare: whether a second lot of retrained models is needed.
    """
    if not members:
        return NOT_UNLEARNED
    if len(members) < FEWEST:
        return FEW_OF_KIND.format(FEWEST, *_are(len(members)))
    if len(retrained) < FEWEST * (2 if spare else 1):
        return (NO_FLOOR if spare else FEW_RETRAINED).format(FEWEST * (2 if spare else 1), *_are(len(retrained)))
    count = min(len(members), len(retrained) // (2 if spare else 1))
    second = np.stack(retrained[count : 2 * count]) if len(retrained) >= 2 * count else None
    return _Population(np.stack([_odds(context, one) for one in members[:count]]), np.stack(retrained[:count]), second)


def _are(count: int) -> tuple[str, int]:
    return "is" if count == 1 else "are", count


def _klom(
    context: AuditContext, candidate: Candidate, members: Sequence[Candidate], retrained: Sequence[Floats]
) -> Measurement:
    found = _population(context, members, retrained, spare=False)
    if isinstance(found, str):
        return _none(context, "klom.gaussian", candidate, found)
    count, spare = len(found.unlearned), found.spare
    each = metrics.klom_gaussian(found.unlearned, found.retrained)
    finite = bool(len(each)) and bool(np.isfinite(each).all())
    own = metrics.klom_gaussian(spare, found.retrained) if spare is not None else np.zeros(0)
    measured = float(own.mean()) if len(own) and np.isfinite(own).all() else None
    expected = metrics.klom_floor(count)
    floor = measured if measured is not None else expected
    told = "two halves of the retrained models" if measured is not None else "2 / (N - 3), normal margins of one law"
    return measurement(
        "klom.gaussian",
        candidate,
        float(each.mean()) if finite else None,
        "a model gives an example the same margin whatever the seed, so that the divergence is infinite",
        n=len(each) or len(context.splits.measured),
        reference=None if floor is None else Reference(role="retrained", value=floor, n=count),
        method=f"KL(retrained‖unlearned) of normal margins, {count} models of each, mean over examples; reference: the "
        f"floor at the same number, {told}",
        details={
            "models": [one.label for one in members[:count]],
            "percentile_95": float(np.quantile(each, 0.95)) if finite else None,
            "floor_of_normal_margins": expected,
            "histogram": float(metrics.klom_histogram(found.unlearned, found.retrained).mean()),
            "histogram_floor": None if spare is None else float(metrics.klom_histogram(spare, found.retrained).mean()),
        },
    )


def _quality(
    context: AuditContext, candidate: Candidate, members: Sequence[Candidate], retrained: Sequence[Floats]
) -> Measurement:
    name = "neurips.forgetting_quality"
    found = _population(context, members, retrained, spare=True)
    if isinstance(found, str) or found.spare is None:
        return _none(context, name, candidate, found if isinstance(found, str) else NOT_UNLEARNED)
    count = len(found.unlearned)
    value = metrics.forgetting_quality(found.unlearned, found.retrained)
    floor = metrics.forgetting_quality(found.spare, found.retrained)
    return measurement(
        name,
        candidate,
        value,
        "the forget set is empty",
        n=found.unlearned.shape[1],
        reference=None if floor is None else Reference(role="retrained", value=floor, n=count),
        method=f"{count} models of each, delta 1e-5, all thresholds and intervals; reference: two halves of the "
        "retrained models; read as a ratio to it",
        details={"ratio": value / floor if value is not None and floor else None},
    )


def _none(context: AuditContext, name: str, candidate: Candidate, reason: str) -> Measurement:
    method = "many models of one method against as many retrained ones"
    return measurement(name, candidate, None, reason, n=len(context.splits.measured), method=method)
