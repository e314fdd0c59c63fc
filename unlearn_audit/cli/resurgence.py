"""`unlearn-audit resurgence`: does the forgotten come back without the data?"""

from typing import Any

import typer

from unlearn_audit.cli.flags import Checkpoints, Shared
from unlearn_audit.cli.generated import Flags, add_verb
from unlearn_audit.cli.measure import measure


def _resurgence(checkpoints: Checkpoints = None, *, shared: Shared, sections: dict[str, Any]) -> None:
    r"""Does the forgotten come back without the data, in copies that are rounded, pruned or fine-tuned?

    A release does that to a model. Retrained models go through the same: what
    comes back to a subject counts as far as it is more than what comes back to
    them.

    [bold]Examples[/bold]

      unlearn-audit resurgence u.safetensors r1.safetensors --forget idx.npy

      unlearn-audit resurgence u.pt --original o.pt --forget class:3 \
        --retrained r1.pt --retrained r2.pt --alterations int4,fine-tune
    """
    measure(checkpoints, shared, **sections)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    add_verb(app, "resurgence", _resurgence, panel="Resurgence", flags=[Flags("resurgence")])
