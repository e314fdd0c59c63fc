"""Time of one IEU step against the bare minimum: forward-backward on retain, one on forget, one fused update.

The floor of a step is 3 x FLOPs of a forward pass over both batches, and one read and write of the weights; what this
tool adds to it is batches, noise, looks and the record. Both loops run in turns on the same data in one process, and
the ratio of the medians is the figure. A run of minutes, not a test:

    python tests/benchmarks/bench_step.py --model cifar-resnet18 --batch-size 128 --steps 40
"""

import argparse
import statistics
import time

import torch
from torch.nn import functional

from unlearn_audit.data import Dataset, Examples, make_splits
from unlearn_audit.engine import setup_device, trainable
from unlearn_audit.methods import UnlearningContext
from unlearn_audit.methods.ieu import IeuSettings, run_ieu
from unlearn_audit.training import new_model


def noise(n: int, seed: int) -> Examples:
    """Return n random 3 x 32 x 32 images of ten classes."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (n,), generator=generator)
    return Examples(images, labels, labels)


def bare(context: UnlearningContext, batch_size: int, steps: int) -> float:
    """Return the seconds of the least that a step can do, on one batch of each set, always the same."""
    model = context.model.train()
    optimizer = torch.optim.SGD(trainable(model).values(), lr=1e-3, fused=context.compute.device.type == "cuda" or None)
    batches = []
    for examples in (context.splits.retain_examples, context.splits.forget_examples):
        images = context.transform(examples.images[:batch_size].to(context.compute.device))
        labels = examples.labels[:batch_size].to(context.compute.device)
        batches.append((images.contiguous(memory_format=torch.channels_last), labels))
    wait(context)
    began = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        for (images, labels), weight in zip(batches, (1.0, -1e-3), strict=True):
            with context.compute.autocast():
                logits = model(images)
            torch.autograd.backward(weight * functional.cross_entropy(logits.float(), labels))
        optimizer.step()
    wait(context)
    return time.perf_counter() - began


def ours(context: UnlearningContext, batch_size: int, steps: int, alpha: float) -> float:
    """Return the seconds of as many steps of IEU."""
    settings = IeuSettings(alpha=alpha, c=1e-3, step_size=1e-3, steps=steps, batch_size=batch_size)
    wait(context)
    began = time.perf_counter()
    run_ieu(context, settings)
    wait(context)
    return time.perf_counter() - began


def wait(context: UnlearningContext) -> None:
    """Wait for the device."""
    if context.compute.device.type == "cuda":
        torch.cuda.synchronize(context.compute.device)


def main() -> None:
    """Print the ratio with and without noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cifar-resnet18")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    compute = setup_device(arguments.device, arguments.precision)
    size = arguments.batch_size
    dataset = Dataset("noise", noise(20 * size, 0), noise(2 * size, 1), 10, (0.5,) * 3, (0.25,) * 3, "0" * 64)
    splits = make_splits(dataset, f"range:0-{4 * size - 1}")
    model = compute.to_device(new_model(arguments.model, dataset, 0))
    context = UnlearningContext(model, dataset.transform, splits, compute, seed=0)
    taken: dict[str, list[float]] = {"bare": [], "ga": [], "ga+noisy": []}
    for index in range(arguments.rounds + 1):
        found = {
            "bare": bare(context, size, arguments.steps),
            "ga": ours(context, size, arguments.steps, alpha=1.0),
            "ga+noisy": ours(context, size, arguments.steps, alpha=0.9999),
        }
        if index:  # the first round warms up
            for name, seconds in found.items():
                taken[name].append(seconds / arguments.steps)
    medians = {name: statistics.median(each) for name, each in taken.items()}
    for name, median in medians.items():
        spread = f"[{min(taken[name]) * 1e3:.2f}, {max(taken[name]) * 1e3:.2f}]"
        print(f"{name:9s} {median * 1e3:9.2f} ms a step {spread}, ratio {median / medians['bare']:.3f}")


if __name__ == "__main__":
    main()
