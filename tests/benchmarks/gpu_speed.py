"""How fast is a device? Relearning, a step of IEU, training, against their floors and against the usual loops.

A floor is the operations that the work consists of, over the rate at which the device multiplies matrices: that of the
list below where the card is one of it, else as it is measured here. Rounds of the arms of a comparison take turns, the
first round of each warms up, and figures are medians with the lowest and the highest round.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from bench_relearning import flops_of_image, random_images, usual_loop
from bench_step import bare, ours
from torch import nn

from unlearn_audit.data import Dataset, Examples, Transform, make_splits
from unlearn_audit.engine import Device, FullBatch, setup_device, trainable
from unlearn_audit.methods import UnlearningContext
from unlearn_audit.relearning import Run, relearn
from unlearn_audit.training import RESNET, Recipe, new_model, train

# Operations a second of a matrix product on these cards, 2 per multiply-add, and bytes a second of a copy. H200: bf16
# as an 8192^3 product reached it (769 to 798 TFLOP/s on random data), TF32 80 % of the data sheet's 495, FP32 90 % of
# its 67; of the data sheet's 4.8 TB/s a device copy reached 4.3.
CARDS: Mapping[str, Mapping[str, float]] = {"H200": {"fp32": 60e12, "tf32": 395e12, "bf16": 788e12, "copy": 4.3e12}}
HALF = Transform((0.5,) * 3, (0.25,) * 3)
STEP_SIZE = 3e-4
PASSES_OF_CONVOLUTIONS = 18  # times that an eager step reads or writes the outputs of its convolutions


class Size(NamedTuple):
    """How much is computed: enough for a GPU to be busy, or next to nothing."""

    model: str
    curves: str  # the model whose curves are compared
    pixels: int
    images: int
    steps: int
    rounds: int
    product: int  # rows of the square matrices that are multiplied
    batch: int  # examples of a step of IEU
    trained_on: int
    epochs: int  # that are taken; the recipe's are extrapolated


FULL = Size("cifar-resnet18", "resnet20", 32, 5000, 10, 3, 8192, 128, 25_000, 2)
TOY = Size("small-cnn", "small-cnn", 8, 16, 2, 1, 128, 4, 32, 1)


class Figure(NamedTuple):
    """One number that was measured.

    Attributes:
        name: dotted.
        value: None where it could not be had.
        unit: of value, low and high.
        low: the lowest round.
        high: the highest round.
        limit: the largest value that passes; None where nothing depends on it.
        aim: what is hoped for, in words.
        how: what was done, in words.
        reason: why there is no value; a fault, unless `excused`.
        excused: whether this device cannot have it.
    """

    name: str
    value: float | None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    aim: str = ""
    how: str = ""
    reason: str | None = None
    excused: bool = False


def median(name: str, rounds: list[float], unit: str, *, aim: str = "", how: str = "", digits: int = 4) -> Figure:
    """Return a figure with the spread of its rounds."""
    value, low, high = (float(f"{each:.{digits}g}") for each in (statistics.median(rounds), min(rounds), max(rounds)))
    return Figure(name, value, unit, low, high, aim=aim, how=how)


def wait(device: Device) -> None:
    """Wait for all work on a device."""
    if device.device.type == "cuda":
        torch.cuda.synchronize(device.device)


def seconds(device: Device, action: Callable[[], object]) -> float:
    """Return how long a piece of work takes, the device's share included."""
    wait(device)
    began = time.perf_counter()
    action()
    wait(device)
    return time.perf_counter() - began


