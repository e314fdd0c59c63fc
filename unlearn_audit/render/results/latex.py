"""Tables of results for a paper: LaTeX with booktabs, metrics across, mean and standard deviation in math mode."""

from collections.abc import Sequence

from unlearn_audit.render.results.texts import NOTHING, Texts, texts_of, titled
from unlearn_audit.render.untrusted import printable
from unlearn_audit.results import ResultTable

SPECIAL = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "±": r"$\pm$"}
)


def render(tables: Sequence[ResultTable], apart: Sequence[str]) -> str:
    r"""Return one `table` environment for each setting; it needs \usepackage{booktabs}.

    Args:
        tables: one for each setting.
        apart: why there are several, as comments.
    """
    parts = [_table(table) for table in tables]
    parts += [f"% {printable(text)}" for text in apart]
    return "\n".join(parts) + "\n"


def _table(table: ResultTable) -> str:
    heading = ["method", "$n$", *(_escaped(column.info.title) for column in table.columns)]
    rows = [
        [_first(line.title), f"${len(line.models)}$",
         *(_cell(texts_of(cell, column.info)) for cell, column in zip(line.cells, table.columns, strict=True))]
        for line in table.lines
    ]  # fmt: skip
    doubted = any(cell.doubted for line in table.lines for cell in line.cells)
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_escaped(titled(table))}.}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(heading) - 1)}}}",
        r"    \toprule",
        f"    {' & '.join(heading)} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(row)} \\\\" for row in rows),
        r"    \bottomrule",
        *([rf"    \multicolumn{{{len(heading)}}}{{l}}{{\footnotesize * in doubt}} \\"] if doubted else []),
        r"  \end{tabular}",
        r"\end{table}",
        *(f"% {printable(note)}" for note in table.notes),
    ]
    return "\n".join(lines)


def _first(title: str) -> str:
    """Return what a row begins with, which the end of the row before must not take for its argument."""
    return ("{}" if title.startswith(("[", "*")) else "") + _escaped(title)


def _cell(texts: Texts) -> str:
    if texts.value == NOTHING:
        return "--"
    number = texts.value.lstrip("+-")[:1].isdigit() and " " not in texts.value
    value = texts.value if number else _escaped(texts.value)
    if texts.spread:
        value = rf"${value} \pm {texts.spread}$"
    elif number:
        value = f"${value}$"
    return value + _escaped(texts.marks)


def _escaped(text: str) -> str:
    r"""Return text from elsewhere so that LaTeX prints it as it is.

    >>> print(_escaped("a_b & 5 %"))
    a\_b \& 5 \%
    """
    return printable(text).translate(SPECIAL)
