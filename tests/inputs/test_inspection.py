"""`inspect` on files of other people: what they hold is told, whether or not their architecture is known."""

import argparse
import json
from collections.abc import Callable
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from unlearn_audit import models

Cli = Callable[..., Any]


def inspected(run: Cli, path: Path, *flags: str) -> dict[str, Any]:
    done = run("inspect", path, *flags, "--format", "json")
    assert done.code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def net() -> nn.Module:
    """A network that nobody knows."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 7, 5), nn.ReLU(), nn.Conv2d(7, 9, 3)), nn.Flatten(), nn.Linear(9, 10)
    )


def test_an_unknown_architecture_hides_nothing_of_the_file(here: Path, run: Cli) -> None:
    saved = {"epoch": 160, "state_dict": net().state_dict(), "best_prec1": 91.3, "acc": 0.9, "arch": "mine"}
    torch.save(saved, here / "m.pt")
    found = inspected(run, here / "m.pt")
    assert found["sha256"] == sha256((here / "m.pt").read_bytes()).hexdigest()
    assert found["format"] == "torch zip"
    assert found["model"] is None
    assert found["weights"] == "under state_dict"
    assert found["groups"] == {"0": "4 tensors, 758 values", "2": "2 tensors, 100 values"}
    assert found["beside the weights"] == {"epoch": "160", "best_prec1": "91.3", "acc": "0.9", "arch": "'mine'"}
    assert any(
        "no known architecture has these 6 tensors" in note and "--model SPEC" in note for note in found["notes"]
    )
    table = run("inspect", here / "m.pt").stdout
    assert "best_prec1: 91.3" in table
    assert "0: 4 tensors, 758 values" in table
    assert run("rcd", here / "m.pt", "--forget", "class:3", "--data", "digits").code == 3, "nothing is measured of it"


def test_groups_begin_where_names_differ_and_are_not_many(here: Path, run: Cli) -> None:
    tensors = {f"model.blocks.{i}.{part}": torch.zeros(2, 3) for i in range(20) for part in "ab"}
    torch.save(tensors | {"model.blocks.scale": torch.tensor(1.0)}, here / "m.pt")
    groups = inspected(run, here / "m.pt")["groups"]
    assert groups["model.blocks.0"] == "2 tensors, 12 values"
    assert groups["…"] == "5 more"
    torch.save({"w": torch.zeros(3, 4), "n": torch.tensor(1.0)}, here / "n.pt")
    assert inspected(run, here / "n.pt")["groups"] == {"w": "3 x 4", "n": "a number"}


@pytest.mark.parametrize("prefix", ["module.", "model.", "net.", "_orig_mod.", "module._orig_mod.model."])
def test_names_of_wrappers_are_taken_out(prefix: str, here: Path, run: Cli) -> None:
    state = models.build("small-cnn", classes=10, channels=1).state_dict()
    torch.save({prefix + name: tensor for name, tensor in state.items()}, here / "m.pt")
    found = inspected(run, here / "m.pt")
    assert found["model"] == "small-cnn (from state dict)"
    assert any("removed" in note for note in found["notes"])


class Mine:
    """What training code leaves beside the weights."""


class Harmful:
    """Running this would leave a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("stolen", "w"))


def test_pickled_extras_are_named_and_never_run(here: Path, run: Cli) -> None:
    state = models.build("small-cnn", classes=10, channels=1).state_dict()
    saved = {
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()},
        "hyper_parameters": argparse.Namespace(lr=0.1),
        "callbacks": {"checkpoint": Mine()},
        "pytorch-lightning_version": "2.0",
    }
    torch.save(saved, here / "m.ckpt")
    found = inspected(run, here / "m.ckpt")
    assert found["model"] == "small-cnn (from state dict)"
    assert "argparse.Namespace" in found["not read"]
    assert any(name.endswith(".Mine") for name in found["not read"])
    torch.save(saved | {"callbacks": Harmful()}, here / "m.ckpt")
    done = run("inspect", here / "m.ckpt")
    assert done.code == 3
    assert "would run code" in done.stderr
    assert not (here / "stolen").exists()


def test_of_two_sets_of_weights_none_is_taken_in_silence(here: Path, run: Cli) -> None:
    state = models.build("small-cnn", classes=10, channels=1).state_dict()
    saved = {"state_dict": state, "ema": {name: tensor + 1 for name, tensor in state.items()}, "epoch": 3}
    torch.save(saved, here / "m.pt")
    found = inspected(run, here / "m.pt")
    assert set(found["weights"]) == {"state_dict", "ema"}
    assert found["beside the weights"] == {"epoch": "3"}
    assert inspected(run, here / "m.pt", "--weights", "ema")["weights"] == "under ema"


def test_a_library_s_model_on_images_in_grey_is_recognised(here: Path, run: Cli) -> None:
    torch.save(models.build("torchvision:squeezenet1_1?channels=1", classes=10, channels=1).state_dict(), here / "m.pt")
    assert inspected(run, here / "m.pt")["model"] == "torchvision:squeezenet1_1?channels=1 (from state dict)"


@pytest.mark.skipif(find_spec("timm") is None, reason="pip install 'unlearn-audit[timm]'")
def test_a_transformer_for_small_images_is_read_as_it_is_named(here: Path, run: Cli) -> None:
    spec = "timm:vit_tiny_patch16_224?img_size=32&patch_size=4"
    torch.save(models.build(spec, classes=10, channels=3).state_dict(), here / "m.pt")
    found = inspected(run, here / "m.pt", "--model", spec)
    assert found["model"] == f"{spec} (from flag)"
    assert found["notes"] == "none"
    assert inspected(run, here / "m.pt")["model"] == f"{spec} (from state dict)", "the grid is in the weights"
