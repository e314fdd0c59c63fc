"""`unlearn-audit gaps`: accuracy on every split and the gaps to retrained models."""

from typing import Annotated

import typer

from unlearn_audit.cli.flags import Shared, measuring
from unlearn_audit.cli.measure import measure


@measuring
def _gaps(
    checkpoints: Annotated[
        list[str] | None, typer.Argument(metavar="[CKPT]...", help="Checkpoints; their metadata tells their role.")
    ] = None,
    *,
    shared: Shared,
) -> None:
    r"""How far is each model's accuracy from that of models retrained without the forget set?

    Gaps are signed: unlearned minus the mean of the retrained ones. With
    --adjacent, what is retained and close to the forget set is looked at apart
    from the rest; neighbours are the nearest in the original's features.

    [bold]Examples[/bold]

      unlearn-audit gaps demo/unlearned.safetensors demo/retrained-1.safetensors \
      demo/retrained-2.safetensors --forget demo/forget.npy

      unlearn-audit gaps --unlearned u.pt --retrained r.pt --forget class:3

      unlearn-audit gaps original.pt u.safetensors --forget class:3 \
        --adjacent class:5
    """
    measure(checkpoints, shared, gaps={})


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("gaps")(_gaps)
