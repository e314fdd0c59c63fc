"""Making the models of an audit on a Ray cluster: all at once that do not need each other.

A model is a task, and comes to the file that `make_models` would make it to, on one CPU thread. Those whose parents are
there are made first, then those that start from them. A task whose node is lost is tried again on another one, and goes
on with the state that was kept.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unlearn_audit.audit.build_models import make_models, models_to_make
from unlearn_audit.config import Resolved
from unlearn_audit.engine import one_thread, setup_device
from unlearn_audit.engine.cluster import RETRIES, ray_cluster, slots
from unlearn_audit.errors import AuditError, MeasurementError
from unlearn_audit.progress import Progress, silent

TICK = 1.0  # seconds between two looks


def make_models_on_ray(
    request: Resolved,
    folder: Path,
    *,
    workers: int | None = None,
    address: str | None = None,
    progress: Progress = silent,
) -> None:
    """Make what `[[train]]` and `[[apply]]` ask for and is not there, on a cluster whose nodes all see the folder.

    Args:
        request: the configuration.
        folder: of the audit.
        workers: how many models to make at once; default: one a GPU, or one a CPU core, of the cluster.
        address: of the cluster; None starts one on this machine.
        progress: callback, called when a model is finished.

    Raises:
        UsageError: Ray is not installed.
        MeasurementError: models cannot be made; those that do not need them are made all the same.
    """
    if not (request.config.train or request.config.apply) or not _ready(request, folder):
        return
    gpus = int(setup_device(request.config.device, request.config.precision).device.type == "cuda")
    with ray_cluster(address) as ray:
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(make_one)
        at_once, failed = workers or slots(ray, gpus=gpus), dict[str, str]()
        while labels := [label for label in _ready(request, folder) if label not in failed]:
            failed |= _wave(ray, task, labels, at_once, request=request, folder=folder, progress=progress)
            missing = [label for label in _ready(request, folder) if label in labels and label not in failed]
            failed |= dict.fromkeys(missing, f"it is not in {folder} afterwards: do all nodes see that folder?")
    if failed:
        raise MeasurementError("; ".join(f"{label}: {why}" for label, why in sorted(failed.items())))


def _ready(request: Resolved, folder: Path) -> list[str]:
    """Return the labels of the models that are not there and could be made now: what they start from is there."""
    return [one.entry.label for one in models_to_make(request, folder) if one.path is not None and not one.is_there]


def _wave(
    ray: Any,
    task: Any,
    labels: Sequence[str],
    at_once: int,
    *,
    request: Resolved,
    folder: Path,
    progress: Progress,
) -> dict[str, str]:
    """Make models that do not need each other, so many at once; return those that failed, and why."""
    given = (request.config, dict(request.origins), str(folder.resolve()), os.getcwd())
    left, running, failed, done = list(labels), dict[Any, str](), dict[str, str](), 0
    while left or running:
        while left and len(running) < at_once:
            label = left.pop(0)
            running[task.remote(label, *given)] = label
        for ended in ray.wait(list(running), num_returns=1, timeout=TICK)[0]:
            label = running.pop(ended)
            done += 1
            try:
                why = ray.get(ended)
            except Exception as problem:  # of Ray, or of what nobody foresaw in a task
                why = str(problem).strip().splitlines()[-1]
            if why:
                failed[label] = why
        progress("models", done, len(labels), ", ".join(running.values()))
    return failed


def make_one(label: str, config: Any, origins: dict[str, str], folder: str, here: str) -> str | None:
    """Make one model, on a node of a cluster, and return why that cannot be, if so.

    Args:
        label: of the model.
        config: the configuration.
        origins: where its keys came from.
        folder: of the audit.
        here: the folder that the command was given in, which relative paths start from.
    """
    os.chdir(here)
    try:
        with one_thread():
            make_models(_alone(Resolved(config, origins), label), Path(folder))
    except AuditError as problem:
        return str(problem)
    return None


def _alone(request: Resolved, label: str) -> Resolved:
    """Return the request with no models but one and those that it starts from."""
    wanted = {label}
    for entry in reversed(request.config.apply):
        if entry.label in wanted:
            wanted.add(entry.to)
    kept = {name: tuple(entry for entry in getattr(request.config, name) if entry.label in wanted)
            for name in ("train", "apply")}  # fmt: skip
    return Resolved(request.config.model_copy(update=kept), request.origins)
