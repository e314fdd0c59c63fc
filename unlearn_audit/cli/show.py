"""`unlearn-audit show`: look at a report again, or hand it on."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from unlearn_audit.cli.console import draw, message, width
from unlearn_audit.cli.flags import Force, Quiet
from unlearn_audit.errors import OutputError, UsageError

if TYPE_CHECKING:
    from unlearn_audit.gate import Gated
    from unlearn_audit.report import AuditReport


def _show(
    report: Annotated[Path, typer.Argument(help="report.json of an audit.")],
    html: Annotated[Path | None, typer.Option(help="Write a self-contained page with charts.", metavar="FILE")] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Write Markdown, for example to $GITHUB_STEP_SUMMARY.", metavar="FILE")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Write every chart as SVG, every sheet of samples as PNG.", metavar="DIR")
    ] = None,
    format: Annotated[
        Literal["table", "markdown"] | None,
        typer.Option(help="Format of stdout; default: table, or nothing if a file is written."),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Also show the decisions of a policy; `gate` sets the exit code.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="report.json of the last release, as for gate.", metavar="FILE")
    ] = None,
    subject: Annotated[
        str | None, typer.Option(help="Label of the subject to gate instead of the role unlearned.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Gate this file, as for gate --checkpoint.", metavar="FILE")
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Show a report in the terminal, as Markdown, or as an HTML page; needs no torch and no network.

    [bold]Examples[/bold]

      unlearn-audit show demo/report.json

      unlearn-audit show report/report.json --html report.html --policy policy.toml

      unlearn-audit show report/report.json --figures figures/
    """
    from unlearn_audit.gate import gate_files
    from unlearn_audit.report import read_report

    for flag, value in (("--subject", subject), ("--baseline", baseline), ("--checkpoint", checkpoint)):
        if value is not None and policy is None:
            raise UsageError(f"{flag} requires --policy")
    _check(html, markdown, force=force)
    found = read_report(report)
    gated = None
    if policy is not None:
        gated = gate_files(report, policy, baseline=baseline, subject=subject, checkpoint=checkpoint)
    if gated and gated.problem:
        raise gated.problem
    if html is not None:
        _write(html, _page(report, found, gated), quiet=quiet)
    if markdown is not None:
        _write(markdown, _markdown(found, gated), quiet=quiet)
    if figures is not None:
        _write_figures(figures, report, found, force=force, quiet=quiet)
    if format == "markdown":
        sys.stdout.write(_markdown(found, gated))
    elif format == "table" or (html is None and markdown is None and figures is None):
        _table(found, gated)


def _check(html: Path | None, markdown: Path | None, *, force: bool) -> None:
    """Refuse what cannot be written, before anything is."""
    from unlearn_audit.files import check_output

    for path in (html, markdown):
        if path is not None:
            check_output(path, force=force)
    if html is not None and markdown is not None and html.resolve() == markdown.resolve():
        raise OutputError(f"--html and --markdown both write {html}; name two files")


def _page(path: Path, report: "AuditReport", gated: "Gated | None") -> str:
    from unlearn_audit.render import html
    from unlearn_audit.render.arrays import read_arrays

    return html.render(report, read_arrays(path, report), gated=gated, folder=path.parent)


def _write_figures(folder: Path, path: Path, report: "AuditReport", *, force: bool, quiet: bool) -> None:
    from unlearn_audit.files import atomic_write, make_output_folder
    from unlearn_audit.render.arrays import read_arrays
    from unlearn_audit.render.figure_files import figure_files

    arrays = read_arrays(path, report)
    found = figure_files(report, arrays)
    for problem in arrays.problems:
        message(problem, quiet=quiet)
    if not found:
        message(f"no figures: nothing in {path} has a picture", quiet=quiet)
        return
    make_output_folder(folder, force=force, owned=tuple(found))
    for name, content in found.items():
        atomic_write(folder / name, content)
    message(f"wrote {len(found)} figures into {folder}: {', '.join(found)}", quiet=quiet)


def _markdown(report: "AuditReport", gated: "Gated | None") -> str:
    from unlearn_audit.render import markdown
    from unlearn_audit.render.decisions import told

    if gated is None:
        return markdown.render(report)
    return markdown.render(report, gated.decisions, gated.waivers, tuple(told(gated)))


def _table(report: "AuditReport", gated: "Gated | None") -> None:
    from rich.text import Text

    from unlearn_audit.render import decisions, terminal

    draw(terminal.render(report, width=width()))
    if gated is not None:
        draw(Text("\nDecisions of the gate", style="bold"))
        draw(decisions.render_gated(gated._replace(limitations=())))  # the report above has told them


def _write(path: Path, text: str, *, quiet: bool) -> None:
    from unlearn_audit.files import atomic_write

    atomic_write(path, text.encode())
    message(f"wrote {path}", quiet=quiet)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("show")(_show)