def in_turns(device: Device, rounds: int, arms: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Time every arm once a round, after a round that warms up."""
    taken: dict[str, list[float]] = {name: [] for name in arms}
    for index in range(rounds + 1):
        for name, arm in arms.items():
            found = seconds(device, arm)
            if index:
                taken[name].append(found)
    return taken


def products(device: Device, size: Size) -> Iterator[tuple[str, float]]:
    """Yield the operations a second of a matrix product, by precision."""
    for precision in precisions(device):
        setup_device(str(device.device), precision)
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        left, right = torch.randn(2, size.product, size.product, device=device.device).to(kind)
        taken = in_turns(device, 5, {"product": lambda left=left, right=right: torch.mm(left, right)})
        yield precision, 2 * size.product**3 / statistics.median(taken["product"])


def precisions(device: Device) -> tuple[str, ...]:
    """Return the precisions that a device has."""
    return ("fp32", "tf32", "bf16") if device.device.type == "cuda" else ("fp32", "bf16")


def rates(device: Device, size: Size, card: str) -> Iterator[Figure]:
    """Tell how fast matrices are multiplied here, beside what is known of the card.

    Yields:
        A figure for each precision.
    """
    known = next((values for name, values in CARDS.items() if name in card), {})
    for precision, rate in products(device, size):
        how = f"product of {size.product}-row matrices" + (
            f"; floors use the listed {known[precision] / 1e12:g}" if precision in known else "; floors use this"
        )
        yield Figure(f"product.{precision}", round(rate / 1e12, 4), "TFLOP/s", how=how)


def relearning(device: Device, size: Size, card: str, measured: Mapping[str, float]) -> Iterator[Figure]:
    """Tell how fast curves are, in each precision.

    Args:
        device: where.
        size: of the work.
        card: its name.
        measured: operations a second of a matrix product, by precision.

    Yields:
        Figures of each precision.
    """
    run = Run(fresh(size), random_images(size.images, size=size.pixels), HALF)
    forward, both = flops_of_image(copy.deepcopy(run.model), HALF(run.examples.images[:1]))
    work = size.images * (size.steps * both + forward)
    listed = next((values for name, values in CARDS.items() if name in card), measured)
    for precision in precisions(device):
        compute = setup_device(str(device.device), precision)

        def usual(compute: Device = compute) -> list[float]:
            arm = usual_loop(run, steps=size.steps, step_size=STEP_SIZE, batch_size=128, compute=compute)
            return list(arm)

        def tool(compute: Device = compute) -> list[float]:
            return relearn(run, steps=size.steps, step_size=STEP_SIZE, compute=compute).loss.tolist()

        taken = in_turns(device, size.rounds, {"ours": tool, "usual": usual})
        speeds = [work / both / each for each in taken["ours"]]
        name, what = f"rcd.{precision}", f"{size.model}, n = {size.images}, K = {size.steps}"
        yield median(f"{name}.speed", speeds, "images/s", how=f"forward and backward; {what}")
        shares = [work / listed[precision] / each for each in taken["ours"]]
        yield median(f"{name}.share_of_floor", shares, "fraction", aim=">= .6", how=f"{both / 1e9:.3f} GFLOP an image")
        if "copy" in listed:
            moved = PASSES_OF_CONVOLUTIONS * outputs(run) * (2 if precision == "bf16" else 4) / listed["copy"]
            yield median(
                f"{name}.share_of_bytes", [moved * each for each in speeds], "fraction",
                how=f"{PASSES_OF_CONVOLUTIONS} passes over the outputs of convolutions at the rate of a copy",
            )  # fmt: skip
        ratios = [theirs / mine for mine, theirs in zip(taken["ours"], taken["usual"], strict=True)]
        yield median(f"{name}.of_usual", ratios, "ratio", aim=">= 1.6", how="seconds of the usual loop over ours")


def outputs(run: Run) -> int:
    """Return how many numbers the convolutions of a model make of one image."""
    counted: list[int] = []
    model = copy.deepcopy(run.model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, given, made: counted.append(made.numel()))
    with torch.no_grad():
        model(run.transform(run.examples.images[:1]))
    return sum(counted)


def fresh(size: Size) -> nn.Module:
    """Return the model of a size as it begins."""
    return new_model(size.model, noise(8, size.pixels), 0).eval()


def noise(count: int, pixels: int) -> Dataset:
    """Return random images of ten classes."""
    some = random_images(2 * count, size=pixels)
    train_set, held_out = (some.subset(np.arange(first, first + count)) for first in (0, count))
    return Dataset("noise", train_set, held_out, 10, HALF.mean, HALF.std, "0" * 64)


def stepping(device: Device, size: Size) -> Iterator[Figure]:
    """Tell what a step of IEU takes over the least that it can consist of.

    Yields:
        A figure for each precision.
    """
    dataset = noise(20 * size.batch, size.pixels)
    splits, steps = make_splits(dataset, f"range:0-{4 * size.batch - 1}"), 5 * size.steps
    for precision in precisions(device):
        compute = setup_device(str(device.device), precision)
        model = compute.to_device(new_model(size.model, dataset, 0))
        context = UnlearningContext(model, dataset.transform, splits, compute, seed=0)
        arms = {
            "bare": partial(bare, context, size.batch, steps),
            "ieu": partial(ours, context, size.batch, steps, 0.9999),
        }
        taken = in_turns(device, size.rounds, arms)
        ratios = [ours_ / bare_ for ours_, bare_ in zip(taken["ieu"], taken["bare"], strict=True)]
        yield median(f"ieu.{precision}.step", [each / steps for each in taken["ieu"]], "s")
        yield median(
            f"ieu.{precision}.of_bare", ratios, "ratio", aim="<= 1.15", how=f"{size.model}, {size.batch} a set"
        )


def shadows(device: Device, size: Size) -> Iterator[Figure]:
    """Tell what a shadow model takes: some epochs are trained, and a recipe's are as many times as long.

    Yields:
        A figure for each precision.
    """
    dataset, recipe = noise(size.trained_on, size.pixels), Recipe(**RESNET.settings() | {"epochs": size.epochs})
    rows = np.arange(size.trained_on)
    for precision in precisions(device):
        compute = setup_device(str(device.device), precision)

        def one(compute: Device = compute) -> object:
            return train(size.model, dataset, rows, recipe, seed=0, compute=compute)

        taken = in_turns(device, max(1, size.rounds - 1), {"train": one})["train"]
        whole = [each / size.epochs * RESNET.epochs for each in taken]
        how = f"{size.trained_on} images, {RESNET.epochs} epochs extrapolated from {size.epochs}"
        yield median(f"shadow.{precision}", whole, "s", aim="<= 12 s", how=how)


@contextmanager
def undetermined() -> Iterator[None]:
    """Let a device use whatever kernels are fastest.

    Yields:
        Nothing; deterministic ones are asked for again at the end, if they were before.
    """
    before, searched = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=True)
        torch.backends.cudnn.benchmark = searched


def determinism(device: Device, size: Size) -> Iterator[Figure]:
    """Tell what repeatable kernels cost.

    Yields:
        A figure for each precision.
    """
    run = Run(fresh(size), random_images(size.images, size=size.pixels), HALF)
    for precision in precisions(device):
        compute = setup_device(str(device.device), precision)

        def curve(compute: Device = compute) -> object:
            return relearn(run, steps=size.steps, step_size=STEP_SIZE, compute=compute)

        def free(curve: Callable[[], object] = curve) -> object:
            with undetermined():
                return curve()

        taken = in_turns(device, size.rounds, {"free": free, "repeatable": curve})
        ratios = [slow / fast for fast, slow in zip(taken["free"], taken["repeatable"], strict=True)]
        yield median(f"determinism.{precision}", ratios, "ratio", how="seconds of repeatable kernels over any kernels")


class Step:
    """One full-batch step of gradient descent, as relearning takes it, that can be recorded or compiled."""

    def __init__(self, model: nn.Module, examples: Examples, compute: Device) -> None:
        self.model, self.compute = model, compute
        self.parts = FullBatch(examples, HALF, compute=compute).parts
        self.optimizer = torch.optim.SGD(list(trainable(model).values()), lr=STEP_SIZE)
        self.count = len(examples)

    def __call__(self) -> None:
        """Take it."""
        self.optimizer.zero_grad(set_to_none=True)
        for images, labels, _ in self.parts:
            with self.compute.autocast():
                logits = self.model(images)
            torch.autograd.backward(nn.functional.cross_entropy(logits.float(), labels, reduction="sum") / self.count)
        self.optimizer.step()

    def recorded(self) -> Callable[[], object]:
        """Return the step as a CUDA graph, after the warm-up that recording needs."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            self()
        return graph.replay


def gains(device: Device, size: Size, kind: str) -> Iterator[Figure]:
    """Tell what recording steps as a CUDA graph, or compiling the model, would gain, on many images and on few.

    Args:
        device: a CUDA device.
        size: of the work.
        kind: "graph" or "compile".

    Yields:
        A figure for each number of images and precision.
    """
    for what, spec, count in (("many", size.model, size.images), ("few", "small-cnn", 256)):
        for precision in ("fp32", "bf16"):
            compute = setup_device(str(device.device), precision)
            models = [compute.to_device(new_model(spec, noise(8, size.pixels), 0)).eval() for _ in range(2)]
            examples = random_images(count, size=size.pixels)
            plain = Step(models[0], examples, compute)
            other = Step(torch.compile(models[1]) if kind == "compile" else models[1], examples, compute)  # type: ignore[arg-type]
            faster = other.recorded() if kind == "graph" else other
            taken = in_turns(device, 10, {"plain": plain, kind: faster})
            ratios = [slow / fast for slow, fast in zip(taken["plain"], taken[kind], strict=True)]
            yield median(
                f"{kind}.{what}.{precision}", ratios, "ratio",
                how=f"seconds of an eager step over one with a {kind}; {spec}, n = {count}",
            )  # fmt: skip
