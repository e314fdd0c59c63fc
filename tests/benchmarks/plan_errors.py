"""How wrong are plans? What `--plan` says that small runs take on this machine, against what they took.

    OMP_NUM_THREADS=1 python tests/benchmarks/plan_errors.py --rounds 3

Planned is a step timed on its own times the number of gradients, as `audit --plan` and `rcd --plan` have it. Both are
taken in CPU time on one thread, in turn, so that what else the machine does counts less. It is the part of the model
that can be measured without GPUs: operations and their rate. What it says of cards rests on their stated rates.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import NamedTuple

import torch

from unlearn_audit.audit import cost
from unlearn_audit.data import Dataset, Examples
from unlearn_audit.engine import Device, setup_device
from unlearn_audit.generation import task_of
from unlearn_audit.relearning import Run, relearn
from unlearn_audit.training import new_model, pick_recipe, train


class Work(NamedTuple):
    """A small run: what it is, of which model on which data, how many gradients it takes, and how to do it."""

    name: str
    spec: str
    dataset: Dataset
    gradients: int
    do: Callable[[], object]


def noise(count: int, size: int) -> Dataset:
    """Return a data set of random colour images."""
    torch.manual_seed(0)
    images, labels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8), torch.arange(count) % 10
    examples = Examples(images, labels, labels)
    return Dataset("noise", examples, examples, 10, (0.5,) * 3, (0.25,) * 3, "0" * 64)


def works(compute: Device) -> Iterator[Work]:
    """Yield small runs of curves and of training."""
    for spec, count, size, steps in (
        ("small-cnn", 512, 28, 10),
        ("resnet20", 128, 32, 4),
        ("torchvision:resnet18", 32, 64, 3),
    ):
        dataset = noise(count, size)
        model = new_model(spec, dataset, 0, compute=compute)
        run = Run(model, dataset.train, dataset.transform)
        yield Work(f"rcd, {spec}, {count} images, K = {steps}", spec, dataset, count * steps,
                   lambda run=run, steps=steps: relearn(run, steps=steps, step_size=1e-3, compute=compute))  # fmt: skip
    dataset, recipe = noise(1024, 28), pick_recipe("small", "small-cnn", epochs=2)
    rows = torch.arange(1024).numpy()
    yield Work("a shadow model, small-cnn, 1,024 images, 2 epochs", "small-cnn", dataset, 2048,
               lambda: train("small-cnn", dataset, rows, recipe, seed=0, compute=compute))  # fmt: skip


def main() -> None:
    """Print planned and taken time of each run, and their ratio over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    cost.time = SimpleNamespace(perf_counter=time.process_time)
    compute = setup_device("cpu")
    for work in works(compute):
        model = new_model(work.spec, work.dataset, 0, compute=compute)
        pairs = []
        for _ in range(rounds):
            planned = work.gradients * cost._price(cost._Network(model, task_of(model)), work.dataset, compute).seconds
            began = time.process_time()
            work.do()
            pairs.append((planned, time.process_time() - began))
        ratios = sorted(planned / taken for planned, taken in pairs)
        print(
            f"{work.name}: planned {pairs[0][0]:.1f} s, took {pairs[0][1]:.1f} s; planned / taken "
            f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
        )


if __name__ == "__main__":
    main()
