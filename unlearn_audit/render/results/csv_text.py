"""Tables of results as one CSV: a row for each line of each table, unrounded numbers, empty where there is none."""

import csv
import io
from collections.abc import Iterator, Sequence

from unlearn_audit.catalogue import MetricInfo
from unlearn_audit.render.untrusted import printable
from unlearn_audit.results import Cell, ResultTable

ABOUT = ("data", "forget", "forget_n", "models", "role", "method", "n")
FORMULA = ("=", "+", "-", "@")  # what a spreadsheet would compute


def render(tables: Sequence[ResultTable], _apart: Sequence[str] = ()) -> str:
    """Return the tables as CSV text, with the columns of all of them.

    A metric has its mean under its own name, `.sd` and `.n` beside it, and in `.doubted` how many of these numbers are
    in doubt; a p-value has `.lowest` and `.highest` in the place of the first two.

    Args:
        tables: one for each setting, which its first columns name.
    """
    infos = {column.info.name: column.info for table in tables for column in table.columns}
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*ABOUT, *(f"{name}{end}" for name, info in infos.items() for end in _ends(info))])
    for table in tables:
        setting = table.setting
        for line in table.lines:
            about = (
                setting.data,
                setting.forget,
                str(setting.n),
                " ".join(setting.models),
                line.role,
                line.title,
            )
            cells = {column.info.name: cell for column, cell in zip(table.columns, line.cells, strict=True)}
            numbers = [text for name, info in infos.items() for text in _texts(cells.get(name), info)]
            writer.writerow([*map(_safe, about), len(line.models), *numbers])
    return stream.getvalue()


def _ends(info: MetricInfo) -> tuple[str, ...]:
    return (*((".lowest", ".highest") if info.p_value else ("", ".sd")), ".n", ".doubted")


def _texts(cell: Cell | None, info: MetricInfo) -> Iterator[str]:
    doubted = str(len(cell.doubted)) if cell is not None else "0"
    numbers = () if cell is None else cell.numbers
    if cell is not None and cell.words is not None:
        yield from (_safe(cell.words), "", str(len(cell.values) - len(cell.missing)), doubted)
    elif cell is None or not numbers:
        yield from ("", "", "0", "0")
    elif info.p_value:
        yield from (repr(float(min(numbers))), repr(float(max(numbers))), str(len(numbers)), doubted)
    else:
        yield from (repr(cell.mean), "" if cell.spread is None else repr(cell.spread), str(len(numbers)), doubted)


def _safe(text: str) -> str:
    """Return text that no spreadsheet takes for a formula."""
    shown = printable(text)
    return f"'{shown}" if shown.startswith(FORMULA) else shown
