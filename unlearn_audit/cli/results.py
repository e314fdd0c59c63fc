"""`unlearn-audit results`: methods in one table, over seeds, draws and reports, as papers and spreadsheets take it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from unlearn_audit.cli.console import draw, message
from unlearn_audit.cli.flags import Force, Quiet
from unlearn_audit.errors import UsageError

if TYPE_CHECKING:
    from unlearn_audit.results import Named, ResultTable

Format = Literal["table", "csv", "latex", "markdown", "json"]
REPORT = "report.json"


def _results(
    reports: Annotated[
        list[Path], typer.Argument(metavar="REPORT...", help="Reports of audits, or the folders that they are in.")
    ],
    by: Annotated[
        Literal["method", "label", "role"],
        typer.Option(help="What the models of a line share; methods with other settings have a line each."),
    ] = "method",
    metrics: Annotated[
        list[str] | None,
        typer.Option(help="Metrics, * for anything, commas between: accuracy.*,mia.*.auc; cost.gradients."),
    ] = None,
    format: Annotated[Format, typer.Option(help="Format of stdout, or of the file.")] = "table",
    out: Annotated[Path | None, typer.Option(help="Write a file instead of stdout.", metavar="FILE")] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    r"""Put the models of one or more reports into one table: methods down, mean and spread over seeds and draws across.

    Retrained models come first, with their own spread. Reports on other data,
    forget sets or networks get tables of their own, and a metric that was
    measured otherwise is named and left out. Needs no torch and no network.

    [bold]Examples[/bold]

      unlearn-audit results demo/report.json

      unlearn-audit results study/ another-study/ --metrics 'accuracy.*' \
        --format latex --out table.tex

      unlearn-audit results study/report.json --by label --format csv
    """
    from unlearn_audit.results import tables_of

    if out is not None:
        from unlearn_audit.files import check_output

        check_output(out, force=force)
    if out is not None and format == "table":
        raise UsageError("--out takes --format csv, latex, markdown or json")
    named = [name.strip() for text in metrics or () for name in text.split(",") if name.strip()]
    tables, apart = tables_of(_read(reports), by=by, metrics=named)
    if format == "table":
        from unlearn_audit.render.results import terminal

        draw(terminal.render(tables, apart))
        return
    text = _text(format, tables, apart)
    if out is None:
        sys.stdout.write(text)
        return
    from unlearn_audit.files import atomic_write

    atomic_write(out, text.encode())
    message(f"wrote {out}", quiet=quiet)


def _text(format: Format, tables: "Sequence[ResultTable]", apart: Sequence[str]) -> str:
    from unlearn_audit.render.results import csv_text, json_text, latex, markdown

    formats = {"csv": csv_text, "latex": latex, "markdown": markdown, "json": json_text}
    text: str = formats[format].render(tables, apart)
    return text


def _read(paths: Sequence[Path]) -> "list[Named]":
    """Return the reports under the shortest names that tell them apart."""
    from unlearn_audit.report import read_report
    from unlearn_audit.results import Named

    files = [path / REPORT if path.is_dir() else path for path in paths]
    seen: dict[Path, Path] = {}
    for file in files:
        if file.resolve() in seen:
            raise UsageError(f"{file} is named twice; its models would be counted twice")
        seen[file.resolve()] = file
    return [Named(name, read_report(file)) for name, file in zip(_names(files), files, strict=True)]


def _names(files: Sequence[Path]) -> list[str]:
    """Return each file's name with as many of its folders as it takes.

    >>> _names([Path("a/report.json"), Path("b/report.json")]), _names([Path("x/r.json")])
    (['a/report.json', 'b/report.json'], ['r.json'])
    """
    parts = [file.absolute().parts[1:] for file in files]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [str(file) for file in files]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("results")(_results)
