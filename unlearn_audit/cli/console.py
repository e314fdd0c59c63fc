"""What the command line says: progress and messages to stderr, the product to stdout."""

import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from unlearn_audit.cli.flags import Shared
from unlearn_audit.cli.streams import in_ascii, is_narrow, stdout_kept, write_error
from unlearn_audit.progress import Progress, silent
from unlearn_audit.render.untrusted import brief

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import RenderableType

    from unlearn_audit.report import AuditReport

EVERY = 30.0  # seconds between two lines of progress where nothing can be drawn
OWNED = ("report.json", "arrays.npz")  # what a measuring verb writes into its --out


def message(text: str, *, quiet: bool = False) -> None:
    """Say something to the person, on stderr."""
    if not quiet:
        write_error(text)


@contextmanager
def progress_bars(*, quiet: bool) -> Iterator[Progress]:
    """Yield a progress that draws bars with rate and time left on stderr, and leaves nothing behind.

    Where stderr is a file or a pipe nothing is drawn; a line tells now and then where the work stands. Meanwhile
    stdout is kept: what the user's own models, data and attacks print goes to stderr.
    """
    with stdout_kept(), _progress(quiet=quiet) as progress:
        yield progress


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Progress]:
    if quiet:
        yield silent
        return
    if not sys.stderr.isatty():
        yield _now_and_then()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    shown: dict[str, TaskID] = {}
    columns = (
        TextColumn("{task.description}", table_column=None),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("[dim]{task.fields[note]}", markup=True),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:

        def tell(task: str, done: int, total: int, note: str = "") -> None:
            if task not in shown:
                shown[task] = bars.add_task(_unmarked(task), total=total, note="")
            bars.update(shown[task], completed=done, total=total, note=_unmarked(note), visible=done < total)

        yield tell


def _unmarked(text: str) -> str:
    """Return text in which Rich finds no markup, and a terminal nothing that steers it."""
    return brief(text).replace("[", "(")


def _now_and_then() -> Progress:
    """Return a progress that writes a line every half a minute, so that the log of a pipeline shows that it lives."""
    last = time.monotonic()

    def tell(task: str, done: int, total: int, note: str = "") -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            message(f"{task}: {done} of {total}" + (f", {note}" if note else ""))

    return tell


def command_line(*words: str | None, **flags: str | Path | bool | None) -> str:
    """Return a command that works when pasted here: the program as it can be called, and every flag that was given.

    Args:
        words: the verb and its arguments; None is left out.
        flags: by name, `batch_size` for `--batch-size`; None and False are left out, True is a flag without a value.
    """
    found = shutil.which("unlearn-audit")
    same = found is not None and Path(found).resolve() == Path(sys.argv[0]).resolve()
    program = "unlearn-audit" if same or not Path(sys.argv[0]).is_file() else sys.argv[0]
    line = [program, *(word for word in words if word is not None)]
    for name, value in flags.items():
        if value is not None and value is not False:
            flag = f"--{name.replace('_', '-')}"
            line += [flag] if value is True else [flag, str(value)]
    return shlex.join(line)


def width() -> int:
    """Return how many columns a table on stdout may have."""
    from rich.console import Console

    return Console().width


def draw(renderable: "RenderableType") -> None:
    """Print a table or another of Rich's renderables to stdout; into a file or a pipe without blanks at line ends."""
    from rich.console import Console

    console = Console()
    if is_narrow():
        renderable = _narrowed(renderable)
    if console.is_terminal:
        console.print(renderable)
        return
    with console.capture() as capture:
        console.print(renderable)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in capture.get().splitlines()))


def _narrowed(renderable: Any) -> Any:
    """Return a renderable whose texts are ASCII before they are laid out, so that columns stay columns."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    if isinstance(renderable, str):
        return in_ascii(renderable)
    if isinstance(renderable, Text):
        return Text(in_ascii(renderable.plain), style=renderable.style, no_wrap=renderable.no_wrap,
                    overflow=renderable.overflow, justify=renderable.justify)  # fmt: skip
    if isinstance(renderable, Group):
        return Group(*map(_narrowed, renderable.renderables))
    if isinstance(renderable, Padding):
        renderable.renderable = _narrowed(renderable.renderable)
    if isinstance(renderable, Table):
        for column in renderable.columns:
            column.header = _narrowed(column.header)
            column._cells = [_narrowed(cell) for cell in column._cells]
    return renderable


def emit(report: "AuditReport", shared: Shared, arrays: "Mapping[str, NDArray[Any]] | None" = None) -> None:
    """Write the report where it was asked for and end with the verb's exit code.

    stdout gets exactly one document; with `--out` the folder gets report.json as well, and arrays.npz if there are any.
    """
    from unlearn_audit.files import make_output_folder
    from unlearn_audit.report import ARRAYS_NAME, dump_report, write_arrays, write_report

    if shared.out is not None:
        make_output_folder(shared.out, force=shared.force, owned=OWNED)
        write_arrays(arrays or {}, shared.out / ARRAYS_NAME)
        write_report(report, shared.out / "report.json")
        message(f"wrote {shared.out / 'report.json'}", quiet=shared.quiet)
        if arrays:
            message(f"wrote {shared.out / ARRAYS_NAME}", quiet=shared.quiet)
    if shared.format == "json":
        sys.stdout.write(dump_report(report))
    elif shared.format == "markdown":
        from unlearn_audit.render import markdown

        sys.stdout.write(markdown.render(report))
    else:
        from unlearn_audit.render import terminal

        draw(terminal.render(report, width=width()))
    finish(report)


def finish(report: "AuditReport") -> None:
    """Exit 4 when everything that was asked for is null, whatever the controls gave, else 0."""
    sys.stdout.flush()
    asked = [measurement for measurement in report.measurements if measurement.role != "control"]
    raise typer.Exit(0 if any(measurement.value is not None for measurement in asked) else 4)
