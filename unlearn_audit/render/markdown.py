"""A report as GitHub-flavoured Markdown."""

import re
from collections.abc import Iterable

from unlearn_audit.render.relearning import SmallTable, small_tables
from unlearn_audit.render.table import columns, footnotes, printable, rows
from unlearn_audit.report import AuditReport

__all__ = ["render"]

SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\|`*_[]<>~&"})


def render(report: AuditReport) -> str:
    """Return the report as Markdown text: the conclusion, the tables, what a reader needs beside it."""
    lines = ["### Conclusion", "", *_bullets(report.conclusion), ""] if report.conclusion else []
    lines += [*_table(report), ""]
    for small in small_tables(report):
        lines += [*_small(small), "", *_bullets(small.notes), ""]
    lines += _bullets(footnotes(report))
    if report.limitations:
        lines += ["", "### Limitations", "", *_bullets(report.limitations)]
    return "\n".join(lines) + "\n"


def _table(report: AuditReport) -> Iterable[str]:
    shown = columns(report)
    yield "| | " + " | ".join(_escaped(column.heading) for column in shown) + " |"
    yield "|---|" + "---:|" * len(shown)
    for row in rows(report, shown):
        cells = (_escaped(f"{cell.value} {cell.interval}".strip()) for cell in row.cells)
        yield f"| {row.label} | " + " | ".join(cells) + " |"


def _small(small: SmallTable) -> Iterable[str]:
    yield f"**{_escaped(small.title)}**\n"
    yield "| " + " | ".join(_escaped(cell) for cell in small.heading) + " |"
    yield "|---|" + "---:|" * (len(small.heading) - 1)
    for row in small.rows:
        yield "| " + " | ".join(_escaped(cell) for cell in row) + " |"


def _bullets(texts: Iterable[str]) -> list[str]:
    """Return list items; a text that begins like a list or a heading is no list or heading of its own."""
    return ["- " + re.sub(r"^(\d*)([-+#.)])", r"\1\\\2", _escaped(text)) for text in texts]


def _escaped(text: str) -> str:
    """Return text from elsewhere so that Markdown shows it as it is."""
    return printable(text).translate(SPECIAL)
