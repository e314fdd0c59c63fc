"""`unlearn-audit fidelity`: a generator's samples before a judge, forgotten and kept ones together."""

from typing import Any

import typer

from unlearn_audit.cli.flags import Checkpoints, Shared
from unlearn_audit.cli.generated import Flags, add_verb
from unlearn_audit.cli.measure import measure


def _fidelity(checkpoints: Checkpoints = None, *, shared: Shared, sections: dict[str, Any]) -> None:
    r"""Is the forgotten gone from a generator's samples, and is the rest as it was?

    Every model draws the same samples from the same noise. A judge says in how
    many of those under the forgotten condition it finds what was to be
    forgotten, and how many of kept classes are of their class: neither is read
    alone, since a wrecked model draws nothing forgotten, either. KID and FID
    are the distance from real images. The judge is first tried on real
    held-out images; below .9 it is not believed.

    That something is not drawn does not say that it is gone: see rcd.

    [bold]Examples[/bold]

      unlearn-audit fidelity original/ retrained-1/ unlearned/ \
        --forget class:3 --judge judge.safetensors

      unlearn-audit fidelity original/ unlearned/ --forget class:3 \
        --samples 200 --kept-samples 100 --out samples/

      unlearn-audit fidelity o/ u/ --forget class:3 --judge my.module:callable

      unlearn-audit fidelity sd14/ sd14-esd/ --prompts i2p.csv --judge nudenet
    """
    measure(checkpoints, shared, **sections)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    add_verb(app, "fidelity", _fidelity, panel="Samples", flags=[Flags("generation")])
