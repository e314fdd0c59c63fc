"""`unlearn-audit spectrum`: the curvature of the loss on the forget set."""

from typing import Any

import typer

from unlearn_audit.cli.flags import Checkpoints, Shared
from unlearn_audit.cli.generated import Flags, add_verb
from unlearn_audit.cli.measure import measure


def _spectrum(checkpoints: Checkpoints = None, *, shared: Shared, sections: dict[str, Any]) -> None:
    """How sharply does the loss on the forget set bend around each model?

    A condition number exists for the classifier alone, with weight decay; a deep network has eigenvalues near and
    below zero. Weights before BatchNorm change lambda_max by their scale alone: compare the relative one.

    [bold]Examples[/bold]

      unlearn-audit spectrum demo/original.safetensors --forget demo/forget.npy

      unlearn-audit spectrum o.pt --forget i.npy --scope head --weight-decay 0.01
    """
    measure(checkpoints, shared, **sections)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    add_verb(app, "spectrum", _spectrum, panel="Curvature", flags=[Flags("spectrum")])
