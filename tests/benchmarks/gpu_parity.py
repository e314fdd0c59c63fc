"""Does a device compute what the CPU does? Relearning curves, logits, and the weights that every method makes.

Both devices start from the same weights and see the same batches; noise that a method draws on its device is drawn on
the CPU and copied for this, since two devices make different numbers of one seed. How far two right answers may be
apart is measured, too: the CPU takes each again from weights that are moved by rounding alone, and a device may be
`MARGIN` times as far away as that, or a least limit, whichever is more. A sign that is wrong, a batch that is another
one or a term that is missing moves an update by a tenth or more.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearn_audit import catalogue
from unlearn_audit.data import Dataset, Examples, Transform, make_splits
from unlearn_audit.engine import Device, crop_and_flip, predict, setup_device, trainable
from unlearn_audit.errors import AuditError
from unlearn_audit.generation import task_of
from unlearn_audit.methods import Method, UnlearningContext, on_kind
from unlearn_audit.methods.apply import parse_settings, run_method
from unlearn_audit.relearning import Algorithm, Curve, Run, relearn
from unlearn_audit.step_transforms import Kind, forms_of
from unlearn_audit.training import new_model

MARGIN = 20  # times what rounding of the start alone does
LEAST_CURVE = 1e-5  # of the length of a curve, or of logits: what another algorithm for convolutions may do
LEAST_UPDATE = 1e-3  # of the length of a method's update
REDUCED = 1e-2  # of the sum of a curve in TF32 or bfloat16, against float32 on the CPU
ROUNDING = 3e-7  # largest relative change of a weight of a perturbed start
STARTS = (1, 2)  # seeds of the perturbed starts
CLASSES, STEPS = 4, 8
Floats = NDArray[np.float64]
HALF = Transform((0.5,) * 3, (0.25,) * 3)

ALGORITHMS: Mapping[str, tuple[Algorithm, float]] = {  # with the step size
    "gd": (Algorithm(), 1e-3),
    "momentum": (Algorithm("sgd"), 2e-4),
    "adam": (Algorithm("adam"), 1e-4),
    "weight decay": (Algorithm(weight_decay=1e-2), 1e-3),
    "minibatches": (Algorithm("sgd", minibatch=16, augment=crop_and_flip), 2e-4),
}
# Settings of a run of next to nothing, beside three steps of a loop. Where Adam is the default, SGD takes its place:
# Adam makes whole steps of gradients that are rounding alone, and two right answers are then far apart.
SHORT: Mapping[str, Mapping[str, Any]] = {
    "retrain": {"epochs": 1},
    "iu": {"iterations": 2, "sample": 64},
    "fisher": {"batch_size": 100},
    "amun": {"first_radius": 8, "attack_steps": 20},
    "reference": {"least": 5},
    "bad-teacher": {"optimizer": "sgd"},
    "esd": {"optimizer": "sgd", "step_size": 1e-2, "sampling_steps": 2, "batch_size": 2},
    "pseudo": {"optimizer": "sgd", "step_size": 1e-2, "batch_size": 8},
}
NETWORKS: Mapping[Kind, str] = {"classifier": "small-cnn", "generator": "tiny-unet"}


class Compared(NamedTuple):
    """How far a device is from the CPU.

    Attributes:
        name: of what was compared.
        difference: relative; not finite where one of the two is not.
        limit: the largest that passes.
        how: what the two numbers are.
    """

    name: str
    difference: float
    limit: float
    how: str


def images(count: int, *, seed: int, size: int = 8) -> Examples:
    """Return random images of four classes."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % CLASSES
    return Examples(pixels, labels, labels.clone())


def noise() -> Dataset:
    """Return a hundred random images to train on, and some held-out ones."""
    return Dataset("noise", images(100, seed=0), images(80, seed=1), CLASSES, HALF.mean, HALF.std, "0" * 64)


def started(spec: str, dataset: Dataset) -> nn.Module:
    """Return a model none of whose weights is zero: Adam makes whole steps of what rounding leaves there."""
    generator = torch.Generator().manual_seed(0)
    model = new_model(spec, dataset, 0)
    with torch.no_grad():
        for parameter in (each for each in model.parameters() if not each.any()):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


@contextmanager
def drawn_on_the_cpu() -> Iterator[None]:
    """Let whatever is drawn on a device be drawn on the CPU and copied.

    Yields:
        Nothing.
    """
    generator, normal = torch.Generator, torch.randn

    def copied(*size: Any, device: Any = None, **more: Any) -> Tensor:
        return normal(*size, **more).to(device or "cpu")

    with patch.object(torch, "Generator", lambda device="cpu": generator()), patch.object(torch, "randn", copied):
        yield


