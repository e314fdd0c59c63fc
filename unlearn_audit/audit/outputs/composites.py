"""The field's composites: what one number makes of accuracies, of an attack, or of the cost, beside retrained models'.

ToW and ToW-MIA (Zhao et al. 2024), retention and indiscernibility (Cadet et al. 2024), Kodge's product (Kodge et al.
2023), RTE (Fan et al. 2024). They are here to be compared with tables; each loses the sign of what it is made of.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.attacks import svc as svc_attack
from unlearn_audit.audit.context import AuditContext, Split
from unlearn_audit.audit.measurement import interval, measurement
from unlearn_audit.audit.outputs.divergences import FEWEST_FOR_SPREAD
from unlearn_audit.audit.reference import no_reference, reference_of
from unlearn_audit.engine import derive_seed
from unlearn_audit.inputs import Candidate
from unlearn_audit.report import Measurement, Reference

Floats = NDArray[np.float64]
SPLITS: tuple[Split, ...] = ("forget", "retain", "test")
FEWEST_RIGHT = 8  # right answers below which a ratio of two accuracies has no value (below) or no interval (above)
LOSS = "loss attack, forget examples that have a partner against their unseen twin"
PRODUCT = "product of the two Wilson intervals' ends, wider than 95 %"


class _Standing(NamedTuple):
    """What one model's composites are made of: 1.0 where it is right, by split, and the efficacy of the SVC."""

    right: Mapping[Split, Floats]
    efficacy: float | None

    @property
    def accuracies(self) -> tuple[float, ...]:
        return tuple(float(self.right[split].mean()) for split in SPLITS)


def measure_composites(context: AuditContext, *, svc: bool) -> Iterator[Measurement]:
    """Yield ToW, retention, indiscernibility, Kodge's product and RTE of every subject, and ToW-MIA where it is wanted.

    Args:
        context: models and sets.
        svc: whether ToW-MIA is wanted, for which an SVC is fitted on each model's outputs.
    """
    standings: dict[str, _Standing] = {}
    for index, one in enumerate(context.subjects):
        standings[one.label] = _standing(context, one, svc=svc)
        if svc:
            context.progress("fitting an SVC on each model", index + 1, len(context.subjects), one.label)
    for candidate in context.subjects:
        yield _tug_of_war(context, candidate, standings, "outputs.tow", _accuracies)
        if svc:
            yield _tug_of_war(context, candidate, standings, "outputs.tow_mia", _with_efficacy)
        yield from (_retention(context, candidate, split, standings) for split in ("retain", "forget", "test"))
        yield _indiscernibility(context, candidate)
        yield _kodge(context, candidate, standings)
        yield _relative_cost(context, candidate, "outputs.rte", "wall_seconds")
        yield _relative_cost(context, candidate, "outputs.rte_gradients", "gradient_evaluations")


def _standing(context: AuditContext, candidate: Candidate, *, svc: bool) -> _Standing:
    forget, retain, test = (context.signals(candidate, split) for split in SPLITS)
    sides = zip(SPLITS, (forget, retain, test), strict=True)
    right = {split: metrics.correct(one.logits, one.labels) for split, one in sides}
    return _Standing(right, svc_attack.efficacy(retain, test, forget) if svc else None)


# ----- tug of war


def _accuracies(standing: _Standing) -> tuple[float, ...] | None:
    return standing.accuracies if all(len(one) for one in standing.right.values()) else None


def _with_efficacy(standing: _Standing) -> tuple[float, ...] | None:
    told = _accuracies(standing)
    return None if told is None or standing.efficacy is None else (standing.efficacy, *told[1:])


Told = Callable[[_Standing], tuple[float, ...] | None]


