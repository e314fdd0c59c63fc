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

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.measurement import interval, measurement
from unlearn_audit.audit.reference import PAIRED, comparison_of, difference_of_means, no_reference, reference_of
from unlearn_audit.audit.resurgence.alterations import FineTuning
from unlearn_audit.audit.resurgence.copies import Answers, Looks, look_at_copies
from unlearn_audit.audit.section import SearchState, SectionResult
from unlearn_audit.catalogue import ALTERATIONS
from unlearn_audit.config import ResurgenceSettings
from unlearn_audit.inputs import Candidate
from unlearn_audit.report import Measurement

Floats = NDArray[np.float64]
WRECKED = 0.5  # of the retrained models' test accuracy: what is left below it says nothing of what they know


class Beside(NamedTuple):
    """One subject's numbers for each forget example beside those of the retrained models, of which there may be none.

    `why` says why there is no value.
    """

    ours: Floats
    others: Sequence[Floats]
    why: str | None = None

    @property
    def value(self) -> float | None:
        """The difference of the means."""
        if self.why is not None:
            return None
        return float(self.ours.mean() - np.mean([float(other.mean()) for other in self.others]))

    @property
    def difference(self) -> metrics.Difference | None:
        """The same with its chance; None below two retrained models."""
        return None if self.why is not None else difference_of_means(self.ours, self.others, "fraction")


def measure_resurgence(context: AuditContext, settings: ResurgenceSettings, search: SearchState) -> SectionResult:
    """Return `resurgence.*` of every subject."""
    looks = look_at_copies(context, settings, search.array_cache)
    wrecked = {name: text for name in settings.alterations if (text := _wrecked(context, looks, name))}
    found = tuple(
        one
        for candidate in context.subjects
        for name in settings.alterations
        for one in _measurements(context, looks, candidate, name, wrecked.get(name))
    )
    return SectionResult(found, (*wrecked.values(), *_fell_out(context, looks, settings)))


def _measurements(
    context: AuditContext, looks: Looks, candidate: Candidate, name: str, wrecked: str | None
) -> Iterator[Measurement]:
    before, change, after = _sides(context, looks, candidate, name)
    how = _how(name, looks.tuning)
    details = _details(context, looks, candidate, name) | {"gap_before": _ends(before), "gap_after": _ends(after)}
    told: tuple[tuple[str, Beside, str, dict[str, Any]], ...] = (
        ("", change, f"change of forget accuracy minus the retrained models' after {how}", details),
        (".gap", after, f"forget accuracy minus the retrained models', all after {how}", {}),
    )
    for ending, beside, method, more in told:
        difference = beside.difference
        ends = None if difference is None else metrics.Bounds(difference.low, difference.high)
        one = measurement(
            f"resurgence.{name}{ending}",
            candidate,
            beside.value,
            beside.why,
            n=len(beside.ours),
            interval=interval(ends, PAIRED),
            reference=reference_of([float(other.mean()) for other in beside.others]),
            comparison=comparison_of(difference, "fraction"),
            method=method,
            details=more,
        )
        # Of a retrained model it would be a doubt about the model, in whatever it is compared with.
        doubted = wrecked is not None and candidate.role != "retrained"
        yield one.model_copy(update={"doubts": (wrecked,)}) if doubted else one


def _sides(context: AuditContext, looks: Looks, candidate: Candidate, name: str) -> tuple[Beside, Beside, Beside]:
    """Return a subject beside the retrained models: before, the change, and after."""
    references = context.references(candidate)
    peers = looks.came_through(references, name)
    before, after = looks.before[candidate.label], looks.after[candidate.label, name]
    why = None if peers else no_reference(candidate.role)
    if references and not peers:
        why = f"no retrained model came through: {looks.after[references[0].label, name]}"
    if isinstance(after, str):
        nothing = np.zeros_like(before.right)
        return Beside(before.right, [], after), Beside(nothing, [], after), Beside(nothing, [], after)
    then = [looks.before[one.label].right for one in peers]
    now = [found.right for one in peers if isinstance(found := looks.after[one.label, name], Answers)]
    changes = [late - early for early, late in zip(then, now, strict=True)]
    return (
        Beside(before.right, then, why),
        Beside(after.right - before.right, changes, why),
        Beside(after.right, now, why),
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


def _details(context: AuditContext, looks: Looks, candidate: Candidate, name: str) -> dict[str, Any]:
    """Return accuracies before and after: the subject's own, the retrained models', the originals'."""

    def pair(candidates: Sequence[Candidate], part: str) -> list[float | None]:
        answers = [(looks.before[one.label], looks.after[one.label, name]) for one in candidates]
        sides = [(getattr(early, part), getattr(late, part)) for early, late in answers if isinstance(late, Answers)]
        return [_mean([side[index] for side in sides]) for index in (0, 1)]

    peers = context.references(candidate)
    return {
        "accuracy": pair([candidate], "right"),
        "accuracy_of_retrained": pair(peers, "right"),
        "accuracy_of_original": pair(context.with_role("original"), "right"),
        "test_accuracy": pair([candidate], "test"),
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
