"""The command line: one file per verb. Only this room prints and exits."""

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from unlearn_audit import __version__
from unlearn_audit.cli import (
    apply,
    audit,
    demo,
    fidelity,
    gaps,
    gate,
    generate,
    init,
    inspect,
    joint,
    mia,
    outputs,
    rcd,
    results,
    resurgence,
    schema,
    shadows,
    show,
    spectrum,
    streams,
    train,
    truncation,
    twosample,
    validate,
)
from unlearn_audit.errors import AuditError, ConfigError
from unlearn_audit.render.untrusted import brief

__all__ = ["app", "main"]

NAME = "unlearn-audit"
VERBOSE = ("-v", "--verbose")
WHOLE = ("torch", "torchvision", "safetensors", "sklearn", "filelock")  # which an install for verdicts alone has not
MOST_PROBLEMS = 100  # of one file that are told

app = typer.Typer(
    name=NAME,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 passed, 1 the policy failed, 2 usage or configuration, 3 could not measure or read, "
    "4 inconclusive, 130 interrupted.",
)


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"{NAME} {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option(*reversed(VERBOSE), help="Show tracebacks of errors.")] = False,
) -> None:
    """Is the data gone from this model, is the model still good, how sure are we?

    Start with [bold]unlearn-audit demo[/bold]: embedded data, everything end to end, a minute on two CPU cores.
    """


for verb in (
    demo, rcd, truncation, spectrum, gaps, twosample, outputs, mia, resurgence, fidelity, shadows, train, generate,
    init, audit, gate, show, results, inspect, validate, schema,
):  # fmt: skip
    verb.register(app)
apply.register(app)


def main() -> None:
    """Run the command line; errors of ours become one line and their exit code, anything else 3."""
    # Threads that wait by spinning make small networks several times slower as soon as anything else runs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    streams.stand()
    try:
        with _terminated_as_interrupted():
            code = _answer()
        sys.stdout.flush()
    except OSError as problem:
        if problem.errno != errno.EPIPE:  # whoever closes a pipe has seen enough
            streams.write_error(f"error: cannot write to stdout: {problem.strerror}")
        code = 3
    streams.give_up_stdout()
    sys.exit(code)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does: states are written, drafts removed, claims let go."""
    if threading.current_thread() is not threading.main_thread() or joint.under_launcher():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _answer() -> int:
    """Return the exit code, after the one line that goes with it."""
    try:
        code = app(prog_name=NAME, standalone_mode=False)
    except SystemExit as stop:
        return 3 if stop.code == 1 else _code(stop.code)  # 1 is kept for a policy that failed
    except KeyboardInterrupt:
        return _code(130)
    except USAGE as problem:
        return _refuse_usage(problem)
    except AuditError as problem:
        _print_traceback()
        _print_error(problem)
        return problem.exit_code
    except (streams.StdoutError, BrokenPipeError):
        raise
    except ModuleNotFoundError as problem:
        _print_traceback()
        streams.write_error(_not_installed(problem))
        return 3
    except Exception as problem:
        _print_traceback()
        streams.write_error(_unforeseen(problem))
        return 3
    return _code(code)


# What Typer raises for a command line that makes no sense; it is no part of its face.
USAGE: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _code(code: object) -> int:
    if code == 130 and not joint.under_launcher():
        streams.write_error("interrupted")
    return code if isinstance(code, int) else 0


def _refuse_usage(problem: Any) -> int:
    """Show Typer's own message, of which nothing can steer a screen, and return its exit code."""
    from typer import rich_utils

    problem.message = brief(problem.message)
    rich_utils.rich_format_error(problem)
    return int(problem.exit_code)


def _unforeseen(problem: Exception) -> str:
    """Return the line for an error that nobody foresaw; one of the system names its file."""
    if isinstance(problem, OSError) and problem.strerror:
        where = "" if problem.filename is None else f": {problem.filename}"
        return f"error: {problem.strerror}{where}"
    more = "" if _verbose() else f" ({NAME} {VERBOSE[0]} VERB ... shows the traceback)"
    return f"internal error: {type(problem).__name__}: {brief(str(problem).partition(chr(10))[0])}{more}"


def _not_installed(problem: ModuleNotFoundError) -> str:
    """Return the line for a module that is missing: of the whole tool where only the part without torch is there."""
    if problem.name in WHOLE:
        return (
            f"error: this needs {problem.name}, and here is only what gate, show, results, schema and validate need; "
            f"the whole tool: pip install {NAME}"
        )
    return _unforeseen(problem)


def _verbose() -> bool:
    return any(flag in sys.argv for flag in VERBOSE)


def _print_traceback() -> None:
    if _verbose():
        for line in traceback.format_exc().splitlines():
            streams.write_error(line)


def _print_error(problem: AuditError) -> None:
    if not isinstance(problem, ConfigError) or len(problem.problems) <= 1:
        streams.write_error(f"error: {problem}")
        return
    streams.write_error(f"error: {problem.source}: {len(problem.problems)} problems")
    for line in problem.problems[:MOST_PROBLEMS]:
        streams.write_error(f"  - {line}")
    if len(problem.problems) > MOST_PROBLEMS:
        streams.write_error(f"  - and {len(problem.problems) - MOST_PROBLEMS:,} more")
