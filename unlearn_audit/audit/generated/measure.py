"""The section `generation` as a whole: draw the same samples of every subject, judge them, compare with real images."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.generated import distances, outcomes
from unlearn_audit.audit.generated.distances import FeatureSpace, feature_space, measure_distances
from unlearn_audit.audit.generated.drawing import (
    Asked,
    InTurn,
    Plan,
    RealImages,
    drawn,
    draws,
    draws_none,
    plan_of,
    real_images,
)
from unlearn_audit.audit.generated.judging import Judging, featured, labelled, measure_judge, open_judging
from unlearn_audit.audit.generated.outcomes import Outcome, measure_kept_change, measure_rate
from unlearn_audit.audit.generated.sheets import sheet
from unlearn_audit.audit.measurement import measurement
from unlearn_audit.audit.section import SearchState, SectionResult
from unlearn_audit.catalogue import METRICS
from unlearn_audit.config import GenerationSettings
from unlearn_audit.report import Measurement

Floats = NDArray[np.float64]
SIDES = ("forgotten", "kept")
UNLABELLED = "prompts name no class that this judge could find; judge nudenet looks for one concept"
ONE_CONCEPT = "judge nudenet looks for one concept, and tells no classes apart"
NOT_ELSEWHERE = (
    "Samples are drawn under the forgotten condition itself: that it is not drawn there does not say that it is not in "
    "the model. Other conditions, image-to-image and adversarial prompts are not tried."
)
ONE_EACH = (
    "One sample is drawn of each prompt: intervals are over prompts, and prompts of one topic are not independent."
)


class _Samples(NamedTuple):
    """What was found of every subject, by side and label, and the sheets of their first samples."""

    outcomes: Mapping[str, Mapping[str, Outcome]]
    sheets: Mapping[str, NDArray[np.uint8]]


def measure_generated(context: AuditContext, settings: GenerationSettings, search: SearchState) -> SectionResult:
    """Return `generation.*` of every subject, and sheets of their first samples.

    Raises:
        UsageError: a subject is no generator, or the judge does not fit.
        MeasurementError: a generator draws what is not finite.
    """
    without = [one for one in context.subjects if not draws(one)]
    if without and not context.alone:
        return SectionResult(tuple(_nothing(context, settings, draws_none(without[0]))))
    plan = plan_of(context, settings)
    judging = open_judging(context, settings, plan)
    real = real_images(context, settings, plan)
    samples = _samples(context, plan, judging, search)
    found = [
        *measure_judge(context, judging),
        *_rates(context, plan, judging=judging, samples=samples),
        *_distances(context, plan, judging=judging, real=real, samples=samples),
    ]
    return SectionResult(tuple(found), tuple(_limitations(plan, judging)), samples.sheets)


def _nothing(context: AuditContext, settings: GenerationSettings, reason: str) -> Iterator[Measurement]:
    """Yield every number of the section as missing."""
    for info in METRICS.values():
        if info.section == "generation":
            for candidate in context.subjects:
                yield measurement(
                    info.name, candidate, None, reason, n=settings.samples, method="samples before a judge"
                )


def _samples(context: AuditContext, plan: Plan, judging: Judging, search: SearchState) -> _Samples:
    """Draw and judge the samples of all subjects, one after the other; the images themselves are not held."""
    found: dict[str, dict[str, Outcome]] = {side: {} for side in SIDES}
    sheets: dict[str, NDArray[np.uint8]] = {}
    for index, candidate in enumerate(context.subjects):
        for side, asked, images in zip(
            SIDES, (plan.forgotten, plan.kept), drawn(context, candidate, plan, search), strict=True
        ):
            found[side][candidate.label] = Outcome(
                labelled(judging.judge, images, None if judging.of_concept else asked.classes),
                featured(judging.features, images),
                asked.classes,
            )
            if images:
                sheets[f"generation/{candidate.label}/{side}"] = sheet(images, asked.classes)
        context.progress("judging samples", index + 1, len(context.subjects), candidate.label)
    return _Samples(found, sheets)


def _rates(context: AuditContext, plan: Plan, *, judging: Judging, samples: _Samples) -> Iterator[Measurement]:
    forgotten = "generation.nudity_rate" if judging.of_concept else "generation.forget_rate"
    unlabelled = None if plan.of_classes else UNLABELLED
    kept_reason = judging.reason or plan.kept.reason or (ONE_CONCEPT if judging.of_concept else unlabelled)
    reason = judging.reason or plan.forgotten.reason or (None if judging.of_concept else unlabelled)
    told = outcomes.Told(forgotten, reason, _method(plan.forgotten, plan, judging), _facts(plan.forgotten, judging))
    yield from measure_rate(context, samples.outcomes["forgotten"], told)
    told = outcomes.Told(
        "generation.kept_rate", kept_reason, _method(plan.kept, plan, judging), _facts(plan.kept, judging)
    )
    yield from measure_rate(context, samples.outcomes["kept"], told)
    yield from measure_kept_change(context, samples.outcomes["kept"], told._replace(name="generation.kept_change"))


def _method(asked: Asked, plan: Plan, judging: Judging) -> str:
    return f"judge {judging.judge.name}; {asked.source}; {plan.how}"


def _facts(asked: Asked, judging: Judging) -> dict[str, Any]:
    return {**judging.judge.details, **asked.facts}


def _distances(
    context: AuditContext, plan: Plan, *, judging: Judging, real: RealImages, samples: _Samples
) -> Iterator[Measurement]:
    sides: tuple[tuple[str, str, Asked, InTurn | None, InTurn | None], ...] = (
        ("kept", "", plan.kept, real.kept, real.held_out),
        ("forgotten", "_forgotten", plan.forgotten, real.forgotten, None),
    )
    kept = _space(judging, real.kept)
    for side, ending, asked, images, held_out in sides:
        space = kept if side == "kept" else _space(judging, images, kept)
        told = distances.Told(
            ending,
            judging.of_features or asked.reason,
            f"{_in_words(judging)}; {asked.source}, against {real.source}; {plan.how}",
            {**judging.features.details, "standardised": not judging.raw},
            asked.classes,
            _features(judging, held_out),
        )
        features = {label: one.features for label, one in samples.outcomes[side].items()}
        yield from measure_distances(context, features, space, told)


def _space(judging: Judging, real: InTurn | None, like: FeatureSpace | None = None) -> FeatureSpace | None:
    """Return the space of real images; standardised as another one, so that a feature that hardly varies counts little.

    Within one class some features vary a thousandfold less than over all; their own deviation would make them decide.
    """
    found = _features(judging, real)
    if found is None:
        return None
    return feature_space(*found, raw=judging.raw) if like is None else like.around(*found)


def _features(judging: Judging, real: InTurn | None) -> tuple[Floats, NDArray[np.int64]] | None:
    """Return the features of real images, and their classes; None where there are none."""
    found = None if real is None else featured(judging.features, list(real.images))
    return None if real is None or found is None else (found, real.classes)


def _in_words(judging: Judging) -> str:
    how = "as they are" if judging.raw else "standardised by the real images of kept classes"
    return f"features of {judging.features.name}, {how}"


def _limitations(plan: Plan, judging: Judging) -> Iterator[str]:
    yield from (f"judge {judging.judge.name}: {note}" for note in judging.judge.notes)
    if judging.features is not judging.judge:
        yield from (f"features {judging.features.name}: {note}" for note in judging.features.notes)
    if judging.reason:
        yield f"nothing that the judge says is a number: {judging.reason}"
    if judging.accuracy is not None and judging.accuracy.note:
        yield judging.accuracy.note
    if plan.forgotten.reason is None:
        yield NOT_ELSEWHERE
    if not plan.of_classes:
        yield ONE_EACH
