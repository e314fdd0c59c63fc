"""A chart as SVG: no script, no link, no font of its own; colours follow the page's paper, and print."""

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import NamedTuple
from xml.etree.ElementTree import Element

from unlearn_audit.render.charts.scales import Scale, scale_of
from unlearn_audit.render.charts.series import COLOURS, DASHES, MARKS, Chart, Series
from unlearn_audit.render.markup import as_xml, element
from unlearn_audit.render.untrusted import printable

GLYPH = 6.6  # pixels of a character of 12 pixels, on average
TOP, RIGHT, ROW, SWATCH = 28, 14, 19, 36
LINE = 17  # pixels from one line of a caption to the next
FEW = 12  # points that each get a mark
CLOSEST = 0.6  # pixels between points of a line


def _palette(side: int) -> str:
    paper = ("#ffffff", "#15181d")[side]
    grid = ("#dcdfe3", "#363c45")[side]
    named = "".join(f"--c{index}:{pair[side]};" for index, pair in enumerate(COLOURS))
    return f".chart{{{named}--paper:{paper};--grid:{grid}}}"


STYLESHEET = "\n".join([
    _palette(0),
    f"@media screen and (prefers-color-scheme:dark){{{_palette(1)}}}",
    *(f".chart .c{index}{{stroke:var(--c{index})}}" for index in range(len(COLOURS))),
    f".chart text{{fill:var(--c{len(COLOURS) - 2})}}.chart .muted{{fill:var(--c{len(COLOURS) - 1})}}",
    ".chart .paper{fill:var(--paper)}.chart .grid{stroke:var(--grid)}",
])  # fmt: skip


class _Plot(NamedTuple):
    """The scales of a picture."""

    x: Scale
    y: Scale

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.x.place(x), self.y.place(y)


def document(chart: Chart, *, width: int = 720, height: int = 300) -> str:
    """Return a chart as an SVG file of its own, with its title and its legend."""
    tree = draw(chart, key="chart", width=width, height=height, alone=True)
    return as_xml(tree).rstrip() + "\n"


def draw(chart: Chart, *, key: str, width: int = 380, height: int = 220, alone: bool = False) -> Element:
    """Draw a chart.

    Args:
        chart: what to draw.
        key: a name that no other chart of the page has.
        width: of the picture, in units of which text takes 12.
        height: of the plot alone.
        alone: whether it is a file of its own, with paper, title and colours.

    Returns:
        An `svg` element with `title` and `desc`; without a plot where there is nothing to draw.
    """
    said = wrap(printable(chart.caption), int((width - 32) / GLYPH)) if alone else []
    shift = 29 + LINE * len(said) if alone else 0
    plot = _plot(chart, width, TOP + shift, height)
    bottom = TOP + shift + (height + 44 if plot else 0)
    entries = _legend(chart.series, width)
    total = bottom + ROW * (1 + max((row for row, *_ in entries), default=-1)) + 8
    parts = list(_heading(chart, said, width, total)) if alone else []
    if plot is not None:
        parts += _axes(chart, plot)
        parts += _guides(chart, plot)
        parts += [part for index in range(len(chart.series)) for part in _series(chart, index, plot)]
    parts += [part for row, x, one in entries for part in _entry(one, x, bottom + ROW * row + 6, width)]
    names = {"xmlns": "http://www.w3.org/2000/svg"} if alone else {}
    size = {"width": width, "height": total} if alone else {}
    svg = element("svg", **names, viewBox=f"0 0 {width} {total}", **size, role="img", class_="chart",
                  aria_labelledby=f"{key}-title {key}-desc", font_family="sans-serif", font_size=12)  # fmt: skip
    svg.append(element("title", chart.title, id=f"{key}-title"))
    svg.append(element("desc", chart.described or described(chart), id=f"{key}-desc"))
    svg.extend(parts)
    return svg


def described(chart: Chart) -> str:
    """Say in words what a chart shows."""
    said = [_told(one) for one in chart.series]
    return f"{chart.caption} Across: {chart.x.title}. Up: {chart.y.title}. " + "; ".join(said) + "."


