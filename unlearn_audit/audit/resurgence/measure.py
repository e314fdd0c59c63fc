"""The measurements of resurgence: what comes back to a subject, beyond what comes back to retrained models.

An alteration changes any model: 4 bits cost a truly retrained one accuracy on the forget set as well, and fine-tuning
may teach it something. So the value is the change of a difference, (after - before) of the subject less (after -
before) of the retrained models that went through the same, paired over examples. It is the difference of means whose
interval `audit.reference` knows, taken of changes in the place of levels: the spread over retrained models counts, and
what an alteration does to every model cancels.

Above zero is towards the original, which is put through the same where there is one. A model that forgot too much also
moves up, as far as the retrained models and no further; so the gap after the alteration is a metric of its own, and
only both together speak of a leak.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.measurement import interval, measurement
from unlearn_audit.audit.reference import (
    PAIRED,
    comparison_of,
    difference_of_log_ratios,
    difference_of_means,
    no_reference,
    reference_of,
)
from unlearn_audit.audit.resurgence.alterations import FineTuning
from unlearn_audit.audit.resurgence.copies import Answers, Looks, look_at_copies
from unlearn_audit.audit.section import SearchState, SectionResult
from unlearn_audit.audit.twosample import pair_swaps, usual_p
from unlearn_audit.catalogue import ALTERATIONS
from unlearn_audit.config import ResurgenceSettings
from unlearn_audit.engine import derive_seed
from unlearn_audit.inputs import Candidate
from unlearn_audit.report import Measurement

Floats = NDArray[np.float64]
P = float | str  # a p-value, or why there is none
AS_IT_IS = ""  # stands for no alteration
SWAPS = 999  # of the two-sample test
NOTHING: Floats = np.zeros((2, 0))  # areas of who did not relearn
WRECKED = 0.5  # of the retrained models' test accuracy: what is left below it says nothing of what they know


class Beside(NamedTuple):
    """One subject's numbers for each forget example beside those of the retrained models, of which there may be none.

    `why` says why there is no value, `widest` how far apart two numbers of one example can be.
    """

    ours: Floats
    others: Sequence[Floats]
    why: str | None = None
    widest: float = 1.0

    @property
    def value(self) -> float | None:
        """The difference of the means."""
        if self.why is not None:
            return None
        return float(self.ours.mean() - np.mean([float(other.mean()) for other in self.others]))

    @property
    def difference(self) -> metrics.Difference | None:
        """The same with its chance; None below two retrained models."""
        if self.why is not None:
            return None
        return difference_of_means(self.ours, self.others, "fraction", widest=self.widest)


class AlteredCopy(NamedTuple):
    """One subject after one alteration, among everything that was looked at."""

    context: AuditContext
    looks: Looks
    candidate: Candidate
    name: str

    @property
    def how(self) -> str:
        """How it was altered, in words."""
        return _how(self.name, self.looks.tuning)

    @property
    def answers(self) -> Answers | str:
        """What it answers, or why there is none."""
        return self.looks.of(self.candidate.label, self.name)

    @property
    def peers(self) -> list[Candidate]:
        """The retrained models that it is compared with: those that came through the same alteration."""
        return self.looks.came_through(self.context.references(self.candidate), self.name)

    @property
    def why_alone(self) -> str | None:
        """Why there is nobody to compare it with; None where there is somebody."""
        references = self.context.references(self.candidate)
        if self.peers:
            return None
        if not references:
            return no_reference(self.candidate.role)
        return f"no retrained model came through: {self.looks.of(references[0].label, self.name)}"

    def before_and_after(self, one: Candidate) -> tuple[Floats, Floats]:
        """Return which forget examples a subject that came through is right about."""
        after = self.looks.of(one.label, self.name)
        return self.looks.before[one.label].right, after.right if isinstance(after, Answers) else np.zeros(0)


def measure_resurgence(context: AuditContext, settings: ResurgenceSettings, search: SearchState) -> SectionResult:
    """Return `resurgence.*` of every subject."""
    looks = look_at_copies(context, settings, search.kept)
    wrecked = {name: text for name in settings.alterations if (text := _wrecked(context, looks, name))}
    tested = dict(_tested(context, looks, settings))
    found: list[Measurement] = []
    for candidate in context.subjects:
        for name in settings.alterations:
            one = AlteredCopy(context, looks, candidate, name)
            # Of a retrained model it would be a doubt about the model, in whatever it is compared with.
            doubts = (wrecked[name],) if name in wrecked and candidate.role != "retrained" else ()
            measured = (*_accuracies(one, tested[candidate.label, AS_IT_IS]), _two_sample(one, tested), *_ratios(one))
            found += [each.model_copy(update={"doubts": doubts}) for each in measured]
    return SectionResult(tuple(found), (*wrecked.values(), *_fell_out(context, looks, settings)))


def _tested(context: AuditContext, looks: Looks, settings: ResurgenceSettings) -> Iterator[tuple[tuple[str, str], P]]:
    """Yield the two-sample test's p by label and alteration; before any of them, too."""
    swaps = pair_swaps(context, SWAPS)
    for index, candidate in enumerate(context.subjects):
        for name in (AS_IT_IS, *settings.alterations):
            yield (candidate.label, name), _p(AlteredCopy(context, looks, candidate, name), swaps)
        context.progress("comparing copies", index + 1, len(context.subjects), candidate.label)


