"""Samples of generators in a report: sheets of images before, after and relearned, and the judge's own accuracy."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.render.arrays import Arrays, probed, sheet_name
from unlearn_audit.render.details import JudgeDetails, RateDetails, details_of
from unlearn_audit.render.small_tables import SmallTable
from unlearn_audit.report import AuditReport, Measurement

RATES = ("generation.forget_rate", "generation.nudity_rate")
KEPT_RATE = "generation.kept_rate"


class Picture(NamedTuple):
    """A picture made of pixels: [H, W] or [H, W, 3], what stands above it, and what it shows in words."""

    title: str
    caption: str
    alternative: str
    pixels: NDArray[np.uint8]


def sample_sheets(report: AuditReport, arrays: Arrays) -> tuple[Picture, ...]:
    """Return the sheets that lie beside a report, subject by subject: forgotten, relearned, kept."""
    subjects = dict.fromkeys(one.subject for one in report.measurements if one.name in (*RATES, KEPT_RATE))
    return tuple(picture for subject in subjects for picture in _of_subject(report, arrays, subject))


def _of_subject(report: AuditReport, arrays: Arrays, subject: str) -> Iterator[Picture]:
    rate = next((found for name in RATES if (found := report.find(name, subject))), None)
    kept, raw = report.find(KEPT_RATE, subject), report.find("rcd.raw", subject)
    relearned = "under the forgotten condition, relearned for {} steps"
    sides = {
        "forgotten": ("under the forgotten condition", rate),
        **{f"relearned-{k}": (relearned.format(k), None) for k in (probed(raw) if raw else ())},
        "kept": ("of kept classes, a row each", kept),
    }
    for side, (words, found) in sides.items():
        pixels = arrays.pixels.get(sheet_name(subject, side))
        if pixels is not None:
            judged = _judged(found)
            yield Picture(
                f"{subject}, {words}.",
                judged,
                f"First samples of {subject} {words}, side by side. {judged}".strip(),
                pixels,
            )


def _judged(found: Measurement | None) -> str:
    """Return what the judge says of all samples of a sheet's side."""
    if found is None or not isinstance(found.value, int | float):
        return ""
    what = "what was asked for" if found.name == KEPT_RATE else "what was to be forgotten"
    return f"The judge takes {found.value:.2f} of {found.n:,} for {what}."


# ----- tables


def sample_tables(report: AuditReport) -> tuple[SmallTable, ...]:
    """Return the judge's own accuracy, and of which kept classes each subject's samples are."""
    return (*judge_tables(report), *_by_class(report))


def judge_tables(report: AuditReport) -> tuple[SmallTable, ...]:
    """Return what the judge gets right of real held-out images; nothing where no judge was tried."""
    return tuple(_judge(report))


def _judge(report: AuditReport) -> Iterator[SmallTable]:
    for one in report.measurements:
        if one.name == "generation.judge_accuracy":
            details = details_of(one, JudgeDetails)
            sides = {"forgotten classes": details.forgotten, "kept classes": details.kept}
            rows = tuple((name, f"{right / n:.3f}", f"{n:,}") for name, (right, n) in sides.items() if n)
            if rows:
                notes = (one.reason,) if one.reason else ()
                yield SmallTable("the judge on real held-out images", ("", "right", "images"), rows, notes)


def _by_class(report: AuditReport) -> Iterator[SmallTable]:
    """Yield kept rates class by class, where the report has them."""
    found = {
        one.subject: {c: right / n for c, right, n in details_of(one, RateDetails).by_class if n}
        for one in report.measurements
        if one.name == KEPT_RATE and one.value is not None
    }
    classes = list(dict.fromkeys(c for shares in found.values() for c in shares if c >= 0))
    if not classes:
        return
    names = report.data.class_names
    heading = tuple(names[c] if c < len(names) else str(c) for c in classes)
    rows = tuple(
        (subject, *(f"{shares[c]:.2f}".replace("0.", ".", 1) if c in shares else "–" for c in classes))
        for subject, shares in found.items()
    )
    yield SmallTable("kept rate by class", ("", *heading), rows)
