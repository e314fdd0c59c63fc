"""How fast is a relearning curve? K full-batch steps of ResNet-20 against the loop that is usually written.

The usual loop holds float tensors in a DataLoader, takes a separate evaluation pass in each step, and steps with the
gradient accumulated over its minibatches, in evaluation mode, so that both compute the same numbers; that they do is
checked. Both take their steps in turn in one process, so that whatever else the machine does hits both alike.

    OMP_WAIT_POLICY=PASSIVE python tests/benchmarks/bench_relearning.py --images 1000 --steps 20 --threads 1
"""

import argparse
import copy
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from unlearn_audit.data import Examples, Transform, load_data
from unlearn_audit.engine import Device, setup_device
from unlearn_audit.models.cifar import resnet20
from unlearn_audit.relearning import Run, relearn

SIZE = 1024  # of the square matrix product whose rate is the yardstick
SAME = 1e-5  # largest relative difference of two losses that count as the same number


class Timed(NamedTuple):
    """Seconds of each step and the losses of t = 0..K, of one arm."""

    seconds: list[float]
    losses: list[float]


class Compared(NamedTuple):
    """Both arms, and the seconds of a matrix product taken after each step: what the machine could do just then."""

    ours: Timed
    usual: Timed
    product: list[float]

    @property
    def largest_difference(self) -> float:
        """The largest relative difference of the two curves."""
        return max(abs(a - b) / abs(b) for a, b in zip(self.ours.losses, self.usual.losses, strict=True))


def usual_loop(
    run: Run, *, steps: int, step_size: float, batch_size: int, compute: Device | None = None
) -> Iterator[float]:
    """Yield the loss before each step and after the last, the way it is usually computed; on the CPU, or elsewhere."""
    compute = compute or setup_device("cpu")
    model = copy.deepcopy(run.model).to(compute.device).eval()
    data = TensorDataset(run.transform(run.examples.images), run.examples.labels)
    loader = DataLoader(data, batch_size=batch_size, pin_memory=compute.device.type == "cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=step_size)

    def losses() -> Iterator[Tensor]:
        for batch in loader:
            images, labels = (each.to(compute.device, non_blocking=True) for each in batch)
            with compute.autocast():
                logits = model(images)
            yield functional.cross_entropy(logits.float(), labels, reduction="sum")

    for step in range(steps + 1):
        with torch.no_grad():
            total = sum(float(loss) for loss in losses())
        if step < steps:
            optimizer.zero_grad()
            for loss in losses():
                torch.autograd.backward(loss / len(data))
            optimizer.step()
        yield total / len(data)


def compare(run: Run, *, steps: int, step_size: float, batch_size: int) -> Compared:
    """Take both curves in turn, a step of each at a time."""
    usual = usual_loop(run, steps=steps, step_size=step_size, batch_size=batch_size)
    ours, theirs, product = Timed([], []), Timed([], []), []
    left, right = torch.randn(2, SIZE, SIZE)
    started = time.perf_counter()

    def after_step(task: str, done: int, total: int, note: str = "") -> None:
        nonlocal started
        between = time.perf_counter()
        ours.seconds.append(between - started)
        theirs.losses.append(next(usual))
        middle = time.perf_counter()
        theirs.seconds.append(middle - between)
        torch.mm(left, right)
        started = time.perf_counter()
        product.append(started - middle)

    curve = relearn(run, steps=steps, step_size=step_size, compute=setup_device("cpu"), progress=after_step)
    ours.losses.extend(curve.loss.tolist())
    return Compared(ours, theirs, product)


def flops_of_image(model: nn.Module, image: Tensor) -> tuple[int, int]:
    """Return the operations of one forward pass and of one forward and backward pass, 2 per multiply-add."""
    counted = []
    for backward in (False, True):
        with FlopCounterMode(display=False) as counter:
            output = model(image)
            if backward:
                torch.autograd.backward(output.sum())
        counted.append(counter.get_total_flops())
    return counted[0], counted[1]


def random_images(count: int, channels: int = 3, size: int = 32) -> Examples:
    """Return random images and labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return Examples(images, labels, labels.clone())


def fashion_mnist(count: int) -> Examples | None:
    """Return the first training images of Fashion-MNIST where its files are at hand."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("UNLEARN_AUDIT_TEST_DATA", default)) / "fashion_mnist"
    return load_data(f"idx:{folder}?train={count}").train if folder.is_dir() else None


def report(name: str, run: Run, found: Compared) -> None:
    """Print medians, ratios, the floor, and which share of a matrix product's rate each arm reached."""
    ours, usual = found.ours, found.usual
    n, steps = len(run.examples), len(ours.losses) - 1
    forward, both = flops_of_image(copy.deepcopy(run.model), run.transform(run.examples.images[:1]))
    floor = steps * n * both + n * forward
    rate = 2 * SIZE**3 / statistics.median(found.product)
    medians = [statistics.median(arm.seconds[:-1]) for arm in (ours, usual)]
    shares = [n * both / median / rate for median in medians]
    sys.stdout.write(
        f"{name}: n = {n}, K = {steps}, {torch.get_num_threads()} threads, {ours.losses[0]:.4f} -> "
        f"{ours.losses[-1]:.4f} nats, largest relative difference of a loss {found.largest_difference:.1e}\n"
        f"  seconds per step, median: ours {medians[0]:.3f}, usual {medians[1]:.3f}, "
        f"ratio {medians[1] / medians[0]:.2f}\n"
        f"  seconds in all: ours {sum(ours.seconds):.1f}, usual {sum(usual.seconds):.1f}, "
        f"ratio {sum(usual.seconds) / sum(ours.seconds):.2f}\n"
        f"  floor: {floor / 1e9:.1f} GFLOP ({forward / 1e6:.1f} MFLOP forward, {both / 1e6:.1f} with backward), "
        f"{floor / rate:.1f} s at the {rate / 1e9:.0f} GFLOP/s of a matrix product; reached of that rate: "
        f"ours {shares[0]:.0%}, usual {shares[1]:.0%}\n"
    )


def main() -> None:
    """Measure on random images, and on Fashion-MNIST where it is at hand."""
    flags = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    flags.add_argument("--images", type=int, default=1000)
    flags.add_argument("--steps", type=int, default=20)
    flags.add_argument("--threads", type=int, default=torch.get_num_threads())
    # Above 2 / lambda_max (0.003 here) rounding grows from step to step, and no two ways of computing agree.
    flags.add_argument("--step-size", type=float, default=3e-4)
    flags.add_argument("--batch-size", type=int, default=128, help="of the usual loop")
    flags.add_argument("--data", choices=["random", "fashion"], nargs="+", default=["random", "fashion"])
    asked = flags.parse_args()
    torch.set_num_threads(asked.threads)
    for name in asked.data:
        examples = random_images(asked.images) if name == "random" else fashion_mnist(asked.images)
        if examples is None:
            sys.stdout.write("fashion: not at hand; set UNLEARN_AUDIT_TEST_DATA\n")
            continue
        torch.manual_seed(0)
        channels = examples.images.shape[1]
        run = Run(
            resnet20(classes=10, channels=channels).eval(), examples, Transform((0.5,) * channels, (0.25,) * channels)
        )
        found = compare(run, steps=asked.steps, step_size=asked.step_size, batch_size=asked.batch_size)
        if found.largest_difference > SAME:
            raise SystemExit(f"{name}: the two curves differ by {found.largest_difference:.1e}, more than {SAME}")
        report(name, run, found)


if __name__ == "__main__":
    main()
