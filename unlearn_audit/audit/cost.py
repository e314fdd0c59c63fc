"""What an audit would do and what it would take: told without training or measuring anything."""

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from unlearn_audit.audit.build_models import Made, models_to_make
from unlearn_audit.audit.cache import FOLDER as CACHED_SECTIONS
from unlearn_audit.audit.context import DRAWS, MOST_NOISED
from unlearn_audit.audit.detectable.measure import on_by_default, seconds_at_most
from unlearn_audit.audit.generators import GRADIENT_DRAWS, STEPS
from unlearn_audit.catalogue import is_generator
from unlearn_audit.config import (
    NEIGHBOURS,
    ApplyEntry,
    AuditConfig,
    RcdSettings,
    Resolved,
    ResurgenceSettings,
    TrainEntry,
    code_is_allowed,
)
from unlearn_audit.data import Dataset, Splits
from unlearn_audit.engine import Device, Draws, FullBatch, Task
from unlearn_audit.engine.estimates import SharedRun
from unlearn_audit.errors import ConfigError, UsageError
from unlearn_audit.generation import task_of
from unlearn_audit.inputs import Candidate, resolve_inputs
from unlearn_audit.methods import UnlearningContext, on_kind
from unlearn_audit.methods.adjacent import with_settings
from unlearn_audit.methods.apply import parse_settings
from unlearn_audit.methods.generators import kind_of
from unlearn_audit.methods.lookup import find_method
from unlearn_audit.models import flops_of, flops_per_image
from unlearn_audit.models.denoisers import Denoiser
from unlearn_audit.step_transforms import parse_extras
from unlearn_audit.training import for_model, new_model, pick_recipe, recorded_recipe

PROBE, REPEATS = 64, 8  # images of the timed step; how often it is taken
LONGEST = 3.0  # seconds of such steps after which no other is begun
SEARCH = 64  # gradients of each example that it usually takes to find the step size of relearning
FORWARD = 1 / 3  # of a gradient


class Step(NamedTuple):
    """One piece of an audit: what it is, whether it is there already, and what it takes.

    Attributes:
        name: "train original", "rcd".
        there: whether it is finished; None where it may be, if nothing that it depends on has changed.
        gradients: of single examples; None where none is taken, or where that is not known beforehand.
        flop: 2 a multiply-add, forward and backward; None where it is not known beforehand.
        seconds: on this device, from one timed step; None where that is not known beforehand.
        shared: how it can be shared out among processes; None where it cannot.
    """

    name: str
    there: bool | None
    gradients: int | None = None
    flop: float | None = None
    seconds: float | None = None
    shared: SharedRun | None = None


def planned_steps(request: Resolved, folder: Path, sections: Sequence[str], *, whole: bool = False) -> Iterator[Step]:
    """Yield what an audit would do, in order.

    Args:
        request: the configuration.
        folder: of the audit, where models are looked for.
        sections: that it would measure.
        whole: whether these are all that there are, so that what is on by default comes to them.

    Raises:
        UsageError: neither the request nor a checkpoint says what data, model or forget set it is about.
        MeasurementError: a checkpoint cannot be read.
    """
    config = request.config
    if not config.checkpoint and not config.train:
        raise UsageError("no checkpoint given; name at least one file")
    made = list(models_to_make(request, folder)) if config.train or config.apply else []
    inputs, compute = _cost_inputs(request)
    for one in made:
        spec = _spec_of(one, inputs.specs, config)
        inputs.specs[one.entry.label] = spec
        if spec not in inputs.networks:
            allowed = code_is_allowed(request.origins.get("train", "default"))
            data = for_model(spec, inputs.splits.dataset)
            model = new_model(spec, data, 0, allow_code=allowed, compute=compute)
            inputs.networks[spec] = _Network(model, task_of(model))
        yield _model_step(one, spec, inputs, compute)
    prices = [inputs.price(spec, compute) for spec in inputs.specs.values()]
    roles = [*map(_role, inputs.candidates), *map(_role, made)]
    labels = [*(one.label for one in inputs.candidates), *(one.entry.label for one in made)]
    planted = ("detectable",) if whole and on_by_default(config, roles) else ()
    for section in (*sections, *planted):
        kept = None if any((folder / CACHED_SECTIONS).glob(f"{section}-*.json")) else False
        if section == "resurgence" and config.resurgence is not None:
            originals = [label for label, role in zip(labels, roles, strict=True) if role == "original"]
            batch = batch_of_copies(config.resurgence, inputs.recipes, originals)
            yield _resurgence_step(kept, config.resurgence, inputs, prices, batch=batch)
            continue
        if section == "detectable":
            pairs = len(inputs.splits.unseen.forget)
            yield Step(section, kept, seconds=seconds_at_most(config, pairs, roles.count("retrained")))
            continue
        if inputs.specs and all(map(is_generator, inputs.specs.values())):
            yield _section_of_generators(section, kept, config=config, splits=inputs.splits, prices=prices)
            continue
        step = _section_step(section, kept, config=config, splits=inputs.splits, prices=prices)
        yield step._replace(shared=_shared(step, inputs)) if section == "rcd" and step.flop else step


