"""The picture of the two-sample test: what difficulty does not explain, on forget examples and on their unseen twin."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.render.arrays import Arrays, trace_names
from unlearn_audit.render.charts import Axis, Chart, Series, style_of
from unlearn_audit.render.details import TraceDetails, details_of
from unlearn_audit.report import AuditReport, Measurement

Floats = NDArray[np.float64]
PARTS = 8  # of each set, by difficulty
SAME = 1e-6  # how far the spread of the arrays may be from the report's, when they belong together
SETS = ("forget examples", "their unseen twin")


def trace_charts(report: AuditReport, arrays: Arrays) -> tuple[Chart, ...]:
    """Return one picture for each subject but the retrained ones whose residuals lie beside the report."""
    shown = (one for one in _tested(report) if one.role != "retrained")
    return tuple(
        _chart(one, *sides) for one in shown if (sides := _sides(one, arrays)) is not None and _belongs(one, *sides)
    )


def foreign_residuals(report: AuditReport, arrays: Arrays) -> tuple[str, ...]:
    """Say which residuals beside the report are not those that it was made of."""
    return tuple(
        f"the residuals of {one.subject} beside the report do not give the spread that {one.name} has in its details: "
        "they are of another run, and their picture is left out"
        for one in _tested(report)
        if (sides := _sides(one, arrays)) is not None and not _belongs(one, *sides)
    )


def _tested(report: AuditReport) -> Iterator[Measurement]:
    return (one for one in report.measurements if one.name == "twosample.p" and one.value is not None)


def _sides(measurement: Measurement, arrays: Arrays) -> tuple[Floats, Floats] | None:
    """Return difficulty and residual; None where one is missing."""
    difficulty, residual = (arrays.found.get(name) for name in trace_names(measurement.subject))
    return None if difficulty is None or residual is None else (difficulty, residual)


def _belongs(measurement: Measurement, difficulty: Floats, residual: Floats) -> bool:
    told = details_of(measurement, TraceDetails).ratio_of_spreads
    if not len(difficulty) == len(residual) == 2 * measurement.n > 0:
        return False
    forget, twin = np.split(residual, 2)
    return told is not None and twin.std() > 0 and abs(forget.std() / twin.std() - told) <= SAME * max(1.0, told)


def _chart(measurement: Measurement, difficulty: Floats, residual: Floats) -> Chart:
    sides = zip(SETS, np.split(difficulty, 2), np.split(residual, 2), strict=True)
    return Chart(
        f"Trace in {measurement.subject}",
        "Residual of the log-odds, given the retrained models': where a model saw neither set both lines lie at 0, "
        "with bars alike. A point is the median of an eighth of a set, by difficulty; its bar is the middle half.",
        Axis("mean log-odds of the retrained models, nats (left: hard)"),
        Axis("residual, robust deviations"),
        tuple(_series(label, index, *side) for index, (label, *side) in enumerate(sides)),
    )


def _series(label: str, index: int, difficulty: Floats, residual: Floats) -> Series:
    """Return medians and quartiles of the residual over equal parts of a set."""
    parts = np.array_split(np.argsort(difficulty, kind="stable"), min(PARTS, len(difficulty)))
    quartiles = [np.quantile(residual[part], (0.25, 0.5, 0.75)).tolist() for part in parts]
    return Series(
        label,
        [float(np.median(difficulty[part])) for part in parts],
        [middle for _, middle, _ in quartiles],
        style_of(index),
        ends=[(low, high) for low, _, high in quartiles],
    )
