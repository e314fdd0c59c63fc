"""Membership inference against every subject: forget examples against their unseen twin."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import catalogue, metrics
from unlearn_audit.attacks import Attack, Evidence, Signals
from unlearn_audit.audit.bench import Bench
from unlearn_audit.audit.compare import compared, difference_details, reference_of
from unlearn_audit.config import MiaSettings
from unlearn_audit.report import Interval, Measurement
from unlearn_audit.subjects import Candidate

__all__ = ["Scores", "measure_mia"]


class Scores(NamedTuple):
    """An attack's scores on the forget examples that have a partner, and on the twin; higher says "member"."""

    members: NDArray[np.float64]
    non_members: NDArray[np.float64]


def measure_mia(bench: Bench, settings: MiaSettings) -> Iterator[Measurement]:
    """Yield `mia.<attack>.auc` of every subject, read against the retrained models' own."""
    for name in settings.attacks:
        attack: Attack = catalogue.load("attack", catalogue.ATTACKS, name)
        scores = {candidate.label: _scores(bench, candidate, attack) for candidate in bench.subjects}
        for candidate in bench.subjects:
            yield _auc(bench, candidate, attack, scores)


def _scores(bench: Bench, candidate: Candidate, attack: Attack) -> Scores:
    sides = (bench.paired_forget(candidate), bench.signals(candidate, "unseen"))
    return Scores(*(attack.score(_evidence(side)) for side in sides))


def _evidence(signals: Signals) -> Evidence:
    return Evidence(signals.logits[:, None], signals.labels, np.zeros((len(signals.labels), 0), np.float32))


def _auc(bench: Bench, candidate: Candidate, attack: Attack, scores: dict[str, Scores]) -> Measurement:
    """Return the AUC with DeLong's interval and the paired difference to the retrained models."""
    ours = scores[candidate.label]
    others = [scores[other.label] for other in bench.references(candidate)]
    value = metrics.auc(*ours)
    levels = [level for level in (metrics.auc(*other) for other in others) if level is not None]
    bounds = metrics.auc_interval(*ours)
    reason = _why_not(ours)
    return Measurement(
        name=f"mia.{attack.name}.auc",
        subject=candidate.label,
        role=candidate.role,
        value=None if reason else value,
        reason=reason,
        unit="probability",
        direction="compare to retrained",
        n=len(ours.members) + len(ours.non_members),
        interval=Interval(low=bounds.low, high=bounds.high, method="DeLong, logit scale") if bounds else None,
        reference=reference_of(levels),
        method=f"{attack.hypothesis} ({attack.source})",
        details={
            "members": f"{len(ours.members)} forget examples",
            "non_members": f"{len(ours.non_members)} examples of their unseen twin",
            "base_rate": len(ours.members) / max(1, len(ours.members) + len(ours.non_members)),
            "difference": _difference(ours, others, value, levels),
        },
    )


def _why_not(scores: Scores) -> str | None:
    """Return why an AUC of these scores would mean nothing, or None where it means something."""
    if not len(scores.members) or not len(scores.non_members):
        return "no forget example has a partner in the unseen twin"
    found = np.unique(np.concatenate(scores))
    if np.isnan(found).any():
        return "the attack's score is not a number for some examples"
    return "degenerate: the attack gives every example the same score" if len(found) == 1 else None


def _difference(
    ours: Scores, others: list[Scores], value: float | None, levels: list[float]
) -> dict[str, object] | None:
    """Compare AUCs: DeLong's components paired over examples, plus the spread of the retrained seeds."""
    if value is None or _why_not(ours) or len(levels) < 2 or min(len(ours.members), len(ours.non_members)) < 2:
        return None
    components = [metrics.auc_components(*other) for other in others]
    variance = 0.0
    for side, own in enumerate(metrics.auc_components(*ours)):
        gaps = own - np.mean([component[side] for component in components], axis=0)
        variance += float(gaps.var(ddof=1) / len(gaps))
    return difference_details(compared(value, levels, variance), "AUC")
