"""A report as GitHub-flavoured Markdown."""

from collections.abc import Iterator, Sequence

from unlearn_audit.gate import Decision, ReviewedWaiver
from unlearn_audit.render.exposed import exposed
from unlearn_audit.render.gfm import bullets, escaped, kept_short, pipe_table
from unlearn_audit.render.layers import layer_tables
from unlearn_audit.render.outputs import output_tables
from unlearn_audit.render.resurgence import resurgence_tables
from unlearn_audit.render.samples import sample_tables
from unlearn_audit.render.sections import decided, waived
from unlearn_audit.render.small_tables import SmallTable, small_tables
from unlearn_audit.render.table import columns, footnotes, rows
from unlearn_audit.report import AuditReport


def render(
    report: AuditReport,
    decisions: Sequence[Decision] | None = None,
    waivers: Sequence[ReviewedWaiver] = (),
    said: Sequence[str] = (),
) -> str:
    """Return the report as Markdown text: the verdict, the tables, what a reader needs beside them.

    Args:
        report: what was measured.
        decisions: of a gate, where a policy was given.
        waivers: of that policy.
        said: sentences of that gate, such as whom its outcome is about.

    Returns:
        At most 1 MB of it; a text that would be longer ends with a sentence that says so.
    """
    lines = [*_small(decided(decisions)), "", *bullets(said), ""] if decisions else []
    lines += [*_small(waived(waivers)), ""] if waivers else []
    lines += ["### Conclusion", "", *bullets(report.conclusion), ""] if report.conclusion else []
    lines += [*_table(report), ""]
    for small in (
        *small_tables(report),
        *layer_tables(report),
        *output_tables(report),
        *resurgence_tables(report),
        *sample_tables(report),
        *exposed(report),
    ):
        lines += [*_small(small), "", *bullets(small.notes), ""]
    lines += bullets(footnotes(report))
    if report.limitations:
        lines += ["", "### Limitations", "", *bullets(report.limitations)]
    return kept_short("\n".join(lines) + "\n")


def _table(report: AuditReport) -> Iterator[str]:
    shown = columns(report)
    yield "| | " + " | ".join(escaped(column.heading) for column in shown) + " |"
    yield "|---|" + "---:|" * len(shown)
    for row in rows(report, shown):
        cells = (escaped(f"{cell.value} {cell.interval}".strip()) for cell in row.cells)
        label = f"{row.label} ({row.sees})" if row.sees else row.label
        yield f"| {escaped(label)} | " + " | ".join(cells) + " |"


def _small(small: SmallTable) -> list[str]:
    return [f"**{escaped(small.title)}**\n", *pipe_table(small.heading, small.rows, numbers=True)]
