"""The audit: the one room that knows every measurement. Config in, report out.

Every measuring verb builds a small config and calls `audit_checkpoints`; modules in memory go to `audit_candidates`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import __version__
from unlearn_audit.audit.accuracy import measure_gaps
from unlearn_audit.audit.cache import NO_CACHE, ResultCache
from unlearn_audit.audit.cache_key import depends_on, part_depends_on
from unlearn_audit.audit.context import (
    AuditContext,
    Note,
    context_of,
    doubts_of,
    limitations_of,
    open_context,
)
from unlearn_audit.audit.detectable.measure import measure_detectable, on_by_default
from unlearn_audit.audit.environment import environment
from unlearn_audit.audit.generated.drawing import asks_by_prompts_alone
from unlearn_audit.audit.generated.measure import measure_generated
from unlearn_audit.audit.generator_checks import examine_generators
from unlearn_audit.audit.generators import CANNOT, asked_of_generators, without_numbers
from unlearn_audit.audit.layers import measure_layers
from unlearn_audit.audit.measurement import seeing
from unlearn_audit.audit.mia.measure import measure_mia
from unlearn_audit.audit.outputs.measure import measure_outputs
from unlearn_audit.audit.parts import Arrays, PartCache, make_parts
from unlearn_audit.audit.rcd.common_step import RELEARNING, with_common_step
from unlearn_audit.audit.rcd.measure import measure_rcd
from unlearn_audit.audit.reference_checks import examine_subjects, telling_apart
from unlearn_audit.audit.resurgence.measure import measure_resurgence
from unlearn_audit.audit.section import Measure, SearchState, SectionResult
from unlearn_audit.audit.spectrum import measure_spectrum
from unlearn_audit.audit.subjects import describe
from unlearn_audit.audit.truncation.measure import measure_truncation
from unlearn_audit.audit.twosample import measure_twosample
from unlearn_audit.catalogue import STAND_IN
from unlearn_audit.conclusion import conclude
from unlearn_audit.config import AuditConfig, DetectableSettings
from unlearn_audit.data import Splits, digest_of, named_classes
from unlearn_audit.engine import Device
from unlearn_audit.errors import UsageError, unknown_name
from unlearn_audit.inputs import Candidate
from unlearn_audit.progress import Progress, silent
from unlearn_audit.relearning import Start
from unlearn_audit.report import AuditReport, Data, Measurement, SetSummary, Subject, Tool

__all__ = ["MEASUREMENTS", "AuditResult", "audit_candidates", "audit_checkpoints", "run_audit", "sections_asked"]

# Section of the config -> the measurement it asks for, in the order of the report.
MEASUREMENTS: Mapping[str, Measure] = {
    "gaps": measure_gaps,
    "rcd": measure_rcd,
    "truncation": measure_truncation,
    "spectrum": measure_spectrum,
    "layers": measure_layers,
    "twosample": measure_twosample,
    "outputs": measure_outputs,
    "mia": measure_mia,
    "detectable": measure_detectable,
    "resurgence": measure_resurgence,
    "generation": measure_generated,
}


class AuditResult(NamedTuple):
    """A report, and by name what is too long for one: per-example areas and scores, long curves."""

    report: AuditReport
    arrays: dict[str, NDArray[Any]]


def run_audit(
    config: AuditConfig,
    *,
    origins: Mapping[str, str] | None = None,
    only: tuple[str, ...] = (),
    progress: Progress = silent,
) -> AuditReport:
    """Return the report of `audit_checkpoints`, for whoever needs no arrays and keeps nothing."""
    return audit_checkpoints(config, origins=origins, only=only, progress=progress).report


def audit_checkpoints(
    config: AuditConfig,
    *,
    origins: Mapping[str, str] | None = None,
    only: tuple[str, ...] = (),
    cache: ResultCache = NO_CACHE,
    progress: Progress = silent,
) -> AuditResult:
    """Run every measurement that the config has a section for.

    Args:
        config: what to audit and how.
        origins: where each dotted key came from; without it every value given counts as asked for by the caller.
        only: names of sections to run; all of the config's when empty.
        cache: where sections that are finished are found and kept.
        progress: progress callback, called after each step.

    Returns:
        The report and its arrays; the same inputs and seed on the same machine give the same ones, timestamps aside.

    Raises:
        UsageError: nothing to measure, or the request is incomplete.
        MeasurementError: a checkpoint cannot be read or does not fit.
    """
    asked = sections_asked(config, only)  # refused before anything is read
    given = origins if origins is not None else dict.fromkeys(config.model_fields_set, "flag")
    if asked == ("generation",) and asks_by_prompts_alone(config):
        given = {**given, "forget": STAND_IN}
    return _audit(open_context(config, given, progress), only, cache)


def audit_candidates(
    candidates: Sequence[Candidate],
    splits: Splits,
    config: AuditConfig,
    *,
    compute: Device,
    origins: Mapping[str, str] | None = None,
    only: tuple[str, ...] = (),
    progress: Progress = silent,
) -> AuditResult:
    """Audit models that are there already, with or without files of their own, as `audit_checkpoints` audits files.

    Args:
        candidates: the subjects, with unique labels; the path of a module in memory is `inputs.IN_MEMORY`.
        splits: the sets.
        config: what to measure and how; what it says of checkpoints and data has no part in this.
        compute: where the candidates are.
        origins: where each dotted key of the config came from; without it every value counts as the caller's.
        only: names of sections to run; all of the config's when empty.
        progress: progress callback, called after each step.

    Returns:
        The report and its arrays.

    Raises:
        UsageError: nothing to measure, or a section contradicts itself.
        MeasurementError: a model is not deterministic, or its outputs are not finite.
    """
    sections_asked(config, only)
    if not candidates:
        raise UsageError("no model to audit was given")
    given = origins if origins is not None else dict.fromkeys(config.model_fields_set, "flag")
    return _audit(context_of(candidates, splits, config, origins=given, compute=compute, progress=progress), only)


def _audit(context: AuditContext, only: tuple[str, ...], cache: ResultCache = NO_CACHE) -> AuditResult:
    """Measure, and put the report together."""
    context = asked_of_generators(_with_plants(context, only))
    context = replace(context, alone=bool(only), kept=_parts(context, cache, ""))
    stands_in = context.origins.get("forget") == STAND_IN
    examine = examine_generators if context.of_generators else examine_subjects
    notes = [*context.notes, *(() if stands_in else examine(context))]
    results = _measured(context, sections_asked(context.config, only), cache)
    could_see = {name: seen for result in results for name, seen in result.could_see.items()}
    measurements = tuple(seeing(one, could_see.get(one.name)) for result in results for one in result.measurements)
    notes += [Note(text) for result in results for text in result.limitations]
    notes += telling_apart(measurements)
    doubts = doubts_of(notes)
    subjects = tuple(describe(context, one, doubts.get(one.label, ())) for one in context.subjects)
    report = AuditReport(
        tool=Tool(version=__version__),
        created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        subjects=subjects,
        data=_data(context),
        measurements=measurements,
        conclusion=()
        if stands_in and context.config.forget
        else conclude(measurements, doubted=_doubted(subjects, measurements)),
        settings=_settings(context),
        environment=environment(context.compute, context.config.seed),
        limitations=limitations_of(notes),
    )
    return AuditResult(report, {name: array for result in results for name, array in result.arrays.items()})


def _with_plants(context: AuditContext, only: tuple[str, ...]) -> AuditContext:
    """Return the context of a whole audit with the section `detectable`, where everything that it needs is there."""
    if only or context.of_generators or not on_by_default(context.config, [one.role for one in context.subjects]):
        return context
    return replace(context, config=context.config.model_copy(update={"detectable": DetectableSettings()}))


def _doubted(subjects: Sequence[Subject], measurements: Sequence[Measurement]) -> tuple[str, ...]:
    """Return the labels of retrained models that are in doubt, or have a number that is."""
    labels = {one.subject for one in measurements if one.doubts} | {one.label for one in subjects if one.doubts}
    return tuple(one.label for one in subjects if one.role == "retrained" and one.label in labels)


def sections_asked(config: AuditConfig, only: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the sections that would be measured, in the order of the report.

    Args:
        config: what to audit.
        only: names of sections; all of the config's when empty.

    Raises:
        UsageError: there is no such section, or the config asks for none.
    """
    for name in only:
        if name not in MEASUREMENTS:
            raise UsageError(unknown_name("measurement", name, MEASUREMENTS))
        if getattr(config, name) is None:
            raise UsageError(f"nothing to measure: the config has no section [{name}]")
    asked = tuple(name for name in MEASUREMENTS if getattr(config, name) is not None and (not only or name in only))
    if not asked:
        wanted = ", ".join(f"[{name}]" for name in only or MEASUREMENTS)
        raise UsageError(f"nothing to measure: the config has none of the sections {wanted}")
    return asked


