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
from unlearn_audit.audit.cache import seconds_taken
from unlearn_audit.audit.detectable.measure import on_by_default, seconds_at_most
from unlearn_audit.audit.section_costs import (
    FORWARD,
    SEARCH,
    Price,
    Step,
    priced,
    section_of_generators,
    section_step,
)
from unlearn_audit.catalogue import is_generator
from unlearn_audit.config import (
    ApplyEntry,
    AuditConfig,
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
from unlearn_audit.progress import Progress, silent
from unlearn_audit.step_transforms import parse_extras
from unlearn_audit.training import for_model, new_model, pick_recipe, recorded_recipe

PROBE, REPEATS = 64, 8  # images of the timed step; how often it is taken
LONGEST = 3.0  # seconds of such steps after which no other is begun


def planned_steps(
    request: Resolved, folder: Path | None, sections: Sequence[str], *, whole: bool = False, progress: Progress = silent
) -> Iterator[Step]:
    """Yield what an audit would do, in order.

    Args:
        request: the configuration.
        folder: of the audit, where models and finished sections are looked for; None of one that keeps nothing.
        sections: that it would measure.
        whole: whether these are all that there are, so that what is on by default comes to them.
        progress: progress callback, called after each checkpoint and each step that was timed.

    Raises:
        UsageError: neither the request nor a checkpoint says what data, model or forget set it is about.
        MeasurementError: a checkpoint cannot be read.
    """
    config = request.config
    if not config.checkpoint and not config.train:
        raise UsageError("no checkpoint given; name at least one file")
    made = list(models_to_make(request, folder or Path())) if config.train or config.apply else []
    inputs, compute = _cost_inputs(request, progress)
    for number, one in enumerate(made):
        spec = _spec_of(one, inputs.specs, config)
        inputs.specs[one.entry.label] = spec
        if spec not in inputs.networks:
            allowed = code_is_allowed(request.origins.get("train", "default"))
            data = for_model(spec, inputs.splits.dataset)
            model = new_model(spec, data, 0, allow_code=allowed, compute=compute)
            inputs.networks[spec] = _Network(model, task_of(model))
        yield _model_step(one, spec, inputs, compute)
        progress("estimating", number + 1, len(made), one.entry.label)
    prices = [inputs.price(spec, compute) for spec in inputs.specs.values()]
    roles = [*map(_role, inputs.candidates), *map(_role, made)]
    labels = [*(one.label for one in inputs.candidates), *(one.entry.label for one in made)]
    planted = ("detectable",) if whole and on_by_default(config, roles) else ()
    kept_in = None if folder is None else folder / CACHED_SECTIONS
    for section in (*sections, *planted):
        step = _section(section, config, inputs, prices, labels=labels, roles=roles)
        if kept_in is not None and any(kept_in.glob(f"{section}-*.json")):
            step = step._replace(there=None, took=seconds_taken(kept_in, section))
        yield step


def _section(
    name: str,
    config: AuditConfig,
    inputs: "_CostInputs",
    prices: Sequence[Price],
    *,
    labels: Sequence[str],
    roles: Sequence[str],
) -> Step:
    """Return what measuring a section takes of models with these labels and roles."""
    if name == "resurgence" and config.resurgence is not None:
        originals = [label for label, role in zip(labels, roles, strict=True) if role == "original"]
        batch = batch_of_copies(config.resurgence, inputs.recipes, originals)
        return _resurgence_step(config.resurgence, inputs, prices, batch=batch)
    if name == "detectable":
        pairs = len(inputs.splits.unseen.forget)
        return Step(name, there=False, seconds=seconds_at_most(config, pairs, roles.count("retrained")), at_most=True)
    if inputs.specs and all(map(is_generator, inputs.specs.values())):
        return section_of_generators(name, config=config, splits=inputs.splits, prices=prices)
    step = section_step(name, config=config, splits=inputs.splits, prices=prices)
    return step._replace(shared=_shared(step, inputs)) if name == "rcd" and not step.at_most else step


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
    prices: dict[str, Price]

    def price(self, spec: str, compute: Device) -> Price:
        if spec not in self.prices:
            self.prices[spec] = _price(self.networks[spec], self.splits.dataset, compute)
        return self.prices[spec]


def _cost_inputs(request: Resolved, progress: Progress) -> tuple[_CostInputs, Device]:
    """Read the checkpoints that there are, and the data that they or the request name."""
    resolved = resolve_inputs(request, progress=progress)
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


def _price(network: _Network, dataset: Dataset, compute: Device) -> Price:
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
    return Price(flop, min(taken) / len(examples))


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
        return priced(f"train {entry.label}", made.is_there, size * recipe.epochs, [inputs.price(spec, compute)])
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
    return priced(name, made.is_there, done.gradient_evaluations, [inputs.price(spec, compute)])


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


def _resurgence_step(settings: ResurgenceSettings, inputs: _CostInputs, prices: Sequence[Price], *, batch: int) -> Step:
    """Return what copies of all models take: one look at each, and the steps of those that are fine-tuned."""
    splits, name, there = inputs.splits, "resurgence", False
    looks = len(splits.measured) + len(splits.unseen.forget) + len(splits.dataset.test)
    means = len(splits.retain) if "recentre" in settings.alterations else 0
    looked = priced(name, there, looks * (len(settings.alterations) + 1) + means, prices, part=FORWARD)
    steps = settings.steps if "fine-tune" in settings.alterations else 0
    relearned = 2 * len(splits.unseen.forget) * ((settings.rcd_steps or 0) * (len(settings.alterations) + 1) + SEARCH)
    each = steps * min(batch, len(splits.retain)) + (relearned if settings.rcd_steps else 0)
    tuned = priced(name, there, each, prices)
    return tuned._replace(
        gradients=tuned.gradients or None,
        flop=(tuned.flop or 0) + (looked.flop or 0),
        seconds=(tuned.seconds or 0) + (looked.seconds or 0),
    )
