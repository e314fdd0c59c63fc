"""The command line: one file per verb. Only this room prints and exits."""

import os
import sys
import traceback
from typing import Annotated

import typer

from unlearn_audit import __version__
from unlearn_audit.cli import apply, audit, demo, gaps, gate, inspect, mia, rcd, schema, show, train, validate
from unlearn_audit.errors import AuditError, ConfigError

__all__ = ["app", "main"]

app = typer.Typer(
    name="unlearn-audit",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 passed, 1 the policy failed, 2 usage or configuration, 3 could not measure or read, "
    "4 inconclusive, 130 interrupted.",
)


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"unlearn-audit {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Is the data gone from this model, is the model still good, how sure are we?

    Start with [bold]unlearn-audit demo[/bold]: embedded data, everything end to end, a minute on two CPU cores.
    """


for verb in (demo, rcd, gaps, mia, train, audit, gate, show, inspect, validate, schema):
    verb.register(app)
apply.register(app)


def main() -> None:
    """Run the command line; errors of ours become one line and their exit code, anything else 3."""
    # Threads that wait by spinning make small networks several times slower as soon as anything else runs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except AuditError as problem:
        _print_error(problem)
        sys.exit(problem.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(3)
    except Exception as problem:
        if "-v" in sys.argv or "--verbose" in sys.argv:
            traceback.print_exc()
        sys.stderr.write(f"internal error: {type(problem).__name__}: {problem} (add -v for the traceback)\n")
        sys.exit(3)


def _print_error(problem: AuditError) -> None:
    if isinstance(problem, ConfigError) and len(problem.problems) > 1:
        lines = "".join(f"  - {line}\n" for line in problem.problems)
        sys.stderr.write(f"error: {problem.source}: {len(problem.problems)} problems\n{lines}")
    else:
        sys.stderr.write(f"error: {problem}\n")
