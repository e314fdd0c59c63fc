"""Charts as SVG: where things stand, what tells them apart, and that no number breaks one."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_audit.render import html
from unlearn_audit.render.charts import (
    CONTROL,
    ORIGINAL,
    RETRAINED,
    STYLESHEET,
    Axis,
    Chart,
    Guide,
    Series,
    document,
    style_of,
)
from unlearn_audit.render.charts.scales import scale_of
from unlearn_audit.render.charts.series import COLOURS

X, Y = Axis("x"), Axis("y")


def chart_of(*series: Series, x: Axis = X, y: Axis = Y, **values: Any) -> Chart:
    return Chart("title", "caption.", x, y, series, **values)


def drawn(chart: Chart) -> dict[str, list[dict[str, str]]]:
    """Return the attributes of everything in a picture, by tag."""
    found: dict[str, list[dict[str, str]]] = {}
    for part in ElementTree.fromstring(document(chart)).iter():
        found.setdefault(part.tag.partition("}")[2], []).append(dict(part.attrib))
    return found


def points(polyline: dict[str, str]) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in polyline["points"].split())]


def luminance(colour: str) -> float:
    """Return the relative luminance of #rrggbb as WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("side", "paper"), [(0, "#ffffff"), (1, "#15181d")])
def test_every_line_stands_out_on_both_papers(side: int, paper: str) -> None:
    assert f"--paper:{paper}" in STYLESHEET
    assert all(contrast(pair[side], paper) >= 3 for pair in COLOURS)
    assert all(contrast(COLOURS[index][side], paper) >= 4.5 for index in (-1, -2))  # those that text is written in


@pytest.mark.parametrize("at", [0, 1])
def test_text_of_the_page_stands_out_on_both_papers(at: int) -> None:
    css = Path(html.__file__).with_name("page.css").read_text()
    colours = [
        dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    ]
    for name in ("ink", "muted", "good", "bad", "open", "link"):
        assert contrast(colours[at][name], colours[at]["paper"]) >= 4.5, name
        assert contrast(colours[at][name], colours[at]["band"]) >= 4.5, name


def test_thirty_styles_differ_without_their_colour_or_in_it() -> None:
    styles = [style_of(index) for index in range(30)]
    assert len({(one.colour, one.dash) for one in styles}) == 30
    assert not {one.colour for one in styles} & {RETRAINED.colour, CONTROL.colour}
    assert not {one.mark for one in styles} & {ORIGINAL.mark, RETRAINED.mark, CONTROL.mark}
    assert len({one.mark for one in styles[:6]}) == 6
    assert len({(one.dash, one.mark) for one in (style_of(0), style_of(2), ORIGINAL, RETRAINED, CONTROL)}) == 5


def test_places_are_proportional_on_a_linear_axis_and_on_a_logarithmic_one() -> None:
    line = Series("a", [1, 10, 100], [1, 2, 3], style_of(0))
    (linear,) = drawn(chart_of(line))["polyline"]
    (log,) = drawn(chart_of(line, x=Axis("x", log=True)))["polyline"]
    for polyline, gaps in ((linear, 9 / 90), (log, 1)):
        (x0, y0), (x1, y1), (x2, y2) = points(polyline)
        assert (x1 - x0) / (x2 - x1) == pytest.approx(gaps, abs=0.01)
        assert y0 - y1 == pytest.approx(y1 - y2, abs=0.11)
        assert y0 > y1 > y2


def test_error_bars_span_their_ends() -> None:
    point = Series("a", [1.0], [2.0], style_of(0), joined=False, ends=((1.0, 3.0),))
    parts = drawn(chart_of(point, y=Axis("y", low=0, high=4)))
    assert "polyline" not in parts
    bars = [line for line in parts["line"] if line.get("class") == "c0" and line["x1"] == line["x2"]]
    (bar,) = bars
    middle = float(parts["path"][0]["transform"].split()[1].rstrip(")"))
    assert float(bar["y1"]) - middle == pytest.approx(middle - float(bar["y2"])) == pytest.approx(75)


def test_what_has_no_place_on_an_axis_is_not_drawn() -> None:
    odd = Series("a", [0, 1, 2, 3, 4], [1.0, 0.0, -1.0, float("inf"), 10.0], style_of(0))
    (polyline,) = drawn(chart_of(odd, y=Axis("y", log=True)))["polyline"]
    assert len(points(polyline)) == 2
    nothing = drawn(chart_of(Series("a", [1.0], [float("nan")], style_of(0))))
    assert "polyline" not in nothing
    assert drawn(chart_of())["title"] == [{"id": "chart-title"}]


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=8),
    logs=st.tuples(st.booleans(), st.booleans()),
    joined=st.booleans(),
)
def test_any_numbers_can_be_drawn(values: list[float], logs: tuple[bool, bool], joined: bool) -> None:
    ends = tuple((value, value) for value in values)
    one = Series("a", values, values[::-1], style_of(0), joined=joined, ends=ends)
    chart = chart_of(one, x=Axis("x", log=logs[0]), y=Axis("y", log=logs[1]), diagonal=True, guides=(Guide(1.0, "g"),))
    text = document(chart)
    ElementTree.fromstring(text)
    assert "nan" not in re.sub(r"<desc.*?</desc>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("span", [(1e-12, 1e12), (0.9, 1.1), (3, 3), (0.5, 20), (1e-3, 1.0), (2e-5, 9e-5)])
@pytest.mark.parametrize("log", [True, False])
def test_an_axis_has_a_few_labels_in_order(span: tuple[float, float], log: bool) -> None:
    scale = scale_of(Axis("x", log=log), span, 0, 100)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 12
    places = [scale.place(value) for value, _ in ticks]
    assert places == sorted(places)
    assert places[0] >= 0
    assert places[-1] <= 100
    assert len({label for _, label in ticks}) == len(ticks)


def test_long_lines_are_thinned_and_keep_their_ends() -> None:
    steps = range(100_000)
    (polyline,) = drawn(chart_of(Series("a", steps, [1.0] * len(steps), style_of(0))))["polyline"]
    found = points(polyline)
    assert len(found) < 1300
    assert (found[0][0], found[-1][0]) == (min(x for x, _ in found), max(x for x, _ in found))


def test_series_of_one_name_share_an_entry_of_the_legend_and_long_names_are_cut() -> None:
    series = [Series("same", [0, 1], [0, i], RETRAINED) for i in range(5)]
    long = Series("x" * 300, [0, 1], [0, 1], style_of(0))
    tree = ElementTree.fromstring(document(chart_of(*series, long)))
    words = [text.text or "" for text in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("same") == 1
    assert any(word.startswith("xxx") and word.endswith("…") and len(word) < 120 for word in words)
    assert "x" * 300 in (tree[1].text or "")
