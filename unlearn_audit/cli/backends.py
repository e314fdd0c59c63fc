"""Flags that say who does independent work: processes of this machine, or a Ray cluster."""

from typing import Annotated, Literal

import typer

from unlearn_audit.cli.flags import RUN
from unlearn_audit.errors import UsageError

Backend = Annotated[
    Literal["local", "ray"],
    typer.Option("--backend", help="This machine, or a Ray cluster (extra `ray`).", rich_help_panel=RUN),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Of the Ray cluster: HOST:PORT, or auto; default: RAY_ADDRESS, else one on this machine.",
        rich_help_panel=RUN,
    ),
]


def check_address(address: str | None, backend: str) -> None:
    """Refuse an address that nobody would listen to.

    Raises:
        UsageError: the work is not done on Ray.
    """
    if address is not None and backend != "ray":
        raise UsageError("--address is of a Ray cluster: add --backend ray")
