"""What takes long and is of one model alone: its answers, its curves, its samples. It outlives an audit of others."""

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from unlearn_audit.inputs import Candidate

Arrays = Mapping[str, NDArray[Any]]

# Given whose part it is, everything that it depends on beside model, sets and settings, and how to make it: its arrays.
PartCache = Callable[[Candidate, object, Callable[[], Arrays]], Arrays]


def make_parts(_candidate: Candidate, _depends: object, make: Callable[[], Arrays]) -> Arrays:
    """Make the arrays; nothing is kept."""
    return make()
