"""Forget set against unseen twin on each subject, given the retrained models: what a fast method leaves behind.

Averages may agree with the retrained models' and the answers still be told apart; see `metrics.two_sample`. The level
is exact over forget sets and twins; models that were trained on one draw share its luck, so that a p of .05 is told
and one below .01 stops.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.attacks import log_odds
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.measurement import interval, measurement
from unlearn_audit.audit.reference import no_reference, reference_of
from unlearn_audit.audit.section import SearchState, SectionResult
from unlearn_audit.config import TwosampleSettings
from unlearn_audit.data import digest_of
from unlearn_audit.inputs import Candidate
from unlearn_audit.report import Measurement, Reference
from unlearn_audit.streams import generator

Floats = NDArray[np.float64]
NOT_ALIKE = (
    "the two-sample test tells forget set and unseen twin apart on most retrained models: they are not alike, or "
    "these models were not made without the forget set, so that its p says nothing here"
)
Outcome = metrics.TwoSample | str


def measure_twosample(context: AuditContext, settings: TwosampleSettings, _search: SearchState) -> SectionResult:
    """Return `twosample.p` and `twosample.auc` of every subject."""
    swaps = pair_swaps(context, settings.swaps)
    found: dict[str, Outcome] = {}
    for index, candidate in enumerate(context.subjects):
        context.progress("two-sample test", index, len(context.subjects), candidate.label)
        found[candidate.label] = _outcome(context, candidate, swaps)
    context.progress("two-sample test", len(context.subjects), len(context.subjects))
    odd = _odd_references(context, found)
    return SectionResult(
        tuple(_measurements(context, found, odd, settings.swaps)),
        tuple(_limitations(context, found, odd)),
        {name: array for label, one in found.items() for name, array in _arrays(label, one)},
    )


def pair_log_odds(context: AuditContext, candidate: Candidate) -> Floats:
    """Return a subject's log-odds of the observed label, [2n]: forget examples that have a twin, then their twins."""
    signals = context.paired_forget(candidate), context.signals(candidate, "unseen")
    return np.concatenate([log_odds(one.logits, one.labels) for one in signals])


def pair_swaps(context: AuditContext, swaps: int) -> metrics.Swaps:
    """Return the exchanges of labels that every test of these pairs makes, the same for all subjects.

    Args:
        context: whose pairs and seed decide.
        swaps: B.
    """
    twin = context.splits.unseen
    draws = generator("swaps", context.config.seed, digest_of(twin.forget), digest_of(twin.unseen))
    return metrics.paired_swaps(len(twin), swaps=swaps, generator=draws)


def _outcome(context: AuditContext, candidate: Candidate, swaps: metrics.Swaps) -> Outcome:
    references = [pair_log_odds(context, other) for other in context.references(candidate)]
    if not references:
        return no_reference(candidate.role)
    return metrics.two_sample_test(pair_log_odds(context, candidate), np.stack(references), swaps)


# ----- the retrained models' own p


def _odd_references(context: AuditContext, found: Mapping[str, Outcome]) -> dict[str, float]:
    """Return the retrained models whose own p is small, with it: on them forget set and twin are told apart, too."""
    outcomes = ((one.label, found[one.label]) for one in context.with_role("retrained"))
    return {label: one.p for label, one in outcomes if isinstance(one, metrics.TwoSample) and one.p < metrics.STOPS_P}


def _most_are_odd(context: AuditContext, odd: Mapping[str, float]) -> bool:
    return 2 * len(odd) > len(context.with_role("retrained"))


def _limitations(context: AuditContext, found: Mapping[str, Outcome], odd: Mapping[str, float]) -> Iterator[str]:
    for label, p in odd.items():
        yield (
            f"the two-sample test tells forget set and unseen twin apart on {label}, too (p {p:.3g} against the other "
            "retrained models): either the two sets are not alike (split by time or by source, duplicates), or this "
            "model was trained otherwise, or it is chance; read the other models' p with that in mind"
        )
    used = next((one.used for one in found.values() if isinstance(one, metrics.TwoSample)), None)
    pairs = len(context.splits.unseen)
    if used is not None and used < pairs:
        yield (
            f"two-sample test: two of its four statistics looked at {used:,} of {pairs:,} pairs, drawn with the seed; "
            "the others at all"
        )


# ----- measurements


