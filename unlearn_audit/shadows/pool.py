"""Running a fleet: worker processes on this machine or on a Ray cluster, watched through the folder."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from unlearn_audit.engine import Device
from unlearn_audit.engine.cluster import RETRIES, ray_cluster, slots
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.progress import Progress, silent
from unlearn_audit.shadows.jobs import FleetContext, undone
from unlearn_audit.shadows.plan import Job

MOST_DEATHS = 3  # of workers without a job finished in between
TICK = 0.2
PATIENCE = 10.0  # seconds that a worker has to write down what it has
# A worker imports this very package, wherever it lies, and nothing from the folder that it is started in: -P keeps that
# folder off the import path. The package's own folder is not put there either: a file `json.py` beside a checkout would
# come before Python's.
START = """
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
spec = PathFinder.find_spec("unlearn_audit", [sys.argv.pop(1)])
sys.modules[spec.name] = package = module_from_spec(spec)
spec.loader.exec_module(package)
from unlearn_audit.cli import main
main()
"""
PACKAGE = str(Path(__file__).resolve().parents[2])


@dataclass(frozen=True)
class FleetRun:
    """What became of the jobs.

    Attributes:
        done: finished in this run.
        reused: finished before.
        failed: jobs that are given up, and why.
        waiting: neither, because what they need failed or another machine is at work on them.
        seconds: of wall time.
    """

    done: int
    reused: int
    failed: tuple[tuple[Job, str], ...]
    waiting: int
    seconds: float


def default_workers(compute: Device) -> int:
    """Return how many workers suit this machine: one a GPU, else one a CPU core that this process may use.

    Args:
        compute: where to train; a GPU that is named by its number is one.
    """
    if compute.device.type == "cpu":
        return _cores()
    return torch.cuda.device_count() if str(compute.device) == "cuda" else 1


def run_workers(
    context: FleetContext, *, workers: int | None = None, progress: Progress = silent, clock: Any = time.monotonic
) -> FleetRun:
    """Start workers, one a device or core, and wait until nothing is left to do; a worker that dies is replaced.

    On a CPU each worker computes on one thread, unless OMP_NUM_THREADS says otherwise: with another number sums come
    out otherwise in the last bits, and a fleet would depend on how many workers it had.

    Args:
        context: the fleet.
        workers: how many processes; default: `default_workers`, and never more than there is work.
        progress: callback, called when a model is finished.
        clock: tells seconds.

    Raises:
        UsageError: less than one worker.
        MeasurementError: workers die, one after the other, without finishing anything.
    """
    began, before = clock(), _finished(context)
    context.folder.reset_attempts()
    context.folder.sweep()
    left = len(undone(context))
    size = _size(context, workers, left)
    if left:
        with _worker_pool(context, size) as pool:
            _watch(context, pool, progress)
    return _outcome(context, before, clock() - began)


def _size(context: FleetContext, workers: int | None, left: int) -> int:
    """Return how many workers to start."""
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be at least 1, not {workers}")
    return min(default_workers(context.compute) if workers is None else workers, max(1, left))


def _finished(context: FleetContext) -> int:
    return sum(context.folder.finished(job) for job in context.jobs)


def _outcome(context: FleetContext, before: int, seconds: float) -> FleetRun:
    unfinished = [job for job in context.jobs if not context.folder.finished(job)]
    failed = tuple((job, why.message) for job in unfinished if (why := context.folder.failed(job)))
    done = len(context.jobs) - len(unfinished)
    return FleetRun(done - before, before, failed, len(context.jobs) - done - len(failed), seconds)


class _Worker(NamedTuple):
    """A process, and where it says what went wrong: a file, since a pipe that nobody reads would stop it."""

    process: subprocess.Popen[bytes]
    said: IO[bytes]

    def last_error(self) -> str:
        """Return the last line that the process wrote, or how it ended."""
        self.said.seek(0)
        lines = self.said.read().decode(errors="replace").strip().splitlines()
        code = self.process.returncode
        return lines[-1] if lines else f"killed by signal {-code}" if code < 0 else f"ended with {code}"

    def close(self) -> None:
        """Close the log and the pipe to the worker."""
        self.said.close()
        if self.process.stdin:
            self.process.stdin.close()


class _WorkerPool:
    """Worker processes, each with its share of the machine; they end when this process does, however it ends."""

    def __init__(self, context: FleetContext, size: int) -> None:
        self.context, self.size = context, size
        self.workers: dict[int, _Worker] = {}

    def start(self) -> None:
        """Start all workers."""
        for slot in range(self.size):
            self.workers[slot] = self._start(slot)

    def _start(self, slot: int) -> _Worker:
        """Start a worker; it notices by the end of its stdin that this process is gone."""
        code = ["--allow-code"] if self.context.allow_code else []
        arguments = ["shadows", "worker", str(self.context.folder.path), "--quiet", "--crew", *code]
        said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", START, PACKAGE, *arguments],
            env=self._share(slot),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        return _Worker(process, said)

    def _share(self, slot: int) -> dict[str, str]:
        """Return the environment of a worker: its GPU and its threads must be known before it imports torch."""
        threads = os.environ.get("OMP_NUM_THREADS", "1")
        share = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
        share["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        if str(self.context.compute.device) == "cuda":  # any of them, and not one that is named by its number
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            names = visible if visible != [""] else [str(n) for n in range(torch.cuda.device_count())]
            share["CUDA_VISIBLE_DEVICES"] = names[slot % len(names)]
        return os.environ | share

    def replace_dead(self) -> list[str]:
        """Start a new worker for each that died; return the last error of each."""
        told = []
        for slot, worker in self.workers.items():
            if worker.process.poll() not in (None, 0):
                told.append(worker.last_error())
                worker.close()
                self.workers[slot] = self._start(slot)
        return told

    @property
    def at_work(self) -> bool:
        """Whether any worker has not ended of its own accord."""
        return any(worker.process.poll() != 0 for worker in self.workers.values())

    def stop(self) -> None:
        """Terminate all workers, then kill those that remain."""
        for worker in self.workers.values():
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGTERM)
        for worker in self.workers.values():
            try:
                worker.process.wait(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.close()


def _cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _worker_pool(context: FleetContext, size: int) -> Iterator[_WorkerPool]:
    pool = _WorkerPool(context, size)
    try:
        pool.start()
        yield pool
    finally:
        pool.stop()


def _watch(context: FleetContext, pool: _WorkerPool, progress: Progress) -> None:
    """Report progress until every worker has ended; give up when workers keep dying without finishing a job."""
    total, deaths, known = len(context.jobs), 0, -1
    while pool.at_work:
        done = _finished(context)
        if done != known:
            deaths, known = 0, done
            progress("shadow models", done, total, f"{pool.size} workers")
        told = pool.replace_dead()
        deaths += len(told)
        if deaths > MOST_DEATHS * pool.size:
            raise MeasurementError(
                f"the workers of {context.folder.path} keep dying without finishing a job; the last error: {told[-1]}"
            )
        time.sleep(TICK)
    progress("shadow models", _finished(context), total)


def run_on_ray(
    context: FleetContext, *, workers: int | None = None, address: str | None = None, progress: Progress = silent
) -> FleetRun:
    """Run the fleet on a Ray cluster; each Ray task is a worker on the folder, which all nodes must share.

    Args:
        context: the fleet.
        workers: number of concurrent workers; default: one per GPU, or one per CPU core of the cluster.
        address: of the cluster; None starts one on this machine.
        progress: callback, called when a model is finished.

    Raises:
        UsageError: Ray is not installed, or `workers` is less than one.
        MeasurementError: workers keep dying.
    """
    began, before = time.monotonic(), _finished(context)
    context.folder.reset_attempts()
    context.folder.sweep()
    left = len(undone(context))
    if not left:
        return _outcome(context, before, time.monotonic() - began)
    gpus = 1 if context.compute.device.type == "cuda" else 0
    with ray_cluster(address) as ray:
        size = _size(context, slots(ray, gpus=gpus) if workers is None else workers, left)
        worker = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_ray_worker)
        _watch_ray(ray, worker, size=size, context=context, progress=progress)
    return _outcome(context, before, time.monotonic() - began)


def _watch_ray(ray: Any, worker: Any, *, size: int, context: FleetContext, progress: Progress) -> None:
    """Report progress until every worker has ended; failed workers are replaced, up to a limit."""
    given, told = (str(context.folder.path.resolve()), context.allow_code), list[str]()
    waiting = [worker.remote(*given) for _ in range(size)]
    while waiting:
        ended, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=TICK * 5)
        for each in ended:
            try:
                ray.get(each)
            except Exception as problem:  # whatever a worker could not record for a job
                told.append(str(problem).strip().splitlines()[-1])
                waiting.append(worker.remote(*given))
        if len(told) > MOST_DEATHS * size:
            raise MeasurementError(f"the workers of {context.folder.path} keep dying; the last error: {told[-1]}")
        progress("shadow models", _finished(context), len(context.jobs), f"{len(waiting)} workers")


def _ray_worker(path: str, allow_code: bool) -> int:
    """Work on a fleet's folder on one node of a cluster."""
    from unlearn_audit.engine import one_thread
    from unlearn_audit.shadows.jobs import open_fleet_context, work_until_done

    with one_thread():
        return work_until_done(open_fleet_context(Path(path), allow_code=allow_code))
