"""Training of generators: its recipe, its images and labels, its checkpoint, and that it is read back as it was."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unlearn_audit import training
from unlearn_audit.checkpoints import read_checkpoint
from unlearn_audit.config import Layer, resolve
from unlearn_audit.data import Dataset, load_data, read_training_indices
from unlearn_audit.engine import Device, FullBatch
from unlearn_audit.errors import UsageError
from unlearn_audit.generation import denoising_task
from unlearn_audit.inputs import resolve_inputs
from unlearn_audit.models.denoisers import Denoiser, linear_schedule
from unlearn_audit.training import DIFFUSION, SMALL, for_model, pick_recipe, recorded_recipe, train_checkpoint
from unlearn_audit.training.descending import clipped, optimizer_of

CPU = Device(torch.device("cpu"))
QUICK = replace(DIFFUSION, epochs=1)
NEEDS = "pip install 'unlearn-audit[diffusion]'"


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_data("digits?train=100&test=40")


# ----- the recipe


@pytest.mark.parametrize(("recipe", "model", "better"), [("small", "small-unet", "diffusion"),
                                                         ("diffusion", "small-cnn", "small")])  # fmt: skip
def test_a_recipe_for_another_kind_of_model_is_refused(recipe: str, model: str, better: str) -> None:
    with pytest.raises(UsageError, match=f"recipe {recipe} does not train '{model}'; .* name {better}"):
        pick_recipe(recipe, model)


def test_a_recipe_says_what_came_later_only_where_it_differs() -> None:
    older = ["name", "epochs", "batch_size", "step_size", "momentum", "weight_decay", "augment"]
    assert list(SMALL.settings()) == older
    told = DIFFUSION.settings()
    assert (told["optimizer"], told["clip"], told["label_drop"]) == ("adamw", 1.0, 0.1)
    assert recorded_recipe(told) == DIFFUSION


def test_adamw_moves_by_its_step_size_and_decays_matrices_alone() -> None:
    model = nn.Linear(2, 1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = optimizer_of(model, replace(DIFFUSION, step_size=0.1, weight_decay=0.5))
    model(torch.tensor([[1.0, -1.0]])).sum().backward()
    optimizer.step()
    moved = torch.tensor([[-0.1, 0.1]])  # the first step of Adam is the sign of the gradient
    torch.testing.assert_close(model.weight.detach(), before["weight"] * (1 - 0.1 * 0.5) + moved)
    torch.testing.assert_close(model.bias.detach(), before["bias"] - 0.1)


def test_a_gradient_is_clipped_to_its_norm() -> None:
    model = nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    hooks = clipped(model, 1.0)
    assert hooks.gradient is not None
    hooks.gradient(0, {})
    assert model.weight.grad.flatten().tolist() == pytest.approx([0.6, 0.8])


def test_generators_are_trained_on_images_between_minus_one_and_one(dataset: Dataset) -> None:
    assert for_model("small-cnn", dataset) is dataset
    found = for_model("small-unet", dataset)
    images = found.transform(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
    assert images.flatten().tolist() == [-1.0, 1.0]


# ----- what a network sees


class Watched(nn.Module):
    """Remembers what it is called with, and learns a number."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        self.seen.append((x.detach().clone(), t.clone(), class_labels.clone()))
        return self.scale * x


