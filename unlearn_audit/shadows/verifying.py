"""Reading everything in a fleet's folder again: is each file what the plan says it is?"""

from collections.abc import Container, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unlearn_audit.checkpoints import Checkpoint
from unlearn_audit.errors import AuditError, OutputError
from unlearn_audit.files import sha256_of_file
from unlearn_audit.progress import Progress, silent
from unlearn_audit.shadows.jobs import FleetContext, expected_metadata, read_model
from unlearn_audit.shadows.plan import Job, members
from unlearn_audit.shadows.store import load_signals, read_signals

FREE = {"tool_version", "torch_version", "data"}  # who made a model, and where the data lay then
UNSAID = {"notes", "parent_sha256"}  # by models that are older than these


class Damage(NamedTuple):
    """What is wrong, in words, and the files that `shadows run` makes anew once they are removed."""

    told: str
    files: tuple[Path, ...] = ()


def verify(context: FleetContext, progress: Progress = silent) -> list[Damage]:
    """Return what is wrong with the finished files; empty where all of them are right.

    Checked are the balance of the assignment; that each checkpoint can be read, is finite, was made by this job and,
    after a treatment, from the model that is there; that its signals belong to it, have the right shapes and are
    finite. A file that no job has made is named, and never one to be removed.
    """
    found = list(_unbalanced(context))
    for index, job in enumerate(context.jobs):
        found += _damaged(context, job, {path for damage in found for path in damage.files})
        progress("verifying", index + 1, len(context.jobs))
    return found + list(_strays(context))


def remove_damaged(found: list[Damage]) -> int:
    """Remove the damaged files; return how many there were.

    Args:
        found: what `verify` said.

    Raises:
        OutputError: a file cannot be removed.
    """
    files = {path for damage in found for path in damage.files if path.exists()}
    for path in files:
        try:
            path.unlink()
        except OSError as problem:
            raise OutputError(f"cannot remove {path}: {problem.strerror or problem}") from problem
    return len(files)


def _unbalanced(context: FleetContext) -> Iterator[Damage]:
    size = len(context.pool.examples)
    times = np.zeros(size, dtype=np.int64)
    for number in range(context.plan.count):
        times[members(context.plan, number, size)] += 1
    if not (times == context.plan.count // 2).all():
        yield Damage(f"{int((times != context.plan.count // 2).sum())} examples are not in exactly half of the models")


def _strays(context: FleetContext) -> Iterator[Damage]:
    known = {job.id for job in context.jobs}
    for pattern in ("models/*.safetensors", "signals/*.npz"):
        for path in sorted(context.folder.path.glob(pattern)):
            if path.stem not in known:
                yield Damage(f"{path} belongs to no job of the plan: made under another one")


def _damaged(context: FleetContext, job: Job, known: Container[Path]) -> Iterator[Damage]:
    """Yield what is wrong with the files of one job; files that are not there yet are not wrong.

    A treated model is not measured by a parent that is known to be damaged: made anew, that one will be what it was.
    """
    model, signals = context.folder.model(job), context.folder.signals(job)
    if not model.exists():
        if signals.exists():
            yield Damage(f"{signals} is there without its model", (signals,))
        return
    try:
        checkpoint = read_model(model)
    except AuditError as problem:
        yield Damage(str(problem), (model, signals))
        return
    foreign = _foreign(context, job, checkpoint, known)
    if foreign:
        yield Damage(f"{model} is not what job {job.id} makes: {foreign}", (model, signals))
    elif signals.exists():
        yield from _misheard(context, job, checkpoint)


def _foreign(context: FleetContext, job: Job, checkpoint: Checkpoint, known: Container[Path]) -> str | None:
    """Return what a checkpoint says of itself that one of this job would not; None where it is this job's own."""
    expected, said = expected_metadata(context, job), checkpoint.metadata
    if said is None:
        return "it does not say how it was made"
    wanted, found = (each.model_dump(mode="json", exclude=FREE | UNSAID) for each in (expected, said))
    other = [key for key in wanted if wanted[key] != found[key]]
    if said.notes and said.notes != expected.notes:
        other.append("task")
    if said.parent_sha256 is not None and job.parent is not None:
        parent = context.folder.model(job.parent)
        if parent not in known and parent.exists() and sha256_of_file(parent) != said.parent_sha256:
            return f"it was made from another {parent.name}"
    return f"another {', another '.join(other)}" if other else None


def _misheard(context: FleetContext, job: Job, checkpoint: Checkpoint) -> Iterator[Damage]:
    """Yield what is wrong with a model's answers; of two files that do not fit together either may be wrong."""
    path, files = context.folder.signals(job), list[Path]()
    try:
        load_signals(path)
        files.append(checkpoint.path)
        plain, queried, _ = read_signals(path, context.plan, checkpoint.sha256)
    except AuditError as problem:
        yield Damage(str(problem), (path, *files))
        return
    rows = len(context.pool.examples) + len(context.pool.population)
    wanted = (
        (rows, context.dataset.classes),
        (len(context.pool.targets), context.plan.queries, context.dataset.classes),
    )
    if (plain.shape, queried.shape) != wanted:
        told = f"shapes {plain.shape} and {queried.shape}, not {wanted[0]} and {wanted[1]}"
        yield Damage(f"{path}: {told}", (path,))
    elif not (np.isfinite(plain).all() and np.isfinite(queried).all()):
        yield Damage(f"{path}: logits are not finite", (path,))
