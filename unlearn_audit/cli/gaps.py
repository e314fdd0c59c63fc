"""`unlearn-audit gaps`: accuracy on every split and the gaps to retrained models."""

from typing import Annotated

import typer

from unlearn_audit.cli.flags import Shared, measuring
from unlearn_audit.cli.measure import measure

__all__ = ["register"]


@measuring
def _gaps(
    checkpoints: Annotated[
        list[str] | None, typer.Argument(metavar="[CKPT]...", help="Checkpoints; their metadata tells their role.")
    ] = None,
    *,
    shared: Shared,
) -> None:
    """How far is each model's accuracy from that of models retrained without the forget set?

    Gaps are signed: unlearned minus the mean of the retrained ones.

    [bold]Example[/bold]

      unlearn-audit gaps --original o.safetensors --retrained r1.safetensors --retrained r2.safetensors
      --unlearned u.safetensors --forget idx.npy
    """
    measure(checkpoints, shared, gaps={})


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("gaps")(_gaps)
