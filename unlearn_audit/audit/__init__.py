"""The audit: the one room that knows every measurement. Config in, report out.

Every measuring verb builds a small config and calls `run_audit`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import __version__
from unlearn_audit.audit.accuracy import measure_gaps
from unlearn_audit.audit.cache import NO_PARTS, ResultCache
from unlearn_audit.audit.cache_key import depends_on
from unlearn_audit.audit.changes import measure_changes
from unlearn_audit.audit.context import AuditContext, environment, open_context
from unlearn_audit.audit.mia.measure import measure_mia
from unlearn_audit.audit.rcd.common_step import RELEARNING, with_common_step
from unlearn_audit.audit.rcd.measure import measure_rcd
from unlearn_audit.audit.reference_checks import examine_subjects, telling_apart
from unlearn_audit.audit.spectrum import measure_spectrum
from unlearn_audit.audit.truncation.measure import measure_truncation
from unlearn_audit.conclusion import conclude
from unlearn_audit.config import AuditConfig
from unlearn_audit.data import digest_of, named_classes
from unlearn_audit.errors import UsageError, unknown_name
from unlearn_audit.progress import Progress, silent
from unlearn_audit.relearning import no_cache
from unlearn_audit.report import AuditReport, Data, Measurement, SetSummary, Subject, Tool

__all__ = ["MEASUREMENTS", "run_audit", "sections_asked"]

# Section of the config -> the measurement it asks for, in the order of the report.
MEASUREMENTS: Mapping[str, Callable[[AuditContext, Any], Iterator[Measurement]]] = {
    "gaps": lambda context, _: chain(measure_gaps(context), measure_changes(context)),
    "rcd": measure_rcd,
    "truncation": measure_truncation,
    "spectrum": measure_spectrum,
    "mia": measure_mia,
}


def run_audit(
    config: AuditConfig,
    *,
    origins: Mapping[str, str] | None = None,
    only: tuple[str, ...] = (),
    arrays: dict[str, NDArray[Any]] | None = None,
    parts: ResultCache = NO_PARTS,
    progress: Progress = silent,
) -> AuditReport:
    """Run every measurement that the config has a section for.

    Args:
        config: what to audit and how.
        origins: where each dotted key came from; without it every value given counts as asked for by the caller.
        only: names of sections to run; all of the config's when empty.
        arrays: gets, by name, what is too long for a report: per-example areas, long curves.
        parts: where sections that are finished are found and kept.
        progress: told along the way.

    Returns:
        The report; the same inputs and seed on the same machine give the same one, timestamps aside.

    Raises:
        UsageError: nothing to measure, or the request is incomplete.
        MeasurementError: a checkpoint cannot be read or does not fit.
    """
    asked = sections_asked(config, only)
    given = origins if origins is not None else dict.fromkeys(config.model_fields_set, "flag")
    context = open_context(config, given, progress)
    examine_subjects(context)
    measurements = _measured(context, asked, parts)
    for label, text in telling_apart(measurements):
        context.doubt(label, text)
    if arrays is not None:
        arrays |= context.arrays
    subjects = tuple(context.describe(candidate) for candidate in context.subjects)
    return AuditReport(
        tool=Tool(version=__version__),
        created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        subjects=subjects,
        data=_data(context),
        measurements=measurements,
        conclusion=conclude(measurements, doubted=_doubted(subjects, measurements)),
        settings=_settings(context),
        environment=environment(context.compute, config.seed),
        limitations=tuple(dict.fromkeys(context.limitations)),
    )


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


def _measured(context: AuditContext, asked: Sequence[str], parts: ResultCache) -> tuple[Measurement, ...]:
    """Return the measurements of all sections in their order; those that relearn share one step size."""
    found: list[Measurement] = []
    for relearns, names in groupby(asked, lambda name: name in RELEARNING):
        measure = partial(_section, context, parts)
        if relearns:
            found += with_common_step(context, tuple(names), measure)
        else:
            found += [one for name in names for one in measure(name)]
    return tuple(found)


def _section(context: AuditContext, parts: ResultCache, name: str) -> tuple[Measurement, ...]:
    """Return a section's measurements, measured now or found among the parts that are kept."""

    def measure(key: str | None) -> Iterator[Measurement]:
        context.curve_cache = no_cache if key is None else partial(parts.curve, key)
        return MEASUREMENTS[name](context, getattr(context.config, name))

    depends = depends_on(context, name)
    if depends is None:
        return tuple(measure(None))
    return parts.section(name, depends, measure, context.limitations, context.arrays)


def _data(context: AuditContext) -> Data:
    """Describe the sets with the digests of their resolved indices."""
    splits = context.splits
    dataset = splits.dataset

    def rows(spec: str, indices: NDArray[np.int64]) -> SetSummary:
        names = named_classes(spec, dataset)
        return SetSummary(spec=spec, sha256=digest_of(indices), n=len(indices), class_names=names)

    part = {"measured": len(splits.measured), "measured_sha256": digest_of(splits.measured)}
    return Data(
        source=dataset.spec,
        sha256=dataset.sha256,
        class_names=dataset.class_names,
        forget=rows(splits.forget.spec, splits.forget.indices).model_copy(update=part),
        retain=rows(context.config.retain or "the rest of the training set", splits.retain),
        test=SetSummary(spec="test split", sha256=dataset.sha256, n=len(dataset.test)),
        unseen=rows(context.config.unseen or "drawn from the test split", splits.unseen.unseen),
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
