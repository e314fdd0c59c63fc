"""Reading everything in a fleet's folder again: is each file what the plan says it is?"""

from collections.abc import Iterator

import numpy as np

from unlearn_audit.checkpoints import nonfinite, read_checkpoint
from unlearn_audit.errors import AuditError
from unlearn_audit.progress import Progress, silent
from unlearn_audit.shadows.plan import Task, members
from unlearn_audit.shadows.reading import read_signals
from unlearn_audit.shadows.work import Workshop

__all__ = ["verify"]


def verify(shop: Workshop, progress: Progress = silent) -> list[str]:
    """Return what is wrong with the finished files, in words; empty where all of them are right.

    Checked are the balance of the assignment, that checkpoints can be read, are finite and of the planned model, and
    that their signals belong to them, have the right shapes and are finite.
    """
    found = list(_unbalanced(shop))
    for index, task in enumerate(shop.tasks):
        found += _wrong(shop, task)
        progress("verifying", index + 1, len(shop.tasks))
    known = {shop.folder.model(task).name for task in shop.tasks}
    strays = sorted(path.name for path in (shop.folder.path / "models").glob("*.safetensors") if path.name not in known)
    return found + [f"models/{name} belongs to no task of the plan: made under another one" for name in strays]


def _unbalanced(shop: Workshop) -> Iterator[str]:
    size = len(shop.pool.examples)
    times = np.zeros(size, dtype=np.int64)
    for number in range(shop.plan.count):
        times[members(shop.plan, number, size)] += 1
    if not (times == shop.plan.count // 2).all():
        yield f"{int((times != shop.plan.count // 2).sum())} examples are not in exactly half of the models"


def _wrong(shop: Workshop, task: Task) -> list[str]:
    """Return what is wrong with the files of one task; files that are not there yet are not wrong."""
    folder = shop.folder
    if not folder.model(task).exists():
        return [f"{folder.signals(task)} is there without its model"] if folder.signals(task).exists() else []
    try:
        checkpoint = read_checkpoint(folder.model(task))
        broken = nonfinite(checkpoint.state)
        if broken:
            return [f"{checkpoint.path}: weights are not finite"]
        if checkpoint.metadata is None or checkpoint.metadata.model != shop.plan.model:
            return [f"{checkpoint.path} is no {shop.plan.model} of this fleet"]
        if not folder.signals(task).exists():
            return []
        plain, queried = read_signals(folder.signals(task), shop.plan, checkpoint.sha256)
    except AuditError as problem:
        return [str(problem)]
    rows = len(shop.pool.examples) + len(shop.pool.population)
    wanted = ((rows, shop.dataset.classes), (len(shop.pool.targets), shop.plan.queries, shop.dataset.classes))
    if (plain.shape, queried.shape) != wanted:
        return [f"{folder.signals(task)}: shapes {plain.shape} and {queried.shape}, not {wanted[0]} and {wanted[1]}"]
    if not (np.isfinite(plain).all() and np.isfinite(queried).all()):
        return [f"{folder.signals(task)}: logits are not finite"]
    return []
