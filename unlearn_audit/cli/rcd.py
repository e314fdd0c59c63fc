"""`unlearn-audit rcd`: the relearning convergence delay."""

from typing import Annotated, Any

import typer

from unlearn_audit.cli.flags import Checkpoints, Shared, resolved
from unlearn_audit.cli.generated import Flags, add_verb
from unlearn_audit.cli.joint import Nproc, on_ranks
from unlearn_audit.cli.measure import measure
from unlearn_audit.cli.plans import tell_relearning
from unlearn_audit.errors import UsageError

ON_GENERATORS = {"optimizer": "adam", "steps": "40"}
FLAGS = Flags("rcd", only_on=("match_difficulty",), on_generators=ON_GENERATORS)


def _rcd(
    checkpoints: Checkpoints = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what it would take, here and on GPUs, without doing it.")
    ] = False,
    nproc: Nproc = None,
    *,
    shared: Shared,
    sections: dict[str, Any],
) -> None:
    r"""How slowly does each model relearn the forget set, and how slowly its unseen twin?

    Higher is not simply better: read it against retrained models and the
    controls. Of generators it is summed over the original's own curve, and read
    as a share of what the retrained models have: 0 as the original, 1 as they.

    [bold]Examples[/bold]

      unlearn-audit rcd demo/unlearned.safetensors --forget demo/forget.npy

      unlearn-audit rcd o.pt u.pt --forget idx.npy --optimizer adam --steps 500

      unlearn-audit rcd u.pt --forget idx.npy --step-size 1e-4,1e-5,1e-6

      unlearn-audit rcd u.pt --forget idx.npy --scope head --weight-decay 0.01

      unlearn-audit rcd u.pt --retrained r.pt --forget idx.npy --match-difficulty

      unlearn-audit rcd o.pt r.pt u.pt --forget idx.npy --nproc 8

      unlearn-audit rcd o.pt u.pt --forget idx.npy --precision bf16 --plan

      unlearn-audit rcd original/ retrained-1/ unlearned/ --forget class:3 \
        --draws 8 --gradient-draws 4
    """
    if plan:
        if shared.out is not None or shared.format != "table" or nproc is not None:
            raise UsageError("--plan is a table for people: leave out --out, --format and --nproc")
        tell_relearning(resolved(checkpoints or (), shared, **sections), quiet=shared.quiet)
        return
    measure(checkpoints, shared, ranks=on_ranks(nproc, quiet=shared.quiet), **sections)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    add_verb(app, "rcd", _rcd, panel="Relearning", flags=[FLAGS])
