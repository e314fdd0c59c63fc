"""Retraining as a method: the same model that `train --without` makes, and an honest record of how."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_problems import CPU, difference, make_context, make_net, make_small_splits, same, snapshot

from unlearn_audit.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from unlearn_audit.config import Layer, resolve
from unlearn_audit.data import Splits
from unlearn_audit.errors import ConfigError, MeasurementError, UsageError
from unlearn_audit.files import sha256_of_file
from unlearn_audit.methods import Unlearned
from unlearn_audit.methods.apply import Applied, apply_method, parse_settings
from unlearn_audit.methods.retrain import RETRAIN, RetrainSettings, run_retrain
from unlearn_audit.training import SMALL, Recipe, train

QUICK = Recipe("small", 2, 32, 0.05, 0.9, 1e-3, augment=True)


def retrain(
    tiny: Path, out: Path, parent: str = "original", seed: int = 0, **settings: Any
) -> tuple[Applied, Checkpoint]:
    asked = {
        "checkpoint": [{"path": str(tiny / f"{parent}.safetensors" if "/" not in parent else parent)}],
        "forget": str(tiny / "forget.npy"), "device": "cpu", "seed": seed,
    }  # fmt: skip
    applied = apply_method("retrain", out, resolve([Layer("flag", asked)]), settings)
    return applied, read_checkpoint(out)


def test_retraining_is_training_without_the_forget_set_bit_for_bit(tiny: Path, tmp_path: Path) -> None:
    """The fixture's first retrained model was made by `train_checkpoint(without=…)` with seed 1."""
    applied, made = retrain(tiny, tmp_path / "r.safetensors", seed=1)
    trained = read_checkpoint(tiny / "retrained-1.safetensors")
    assert same(dict(made.state), dict(trained.state))
    assert made.metadata is not None
    assert trained.metadata is not None
    assert (made.metadata.role, trained.metadata.role) == ("retrained", "retrained")
    for key in ("recipe", "forget_sha256", "forget_n", "steps", "gradient_evaluations", "seed", "data_sha256"):
        assert getattr(made.metadata, key) == getattr(trained.metadata, key), key
    assert (made.metadata.method, made.metadata.notes) == ("retrain", ())
    assert made.metadata.parent_sha256 == sha256_of_file(tiny / "original.safetensors")
    assert applied.done.notes == ()


def test_the_originals_own_seed_is_pointed_out(tiny: Path, tmp_path: Path) -> None:
    """The fixture's original was trained with seed 0."""
    applied, _ = retrain(tiny, tmp_path / "r.safetensors", seed=0, epochs=1)
    assert any("began with the same weights" in note for note in applied.done.notes)


def test_nothing_of_the_checkpoint_is_used_but_its_recipe(splits: Splits) -> None:
    models = []
    for seed in (0, 1):
        model = make_net(seed)
        run_retrain(make_context(model, splits, 4, spec="small-cnn", recipe=QUICK.settings()), RetrainSettings())
        models.append(model)
    trained = train("small-cnn", splits.dataset, splits.retain, QUICK, seed=4, compute=CPU).model
    assert same(models[0], models[1])
    assert same(models[0], trained)
    other = make_net()
    run_retrain(make_context(other, splits, 5, spec="small-cnn", recipe=QUICK.settings()), RetrainSettings())
    assert difference(other, models[0]) > 1e-3


def test_steps_and_gradients_are_counted(splits: Splits) -> None:
    context = make_context(make_net(), splits, spec="small-cnn", recipe=QUICK.settings())
    assert run_retrain(context, RetrainSettings()) == Unlearned(6, 180, recipe=QUICK.settings())


def test_other_epochs_than_the_originals_are_said_and_recorded(tiny: Path, tmp_path: Path) -> None:
    _, made = retrain(tiny, tmp_path / "r.safetensors", seed=1, epochs=1)
    assert made.metadata is not None
    assert made.metadata.notes == ("not the original's number of epochs",)
    assert made.metadata.recipe["epochs"] == 1
    _, same_number = retrain(tiny, tmp_path / "s.safetensors", seed=1, epochs=3)
    assert same_number.metadata is not None
    assert same_number.metadata.notes == ()


def test_without_a_recorded_recipe_the_one_taken_is_said(tiny: Path, tmp_path: Path) -> None:
    original = read_checkpoint(tiny / "original.safetensors")
    assert original.metadata is not None
    write_checkpoint(
        tmp_path / "o.safetensors", original.state, original.metadata.model_copy(update={"recipe": {}}), force=False
    )
    applied, made = retrain(tiny, tmp_path / "r.safetensors", parent=str(tmp_path / "o.safetensors"), seed=1, epochs=1)
    assert applied.done.notes == (
        "recipe small, epochs 1, is assumed: nothing says how the original was trained; name it with --recipe and "
        "--epochs",
    )
    assert made.metadata is not None
    assert made.metadata.notes == applied.done.notes
    assert made.metadata.recipe_assumed
    assert made.metadata.recipe == {**SMALL.settings(), "epochs": 1}


def test_a_recipe_that_is_named_where_nothing_is_recorded_is_no_assumption(splits: Splits) -> None:
    done = run_retrain(make_context(make_net(), splits, spec="small-cnn"), RetrainSettings(recipe="small", epochs=1))
    assert done.notes == ("recipe small, epochs 1, as it was named: the original's file says none",)
    assert not done.recipe_assumed


def test_a_recipe_that_is_named_is_taken_and_said(splits: Splits) -> None:
    context = make_context(make_net(), splits, spec="small-cnn", recipe=QUICK.settings())
    done = run_retrain(context, RetrainSettings(recipe="resnet", epochs=1))
    assert done.notes == ("recipe resnet, while the original's is small",)
    assert done.recipe is not None
    assert (done.recipe["name"], done.recipe["epochs"], done.recipe["batch_size"]) == ("resnet", 1, 128)


@pytest.mark.parametrize(
    ("recipe", "settings", "says"),
    [
        ({"name": "small"}, {}, "recorded recipe: epochs is missing.*name a recipe with --recipe"),
        ({**QUICK.settings(), "batch_size": 0}, {}, "recorded recipe: batch_size: must be greater than 0"),
        ({}, {"recipe": "resent"}, "unknown recipe 'resent'; did you mean 'resnet'"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(
    splits: Splits, recipe: dict[str, Any], settings: dict[str, Any], says: str
) -> None:
    model = make_net()
    before = snapshot(model)
    with pytest.raises(UsageError, match=says):
        run_retrain(make_context(model, splits, spec="small-cnn", recipe=recipe), RetrainSettings(**settings))
    assert same(model, before)


def test_nothing_to_train_on_is_refused(noise: Any) -> None:
    splits = make_small_splits(noise)
    empty = replace(splits, retain=splits.retain[:0])
    with pytest.raises(UsageError, match="the retain set is empty; there is nothing to train on"):
        run_retrain(make_context(make_net(), empty, spec="small-cnn"), RetrainSettings(epochs=1))


def test_training_that_diverges_is_said(splits: Splits) -> None:
    wild = {**QUICK.settings(), "step_size": 1e20}
    with pytest.raises(MeasurementError, match=r"^retraining diverged at step \d+"):
        run_retrain(make_context(make_net(), splits, spec="small-cnn", recipe=wild), RetrainSettings(epochs=20))


@pytest.mark.parametrize("epochs", [0, -1])
def test_settings_are_checked(epochs: int) -> None:
    with pytest.raises(ConfigError, match="^settings of retrain: epochs: "):
        parse_settings(RETRAIN, {"epochs": epochs})
