"""The semilog picture of relearning: a straight line is an exponential decay; as text and as SVG."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from unlearn_audit.render import charts
from unlearn_audit.render.charts import Axis, Chart, style_of
from unlearn_audit.render.details import TruncationDetails, details_of
from unlearn_audit.render.untrusted import printable
from unlearn_audit.report import AuditReport

TITLE = "Is the truncation error exponential?"
CAPTION = "excess of the loss over its floor, nats (log scale), by relearning steps"
SYMBOLS = "ox+*#@%&abcdefghijklmnpqrstuvwyz"
MARGIN = 9  # columns of the value labels
LEAST_ROWS = 7


class SemilogSeries(NamedTuple):
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


def series_of(report: AuditReport) -> tuple[SemilogSeries, ...]:
    """Return the curves that a report's truncation verdicts carry, in the order of the subjects."""
    found = []
    for measurement in report.measurements:
        is_verdict = measurement.name == "truncation.verdict"
        curve = details_of(measurement, TruncationDetails).excess if is_verdict else None
        if curve is not None:
            pairs = [(k, v) for k, v in zip(curve.steps, curve.values, strict=True) if v > 0]
            note = str(measurement.value or "no verdict")
            label = printable(measurement.subject)
            found.append(SemilogSeries(label, [k for k, _ in pairs], [v for _, v in pairs], printable(note)))
    return tuple(found)


def _drawn(series: Sequence[SemilogSeries]) -> list[SemilogSeries]:
    return [one for one in series if len(one.values)]


def _frame(series: Sequence[SemilogSeries]) -> _Frame | None:
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


def text(series: Sequence[SemilogSeries], *, width: int = 80, height: int = 20) -> str:
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


def _points(series: Sequence[SemilogSeries], frame: _Frame, rows: int, columns: int) -> Iterator[tuple[int, int, str]]:
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


def _height_at(one: SemilogSeries, frame: _Frame, step: float) -> float | None:
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


def _legend(series: Sequence[SemilogSeries], width: int, most: int) -> list[str]:
    """Return the legend in at most so many lines: without the notes where they do not fit, cut short at the end."""
    for notes in (True, False):
        room = width // 2 - 4
        entries = [f"{_symbol(i)} {_entry(one, room, notes=notes)}" for i, one in enumerate(series)]
        lines = _packed(entries, width)
        if len(lines) <= most:
            return lines
    return [*lines[: most - 1], f"  … {len(series)} models in all; fewer at a time are easier to read"]


def _entry(one: SemilogSeries, room: int, *, notes: bool) -> str:
    note = f": {one.note}" if notes and one.note else ""
    left = max(8, room - len(note))
    label = one.label if len(one.label) <= left else one.label[: left - 1] + "…"
    return label + note


def _packed(entries: Sequence[str], width: int) -> list[str]:
    """Return the entries side by side in lines, in columns of equal width."""
    cell = max(len(entry) for entry in entries) + 3
    each = max(1, (width + 1) // cell)
    return ["  " + "".join(entry.ljust(cell) for entry in entries[i : i + each]) for i in range(0, len(entries), each)]


def chart(drawn: Sequence[charts.Series], *, title: str, described: str) -> Chart:
    """Return the same picture as a chart: a straight line is an exponential decay.

    Args:
        drawn: the curves, each with its style and its verdict for a note.
        title: heading of the picture.
        described: its text alternative (`alternative`).
    """
    x, y = Axis("relearning steps K"), Axis("excess, nats", log=True)
    return Chart(title, f"{CAPTION}; exponential = straight", x, y, tuple(drawn), described=described)


def svg(series: Sequence[SemilogSeries], *, title: str = TITLE) -> str:
    """Draw the curves as one self-contained SVG document with a title and a text alternative.

    Args:
        series: the curves; colours, dashes and marks tell them apart.
        title: heading of the picture.

    Returns:
        The document, drawn without scripts, links or fonts of its own; a picture of words alone where no curve can be
        drawn.
    """
    drawn = [
        charts.Series(one.label, one.steps, one.values, style_of(index), note=one.note or "no verdict")
        for index, one in enumerate(series)
    ]
    return charts.document(chart(drawn, title=title, described=alternative(series)))


def alternative(series: Sequence[SemilogSeries]) -> str:
    """Describe the picture in words."""
    said = [
        f"{one.label}: {one.note or 'no verdict'}, from {one.values[0]:.3g} nats at step {one.steps[0]} to "
        f"{one.values[-1]:.3g} at step {one.steps[-1]}"
        if len(one.values)
        else f"{one.label}: {one.note or 'no verdict'}, no excess to draw"
        for one in series
    ]
    return f"Line chart: {CAPTION}. " + "; ".join(said) + "."
