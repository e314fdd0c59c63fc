"""What unlearning cost: a subject's accuracy minus the original's, on the same examples.

A gap to retrained models is only as good as they are. The change against the original needs none of them: a model that
is wrecked has lost what the original knew, whatever else is in the report.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.audit.context import AuditContext, Split
from unlearn_audit.audit.measurement import interval, measurement
from unlearn_audit.inputs import Candidate
from unlearn_audit.report import Measurement

Floats = NDArray[np.float64]
NO_ORIGINAL = "no original model to compare with was given"


def measure_changes(context: AuditContext) -> Iterator[Measurement]:
    """Yield `change.retain` and `change.test` of every subject; the latter on classes that are not forgotten.

    With an adjacent set, those of the two parts of the retain set as well.
    """
    splits: tuple[Split, ...] = ("retain", "test", *context.parts)
    lasting = context.splits.lasting_test
    rows = {split: lasting if split == "test" else np.arange(len(context.examples(split))) for split in splits}
    for candidate in context.subjects:
        for split in splits:
            yield _change(context, candidate, split, rows[split])


def _change(context: AuditContext, candidate: Candidate, split: Split, rows: NDArray[np.int64]) -> Measurement:
    originals = context.with_role("original")
    reason = _why_none(candidate, len(originals), len(rows), split)
    value, ends, details = None, None, {}
    if reason is None:
        levels = [_right(context, one, split)[rows] for one in originals]
        ours, level = _right(context, candidate, split)[rows], np.mean(levels, axis=0)
        value, ends = float((ours - level).mean()), _interval(ours - level)
        details = {"accuracy": float(ours.mean()), "accuracy_of_the_original": float(level.mean())}
    left_out = len(context.splits.test_examples) - len(rows) if split == "test" else 0
    return measurement(
        f"change.{split}",
        candidate,
        value,
        reason,
        n=len(rows),
        interval=interval(ends, "Student t, paired over examples"),
        method="accuracy minus the original's on the same examples"
        + (f"; without {left_out} of classes that are to be forgotten" if left_out else ""),
        details=details,
    )


def _why_none(candidate: Candidate, originals: int, n: int, split: str) -> str | None:
    if not originals:
        return NO_ORIGINAL
    if candidate.role == "original":
        return "this is the original"
    if not n:
        return f"the {split} set is empty" if split != "test" else "no test example is of a class that is kept"
    return None


def _right(context: AuditContext, candidate: Candidate, split: Split) -> Floats:
    """Return 1.0 where a candidate is right."""
    signals = context.signals(candidate, split)
    return metrics.correct(signals.logits, signals.labels)


def _interval(gaps: Floats) -> metrics.Bounds | None:
    """Return the interval of a mean of paired differences; none below two examples.

    Models that agree on every example still come from a finite set: one disagreement is counted, so that no interval
    has zero width.
    """
    n = len(gaps)
    if n < 2:
        return None
    return metrics.student_interval(float(gaps.mean()), max(float(gaps.var(ddof=1)) / n, 1 / n**2) ** 0.5, n - 1)
