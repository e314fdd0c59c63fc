"""The semilog picture, as text and as SVG."""

import math
from xml.etree import ElementTree

import pytest

from unlearn_audit.render.semilog import CAPTION, SemilogSeries, series_of, svg, text

STEPS = list(range(0, 1001, 10))
SVG = "{http://www.w3.org/2000/svg}"


def falling(rate: float, label: str = "a", note: str = "exponential", scale: float = 1.0) -> SemilogSeries:
    return SemilogSeries(label, STEPS, [scale * math.exp(-rate * t) for t in STEPS], note)


def rows_of(picture: str, symbol: str) -> list[tuple[int, int]]:
    """Row and column of every cell with the symbol inside the frame."""
    lines = [line[10:] for line in picture.splitlines() if line[9:10] in ("│", "┤")]
    return [(row, column) for row, line in enumerate(lines) for column, cell in enumerate(line) if cell == symbol]


@pytest.mark.parametrize("count", [1, 2, 5, 12, 40])
@pytest.mark.parametrize(("width", "height"), [(80, 20), (60, 16)])
def test_the_picture_keeps_its_size(count: int, width: int, height: int) -> None:
    series = [
        falling(0.01 + 0.001 * i, f"a-long-label-of-a-model-{i}", "slower than exponential") for i in range(count)
    ]
    lines = text(series, width=width, height=height).splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert lines[0] == CAPTION[:width]
    assert "1000" in lines[-len([line for line in lines if "a-long" in line or "…" in line]) - 1]


def test_an_exponential_is_a_straight_line_from_corner_to_corner() -> None:
    places = rows_of(text([falling(0.01)]), "o")
    assert (places[0], places[-1]) == ((0, 0), (15, 69))
    assert all(abs(row - 15 * column / 69) <= 0.5 + 1e-9 for row, column in places)


def test_a_power_of_ten_is_labelled_where_it_stands() -> None:
    picture = text([SemilogSeries("a", [0, 100], [1e3, 1e-3])])
    lines = picture.splitlines()
    assert lines[1].startswith("   1e+03 ┤o")
    assert any(line.startswith("   1e+00 ┤") for line in lines)


def test_curves_on_one_line_take_turns() -> None:
    picture = text([falling(0.01, "a"), falling(0.01, "b")])
    shown = sorted(column for symbol in "ox" for _, column in rows_of(picture, symbol))
    assert shown == list(range(70))
    assert {column % 2 for _, column in rows_of(picture, "o")} == {0}
    assert "o a: exponential" in picture
    assert "x b: exponential" in picture


def test_a_flat_curve_and_a_single_point_are_drawn() -> None:
    assert len(rows_of(text([SemilogSeries("a", [0, 9], [0.5, 0.5])]), "o")) == 70
    assert len(rows_of(text([SemilogSeries("a", [0], [0.5])]), "o")) == 1


def test_without_a_positive_value_there_is_no_picture() -> None:
    assert text([]) == text([SemilogSeries("a", [], [], "diverged")]) == ""
    assert "diverged" in svg([SemilogSeries("a", [], [], "diverged")])
    both = text([SemilogSeries("a", [], [], "diverged"), falling(0.01, "b")])
    assert "o a: diverged" in both
    assert rows_of(both, "x")


def test_the_svg_stands_alone_and_says_what_it_shows() -> None:
    document = svg([falling(0.01, "<b>&\x1b[0m", "exponential"), falling(0.02, "b", "not converged")])
    root = ElementTree.fromstring(document)
    assert root.get("role") == "img"
    assert root[0].tag == SVG + "title"
    assert root[0].text == "Is the truncation error exponential?"
    assert root[1].tag == SVG + "desc"
    said = root[1].text or ""
    assert "<b>&" in said
    assert "b: not converged, from 1 nats at step 0 to 2.06e-09 at step 1000" in said
    assert "\x1b" not in document
    assert not any(word in document for word in ("href", "<script", "url(", "@import"))
    lines = root.findall(f"{SVG}polyline")
    assert len(lines) == 2
    assert len({(line.get("stroke"), line.get("stroke-dasharray")) for line in lines}) == 2
    points = [tuple(map(float, point.split(","))) for point in (lines[0].get("points") or "").split()]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in zip(points, points[1:], strict=False)]
    assert slopes == pytest.approx([slopes[0]] * len(slopes), abs=0.03)


def test_many_models_have_styles_of_their_own() -> None:
    root = ElementTree.fromstring(svg([falling(0.001 * i, str(i)) for i in range(1, 21)]))
    lines = root.findall(f"{SVG}polyline")
    assert len({(line.get("stroke"), line.get("stroke-dasharray")) for line in lines}) == 20


def test_curves_come_from_the_verdicts_of_a_report(make_report: object, make_measurement: object) -> None:
    assert callable(make_report)
    assert callable(make_measurement)
    curve = {"steps": [0, 5, 10], "values": [1.0, 0.1, 0.0]}
    report = make_report(
        make_measurement("truncation.verdict", "a", value="exponential", details={"excess": curve}),
        make_measurement("truncation.verdict", "b", value=None, reason="starts at its floor", details={}),
        make_measurement("truncation.rate", "a", value=0.1),
    )
    assert series_of(report) == (SemilogSeries("a", [0, 5], [1.0, 0.1], "exponential"),)