def _shared(step: Step, inputs: "_CostInputs") -> SharedRun:
    """Return the curves as a run that processes can share, each pass over the measured forget set."""
    largest = max(sum(p.numel() * p.element_size() for p in one.model.parameters()) for one in inputs.networks.values())
    mean = float(np.mean([price.flop for price in inputs.prices.values()]))
    return SharedRun(step.flop or 0.0, len(inputs.splits.measured), mean, largest)


def _role(model: Candidate | Made) -> str:
    """Return what a model is, or will be once it is made."""
    if not isinstance(model, Made):
        return model.role
    if isinstance(model.entry, TrainEntry):
        return "retrained" if model.entry.without else "original"
    return "retrained" if model.entry.method == "retrain" else "unlearned"


class _Price(NamedTuple):
    """FLOP and seconds of one example's gradient."""

    flop: float
    seconds: float


class _Network(NamedTuple):
    """A network with what it is for, and what a generator's images are made with."""

    model: nn.Module
    task: Task
    pipeline: Any = None


class _CostInputs(NamedTuple):
    """The sets, the models that are there, architecture and recipe of each by its label, networks and their prices."""

    splits: Splits
    candidates: Sequence[Candidate]
    specs: dict[str, str]
    recipes: dict[str, dict[str, Any]]
    networks: dict[str, _Network]
    prices: dict[str, _Price]

    def price(self, spec: str, compute: Device) -> _Price:
        if spec not in self.prices:
            self.prices[spec] = _price(self.networks[spec], self.splits.dataset, compute)
        return self.prices[spec]


def _cost_inputs(request: Resolved) -> tuple[_CostInputs, Device]:
    """Read the checkpoints that there are, and the data that they or the request name."""
    resolved = resolve_inputs(request)
    candidates = resolved.candidates()
    specs = {one.label: one.spec for one in candidates}
    networks = {one.spec: _Network(one.model, one.task, one.pipeline) for one in reversed(candidates)}
    return _CostInputs(
        resolved.splits, candidates, specs, {one.label: one.recipe for one in candidates}, networks, {}
    ), resolved.compute


def _spec_of(made: Made, specs: Mapping[str, str], config: AuditConfig) -> str:
    """Return the architecture of a model to be made: named, or that of its parent."""
    entry = made.entry
    spec = specs.get(entry.to) if isinstance(entry, ApplyEntry) else entry.model or config.model
    if not spec:
        raise UsageError(f"{entry.label}: no model named; add `model` to the config or to this entry")
    return spec


