"""`unlearn-audit audit`: everything that a config asks for, one report."""

from pathlib import Path
from typing import Annotated

import typer

from unlearn_audit.cli.flags import Shared, config_layers, flag_values, measuring
from unlearn_audit.cli.measure import audit_and_emit

__all__ = ["register"]


@measuring
def _audit(
    path: Annotated[Path, typer.Argument(metavar="CONFIG", help="The config: unlearn-audit.toml.")],
    only: Annotated[str | None, typer.Option(help="Only these sections: rcd,mia.")] = None,
    *,
    shared: Shared,
) -> None:
    """Run every measurement that a config has a section for, and write one report.

    [bold]Example[/bold]

      unlearn-audit audit demo/unlearn-audit.toml --out report/
    """
    from unlearn_audit.config import resolve

    request = resolve(config_layers(flag_values((), shared, {}), path))
    audit_and_emit(request, shared, only=tuple(only.split(",")) if only else ())


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("audit")(_audit)
