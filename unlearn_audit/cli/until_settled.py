"""`unlearn-audit shadows run --until-settled`: grow a fleet until its verdict is settled."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from unlearn_audit.cli.console import message, progress_bars
from unlearn_audit.cli.flags import Shared, resolved

if TYPE_CHECKING:
    from unlearn_audit.audit.settling import Look, Settling
    from unlearn_audit.shadows import FleetContext

DEFAULT_MOST = 32


def run_until_settled(
    folder: Path,
    checkpoints: list[str] | None,
    shared: Shared,
    *,
    most: int | None,
    margin: float,
    plan: Callable[[int], "FleetContext"],
    make: Callable[["FleetContext"], int],
) -> None:
    """Grow a fleet look by look, say what each shows, and exit 0 where it is settled, 4 where it stays open.

    Args:
        folder: of the fleet.
        checkpoints: the positional ones.
        shared: the shared flags.
        most: shadow models at most; 32 where None.
        margin: of the difference of AUCs.
        plan: writes the plan for so many models, or takes a larger one that is there.
        make: makes what is planned and not there; returns an exit code.

    Raises:
        UsageError: the fleet may not grow to the first look, or a model is missing.
    """
    from unlearn_audit.audit.settling import FEWEST, Settling, look_sizes
    from unlearn_audit.errors import UsageError

    sizes = look_sizes(DEFAULT_MOST if most is None else most)
    if not sizes:
        raise UsageError(f"--until-settled looks with {FEWEST} shadow models first; --count {most} does not allow it")
    with progress_bars(quiet=shared.quiet) as progress:
        settling = Settling(resolved(checkpoints or (), shared), progress)
    for said in settling.said:
        message(said, quiet=shared.quiet)
    looks: list[Look] = []
    for number, models in enumerate(sizes, 1):
        code = make(plan(models))
        if code:
            raise typer.Exit(code)
        looks.append(settling.look(folder, number, models))
        if looks[-1].verdict(margin) != "open":
            break
        message(f"{looks[-1].told}: open", quiet=shared.quiet)
    _tell(settling, looks, margin, shared)


def _tell(settling: "Settling", looks: "list[Look]", margin: float, shared: Shared) -> None:
    """Write what was seen to stdout, and exit."""
    last = looks[-1]
    verdict, sentence = last.verdict(margin), settling.conclusion(last, margin)
    if shared.format == "json":
        found = {
            "subject": settling.target.label,
            "retrained": [one.label for one in settling.retrained],
            "margin": margin,
            "verdict": verdict,
            "conclusion": sentence,
            "looks": [look.as_json for look in looks],
        }
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        sys.stdout.write("".join(f"{look.told}\n" for look in looks) + f"{sentence}.\n")
    sys.stdout.flush()
    raise typer.Exit(4 if verdict == "open" else 0)
