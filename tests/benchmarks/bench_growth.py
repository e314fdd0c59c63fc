"""How do time and memory grow? Exponents on logarithmic axes: 1 where the work is proportional, 0 where nothing grows.

Time is the processor's, on one thread, since others may compute on the machine; every size is measured once a round,
rounds take turns, and each round has its own exponent (least squares): the figure is their median, with the lowest and
the highest. Fixed costs bend a line down, and caches bend it up: 1 ± .05 is linear.

Memory is the peak of the process while it works, beyond what it held before (Linux alone can be asked). Relearning K
steps, or many models, must not hold more than one step, or one model, does; a set beyond the room that it may take,
here a made-up megabyte, must not hold more than a chunk of it.

    python tests/benchmarks/bench_growth.py --rounds 3
"""

import argparse
import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from bench_relearning import random_images

from unlearn_audit.data import Dataset, Examples, Transform
from unlearn_audit.engine import one_thread, passes, setup_device
from unlearn_audit.models.cifar import CifarResNet
from unlearn_audit.models.small import small_cnn
from unlearn_audit.relearning import Run, relearn, relearn_all
from unlearn_audit.training import SMALL, Recipe, train

HALF = Transform((0.5,) * 3, (0.25,) * 3)
CPU = setup_device("cpu", chunk=64)
MADE_UP_ROOM = 2**20
KEPT = Path("/proc/self/clear_refs")

Work = Callable[[int], object]


class Axis(NamedTuple):
    """What grows, how far, and the work at one size."""

    name: str
    sizes: Sequence[int]
    work: Work


def run(images: int = 64, pixels: int = 8, blocks: int | None = None) -> Run:
    """Return a network, the small one or a ResNet of so many blocks a stage, and random images to relearn."""
    torch.manual_seed(0)
    shape = {"classes": 10, "channels": 3}
    model = small_cnn(**shape) if blocks is None else CifarResNet(blocks, **shape)
    return Run(model.eval(), random_images(images, size=pixels), HALF)


def curve(of: Run, steps: int = 4) -> object:
    """Relearn."""
    return relearn(of, steps=steps, step_size=1e-3, compute=CPU)


def fleet(count: int) -> None:
    """Train so many small networks."""
    some = random_images(128, size=8)
    data = Dataset("noise", some, some, 10, HALF.mean, HALF.std, "0" * 64)
    for seed in range(count):
        train("small-cnn", data, np.arange(128), Recipe(**SMALL.settings() | {"epochs": 3}), seed=seed, compute=CPU)


def many(count: int) -> object:
    """Let so many models relearn."""
    return relearn_all([run()] * count, steps=4, step_size=1e-3, compute=CPU)


def looked_at(images: int, room: int = MADE_UP_ROOM) -> None:
    """Look once at images that were there before, as those of a data set are, and may take so many bytes."""
    with patch.object(passes, "room", lambda device: room):
        passes.FullBatch(stored(images), HALF, compute=CPU).forward_backward(run(2).model)


@cache
def stored(images: int) -> Examples:
    """Return images of 16 x 16 pixels."""
    return random_images(images, size=16)


TIME = (
    Axis("images", (256, 512, 1024, 2048), lambda n: curve(run(n))),
    Axis("steps", (8, 16, 32, 64), lambda k: curve(run(), k)),
    Axis("models", (4, 8, 16, 32), many),
    Axis("shadow models", (1, 2, 4, 8), fleet),
    Axis("depth (parameters)", (4, 8, 16, 32), lambda blocks: curve(run(32, blocks=blocks), 2)),
)
MEMORY = (
    Axis("steps", (4, 16, 64, 256), lambda k: curve(run(16), k)),
    Axis("models", (1, 4, 16), many),
    Axis("images that stream", (256, 1024, 4096), looked_at),
    Axis("images that stay", (256, 1024, 4096), lambda n: looked_at(n, 2**40)),
)


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """Return the slope of a line through the logarithms.

    >>> round(exponent([1, 2, 4], [3.0, 12.0, 48.0]), 6)
    2.0
    """
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def times(axis: Axis, rounds: int) -> list[list[float]]:
    """Return the seconds of each size, round by round, after a first look at the smallest."""
    axis.work(axis.sizes[0])
    found: list[list[float]] = []
    for _ in range(rounds):
        found.append([])
        for size in axis.sizes:
            began = time.process_time()
            axis.work(size)
            found[-1].append(time.process_time() - began)
    return found


def peak(axis: Axis, size: int) -> int | None:
    """Return how many bytes more a piece of work has held at its peak, or None where nobody can say."""
    if not KEPT.exists():
        return None
    stored(size)
    axis.work(axis.sizes[0])  # whatever is made once
    ctypes.CDLL(None).malloc_trim(0)  # what was given back is held no more
    KEPT.write_text("5")  # forget the peak so far
    before = memory("VmRSS")
    axis.work(size)
    return max(0, memory("VmHWM") - before)


def memory(name: str) -> int:
    """Return a line of what the kernel tells of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def told(name: str, slopes: Sequence[float], largest: Mapping[int, float]) -> str:
    """Return a row of the table."""
    spread = f"[{min(slopes):.2f}, {max(slopes):.2f}]"
    ends = ", ".join(f"{size}: {seconds:.3g} s" for size, seconds in largest.items())
    return f"{name:20s} {statistics.median(slopes):5.2f} {spread:14s} {ends}\n"


def main() -> None:
    """Print both tables."""
    flags = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    flags.add_argument("--rounds", type=int, default=3)
    asked = flags.parse_args()
    with one_thread():
        sys.stdout.write("time against           exponent\n")
        for axis in TIME:
            found = times(axis, asked.rounds)
            medians = dict(zip(axis.sizes, map(statistics.median, zip(*found, strict=True)), strict=True))
            ends = {size: medians[size] for size in (axis.sizes[0], axis.sizes[-1])}
            sys.stdout.write(told(axis.name, [exponent(axis.sizes, each) for each in found], ends))
        sys.stdout.write("memory beside        at its peak, MiB\n")
        for axis in MEMORY:
            peaks = {size: peak(axis, size) for size in axis.sizes}
            words = ", ".join(
                f"{size}: {'?' if held is None else f'{held / 2**20:.2f}'}" for size, held in peaks.items()
            )
            sys.stdout.write(f"{axis.name:20s} {words}\n")


if __name__ == "__main__":
    main()
