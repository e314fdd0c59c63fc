"""From an attack's scores to measurements: AUC, true positives at few false ones, accuracy, each against retrained."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.attacks import Attack
from unlearn_audit.audit.measurement import interval, measurement
from unlearn_audit.audit.reference import compared, comparison_of, reference_of
from unlearn_audit.inputs import Candidate
from unlearn_audit.report import Comparison, CouldSee, Measurement, MeasurementFlag

Floats = NDArray[np.float64]
# False positive rate -> how its measurement is called.
RATES = {0.01: "tpr_at_fpr_1e-2", 0.001: "tpr_at_fpr_1e-3"}


class Scores(NamedTuple):
    """An attack's scores on the forget examples that have a partner, and on the partners; higher says "member"."""

    members: Floats
    non_members: Floats


class _Found(NamedTuple):
    """What all measurements of one attack on one subject share."""

    attack: Attack
    candidate: Candidate
    scores: Scores
    others: Sequence[Scores]
    details: dict[str, Any]
    reason: str | None
    could_see: CouldSee | None


def mia_numbers(
    attack: Attack,
    candidate: Candidate,
    *,
    scores: Scores | str,
    others: Sequence[Scores],
    details: dict[str, Any],
    shown: Sequence[dict[str, Any]] = (),
    could_see: CouldSee | None = None,
) -> Iterator[Measurement]:
    """Yield every measurement of one attack on one subject.

    Args:
        attack: which one.
        candidate: the subject.
        scores: of the subject, or why there are none.
        others: of the retrained models that it is compared with.
        details: what is to be said of how the scores came about.
        shown: the most exposed examples, for the AUC's details.
        could_see: what it finds of the fleet's own models, of the AUC.
    """
    empty = Scores(np.zeros(0), np.zeros(0))
    reason = scores if isinstance(scores, str) else why_no_value(scores)
    comparable = [other for other in others if why_no_value(other) is None]
    ours = empty if isinstance(scores, str) else scores
    found = _Found(attack, candidate, ours, comparable, details, reason, could_see)
    yield _auc(found, shown)
    for rate, name in RATES.items():
        yield _tpr(found, rate, name)
    yield _accuracy(found)
    yield _base_rate(found)


def why_no_value(scores: Scores) -> str | None:
    """Return why these scores would mean nothing, or None where they mean something."""
    if not len(scores.members) or not len(scores.non_members):
        return "no forget example has a partner in the unseen twin"
    values = np.unique(np.concatenate(scores))
    if np.isnan(values).any():
        return "the attack's score is not a number for some examples"
    return "degenerate: the attack gives every example the same score" if len(values) == 1 else None


def worst(scores: Scores, indices: NDArray[np.int64], labels: NDArray[np.int64], count: int) -> list[dict[str, Any]]:
    """Return the most exposed forget examples, the highest score first.

    Args:
        scores: of one subject.
        indices: [n] of the members in the training set.
        labels: [n] under which they were seen.
        count: how many at most.
    """
    first = np.lexsort((indices, -scores.members))[:count]
    return [
        {
            "index": int(indices[row]),
            "label": int(labels[row]),
            "score": float(scores.members[row]) if np.isfinite(scores.members[row]) else None,
            "share_of_twin_above": float((scores.non_members >= scores.members[row]).mean()),
        }
        for row in first
    ]


def _measurement(found: _Found, name: str, value: float | None, reason: str | None, **fields: Any) -> Measurement:
    """Return a measurement with what all of them have."""
    members, non_members = len(found.scores.members), len(found.scores.non_members)
    details = {
        "members": f"{members} forget examples",
        "non_members": f"{non_members} examples of their unseen twin",
        **({"legacy": found.attack.legacy} if found.attack.legacy else {}),
        **({"differs_from_tables": found.attack.differs} if found.attack.differs else {}),
        **found.details,
        **fields.pop("details", {}),
    }
    reason = found.reason or reason
    return measurement(
        f"mia.{found.attack.name}.{name}",
        found.candidate,
        None if reason else value,
        reason,
        n=members + non_members,
        method=f"{found.attack.hypothesis} ({found.attack.source})",
        flags=_flags(found),
        details=details,
        **({} if reason else fields),
    )


def _flags(found: _Found) -> tuple[MeasurementFlag, ...]:
    """Return what is to be known of an attack before anything is concluded from it."""
    legacy: tuple[MeasurementFlag, ...] = ("legacy",) if found.attack.legacy else ()
    return (*legacy, "another question") if "wrong_hypothesis" in found.details else legacy


def _auc(found: _Found, shown: Sequence[dict[str, Any]]) -> Measurement:
    """Return the AUC with DeLong's interval and the paired difference to the retrained models."""
    ours = found.scores
    value, bounds = metrics.auc(*ours), metrics.auc_interval(*ours)
    levels = [level for level in (metrics.auc(*other) for other in found.others) if level is not None]
    comparison = None if found.reason else auc_comparison(ours, found.others)
    details: dict[str, Any] = {"base_rate": _share_of_members(ours)}
    if shown:
        details["worst"] = list(shown)
    return _measurement(
        found,
        "auc",
        value,
        None,
        interval=interval(bounds, "DeLong, logit scale"),
        reference=reference_of(levels),
        comparison=comparison,
        could_see=found.could_see,
        details=details,
    )


