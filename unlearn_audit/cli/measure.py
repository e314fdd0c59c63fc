"""What every measuring verb does: flags to config, audit, output, exit code."""

from collections.abc import Mapping, Sequence
from typing import Any

from unlearn_audit.cli.console import emit, progress_bars
from unlearn_audit.cli.flags import Shared, resolved
from unlearn_audit.files import check_output_folder

__all__ = ["audit_and_emit", "measure", "number_or_word"]


def measure(checkpoints: Sequence[str] | None, shared: Shared, **section: Mapping[str, Any]) -> None:
    """Run one section's measurement on the checkpoints and end with its exit code.

    Args:
        checkpoints: the positional ones.
        shared: the shared flags.
        section: the section's name with its own flags, None where not given.
    """
    audit_and_emit(resolved(checkpoints or (), shared, **section), shared, only=tuple(section))


def audit_and_emit(request: Any, shared: Shared, *, only: tuple[str, ...]) -> None:
    """Check the output, run the audit with progress bars, and write what was found."""
    if shared.out is not None:
        check_output_folder(shared.out, force=shared.force, owned=("report.json",))
    from unlearn_audit.audit import run_audit

    with progress_bars(quiet=shared.quiet) as progress:
        report = run_audit(request.config, origins=request.origins, only=only, progress=progress)
    emit(report, shared)


def number_or_word(text: str | None) -> float | str | None:
    """Return text as a number where it is one."""
    try:
        return text if text is None else float(text)
    except ValueError:
        return text