def moved(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy whose weights are changed by up to a few roundings each."""
    generator = torch.Generator().manual_seed(seed)
    found = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.mul_(1 + ROUNDING * (2 * torch.rand(parameter.shape, generator=generator) - 1))
    return found


def _apart(answer: Sequence[Floats], truth: Sequence[Floats]) -> float:
    """Return how far an answer is from the truth, as a share of its length, in the part where it is farthest."""
    found = [0.0]
    for each, true in zip(answer, truth, strict=True):
        length = float(np.linalg.norm(true))
        found.append(float(np.linalg.norm(each - true)) / (length or 1.0))
    return float(np.max(found))


def _judged(
    name: str, answer: Callable[[nn.Module, Device], Sequence[Floats]], model: nn.Module, device: Device, least: float
) -> Compared:
    """Hold a device's answer against the CPU's, and the CPU's own answers from perturbed starts against that."""
    cpu = setup_device("cpu")
    truth = answer(model, cpu)
    rounding = max(_apart(answer(moved(model, seed), cpu), truth) for seed in STARTS)
    return Compared(
        name,
        _apart(answer(model, setup_device(str(device.device), device.precision)), truth),
        max(least, MARGIN * rounding),
        f"at least {least:g}, or {MARGIN} x {rounding:.1e} which rounding of the start does",
    )


def curves(device: Device, *, spec: str, examples: int = 48) -> Iterator[Compared]:
    """Compare relearning curves of every kind, logits, and areas, and float32 with what is less precise.

    Args:
        device: that is held against the CPU.
        spec: of the model.
        examples: that it relearns.

    Yields:
        One comparison after the other.
    """
    model = started(spec, noise())
    run = Run(model, images(examples, seed=2), HALF)

    def curve(start: nn.Module, compute: Device, algorithm: Algorithm, step_size: float) -> Curve:
        return relearn(
            run._replace(model=start), steps=STEPS, step_size=step_size, compute=compute, algorithm=algorithm
        )

    for name, (algorithm, step_size) in ALGORITHMS.items():
        kind = algorithm, step_size
        yield _judged(
            f"curve: {name}",
            lambda start, where, kind=kind: [curve(start, where, *kind).loss],
            model,
            device,
            LEAST_CURVE,
        )
    gd = ALGORITHMS["gd"]
    yield _judged("areas: gd", lambda start, where: [curve(start, where, *gd).areas], model, device, LEAST_CURVE)
    yield _judged(
        "logits",
        lambda start, where: [
            predict(where.to_device(copy.deepcopy(start)), run.examples.images, HALF, compute=where).astype(np.float64)
        ],
        model,
        device,
        LEAST_CURVE,
    )
    exact = curve(model, setup_device("cpu"), *gd).loss.sum()
    for precision in ("bf16",) if device.device.type == "cpu" else ("tf32", "bf16"):
        found = curve(model, setup_device(str(device.device), precision), *gd).loss.sum()
        yield Compared(f"curve: gd in {precision}", abs(found / exact - 1), REDUCED, "sum, against float32 on the CPU")


def updates(device: Device, names: Sequence[str] = tuple(catalogue.METHODS)) -> Iterator[Compared | tuple[str, str]]:
    """Compare what methods add to the weights.

    Args:
        device: that is held against the CPU.
        names: of the methods.

    Yields:
        A comparison, or a name and the reason where a method refused or diverged.
    """
    for name in names:
        method: Method = catalogue.load("method", catalogue.METHODS, name)
        kind: Kind = "classifier" if "classifier" in forms_of(method) else "generator"
        try:
            yield _update(on_kind(method, kind), kind, device)
        except AuditError as problem:
            yield f"weights: {name}", str(problem)


def _update(method: Method, kind: Kind, device: Device) -> Compared:
    """Compare what a method adds to the weights of a network of its kind."""
    splits = make_splits(noise(), "class:3" if method.whole_classes else "range:0-9")
    asked = {"steps": 3} if method.composes else {}
    settings = parse_settings(method, asked | SHORT.get(method.name, {}), kind=kind)

    def update(start: nn.Module, compute: Device) -> list[Floats]:
        model = compute.to_device(copy.deepcopy(start)).eval()
        context = UnlearningContext(model, HALF, splits, compute, seed=3, spec=NETWORKS[kind], task=task_of(model))
        with drawn_on_the_cpu():
            run_method(method, context, settings)
        return [after - before for after, before in zip(_flat(model), _flat(start), strict=True)]

    model = started(NETWORKS[kind], splits.dataset)
    return _judged(f"weights: {method.name}", update, model, device, LEAST_UPDATE)


def _array(tensor: Tensor) -> Floats:
    return tensor.detach().cpu().double().numpy()


def _flat(model: nn.Module) -> list[Floats]:
    """Return all weights in one vector, and all statistics in another one: these move by more."""
    parts = trainable(model).values(), [each for each in model.buffers() if each.is_floating_point()]
    return [np.concatenate([np.zeros(0), *(_array(each).ravel() for each in part)]) for part in parts]