def _tug_of_war(
    context: AuditContext, candidate: Candidate, standings: Mapping[str, _Standing], name: str, told: Told
) -> Measurement:
    """Return the mean product over the retrained models, with Student's interval, beside that among these."""
    others = [one.label for one in context.references(candidate)]
    known = {label: told(standings[label]) for label in (candidate.label, *others)}
    pairs: list[float] = []
    floor: Reference | None = None
    if others and all(each is not None for each in known.values()):
        rows = {label: each for label, each in known.items() if each is not None}
        pairs = [metrics.tug_of_war(rows[candidate.label], rows[other]) for other in others]
        floor = _between([rows[other] for other in others])
    first = "SVC efficacy (share of the forget set taken for non-members)" if told is _with_efficacy else "accuracy"
    return measurement(
        name,
        candidate,
        float(np.mean(pairs)) if pairs else None,
        no_reference(candidate.role) if not others else "one of the sets is empty",
        n=sum(len(one) for one in standings[candidate.label].right.values()),
        interval=interval(_over_models(pairs), "Student t over retrained models, without the chance of examples"),
        reference=floor,
        method=f"product of 1 - |difference| of {first} on forget, accuracy on retain and on test, against each "
        "retrained model, then the mean; reference: the same between pairs of retrained models",
        details={"by_reference": dict(zip(others, pairs, strict=False))},
    )


def _over_models(pairs: Sequence[float]) -> metrics.Bounds | None:
    """Return the interval of a mean over retrained models, within [0, 1]; None where these do not differ."""
    if len(pairs) < 2 or min(pairs) == max(pairs):
        return None
    mean, spread = metrics.mean_and_spread(pairs)
    ends = metrics.student_interval(mean, (spread or 0.0) / len(pairs) ** 0.5, len(pairs) - 1)
    return metrics.Bounds(max(0.0, ends.low), min(1.0, ends.high))


def _between(rows: Sequence[tuple[float, ...]]) -> Reference | None:
    """Return the mean product of pairs of retrained models, with the spread of one more model where three tell it."""
    if len(rows) < 2:
        return None
    levels = np.array([
        np.mean([metrics.tug_of_war(one, other) for other in rows if other is not one]) for one in rows
    ])  # fmt: skip
    if len(rows) >= FEWEST_FOR_SPREAD:
        return reference_of(metrics.as_if_apart(levels).tolist())
    return Reference(role="retrained", value=float(levels.mean()), n=len(rows))


# ----- single numbers


def _retention(
    context: AuditContext, candidate: Candidate, split: Split, standings: Mapping[str, _Standing]
) -> Measurement:
    ours = standings[candidate.label].right[split]
    others = [standings[one.label].right[split] for one in context.references(candidate)]
    level = np.mean(others, axis=0) if others else np.zeros(0)
    defined = level.sum() >= FEWEST_RIGHT
    seed = derive_seed(context.config.seed, "bootstrap")
    told = defined and ours.sum() >= FEWEST_RIGHT
    ends = metrics.paired_ratio_interval(ours, level, seed=seed) if told and (ours != level).any() else None
    return measurement(
        f"outputs.retention.{split}",
        candidate,
        float(ours.mean() / level.mean()) if defined else None,
        _too_few_right(float(level.sum()), split) if others else no_reference(candidate.role),
        n=len(ours),
        interval=interval(ends, metrics.skewed_method(len(ours))),
        reference=reference_of(_over_the_rest([float(one.sum()) for one in others], FEWEST_RIGHT)) if defined else None,
        method="accuracy over the mean accuracy of the retrained models",
    )


def _too_few_right(count: float, split: Split) -> str:
    """Return why nothing is divided by the retrained models' right answers."""
    if not count:
        return f"the retrained models get nothing right on the {split} set"
    return (
        f"the retrained models get {count:.3g} right on the {split} set, and a ratio needs {FEWEST_RIGHT} to divide by"
    )


def _over_the_rest(levels: Sequence[float], least: float = 0.0) -> list[float]:
    """Return each retrained model's level over the others' mean; none unless this is at least `least` for each."""
    if len(levels) < 2:
        return []
    rest = [(sum(levels) - own) / (len(levels) - 1) for own in levels]
    return [own / mean for own, mean in zip(levels, rest, strict=True)] if min(rest) >= least else []


