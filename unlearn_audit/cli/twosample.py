"""`unlearn-audit twosample`: forget set against unseen twin, given retrained models."""

from typing import Any

import typer

from unlearn_audit.cli.flags import Checkpoints, Shared
from unlearn_audit.cli.generated import Flags, add_verb
from unlearn_audit.cli.measure import measure


def _twosample(checkpoints: Checkpoints = None, *, shared: Shared, sections: dict[str, Any]) -> None:
    r"""Is anything left that tells forget examples from their unseen twin, given retrained models?

    Fast methods may leave every average in place and still a trace: answers
    that lie closer together, say. Needs one retrained model, better three, 50
    forget examples or more, and no shadow models. A small p says that a trace
    is there: below .05 it is told, below .01 it is a reason to stop. The
    retrained models' own p are the control.

    [bold]Examples[/bold]

      unlearn-audit twosample u.safetensors r1.safetensors --forget idx.npy

      unlearn-audit twosample u.pt --forget class:3 \
        --retrained r1.pt --retrained r2.pt --retrained r3.pt
    """
    measure(checkpoints, shared, **sections)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    add_verb(app, "twosample", _twosample, panel="Test", flags=[Flags("twosample")])
