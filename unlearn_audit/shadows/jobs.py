"""Doing one job of a fleet: train a shadow model or put it through a treatment, then ask it about everything."""

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
from unlearn_audit.engine import Device, derive_seed, predict, setup_device
from unlearn_audit.errors import AuditError, CheckpointError, DataError, MeasurementError, OutputError, UsageError
from unlearn_audit.files import atomic_write
from unlearn_audit.generation import task_of
from unlearn_audit.methods import Method, Unlearned, UnlearningContext, on_kind
from unlearn_audit.methods.adjacent import with_retained
from unlearn_audit.methods.apply import parse_settings
from unlearn_audit.methods.generators import kind_of
from unlearn_audit.methods.resume import StateFile
from unlearn_audit.models import load_state
from unlearn_audit.progress import Progress, silent
from unlearn_audit.shadows.folder import FleetFolder
from unlearn_audit.shadows.plan import PLAN_NAME, FleetPlan, Job, Treatment, all_jobs, members, read_plan
from unlearn_audit.step_transforms import parse_extras
from unlearn_audit.training import describe, new_model, train

SAVE_EVERY = 60.0  # seconds between two writes of what an unfinished training goes on with


@dataclass(frozen=True, eq=False)
class FleetContext:
    """Everything that the jobs of a fleet share, loaded once a worker.

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
    compute: Device
    allow_code: bool = False

    @property
    def pooled(self) -> Dataset:
        """The data with the pool as its training set, normalised as the target's."""
        return replace(self.dataset, train=self.pool.examples, mean=self.plan.mean, std=self.plan.std)

    @cached_property
    def jobs(self) -> list[Job]:
        """All work, done or not."""
        return all_jobs(self.plan, len(self.pool.examples))


def open_fleet_context(path: Path, *, allow_code: bool = False, lease: float | None = None) -> FleetContext:
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
    return FleetContext(folder, plan, dataset, splits, pool, setup_device(plan.device, plan.precision), allow_code)


def work(context: FleetContext, progress: Progress = silent) -> int:
    """Do what is left to do and nobody else is at work on; return how many jobs were done here.

    A job that fails is recorded in the folder, and the others go on.

    Raises:
        OutputError: no space or no permission, which is no fault of a job.
    """
    context.folder.make()  # a folder that was handed over may hold links to elsewhere, or lack what was empty
    done = 0
    for job in context.jobs:
        if context.folder.finished(job) or context.folder.failed(job):
            continue
        if job.parent is not None and not context.folder.model(job.parent).exists():
            continue
        with context.folder.claimed(job) as ours:
            if ours and not context.folder.finished(job) and not context.folder.failed(job):
                done += _attempt(context, job, progress)
    return done


def work_until_done(context: FleetContext, progress: Progress = silent, *, wait: float = 1.0) -> int:
    """Work until every job is finished or given up; wait while only others are at work.

    Args:
        context: the fleet.
        progress: callback, called after each training step.
        wait: seconds between two looks.

    Returns:
        How many jobs were done here.
    """
    done = 0
    while True:
        found = work(context, progress)
        done += found
        if not undone(context):
            return done
        if not found:
            time.sleep(wait)


def undone(context: FleetContext) -> list[Job]:
    """Return the jobs that are still to be done and can be: neither they nor what they start from are given up."""
    folder = context.folder
    return [
        job
        for job in context.jobs
        if not folder.finished(job)
        and folder.failed(job) is None
        and (job.parent is None or folder.model(job.parent).exists() or folder.failed(job.parent) is None)
    ]


def _attempt(context: FleetContext, job: Job, progress: Progress) -> int:
    """Do one job; what went wrong is recorded: for good where it would go wrong again, whoever tried."""
    folder = context.folder
    try:
        if not folder.model(job).exists():
            _make_model(context, job, progress)
        folder.state(job).unlink(missing_ok=True)
        _ask(context, job)
    except OutputError:
        raise
    except AuditError as problem:  # a damaged file can be removed, and then all is well
        folder.record(job, problem, final=not isinstance(problem, CheckpointError))
        return 0
    except Exception as problem:  # the machine's fault, or the user's code's: this worker is not to be trusted further
        folder.record(job, problem, final=False)
        raise
    folder.failure(job).unlink(missing_ok=True)
    return 1


