"""What a section of an audit is given and what it returns: it writes into nothing that others read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numpy.typing import NDArray

from unlearn_audit.audit.context import AuditContext
from unlearn_audit.relearning import CurveCache, Start, no_cache
from unlearn_audit.report import Measurement


@dataclass(frozen=True)
class SectionResult:
    """What one section found.

    Attributes:
        measurements: in the order of the report.
        limitations: sentences on what the numbers may not be taken for.
        arrays: by name, what is too long for a report: per-example scores, long curves.
    """

    measurements: tuple[Measurement, ...]
    limitations: tuple[str, ...] = ()
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class SearchState(NamedTuple):
    """What a section that relearns is handed: where its search for a step size begins, and curves taken before a kill.

    Attributes:
        start: where the search of the section before it ended; None where there was none.
        curve_cache: asked for a curve before it is taken.
    """

    start: Start | None = None
    curve_cache: CurveCache = no_cache


ANEW = SearchState()
Measure = Callable[[AuditContext, Any, SearchState], SectionResult]
