"""`unlearn-audit spectrum`: the curvature of the loss on the forget set, or the singular values of each layer."""

from dataclasses import replace
from typing import Annotated, Any

import typer

from unlearn_audit.catalogue import STAND_IN
from unlearn_audit.cli.console import message
from unlearn_audit.cli.flags import Checkpoints, Shared, resolved
from unlearn_audit.cli.generated import Flags, add_verb
from unlearn_audit.cli.joint import Nproc, on_ranks
from unlearn_audit.cli.measure import audit_and_emit, measure
from unlearn_audit.errors import UsageError

STANDS_IN = "range:0-0"  # for a forget set, which layers do not depend on


def _spectrum(
    checkpoints: Checkpoints = None,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="Each layer's largest singular values instead; needs no forget set."),
    ] = False,
    nproc: Nproc = None,
    *,
    shared: Shared,
    sections: dict[str, Any],
) -> None:
    """How sharply does the loss on the forget set bend around each model?

    A condition number exists for the classifier alone, with weight decay; a deep network has eigenvalues near and
    below zero. Weights before BatchNorm change lambda_max by their scale alone: compare the relative one.

    [bold]Examples[/bold]

      unlearn-audit spectrum demo/original.safetensors --forget demo/forget.npy

      unlearn-audit spectrum o.pt --forget i.npy --scope head --weight-decay 0.01

      unlearn-audit spectrum --layers demo/original.safetensors --k 3
    """
    if layers and nproc is not None:
        raise UsageError("--nproc is of the curvature: layers take no pass over data")
    unheard = sections["spectrum"] if layers else sections["layers"]
    for name, value in unheard.items():
        if value is not None:
            other = "of the curvature: leave --layers out" if layers else "of the layers: add --layers"
            raise UsageError(f"--{name.replace('_', '-')} is {other}")
    if not layers:
        measure(checkpoints, shared, ranks=on_ranks(nproc, quiet=shared.quiet), spectrum=sections["spectrum"])
        return
    request = resolved(checkpoints or (), shared, layers=sections["layers"])
    if not request.config.forget:
        message("layers depend on no forget set: training example 0 stands in the report for one", quiet=shared.quiet)
        request = resolved(checkpoints or (), replace(shared, forget=STANDS_IN), layers=sections["layers"])
        request = request._replace(origins={**request.origins, "forget": STAND_IN})
    audit_and_emit(request, shared, only=("layers",))


def register(app: typer.Typer) -> None:
    """Add the verb."""
    add_verb(app, "spectrum", _spectrum, panel="Curvature", flags=[Flags("spectrum"), Flags("layers")])
