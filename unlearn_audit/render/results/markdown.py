"""Tables of results as GitHub-flavoured Markdown."""

from collections.abc import Sequence

from unlearn_audit.render.gfm import bullets, escaped, kept_short, pipe_table
from unlearn_audit.render.results.texts import plain, texts_of, titled
from unlearn_audit.results import ResultTable


def render(tables: Sequence[ResultTable], apart: Sequence[str]) -> str:
    """Return tables and notes as Markdown text.

    Args:
        tables: one for each setting.
        apart: why there are several.
    """
    lines: list[str] = []
    for table in tables:
        heading = ("", "n", *(column.info.title for column in table.columns))
        rows = [
            (line.title, str(len(line.models)),
             *(plain(texts_of(cell, column.info)) for cell, column in zip(line.cells, table.columns, strict=True)))
            for line in table.lines
        ]  # fmt: skip
        lines += [f"**{escaped(titled(table))}**", "", *pipe_table(heading, rows, numbers=True), ""]
        lines += [*bullets(table.notes), ""]
    return kept_short("\n".join([*lines, *bullets(apart)]).rstrip("\n") + "\n")