def _price(network: _Network, dataset: Dataset, compute: Device) -> _Price:
    """Take the best of some steps of SGD: what else the machine does, and its first step, do not count.

    Of a network that takes seconds for a step there are fewer: a plan is no measurement. What is asked by texts is
    priced on a single row of its own, since some of these are large.
    """
    by_texts = kind_of(network.model) == "text-to-image"
    examples = dataset.train.subset(np.arange(min(1 if by_texts else PROBE, len(dataset.train))))
    if by_texts:
        (asked, _, _), *_ = FullBatch(
            examples, dataset.transform, compute=compute, task=network.task, draws=Draws(0, count=1)
        ).parts
        flop = 3 * flops_of(network.model, asked)
    else:
        images = dataset.transform(examples.images.to(compute.device))
        asked = network.model.asked(images) if isinstance(network.model, Denoiser) else images
        flop = 3 * flops_per_image(network.model, images[:1])
    trained = copy.deepcopy(network.model).train()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.0, momentum=0.9)
    taken = [_seconds(trained, optimizer, asked, compute)]
    while len(taken) < REPEATS and sum(taken) < LONGEST:
        taken.append(_seconds(trained, optimizer, asked, compute))
    return _Price(flop, min(taken) / len(examples))


def _seconds(model: nn.Module, optimizer: torch.optim.Optimizer, asked: Any, compute: Device) -> float:
    began = time.perf_counter()
    optimizer.zero_grad()
    model(asked).logsumexp(dim=1).mean().backward()
    optimizer.step()
    if compute.device.type == "cuda":
        torch.cuda.synchronize(compute.device)
    return time.perf_counter() - began


def _model_step(made: Made, spec: str, inputs: _CostInputs, compute: Device) -> Step:
    entry, splits = made.entry, inputs.splits
    if isinstance(entry, TrainEntry):
        size = len(splits.dataset.train) - (len(splits.forget.indices) if entry.without else 0)
        recipe = pick_recipe(entry.recipe, spec, epochs=entry.epochs, transforms=entry.transforms)
        inputs.recipes[entry.label] = recipe.settings()
        return _priced(f"train {entry.label}", made.is_there, size * recipe.epochs, [inputs.price(spec, compute)])
    asked = find_method(entry.method, allow_code=True)  # `models_to_make` has refused what may not run
    network = inputs.networks[spec]
    kind = kind_of(network.model)
    method = on_kind(asked, kind)
    settings = parse_settings(asked, entry.settings, published=entry.recipe is not None, kind=kind)
    unlearning = UnlearningContext(
        network.model,
        splits.dataset.transform,
        with_settings(splits, settings),
        compute,
        entry.seed,
        spec=spec,
        recipe=inputs.recipes.get(entry.to, {}),
        extras=parse_extras(entry.transforms, kind),
        count_only=True,
        task=network.task,
        pipeline=network.pipeline,
    )
    done = method.run(unlearning, settings)
    name = f"apply {entry.method}: {entry.label}"
    name += " (recipe assumed)" if done.recipe_assumed else ""
    return _priced(name, made.is_there, done.gradient_evaluations, [inputs.price(spec, compute)])


def _priced(name: str, there: bool | None, each: int, prices: Sequence[_Price], *, part: float = 1) -> Step:
    """Return a step that takes `each` gradients, or `part` of them, of models with these prices."""
    flop, seconds = (sum(each * part * number for number in column) for column in zip(*prices, strict=True))
    return Step(name, there, each * len(prices) if part == 1 else None, flop, seconds)


def _section_step(
    name: str, there: bool | None, *, config: AuditConfig, splits: Splits, prices: Sequence[_Price]
) -> Step:
    """Return what measuring a section takes; a curvature's number of passes is not known beforehand."""
    rcd = config.rcd or RcdSettings()
    forget, twin = len(splits.measured), len(splits.unseen.forget)
    everything = forget + twin + len(splits.measured_retain) + len(splits.dataset.test)
    if name == "gaps":
        # features of one model, the original
        neighbours = (len(splits.forget) + len(splits.retain)) // len(prices) if config.adjacent == NEIGHBOURS else 0
        return _priced(name, there, everything + neighbours, prices, part=FORWARD)
    if name == "outputs" and config.outputs is not None:
        features = forget + (len(splits.dataset.test) if config.outputs.probe else 0)
        return _priced(name, there, everything + features, prices, part=FORWARD)
    if name in ("mia", "twosample"):
        return _priced(name, there, 2 * twin, prices, part=FORWARD)
    if name == "rcd" and isinstance(rcd.steps, int):
        sets = forget + twin + (0 if splits.unseen.complete else twin)
        sizes = len(rcd.step_size) if isinstance(rcd.step_size, tuple) else 1
        search = SEARCH if isinstance(rcd.step_size, str) else 0
        return _priced(name, there, sets * (rcd.steps * sizes + search), [*prices, *prices[: int(rcd.controls)]])
    if name == "truncation" and config.truncation is not None:
        steps = rcd.steps if isinstance(rcd.steps, int) else rcd.max_steps
        return _priced(name, there, forget * (config.truncation.reference_steps or max(100, 10 * steps)), prices)
    return Step(name, there)


