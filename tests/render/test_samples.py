"""Sheets of samples on the page: pixels as they were measured, closed to everything else, and told in words."""

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unlearn_audit.render import html, markdown
from unlearn_audit.render.arrays import MOST_PIXELS, Arrays, read_arrays, sheet_name
from unlearn_audit.render.png import png
from unlearn_audit.render.table import columns
from unlearn_audit.report import AuditReport, write_arrays, write_report

Make = Callable[..., Any]
RNG = np.random.default_rng(1)
SHEET = RNG.integers(0, 256, (19, 91), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(19, 91), (5, 7, 3), (1, 1)])
def test_another_decoder_reads_the_same_pixels(shape: tuple[int, ...]) -> None:
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(pixels)))), pixels)
    assert png(pixels) == png(pixels.copy())


@pytest.fixture
def report(make_report: Make, make_measurement: Make) -> AuditReport:
    found = []
    relearned = {"probe": {"rates": [[0, 0.0, [0.0, 0.04]], [40, 0.9, [0.8, 0.95]]]}}
    for label, role in (("original", "original"), ("u", "unlearned")):
        by_class = {"by_class": [[0, 40, 40], [1, 30, 40]]}
        found += [
            make_measurement("generation.forget_rate", label, role=role, value=0.03, interval=(0.01, 0.08)),
            make_measurement("generation.kept_rate", label, role=role, value=0.875, n=80, details=by_class),
            make_measurement("rcd.raw", label, role=role, value=2.0, details=relearned),
        ]
    details = {"forgotten": [19, 20], "kept": [78, 80]}
    found.append(make_measurement("generation.judge_accuracy", "judge", role="control", value=0.95, details=details))
    made: AuditReport = make_report(*found)
    return made


def test_sheets_before_after_and_relearned_stand_on_the_page_with_words_for_them(report: AuditReport) -> None:
    sides = ("forgotten", "kept", "relearned-40")
    page = html.render(
        report, Arrays({}, (), {sheet_name(label, side): SHEET for label in ("original", "u") for side in sides})
    )
    shown = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)" width="91" height="19">', page)
    assert len(shown) == 6
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(shown[0][0])))), SHEET)
    assert "First samples of u under the forgotten condition, side by side. The judge takes 0.03 of 100" in page
    assert "u, under the forgotten condition, relearned for 40 steps." in page
    assert page.index("forgotten condition, relearned") < page.index("of kept classes, a row each")
    assert "img-src data:" in page
    assert ".sheet img { display: block; width: 100%" in page  # never wider than its column, at any width of the page


def test_without_sheets_the_page_admits_no_picture(report: AuditReport) -> None:
    page = html.render(report)
    assert "<img" not in page
    assert "img-src" not in page


def test_the_judge_has_a_table_and_no_column(report: AuditReport) -> None:
    assert [column.heading for column in columns(report)] == ["original", "u"]
    text = markdown.render(report)
    assert "the judge on real held-out images" in text
    assert "| forgotten classes | 0.950 | 20 |" in text
    assert "| u | 1.00 | .75 |" in text


def test_what_lies_beside_a_report_and_is_no_picture_is_left_out_with_a_sentence(
    report: AuditReport, tmp_path: Path
) -> None:
    write_report(report, tmp_path / "report.json")
    bad = {
        sheet_name("u", "kept"): np.zeros((4, 4)),
        sheet_name("u", "forgotten"): np.zeros((4, 4, 2), dtype=np.uint8),
        sheet_name("original", "kept"): np.zeros((MOST_PIXELS, 2), dtype=np.uint8),
        sheet_name("original", "forgotten"): SHEET,
    }
    write_arrays(bad, tmp_path / "arrays.npz")
    found = read_arrays(tmp_path / "report.json", report)
    assert list(found.pixels) == [sheet_name("original", "forgotten")]
    assert np.array_equal(found.pixels[sheet_name("original", "forgotten")], SHEET)
    assert len(found.problems) == 3
