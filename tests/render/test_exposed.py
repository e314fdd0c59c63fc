"""Pictures of the most exposed examples: on the page where a report carries them, of whom it is about, and told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlearn_audit.render import html
from unlearn_audit.render.arrays import Arrays, exposed_name, read_arrays
from unlearn_audit.render.exposed import MOST_ATTACKS, exposed_sheets
from unlearn_audit.render.figure_files import figure_files
from unlearn_audit.report import AuditReport, write_arrays

Make = Callable[..., Any]
SHEET = np.arange(5 * 9, dtype=np.uint8).reshape(5, 9)
ROLES = {"o": "original", "u": "unlearned", "r": "retrained"}


@pytest.fixture
def report(make_report: Make, make_measurement: Make) -> AuditReport:
    worst = [{"index": 70 + n, "label": n, "score": 1.0, "share_of_twin_above": 0.0} for n in range(2)]
    found: AuditReport = make_report(
        *(
            make_measurement(f"mia.{attack}.auc", label, role=role, value=0.7, details={"worst": worst})
            for attack in ("loss", "confidence", "entropy", "lira")
            for label, role in ROLES.items()
        )
    )
    return found


def sheets(*attacks: str) -> Arrays:
    return Arrays({}, (), {exposed_name(attack, label): SHEET for attack in attacks for label in ROLES})


def test_they_are_those_of_the_subjects_under_audit(report: AuditReport) -> None:
    (one,) = exposed_sheets(report, sheets("loss"))
    assert one.title == "Most exposed examples of u, loss attack."
    assert one.caption == "Training examples 70, 71: the surest first, in rows of ten."
    assert one.alternative == f"{one.title} {one.caption}"
    assert np.array_equal(one.pixels, SHEET)
    assert len(exposed_sheets(report, sheets("loss", "confidence", "entropy", "lira"))) == MOST_ATTACKS


def test_page_and_figures_have_them_only_where_the_report_carries_them(report: AuditReport, tmp_path: Path) -> None:
    place = tmp_path / "report.json"
    scores = {"mia.loss/u/members": np.zeros(3)}
    write_arrays(scores, tmp_path / "arrays.npz")
    plain = read_arrays(place, report)
    assert not plain.pixels
    assert "<img" not in html.render(report, plain)
    write_arrays(scores | {exposed_name("loss", "u"): SHEET}, tmp_path / "arrays.npz")
    carried = read_arrays(place, report)
    assert list(carried.pixels) == [exposed_name("loss", "u")]
    assert 'alt="Most exposed examples of u, loss attack.' in html.render(report, carried)
    assert "most-exposed-examples-of-u-loss-attack.png" in figure_files(report, carried)