def _make_model(context: FleetContext, job: Job, progress: Progress) -> None:
    """Train or unlearn, and publish the checkpoint; a file that another worker published meanwhile stays."""
    model, metadata = _trained(context, job, progress) if job.treatment is None else _treated(context, job, progress)
    if nonfinite(model.state_dict()):
        raise MeasurementError(f"shadow {job.number + 1} has weights that are not finite after {job.kind}")
    target = context.folder.model(job)
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


def _inside(context: FleetContext, job: Job) -> NDArray[np.int64]:
    return members(context.plan, job.number, len(context.pool.examples))


def _trained(context: FleetContext, job: Job, progress: Progress) -> tuple[nn.Module, Metadata]:
    """Train a shadow model, from where a killed worker left it; a state that nobody can go on from is put away."""
    resumable = StateFile(context.folder.state(job), {"task": job.id}, resume=True, every=SAVE_EVERY, memory={})
    try:
        model = _train(context, job, resumable, progress)
    except (CheckpointError, UsageError):
        if resumable.last is not None or not resumable.path.exists():
            raise
        resumable.remove()
        model = _train(context, job, resumable, progress)
    except KeyboardInterrupt:
        resumable.write()
        raise
    return model, expected_metadata(context, job)


def _train(context: FleetContext, job: Job, resumable: StateFile, progress: Progress) -> nn.Module:
    return train(
        context.plan.model,
        context.pooled,
        _inside(context, job),
        context.plan.training_recipe(),
        seed=_seed(context.plan, job),
        compute=context.compute,
        allow_code=context.allow_code,
        resumable=resumable,
        progress=progress,
        task=f"shadow {job.number + 1}",
    ).model


def _seed(plan: FleetPlan, job: Job) -> int:
    """Return the seed of a job, which nothing else shares."""
    if job.treatment is None:
        return derive_seed(plan.seed, "shadow", job.number)
    return derive_seed(plan.seed, "treatment", job.treatment.key, job.number)


def _treated(context: FleetContext, job: Job, progress: Progress) -> tuple[nn.Module, Metadata]:
    """Unlearn those of a shadow model's own examples that are attacked."""
    treatment = job.treatment
    if treatment is None or job.parent is None:
        raise MeasurementError(f"job {job.id} has nothing to unlearn")
    parent = read_model(context.folder.model(job.parent))
    model = _built(context, parent.state, str(parent.path))
    _unlearn(context, job, treatment, model, progress=progress)
    return model, expected_metadata(context, job).model_copy(update={"parent_sha256": parent.sha256})


def _unlearn(
    context: FleetContext,
    job: Job,
    treatment: Treatment,
    model: nn.Module,
    *,
    progress: Progress,
    count_only: bool = False,
) -> Unlearned:
    """Put a model through a treatment, or only tell what that takes."""
    asked: Method = catalogue.load("method", catalogue.METHODS, treatment.method)
    kind = kind_of(model)
    method = on_kind(asked, kind)
    by_class = method.whole_classes or (method.minds_classes and bool(context.splits.forgotten_classes))
    splits = _forgetting(context, job, whole_classes=by_class)
    unlearning = UnlearningContext(
        model,
        Transform(context.plan.mean, context.plan.std),
        with_retained(splits, treatment.settings.get("adjacent"), context.dataset),
        context.compute,
        _seed(context.plan, job),
        progress,
        spec=context.plan.model,
        recipe=context.plan.recipe,
        extras=tuple(parse_extras(treatment.transforms, kind)),
        count_only=count_only,
        task=task_of(model),
    )
    return method.run(unlearning, parse_settings(asked, treatment.settings, kind=kind))


