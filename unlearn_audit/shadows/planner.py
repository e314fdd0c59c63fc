"""From a request to a plan: the target's recipe, the audit's sets, and what the fleet is to be put through."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unlearn_audit import catalogue
from unlearn_audit.checkpoints import Checkpoint
from unlearn_audit.config import Resolved
from unlearn_audit.data import make_pool
from unlearn_audit.errors import UsageError
from unlearn_audit.files import atomic_write
from unlearn_audit.inputs import Candidate, resolve_inputs
from unlearn_audit.methods.lookup import is_code
from unlearn_audit.shadows.folder import FleetFolder
from unlearn_audit.shadows.plan import (
    OTHER_EXAMPLES,
    PLAN_NAME,
    FleetPlan,
    Treatment,
    differences,
    make_plan,
    read_plan,
    write_plan,
)
from unlearn_audit.shadows.store import treatment_in
from unlearn_audit.training import DIFFUSION, FAST, Recipe, hurried, pick_recipe, recorded_recipe


class PlannedFleet(NamedTuple):
    """A plan that was written, and what the person should hear of it."""

    plan: FleetPlan
    said: tuple[str, ...]


def plan_fleet(
    folder: Path,
    request: Resolved,
    *,
    count: int | None,
    queries: int | None = None,
    recipe: str | None = None,
    epochs: int | None = None,
) -> PlannedFleet:
    """Write the plan of a fleet, or extend the one that is there.

    Args:
        folder: of the fleet; made where it is missing.
        request: checkpoints and a forget set. The first checkpoint that says how it was trained gives the recipe, every
            unlearned one adds a treatment. Without checkpoints the plan in the folder is taken, and may grow.
        count: models in all; the plan's own where None.
        queries: views of an attacked image; 1, or 2 where the recipe augments.
        recipe: name of a recipe, where no checkpoint says one; or "fast", the target's own hurried.
        epochs: instead of the recipe's own.

    Raises:
        UsageError: something is needed that nobody says, or the folder holds a fleet of another kind.
        ConfigError: an odd count, no epochs, a recipe of another kind.
        OutputError: the folder cannot be written.
    """
    there = read_plan(folder) if (folder / PLAN_NAME).exists() else None
    if not request.config.checkpoint:
        if there is None:
            raise UsageError(f"{folder} has no plan yet; name the checkpoint whose recipe the shadow models follow")
        own = {"queries": queries, "recipe": recipe, "epochs": epochs}
        _no_more_said(folder, request, [name for name, value in own.items() if value is not None])
        return _written(folder, _grown(there, count, request), there, {})
    total = (there.count if there else DEFAULT_COUNT) if count is None else count
    plan, sets = _plan(request, total, queries=queries, recipe=recipe, epochs=epochs, there=there)
    return _written(folder, plan, there, sets)


DEFAULT_COUNT = 16
HURRIED = (
    "shadow models take a third of the target's steps: they fit their examples less than it does, and what attacks "
    "make of them is not what the target's own recipe would give; to measure, plan with that"
)
FREE = ("device",)  # may change without making other models


def _no_more_said(folder: Path, request: Resolved, flags: list[str]) -> None:
    """Refuse what a plan that is taken as it is would not listen to."""
    said = flags + [name.partition(".")[0] for name, origin in request.origins.items() if origin == "flag"]
    unheard = sorted({f"--{name.replace('_', '-')}" for name in said if name not in FREE})
    if unheard:
        raise UsageError(
            f"{', '.join(unheard)}: without a checkpoint the plan in {folder} is taken as it is; name the checkpoint, "
            "too, or leave this out"
        )


def _grown(plan: FleetPlan, count: int | None, request: Resolved) -> FleetPlan:
    """Return a plan with more models, or on another device."""
    device = request.config.device if "device" in request.origins else plan.device
    return make_plan(plan.model_dump() | {"count": plan.count if count is None else count, "device": device})


def _written(folder: Path, plan: FleetPlan, there: FleetPlan | None, sets: Mapping[str, Any]) -> PlannedFleet:
    """Write plan and index files; refuse to turn a fleet into another one."""
    if there is not None:
        changed = differences(there, plan)
        if changed:
            again = "give --recipe and --epochs as before, or no checkpoint; or " if _is_recipe(changed) else ""
            again += f"its own forget set is {folder / 'forget.npy'}; or " if OTHER_EXAMPLES in changed else ""
            raise UsageError(
                f"{folder} holds a fleet of another kind ({'; '.join(changed)}): {again}plan this one in another folder"
            )
        if plan.count < there.count:
            raise UsageError(f"{folder} is planned with {there.count} models; a fleet can grow, not shrink")
    FleetFolder(folder).make()
    for name, indices in sets.items():
        content = _npy(indices)
        if not (folder / name).is_file() or (folder / name).read_bytes() != content:
            atomic_write(folder / name, content)
    if plan != there:
        write_plan(plan, folder)
    return PlannedFleet(plan, tuple(_told(plan, there)))


def _is_recipe(changed: list[str]) -> bool:
    """Return whether two plans differ in nothing but the recipe."""
    return all(text.startswith("recipe ") for text in changed)


def _told(plan: FleetPlan, there: FleetPlan | None) -> list[str]:
    """Say what the plan adds to what was there."""
    if there is None:
        return [HURRIED] if plan.training_recipe().name.endswith(f"-{FAST}") else []
    told = [f"{there.count} of {plan.count} shadow models were planned before"] if plan.count > there.count else []
    known = {each.key for each in there.treatments}
    return told + [f"new: all models go through {each.method}" for each in plan.treatments if each.key not in known]


def _npy(rows: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, rows, allow_pickle=False)
    return stream.getvalue()


def _plan(
    request: Resolved,
    count: int,
    *,
    queries: int | None,
    recipe: str | None,
    epochs: int | None,
    there: FleetPlan | None,
) -> tuple[FleetPlan, dict[str, Any]]:
    """Return the plan and the index sets that go with it."""
    config = request.config
    # The pool is of all training examples, whatever a method is to retain.
    inputs = resolve_inputs(Resolved(config.model_copy(update={"retain": None, "adjacent": None}), request.origins))
    checkpoints, splits, dataset = inputs.checkpoints, inputs.splits, inputs.splits.dataset
    target = _target(checkpoints, recipe)
    candidate = inputs.candidate(target)
    if candidate.task.errors is None:
        raise UsageError(
            f"{candidate.path} is a generator, and attacks with shadow models need class probabilities; generators are "
            "asked by mia loss, mia pia and mia secmi"
        )
    chosen = _recipe(checkpoints[target], candidate, recipe, epochs)
    usual = there.queries if there else 2 if chosen.augment else 1
    plan = make_plan({
        "data": dataset.spec,
        "data_sha256": dataset.sha256,
        "pool_sha256": make_pool(splits, seed=config.seed).sha256,
        "sample": config.sample,
        "seed": config.seed,
        "model": candidate.spec,
        "mean": candidate.transform.mean,
        "std": candidate.transform.std,
        "recipe": chosen.settings(),
        "precision": config.precision,
        "device": config.device,
        "queries": usual if queries is None else queries,
        "count": count,
        "treatments": _treatments(request, checkpoints, there),
    })
    return plan, {"forget.npy": splits.forget.indices, "unseen.npy": splits.pool}


def _target(checkpoints: Sequence[Checkpoint], recipe: str | None) -> int:
    """Return which checkpoint says how the target was trained."""
    for index, checkpoint in enumerate(checkpoints):
        if checkpoint.metadata is not None and checkpoint.metadata.recipe:
            return index
    if recipe is None:
        raise UsageError(
            "no checkpoint says how it was trained, and shadow models follow the target's own recipe: name it with "
            f"--recipe ({', '.join(name for name in catalogue.RECIPES if name != DIFFUSION.name)}) and --epochs"
        )
    if recipe == FAST:
        raise UsageError(f"--recipe {FAST} hurries the target's own recipe, and no checkpoint says which that is")
    return 0


def _recipe(checkpoint: Checkpoint, candidate: Candidate, name: str | None, epochs: int | None) -> Recipe:
    """Return the recipe that is named, else the target's own, with other epochs where they are given."""
    recorded = checkpoint.metadata.recipe if checkpoint.metadata else {}
    own = name == FAST and recorded
    settings = dict(recorded) if own or not name else pick_recipe(name, candidate.spec).settings()
    settings = hurried(recorded_recipe(settings).settings()) if own else settings
    return recorded_recipe(settings if epochs is None else settings | {"epochs": epochs})


def _treatments(request: Resolved, checkpoints: Sequence[Checkpoint], there: FleetPlan | None) -> tuple[Treatment, ...]:
    """Return the plan's treatments so far, and those that the unlearned checkpoints went through."""
    found = {each.key: each for each in (there.treatments if there else ())}
    for entry, checkpoint in zip(request.config.checkpoint, checkpoints, strict=True):
        metadata = checkpoint.metadata
        if (entry.role or (metadata.role if metadata else None)) != "unlearned":
            continue
        treatment = treatment_in(metadata) if metadata else None
        if treatment is not None and is_code(treatment.method):
            raise UsageError(
                f"{checkpoint.path} was unlearned by {treatment.method}, which is code, and a file may not choose what "
                "shadow models are put through; leave it out"
            )
        if treatment is None or treatment.method not in catalogue.METHODS:
            raise UsageError(f"{checkpoint.path} does not say by which method it was unlearned; leave it out")
        if treatment.settings.get("adversarial") is not None:
            raise UsageError(
                f"{checkpoint.path} was unlearned with an adversarial set that was brought, which is one model's: "
                "shadow models cannot go through the same; leave it out, or unlearn without --adversarial"
            )
        found[treatment.key] = treatment
    return tuple(found.values())
