"""`unlearn-audit show`: look at a report again."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from unlearn_audit.cli.console import draw

__all__ = ["register"]


def _show(
    report: Annotated[Path, typer.Argument(help="report.json of an audit.")],
    format: Annotated[Literal["table", "markdown"], typer.Option(help="What stdout gets.")] = "table",
) -> None:
    """Show a report; needs no torch.

    [bold]Example[/bold]

      unlearn-audit show demo/report.json
    """
    from unlearn_audit.render import markdown, terminal
    from unlearn_audit.report import read_report

    found = read_report(report)
    if format == "markdown":
        sys.stdout.write(markdown.render(found))
    else:
        draw(terminal.render(found))


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("show")(_show)
