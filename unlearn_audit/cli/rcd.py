"""`unlearn-audit rcd`: the relearning convergence delay."""

from typing import Annotated, Any

import typer

from unlearn_audit.cli.flags import Shared, measuring
from unlearn_audit.cli.measure import count_or_word, measure, number_or_word, numbers

PANEL = "Relearning"


def _option(text: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=PANEL, metavar=metavar)


@measuring
def _rcd(
    checkpoints: Annotated[
        list[str] | None, typer.Argument(metavar="[CKPT]...", help="Checkpoints; their metadata tells their role.")
    ] = None,
    optimizer: Annotated[str | None, _option("gd (default), sgd or adam.")] = None,
    momentum: Annotated[float | None, _option("Of sgd; default 0.9.")] = None,
    weight_decay: Annotated[float | None, _option("Phi = loss + this / 2 x |w|^2; default 0.")] = None,
    minibatch: Annotated[int | None, _option("Examples of a gradient step; default: the whole set.")] = None,
    bn: Annotated[str | None, _option("frozen (default), or train where the whole set is one chunk.")] = None,
    augment: Annotated[
        bool | None, _option("Take gradients on random crops and flips.", "--augment/--no-augment")
    ] = None,
    scope: Annotated[
        str | None,
        _option("all (default), head (classifier on fixed features, float64), or names: 'fc.*'.", metavar="SCOPE"),
    ] = None,
    relearn: Annotated[
        float | None, _option("Relearn this part of the set and measure on the rest.", metavar="FRACTION")
    ] = None,
    steps: Annotated[
        str | None, _option("K; default 100; auto: until truncation cuts off less than --tolerance.", metavar="N|auto")
    ] = None,
    tolerance: Annotated[float | None, _option("Of --steps auto; default 0.01 of the sum.")] = None,
    max_steps: Annotated[int | None, _option("Of --steps auto; default 10000.")] = None,
    step_size: Annotated[
        str | None,
        _option(
            "auto (default, from curvature, safe for all), a number, several (1e-4,1e-5), or lambda: 1/lambda_max "
            "along the way.",
            metavar="STEP",
        ),
    ] = None,
    floor: Annotated[
        str | None, _option("zero (default), fit (minimise), best (lowest reached), or a number.", metavar="FLOOR")
    ] = None,
    accuracies: Annotated[
        str | None, _option("Whose first steps are told; default 0.5,0.9,0.99.", metavar="LIST")
    ] = None,
    match_difficulty: Annotated[
        bool | None,
        _option("Twin as hard as the forget set under retrained models.", "--match-difficulty"),
    ] = None,
    controls: Annotated[bool | None, _option("Random initialisation too.", "--controls/--no-controls")] = None,
    *,
    shared: Shared,
) -> None:
    """How slowly does each model relearn the forget set, and how slowly its unseen twin?

    Higher is not simply better: read it against retrained models and the controls.

    [bold]Examples[/bold]

      unlearn-audit rcd demo/unlearned.safetensors --forget demo/forget.npy

      unlearn-audit rcd o.pt u.pt --forget idx.npy --optimizer adam --steps 500

      unlearn-audit rcd u.pt --forget idx.npy --step-size 1e-4,1e-5,1e-6

      unlearn-audit rcd u.pt --forget idx.npy --scope head --weight-decay 0.01

      unlearn-audit rcd u.pt --retrained r.pt --forget idx.npy --match-difficulty
    """
    section = {
        "optimizer": optimizer,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "minibatch": minibatch,
        "bn": bn,
        "augment": augment,
        "scope": scope,
        "relearn": relearn,
        "steps": count_or_word(steps),
        "tolerance": tolerance,
        "max_steps": max_steps,
        "step_size": numbers(step_size) if step_size and "," in step_size else number_or_word(step_size),
        "floor": number_or_word(floor),
        "accuracies": numbers(accuracies),
        "match_difficulty": match_difficulty,
        "controls": controls,
    }
    measure(checkpoints, shared, rcd=section)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("rcd")(_rcd)
