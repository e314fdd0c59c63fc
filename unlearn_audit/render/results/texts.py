"""What every format of a table of results writes in the same way: headings and the two numbers of a cell."""

from typing import NamedTuple

from unlearn_audit.catalogue import MetricInfo
from unlearn_audit.results import Cell, ResultTable

NOTHING = "–"


class Texts(NamedTuple):
    """A cell's mean (or verdicts, or the range of p-values) and its spread; "" where there is none."""

    value: str
    spread: str = ""
    marks: str = ""


def texts_of(cell: Cell, info: MetricInfo) -> Texts:
    """Return a cell as it is written.

    Args:
        cell: what a line has in a column.
        info: of the column's metric, which says how many digits and whether the sign.
    """
    if cell.words is not None:
        return Texts(cell.words, marks=_marks(cell))
    if cell.mean is None:
        return Texts(NOTHING)
    if info.p_value and len(cell.numbers) > 1:
        low, high = min(cell.numbers), max(cell.numbers)
        return Texts(f"{low:.{info.digits}f} to {high:.{info.digits}f}", marks=_marks(cell))
    sign = "+" if info.signed else ""
    spread = "" if cell.spread is None or info.p_value else f"{cell.spread:.{info.digits}f}"
    return Texts(f"{cell.mean:{sign}.{info.digits}f}", spread, _marks(cell))


def _marks(cell: Cell) -> str:
    """Return a star where a number is in doubt, and how many models have one where not all do."""
    some = f" ({len(cell.values) - len(cell.missing)} of {len(cell.values)})" if cell.missing else ""
    return "*" * bool(cell.doubted) + some


def plain(texts: Texts) -> str:
    """Return a cell in one line."""
    return f"{texts.value}{f' ± {texts.spread}' if texts.spread else ''}{texts.marks}"


def titled(table: ResultTable) -> str:
    """Return what a table is about: data, what is to be forgotten, networks."""
    setting = table.setting
    beside = f", beside {setting.adjacent}" if setting.adjacent else ""
    forgotten = f"{setting.n} examples forgotten ({setting.forget}{beside}) of {setting.data}"
    return f"{forgotten}; {', '.join(setting.models)}"
