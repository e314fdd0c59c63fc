"""What a section of an audit is given and what it returns: it writes into nothing that others read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numpy.typing import NDArray

from unlearn_audit.audit.context import AuditContext
from unlearn_audit.relearning import CurveCache, Start, no_cache
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
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    could_see: Mapping[str, CouldSee] = field(default_factory=dict)


Arrays = Mapping[str, NDArray[Any]]
ArrayCache = Callable[[str, Callable[[], Arrays]], Arrays]  # given a name and how to make them, returns arrays


def no_array_cache(name: str, make: Callable[[], Arrays]) -> Arrays:
    """Make the arrays; nothing is cached."""
    return make()


class SearchState(NamedTuple):
    """What a section is handed beside its settings: where a search begins, and what was found before a kill.

    Attributes:
        start: where the search for a step size of the section before it ended; None where there was none.
        curve_cache: asked for a curve before it is taken.
        array_cache: asked for other arrays before they are made.
    """

    start: Start | None = None
    curve_cache: CurveCache = no_cache
    array_cache: ArrayCache = no_array_cache


ANEW = SearchState()
Measure = Callable[[AuditContext, Any, SearchState], SectionResult]
