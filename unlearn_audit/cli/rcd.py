"""`unlearn-audit rcd`: the relearning convergence delay."""

from typing import Annotated

import typer

from unlearn_audit.cli.flags import Shared, measuring
from unlearn_audit.cli.measure import measure, number_or_word

__all__ = ["register"]

PANEL = "Relearning"


@measuring
def _rcd(
    checkpoints: Annotated[
        list[str] | None, typer.Argument(metavar="[CKPT]...", help="Checkpoints; their metadata tells their role.")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="gd (default) or adam.", rich_help_panel=PANEL)] = None,
    steps: Annotated[int | None, typer.Option(help="K; default 100.", rich_help_panel=PANEL)] = None,
    step_size: Annotated[
        str | None, typer.Option(help="A number, or auto (default): safe for all, from curvature.", rich_help_panel=PANEL)
    ] = None,
    floor: Annotated[str | None, typer.Option(help="zero (default), best, or a number.", rich_help_panel=PANEL)] = None,
    controls: Annotated[
        bool | None, typer.Option("--controls/--no-controls", help="Random initialisation too.", rich_help_panel=PANEL)
    ] = None,
    *,
    shared: Shared,
) -> None:
    """How slowly does each model relearn the forget set, and how slowly its unseen twin?

    Higher is not simply better: read it against retrained models and the controls.

    [bold]Examples[/bold]

      unlearn-audit rcd demo/unlearned.safetensors --forget demo/forget.npy

      unlearn-audit rcd o.safetensors r.safetensors u.safetensors --forget idx.npy --optimizer adam --steps 500
    """
    section = {
        "optimizer": optimizer,
        "steps": steps,
        "step_size": number_or_word(step_size),
        "floor": number_or_word(floor),
        "controls": controls,
    }
    measure(checkpoints, shared, rcd=section)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("rcd")(_rcd)
