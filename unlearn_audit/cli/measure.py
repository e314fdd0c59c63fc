"""What every measuring verb does: flags to config, audit, output, exit code."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from unlearn_audit.cli.console import OWNED, emit, message, progress_bars
from unlearn_audit.cli.flags import Shared, resolved
from unlearn_audit.files import check_output_folder

__all__ = ["audit_and_emit", "count_or_word", "measure", "number_or_word", "numbers"]


def measure(checkpoints: Sequence[str] | None, shared: Shared, **section: Mapping[str, Any]) -> None:
    """Run one section's measurement on the checkpoints and end with its exit code.

    Args:
        checkpoints: the positional ones.
        shared: the shared flags.
        section: the section's name with its own flags, None where not given.
    """
    audit_and_emit(resolved(checkpoints or (), shared, **section), shared, only=tuple(section))


def audit_and_emit(
    request: Any,
    shared: Shared,
    *,
    only: tuple[str, ...],
    also: Callable[[Any], None] | None = None,
    makes: bool = False,
) -> None:
    """Check the output, run the audit with progress bars, and write what was found.

    Args:
        request: the resolved configuration.
        shared: the shared flags.
        only: names of sections to run.
        also: given the report before it is written, for a verb that makes something of its own of it.
        makes: make the models that the request asks for, and keep finished parts, both in the output folder; one that
            has no report yet is gone on with.
    """
    if shared.out is not None:
        goes_on = makes and not (shared.out / OWNED[0]).exists()
        check_output_folder(shared.out, force=shared.force or goes_on, owned=OWNED)
        shared = replace(shared, force=shared.force or goes_on)
    from unlearn_audit.audit import run_audit
    from unlearn_audit.audit.making import make_models
    from unlearn_audit.audit.parts import FOLDER, NO_PARTS, Parts

    arrays: dict[str, Any] = {}
    folder = shared.out if makes else None
    parts = Parts(folder / FOLDER) if folder else NO_PARTS
    with progress_bars(quiet=shared.quiet) as progress:
        if folder:
            request = make_models(request, folder, progress)
        report = run_audit(
            request.config, origins=request.origins, only=only, arrays=arrays, parts=parts, progress=progress
        )
    if parts.found:
        message(f"measured before: {', '.join(parts.found)}", quiet=shared.quiet)
    if also is not None:
        also(report)
    emit(report, shared, arrays)


def number_or_word(text: str | None) -> float | str | None:
    """Return text as a number where it is one."""
    try:
        return text if text is None else float(text)
    except ValueError:
        return text


def count_or_word(text: str | None) -> int | str | None:
    """Return text as a whole number where it is one."""
    try:
        return text if text is None else int(text)
    except ValueError:
        return text


def numbers(text: str | None) -> list[float | str | None] | None:
    """Return "0.5,0.9" as numbers; a part that is none stays as it is, for the configuration to refuse."""
    return None if text is None else [number_or_word(part.strip()) for part in text.split(",")]
