"""What a section of an audit is given and what it returns: it writes into nothing that others read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.parts import Arrays, PartCache, make_parts
from unlearn_audit.relearning import Start
from unlearn_audit.report import CouldSee, Measurement


@dataclass(frozen=True)
class SectionResult:
    """What one section found.

    Attributes:
        measurements: in the order of the report.
        limitations: sentences on what the numbers may not be taken for.
        arrays: by name, what is too long for a report: per-example scores, long curves.
        could_see: metric -> how small a leak its measurements, also those of other sections, would have shown.
    """

    measurements: tuple[Measurement, ...]
    limitations: tuple[str, ...] = ()
    arrays: Arrays = field(default_factory=dict)
    could_see: Mapping[str, CouldSee] = field(default_factory=dict)


class SearchState(NamedTuple):
    """What a section is handed beside its settings: where a search begins, and what is known of its models already.

    Attributes:
        start: where the search for a step size of the section before it ended; None where there was none.
        kept: asked for what takes long and is of one model alone before it is made.
    """

    start: Start | None = None
    kept: PartCache = make_parts


ANEW = SearchState()
Measure = Callable[[AuditContext, Any, SearchState], SectionResult]
