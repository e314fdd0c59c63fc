"""Table and picture of answers beside retrained models': values, floor, differences, nothing where there is none."""

from collections.abc import Callable
from math import log
from typing import Any

import pytest
from rich.console import Console

from unlearn_audit.render import html, markdown, terminal
from unlearn_audit.render.outputs import output_chart, output_tables
from unlearn_audit.report import AuditReport, Comparison, Interval

Make = Callable[..., Any]


@pytest.fixture
def report(make_report: Make, make_measurement: Make) -> AuditReport:
    ends = Interval(low=0.2, high=0.3, method="t")
    details = {"floor": 0.05, "difference": 0.2, "difference_low": 0.15, "difference_high": 0.25}
    seen = Comparison(scale="fraction", difference=0.25, interval=ends, df=2.0, seen=True, blind_below=0.05)
    found = []
    for kind in ("js", "kl", "tv", "agreement"):
        value, around = (2.5, None) if kind == "kl" else (0.25, ends)
        name = f"outputs.{kind}"
        found.append(
            make_measurement(
                name, "u", role="unlearned", value=value, interval=around, details=details, comparison=seen
            )
        )
        found += [make_measurement(name, label, role="retrained", value=0.05) for label in ("r1", "r2")]
    return make_report(*found)  # type: ignore[no-any-return]


def test_the_table_has_value_floor_and_both_intervals_of_the_difference(report: AuditReport) -> None:
    (table,) = output_tables(report)
    assert table.title == "answers of u on the forget set"
    assert table.rows[0] == ("js", ".2500", ".0500", "+.2000 [+.1500, +.2500]", "[+.2000, +.3000]")
    assert table.rows[1][:2] == ("kl", "2.500")
    assert table.notes


def test_without_a_floor_there_is_no_table(make_report: Make, make_measurement: Make) -> None:
    def one(value: float | None, **more: Any) -> Any:
        return make_report(make_measurement("outputs.js", "u", role="unlearned", value=value, **more))

    assert output_tables(one(0.1)) == ()
    assert output_chart(one(None, reason="none")) == ()
    (table,) = output_tables(one(0.1, details={"floor": 0.1, "difference": 0.0}))
    assert table.rows == (("js", ".1000", ".1000", "+.0000", "–"),)


def test_the_picture_has_distances_from_0_to_1(report: AuditReport) -> None:
    (chart,) = output_chart(report)
    assert chart.x.names == ("JS / ln 2", "total variation", "disagreement")
    js, tv, disagreement = (one for one in chart.series if one.label == "u")
    assert (list(js.ys), js.ends) == ([0.25 / log(2)], [(0.2 / log(2), 0.3 / log(2))])
    assert (list(tv.ys), tv.ends) == ([0.25], [(0.2, 0.3)])
    assert (list(disagreement.ys), disagreement.ends) == ([0.75], [(0.7, 0.8)])
    assert {one.label for one in chart.series} == {"u", "retrained (2)"}
    assert "u disagreement 0.750" in chart.described


def test_every_format_shows_them_and_the_terminal_keeps_to_80_columns(report: AuditReport) -> None:
    console = Console(width=80, record=True)
    console.print(terminal.render(report))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "answers of u on the forget set" in text
    assert "+.2000 [+.1500, +.2500]" in text
    assert "answers of u on the forget set" in markdown.render(report)
    assert "How far the answers are" in html.render(report)
