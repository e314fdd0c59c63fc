"""A report as GitHub-flavoured Markdown."""

import re
from collections.abc import Iterable, Sequence

from unlearn_audit.gate import Decision
from unlearn_audit.render.relearning import SmallTable, small_tables
from unlearn_audit.render.sections import decided, exposed
from unlearn_audit.render.table import columns, footnotes, printable, rows
from unlearn_audit.report import AuditReport

__all__ = ["render"]

SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\|`*_[]<>~&"})
MOST_BYTES = 1_000_000  # GitHub drops a step summary of more than 1 MiB altogether
CUT = "\n**This text was cut here, since a step summary may hold 1 MiB; the report itself has the rest.**\n"


def render(report: AuditReport, decisions: Sequence[Decision] | None = None) -> str:
    """Return the report as Markdown text: the verdict, the tables, what a reader needs beside them.

    Args:
        report: what was measured.
        decisions: of a gate, where a policy was given.

    Returns:
        At most 1 MB of it; a text that would be longer ends with a sentence that says so.
    """
    lines = [*_small(decided(decisions)), ""] if decisions else []
    lines += ["### Conclusion", "", *_bullets(report.conclusion), ""] if report.conclusion else []
    lines += [*_table(report), ""]
    for small in (*small_tables(report), *exposed(report)):
        lines += [*_small(small), "", *_bullets(small.notes), ""]
    lines += _bullets(footnotes(report))
    if report.limitations:
        lines += ["", "### Limitations", "", *_bullets(report.limitations)]
    return _kept_short("\n".join(lines) + "\n")


def _kept_short(text: str) -> str:
    """Return the text, or as many of its lines as a step summary may hold."""
    data = text.encode()
    if len(data) <= MOST_BYTES:
        return text
    whole = data[: MOST_BYTES - len(CUT.encode())]
    return whole[: whole.rfind(b"\n") + 1].decode() + CUT


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
