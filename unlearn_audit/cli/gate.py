"""`unlearn-audit gate`: an exit code for a release pipeline."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from unlearn_audit.cli.console import draw, message
from unlearn_audit.cli.flags import Quiet

__all__ = ["register"]


def _gate(
    report: Annotated[Path, typer.Argument(help="report.json of an audit.")],
    policy: Annotated[Path, typer.Option(help="Policy in TOML.")],
    subject: Annotated[str | None, typer.Option(help="Label to gate in the place of the role unlearned.")] = None,
    format: Annotated[Literal["table", "json"], typer.Option(help="What stdout gets.")] = "table",
    quiet: Quiet = False,
) -> None:
    """Hold a report against a policy: exit 0 passed, 1 failed, 4 inconclusive, 2 or 3 when it cannot be judged.

    Needs no torch and no GPU. A missing, null or too small measurement never passes.

    [bold]Example[/bold]

      unlearn-audit gate report/report.json --policy policy.toml
    """
    from unlearn_audit.gate import apply_policy, exit_code, read_policy
    from unlearn_audit.render import decisions
    from unlearn_audit.report import read_report

    rules = read_policy(policy)
    found = apply_policy(rules, read_report(report), subject=subject)
    code = exit_code(found)
    if format == "json":
        sys.stdout.write(json.dumps(decisions.as_values(found, code), indent=1, allow_nan=False) + "\n")
    else:
        draw(decisions.render(found))
    verdict = {0: "passed", 1: "failed", 4: "inconclusive"}[code]
    message(f"{verdict}: {report} against {policy}", quiet=quiet)
    raise typer.Exit(code)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("gate")(_gate)