def _accuracies(one: AlteredCopy, early: P) -> Iterator[Measurement]:
    """Yield the change of the difference in forget accuracy, and the difference after it; `early` is p before."""
    before, change, after = _sides(one)
    details = _details(one) | {"gap_before": _ends(before), "gap_after": _ends(after)}
    details["twosample_p_before"] = early if isinstance(early, float) else None
    told: tuple[tuple[str, Beside, str, dict[str, Any]], ...] = (
        ("", change, f"change of forget accuracy minus the retrained models' after {one.how}", details),
        (".gap", after, f"forget accuracy minus the retrained models', all after {one.how}", {}),
    )
    for ending, beside, method, more in told:
        difference = beside.difference
        ends = None if difference is None else metrics.Bounds(difference.low, difference.high)
        yield measurement(
            f"resurgence.{one.name}{ending}",
            one.candidate,
            beside.value,
            beside.why,
            n=len(beside.ours),
            interval=interval(ends, PAIRED),
            reference=reference_of([float(other.mean()) for other in beside.others]),
            comparison=comparison_of(difference, "fraction"),
            method=method,
            details=more,
        )


def _sides(one: AlteredCopy) -> tuple[Beside, Beside, Beside]:
    """Return a subject beside the retrained models: before, the change, and after."""
    early, late = one.before_and_after(one.candidate)
    if isinstance(one.answers, str):
        return Beside(early, [], one.answers), Beside(early, [], one.answers), Beside(early, [], one.answers)
    pairs = [one.before_and_after(peer) for peer in one.peers]
    return (
        Beside(early, [before for before, _ in pairs], one.why_alone),
        Beside(late - early, [after - before for before, after in pairs], one.why_alone, widest=2.0),
        Beside(late, [after for _, after in pairs], one.why_alone),
    )


def _two_sample(one: AlteredCopy, tested: Mapping[tuple[str, str], P]) -> Measurement:
    """Return the two-sample test's p on an altered copy, given the retrained models' altered copies."""
    p, *others = (tested[each.label, one.name] for each in (one.candidate, *one.peers))
    return measurement(
        f"resurgence.{one.name}.twosample_p",
        one.candidate,
        p if isinstance(p, float) else None,
        p if isinstance(p, str) else None,
        n=len(one.context.splits.unseen),
        reference=usual_p([other for other in others if isinstance(other, float)]),
        method=f"two-sample test of forget set against its unseen twin after {one.how}, given the log-odds of "
        f"{len(others)} retrained models after the same; {SWAPS:,} exact swaps within pairs",
    )


def _p(one: AlteredCopy, swaps: metrics.Swaps) -> P:
    peers = one.peers if one.name else one.context.references(one.candidate)
    ours, *others = (one.looks.of(each.label, one.name) for each in (one.candidate, *peers))
    if isinstance(ours, str):
        return ours
    if not others:
        return one.why_alone or no_reference(one.candidate.role)
    found = metrics.two_sample_test(
        ours.log_odds, np.stack([other.log_odds for other in others if isinstance(other, Answers)]), swaps
    )
    return found if isinstance(found, str) else found.p


