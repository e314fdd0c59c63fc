"""A report for a terminal: tables as wide as it is, from 80 columns on, then the conclusion in words."""

from collections.abc import Iterator, Sequence
from textwrap import fill
from typing import Literal

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from unlearn_audit.render import semilog
from unlearn_audit.render.exposed import exposed
from unlearn_audit.render.layers import layer_tables
from unlearn_audit.render.outputs import output_tables
from unlearn_audit.render.resurgence import resurgence_tables
from unlearn_audit.render.samples import judge_tables
from unlearn_audit.render.small_tables import SmallTable, small_tables
from unlearn_audit.render.table import MOST_COLUMNS, Column, columns, footnotes, rows
from unlearn_audit.render.untrusted import brief
from unlearn_audit.report import AuditReport

NARROW = 18  # columns, for numbers and short labels
WIDEST_LABEL = 19  # columns, which leaves room for four numbers with their intervals in 80
WIDTH = 80
WIDEST_PICTURE = 110


def render(report: AuditReport, *, width: int = WIDTH) -> RenderableType:
    """Return the report as Rich renderables.

    Args:
        report: what was measured.
        width: columns of the terminal; models that do not fit side by side stand in blocks below each other.
    """
    parts: list[RenderableType] = list(_blocks(report, width))
    for small in (
        *small_tables(report),
        *layer_tables(report),
        *output_tables(report),
        *resurgence_tables(report),
        *judge_tables(report),
        *_exposed(report),
    ):
        parts += [Text(f"\n{brief(small.title)}", style="bold"), _small(small)]
        parts += [Text(brief(note), style="dim") for note in small.notes]
    picture = semilog.text(semilog.series_of(report), width=min(width, WIDEST_PICTURE))
    parts += [Text("\n" + picture, no_wrap=True, overflow="crop")] if picture else []
    parts += [Text(brief(note), style="dim") for note in footnotes(report)]
    if report.limitations:
        parts.append(Text("\nLimitations", style="bold"))
        parts += [_bullet(text, "yellow") for text in report.limitations]
    if report.conclusion:
        parts.append(Text("\nConclusion", style="bold"))
        parts += [_bullet(text, "") for text in report.conclusion]
    return Group(*parts)


def _exposed(report: AuditReport) -> tuple[SmallTable, ...]:
    """Return the most exposed examples, where somebody asked how many are to be shown."""
    said = report.settings.get("from")
    if not isinstance(said, dict) or "mia.worst" not in said:
        return ()
    return exposed(report, most=None)


def _small(small: SmallTable) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for index, heading in enumerate(small.heading):
        words = any(len(row[index]) > NARROW for row in small.rows)  # a text, which takes what is left of the line
        justify: Literal["left", "right"] = "right" if index and not words else "left"
        width = None if index and words else NARROW
        table.add_column(Text(heading), justify=justify, overflow="fold", max_width=width)
    for row in small.rows:
        table.add_row(*(Text(brief(cell)) for cell in row))
    return table


def _bullet(text: str, style: str) -> RenderableType:
    return Padding(Text(brief(text), style=style), (0, 0, 0, 2))


def _blocks(report: AuditReport, width: int) -> Iterator[Table]:
    """Yield tables of as many models as fit side by side, each with what they are read against."""
    shown = columns(report)
    most = max(MOST_COLUMNS, (width - WIDEST_LABEL) * MOST_COLUMNS // (WIDTH - WIDEST_LABEL))
    if len(shown) <= most:
        yield _table(report, shown, first=True)
        return
    reference = tuple(column for column in shown if column.is_reference)[:1]
    others = [column for column in shown if column not in reference]
    each = most - len(reference)
    for start in range(0, len(others), each):
        yield _table(report, (*others[start : start + each], *reference), first=not start)


def _table(report: AuditReport, group: Sequence[Column], *, first: bool) -> Table:
    """Return one block; a later one has no rows that the first one has for the reference alone."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for column in group:
        table.add_column(Text(brief(column.heading)), justify="right", overflow="fold", max_width=NARROW)
    own = None if first else [index for index, column in enumerate(group) if not column.is_reference]
    for row in rows(report, group):
        if row.is_empty(own):
            continue
        cells = []
        for cell in row.cells:
            text = Text(cell.value)
            if cell.interval:
                text.append(f"\n{cell.interval}", style="dim")
            cells.append(text)
        label = Text(fill(row.label, WIDEST_LABEL))
        if row.sees:
            label.append(f"\n{row.sees}", style="dim")
        table.add_row(label, *cells)
    return table
