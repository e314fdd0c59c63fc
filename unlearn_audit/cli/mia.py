"""`unlearn-audit mia NAME`: membership inference."""

from typing import Annotated, Any

import typer

from unlearn_audit.catalogue import ATTACKS, GENERATOR_ATTACKS, MODEL_ATTACKS
from unlearn_audit.cli.flags import Checkpoints, Shared
from unlearn_audit.cli.generated import Flags, add_verb
from unlearn_audit.cli.measure import measure


def _mia(
    attack: Annotated[
        str,
        typer.Argument(
            metavar="ATTACK",
            help=f"{', '.join(ATTACKS)}; threshold (the first four), all; {', '.join(MODEL_ATTACKS)}; or "
            f"module:callable; of generators {', '.join(GENERATOR_ATTACKS)}. "
            "Those that compare with shadow models want --shadows.",
        ),
    ],
    checkpoints: Checkpoints = None,
    *,
    shared: Shared,
    sections: dict[str, Any],
) -> None:
    """Can forget examples be told from their unseen twin, and better than on a retrained model?

    AUC 0.5 means that they are indistinguishable; the value to compare with is
    the retrained models'. Shadow models that were trained test the original; for
    an unlearned model the right attack is ulira, whose shadow models were
    unlearned in the same way. nn asks of no example: it holds a model's answers
    on a forgotten class against those of two or more retrained models. A
    generator has no class probabilities: loss, pia and secmi ask it to find
    noise again.

    [bold]Examples[/bold]

      unlearn-audit mia loss demo/unlearned.safetensors --forget demo/forget.npy

      unlearn-audit shadows run shadows/ u.pt --forget idx.npy --count 16

      unlearn-audit mia ulira u.pt r.pt --forget idx.npy --shadows shadows/

      unlearn-audit mia all o.pt u.pt --forget i.npy --shadows shadows/ --worst 20

      unlearn-audit mia nn u.pt r1.pt r2.pt r3.pt --forget class:3

      unlearn-audit mia pia original/ unlearned/ --forget random:0.1:0
    """
    measure(checkpoints, shared, mia=sections["mia"] | {"attacks": [attack]})


def register(app: typer.Typer) -> None:
    """Add the verb."""
    add_verb(app, "mia", _mia, panel="Attack", flags=[Flags("mia", without=("attacks",))])
