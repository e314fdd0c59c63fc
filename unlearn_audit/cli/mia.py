"""`unlearn-audit mia NAME`: membership inference."""

from typing import Annotated, Any

import typer

from unlearn_audit.cli.flags import Shared, measuring
from unlearn_audit.cli.measure import measure, number_or_word

PANEL = "Attack"


def _option(text: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=PANEL, metavar=metavar)


@measuring
def _mia(
    attack: Annotated[
        str,
        typer.Argument(
            metavar="ATTACK",
            help="loss, confidence, entropy, modified-entropy; shokri, lira, lira-offline, rmia, rmia-offline, ulira "
            "(these want --shadows); quantile; svc; population (the first four), all; or module:callable.",
        ),
    ],
    checkpoints: Annotated[
        list[str] | None, typer.Argument(metavar="[CKPT]...", help="Checkpoints; their metadata tells their role.")
    ] = None,
    shadows: Annotated[
        str | None, _option("Folder of shadow models, made by `unlearn-audit shadows run`.", metavar="DIR")
    ] = None,
    variance: Annotated[
        str | None, _option("Of lira: auto (default: pooled below 64 models), pooled or per_example.")
    ] = None,
    a: Annotated[str | None, _option("Of rmia-offline: fit (default), or a number from 0 to 1.", "--a")] = None,
    signal: Annotated[str | None, _option("Of rmia: softmax (default), or sm-taylor as in published tables.")] = None,
    temperature: Annotated[
        float | None, _option("Of rmia: logits are divided by it; default 1, published 2 for CIFAR-10.")
    ] = None,
    worst: Annotated[int | None, _option("Keep so many of the most exposed examples; default 10.", metavar="N")] = None,
    *,
    shared: Shared,
) -> None:
    """Can forget examples be told from their unseen twin, and better than on a retrained model?

    AUC .5 means that they cannot be told apart; the value to compare with is the
    retrained models'. Shadow models that were trained test the original; for an
    unlearned model the right attack is ulira, whose shadow models were unlearned
    in the same way.

    [bold]Examples[/bold]

      unlearn-audit mia loss demo/unlearned.safetensors --forget demo/forget.npy

      unlearn-audit shadows run shadows/ u.pt --forget idx.npy --count 16

      unlearn-audit mia ulira u.pt r.pt --forget idx.npy --shadows shadows/

      unlearn-audit mia all o.pt u.pt --forget i.npy --shadows shadows/ --worst 20
    """
    section = {
        "attacks": [attack],
        "shadows": shadows,
        "variance": variance,
        "a": number_or_word(a),
        "signal": signal,
        "temperature": temperature,
        "worst": worst,
    }
    measure(checkpoints, shared, mia=section)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("mia")(_mia)