def auc_comparison(ours: Scores, others: Sequence[Scores]) -> Comparison | None:
    """Return the difference of an AUC to the retrained models' as a report has it, see `auc_difference`."""
    return comparison_of(auc_difference(ours, others), "AUC")


def auc_difference(ours: Scores, others: Sequence[Scores], *, level: float = 0.95) -> metrics.Difference | None:
    """Return the difference of an AUC to the retrained models', or None below two of them.

    DeLong's components are paired over examples, and the spread of the retrained seeds comes on top.

    Args:
        ours: of the subject.
        others: of the retrained models, on the same examples, under the same shadow models.
        level: coverage of the interval.
    """
    value = metrics.auc(*ours)
    levels = [area for area in (metrics.auc(*other) for other in others) if area is not None]
    if value is None or len(levels) < 2 or min(len(ours.members), len(ours.non_members)) < 2:
        return None
    members, non_members = zip(*(metrics.auc_components(*other) for other in others), strict=True)
    own = metrics.auc_components(*ours)
    sides = [(own[0], np.stack(members)), (own[1], np.stack(non_members))]
    least = 1 / (2 * min(map(len, ours))) ** 2  # one example that moves across half of the others
    return compared(value, levels, sides, least=least, level=level, reach=1.0)


def _tpr(found: _Found, rate: float, name: str) -> Measurement:
    """Return the true positive rate at a low false positive rate, null where the twin is too small to resolve it."""
    needed, have = metrics.non_members_needed(rate), len(found.scores.non_members)
    if found.reason or have < needed:
        reason = f"needs about {needed:,} non-members to show a false positive rate of {rate:.1%}; there are {have:,}"
        return _measurement(found, name, None, reason)
    point = metrics.tpr_at_fpr(*found.scores, rate)
    points = [metrics.tpr_at_fpr(*other, rate) for other in found.others]
    caught = [_caught(other.members, point.threshold) for other, point in zip(found.others, points, strict=True)]
    return _measurement(
        found,
        name,
        point.tpr,
        None,
        interval=interval(point.bounds, "Clopper-Pearson, combined with that of the threshold"),
        reference=reference_of([point.tpr for point in points]),
        comparison=_paired([(_caught(found.scores.members, point.threshold), caught)]),
        details={
            "attained_fpr": point.attained_fpr,
            "attained_fpr_upper": point.fpr_upper,
            "threshold": point.threshold if np.isfinite(point.threshold) else None,
            "true_positives": point.true_positives,
        },
    )


def _caught(scores: Floats, threshold: float) -> Floats:
    return (scores >= threshold).astype(np.float64)


def _paired(sides: Sequence[tuple[Floats, Sequence[Floats]]]) -> Comparison | None:
    """Compare shares of the same examples, paired, plus the spread of the retrained seeds.

    Args:
        sides: for each set the subject's zeros and ones and the retrained models'; the value is the mean of both
            sets' shares.
    """
    ours, others = sides[0]
    if len(others) < 2:
        return None
    weighted = [(ours / len(sides), np.stack(others) / len(sides)) for ours, others in sides]
    value = sum(float(ours.mean()) for ours, _ in weighted)
    levels = np.sum([others.mean(axis=1) for _, others in weighted], axis=0).tolist()
    least = sum(1 / len(ours) ** 2 for ours, _ in weighted) / len(sides) ** 2  # one disagreement
    return comparison_of(compared(value, levels, weighted, least=least, reach=1.0), "fraction")


def _accuracy(found: _Found) -> Measurement:
    """Return the balanced accuracy, at the attack's own threshold or a cross-fitted one."""
    own = found.attack.threshold
    method = "the attack's own threshold" if own is not None else "threshold from the other four of five folds"
    if found.reason:
        return _measurement(found, "accuracy", None, found.reason)
    ours, members = metrics.balanced_accuracy(*found.scores, own), len(found.scores.members)
    others = [metrics.balanced_accuracy(*other, own) for other in found.others]
    return _measurement(
        found,
        "accuracy",
        ours.accuracy,
        None,
        interval=interval(ours.bounds, "Wilson, both sides combined"),
        reference=reference_of([other.accuracy for other in others]),
        comparison=_paired([
            (ours.right[:members], [other.right[:members] for other in others]),
            (ours.right[members:], [other.right[members:] for other in others]),
        ]),
        details={
            "threshold": method,
            "base_rate": _share_of_members(found.scores),
            "says_member": ours.says_member,
            "degenerate": ours.says_member in (0.0, 1.0),
        },
    )


def _base_rate(found: _Found) -> Measurement:
    """Return the share of members: what an attack that says "member" of everybody gets right."""
    rate = _share_of_members(found.scores)
    return _measurement(
        found._replace(reason=None if rate is not None else found.reason),
        "base_rate",
        rate,
        None if rate is not None else "there are no examples",
    )


def _share_of_members(scores: Scores) -> float | None:
    total = sum(map(len, scores))
    return len(scores.members) / total if total else None