def expected_gradients(context: FleetContext, job: Job) -> int:
    """Return how many gradients of single examples a job takes."""
    if job.treatment is None:
        return len(_inside(context, job)) * context.plan.training_recipe().epochs
    model = new_model(context.plan.model, context.pooled, 0, allow_code=context.allow_code, compute=context.compute)
    return _unlearn(context, job, job.treatment, model, progress=silent, count_only=True).gradient_evaluations


def _forgetting(context: FleetContext, job: Job, *, whole_classes: bool) -> Splits:
    """Return the sets of a treatment: forget the attacked examples that the model has seen, retain its others.

    By whole classes it forgets what else it has seen of the forget set, too, as the target did.
    """
    inside, targets = _inside(context, job), context.pool.targets
    chosen = np.union1d(targets, context.splits.forget.indices) if whole_classes else targets
    forget, retain = np.intersect1d(inside, chosen), np.setdiff1d(inside, chosen)
    if len(forget) == 0 or len(retain) == 0:
        raise MeasurementError(f"shadow model {job.number + 1} has nothing to forget, or nothing to retain")
    dataset = context.pooled
    if whole_classes:  # of what it was trained on, since the rest of the pool has examples of these classes as well
        dataset = replace(dataset, train=dataset.train.subset(inside))
        forget, retain = np.searchsorted(inside, forget), np.searchsorted(inside, retain)
    whole = replace(context.splits.forget, indices=forget)
    return replace(context.splits, dataset=dataset, forget=whole, measured=forget, retain=retain)


def _built(context: FleetContext, state: object, where: str) -> nn.Module:
    model = new_model(context.plan.model, context.pooled, 0, allow_code=context.allow_code, compute=context.compute)
    load_state(model, state, where=where)  # type: ignore[arg-type]
    return model.eval()


def expected_metadata(context: FleetContext, job: Job) -> Metadata:
    """Return what the checkpoint of a job says; its training set is the fleet's business, and named by the job."""
    treatment = job.treatment
    made: dict[str, Any] = {
        "role": "shadow-unlearned" if treatment else "shadow",
        "recipe": dict(context.plan.recipe),
        "seed": _seed(context.plan, job),
        "notes": (f"shadow model {job.number + 1} of a fleet, task {job.id}",),
        "tool_version": __version__,
    }
    if treatment:
        made |= {"method": treatment.method, "settings": treatment.settings, "transforms": treatment.transforms}
    return describe(context.plan.model, context.pooled).model_copy(update=made)


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


def _ask(context: FleetContext, job: Job) -> None:
    """Publish what the model says of the pool, of the population and of all views of the attacked examples."""
    checkpoint = read_model(context.folder.model(job))
    model = _built(context, checkpoint.state, str(checkpoint.path))
    transform, pool = Transform(context.plan.mean, context.plan.std), context.pool
    plain = [
        predict(model, part.images, transform, compute=context.compute) for part in (pool.examples, pool.population)
    ]
    plain_all = np.concatenate([part for part in plain if len(part)])
    if not np.isfinite(plain_all).all():
        raise MeasurementError(f"{checkpoint.path}: the model's outputs are not finite")
    images = pool.examples.images[torch.from_numpy(pool.targets)]
    views = [plain_all[pool.targets]] + [
        predict(model, images, _Query(transform, number), compute=context.compute)
        for number in range(1, context.plan.queries)
    ]
    stream = io.BytesIO()
    key = np.frombuffer(signals_key(context.plan, checkpoint.sha256).encode(), dtype=np.uint8)
    np.savez(stream, plain=plain_all, queried=np.stack(views, axis=1), key=key)
    atomic_write(context.folder.signals(job), stream.getvalue())


class _Query:
    """One view of an image as the model gets it."""

    def __init__(self, transform: Transform, number: int) -> None:
        self.transform, self.number = transform, number

    def __call__(self, images: Tensor) -> Tensor:
        """Return the view of a batch."""
        return query(self.transform(images), self.number)
