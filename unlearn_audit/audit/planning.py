"""What an audit would do and what it would take: told without training or measuring anything."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unlearn_audit.audit.making import Made, models_to_make
from unlearn_audit.audit.parts import FOLDER as PARTS
from unlearn_audit.config import AuditConfig, RcdSettings, Resolved, TrainEntry, code_is_allowed
from unlearn_audit.data import Dataset, Splits, load_data, make_splits
from unlearn_audit.engine import Compute, prepare
from unlearn_audit.errors import UsageError
from unlearn_audit.models import flops_per_image
from unlearn_audit.recipes import new_model, pick_recipe

__all__ = ["Step", "planned_steps"]

PROBE, REPEATS = 128, 5  # images of the timed gradient; how often it is taken


class Step(NamedTuple):
    """One piece of an audit: what it is, whether it is there already, and what it takes.

    Attributes:
        name: "train original", "rcd".
        there: whether it is finished; None where it may be, if nothing that it depends on has changed.
        gradients: of single examples; None where that is not known beforehand.
        flop: 2 a multiply-add, forward and backward; None with `gradients`.
        seconds: on this device, from one timed gradient; None with `gradients`.
    """

    name: str
    there: bool | None
    gradients: int | None = None
    flop: float | None = None
    seconds: float | None = None


def planned_steps(request: Resolved, folder: Path, sections: Sequence[str]) -> Iterator[Step]:
    """Yield what an audit would do, in order.

    Args:
        request: the configuration.
        folder: of the audit, where models are looked for.
        sections: that it would measure.

    Raises:
        UsageError: data, model or forget set are not named.
    """
    config = request.config
    made = list(models_to_make(request, folder)) if config.train or config.apply else []
    spec = config.model or next((one.entry.model for one in made if isinstance(one.entry, TrainEntry)), None)
    if not config.data or not config.forget or not spec:
        raise UsageError("--plan reads no checkpoint: name data, forget and model in the config")
    dataset = load_data(config.data, allow_code=code_is_allowed(request.origins.get("data", "default")))
    splits = make_splits(dataset, config.forget, unseen=config.unseen, retain=config.retain, sample=config.sample)
    price = _price(spec, dataset, prepare(config.device, config.precision))
    for one in made:
        yield _model_step(one, spec, splits, price)
    subjects = len(config.checkpoint) + len(made)
    for section in sections:
        kept = None if any((folder / PARTS).glob(f"{section}-*.json")) else False
        yield _priced(section, kept, _gradients(section, config, splits, subjects), price)


class _Price(NamedTuple):
    """FLOP and seconds of one example's gradient."""

    flop: float
    seconds: float


def _price(spec: str, dataset: Dataset, compute: Compute) -> _Price:
    """Take the best of some gradients of a batch: what else the machine does, and its first pass, do not count."""
    model = compute.place(new_model(spec, dataset, 0)).eval()
    images = dataset.transform(dataset.train.images[:PROBE].to(compute.device))
    seconds = min(_seconds(model, images) for _ in range(REPEATS))
    return _Price(3 * flops_per_image(model, images[:1]), seconds / len(images))


def _seconds(model: nn.Module, images: Tensor) -> float:
    began = time.perf_counter()
    _gradient(model, images)
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - began


def _gradient(model: nn.Module, images: Tensor) -> None:
    model.zero_grad()
    model(images).logsumexp(dim=1).mean().backward()


def _model_step(made: Made, spec: str, splits: Splits, price: _Price) -> Step:
    entry = made.entry
    if not isinstance(entry, TrainEntry):
        return Step(f"apply {entry.method}: {entry.label}", made.is_there)
    size = len(splits.dataset.train) - (len(splits.forget.indices) if entry.without else 0)
    epochs = pick_recipe(entry.recipe, entry.model or spec, epochs=entry.epochs).epochs
    return _priced(f"train {entry.label}", made.is_there, epochs * size, price)


def _priced(name: str, there: bool | None, gradients: int | None, price: _Price) -> Step:
    if gradients is None:
        return Step(name, there)
    return Step(name, there, gradients, gradients * price.flop, gradients * price.seconds)


def _gradients(section: str, config: AuditConfig, splits: Splits, subjects: int) -> int | None:
    """Return how many gradients of single examples a section takes; None where that is not known beforehand."""
    rcd = config.rcd or RcdSettings()
    forget, twin = len(splits.measured), len(splits.unseen.forget)
    if section == "rcd" and isinstance(rcd.steps, int):
        sets = forget + twin + (0 if splits.unseen.complete else twin)
        sizes = len(rcd.step_size) if isinstance(rcd.step_size, tuple) else 1
        return (subjects + rcd.controls) * sets * rcd.steps * sizes
    if section == "truncation" and config.truncation is not None:
        steps = rcd.steps if isinstance(rcd.steps, int) else rcd.max_steps
        return subjects * forget * (config.truncation.reference_steps or max(100, 10 * steps))
    return None
