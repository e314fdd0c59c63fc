"""What came back without the data, and what of it is more than what comes back to models that never saw it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from unlearn_audit.catalogue import ALTERATIONS
from unlearn_audit.conclusion.words import listed, named
from unlearn_audit.report import Comparison, Measurement


class _Change(NamedTuple):
    """After one alteration: the change of the difference to the retrained models, and the difference itself."""

    name: str
    what: str
    change: Comparison
    gap: Comparison | None

    @property
    def is_leak(self) -> bool:
        """Whether forget accuracy came back, and beyond the retrained models' own."""
        return self._rises and self.gap is not None and self.gap.interval.low > 0

    @property
    def is_return(self) -> bool:
        """Whether it came back, and no further than to the retrained models."""
        return self._rises and not self.is_leak

    @property
    def _rises(self) -> bool:
        return self.change.interval.low > 0

    def told(self) -> str:
        """Return it in words with its interval."""
        low, high = self.change.interval.low, self.change.interval.high
        return f"{self.what} ({self.change.difference:+.3f} [{low:+.3f}, {high:+.3f}])"


def resurgence_sentence(
    measurements: Sequence[Measurement], label: str, role: str, *, only_seen: bool = False
) -> str | None:
    """Return what came back to one subject; None where nothing could be compared, or it is the original.

    Args:
        measurements: of one report.
        label: of the subject.
        role: of the subject.
        only_seen: say nothing where nothing came back.
    """
    found = list(_changes(measurements, label)) if role != "original" else []
    leaks = [one.told() for one in found if one.is_leak]
    returns = [one.told() for one in found if one.is_return]
    rest = [one for one in found if not (one.is_leak or one.is_return)]
    parts = []
    if leaks:
        parts.append(
            f"forget accuracy comes back by more than the retrained models' after {listed(leaks)}, and above theirs: "
            "some of the forgetting was only masked"
        )
    if returns:
        parts.append(f"it rises to the retrained models' level, and not above it, after {listed(returns)}")
    if rest and not only_seen:
        parts += _silent(rest, first="it does not come" if parts else "no forget accuracy comes")
    return f"{named(label, role)}, altered without the forget set: {'; '.join(parts)}." if parts else None


def _changes(measurements: Sequence[Measurement], label: str) -> Iterator[_Change]:
    by_name = {one.name: one for one in measurements if one.subject == label}
    for name, entry in ALTERATIONS.items():
        one, gap = by_name.get(f"resurgence.{name}"), by_name.get(f"resurgence.{name}.gap")
        if one is not None and one.comparison is not None and not one.doubts:
            yield _Change(name, entry.what, one.comparison, gap.comparison if gap else None)


def _silent(rest: Sequence[_Change], first: str) -> Iterator[str]:
    """Yield after which alterations nothing came back, and after which nothing could be seen, with what could be."""
    for blind, words in ((False, f"{first} back after"), (True, "blind to what comes back after")):
        these = [one for one in rest if one.change.blind == blind]
        if these:
            least = max(one.change.blind_below for one in these)
            yield f"{words} {listed([one.name for one in these])} (could see {least:.3f})"
