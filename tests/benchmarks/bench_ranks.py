"""What do more processes gain? One relearning curve on one and on several processes, in turn, and that both are equal.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_ranks.py --processes 2 --images 128 --chunk 16 --steps 2 --pairs 3

Wall time says what this machine gained just then, as far as its cores were free. CPU time of the busiest process over
that of the only one says what free cores would have gained, since a process waits for messages without computing.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import distributed

from unlearn_audit.data import Examples, Transform
from unlearn_audit.engine import Device, Ranks
from unlearn_audit.models.cifar import resnet20
from unlearn_audit.relearning import Run, relearn


class Arm(NamedTuple):
    """Seconds of wall time and CPU time, of the process that had most of each, and the losses' bytes."""

    wall: float
    cpu: float
    losses: bytes


def curve(rank: int, size: int, arguments: argparse.Namespace, folder: Path) -> None:
    """Take the curve as one of so many processes, and write down what it took."""
    if size > 1:
        store = distributed.FileStore(str(folder / "store"), size)
        distributed.init_process_group("cpu:gloo", store=store, rank=rank, world_size=size)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (arguments.images, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (arguments.images,))
    run = Run(resnet20(classes=10, channels=3), Examples(images, labels, labels), Transform((0.5,) * 3, (0.25,) * 3))
    compute = Device(torch.device("cpu"), chunk=arguments.chunk, ranks=Ranks(rank, size))
    relearn(run, steps=0, step_size=0.01, compute=replace(compute, ranks=Ranks()))  # what only the first pass costs
    wall, cpu = time.perf_counter(), time.process_time()
    found = relearn(run, steps=arguments.steps, step_size=0.01, compute=compute)
    took = (time.perf_counter() - wall, time.process_time() - cpu)
    np.savez(folder / f"{rank}.npz", took=took, losses=found.loss)
    os._exit(0)


def arm(size: int, arguments: argparse.Namespace) -> Arm:
    """Return what the curve took on so many processes."""
    with tempfile.TemporaryDirectory() as name:
        folder, fork = Path(name), multiprocessing.get_context("fork")
        started = [fork.Process(target=curve, args=(rank, size, arguments, folder)) for rank in range(size)]
        for process in started:
            process.start()
        for process in started:
            process.join()
        told = [np.load(folder / f"{rank}.npz") for rank in range(size)]
        wall, cpu = np.max([each["took"] for each in told], axis=0)
        return Arm(float(wall), float(cpu), told[0]["losses"].tobytes())


def main() -> None:
    """Take pairs of both arms in turn and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("processes", 2), ("images", 128), ("chunk", 16), ("steps", 2), ("pairs", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pairs = [(arm(1, arguments), arm(arguments.processes, arguments)) for _ in range(arguments.pairs)]
    same = all(one.losses == other.losses for one, other in pairs)
    print(f"losses on 1 and {arguments.processes} processes: {'the same bits' if same else 'DIFFERENT'}")
    for kind in ("wall", "cpu"):
        ratios = sorted(getattr(one, kind) / getattr(other, kind) for one, other in pairs)
        print(f"{kind} time: {statistics.median(ratios):.2f} times as fast [{ratios[0]:.2f}, {ratios[-1]:.2f}]")


if __name__ == "__main__":
    main()
