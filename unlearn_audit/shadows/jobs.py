"""Doing one task of a fleet: train a shadow model or put it through a treatment, then ask it about everything."""

import io
import os
import secrets
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearn_audit import __version__, catalogue
from unlearn_audit.checkpoints import (
    Checkpoint,
    Metadata,
    check_finite,
    nonfinite,
    read_checkpoint,
    write_checkpoint,
)
from unlearn_audit.data import Dataset, Pool, Splits, Transform, load_data, make_pool, make_splits, old_subsets, query
from unlearn_audit.engine import Compute, derive_seed, predict, prepare
from unlearn_audit.errors import AuditError, CheckpointError, DataError, MeasurementError, OutputError, UsageError
from unlearn_audit.files import atomic_write
from unlearn_audit.methods import Method, Problem, Unlearned
from unlearn_audit.methods.apply import parse_settings
from unlearn_audit.methods.extras import parse_extras
from unlearn_audit.methods.resume import StateFile
from unlearn_audit.models import load_state
from unlearn_audit.progress import Progress, silent
from unlearn_audit.shadows.folder import FleetFolder
from unlearn_audit.shadows.plan import PLAN_NAME, FleetPlan, Task, Treatment, members, read_plan, tasks
from unlearn_audit.training import describe, new_model, train

__all__ = [
    "SAVE_EVERY",
    "Workshop",
    "expected_gradients",
    "expected_metadata",
    "open_workshop",
    "read_model",
    "signals_key",
    "undone",
    "work",
    "work_until_done",
]

SAVE_EVERY = 60.0  # seconds between two writes of what an unfinished training goes on with


@dataclass(frozen=True, eq=False)
class Workshop:
    """Everything that the tasks of a fleet share, loaded once a worker.

    Attributes:
        folder: of the fleet.
        plan: what it is to be.
        dataset: as it was loaded.
        splits: as the audit makes them.
        pool: what shadow models are trained on and asked about.
        compute: device and precision of training.
        allow_code: whether data and model may be callables of the user's.
    """

    folder: FleetFolder
    plan: FleetPlan
    dataset: Dataset
    splits: Splits
    pool: Pool
    compute: Compute
    allow_code: bool = False

    @property
    def pooled(self) -> Dataset:
        """The data with the pool as its training set, normalised as the target's."""
        return replace(self.dataset, train=self.pool.examples, mean=self.plan.mean, std=self.plan.std)

    @cached_property
    def tasks(self) -> list[Task]:
        """All work, done or not."""
        return tasks(self.plan, len(self.pool.examples))


def open_workshop(path: Path, *, allow_code: bool = False, lease: float | None = None) -> Workshop:
    """Load a fleet's data and check that it is still what was planned.

    Args:
        path: the fleet's folder.
        allow_code: whether the plan may name callables of the user's as data or model: it is a file, and a file must
            not choose code to run on its own.
        lease: seconds, see `FleetFolder`.

    Raises:
        UsageError: no fleet there.
        DataError: the data has changed.
    """
    plan = read_plan(path)
    folder = FleetFolder(path) if lease is None else FleetFolder(path, lease=lease)
    dataset = load_data(plan.data, allow_code=allow_code)
    if dataset.sha256 != plan.data_sha256:
        old = old_subsets(plan.data, plan.data_sha256, allow_code=allow_code)
        why = f"; {old} in {path / PLAN_NAME}" if old else "; plan a new one elsewhere"
        raise DataError(f"{plan.data} has changed since the fleet in {path} was planned{why}")
    splits = make_splits(
        dataset, str(path / "forget.npy"), unseen=str(path / "unseen.npy"), sample=plan.sample, seed=plan.seed
    )
    pool = make_pool(splits, seed=plan.seed)
    if pool.sha256 != plan.pool_sha256:
        sample = " (or its sample was drawn by version 0.1, which drew others)" if plan.sample else ""
        raise DataError(
            f"{path}: forget.npy or unseen.npy has changed since the fleet was planned{sample}; "
            "plan a new one elsewhere"
        )
    return Workshop(folder, plan, dataset, splits, pool, prepare(plan.device, plan.precision), allow_code)


def work(shop: Workshop, progress: Progress = silent) -> int:
    """Do what is left to do and nobody else is at work on; return how many tasks were done here.

    A task that fails is recorded in the folder, and the others go on.

    Raises:
        OutputError: no space or no permission, which is no fault of a task.
    """
    shop.folder.make()  # a folder that was handed over may hold links to elsewhere, or lack what was empty
    done = 0
    for task in shop.tasks:
        if shop.folder.finished(task) or shop.folder.failed(task):
            continue
        if task.parent is not None and not shop.folder.model(task.parent).exists():
            continue
        with shop.folder.claimed(task) as ours:
            if ours and not shop.folder.finished(task) and not shop.folder.failed(task):
                done += _attempt(shop, task, progress)
    return done


