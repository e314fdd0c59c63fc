"""`unlearn-audit truncation`: is the truncation error of RCD_K exponential in K?"""

from pathlib import Path
from typing import Annotated, Any

import typer

from unlearn_audit.cli.console import message
from unlearn_audit.cli.flags import Checkpoints, Shared, resolved
from unlearn_audit.cli.generated import Flags, add_verb
from unlearn_audit.cli.measure import audit_and_emit

PANEL = "Relearning"


def _truncation(
    checkpoints: Checkpoints = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the excess against K.", metavar="FILE.svg", rich_help_panel=PANEL)
    ] = None,
    *,
    shared: Shared,
    sections: dict[str, Any],
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
    request = resolved(checkpoints or (), shared, **sections)
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


RELEARNING = Flags(  # how to relearn is said in the section `rcd`, in a config and here
    "rcd",
    ("steps", "step_size", "weight_decay", "scope", "draws"),
    texts={
        "steps": "K, whose truncation error is wanted",
        "step_size": "A number, auto: safe for all, or lambda: 1/lambda_max",
        "weight_decay": "Of the objective that is relearned",
        "draws": "Of a generator: fixed, so that every step descends one objective",
    },
)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    add_verb(
        app, "truncation", _truncation, panel=PANEL, flags=[RELEARNING, Flags("truncation", without=("step_size",))]
    )
