"""`unlearn-audit mia NAME`: membership inference."""

from typing import Annotated

import typer

from unlearn_audit.cli.flags import Shared, measuring
from unlearn_audit.cli.measure import measure

__all__ = ["register"]


@measuring
def _mia(
    attack: Annotated[str, typer.Argument(metavar="ATTACK", help="Name of the attack: loss.")],
    checkpoints: Annotated[
        list[str] | None, typer.Argument(metavar="[CKPT]...", help="Checkpoints; their metadata tells their role.")
    ] = None,
    *,
    shared: Shared,
) -> None:
    """Can forget examples be told from their unseen twin, and better than on a retrained model?

    AUC .5 means that they cannot be told apart; the value to compare with is the retrained models'.

    [bold]Example[/bold]

      unlearn-audit mia loss demo/unlearned.safetensors demo/retrained-1.safetensors --forget demo/forget.npy
    """
    measure(checkpoints, shared, mia={"attacks": [attack]})


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("mia")(_mia)
