"""Training and unlearning in memory: what the command line writes into files, without files."""

import inspect
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from small_problems import make_net, parameters_of, same, snapshot
from torch import nn

import unlearn_audit as ua
from unlearn_audit import catalogue
from unlearn_audit.checkpoints import digest_of_state, read_checkpoint
from unlearn_audit.config import Layer, resolve
from unlearn_audit.data import Splits
from unlearn_audit.engine import setup_device
from unlearn_audit.errors import ConfigError, UsageError
from unlearn_audit.methods import Method, Settings, Unlearned, UnlearningContext
from unlearn_audit.methods.apply import apply_method
from unlearn_audit.models.small import small_cnn
from unlearn_audit.training import SMALL, pick_recipe, train_checkpoint

DIGITS = "digits?train=120&test=100"


@pytest.fixture(scope="module")
def digits() -> Splits:
    return ua.make_splits(ua.load_data(DIGITS), "range:0-19")


@pytest.fixture(scope="module")
def original(digits: Splits) -> ua.TrainedModel:
    return ua.train("small-cnn", digits.dataset, epochs=1, device="cpu")


def named_net() -> nn.Module:
    return small_cnn(classes=10, channels=1)


# ----- training


def test_a_model_is_trained_as_the_command_line_trains_it(digits: Splits, tmp_path: Path) -> None:
    made = ua.train("small-cnn", digits.dataset, without=digits.forget, seed=3, epochs=1, device="cpu")
    recipe = pick_recipe("small", "", epochs=1)
    train_checkpoint(
        tmp_path / "r.safetensors", "small-cnn", digits.dataset, recipe, without=digits.forget, seed=3,
        compute=setup_device("cpu"), clock=None,
    )  # fmt: skip
    written = read_checkpoint(tmp_path / "r.safetensors")
    assert digest_of_state(made.model.state_dict()) == digest_of_state(written.state)
    assert written.metadata is not None
    assert made.record.model_copy(update={"wall_seconds": None}) == written.metadata
    assert made.record.role == "retrained"
    assert not made.model.training


def test_a_function_makes_the_network_and_the_seed_its_weights(digits: Splits) -> None:
    made = [ua.train(named_net, digits.dataset, seed=seed, epochs=1, recipe=SMALL, device="cpu") for seed in (0, 0, 1)]
    assert same(made[0].model, made[1].model)
    assert not same(made[0].model, made[2].model)
    assert made[0].record.model.endswith(":named_net")
    assert repr(made[0]).startswith("TrainedModel(")
    assert "original by small, 2 steps" in repr(made[0])


def test_a_saved_model_describes_itself(original: ua.TrainedModel, tmp_path: Path) -> None:
    digest = original.save(tmp_path / "o.safetensors")
    read = read_checkpoint(tmp_path / "o.safetensors")
    assert read.sha256 == digest
    assert read.metadata is not None
    assert (read.metadata.model, read.metadata.role) == ("small-cnn", "original")


def test_a_network_that_is_there_already_is_not_trained_in_place(digits: Splits) -> None:
    with pytest.raises(UsageError, match="a function that returns a module"):
        ua.train(make_net(), digits.dataset)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="returned int; it must return a torch.nn.Module"):
        ua.train(lambda: 3, digits.dataset, device="cpu")  # type: ignore[arg-type, return-value]


# ----- unlearning


def test_a_model_is_unlearned_as_the_command_line_does_it(
    digits: Splits, original: ua.TrainedModel, tmp_path: Path
) -> None:
    new = ua.unlearn("scrub", original, digits, alpha=0.1, epochs=1, seed=5, device="cpu")
    original.save(tmp_path / "o.safetensors")
    asked = {
        "checkpoint": [{"path": str(tmp_path / "o.safetensors")}],
        "forget": "range:0-19",
        "seed": 5,
        "device": "cpu",
    }
    apply_method("scrub", tmp_path / "u.safetensors", resolve([Layer("flag", asked)]), {"alpha": 0.1, "epochs": 1})
    written = read_checkpoint(tmp_path / "u.safetensors")
    assert digest_of_state(new.model.state_dict()) == digest_of_state(written.state)
    assert written.metadata is not None
    apart = {"wall_seconds": None, "parent_sha256": None}  # weights in memory have no file
    assert new.record.model_copy(update=apart) == written.metadata.model_copy(update=apart)


def test_it_says_what_was_done_and_how_that_differs_from_the_source(digits: Splits, original: ua.TrainedModel) -> None:
    new = ua.unlearn("ft", original, digits, steps=2, device="cpu")
    assert new.steps == new.done.steps == 2
    assert any("batch_size is 64, published is 256" in text for text in new.deviations)
    assert {*new.deviations} <= {*new.notes}
    assert (
        ua.unlearn("ft", original, digits, published=True, steps=1, device="cpu").record.settings["batch_size"] == 256
    )
    assert repr(new) == "UnlearnedModel(small-cnn, unlearned by ft, 2 steps)"


