"""The command line: one file per verb. Only this room prints and exits."""

import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from unlearn_audit import __version__
from unlearn_audit.cli import (
    apply,
    audit,
    demo,
    gaps,
    gate,
    init,
    inspect,
    mia,
    rcd,
    schema,
    shadows,
    show,
    spectrum,
    train,
    truncation,
    validate,
)
from unlearn_audit.errors import AuditError, ConfigError

__all__ = ["app", "main"]

NAME = "unlearn-audit"
VERBOSE = ("-v", "--verbose")

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
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    verbose: Annotated[bool, typer.Option(*reversed(VERBOSE), help="Show tracebacks of errors.")] = False,
) -> None:
    """Is the data gone from this model, is the model still good, how sure are we?

    Start with [bold]unlearn-audit demo[/bold]: embedded data, everything end to end, a minute on two CPU cores.
    """


for verb in (
    demo, rcd, truncation, spectrum, gaps, mia, shadows, train, init, audit, gate, show, inspect, validate, schema,
):  # fmt: skip
    verb.register(app)
apply.register(app)


def main() -> None:
    """Run the command line; errors of ours become one line and their exit code, anything else 3."""
    # Threads that wait by spinning make small networks several times slower as soon as anything else runs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _write_what_the_encoding_lacks()
    try:
        with _terminated_as_interrupted():
            code = _answer()
        sys.stdout.flush()
    except BrokenPipeError:
        code = 3
    except OSError as problem:
        sys.stderr.write(f"error: cannot write to stdout: {problem.strerror}\n")
        code = 3
    if code == 3:
        _let_go_of_a_closed_stdout()
    sys.exit(code)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does: states are written, drafts removed, claims let go."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write_what_the_encoding_lacks() -> None:
    """Let streams of a narrow encoding spell out the characters that they lack, instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _answer() -> int | str | None:
    """Return the exit code, after the one line that goes with it."""
    try:
        app(prog_name=NAME)
    except SystemExit as stop:
        return _code(stop)
    except KeyboardInterrupt:
        sys.stderr.write(INTERRUPTED)
        return 130
    except AuditError as problem:
        _print_traceback()
        _print_error(problem)
        return problem.exit_code
    except BrokenPipeError:
        raise
    except Exception as problem:
        _print_traceback()
        more = "" if _verbose() else f" ({NAME} {VERBOSE[0]} VERB ... shows the traceback)"
        what = str(problem).partition("\n")[0]
        sys.stderr.write(f"internal error: {type(problem).__name__}: {what}{more}\n")
        return 3
    return 0


INTERRUPTED = "interrupted\n"


def _code(stop: SystemExit) -> int | str | None:
    """Return a verb's exit code; what Typer answers to Ctrl-C and to a closed pipe goes by our own table."""
    if stop.code == 130:
        sys.stderr.write(INTERRUPTED)
    if stop.code == 1 and not isinstance(stop.__context__, typer.Exit):
        return 3  # 1 is kept for a policy that failed
    return stop.code


def _let_go_of_a_closed_stdout() -> None:
    """Point stdout elsewhere if it takes nothing any more, or the interpreter would complain while it shuts down."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _verbose() -> bool:
    return any(flag in sys.argv for flag in VERBOSE)


def _print_traceback() -> None:
    if _verbose():
        traceback.print_exc()


def _print_error(problem: AuditError) -> None:
    if isinstance(problem, ConfigError) and len(problem.problems) > 1:
        lines = "".join(f"  - {line}\n" for line in problem.problems)
        sys.stderr.write(f"error: {problem.source}: {len(problem.problems)} problems\n{lines}")
    else:
        sys.stderr.write(f"error: {problem}\n")
