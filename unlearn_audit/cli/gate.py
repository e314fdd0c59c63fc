"""`unlearn-audit gate`: an exit code for a release pipeline."""

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from unlearn_audit.cli.console import draw, message
from unlearn_audit.cli.flags import Force, Quiet

if TYPE_CHECKING:
    from unlearn_audit.gate import Gated


def _file(what: str) -> Any:
    return typer.Option(help=what, metavar="FILE")


def _gate(
    report: Annotated[Path, typer.Argument(help="report.json of an audit.")],
    policy: Annotated[
        Path,
        typer.Option(
            help="Policy in TOML, or a shipped one: default, strict, lenient, without-original, generation.",
            metavar="FILE|NAME",
        ),
    ],
    baseline: Annotated[Path | None, _file("report.json of the last release, for rules that limit a change.")] = None,
    subject: Annotated[
        str | None, typer.Option(help="Label of the subject to gate instead of the role unlearned.")
    ] = None,
    checkpoint: Annotated[
        Path | None, _file("Gate this file, which must be one that the report measured, by its SHA-256.")
    ] = None,
    today: Annotated[
        datetime | None,
        typer.Option(help="Date on which waivers are evaluated.", formats=["%Y-%m-%d"], metavar="YYYY-MM-DD"),
    ] = None,
    format: Annotated[
        Literal["table", "json", "markdown", "github"],
        typer.Option(
            help="Of stdout: table, json, markdown, or github (annotations of a workflow run).", metavar="FORMAT"
        ),
    ] = "table",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON.", metavar="FILE")] = None,
    markdown: Annotated[Path | None, _file("Write Markdown, such as a step summary.")] = None,
    junit: Annotated[Path | None, _file("Write JUnit XML, as CI systems show it.")] = None,
    statement: Annotated[Path | None, _file("Write an unsigned in-toto Statement (test-result), for signing.")] = None,
    badge: Annotated[Path | None, _file("Write the outcome as a small SVG, for a README or a model card.")] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Hold a report against a policy: exit 0 passed, 1 failed, 4 inconclusive, 2 or 3 when it cannot be judged.

    Needs no torch and no GPU. A missing, null or too small measurement never passes.
    With --subject or --checkpoint every rule that blocks must judge that very subject.

    [bold]Examples[/bold]

      unlearn-audit gate report/report.json --policy policy.toml

      unlearn-audit gate report/report.json --policy default --junit gate.xml

      unlearn-audit gate report/report.json --policy policy.toml --checkpoint u.pt
    """
    from unlearn_audit.gate import gate_files

    files = {"json": json_file, "markdown": markdown, "junit": junit, "statement": statement, "badge": badge}
    wanted = {kind: path for kind, path in files.items() if path is not None}
    _make_way(wanted, [report, policy, *([baseline] if baseline else [])], force=force)
    day = today.date() if today else None
    found = gate_files(report, policy, baseline=baseline, subject=subject, checkpoint=checkpoint, today=day)
    for kind, path in wanted.items():
        _write(path, kind, found, quiet=quiet)
    if found.problem:
        raise found.problem
    from unlearn_audit.render import decisions

    if format == "table":
        draw(decisions.render_gated(found))
    else:
        sys.stdout.write(_text(format, found))
    sys.stdout.flush()  # nothing is said to have passed that could not be told
    message(f"{found.outcome}: {report} against {policy} ({decisions.counted(found.decisions)})", quiet=quiet)
    raise typer.Exit(found.code)


def _make_way(files: dict[str, Path], inputs: Sequence[Path], *, force: bool) -> None:
    """Refuse what cannot be written, before anything is read; no output of an earlier gate stays beside this one's."""
    from unlearn_audit.errors import OutputError
    from unlearn_audit.files import check_output

    taken = {path.resolve(): "an input" for path in inputs}
    for kind, path in files.items():
        check_output(path, force=force)
        if path.resolve() in taken:
            raise OutputError(f"--{kind} would write {path}, which is {taken[path.resolve()]}; name another file")
        taken[path.resolve()] = f"what --{kind} writes"
    for path in files.values():
        path.unlink(missing_ok=True)


def _text(kind: str, found: "Gated") -> str:
    """Return the decisions in a format."""
    from unlearn_audit.render import badge, decisions, junit, workflow_commands
    from unlearn_audit.render.intoto import as_statement

    texts = {
        "markdown": decisions.as_markdown,
        "junit": junit.render,
        "badge": badge.render,
        "github": workflow_commands.render,
    }
    if kind in texts:
        return texts[kind](found)
    values = as_statement(found) if kind == "statement" else decisions.as_document(found)
    return json.dumps(values, indent=1, allow_nan=False) + "\n"


def _write(path: Path, kind: str, found: "Gated", *, quiet: bool) -> None:
    from unlearn_audit.files import atomic_write

    atomic_write(path, _text(kind, found).encode())
    message(f"wrote {path}", quiet=quiet)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("gate")(_gate)
