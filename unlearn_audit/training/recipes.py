"""Recipes: how an original or a retrained model is trained, under a name or as a file records it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from unlearn_audit import catalogue
from unlearn_audit.errors import ConfigError, UsageError
from unlearn_audit.step_transforms import training_extras
from unlearn_audit.strict_json import problems

Count = Annotated[int, Field(gt=0, strict=True)]
Real = Annotated[float, Field(ge=0, strict=True)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Recipe:
    """SGD with momentum, or AdamW, and a cosine schedule after a short linear warm-up.

    Attributes:
        name: how it is asked for.
        epochs: passes over the training set.
        batch_size: examples per step.
        step_size: peak learning rate, above 0 and at most 1e30.
        momentum: of SGD (Nesterov's), below 1; 0 is plain SGD.
        weight_decay: on every parameter of two or more dimensions.
        augment: random crops (padding of an eighth) and horizontal flips.
        transforms: what joins the training, as `--with` takes it, in order.
        optimizer: "sgd" or "adamw" (Loshchilov & Hutter 2019, default betas), which has no momentum of its own.
        clip: the largest norm of a step's gradient; None leaves it as it is.
        label_drop: of a generator, the probability that an image is shown without its class.
    """

    name: str
    epochs: Count
    batch_size: Count
    step_size: Annotated[float, Field(gt=0, le=1e30, strict=True)]
    momentum: Annotated[Real, Field(lt=1)]
    weight_decay: Real
    augment: Annotated[bool, Field(strict=True)]
    transforms: tuple[str, ...] = ()
    optimizer: Literal["sgd", "adamw"] = "sgd"
    clip: Annotated[float, Field(gt=0, strict=True)] | None = None
    label_drop: Annotated[Real, Field(le=1)] = 0.0

    def settings(self) -> dict[str, Any]:
        """Return the recipe as plain values, for a checkpoint's metadata; what came later only where it differs."""
        found = asdict(self) | {"transforms": list(self.transforms)}
        idle: dict[str, Any] = {"transforms": [], "optimizer": "sgd", "clip": None, "label_drop": 0.0}
        return {key: value for key, value in found.items() if key not in idle or value != idle[key]}


# Ours: enough passes without regularisation that a small network fits every label, wrong ones included.
SMALL = Recipe("small", 30, 64, 0.1, 0.9, 0.0, augment=False)
# He et al. 2016, section 4.2 (step .1, momentum .9, crops and flips); cosine schedule and 5e-4 as is usual since.
RESNET = Recipe("resnet", 30, 128, 0.1, 0.9, 5e-4, augment=True)

# Ours, as is usual for small diffusion models: on the embedded digits 2,001 steps. The dropped labels teach the
# answer without a condition (Ho & Salimans 2022).
DIFFUSION = Recipe("diffusion", 87, 64, 2e-3, 0.0, 0.01, augment=False, optimizer="adamw", clip=1.0, label_drop=0.1)


FAST = "fast"  # what stands for the target's own recipe, hurried, where shadow models are planned


def pick_recipe(name: str | None, model: str, *, epochs: int | None = None, transforms: Sequence[str] = ()) -> Recipe:
    """Return a recipe: the one named, else "diffusion" for generators, "small" for our small networks, else "resnet".

    Args:
        name: of the catalogue, or None.
        model: the model spec that decides where no name is given, and that it is held against; "" where none is known.
        epochs: instead of the recipe's own.
        transforms: what joins the training, as `--with` takes it.

    Raises:
        UsageError: an unknown name, of the recipe or of a transform, a transform that cannot train, or a recipe for
            another kind of model.
        ConfigError: a setting of a transform is out of range.
    """
    generator = catalogue.is_generator(model)
    usual = "diffusion" if generator else "small" if model.startswith("small") else "resnet"
    recipe: Recipe = catalogue.load("recipe", catalogue.RECIPES, name or usual)
    if model and generator != (recipe.name == DIFFUSION.name):
        raise UsageError(f"the recipe {recipe.name} does not train '{model}'; leave out --recipe, or name {usual}")
    if transforms:
        training_extras(transforms)
        recipe = replace(recipe, transforms=tuple(transforms))
    return replace(recipe, epochs=epochs) if epochs else recipe


def recorded_recipe(settings: Mapping[str, Any]) -> Recipe:
    """Return the recipe that a file records; anyone may have written the file.

    Args:
        settings: as a checkpoint's metadata or the plan of a fleet has them.

    Raises:
        ConfigError: they are those of another kind of recipe, or a value is out of range.
    """
    try:
        found = TypeAdapter(Recipe).validate_python(dict(settings))
        training_extras(found.transforms)
    except ValidationError as problem:
        wrong = problems(problem, settings, Recipe)
        raise ConfigError("recorded recipe", [*wrong, "name a recipe with --recipe"]) from problem
    except (UsageError, ConfigError) as problem:
        raise ConfigError("recorded recipe", [f"transforms: {problem}", "name a recipe with --recipe"]) from problem
    return found


def hurried(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe that takes two thirds of the epochs in batches of twice the size: a third of its steps.

    The step size grows with the batch: twice for SGD (Goyal et al. 2017, section 2.1), √2 times for AdamW (Malladi et
    al. 2022). A network that just fitted its examples then fits a little less of them.

    Args:
        settings: the recipe as metadata have it, checked.

    >>> hurried({"name": "small", "epochs": 5, "batch_size": 64, "step_size": 0.1})
    {'name': 'small-fast', 'epochs': 4, 'batch_size': 128, 'step_size': 0.2}
    """
    found = dict(settings)
    factor = 2.0 if found.get("optimizer", "sgd") == "sgd" else 2**0.5
    return found | {
        "name": f"{found['name']}-{FAST}",
        "epochs": -(-2 * found["epochs"] // 3),
        "batch_size": 2 * found["batch_size"],
        "step_size": factor * found["step_size"],
    }


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return in words how two recipes differ, as checkpoints' metadata have them; names do not count.

    >>> differing({"name": "small", "epochs": 5}, {"name": "mine", "epochs": 30})
    'epochs 5, not 30'
    """
    keys = [key for key in dict(one) | dict(other) if key != "name" and one.get(key) != other.get(key)]
    return ", ".join(f"{key} {one.get(key)!s:.40}, not {other.get(key)!s:.40}" for key in keys)


def by_difference(trained: Iterable[tuple[str, Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, list[str]]:
    """Return how recipes differ, in the words of `differing`, with the labels of those that differ so.

    Args:
        trained: label, its recipe, and the one that it is compared with; those that are alike are left out.
    """
    found: dict[str, list[str]] = {}
    for label, one, other in trained:
        if told := differing(one, other):
            found.setdefault(told, []).append(label)
    return found
