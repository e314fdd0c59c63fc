"""`unlearn-audit spectrum`: the curvature of the loss on the forget set."""

from typing import Annotated

import typer

from unlearn_audit.cli.flags import Shared, measuring
from unlearn_audit.cli.measure import measure

PANEL = "Curvature"


@measuring
def _spectrum(
    checkpoints: Annotated[
        list[str] | None, typer.Argument(metavar="[CKPT]...", help="Checkpoints; their metadata tells their role.")
    ] = None,
    eigenvalues: Annotated[
        int | None, typer.Option(help="How many of the largest; default 10.", rich_help_panel=PANEL)
    ] = None,
    probes: Annotated[
        int | None, typer.Option(help="Random vectors behind the trace; default 30.", rich_help_panel=PANEL)
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Residual over the largest eigenvalue; default 0.001.", rich_help_panel=PANEL),
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(help="all (default), head, or parameter names with * and ?.", rich_help_panel=PANEL),
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Of the objective; default 0.", rich_help_panel=PANEL)
    ] = None,
    controls: Annotated[
        bool | None, typer.Option("--controls/--no-controls", help="Random initialisation too.", rich_help_panel=PANEL)
    ] = None,
    *,
    shared: Shared,
) -> None:
    """How sharply does the loss on the forget set bend around each model?

    A condition number exists for the classifier alone, with weight decay; a deep network has eigenvalues near and
    below zero. Weights before BatchNorm change lambda_max by their scale alone: compare the relative one.

    [bold]Examples[/bold]

      unlearn-audit spectrum demo/original.safetensors --forget demo/forget.npy

      unlearn-audit spectrum o.pt --forget i.npy --scope head --weight-decay 0.01
    """
    section = {
        "eigenvalues": eigenvalues,
        "probes": probes,
        "tolerance": tolerance,
        "scope": scope,
        "weight_decay": weight_decay,
        "controls": controls,
    }
    measure(checkpoints, shared, spectrum=section)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("spectrum")(_spectrum)