def _section_of_generators(
    name: str, there: bool | None, *, config: AuditConfig, splits: Splits, prices: Sequence[_Price]
) -> Step:
    """Return what measuring a section of generators takes, where every example is several draws of noise."""
    rcd = config.rcd or RcdSettings()
    pairs = len(splits.measured) + len(splits.unseen.forget)
    measured = rcd.draws if isinstance(rcd.draws, int) else DRAWS
    if name == "gaps":
        rest = min(len(splits.measured_retain), MOST_NOISED) + min(len(splits.dataset.test), MOST_NOISED)
        return _priced(name, there, (pairs + rest) * measured, prices, part=FORWARD)
    if name == "rcd" and isinstance(rcd.steps, int):
        steps = rcd.steps if "steps" in rcd.model_fields_set else STEPS
        gradients = measured if rcd.draws == "fixed" else rcd.gradient_draws or GRADIENT_DRAWS
        each = steps * (len(rcd.step_size) if isinstance(rcd.step_size, tuple) else 1)
        looks = 0.0 if rcd.draws == "fixed" else FORWARD * measured  # else the gradient's own pass is the look
        models = [*prices, *prices[: int(rcd.controls)]]
        taken = _priced(name, there, pairs * each * gradients, models)
        share = 1 + looks / gradients
        return taken._replace(flop=(taken.flop or 0) * share, seconds=(taken.seconds or 0) * share)
    return Step(name, there)


def batch_of_copies(
    settings: ResurgenceSettings, recipes: Mapping[str, Mapping[str, Any]], originals: Sequence[str]
) -> int:
    """Return how many examples a step of fine-tuning takes; 0 where nothing that can be followed says so.

    As the section chooses it: the recipe named, else the original's, else the first that a file has. Anyone may have
    written the file; a recipe that cannot be followed fine-tunes nothing, so that there is nothing to price.
    """
    if settings.recipe is not None:
        return pick_recipe(settings.recipe, "").batch_size
    known = [one for one in (*(recipes.get(label) for label in originals), *recipes.values()) if one]
    try:
        return recorded_recipe(known[0]).batch_size if known else 0
    except ConfigError:
        return 0


def _resurgence_step(
    there: bool | None, settings: ResurgenceSettings, inputs: _CostInputs, prices: Sequence[_Price], *, batch: int
) -> Step:
    """Return what copies of all models take: one look at each, and the steps of those that are fine-tuned."""
    splits, name = inputs.splits, "resurgence"
    looks = len(splits.measured) + len(splits.unseen.forget) + len(splits.dataset.test)
    means = len(splits.retain) if "recentre" in settings.alterations else 0
    looked = _priced(name, there, looks * (len(settings.alterations) + 1) + means, prices, part=FORWARD)
    steps = settings.steps if "fine-tune" in settings.alterations else 0
    relearned = 2 * len(splits.unseen.forget) * ((settings.rcd_steps or 0) * (len(settings.alterations) + 1) + SEARCH)
    each = steps * min(batch, len(splits.retain)) + (relearned if settings.rcd_steps else 0)
    tuned = _priced(name, there, each, prices)
    return tuned._replace(
        gradients=tuned.gradients or None,
        flop=(tuned.flop or 0) + (looked.flop or 0),
        seconds=(tuned.seconds or 0) + (looked.seconds or 0),
    )
