"""One cell: what the models of a line have by one metric, their mean and spread, and who has nothing."""

from collections import Counter
from typing import NamedTuple

from unlearn_audit.metrics import mean_and_spread


class Value(NamedTuple):
    """One model's number, or why it has none, and why it may not answer the question.

    Attributes:
        who: label and report, in words.
        value: a number, a verdict in words, or None.
        reason: why there is no value.
        doubts: of the number or of the model.
    """

    who: str
    value: float | str | None
    reason: str | None = None
    doubts: tuple[str, ...] = ()


class Cell(NamedTuple):
    """What a line has in a column.

    Attributes:
        values: of its models.
        why_not: why they may not be put together; None where they may.
    """

    values: tuple[Value, ...]
    why_not: str | None = None

    @property
    def numbers(self) -> tuple[float, ...]:
        """The numbers that are there; none where they may not be put together."""
        return () if self.why_not else tuple(one.value for one in self.values if isinstance(one.value, int | float))

    @property
    def mean(self) -> float | None:
        """Their mean; None without any."""
        return mean_and_spread(self.numbers)[0] if self.numbers else None

    @property
    def spread(self) -> float | None:
        """Their standard deviation (n - 1); None for fewer than two."""
        return mean_and_spread(self.numbers)[1] if self.numbers else None

    @property
    def words(self) -> str | None:
        """The verdicts that are there, each with how many models have it; None without any."""
        counted = Counter(one.value for one in self.values if isinstance(one.value, str))
        if not counted or self.why_not:
            return None
        return ", ".join(text if len(self.values) == 1 else f"{text} ({n})" for text, n in counted.items())

    @property
    def missing(self) -> tuple[Value, ...]:
        """Those who have nothing."""
        return tuple(one for one in self.values if one.value is None)

    @property
    def doubted(self) -> tuple[Value, ...]:
        """Those whose number is in doubt; they are part of mean and spread all the same."""
        return tuple(one for one in self.values if one.value is not None and one.doubts)