def work_until_done(shop: Workshop, progress: Progress = silent, *, wait: float = 1.0) -> int:
    """Work until every task is finished or given up; wait while only others are at work.

    Args:
        shop: the fleet.
        progress: told of training steps.
        wait: seconds between two looks.

    Returns:
        How many tasks were done here.
    """
    done = 0
    while True:
        found = work(shop, progress)
        done += found
        if not undone(shop):
            return done
        if not found:
            time.sleep(wait)


def undone(shop: Workshop) -> list[Task]:
    """Return the tasks that are still to be done and can be: neither they nor what they start from are given up."""
    folder = shop.folder
    return [
        task
        for task in shop.tasks
        if not folder.finished(task)
        and folder.failed(task) is None
        and (task.parent is None or folder.model(task.parent).exists() or folder.failed(task.parent) is None)
    ]


def _attempt(shop: Workshop, task: Task, progress: Progress) -> int:
    """Do one task; what went wrong is recorded: for good where it would go wrong again, whoever tried."""
    folder = shop.folder
    try:
        if not folder.model(task).exists():
            _make_model(shop, task, progress)
        folder.state(task).unlink(missing_ok=True)
        _ask(shop, task)
    except OutputError:
        raise
    except AuditError as problem:  # a damaged file can be removed, and then all is well
        folder.record(task, problem, final=not isinstance(problem, CheckpointError))
        return 0
    except Exception as problem:  # the machine's fault, or the user's code's: this worker is not to be trusted further
        folder.record(task, problem, final=False)
        raise
    folder.failure(task).unlink(missing_ok=True)
    return 1


