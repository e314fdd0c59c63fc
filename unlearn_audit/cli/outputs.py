"""`unlearn-audit outputs`: answers and features beside retrained models', with the floor between these."""

from typing import Any

import typer

from unlearn_audit.cli.flags import Checkpoints, Shared
from unlearn_audit.cli.generated import Flags, add_verb
from unlearn_audit.cli.measure import measure


def _outputs(checkpoints: Checkpoints = None, *, shared: Shared, sections: dict[str, Any]) -> None:
    r"""How far are a model's answers from retrained models', and how far are these from each other?

    Divergences on the forget set (JS, KL, total variation, L2, agreement), each
    beside its floor: what retrained models have of one another. Two of them
    give a floor, three its spread, and a difference that can be called one.
    Beside them ZRF, ToW, retention, relative cost, and the alignment of
    features (CKA).

    [bold]Examples[/bold]

      unlearn-audit outputs u.safetensors r1.safetensors r2.safetensors \
        r3.safetensors --forget idx.npy

      unlearn-audit outputs u.pt --forget class:3 --probe \
        --retrained r1.pt --retrained r2.pt --retrained r3.pt
    """
    measure(checkpoints, shared, **sections)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    add_verb(app, "outputs", _outputs, panel="Outputs", flags=[Flags("outputs")])
