"""A report as GitHub-flavoured Markdown."""

from unlearn_audit.render.table import columns, footnotes, rows
from unlearn_audit.report import AuditReport

__all__ = ["render"]

SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\|`*_[]<>"})


def render(report: AuditReport) -> str:
    """Return the report as Markdown text."""
    shown = columns(report)
    lines = [f"### {text.translate(SPECIAL)}" if index == 0 else text.translate(SPECIAL) + "\n" for index, text in
             enumerate(report.conclusion)]
    lines += ["", "| | " + " | ".join(column.heading.translate(SPECIAL) for column in shown) + " |"]
    lines.append("|---|" + "---:|" * len(shown))
    for row in rows(report, shown):
        cells = (f"{cell.value} {cell.interval.translate(SPECIAL)}".strip() for cell in row.cells)
        lines.append(f"| {row.label} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- {note.translate(SPECIAL)}" for note in (*footnotes(report), *report.limitations))]
    return "\n".join(lines) + "\n"
