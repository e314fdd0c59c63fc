"""What can go wrong, sorted by whose move it is.

::

    AuditError                  anything this package raises on purpose; exit code 3
    ├── UsageError              the request is wrong; exit code 2
    │   ├── ConfigError         a configuration or policy is wrong; carries every problem found
    │   ├── DataError           a data spec, an index file or a split cannot be used as asked
    │   └── OutputError         the output exists, is not writable, or is of the wrong kind
    └── MeasurementError        the request is fine, but nothing could be measured; exit code 3
        ├── CheckpointError     a checkpoint is missing, unreadable, refused or does not fit the model
        └── ReportError         a report is missing, invalid or altered

A message says what, where, and what to do.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

__all__ = [
    "AuditError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "MeasurementError",
    "OutputError",
    "ReportError",
    "UsageError",
    "nearest",
    "unknown_name",
]


class AuditError(Exception):
    """Anything raised on purpose; `exit_code` is what the command line answers with."""

    exit_code = 3


class UsageError(AuditError):
    """The request is wrong: the user's move."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration or policy is wrong; `problems` holds every one found, none when it could not even be opened."""

    def __init__(self, source: str, problems: Sequence[str] = ()) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__(f"{source}: {'; '.join(self.problems)}" if problems else source)


class DataError(UsageError):
    """A data spec, an index file or a split cannot be used as asked."""


class OutputError(UsageError):
    """The output exists, is not writable, or is of the wrong kind."""


class MeasurementError(AuditError):
    """The request is fine, but nothing could be measured."""


class CheckpointError(MeasurementError):
    """A checkpoint is missing, unreadable, refused or does not fit the model."""


class ReportError(MeasurementError):
    """A report is missing, invalid or altered."""


MOST_LISTED = 60  # names that are known; of more only the nearest are told
NEAR = 3
LONGEST_NAME = 200  # characters; no name of ours is as long, and comparing takes the square of it


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a mistyped one is closest to, if one is close."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.5) if len(name) <= LONGEST_NAME else []
    return near[0] if near else None


def unknown_name(kind: str, name: str, known: Iterable[str], *, hint: str = "") -> str:
    """Return a message that names the nearest match and lists what is known, or the nearest of it where that is long.

    >>> unknown_name("method", "ieo", ["ieu", "ssd"])
    "unknown method 'ieo'; did you mean 'ieu'? Known: ieu, ssd"
    """
    names = sorted(known)
    near = nearest(name, names)
    guess = f"; did you mean '{near}'?" if near else "."
    listed = f"Known: {', '.join(names)}"
    if len(names) > MOST_LISTED:
        close = get_close_matches(name[:LONGEST_NAME], names, n=NEAR, cutoff=0.3) or names[:NEAR]
        listed = f"Near it: {', '.join(close)} ({len(names)} are known)"
    return f"unknown {kind} '{name}'{guess} {listed}" + (f". {hint}" if hint else "")
