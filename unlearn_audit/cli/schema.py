"""`unlearn-audit schema`: the JSON Schema of what this tool writes and reads."""

import json
import sys
from typing import Annotated, Literal

import typer


def _schema(
    what: Annotated[Literal["report", "config", "policy"], typer.Argument(help="Document to describe.")] = "report",
) -> None:
    """Print the JSON Schema of a report, a config or a policy.

    [bold]Example[/bold]

      unlearn-audit schema policy
    """
    from unlearn_audit.config import WrittenConfig
    from unlearn_audit.gate import Policy
    from unlearn_audit.report import report_schema

    schemas = {
        "report": report_schema,
        "config": WrittenConfig.model_json_schema,
        "policy": Policy.model_json_schema,
    }
    sys.stdout.write(json.dumps(schemas[what](), indent=1) + "\n")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("schema")(_schema)