def _make_model(shop: Workshop, task: Task, progress: Progress) -> None:
    """Train or unlearn, and publish the checkpoint; a file that another worker published meanwhile stays."""
    model, metadata = _trained(shop, task, progress) if task.treatment is None else _treated(shop, task, progress)
    if nonfinite(model.state_dict()):
        raise MeasurementError(f"shadow {task.number + 1} has weights that are not finite after {task.kind}")
    target = shop.folder.model(task)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        write_checkpoint(draft, model.state_dict(), metadata, force=True)
        _publish(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def _publish(draft: Path, target: Path) -> None:
    """Give a finished file its name; if it has one already, both must say the same."""
    try:
        os.link(draft, target)
    except FileExistsError:
        if target.read_bytes() != draft.read_bytes():
            raise CheckpointError(
                f"{target} was made twice and came out differently: this machine does not compute repeatably"
            ) from None
    except OSError as problem:
        raise OutputError(f"cannot write {target}: {problem.strerror or problem}") from problem


def _inside(shop: Workshop, task: Task) -> NDArray[np.int64]:
    return members(shop.plan, task.number, len(shop.pool.examples))


def _trained(shop: Workshop, task: Task, progress: Progress) -> tuple[nn.Module, Metadata]:
    """Train a shadow model, from where a killed worker left it; a state that nobody can go on from is put away."""
    keeper = StateFile(shop.folder.state(task), {"task": task.id}, resume=True, every=SAVE_EVERY, memory={})
    try:
        model = _train(shop, task, keeper, progress)
    except (CheckpointError, UsageError):
        if keeper.last is not None or not keeper.path.exists():
            raise
        keeper.remove()
        model = _train(shop, task, keeper, progress)
    except KeyboardInterrupt:
        keeper.write()
        raise
    return model, expected_metadata(shop, task)


def _train(shop: Workshop, task: Task, keeper: StateFile, progress: Progress) -> nn.Module:
    return train(
        shop.plan.model,
        shop.pooled,
        _inside(shop, task),
        shop.plan.training_recipe(),
        seed=_seed(shop.plan, task),
        compute=shop.compute,
        allow_code=shop.allow_code,
        keeper=keeper,
        progress=progress,
        task=f"shadow {task.number + 1}",
    )


def _seed(plan: FleetPlan, task: Task) -> int:
    """Return the seed of a task, which nothing else shares."""
    if task.treatment is None:
        return derive_seed(plan.seed, "shadow", task.number)
    return derive_seed(plan.seed, "treatment", task.treatment.key, task.number)


def _treated(shop: Workshop, task: Task, progress: Progress) -> tuple[nn.Module, Metadata]:
    """Unlearn those of a shadow model's own examples that are attacked."""
    treatment = task.treatment
    if treatment is None or task.parent is None:
        raise MeasurementError(f"task {task.id} has nothing to unlearn")
    parent = read_model(shop.folder.model(task.parent))
    model = _built(shop, parent.state, str(parent.path))
    _unlearn(shop, task, treatment, model, progress=progress)
    return model, expected_metadata(shop, task).model_copy(update={"parent_sha256": parent.sha256})


def _unlearn(
    shop: Workshop, task: Task, treatment: Treatment, model: nn.Module, *, progress: Progress, count_only: bool = False
) -> Unlearned:
    """Put a model through a treatment, or only tell what that takes."""
    method: Method = catalogue.load("method", catalogue.METHODS, treatment.method)
    problem = Problem(
        model,
        Transform(shop.plan.mean, shop.plan.std),
        _forgetting(shop, task),
        shop.compute,
        _seed(shop.plan, task),
        progress,
        spec=shop.plan.model,
        recipe=shop.plan.recipe,
        extras=tuple(parse_extras(treatment.transforms)),
        count_only=count_only,
    )
    return method.run(problem, parse_settings(method, treatment.settings))


def expected_gradients(shop: Workshop, task: Task) -> int:
    """Return how many gradients of single examples a task takes."""
    if task.treatment is None:
        return len(_inside(shop, task)) * shop.plan.training_recipe().epochs
    model = new_model(shop.plan.model, shop.pooled, 0, allow_code=shop.allow_code, compute=shop.compute)
    return _unlearn(shop, task, task.treatment, model, progress=silent, count_only=True).gradient_evaluations


def _forgetting(shop: Workshop, task: Task) -> Splits:
    """Return the sets of a treatment: forget the attacked examples that the model has seen, retain its others."""
    inside, targets = _inside(shop, task), shop.pool.targets
    forget = np.intersect1d(inside, targets)
    if len(forget) == 0 or len(forget) == len(inside):
        raise MeasurementError(f"shadow model {task.number + 1} has nothing to forget, or nothing to retain")
    whole = replace(shop.splits.forget, indices=forget)
    return replace(
        shop.splits, dataset=shop.pooled, forget=whole, measured=forget, retain=np.setdiff1d(inside, targets)
    )


def _built(shop: Workshop, state: object, where: str) -> nn.Module:
    model = new_model(shop.plan.model, shop.pooled, 0, allow_code=shop.allow_code, compute=shop.compute)
    load_state(model, state, where=where)  # type: ignore[arg-type]
    return model.eval()


def expected_metadata(shop: Workshop, task: Task) -> Metadata:
    """Return what the checkpoint of a task says; its training set is the fleet's business, and named by the task."""
    treatment = task.treatment
    made: dict[str, Any] = {
        "role": "shadow-unlearned" if treatment else "shadow",
        "recipe": dict(shop.plan.recipe),
        "seed": _seed(shop.plan, task),
        "notes": (f"shadow model {task.number + 1} of a fleet, task {task.id}",),
        "tool_version": __version__,
    }
    if treatment:
        made |= {"method": treatment.method, "settings": treatment.settings, "transforms": treatment.transforms}
    return describe(shop.plan.model, shop.pooled).model_copy(update=made)


def read_model(path: Path) -> Checkpoint:
    """Return a shadow model's checkpoint.

    Raises:
        CheckpointError: it cannot be read, or holds weights that are not finite; says how it is made anew.
    """
    try:
        checkpoint = read_checkpoint(path)
        check_finite(checkpoint)
    except CheckpointError as problem:
        raise CheckpointError(
            f"{problem}; remove {path.name}, and `unlearn-audit shadows run` makes it anew"
        ) from problem
    return checkpoint


def signals_key(plan: FleetPlan, model_sha256: str) -> str:
    """Return what a model's answers depend on, in one text; they are float32 whatever the training was."""
    return f"{model_sha256} {plan.pool_sha256} {plan.mean} {plan.std} {plan.queries} fp32"


def _ask(shop: Workshop, task: Task) -> None:
    """Publish what the model says of the pool, of the population and of all views of the attacked examples."""
    checkpoint = read_model(shop.folder.model(task))
    model = _built(shop, checkpoint.state, str(checkpoint.path))
    transform, pool = Transform(shop.plan.mean, shop.plan.std), shop.pool
    plain = [predict(model, part.images, transform, compute=shop.compute) for part in (pool.examples, pool.population)]
    plain_all = np.concatenate([part for part in plain if len(part)])
    if not np.isfinite(plain_all).all():
        raise MeasurementError(f"{checkpoint.path}: the model's outputs are not finite")
    images = pool.examples.images[torch.from_numpy(pool.targets)]
    views = [plain_all[pool.targets]] + [
        predict(model, images, _Query(transform, number), compute=shop.compute)
        for number in range(1, shop.plan.queries)
    ]
    stream = io.BytesIO()
    key = np.frombuffer(signals_key(shop.plan, checkpoint.sha256).encode(), dtype=np.uint8)
    np.savez(stream, plain=plain_all, queried=np.stack(views, axis=1), key=key)
    atomic_write(shop.folder.signals(task), stream.getvalue())


class _Query:
    """One view of an image as the model gets it."""

    def __init__(self, transform: Transform, number: int) -> None:
        self.transform, self.number = transform, number

    def __call__(self, images: Tensor) -> Tensor:
        """Return the view of a batch."""
        return query(self.transform(images), self.number)