def _told(one: Series) -> str:
    note = f" ({one.note})" if one.note else ""
    if not len(one.xs):
        return f"{one.label}{note}: nothing to draw"
    if one.joined and len(one.xs) > 1:
        return f"{one.label}{note}: from {one.ys[0]:.3g} at {one.xs[0]:.3g} to {one.ys[-1]:.3g} at {one.xs[-1]:.3g}"
    return f"{one.label}{note}: " + ", ".join(f"{y:.3g} at {x:.3g}" for x, y in zip(one.xs, one.ys, strict=True))


# ----- the plot


def _shown(chart: Chart, one: Series) -> list[int]:
    """Return which points have a place on both axes."""
    pairs = enumerate(zip(one.xs, one.ys, strict=True))
    return [index for index, (x, y) in pairs if chart.x.shows(x) and chart.y.shows(y)]


def _plot(chart: Chart, width: int, top: int, height: int) -> _Plot | None:
    """Return the scales around everything that is drawn; None where there is nothing."""
    points = [(one, index) for one in chart.series for index in _shown(chart, one)]
    if not points:
        return None
    ends = [end for one in chart.series for pair in one.ends if pair for end in pair]
    y = scale_of(chart.y, [*(one.ys[index] for one, index in points), *ends], top + height, top)
    left = 16 + GLYPH * max(len(label) for _, label in y.ticks())
    x = scale_of(chart.x, [one.xs[index] for one, index in points], left, width - RIGHT)
    return _Plot(x, y)


def _line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> Element:
    return element("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", **attributes)


def _words(text: str, x: float, y: float, *, muted: bool = True, **attributes: object) -> Element:
    colour = COLOURS[-1 if muted else -2][0]
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", fill=colour, class_="muted" if muted else None,
                   **attributes)  # fmt: skip


def _heading(chart: Chart, said: Sequence[str], width: int, total: int) -> Iterator[Element]:
    """Yield what only a file of its own needs: colours, paper, the title and the lines of its caption in sight."""
    style = element("style")
    style.text = STYLESHEET
    yield style
    yield element("rect", width=width, height=total, fill="#ffffff", class_="paper")
    yield _words(chart.title, 16, 24, muted=False, font_size=16, font_weight="bold")
    yield from (_words(line, 16, 43 + LINE * number) for number, line in enumerate(said))


def _axes(chart: Chart, plot: _Plot) -> Iterator[Element]:
    """Yield the grid, and titles and labels of both axes."""
    x, y = plot
    grid: dict[str, object] = {"stroke": "#dcdfe3", "class_": "grid"}
    for value, label in y.ticks():
        at = y.place(value)
        yield _line(x.start, at, x.end, at, **grid)
        yield _words(label, x.start - 8, at + 4, text_anchor="end")
    for value, label in x.ticks():
        at = x.place(value)
        yield _line(at, y.end, at, y.start, **grid)
        yield _words(label, at, y.start + 17, text_anchor="middle")
    yield _words(chart.y.title, 4, y.end - 13)
    yield _words(chart.x.title, (x.start + x.end) / 2, y.start + 34, text_anchor="middle")


def _guides(chart: Chart, plot: _Plot) -> Iterator[Element]:
    """Yield the diagonal and the vertical lines with their names."""
    style: dict[str, object] = {"stroke": COLOURS[-1][0], "stroke_dasharray": "4 4", "class_": f"c{len(COLOURS) - 1}"}
    if chart.diagonal and plot.x.log == plot.y.log:
        low, high = max(plot.x.low, plot.y.low), min(plot.x.high, plot.y.high)
        first, last = (10**end if plot.x.log else end for end in (low, high))
        yield _line(plot.x.place(first), plot.y.place(first), plot.x.place(last), plot.y.place(last), **style)
    for guide in chart.guides:
        if plot.x.within(guide.at):
            at = plot.x.place(guide.at)
            yield _line(at, plot.y.end, at, plot.y.start, **style)
            yield _words(guide.label, at + 4, plot.y.end + 11, font_size=10)


