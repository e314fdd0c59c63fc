"""From a request to a plan: the target's recipe, the audit's sets, and what the fleet is to be put through."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unlearn_audit import catalogue
from unlearn_audit.checkpoints import Checkpoint, read_checkpoint
from unlearn_audit.config import Resolved
from unlearn_audit.data import make_pool, make_splits
from unlearn_audit.engine import prepare
from unlearn_audit.errors import UsageError
from unlearn_audit.files import atomic_write
from unlearn_audit.recipes import pick_recipe
from unlearn_audit.shadows.folder import FleetFolder
from unlearn_audit.shadows.plan import PLAN_NAME, FleetPlan, Treatment, differences, read_plan, write_plan
from unlearn_audit.shadows.reading import treatment_in
from unlearn_audit.subjects import Candidate, build_candidate, settle_data, unique_labels

__all__ = ["Planned", "plan_fleet"]


class Planned(NamedTuple):
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
) -> Planned:
    """Write the plan of a fleet, or extend the one that is there.

    Args:
        folder: of the fleet; made where it is missing.
        request: checkpoints and a forget set. The first checkpoint that says how it was trained gives the recipe, every
            unlearned one adds a treatment. Without checkpoints the plan in the folder is taken, and may grow.
        count: models in all; the plan's own where None.
        queries: views of an attacked image; 1, or 2 where the recipe augments.
        recipe: name of a recipe, where no checkpoint says one.
        epochs: with `recipe`.

    Raises:
        UsageError: something is needed that nobody says, or the folder holds a fleet of another kind.
        ConfigError: an odd count.
        OutputError: the folder cannot be written.
    """
    there = read_plan(folder) if (folder / PLAN_NAME).exists() else None
    if not request.config.checkpoint:
        if there is None:
            raise UsageError(f"{folder} has no plan yet; name the checkpoint whose recipe the shadow models follow")
        wanted = there if count is None else _grown(there, count)
        return _written(folder, wanted, there, {})
    plan, sets = _plan(request, count or (there.count if there else DEFAULT_COUNT), queries, recipe, epochs, there)
    return _written(folder, plan, there, sets)


DEFAULT_COUNT = 16


def _grown(plan: FleetPlan, count: int) -> FleetPlan:
    return FleetPlan.model_validate(plan.model_dump() | {"count": count})


def _written(folder: Path, plan: FleetPlan, there: FleetPlan | None, sets: Mapping[str, Any]) -> Planned:
    """Write plan and index files; refuse to turn a fleet into another one."""
    if there is not None:
        changed = differences(there, plan)
        if changed:
            raise UsageError(
                f"{folder} holds a fleet of another kind ({'; '.join(changed)}): plan this one in another folder"
            )
        if plan.count < there.count:
            raise UsageError(f"{folder} is planned with {there.count} models; a fleet can grow, not shrink")
    FleetFolder(folder).make()
    for name, indices in sets.items():
        if not (folder / name).exists():
            atomic_write(folder / name, _npy(indices))
    if plan != there:
        write_plan(plan, folder)
    return Planned(plan, tuple(_told(plan, there)))


def _told(plan: FleetPlan, there: FleetPlan | None) -> list[str]:
    """Say what the plan adds to what was there."""
    if there is None:
        return []
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
    queries: int | None,
    recipe: str | None,
    epochs: int | None,
    there: FleetPlan | None,
) -> tuple[FleetPlan, dict[str, Any]]:
    """Return the plan and the index sets that go with it."""
    config, origins = request.config, dict(request.origins)
    checkpoints = [read_checkpoint(Path(entry.path)) for entry in config.checkpoint]
    dataset = settle_data(config, origins, checkpoints, [])
    if not config.forget:
        raise UsageError("no forget set given; name it with --forget (an index file, class:3, random:0.1:SEED, …)")
    splits = make_splits(dataset, config.forget, unseen=config.unseen, sample=config.sample, seed=config.seed)
    compute = prepare(config.device, config.precision, config.batch_size)
    labels = unique_labels(config.checkpoint)
    target = _target(checkpoints, recipe)
    candidate = build_candidate(
        config, origins, config.checkpoint[target], checkpoints[target], labels[target], dataset, compute
    )
    chosen = _recipe(checkpoints[target], candidate, recipe, epochs)
    treatments = _treatments(checkpoints, there)
    plan = FleetPlan(
        data=dataset.spec,
        data_sha256=dataset.sha256,
        pool_sha256=make_pool(splits, seed=config.seed).sha256,
        sample=config.sample,
        seed=config.seed,
        model=candidate.spec,
        mean=candidate.transform.mean,
        std=candidate.transform.std,
        recipe=chosen,
        precision=config.precision,
        device=config.device,
        queries=queries or (there.queries if there else 2 if chosen["augment"] else 1),
        count=count,
        treatments=treatments,
    )
    return plan, {"forget.npy": splits.forget.indices, "unseen.npy": splits.pool}


def _target(checkpoints: list[Checkpoint], recipe: str | None) -> int:
    """Return which checkpoint says how the target was trained."""
    for index, checkpoint in enumerate(checkpoints):
        if checkpoint.metadata is not None and checkpoint.metadata.recipe:
            return index
    if recipe is None:
        raise UsageError(
            "no checkpoint says how it was trained, and shadow models follow the target's own recipe: name it with "
            f"--recipe ({', '.join(catalogue.RECIPES)}) and --epochs"
        )
    return 0


def _recipe(checkpoint: Checkpoint, candidate: Candidate, name: str | None, epochs: int | None) -> dict[str, Any]:
    if name is None and epochs is None and checkpoint.metadata is not None:
        return dict(checkpoint.metadata.recipe)
    return pick_recipe(name, candidate.spec, epochs=epochs).settings()


def _treatments(checkpoints: list[Checkpoint], there: FleetPlan | None) -> tuple[Treatment, ...]:
    """Return the plan's treatments so far, and those that the unlearned checkpoints went through."""
    found = {each.key: each for each in (there.treatments if there else ())}
    for checkpoint in checkpoints:
        metadata = checkpoint.metadata
        if metadata is None or metadata.role != "unlearned":
            continue
        treatment = treatment_in(metadata)
        if treatment is None or treatment.method not in catalogue.METHODS:
            raise UsageError(f"{checkpoint.path} does not say by which method it was unlearned; leave it out")
        found[treatment.key] = treatment
    return tuple(found.values())