def test_the_callers_module_is_left_alone_and_its_kind_comes_back(splits: Splits) -> None:
    model = make_net().train().to(memory_format=torch.contiguous_format)
    before = snapshot(model)
    new = ua.unlearn("ga", model, splits, steps=2, device="cpu")
    assert same(model, before)
    assert model.training
    assert not new.model.training
    assert type(new.model) is type(model)
    assert not new.model._forward_pre_hooks
    assert not same(new.model, before)
    assert any(text.startswith("assumed: inputs normalised") for text in new.notes)
    named = ua.unlearn("ga", model, splits, steps=2, device="cpu", mean=0.5, std=0.25)
    assert same(named.model, new.model)
    assert not any(text.startswith("assumed") for text in named.notes)


def test_transforms_join(digits: Splits, original: ua.TrainedModel) -> None:
    new = ua.unlearn("ft", original, digits, steps=1, transforms=["mask:random,density=0.0"], device="cpu")
    before = parameters_of(original.model)
    assert all(torch.equal(before[name], parameter) for name, parameter in new.model.named_parameters())
    assert new.record.transforms == ("mask:random,density=0.0",)
    with pytest.raises(UsageError, match="ssd takes no --with"):
        ua.unlearn("ssd", original, digits, transforms=["l1"], device="cpu")


def test_retraining_needs_to_know_how_the_network_is_built(digits: Splits, original: ua.TrainedModel) -> None:
    with pytest.raises(UsageError, match=r"train\(architecture, splits.dataset, without=splits.forget\)"):
        ua.unlearn("retrain", original.model, digits, device="cpu")
    new = ua.unlearn("retrain", original, digits, seed=7, device="cpu")
    trained = ua.train("small-cnn", digits.dataset, without=digits.forget, epochs=1, seed=7, device="cpu")
    assert same(new.model, trained.model)
    assert new.record.role == "retrained"


def test_a_network_from_any_function_is_retrained_with_it(digits: Splits) -> None:
    def local_net() -> nn.Module:
        return small_cnn(classes=10, channels=1)

    trained = ua.train(named_net, digits.dataset, without=digits.forget, epochs=1, seed=7, recipe="small", device="cpu")
    for make in (local_net, lambda: local_net(), partial(small_cnn, classes=10, channels=1)):
        original = ua.train(make, digits.dataset, epochs=1, recipe="small", device="cpu")
        fine_tuned = ua.unlearn("ft", original, digits, steps=1, device="cpu")
        for model in (original, fine_tuned):
            assert same(ua.unlearn("retrain", model, digits, seed=7, device="cpu").model, trained.model)


def test_a_function_without_a_name_does_not_keep_a_model_from_being_pickled(digits: Splits) -> None:
    original = ua.train(lambda: named_net(), digits.dataset, epochs=1, device="cpu")
    copied = pickle.loads(pickle.dumps(original))
    assert same(copied.model, original.model)
    assert copied.record == original.record
    with pytest.raises(UsageError, match=r"train\(architecture, splits.dataset, without=splits.forget\)"):
        ua.unlearn("retrain", copied, digits, device="cpu")


def test_what_is_wrong_with_settings_is_told_at_once(digits: Splits, original: ua.TrainedModel) -> None:
    with pytest.raises(ConfigError) as caught:
        ua.unlearn("scrub", original, digits, alpha=-1, gama=2)
    assert len(caught.value.problems) == 2
    with pytest.raises(UsageError, match="did you mean 'scrub'"):
        ua.unlearn("scrubb", original, digits)


@pytest.mark.parametrize("name", catalogue.METHODS)
def test_no_setting_has_the_name_of_a_parameter(name: str) -> None:
    method: Method = catalogue.load("method", catalogue.METHODS, name)
    assert not {*method.settings.model_fields} & {*inspect.signature(ua.unlearn).parameters}


def _halve(context: UnlearningContext, settings: Settings) -> Unlearned:
    with torch.no_grad():
        for parameter in context.model.parameters():
            parameter *= 0.5
    return Unlearned(1, 0)


def test_a_method_of_ones_own(digits: Splits, original: ua.TrainedModel) -> None:
    new = ua.unlearn(Method("halve", "ours", Settings, _halve, composes=False), original, digits, device="cpu")
    before = parameters_of(original.model)
    assert all(torch.equal(before[name] * 0.5, parameter) for name, parameter in new.model.named_parameters())
    assert new.record.method == "halve"


def _stopped(context: UnlearningContext, settings: Settings) -> Unlearned:
    return Unlearned(1, 0, looked_at=(7, 2))


def test_what_decided_about_the_parent_is_not_forgotten(digits: Splits, original: ua.TrainedModel) -> None:
    stop = Method("stopped", "ours", Settings, _stopped, composes=False)
    first = ua.unlearn(stop, original, digits, device="cpu")
    started = replace(first, record=first.record.model_copy(update={"looked_at": (5, 7)}))
    assert first.record.looked_at == (7, 2)
    assert ua.unlearn("ft", started, digits, steps=1, device="cpu").record.looked_at == (5, 7)
    assert ua.unlearn(stop, started, digits, device="cpu").record.looked_at == (2, 5, 7)
    assert ua.unlearn("retrain", started, digits, epochs=1, device="cpu").record.looked_at is None


def test_relearning_takes_what_was_made(digits: Splits, original: ua.TrainedModel) -> None:
    curves = [ua.relearn(model, digits.forget, steps=1, device="cpu") for model in (original, original.model)]
    np.testing.assert_array_equal(curves[0].loss, curves[1].loss)