def _measured(context: AuditContext, asked: Sequence[str], cache: ResultCache) -> list[SectionResult]:
    """Return what all sections find, in their order; those that relearn share one step size."""
    measure = partial(_section, context, cache)
    found: list[SectionResult] = []
    for relearns, names in groupby(asked, lambda name: name in RELEARNING):
        group = tuple(names)
        found += with_common_step(context.config, group, measure) if relearns else map(measure, group)
    return found


def _section(context: AuditContext, cache: ResultCache, name: str, start: Start | None = None) -> SectionResult:
    """Return what a section finds, measured now or found in the cache."""
    if context.of_generators and name in CANNOT:
        return without_numbers(context, name)

    state = SearchState(start, _parts(context, cache, name))
    measure = partial(MEASUREMENTS[name], context, getattr(context.config, name), state)
    depends = depends_on(context, name, start)
    return measure() if depends is None else cache.section(name, depends, measure)


def _parts(context: AuditContext, cache: ResultCache, section: str) -> PartCache:
    """Return where what is of one model alone is found, or kept once it is made."""
    known: dict[str, dict[str, Any] | None] = {}  # digests of files are taken once a model

    def find(candidate: Candidate, depends: object, make: Callable[[], Arrays]) -> Arrays:
        if candidate.label not in known:
            known[candidate.label] = part_depends_on(context, section, candidate)
        whose = known[candidate.label]
        return make() if whose is None else cache.part([whose, depends], make)

    return make_parts if cache.folder is None else find


