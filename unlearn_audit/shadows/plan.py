"""What a fleet is to be: whose recipe, which examples, how many models, and what each of them is put through."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from unlearn_audit.data import QUERY_COUNTS
from unlearn_audit.errors import ConfigError, UsageError
from unlearn_audit.files import atomic_write, check_input
from unlearn_audit.streams import generator
from unlearn_audit.strict_json import parse_object, problems
from unlearn_audit.training import Recipe, recorded_recipe

PLAN_NAME = "fleet.json"
CODE_VERSION = 1  # counted up when a plan would give other numbers: the training loop, the assignment, the forget sets


class _PlanModel(BaseModel):
    """A part of a plan: frozen, unknown keys refused, no conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Treatment(_PlanModel):
    """An unlearning method with its settings, as a checkpoint's metadata has them."""

    method: str
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    transforms: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """A digest of all three."""
        return _digest(self.model_dump(mode="json"))


class FleetPlan(_PlanModel):
    """Everything that the models of a fleet depend on.

    Attributes:
        data: data spec with absolute paths.
        data_sha256: digest of the data.
        pool_sha256: digest of pool and population, see `data.make_pool`.
        sample: how many forget examples the audit measures, if not all.
        seed: the audit's, which decides sample and twin; the models' seeds are derived from it.
        model: model spec.
        mean: of the target's transform, per channel.
        std: likewise.
        recipe: the target's, resolved.
        precision: of training.
        device: where to train.
        queries: views of an attacked image that a model is asked about.
        count: of models; even.
        treatments: what each model is put through after its training, one at a time.
    """

    schema_version: Literal[1] = 1
    data: str
    data_sha256: str
    pool_sha256: str
    sample: int | None = None
    seed: int
    model: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    recipe: dict[str, JsonValue]
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    device: str = "auto"
    queries: int = 1
    count: Annotated[int, Field(ge=2, le=100_000)]
    treatments: tuple[Treatment, ...] = ()

    @field_validator("count")
    @classmethod
    def _even(cls, count: int) -> int:
        if count % 2:
            raise ValueError(
                f"{count} models cannot hold each example in exactly half: take {count - 1} or {count + 1}"
            )
        return count

    @field_validator("queries")
    @classmethod
    def _known(cls, queries: int) -> int:
        if queries not in QUERY_COUNTS:
            raise ValueError(f"queries is one of {', '.join(map(str, QUERY_COUNTS))}, not {queries}")
        return queries

    def training_recipe(self) -> Recipe:
        """Return the recipe to train with.

        Raises:
            ConfigError: the recorded one is of another kind.
        """
        return recorded_recipe(self.recipe)


class Job(NamedTuple):
    """One piece of work: train shadow model `number`, or put it through a treatment; `id` is what determines it.

    Attributes:
        id: digest of everything that the result depends on.
        number: of the model, from 0.
        treatment: None for training.
        parent: id of the training that a treatment starts from.
    """

    id: str
    number: int
    treatment: Treatment | None = None
    parent: str | None = None

    @property
    def kind(self) -> str:
        """What is done, in a word."""
        return self.treatment.method if self.treatment else "training"


def members(plan: FleetPlan, number: int, size: int) -> NDArray[np.int64]:
    """Return the sorted positions in the pool that shadow model `number` is trained on.

    Models come in pairs: one gets a random half, the other one the rest. So each example is in exactly half of any even
    number of models, and stays so when pairs are added.

    Args:
        plan: of the fleet.
        number: of the model, from 0.
        size: of the pool.
    """
    stream = generator("assignment", plan.seed, plan.pool_sha256, number // 2)
    order = stream.permutation(size)
    half = (size + number // 2 % 2) // 2  # an odd pool gives its extra example to either side in turn
    return np.sort(order[half:] if number % 2 else order[:half]).astype(np.int64)


def all_jobs(plan: FleetPlan, size: int) -> list[Job]:
    """Return all work of a plan: every training, then every treatment.

    Args:
        plan: of the fleet.
        size: of the pool.
    """
    trainings = [Job(_training_id(plan, number, size), number) for number in range(plan.count)]
    treated = [
        Job(
            _digest([CODE_VERSION, training.id, treatment.key, plan.precision]), training.number, treatment, training.id
        )
        for treatment in plan.treatments
        for training in trainings
    ]
    return trainings + treated


def _training_id(plan: FleetPlan, number: int, size: int) -> str:
    """Return the digest of what determines a shadow model."""
    depends: dict[str, Any] = plan.model_dump(
        mode="json", include={"data_sha256", "pool_sha256", "seed", "model", "mean", "std", "recipe", "precision"}
    )
    chosen = np.ascontiguousarray(members(plan, number, size), dtype="<i8")
    return _digest([CODE_VERSION, depends, number, hashlib.sha256(chosen.tobytes()).hexdigest()])


def _digest(value: object) -> str:
    """Return 32 hex digits of a JSON value's SHA-256."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def make_plan(values: Mapping[str, Any]) -> FleetPlan:
    """Return a plan of these values.

    Raises:
        ConfigError: an odd count, or another value that makes no sense; all of them are named.
    """
    try:
        return FleetPlan.model_validate(dict(values))
    except ValidationError as problem:
        raise ConfigError("plan of a fleet", problems(problem, values, FleetPlan)) from problem


def write_plan(plan: FleetPlan, folder: Path) -> None:
    """Write the plan into the fleet's folder, whole or not at all."""
    atomic_write(folder / PLAN_NAME, (plan.model_dump_json(indent=1) + "\n").encode())


def read_plan(folder: Path) -> FleetPlan:
    """Read the plan of a fleet.

    Raises:
        UsageError: the folder is no fleet.
        ConfigError: the plan is damaged, or of another version.
    """
    path = folder / PLAN_NAME
    if not path.exists():
        raise UsageError(f"{folder} is no fleet of shadow models: it has no {PLAN_NAME}; `shadows plan` makes one")
    check_input(path, "plan of a fleet", UsageError)
    try:
        values = parse_object(path.read_bytes())
    except ValueError as problem:
        raise ConfigError(str(path), [str(problem)]) from problem
    try:
        return FleetPlan.model_validate_json(json.dumps(values))  # in which lists may stand for tuples
    except ValidationError as problem:
        raise ConfigError(str(path), problems(problem, values, FleetPlan)) from problem


def differences(old: FleetPlan, new: FleetPlan) -> list[str]:
    """Return in words how two plans differ in what their models depend on.

    More models or treatments do not count, nor where the data lies as long as it is the same data.
    """
    free = {"count", "treatments", "device", "data"}
    was, now = (_flat(plan.model_dump(mode="json", exclude=free)) for plan in (old, new))
    return [
        DIGESTS.get(key) or f"{key} {now.get(key)!r:.60}, was {was.get(key)!r:.60}"
        for key in was | now
        if was.get(key) != now.get(key)
    ]


OTHER_EXAMPLES = "other examples: forget set, unseen twin or population"
DIGESTS = {  # what to say instead of two digests
    "data_sha256": "other data",
    "pool_sha256": OTHER_EXAMPLES,
}


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= {f"{key} {inner}": one for inner, one in value.items()} if isinstance(value, dict) else {key: value}
    return found
