"""Pictures made of a report's details: only where these give the number that the report has."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from unlearn_audit.render.arrays import Arrays, read_arrays
from unlearn_audit.render.figures import rcd_by_steps, relearning_curves, spectrum
from unlearn_audit.report import AuditReport, write_arrays

Make = Callable[..., Any]
NONE = Arrays({})
CURVES = {"original": [0.5, 0.25, 0.25, 0.125], "unlearned": [4.0, 2.0, 1.0, 0.5], "retrained": [4.0, 3.0, 2.0, 1.0]}


@pytest.fixture
def raw(make_report: Make, make_measurement: Make) -> Callable[..., AuditReport]:
    """raw(floor, ...): curves with their sums over a number, or over the original's own curve."""

    def make(floor: float | None, **details: Any) -> AuditReport:
        found = []
        for label, loss in CURVES.items():
            low = np.array(CURVES["original"]) if floor is None else np.full(4, floor)
            told = {"loss": loss, "floor": {"value": floor, "kind": "x"}} | details
            found.append(make_measurement("rcd.raw", label, value=float((np.array(loss) - low).sum()), details=told))
        report: AuditReport = make_report(*found)
        return report

    return make


def drawn(charts: Sequence[Any]) -> dict[str, tuple[list[float], list[float]]]:
    (chart,) = charts
    return {one.label: (list(one.xs), list(one.ys)) for one in chart.series}


def test_rcd_against_k_is_the_sum_over_the_floor_up_to_each_step(raw: Make) -> None:
    found = drawn(rcd_by_steps(raw(0.125), NONE))
    assert found["unlearned"] == ([1, 2, 3], [5.75, 6.625, 7.0])
    assert list(found) == list(CURVES)


def test_the_originals_own_curve_may_be_the_floor(raw: Make) -> None:
    (chart,) = rcd_by_steps(raw(None), NONE)
    assert drawn([chart]) == {
        "unlearned": ([1, 2, 3], [5.25, 6.0, 6.375]),
        "retrained": ([1, 2, 3], [6.25, 8.0, 8.875]),
    }
    assert chart.y.log


def test_an_objective_that_is_told_is_what_is_summed(raw: Make) -> None:
    assert rcd_by_steps(raw(0.0, objective=[1.0, 1.0, 1.0, 1.0]), NONE) == ()
    assert drawn(rcd_by_steps(raw(0.0, objective=CURVES["unlearned"]), NONE)).keys() == {"unlearned"}


def test_sums_that_are_not_the_reports_number_are_not_drawn(raw: Make) -> None:
    report = raw(0.0)
    wrong = tuple(one.model_copy(update={"value": one.value * 1.001}) for one in report.measurements)
    assert rcd_by_steps(report.model_copy(update={"measurements": wrong}), NONE) == ()
    assert rcd_by_steps(raw(0.0, loss=[]), NONE) == ()


def test_the_twins_curves_have_axes_like_the_forget_sets(raw: Make, make_measurement: Make) -> None:
    report = raw(0.0)
    twins = [make_measurement("rcd.ratio_to_unseen", label, details={"loss_unseen": [9.0, 1.0]}) for label in CURVES]
    forget, twin = relearning_curves(report.model_copy(update={"measurements": (*report.measurements, *twins)}), NONE)
    assert (forget.title, twin.title) == ("Relearning the forget set", "Relearning the unseen twin")
    assert forget.y.high == twin.y.high == 9.0
    assert [list(one.ys) for one in twin.series] == [[9.0, 1.0]] * 3
    assert [one.style for one in twin.series] == [one.style for one in forget.series]


def test_long_curves_of_the_twin_come_from_the_arrays(make_report: Make, make_measurement: Make, tmp_path: Any) -> None:
    raw = make_measurement("rcd.raw", "u", value=1.0, details={"loss": None})
    report = make_report(raw, make_measurement("rcd.ratio_to_unseen", "u", details={"loss_unseen": None}))
    curves = {"rcd/u/forget/loss": np.array([2.0, 1.0]), "rcd/u/unseen/loss": np.array([3.0, 1.5])}
    write_arrays(curves, tmp_path / "arrays.npz")
    charts = relearning_curves(report, read_arrays(tmp_path / "report.json", report))
    assert [list(one.ys) for chart in charts for one in chart.series] == [[2.0, 1.0], [3.0, 1.5]]


def test_a_spectrum_is_its_converged_eigenvalues_by_rank(make_report: Make, make_measurement: Make) -> None:
    values = [{"value": 9.0, "converged": True}, {"value": 3.0, "converged": False}, {"value": 0.1, "converged": True}]
    found = [
        make_measurement("spectrum.lambda_max", label, details={"eigenvalues": pairs})
        for label, pairs in (("u", values), ("v", values[:1]))
    ]
    (chart,) = spectrum(make_report(*found))
    assert drawn([chart]) == {"u": ([1, 3], [9.0, 0.1])}
    assert chart.y.log
    assert spectrum(make_report(found[1])) == ()
