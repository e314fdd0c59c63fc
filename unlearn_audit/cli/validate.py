"""`unlearn-audit validate`: every problem of a config or a policy at once, without running it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unlearn_audit.cli.console import message
from unlearn_audit.errors import ConfigError

if TYPE_CHECKING:
    from unlearn_audit.strict_json import ConfigIssue


def _validate(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Configs and policies: TOML, or the name of a shipped policy."),
    ],
) -> None:
    """Check configs and policies without running them: every problem at once, with its line.

    Keys and values, methods' settings and transforms, names of models, data and
    metrics, and that the files they name are there. A file with rules is a policy.

    [bold]Examples[/bold]

      unlearn-audit validate demo/unlearn-audit.toml

      unlearn-audit validate unlearn-audit.toml policy.toml strict
    """
    problems: list[ConfigError] = []
    for path in paths:
        try:
            message(f"{path}: a valid {_check(path)}")
        except ConfigError as problem:
            problems.append(problem)
    for found in problems[:-1]:
        message(f"error: {found}")
    if problems:
        raise problems[-1]


def _check(path: Path) -> str:
    """Check one file and return what it is."""
    from unlearn_audit.config.toml_source import read_toml
    from unlearn_audit.gate import is_policy_name, read_policy

    if is_policy_name(path) or "rule" in read_toml(path, "config").values:
        read_policy(path)
        return "policy"
    from unlearn_audit.config import check_config

    check_config(path, also=_problems)
    return "config"


def _problems(values: Mapping[str, Any]) -> Iterator["ConfigIssue"]:
    """Yield what only methods, models and data sources can tell; torch is loaded where one of them is named."""
    entries = values.get("checkpoint")
    named = (
        any("model" in entry for entry in entries if isinstance(entry, dict)) if isinstance(entries, list) else False
    )
    mia = values.get("mia")
    named = named or (isinstance(mia, dict) and "attacks" in mia)
    if named or {"data", "model", "train", "apply"} & set(values):
        from unlearn_audit.audit.config_checks import problems_of

        yield from problems_of(values)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("validate")(_validate)