def _measurements(
    context: AuditContext, found: Mapping[str, Outcome], odd: Mapping[str, float], swaps: int
) -> Iterator[Measurement]:
    for candidate in context.subjects:
        outcome = found[candidate.label]
        others = {other.label: found[other.label] for other in context.references(candidate)}
        known = {label: one for label, one in others.items() if isinstance(one, metrics.TwoSample)}
        p, area = _of_subject(context, candidate, outcome=outcome, others=known, swaps=swaps)
        doubts = (NOT_ALIKE,) if candidate.label in odd and _most_are_odd(context, odd) else ()
        yield from (one.model_copy(update={"doubts": doubts}) for one in (p, area))


def _of_subject(
    context: AuditContext,
    candidate: Candidate,
    *,
    outcome: Outcome,
    others: Mapping[str, metrics.TwoSample],
    swaps: int,
) -> tuple[Measurement, Measurement]:
    """Return the two measurements of one subject; `others` are the outcomes of the retrained models."""
    test = None if isinstance(outcome, str) else outcome
    reason = outcome if isinstance(outcome, str) else None
    n, count = len(context.splits.unseen), len(context.references(candidate))
    given = f"given the log-odds of {count} retrained model{'' if count == 1 else 's'}"
    p = measurement(
        "twosample.p",
        candidate,
        test.p if test else None,
        reason,
        n=n,
        reference=usual_p([one.p for one in others.values()]),
        method=f"forget set against its unseen twin, {given}: residual and difficulty, four statistics, {swaps:,} "
        "exact swaps within pairs; the smallest of four p-values, ranked among the swaps' smallest",
        details={"swaps": swaps, "references": count} | (_details(test, others) if test else {}),
    )
    area = measurement(
        "twosample.auc",
        candidate,
        test.auc if test else None,
        reason,
        n=2 * (test.used if test else n),
        interval=interval(test.auc_bounds, "DeLong, logit scale") if test else None,
        reference=reference_of([one.auc for one in others.values()]),
        method=f"AUC of a classifier of residual and difficulty, {given}, trained on the other pairs (10 folds of "
        "pairs, 3 times); what an auditor with labels of other pairs tells apart, no attacker's figure",
    )
    return p, area


def usual_p(values: Sequence[float]) -> Reference | None:
    """Return the median of the retrained models' own p: one unlucky model of three is not the rule.

    Args:
        values: of the retrained models; none gives None.
    """
    reference = reference_of(values)
    return reference and reference.model_copy(update={"value": float(np.median(values))})


def _details(test: metrics.TwoSample, others: Mapping[str, metrics.TwoSample]) -> dict[str, Any]:
    return {
        **{f"p_{name}": value for name, value in test.parts.items()},
        "p_spread": test.spread_p,
        "p_slope": test.slope_p,
        "auc_of_shift": test.shift,
        "ratio_of_spreads": test.spread,
        "slope_forget": test.slopes[0] if test.slopes else None,
        "slope_unseen": test.slopes[1] if test.slopes else None,
        "references_p": {label: one.p for label, one in others.items()},
        "pairs_of_mmd_and_c2st": test.used,
        "differs": list(_differs(test)),
    }


def _differs(test: metrics.TwoSample) -> Iterator[str]:
    """Yield in words what differs between forget examples and their twin, where the numbers say so."""
    if test.p > metrics.TOLD_P:
        return
    forget, twin = (float(np.abs(half).mean()) for half in np.split(test.residual, 2))
    if test.parts["calibrated"] <= metrics.TOLD_P:
        yield f"lie {'higher' if test.shift > 0.5 else 'lower'}"
    if test.spread_p <= metrics.TOLD_P and test.spread is not None and (test.spread < 1) == (forget < twin):
        yield f"lie {'closer together' if test.spread < 1 else 'further apart'}"
    if test.slope_p <= metrics.TOLD_P and test.slopes is not None:
        less = abs(test.slopes[0]) < abs(test.slopes[1])
        yield f"depend {'less' if less else 'more'} on how hard an example is"
    if test.parts["tail"] <= metrics.TOLD_P and test.parts["tail"] < test.parts["calibrated"]:
        yield "are more often among the most extreme"


def _arrays(label: str, outcome: Outcome) -> Iterator[tuple[str, Floats]]:
    """Yield what the picture of a subject needs, by name: [2n] each, forget examples first."""
    if not isinstance(outcome, str):
        yield f"twosample/{label}/difficulty", outcome.difficulty
        yield f"twosample/{label}/residual", outcome.residual
