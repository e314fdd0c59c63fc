"""The semilog picture of relearning: a straight line is an exponential decay; as text and as SVG."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from unlearn_audit.render.table import printable
from unlearn_audit.report import AuditReport

__all__ = ["CAPTION", "Series", "series_of", "svg", "text"]

CAPTION = "excess of the loss over its floor, nats (log scale), by relearning steps"
SYMBOLS = "ox+*#@%&abcdefghijklmnpqrstuvwyz"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")  # Okabe & Ito
DASHES = ("", "8 3", "2 3", "8 3 2 3", "14 4")
MARGIN = 9  # columns of the value labels
LEAST_ROWS = 7


class Series(NamedTuple):
    """One model's curve: positive values at increasing steps, and what was found of it in a few words."""

    label: str
    steps: Sequence[int]
    values: Sequence[float]
    note: str = ""


class _Frame(NamedTuple):
    """What a picture spans: steps 0..last, and decimal logarithms low..high."""

    last: int
    low: float
    high: float

    def height(self, value: float) -> float:
        """Return where a value stands between the lower end (0) and the upper end (1)."""
        return (math.log10(value) - self.low) / (self.high - self.low)


def series_of(report: AuditReport) -> tuple[Series, ...]:
    """Return the curves that a report's truncation verdicts carry, in the order of the subjects."""
    found = []
    for measurement in report.measurements:
        curve = measurement.details.get("excess") if measurement.name == "truncation.verdict" else None
        if isinstance(curve, dict):
            pairs = [(k, v) for k, v in zip(curve["steps"], curve["values"], strict=True) if v > 0]
            note = str(measurement.value or "no verdict")
            label = printable(measurement.subject)
            found.append(Series(label, [k for k, _ in pairs], [v for _, v in pairs], printable(note)))
    return tuple(found)


def _drawn(series: Sequence[Series]) -> list[Series]:
    return [one for one in series if len(one.values)]


def _frame(series: Sequence[Series]) -> _Frame | None:
    """Return the frame around all curves; None where there is nothing to draw."""
    logs = [math.log10(value) for one in series for value in one.values]
    if not logs:
        return None
    low, high = min(logs), max(logs)
    if high - low < 0.1:
        low, high = low - 0.05, high + 0.05
    return _Frame(max(1, *(one.steps[-1] for one in series)), low, high)


def _decades(frame: _Frame, most: int) -> list[int]:
    """Return the powers of ten to label, at most so many."""
    first, last = math.ceil(frame.low - 1e-9), math.floor(frame.high + 1e-9)
    every = max(1, math.ceil((last - first + 1) / most))
    return list(range(first, last + 1, every))


def _labels(frame: _Frame, most: int) -> list[tuple[float, str]]:
    """Return values with their labels: powers of ten, or both ends where fewer than two lie within."""
    decades = _decades(frame, most)
    if len(decades) >= 2:
        return [(10.0**power, f"1e{power:+03d}") for power in decades]
    return [(10**end, f"{10**end:.2e}") for end in (frame.low, frame.high)]


