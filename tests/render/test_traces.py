"""The picture of the two-sample test: medians and quartiles by difficulty, and nothing that is of another run."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from unlearn_audit.render.arrays import Arrays, trace_names
from unlearn_audit.render.html import render
from unlearn_audit.render.traces import foreign_residuals, trace_charts
from unlearn_audit.report import AuditReport

N = 80
DIFFICULTY = np.concatenate([np.arange(N), np.arange(N)[::-1]]).astype(np.float64)
RESIDUAL = np.concatenate([0.5 - np.arange(N) / N, np.arange(N)[::-1] / N * 2 - 1])  # one falls, its twin rises


@pytest.fixture
def report(make_report: Callable[..., AuditReport], make_measurement: Callable[..., Any]) -> AuditReport:
    forget, twin = np.split(RESIDUAL, 2)
    details = {"ratio_of_spreads": float(forget.std() / twin.std())}
    return make_report(
        *(
            make_measurement("twosample.p", name, value=0.003, n=N, details=details)
            for name in ("unlearned", "retrained")
        )
    )


def beside(residual: Any = RESIDUAL, difficulty: Any = DIFFICULTY) -> Arrays:
    names = (trace_names(label) for label in ("unlearned", "retrained"))
    return Arrays({name: array for pair in names for name, array in zip(pair, (difficulty, residual), strict=True)})


def test_both_sets_are_shown_by_difficulty_with_their_middle_half(report: AuditReport) -> None:
    (chart,) = trace_charts(report, beside())
    assert chart.title == "Trace in unlearned"  # retrained models are what it is read against
    forget, twin = chart.series
    assert forget.label == "forget examples"
    assert forget.xs == [4.5 + 10 * k for k in range(8)] == twin.xs
    assert forget.ys == pytest.approx([0.5 - x / N for x in forget.xs])
    assert twin.ys == pytest.approx([2 * x / N - 1 for x in twin.xs])
    assert twin.ends[0] == pytest.approx((2 * 2.25 / N - 1, 2 * 6.75 / N - 1))
    assert "Trace in unlearned" in render(report, beside())
    assert foreign_residuals(report, beside()) == ()


@pytest.mark.parametrize(
    "arrays",
    [beside(RESIDUAL * np.linspace(1, 2, 2 * N)), beside(RESIDUAL[:-2], DIFFICULTY[:-2])],
    ids=["other", "short"],
)
def test_residuals_of_another_run_are_left_out_and_told(report: AuditReport, arrays: Arrays) -> None:
    assert trace_charts(report, arrays) == ()
    assert len(foreign_residuals(report, arrays)) == 2
    assert "they are of another run, and their picture is left out" in render(report, arrays)


def test_without_arrays_there_is_no_picture(report: AuditReport) -> None:
    assert trace_charts(report, Arrays({})) == foreign_residuals(report, Arrays({})) == ()
