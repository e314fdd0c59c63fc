"""`unlearn-audit truncation`: is the truncation error of RCD_K exponential in K?"""

from pathlib import Path
from typing import Annotated

import typer

from unlearn_audit.cli.console import message
from unlearn_audit.cli.flags import Shared, measuring, resolved
from unlearn_audit.cli.measure import audit_and_emit, number_or_word

PANEL = "Relearning"


@measuring
def _truncation(
    checkpoints: Annotated[
        list[str] | None, typer.Argument(metavar="[CKPT]...", help="Checkpoints; their metadata tells their role.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="K, whose truncation error is wanted; default 100.", rich_help_panel=PANEL)
    ] = None,
    reference_steps: Annotated[
        int | None, typer.Option(help="Length of the trajectory; default 10 x K.", rich_help_panel=PANEL)
    ] = None,
    step_size: Annotated[
        str | None,
        typer.Option(help="A number, auto (default): safe for all, or lambda: 1/lambda_max.", rich_help_panel=PANEL),
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Of the objective that is relearned; default 0.", rich_help_panel=PANEL)
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(help="all (default), head: the classifier alone, or names, e.g. 'fc*'.", rich_help_panel=PANEL),
    ] = None,
    floor: Annotated[
        str | None,
        typer.Option(help="fit (default): each model's minimum; zero, best, or a number.", rich_help_panel=PANEL),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the excess against K.", metavar="FILE.svg", rich_help_panel=PANEL)
    ] = None,
    *,
    shared: Shared,
) -> None:
    """Is the truncation error of RCD_K really exponential in K, and how large is it at this K?

    One long trajectory per model answers: exponential, slower than exponential, not converged, or diverged.

    [bold]Examples[/bold]

      unlearn-audit truncation demo/original.safetensors --forget demo/forget.npy

      unlearn-audit truncation u.pt --forget i.npy --scope head --weight-decay .1
    """
    from unlearn_audit.files import check_output

    if plot is not None:
        check_output(_svg(plot), force=shared.force)
    rcd = {
        "steps": steps,
        "step_size": number_or_word(step_size),
        "weight_decay": weight_decay,
        "scope": scope,
    }
    own = {"reference_steps": reference_steps, "floor": number_or_word(floor)}
    request = resolved(checkpoints or (), shared, rcd=rcd, truncation=own)
    audit_and_emit(request, shared, only=("truncation",), also=lambda report: _draw(report, plot, shared))


PICTURES = (".png", ".pdf", ".jpg", ".jpeg", ".eps", ".gif", ".webp", ".html")


def _svg(plot: Path) -> Path:
    from unlearn_audit.errors import OutputError

    if plot.suffix.lower() != ".svg":
        stem = plot.stem if plot.suffix.lower() in PICTURES else plot.name  # run-0.05 has no ending
        raise OutputError(f"--plot writes SVG; name it {plot.with_name(f'{stem}.svg')}")
    return plot


def _draw(report: object, plot: Path | None, shared: Shared) -> None:
    """Write the picture where it was asked for."""
    if plot is None:
        return
    from unlearn_audit.files import atomic_write
    from unlearn_audit.render import semilog
    from unlearn_audit.report import AuditReport

    if isinstance(report, AuditReport):
        atomic_write(plot, semilog.svg(semilog.series_of(report)).encode())
        message(f"wrote {plot}", quiet=shared.quiet)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("truncation")(_truncation)
