"""`unlearn-audit validate`: every problem of a config or a policy at once, without running it."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unlearn_audit.cli.console import message
from unlearn_audit.errors import ConfigError

if TYPE_CHECKING:
    from unlearn_audit.strict_json import ConfigIssue

PASSED_OVER = "as far as can be told without torch: settings of methods, models, data and recipes were not looked at"


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

    if is_policy_name(path):
        read_policy(path)
        return "policy"
    values = read_toml(path, "config").values
    if "rule" in values:
        read_policy(path)
        return "policy"
    from unlearn_audit.config import check_config

    if find_spec("torch") is None:
        check_config(path)
        return f"config, {PASSED_OVER}" if _names_more(values) else "config"
    check_config(path, also=_problems)
    return "config"


def _problems(values: Mapping[str, Any]) -> Iterator["ConfigIssue"]:
    """Yield what only methods, models and data sources can tell; torch is loaded where one of them is named."""
    if _names_more(values):
        from unlearn_audit.audit.config_checks import problems_of

        yield from problems_of(values)


def _names_more(values: Mapping[str, Any]) -> bool:
    """Say whether a config names what loads torch when it is looked at."""
    entries, mia = values.get("checkpoint"), values.get("mia")
    tables = entries if isinstance(entries, list) else []
    models = any(isinstance(entry, dict) and "model" in entry for entry in tables)
    attacks = isinstance(mia, dict) and "attacks" in mia
    return models or attacks or bool({"data", "model", "train", "apply"} & set(values))


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("validate")(_validate)
