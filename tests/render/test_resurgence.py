"""Tables and the picture of what came back: before and after, for those who are no retrained models, 80 columns."""

from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from unlearn_audit.render import html, markdown, terminal
from unlearn_audit.render.resurgence import resurgence_chart, resurgence_tables
from unlearn_audit.report import AuditReport

Make = Callable[..., Any]


def gap(value: float, half: float | None = 0.02) -> dict[str, float | None]:
    ends = (None, None) if half is None else (value - half, value + half)
    return {"value": value, "low": ends[0], "high": ends[1]}


@pytest.fixture
def report(make_report: Make, make_measurement: Make) -> AuditReport:
    measurements = []
    for label, role, after in (("u", "unlearned", 0.31), ("r1", "retrained", 0.0), ("r2", "retrained", 0.01)):
        for name in ("int4", "fine-tune"):
            details = {
                "gap_before": gap(0.0),
                "gap_after": gap(after),
                "test_accuracy": [0.97, 0.95],
                "twosample_p_before": 0.4,
            }
            one = make_measurement(f"resurgence.{name}", label, role=role, value=after, details=details)
            p = make_measurement(f"resurgence.{name}.twosample_p", label, role=role, value=0.001)
            measurements += [one, p]
    return make_report(*measurements)  # type: ignore[no-any-return]


def test_the_table_has_both_sides_of_whoever_is_no_retrained_model(report: AuditReport) -> None:
    (table,) = resurgence_tables(report)
    assert table.title == "resurgence of u"
    assert table.rows[0] == ("int4", "+.00 [-.02, +.02]", "+.31 [+.29, +.33]", ".97 → .95", ".400 → .001")


def test_what_is_missing_is_a_dash(make_report: Make, make_measurement: Make) -> None:
    one = make_measurement("resurgence.int4", "u", value=None, reason="none", details={"gap_before": gap(0.1, None)})
    (table,) = resurgence_tables(make_report(one))
    assert table.rows == (("int4", "+.10", "–", "–", "–"),)
    assert resurgence_chart(make_report(one)) == ()
    assert resurgence_tables(make_report(make_measurement("loss.test", "u"))) == ()


def test_the_picture_has_two_points_for_each_subject_and_alteration(report: AuditReport) -> None:
    (chart,) = resurgence_chart(report)
    assert chart.x.names == ("int4", "fine-tune")
    assert len(chart.series) == 3 * 2
    first = chart.series[0]
    assert (first.label, list(first.ys), list(first.ends)) == ("u", [0.0, 0.31], [(-0.02, 0.02), (0.29, 0.33)])
    assert first.xs[0] < first.xs[1]
    assert round(sum(first.xs) / 2) == 0
    assert round(sum(chart.series[1].xs) / 2) == 1
    assert {one.label for one in chart.series} == {"u", "retrained (2)"}
    assert "u: int4 +.00 [-.02, +.02] to +.31 [+.29, +.33], fine-tune" in chart.described


def test_it_is_in_every_format_and_fits_80_columns(report: AuditReport) -> None:
    console = Console(width=80, record=True)
    console.print(terminal.render(report))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "resurgence of u" in text
    assert ".400 → .001" in text
    assert ".400 → .001" in markdown.render(report)
    page = html.render(report)
    assert "What comes back without the data" in page
    assert ">fine-tune</text>" in page