def _data(context: AuditContext) -> Data:
    """Describe the sets with the digests of their resolved indices."""
    splits = context.splits
    dataset = splits.dataset

    def rows(spec: str, indices: NDArray[np.int64], measured: NDArray[np.int64] | None = None) -> SetSummary:
        found = SetSummary(
            spec=spec, sha256=digest_of(indices), n=len(indices), class_names=named_classes(spec, dataset)
        )
        if measured is None:
            return found
        return found.model_copy(update={"measured": len(measured), "measured_sha256": digest_of(measured)})

    looked_at = splits.measured_retain if len(splits.measured_retain) < len(splits.retain) else None
    adjacent, remote = (
        None if looked_at is None else np.intersect1d(looked_at, whole)
        for whole in (splits.adjacent.indices if splits.adjacent else (), splits.remote)
    )
    return Data(
        source=dataset.spec,
        sha256=dataset.sha256,
        class_names=dataset.class_names,
        forget=rows(splits.forget.spec, splits.forget.indices, splits.measured),
        retain=rows(context.config.retain or "the rest of the training set", splits.retain, looked_at),
        test=SetSummary(spec="test split", sha256=dataset.sha256, n=len(dataset.test)),
        unseen=rows(context.config.unseen or "drawn from the test split", splits.unseen.unseen),
        adjacent=rows(splits.adjacent.spec, splits.adjacent.indices, adjacent) if splits.adjacent else None,
        remote=rows("the rest of the retain set", splits.remote, remote) if splits.adjacent else None,
    )


def _settings(context: AuditContext) -> dict[str, Any]:
    """Return the resolved configuration, and who said each value that somebody said."""
    return {
        "config": context.config.model_dump(mode="json", exclude_none=True),
        "from": dict(sorted(context.origins.items())),
        "normalisation": {
            candidate.label: {"mean": list(candidate.transform.mean), "std": list(candidate.transform.std)}
            for candidate in context.subjects
        },
    }
