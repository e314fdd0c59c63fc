"""Running a fleet: worker processes on this machine or on a Ray cluster, watched through the folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.progress import Progress, silent
from unlearn_audit.shadows.plan import Task
from unlearn_audit.shadows.work import Workshop

__all__ = ["Outcome", "default_workers", "run_on_ray", "run_workers"]

MOST_DEATHS = 3  # of workers without a task finished in between
TICK = 0.2
START = "from unlearn_audit.cli import main; main()"


@dataclass(frozen=True)
class Outcome:
    """What became of the tasks.

    Attributes:
        done: finished in this run.
        reused: finished before.
        failed: task -> why.
        waiting: neither, because what they need failed or another machine is at work on them.
        seconds: of wall time.
    """

    done: int
    reused: int
    failed: Mapping[Task, str]
    waiting: int
    seconds: float


def default_workers() -> int:
    """Return how many workers suit this machine: one a GPU, else one a CPU core that this process may use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else _cores()


def run_workers(
    shop: Workshop, *, workers: int | None = None, progress: Progress = silent, clock: Any = time.monotonic
) -> Outcome:
    """Start workers, one a device or core, and wait until nothing is left to do; a worker that dies is replaced.

    Args:
        shop: the fleet.
        workers: how many processes; default: `default_workers`, and never more than there is work.
        progress: told of finished models.
        clock: tells seconds.

    Raises:
        MeasurementError: workers die, one after the other, without finishing anything.
    """
    began, all_tasks = clock(), shop.tasks
    before = _finished(shop)
    shop.folder.forgive()
    left = len(all_tasks) - before
    size = min(workers or default_workers(), max(1, left))
    if left:
        with _crew(shop, size) as crew:
            _watch(shop, crew, progress)
    return _outcome(shop, before, clock() - began)


def _finished(shop: Workshop) -> int:
    return sum(shop.folder.finished(task) for task in shop.tasks)


def _outcome(shop: Workshop, before: int, seconds: float) -> Outcome:
    failed = {task: why.message for task in shop.tasks if (why := shop.folder.failed(task))}
    done = _finished(shop)
    return Outcome(done - before, before, failed, len(shop.tasks) - done - len(failed), seconds)


class _Crew:
    """Worker processes, each with its share of the machine."""

    def __init__(self, shop: Workshop, size: int) -> None:
        self.shop, self.size = shop, size
        self.processes = [self._start(slot) for slot in range(size)]

    def _start(self, slot: int) -> subprocess.Popen[bytes]:
        """Start a worker; which GPU and how many threads it gets must be known before it imports torch."""
        threads = str(max(1, _cores() // self.size))
        share = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
        share["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        if torch.cuda.is_available() and self.shop.compute.device.type == "cuda":
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            names = visible if visible != [""] else [str(n) for n in range(torch.cuda.device_count())]
            share["CUDA_VISIBLE_DEVICES"] = names[slot % len(names)]
        code = ["--allow-code"] if self.shop.allow_code else []
        command = [sys.executable, "-c", START, "shadows", "worker", str(self.shop.folder.path), "--quiet", *code]
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH")) if part)
        environment = os.environ | share | {"PYTHONPATH": path}
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    def replace_dead(self) -> list[str]:
        """Start a new worker for each that was killed or broke down; return what the dead ones said last."""
        told = []
        for slot, process in enumerate(self.processes):
            if process.poll() not in (None, 0):
                told.append(_last_words(process))
                self.processes[slot] = self._start(slot)
        return told

    @property
    def at_work(self) -> bool:
        """Whether any worker has not ended of its own accord."""
        return any(process.poll() != 0 for process in self.processes)

    def dismiss(self) -> None:
        """Ask all to end, then make them."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stderr:
                process.stderr.close()


def _cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _last_words(process: subprocess.Popen[bytes]) -> str:
    said = process.stderr.read().decode(errors="replace").strip().splitlines() if process.stderr else []
    if process.stderr:
        process.stderr.close()
    code = process.returncode
    return said[-1] if said else f"killed by signal {-code}" if code < 0 else f"ended with {code}"


@contextmanager
def _crew(shop: Workshop, size: int) -> Iterator[_Crew]:
    crew = _Crew(shop, size)
    try:
        yield crew
    finally:
        crew.dismiss()


def _watch(shop: Workshop, crew: _Crew, progress: Progress) -> None:
    """Tell how far the folder is until every worker has ended; give up where they only die."""
    total, deaths, known = len(shop.tasks), 0, -1
    while crew.at_work:
        done = _finished(shop)
        if done != known:
            deaths, known = 0, done
            progress("shadow models", done, total, f"{crew.size} workers")
        told = crew.replace_dead()
        deaths += len(told)
        if deaths > MOST_DEATHS * crew.size:
            raise MeasurementError(f"the workers of {shop.folder.path} die without finishing anything: {told[-1]}")
        time.sleep(TICK)
    progress("shadow models", _finished(shop), total)


def run_on_ray(shop: Workshop, *, address: str | None = None, progress: Progress = silent) -> Outcome:
    """Let a Ray cluster do the work: each of its tasks is a worker on one task of the folder, which all nodes see.

    Args:
        shop: the fleet.
        address: of the cluster; None starts one on this machine.
        progress: told of finished models.

    Raises:
        UsageError: Ray is not installed.
    """
    try:
        ray = import_module("ray")
    except ModuleNotFoundError as missing:
        raise UsageError("--backend ray needs Ray: pip install 'unlearn-audit[ray]'") from missing
    began, before = time.monotonic(), _finished(shop)
    shop.folder.forgive()
    gpus = 1 if shop.compute.device.type == "cuda" else 0
    ray.init(address=address, include_dashboard=False, log_to_driver=False)
    try:
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=MOST_DEATHS)(_ray_worker)
        slots = max(1, int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1)))
        path = str(shop.folder.path.resolve())
        waiting = [remote.remote(path, shop.allow_code) for _ in range(min(slots, len(shop.tasks)))]
        while waiting:
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=TICK * 5)
            progress("shadow models", _finished(shop), len(shop.tasks), f"{len(waiting)} workers")
    finally:
        ray.shutdown()
    return _outcome(shop, before, time.monotonic() - began)


def _ray_worker(path: str, allow_code: bool) -> int:
    """Work on a fleet's folder on one node of a cluster."""
    from unlearn_audit.shadows.work import open_workshop, work_until_done

    return work_until_done(open_workshop(Path(path), allow_code=allow_code))