def _series(chart: Chart, index: int, plot: _Plot) -> Iterator[Element]:
    """Yield one series: its line, its error bars and its marks."""
    one = chart.series[index]
    shown = _shown(chart, one)
    if not shown:
        return
    places = [plot.at(one.xs[row], one.ys[row]) for row in shown]
    if one.joined:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in _thinned(places))
        yield element("polyline", **_pen(one), points=points)
    for row, (x, _) in zip(shown, places, strict=True):
        ends = one.ends[row] if row < len(one.ends) else None
        if ends is not None and all(map(chart.y.shows, ends)):
            yield from _bar(x, *(plot.y.place(end) for end in ends), one=one)
    marked = places if len(places) <= FEW else _spread(places, index)
    yield from (_mark(x, y, one) for x, y in marked)


def _pen(one: Series) -> dict[str, object]:
    colour = one.style.colour
    return {"stroke": COLOURS[colour][0], "stroke_width": 1.8, "fill": "none", "class_": f"c{colour}",
            "stroke_linejoin": "round", "stroke_dasharray": DASHES[one.style.dash] or "none"}  # fmt: skip


def _bar(x: float, low: float, high: float, *, one: Series) -> Iterator[Element]:
    """Yield an error bar with its caps."""
    pen = _pen(one) | {"stroke_dasharray": None, "stroke_width": 1.3}
    yield _line(x, low, x, high, **pen)
    yield from (_line(x - 3, end, x + 3, end, **pen) for end in (low, high))


def _mark(x: float, y: float, one: Series) -> Element:
    colour = one.style.colour
    return element("path", d=MARKS[one.style.mark], transform=f"translate({x:.1f} {y:.1f})", fill="#ffffff",
                   stroke=COLOURS[colour][0], stroke_width=1.6, class_=f"paper c{colour}")  # fmt: skip


def _thinned(places: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Yield the points that can be told apart, the first and the last one among them."""
    before: tuple[float, float] | None = None
    for place in places[:-1]:
        if before is None or max(abs(place[0] - before[0]), abs(place[1] - before[1])) >= CLOSEST:
            yield place
            before = place
    yield places[-1]


def _spread(places: Sequence[tuple[float, float]], index: int) -> list[tuple[float, float]]:
    """Return a few points along a line, apart from those of the other lines."""
    parts = (min(1.0, part + 0.04 * (index % 7)) for part in (0.06, 0.36, 0.66))
    first, last = places[0][0], places[-1][0]
    wanted = (first + part * (last - first) for part in parts)
    return [min(places, key=lambda place: abs(place[0] - x)) for x in wanted]


# ----- the legend


def _legend(series: Sequence[Series], width: int) -> list[tuple[int, float, Series]]:
    """Return row, place and series of every entry, as many side by side as there is room for."""
    first: dict[tuple[str, str], Series] = {}
    for one in series:
        first.setdefault((one.label, one.note), one)
    found: list[tuple[int, float, Series]] = []
    row, x = 0, 8.0
    for one in first.values():
        needed = SWATCH + 20 + GLYPH * len(_named(one))
        if x > 8 and x + needed > width:
            row, x = row + 1, 8.0
        found.append((row, x, one))
        x += needed
    return found


def _named(one: Series) -> str:
    return printable(f"{one.label}: {one.note}" if one.note else one.label)


def _entry(one: Series, x: float, y: float, width: int) -> Iterator[Element]:
    """Yield one entry of the legend; a name that is too long is cut, and whole in the text alternative."""
    if one.joined:
        yield _line(x, y, x + SWATCH - 8, y, **_pen(one))
    yield _mark(x + (SWATCH - 8) / 2, y, one)
    room = max(8, int((width - x - SWATCH - 4) / GLYPH))
    name = _named(one)
    yield _words(name if len(name) <= room else name[: room - 1] + "…", x + SWATCH, y + 4, muted=False)
