"""The section `outputs` as a whole: what is measured in which order, and what there is only where it is asked for."""

from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.outputs.composites import measure_composites
from unlearn_audit.audit.outputs.divergences import measure_divergences
from unlearn_audit.audit.outputs.ignorance import measure_ignorance
from unlearn_audit.audit.outputs.populations import measure_populations
from unlearn_audit.audit.outputs.representations import measure_alignment, measure_probe
from unlearn_audit.audit.section import SearchState, SectionResult
from unlearn_audit.config import OutputsSettings


def measure_outputs(context: AuditContext, settings: OutputsSettings, _search: SearchState) -> SectionResult:
    """Return how far answers and features are from retrained models', and the field's composites of accuracies."""
    ignorance, limitations = measure_ignorance(context)
    found = [
        *measure_divergences(context, class_test=settings.class_test),
        *ignorance,
        *measure_composites(context, svc=settings.svc),
        *measure_alignment(context),
        *(measure_probe(context) if settings.probe else ()),
        *(measure_populations(context) if settings.populations else ()),
    ]
    return SectionResult(tuple(found), limitations)