def test_a_network_sees_every_image_with_one_draw_and_a_tenth_of_them_without_its_class(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched()
    model = Denoiser(watched, linear_schedule(), null=dataset.classes)
    monkeypatch.setattr(training, "new_model", lambda *given, **more: model)
    training.train("small-unet", dataset, np.arange(96), replace(QUICK, epochs=10, batch_size=32), seed=0, compute=CPU)
    steps = watched.seen
    assert [len(x) for x, _, _ in steps] == [32] * 30
    assert all(torch.equal(t[16:], 999 - t[:16]) for _, t, _ in steps)
    t, labels = (torch.cat([each[place] for each in steps]) for place in (1, 2))
    assert 450 < float(t.float().mean()) < 550
    assert 0.06 < float((labels == dataset.classes).float().mean()) < 0.14
    assert len({x.numpy().tobytes() for step, _, _ in steps for x in step}) == 960  # noise of its own in each step
    assert float(watched.scale.detach()) > 0


# ----- checkpoints


def subject(path: Path, **more: Any) -> Any:
    asked = {"checkpoint": [{"path": str(path)}], "forget": "class:3", **more}
    return resolve_inputs(resolve([Layer("flag", asked, "test")]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> Path:
    pytest.importorskip("diffusers", reason=NEEDS)
    path = tmp_path_factory.mktemp("generators") / "original"
    train_checkpoint(path, "tiny-unet", dataset, QUICK, seed=4, compute=CPU, clock=None)
    return path


def test_a_trained_generator_is_read_back_as_it_was(folder: Path, dataset: Dataset) -> None:
    inputs = subject(folder)
    found = inputs.candidate(0)
    assert (found.role, found.spec, found.transform.mean, found.transform.std) == (
        "original",
        "tiny-unet",
        (0.5,),
        (0.5,),
    )
    assert recorded_recipe(found.recipe) == QUICK
    made = training.train("tiny-unet", dataset, np.arange(100), QUICK, seed=4, compute=CPU).model
    examples = inputs.splits.measured_examples
    one, other = (
        FullBatch(examples, found.transform, compute=CPU, task=task).forward(model).losses.tolist()
        for task, model in ((found.task, found.model), (denoising_task(made), made))  # type: ignore[arg-type]
    )
    assert one == other
    assert 0.05 < np.mean(one) < 2


def test_a_run_with_the_same_seed_writes_the_same_bytes(folder: Path, dataset: Dataset) -> None:
    again = folder.with_name("again")
    train_checkpoint(again, "tiny-unet", dataset, QUICK, seed=4, compute=CPU, clock=None)
    assert read_checkpoint(again).sha256 == read_checkpoint(folder).sha256


def test_a_retrained_generator_never_saw_the_class(dataset: Dataset, folder: Path) -> None:
    path, forget = folder.with_name("retrained"), read_training_indices("class:3", dataset)
    said = train_checkpoint(path, "tiny-unet", dataset, QUICK, without=forget, seed=4, compute=CPU)
    assert (said.role, said.forget, said.gradient_evaluations) == ("retrained", "class:3", 100 - len(forget.indices))
    fresh = training.new_model("tiny-unet", for_model("tiny-unet", dataset), 4).state_dict()["class_embedding.weight"]
    rows = read_checkpoint(path).state["class_embedding.weight"]
    moved = rows - fresh * (rows[3] / fresh[3]).median()  # weight decay alone scales a row
    assert float(moved[3].abs().max()) < 1e-6
    assert float(moved[[0, 1, 2, 10]].abs().amax(dim=1).min()) > 1e-4


@pytest.mark.parametrize("changes", [{"mean": (0.1,), "std": (0.3,)}, {"std": (1.0,)}])
def test_another_normalisation_of_a_generator_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"makes images in \[-1, 1\]"):
        subject(folder, **changes).candidate(0)
    assert subject(folder, mean=(0.5,), std=(0.5,)).candidate(0).transform.mean == (0.5,)


def test_a_generator_of_other_data_is_refused_by_what_differs(folder: Path, run: Callable[..., Any]) -> None:
    done = run("rcd", folder, "--data", "digits", "--forget", "class:3", "--steps", "1", "--mean", "0.2", "--std", "1")
    assert done.code == 2
    assert "leave out --mean and --std" in done.stderr


def test_the_command_line_writes_a_folder_and_refuses_another_normalisation(
    tmp_path: Path, run: Callable[..., Any]
) -> None:
    told = ("train", "--data", "digits", "--model", "tiny-unet", "--out")
    assert "name it" in run(*told, tmp_path / "x.safetensors").stderr
    refused = run(*told, tmp_path / "x", "--mean", "0.3", "--std", "1")
    assert (refused.code, list(tmp_path.iterdir())) == (2, [])
    assert "leave out --mean and --std" in refused.stderr


def test_shadow_models_of_generators_are_refused(folder: Path, run: Callable[..., Any]) -> None:
    done = run("shadows", "plan", folder.with_name("fleet"), folder, "--forget", "class:3", "--count", "4")
    assert done.code == 2
    assert "attacks with shadow models need class probabilities" in done.stderr


def test_truncation_of_a_generator_needs_one_objective_and_a_head_needs_a_classifier(
    folder: Path, run: Callable[..., Any]
) -> None:
    done = run("truncation", folder, "--forget", "class:3")
    assert (done.code, "a generator needs fixed ones: --draws fixed" in done.stderr) == (2, True)
    done = run("spectrum", folder, "--forget", "class:3", "--scope", "head", "--no-controls")
    assert (done.code, "a generator ends in no linear layer" in done.stderr) == (2, True)


def test_a_plan_counts_a_gradient_for_each_draw_of_noise(folder: Path, run: Callable[..., Any]) -> None:
    config = folder.with_name("plan.toml")
    asked = "[rcd]\nsteps = 3\ndraws = 4\ngradient_draws = 2\nstep_size = 1e-4\ncontrols = false\n"
    config.write_text(f'forget = "class:3"\n[[checkpoint]]\npath = "{folder}"\n{asked}')
    splits = subject(folder).splits
    pairs = len(splits.measured) + len(splits.unseen.forget)
    done = run("audit", config, "--plan")
    assert done.code == 0, done.stderr
    assert re.search(rf"^rcd +to do +{pairs * 3 * 2} ", done.stdout, re.MULTILINE), done.stdout
