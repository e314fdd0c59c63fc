"""What every measuring verb does: flags to config, audit, output, exit code."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from unlearn_audit.cli.console import OWNED, emit, message, progress_bars
from unlearn_audit.cli.flags import Shared, resolved
from unlearn_audit.errors import OutputError
from unlearn_audit.files import check_output_folder, make_output_folder, only_process

Spread = Callable[[Any, Path, Any], None]

BEGAN = time.time()  # when this process did, near enough: before torch is loaded
REPORT = OWNED[0]
ALONE = nullcontext(True)  # the one process writes


def measure(
    checkpoints: Sequence[str] | None,
    shared: Shared,
    *,
    ranks: AbstractContextManager[bool] = ALONE,
    **section: Mapping[str, Any],
) -> None:
    """Run one section's measurement on the checkpoints and end with its exit code.

    Args:
        checkpoints: the positional ones.
        shared: the shared flags.
        ranks: of a verb with `--nproc` what `joint.on_ranks` gives; any other runs alone.
        section: the section's name with its own flags, None where not given.
    """
    request = resolved(checkpoints or (), shared, **section)
    with ranks as writes:
        mine = shared if writes else replace(shared, out=None, quiet=True)
        audit_and_emit(request, mine, only=tuple(section))


def audit_and_emit(
    request: Any,
    shared: Shared,
    *,
    only: tuple[str, ...],
    also: Callable[[Any], None] | None = None,
    makes: bool = False,
    fresh: bool = False,
    spread: Spread | None = None,
) -> None:
    """Check the output, run the audit with progress bars, and write what was found.

    Args:
        request: the resolved configuration.
        shared: the shared flags.
        only: names of sections to run.
        also: given the report before it is written, for a verb that makes something of its own of it.
        makes: make the models that the request asks for, and keep finished parts, both in the output folder; one that
            has no report yet is gone on with. A second one that is started meanwhile waits, and takes what is there.
        fresh: first remove what a former run has kept there.
        spread: makes models of the request beforehand, those that it can at once; given request, folder and progress.
    """
    if shared.out is None or not makes:
        if shared.out is not None:
            check_output_folder(shared.out, force=shared.force, owned=OWNED)
        _audit_and_emit(request, shared, only, also, None)
        return
    from unlearn_audit.audit.build_models import discard

    there = _written_before(shared.out / REPORT)
    with _made(shared.out, force=shared.force or not there), only_process(shared.out, busy=_told(shared)):
        if fresh:
            discard(shared.out)
        meanwhile = (shared.out / REPORT).exists() and not there
        _audit_and_emit(request, replace(shared, force=shared.force or not there), only, also, shared.out,
                        as_there=meanwhile and not shared.force, spread=spread)  # fmt: skip


@contextmanager
def _made(folder: Path, *, force: bool) -> Iterator[None]:
    """Make the folder of an audit; where the audit ends early and has left nothing in it, it goes away again."""
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    make_output_folder(folder, force=force, owned=OWNED)
    try:
        yield
    finally:
        with suppress(OSError):  # of a folder that is not empty, and of those above it
            for place in new:
                place.rmdir()


def _told(shared: Shared) -> Callable[[], None]:
    return lambda: message(
        f"another audit is at work in {shared.out}: waiting for it, and for what it makes", quiet=shared.quiet
    )


def _written_before(path: Path) -> bool:
    """Return whether a report was there before this process began; one that two audits write at once is not."""
    try:
        return path.stat().st_mtime < BEGAN
    except OSError:  # none, or a folder that cannot be one, which is told where it is made
        return False


def _audit_and_emit(
    request: Any,
    shared: Shared,
    only: tuple[str, ...],
    also: Callable[[Any], None] | None,
    folder: Path | None,
    *,
    as_there: bool = False,
    spread: Spread | None = None,
) -> None:
    """Run the audit and write its report; `as_there` where another one wrote its own meanwhile: it must be the same."""
    from unlearn_audit.audit import audit_checkpoints
    from unlearn_audit.audit.build_models import make_models
    from unlearn_audit.audit.cache import FOLDER, NO_CACHE, ResultCache
    from unlearn_audit.audit.generated.judge_file import with_judge

    cache = ResultCache(folder / FOLDER) if folder else NO_CACHE
    with progress_bars(quiet=shared.quiet) as progress:
        if folder:
            if spread:
                spread(request, folder, progress)
            request = with_judge(make_models(request, folder, progress), folder, progress, only=only)
        report, arrays = audit_checkpoints(
            request.config, origins=request.origins, only=only, cache=cache, progress=progress
        )
    if cache.found:
        message(f"measured before: {', '.join(cache.found)}", quiet=shared.quiet)
    if as_there and folder:
        _check_same(report, folder / REPORT)
    if also is not None:
        also(report)
    emit(report, shared, arrays)


def _check_same(report: Any, path: Path) -> None:
    """Refuse to replace a report that another audit wrote meanwhile and that says something else."""
    from unlearn_audit.report import read_report

    about = {"subjects", "data", "measurements"}
    if read_report(path).model_dump(mode="json", include=about) != report.model_dump(mode="json", include=about):
        raise OutputError(
            f"another audit wrote another report to {path} meanwhile; use --force to replace it, or another --out"
        )