def _indiscernibility(context: AuditContext, candidate: Candidate) -> Measurement:
    area, ends = _area(context, candidate)
    levels = [_folded(other) for one in context.references(candidate) if (other := _area(context, one)[0]) is not None]
    return measurement(
        "outputs.indiscernibility",
        candidate,
        None if area is None else _folded(area),
        "no forget example has a partner in the unseen twin",
        n=2 * len(context.splits.unseen) or len(context.splits.measured),
        interval=interval(_folded_ends(ends), "DeLong, logit scale") if ends else None,
        reference=reference_of(levels),
        method=f"1 - 2·|AUC - 1/2| of the {LOSS}; published with the accuracy of a classifier of its own",
    )


def _area(context: AuditContext, candidate: Candidate) -> tuple[float | None, metrics.Bounds | None]:
    """Return the AUC at which smaller losses tell forget examples from their twin, and its interval."""
    members, others = (
        -metrics.cross_entropy(one.logits.astype(np.float64), one.labels)
        for one in (context.paired_forget(candidate), context.signals(candidate, "unseen"))
    )
    return metrics.auc(members, others), metrics.auc_interval(members, others)


def _folded(area: float) -> float:
    return 1 - 2 * abs(area - 0.5)


def _folded_ends(ends: metrics.Bounds) -> metrics.Bounds:
    """Return the interval of the folded area; where the AUC's own holds 1/2 it reaches 1."""
    folded = _folded(ends.low), _folded(ends.high)
    return metrics.Bounds(min(folded), 1.0 if ends.low <= 0.5 <= ends.high else max(folded))


def _kodge(context: AuditContext, candidate: Candidate, standings: Mapping[str, _Standing]) -> Measurement:
    retain, forget = (standings[candidate.label].right[split] for split in ("retain", "forget"))
    sides = [metrics.wilson_interval(int(one.sum()), len(one)) for one in (retain, forget)]
    kept, known = sides
    ends = None if kept is None or known is None else metrics.Bounds(
        kept.low * (1 - known.high), kept.high * (1 - known.low)
    )  # fmt: skip
    return measurement(
        "outputs.kodge",
        candidate,
        _product(standings[candidate.label]) if ends else None,
        "retain or forget set is empty",
        n=len(retain) + len(forget),
        interval=interval(ends, PRODUCT),
        reference=reference_of([_product(standings[one.label]) for one in context.references(candidate)])
        if ends
        else None,
        method="accuracy on retain x (1 - accuracy on forget), training examples; published for classes, on their test "
        "images",
    )


def _product(standing: _Standing) -> float:
    return float(standing.right["retain"].mean() * (1 - standing.right["forget"].mean()))


# ----- cost


def _relative_cost(context: AuditContext, candidate: Candidate, name: str, key: str) -> Measurement:
    """Return a recorded cost over the mean of the retrained models' own, which need not be the same machine's."""
    ours = _recorded(candidate, key)
    others = [cost for one in context.references(candidate) if (cost := _recorded(one, key))]
    what = {"wall_seconds": "wall time", "gradient_evaluations": "gradients of single examples"}[key]
    reason = no_reference(candidate.role)
    if context.references(candidate):
        reason = f"no retrained model's metadata has its {what}" if not others else f"its metadata has no {what}"
    if candidate.role in ("original", "subject"):
        reason = "it was not unlearned"
    known = ours is not None and bool(others) and candidate.role not in ("original", "subject")
    return measurement(
        name,
        candidate,
        float(ours / np.mean(others)) if known and ours is not None else None,
        reason,
        n=len(context.splits.forget.indices),
        reference=reference_of(_over_the_rest(others)) if known else None,
        method=f"recorded {what} over the mean of the retrained models'; without the training of the original",
        details={"cost": ours, "retrained": others},
    )


def _recorded(candidate: Candidate, key: str) -> float | None:
    found = getattr(candidate.metadata, key) if candidate.metadata else None
    return None if found is None else float(found)
