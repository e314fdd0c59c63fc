"""`unlearn-audit validate`: every problem of a config at once, without running it."""

from pathlib import Path
from typing import Annotated

import typer

from unlearn_audit.cli.console import message
from unlearn_audit.errors import ConfigError

__all__ = ["register"]


def _validate(
    paths: Annotated[list[Path], typer.Argument(metavar="CONFIG...", help="unlearn-audit.toml, or several.")],
) -> None:
    """Check configs without running them: keys, values, and that the files they name are there.

    [bold]Example[/bold]

      unlearn-audit validate demo/unlearn-audit.toml
    """
    from unlearn_audit.config import check_config

    problems: list[ConfigError] = []
    for path in paths:
        try:
            check_config(path)
            message(f"{path}: valid")
        except ConfigError as problem:
            problems.append(problem)
    for found in problems[:-1]:
        message(f"error: {found}")
    if problems:
        raise problems[-1]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("validate")(_validate)
