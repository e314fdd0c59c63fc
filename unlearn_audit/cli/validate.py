"""`unlearn-audit validate`: every problem of a config at once, without running it."""

from pathlib import Path
from typing import Annotated

import typer

from unlearn_audit.cli.console import message

__all__ = ["register"]


def _validate(path: Annotated[Path, typer.Argument(metavar="CONFIG", help="unlearn-audit.toml.")]) -> None:
    """Check a config without running it: keys, values, and that the files it names are there.

    [bold]Example[/bold]

      unlearn-audit validate demo/unlearn-audit.toml
    """
    from unlearn_audit.config import check_config

    check_config(path)
    message(f"{path}: valid")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("validate")(_validate)
