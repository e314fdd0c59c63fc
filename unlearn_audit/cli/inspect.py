"""`unlearn-audit inspect`: what is in this file?"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from unlearn_audit.cli.flags import Shared, resolved
from unlearn_audit.cli.streams import stdout_kept


def _inspect(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="A checkpoint of any format.")],
    model: Annotated[str | None, typer.Option(help="Model spec, as a measuring verb would take it.")] = None,
    data: Annotated[str | None, typer.Option(help="Data spec, as a measuring verb would take it.")] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="KEY", help="Which of several sets of weights in the file.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Pipeline whose U-Net the file's weights are put over.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration file; flags take precedence.")] = None,
    format: Annotated[Literal["table", "json"], typer.Option(help="Format of stdout.")] = "table",
) -> None:
    """Say what a checkpoint holds: format, digest, architecture, data, where each was said, broken values.

    Nothing in the file is executed.

    [bold]Example[/bold]

      unlearn-audit inspect demo/unlearned.safetensors
    """
    from unlearn_audit.inputs import inspect_checkpoint

    request = resolved([str(checkpoint)], Shared(model=model, data=data, weights=weights, base=base, config=config))
    with stdout_kept():
        found = inspect_checkpoint(checkpoint, request)
    if format == "json":
        sys.stdout.write(json.dumps(found, indent=1, allow_nan=False) + "\n")
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    """Print a two-column table."""
    from rich.table import Table
    from rich.text import Text

    from unlearn_audit.cli.console import draw
    from unlearn_audit.render.untrusted import brief

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in found.items():
        for index, line in enumerate(_lines(value)):
            table.add_row(Text(key if index == 0 else ""), Text(brief(line)))
    draw(table)


def _lines(value: object) -> list[str]:
    """Return a value's lines: of a list its items, of a dict of several kinds of values one for each key."""
    if isinstance(value, list):
        return [_plain(item) for item in value] or ["none"]
    if isinstance(value, dict) and not all(isinstance(item, int) for item in value.values()):
        return [f"{key}: {_plain(item)}" for key, item in value.items()] or ["none"]
    return [_plain(value)]


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {'none' if item is None else _plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    return "not said" if value is None else str(value)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("inspect")(_inspect)