def text(series: Sequence[Series], *, width: int = 80, height: int = 20) -> str:
    """Draw the curves with characters, one symbol per model; where two meet, their symbols take turns.

    Args:
        series: the curves; those without a positive value are only named in the legend.
        width: columns at most.
        height: lines at most, caption and legend included.

    Returns:
        Lines with a newline after each; empty where there is nothing to draw.
    """
    frame = _frame(_drawn(series))
    if frame is None:
        return ""
    legend = _legend(series, width, height - LEAST_ROWS - 3)
    rows, columns = height - 3 - len(legend), width - MARGIN - 1
    canvas = [[" "] * columns for _ in range(rows)]
    for row, column, symbol in _points(series, frame, rows, columns):
        canvas[row][column] = symbol
    names = {round((1 - frame.height(value)) * (rows - 1)): label for value, label in _labels(frame, max(2, rows // 2))}
    lines = [CAPTION[:width]]
    for row, cells in enumerate(canvas):
        edge = "┤" if row in names else "│"
        lines.append(f"{names.get(row, ''):>{MARGIN - 1}} {edge}" + "".join(cells))
    lines += _axis(frame, columns)
    return "".join(line.rstrip() + "\n" for line in [*lines, *legend])


def _points(series: Sequence[Series], frame: _Frame, rows: int, columns: int) -> Iterator[tuple[int, int, str]]:
    """Yield row, column and symbol of every cell that a curve passes."""
    cells: dict[tuple[int, int], list[str]] = {}
    for index, one in enumerate(series):
        for column in range(columns):
            height = _height_at(one, frame, column / (columns - 1) * frame.last)
            if height is not None:
                cells.setdefault((round((1 - height) * (rows - 1)), column), []).append(_symbol(index))
    for (row, column), symbols in cells.items():
        yield row, column, symbols[column % len(symbols)]


def _symbol(index: int) -> str:
    return SYMBOLS[index % len(SYMBOLS)]


def _height_at(one: Series, frame: _Frame, step: float) -> float | None:
    """Return a curve's height in the frame at a step, straight between its points; None beyond its ends."""
    if not one.steps or not one.steps[0] <= step <= one.steps[-1]:
        return None
    after = next(index for index, at in enumerate(one.steps) if at >= step)
    if one.steps[after] == step or after == 0:
        return frame.height(one.values[after])
    (a, b), (low, high) = one.steps[after - 1 : after + 1], one.values[after - 1 : after + 1]
    share = (step - a) / (b - a)
    return (1 - share) * frame.height(low) + share * frame.height(high)


def _axis(frame: _Frame, columns: int) -> list[str]:
    """Return the line of the step axis and the line of its labels."""
    places = [(round(part * (columns - 1)), str(round(part * frame.last))) for part in (0, 0.25, 0.5, 0.75, 1)]
    line, labels = ["─"] * columns, [" "] * columns
    for column, label in places:
        line[column] = "┬"
        start = min(max(0, column - len(label) // 2), columns - len(label))
        labels[start : start + len(label)] = label
    return [" " * MARGIN + "└" + "".join(line), " " * (MARGIN + 1) + "".join(labels)]


def _legend(series: Sequence[Series], width: int, most: int) -> list[str]:
    """Return the legend in at most so many lines: without the notes where they do not fit, cut short at the end."""
    for notes in (True, False):
        room = width // 2 - 4
        entries = [f"{_symbol(i)} {_entry(one, room, notes=notes)}" for i, one in enumerate(series)]
        lines = _packed(entries, width)
        if len(lines) <= most:
            return lines
    return [*lines[: most - 1], f"  … {len(series)} models in all; fewer at a time are easier to read"]


def _entry(one: Series, room: int, *, notes: bool) -> str:
    note = f": {one.note}" if notes and one.note else ""
    left = max(8, room - len(note))
    label = one.label if len(one.label) <= left else one.label[: left - 1] + "…"
    return label + note


def _packed(entries: Sequence[str], width: int) -> list[str]:
    """Return the entries side by side in lines, in columns of equal width."""
    cell = max(len(entry) for entry in entries) + 3
    each = max(1, (width + 1) // cell)
    return ["  " + "".join(entry.ljust(cell) for entry in entries[i : i + each]) for i in range(0, len(entries), each)]


WIDTH, TOP, LEFT, RIGHT, PLOT = 720, 58, 84, 24, 300  # pixels of the SVG; PLOT is the height of the frame


def svg(series: Sequence[Series], *, title: str = "Is the truncation error exponential?") -> str:
    """Draw the curves as one self-contained SVG document with a title and a text alternative.

    Args:
        series: the curves; colours, dashes and marks tell them apart.
        title: heading of the picture.

    Returns:
        The document, drawn without scripts, links or fonts of its own; a picture of words alone where no curve can be
        drawn.
    """
    frame = _frame(_drawn(series))
    bottom = TOP + PLOT
    total = bottom + 62 + 20 * len(series)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" width="{WIDTH}" height="{total}" '
        f'role="img" font-family="sans-serif" font-size="13">',
        f"<title>{_safe(title)}</title>",
        f"<desc>{_safe(_alternative(series))}</desc>",
        f'<rect width="{WIDTH}" height="{total}" fill="#ffffff"/>',
        f'<text x="16" y="24" font-size="16" font-weight="bold" fill="#111111">{_safe(title)}</text>',
        f'<text x="16" y="43" fill="#444444">{_safe(CAPTION)}; exponential = straight</text>',
    ]
    if frame is not None:
        parts += _grid(frame, bottom)
        parts += [part for index, one in enumerate(series) for part in _curve(one, index, frame)]
    parts += [part for index, one in enumerate(series) for part in _key(one, index, bottom + 62 + 20 * index)]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _safe(words: str) -> str:
    """Return text for XML: escaped, and characters that XML has no way to carry written out."""
    return escape(printable(words))


def _alternative(series: Sequence[Series]) -> str:
    """Describe the picture in words."""
    said = [
        f"{one.label}: {one.note or 'no verdict'}, from {one.values[0]:.3g} nats at step {one.steps[0]} to "
        f"{one.values[-1]:.3g} at step {one.steps[-1]}"
        if len(one.values)
        else f"{one.label}: {one.note or 'no verdict'}, no excess to draw"
        for one in series
    ]
    return f"Line chart: {CAPTION}. " + "; ".join(said) + "."


def _at(frame: _Frame, step: float, value: float) -> tuple[float, float]:
    """Return a point's place in pixels."""
    return LEFT + step / frame.last * (WIDTH - LEFT - RIGHT), TOP + (1 - frame.height(value)) * PLOT


def _grid(frame: _Frame, bottom: int) -> Iterator[str]:
    """Yield the frame, its horizontal lines and the labels of both axes."""
    yield f'<g stroke="#dddddd" fill="none"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{PLOT}"/>'
    labels = _labels(frame, 10)
    heights = [(_at(frame, 0, value)[1], label) for value, label in labels]
    yield from (f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>' for y, _ in heights)
    yield '</g><g fill="#444444">'
    yield from (f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>' for y, label in heights)
    for part in (0, 0.25, 0.5, 0.75, 1):
        x = LEFT + part * (WIDTH - LEFT - RIGHT)
        yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{round(part * frame.last)}</text>'
    yield f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{bottom + 36}" text-anchor="middle">relearning steps K</text></g>'


def _style(index: int) -> str:
    dash = DASHES[(index + index // len(COLOURS)) % len(DASHES)]
    return f'stroke="{COLOURS[index % len(COLOURS)]}" stroke-width="2" fill="none" stroke-dasharray="{dash or "none"}"'


def _curve(one: Series, index: int, frame: _Frame) -> Iterator[str]:
    """Yield one curve's line and the marks along it."""
    places = [_at(frame, step, value) for step, value in zip(one.steps, one.values, strict=True)]
    if not places:
        return
    yield f'<polyline {_style(index)} points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'
    parts = (min(1.0, part + 0.04 * (index % 7)) for part in (0.1, 0.4, 0.7))  # apart from the other curves' marks
    yield from (_mark(*places[round(part * (len(places) - 1))], index) for part in parts)


def _mark(x: float, y: float, index: int) -> str:
    """Return the symbol of a model, the same as in the text picture."""
    return (
        f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" font-family="monospace" font-weight="bold" '
        f'fill="{COLOURS[index % len(COLOURS)]}">{escape(_symbol(index))}</text>'
    )


def _key(one: Series, index: int, y: int) -> Iterator[str]:
    """Yield one model's line of the legend."""
    yield f'<line x1="16" x2="56" y1="{y - 4}" y2="{y - 4}" {_style(index)}/>'
    yield _mark(36, y - 4, index)
    yield f'<text x="66" y="{y}" fill="#111111">{_safe(one.label)}: {_safe(one.note or "no verdict")}</text>'