def _ratios(one: AlteredCopy) -> Iterator[Measurement]:
    """Yield RCD on the forget set over RCD on the twin of an altered copy, where copies were relearned."""
    relearning = one.looks.relearning
    if relearning is None:
        return
    answers = (one.looks.of(each.label, one.name) for each in (one.candidate, *one.peers))
    areas = [each.areas if isinstance(each, Answers) else NOTHING for each in answers]
    sets = [(above, below) for above, below in areas if len(above) and above.mean() > 0 and below.mean() > 0]
    known = bool(areas[0].size) and len(sets) == len(areas)
    ratios = [float(above.mean() / below.mean()) for above, below in sets] if known else []
    seed = derive_seed(one.context.config.seed, "bootstrap")
    bounds = metrics.ratio_interval(*sets[0], seed=seed) if known else None
    yield measurement(
        f"resurgence.{one.name}.rcd_ratio",
        one.candidate,
        ratios[0] if known else None,
        one.answers if isinstance(one.answers, str) else "relearning of this copy, or of a retrained model's, diverged",
        n=len(one.context.splits.unseen),
        interval=interval(bounds, f"{metrics.skewed_method(*map(len, sets[0]))}, both sets") if known else None,
        reference=reference_of(ratios[1:]),
        comparison=comparison_of(difference_of_log_ratios(ratios, sets), "log ratio") if known else None,
        method=f"after {one.how}: full-batch GD, step {relearning.step_size:.4g}, K = {relearning.steps}",
    )


def _how(name: str, tuning: FineTuning) -> str:
    """Return how copies were altered, in words."""
    what = ALTERATIONS[name].what
    if name != "fine-tune" or isinstance(tuning.recipe, str):
        return f"{what}, BatchNorm's statistics as they are stored" if name != "fine-tune" else what
    recipe = tuning.recipe
    return (
        f"{what}: {tuning.steps} steps of recipe {recipe.name} on {len(tuning.examples)} examples, "
        f"{recipe.batch_size} a step, step size {recipe.step_size:g}"
    )


def _ends(beside: Beside) -> dict[str, float | None]:
    """Return a gap with its interval, for pictures."""
    difference = beside.difference
    low, high = (None, None) if difference is None else (difference.low, difference.high)
    return {"value": beside.value, "low": low, "high": high}


def _details(one: AlteredCopy) -> dict[str, Any]:
    """Return accuracies before and after: the subject's own, the retrained models', the originals'."""
    looks = one.looks

    def pair(candidates: Sequence[Candidate], part: str) -> list[float | None]:
        answers = [(looks.before[each.label], looks.of(each.label, one.name)) for each in candidates]
        sides = [(getattr(early, part), getattr(late, part)) for early, late in answers if isinstance(late, Answers)]
        return [_mean([side[index] for side in sides]) for index in (0, 1)]

    peers = one.context.references(one.candidate)
    return {
        "accuracy": pair([one.candidate], "right"),
        "accuracy_of_retrained": pair(peers, "right"),
        "accuracy_of_original": pair(one.context.with_role("original"), "right"),
        "test_accuracy": pair([one.candidate], "test"),
        "test_accuracy_of_retrained": pair(peers, "test"),
    }


def _mean(sides: Sequence[Floats]) -> float | None:
    means = [float(side.mean()) for side in sides if len(side)]
    return float(np.mean(means)) if means else None


def _wrecked(context: AuditContext, looks: Looks, name: str) -> str | None:
    """Say that an alteration leaves nothing of the retrained models; where there is none, of all subjects."""
    through = looks.came_through(context.with_role("retrained") or context.subjects, name)
    early = _mean([looks.before[one.label].test for one in through])
    late = _mean([found.test for one in through if isinstance(found := looks.after[one.label, name], Answers)])
    if early is None or late is None or late >= WRECKED * early:
        return None
    return (
        f"{ALTERATIONS[name].what} wrecks models that never saw the forget set, too (test accuracy {late:.3f}, before "
        f"{early:.3f}): what such copies answer does not show what a model knows"
    )


def _fell_out(context: AuditContext, looks: Looks, settings: ResurgenceSettings) -> Iterator[str]:
    """Yield that some, but not all, retrained models have no copy to compare with."""
    retrained = context.with_role("retrained")
    for name in settings.alterations:
        through = looks.came_through(retrained, name)
        if 0 < len(through) < len(retrained):
            missing = next(one.label for one in retrained if one not in through)
            yield (
                f"resurgence.{name} compares with {len(through)} of {len(retrained)} retrained models; {missing}: "
                f"{looks.after[missing, name]}"
            )
