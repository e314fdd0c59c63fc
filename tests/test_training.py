"""Training recipes: the same model each time, and a retrained one that never saw what it has to do without."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unlearn_audit import __version__, catalogue
from unlearn_audit import training as recipes
from unlearn_audit.checkpoints import read_checkpoint
from unlearn_audit.data import Dataset, Examples, IndexSet, load_data, read_training_indices
from unlearn_audit.engine import Device, predict
from unlearn_audit.errors import ConfigError, MeasurementError, OutputError, UsageError
from unlearn_audit.training import (
    DIFFUSION,
    RESNET,
    SMALL,
    Recipe,
    describe,
    new_model,
    pick_recipe,
    recorded_recipe,
    train,
    train_checkpoint,
)

Noise = Callable[..., Examples]
CPU = Device(torch.device("cpu"))
QUICK = replace(SMALL, epochs=2, batch_size=16)


@pytest.fixture(scope="module")
def dataset(noise: Noise) -> Dataset:
    return Dataset("noise", noise(70), noise(60, seed=1), 4, (0.5,), (0.25,), "0" * 64)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


# ----- recipes and models


def test_a_recipe_is_picked_by_name_or_by_model() -> None:
    assert pick_recipe(None, "small-cnn") is SMALL
    assert pick_recipe(None, "resnet20") is RESNET
    assert pick_recipe("small", "resnet20") is SMALL
    assert pick_recipe(None, "small-cnn", epochs=3) == replace(SMALL, epochs=3)
    assert pick_recipe(None, "small-unet") is pick_recipe(None, "diffusers:UNet2DModel") is DIFFUSION
    assert pick_recipe("diffusion", "") is DIFFUSION  # of which model it is, is not known yet
    with pytest.raises(UsageError, match="unknown recipe 'smal'; did you mean 'small'"):
        pick_recipe("smal", "resnet20")


def test_the_catalogue_and_the_recipes_agree() -> None:
    for name in catalogue.RECIPES:
        assert catalogue.load("recipe", catalogue.RECIPES, name).name == name


def test_a_new_model_depends_on_its_seed_and_leaves_the_global_generator_alone(dataset: Dataset) -> None:
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(states))
        before = torch.get_rng_state()
        states.append(weights(new_model("small-cnn", dataset, seed)))
        assert torch.equal(before, torch.get_rng_state())
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


def test_a_new_model_may_not_be_user_code_unless_allowed(dataset: Dataset) -> None:
    with pytest.raises(UsageError, match="os:getcwd"):
        new_model("os:getcwd", dataset, 0)


# ----- training


def test_training_is_the_loop_written_by_hand(dataset: Dataset) -> None:
    recipe = Recipe("test", 3, 16, 0.1, 0.9, 0.01, augment=False)
    rows = np.arange(0, 70, 2)
    found = train("small-cnn", dataset, rows, recipe, seed=5, compute=CPU).model
    assert not found.training
    model = new_model("small-cnn", dataset, 5).train()
    batches = recipes.Batches(dataset.train.subset(rows), dataset.transform, 16, 5, "train", CPU)
    velocity = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for step in range(9):
        rate = 0.1 * min(1.0, (step + 1) / (0.05 * 9)) * (1 + math.cos(math.pi * step / 9)) / 2
        images, labels = batches.at(step)
        slopes = torch.autograd.grad(nn.functional.cross_entropy(model(images), labels), list(model.parameters()))
        with torch.no_grad():
            for (name, parameter), slope in zip(model.named_parameters(), slopes, strict=True):
                decayed = slope + 0.01 * parameter if parameter.dim() >= 2 else slope
                velocity[name] = 0.9 * velocity[name] + decayed
                parameter -= rate * (decayed + 0.9 * velocity[name])
    for (name, one), two in zip(found.state_dict().items(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5, msg=name)


def test_without_momentum_training_is_plain_gradient_descent(dataset: Dataset) -> None:
    recipe = recorded_recipe({**QUICK.settings(), "epochs": 1, "batch_size": 70, "momentum": 0, "weight_decay": 0})
    found = weights(train("small-cnn", dataset, np.arange(70), recipe, seed=5, compute=CPU).model)
    model = new_model("small-cnn", dataset, 5).train()
    images, labels = recipes.Batches(dataset.train, dataset.transform, 70, 5, "train", CPU).at(0)
    slopes = torch.autograd.grad(nn.functional.cross_entropy(model(images), labels), list(model.parameters()))
    for (name, parameter), slope in zip(model.named_parameters(), slopes, strict=True):
        torch.testing.assert_close(found[name], parameter.detach() - recipe.step_size * slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"momentum": 1.0}, "momentum: must be less than 1"),
        ({"momentum": -0.1}, "momentum: must be at least 0"),
        ({"step_size": 0.0}, "step_size: must be greater than 0"),
        ({"step_size": 1e300}, r"step_size: must be at most 1e\+30"),
        ({"weight_decay": math.inf}, "weight_decay: must be a finite number"),
        ({"epochs": True}, "epochs: must be a whole number"),
        ({"epochs": "30"}, "epochs: must be a whole number"),
        ({"augment": 1}, "augment: must be true or false"),
        ({"step_sise": 0.1}, "unknown key 'step_sise'; did you mean 'step_size'"),
        ({"self": 1}, "unknown key 'self'"),
    ],
)
def test_a_recorded_recipe_is_checked(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=f"^recorded recipe: {says}.*; name a recipe with --recipe$"):
        recorded_recipe({**QUICK.settings(), **changes})
    assert recorded_recipe(QUICK.settings()) == QUICK


@pytest.mark.parametrize("augment", [False, True])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(dataset: Dataset, augment: bool) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(states))
        recipe = replace(QUICK, augment=augment)
        states.append(weights(train("small-cnn", dataset, np.arange(70), recipe, seed=seed, compute=CPU).model))
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


def test_augmentation_makes_a_difference(dataset: Dataset) -> None:
    plain, augmented = (
        train("small-cnn", dataset, np.arange(70), replace(QUICK, augment=on), seed=1, compute=CPU).model
        for on in (False, True)
    )
    assert not same(weights(plain), weights(augmented))


def test_training_that_diverges_stops_with_the_step(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"^training diverged (by|at) step \d+"):
        train_checkpoint(
            tmp_path / "o.safetensors", "small-cnn", dataset, replace(QUICK, step_size=1e30), seed=0, compute=CPU
        )
    assert list(tmp_path.iterdir()) == []


# ----- checkpoints


@pytest.fixture(scope="module")
def poisoned(noise: Noise) -> tuple[Dataset, IndexSet]:
    """Data in which every example to be forgotten is NaN: a model that sees one of them is lost."""
    clean, indices = noise(70), np.arange(5, 70, 7)
    images = clean.images.float() / 255
    images[torch.from_numpy(indices)] = float("nan")
    data = Dataset("noise", replace(clean, images=images), noise(60, seed=1), 4, (0.5,), (0.25,), "0" * 64)
    return data, IndexSet("idx.npy", indices, "1" * 64)


def test_a_retrained_model_never_sees_the_forget_set(poisoned: tuple[Dataset, IndexSet], tmp_path: Path) -> None:
    data, forget = poisoned
    recipe = replace(QUICK, augment=True)
    with pytest.raises(MeasurementError, match="diverged"):
        train_checkpoint(tmp_path / "o.safetensors", "small-cnn", data, recipe, seed=0, compute=CPU)
    path = tmp_path / "r.safetensors"
    train_checkpoint(path, "small-cnn", data, recipe, without=forget, seed=0, compute=CPU)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in read_checkpoint(path).state.values())


def test_an_original_model_sees_everything_and_a_retrained_one_the_rest(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    class Watched(recipes.Batches):
        """Batches that remember the examples they were made of."""

        def __post_init__(self) -> None:
            super().__post_init__()
            seen.append(self.examples.images)

    monkeypatch.setattr(recipes, "Batches", Watched)
    forget = read_training_indices("random:0.3:1", dataset)
    for without in (None, forget):
        path = tmp_path / f"{without is None}.safetensors"
        train_checkpoint(path, "small-cnn", dataset, QUICK, without=without, seed=0, compute=CPU)
    assert torch.equal(seen[0], dataset.train.images)
    rest = [row for row in range(70) if row not in set(forget.indices.tolist())]
    assert torch.equal(seen[1], dataset.train.images[rest])


def test_the_metadata_say_how_a_model_came_to_be(dataset: Dataset, tmp_path: Path) -> None:
    forget = read_training_indices("range:0-9", dataset)
    made = {}
    for role, without in (("original", None), ("retrained", forget)):
        path = tmp_path / f"{role}.safetensors"
        train_checkpoint(path, "small-cnn", dataset, QUICK, without=without, seed=7, compute=CPU)
        made[role] = read_checkpoint(path).metadata
        assert made[role] is not None
        assert made[role].role == role
        assert (made[role].seed, made[role].recipe) == (7, QUICK.settings())
        assert (made[role].data, made[role].data_sha256) == ("noise", "0" * 64)
        assert (made[role].mean, made[role].std) == ((0.5,), (0.25,))
        assert (made[role].model, made[role].classes, made[role].channels) == ("small-cnn", 4, 1)
        assert (made[role].image_size, made[role].tool_version) == ((4, 4), __version__)
    original, retrained = made["original"], made["retrained"]
    assert (original.forget, original.forget_sha256, original.forget_n) == (None, None, None)
    assert (retrained.forget, retrained.forget_sha256, retrained.forget_n) == ("range:0-9", forget.sha256, 10)
    assert (original.steps, original.gradient_evaluations) == (2 * 5, 2 * 70)
    assert (retrained.steps, retrained.gradient_evaluations) == (2 * 4, 2 * 60)
    assert describe("small-cnn", dataset).role is None


def test_an_existing_output_is_refused_before_training(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "train", lambda *_, **__: pytest.fail("trained"))
    path = tmp_path / "o.safetensors"
    path.write_bytes(b"x")
    with pytest.raises(OutputError, match="o.safetensors"):
        train_checkpoint(path, "small-cnn", dataset, QUICK, seed=0, compute=CPU)
    assert path.read_bytes() == b"x"


def test_the_small_recipe_learns_digits_in_a_few_epochs() -> None:
    digits = load_data("digits")
    recipe = replace(SMALL, epochs=4)
    model = train("small-cnn", digits, np.arange(len(digits.train)), recipe, seed=0, compute=CPU).model
    logits = predict(model, digits.test.images, digits.transform, compute=CPU)
    assert (logits.argmax(1) == digits.test.labels.numpy()).mean() > 0.9
