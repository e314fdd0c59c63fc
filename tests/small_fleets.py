"""A small fleet that several test files share: a few digits, a target trained on them, and shadow models to match."""

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from unlearn_audit.config import Layer, Resolved, resolve
from unlearn_audit.data import load_data
from unlearn_audit.engine import setup_device
from unlearn_audit.methods.apply import apply_method
from unlearn_audit.shadows import FleetPlan, plan_fleet
from unlearn_audit.training import pick_recipe, train_checkpoint

__all__ = ["FORGET", "POOL", "contents", "make_target", "plan_small", "small_request"]

FORGET, POOL = 12, 113  # forget examples; training examples, an odd number, and one partner for each forget example


def make_target(folder: Path, *, epochs: int = 1) -> Path:
    """Write data.npz, forget.npy, original.safetensors and unlearned.safetensors."""
    images, labels = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 1, 8, 8) * 15).astype(np.uint8).transpose(0, 2, 3, 1)
    train, test = slice(0, POOL - FORGET), slice(200, 300)
    np.savez(
        folder / "data.npz", x_train=pixels[train], y_train=labels[train], x_test=pixels[test], y_test=labels[test]
    )
    np.save(folder / "forget.npy", np.arange(FORGET))
    recipe = pick_recipe("small", "small-cnn", epochs=epochs)
    dataset = load_data(f"npz:{folder / 'data.npz'}")
    original = folder / "original.safetensors"
    train_checkpoint(original, "small-cnn", dataset, recipe, seed=0, compute=setup_device("cpu"), clock=None)
    asked = {"checkpoint": [{"path": str(original)}], "forget": str(folder / "forget.npy"), "device": "cpu"}
    apply_method("ieu", folder / "unlearned.safetensors", resolve([Layer("flag", asked)]), {"steps": 2}, clock=None)
    return folder


def small_request(target: Path, *names: str, **more: Any) -> Resolved:
    """What is asked for with checkpoints of a target's folder: original and unlearned, if none is named."""
    entries = [{"path": str(target / f"{name}.safetensors")} for name in names or ("original", "unlearned")]
    asked = {"checkpoint": entries, "forget": str(target / "forget.npy"), "device": "cpu"} | more
    return resolve([Layer("flag", {key: value for key, value in asked.items() if value is not None}, "test")])


def plan_small(folder: Path, target: Path, *names: str, count: int | None = 4, **more: Any) -> FleetPlan:
    """Plan a fleet for a target."""
    own = {name: more.pop(name) for name in ("queries", "recipe", "epochs") if name in more}
    return plan_fleet(folder, small_request(target, *names, **more), count=count, **own).plan


def contents(folder: Path) -> dict[str, bytes]:
    """All that finished work has left: models and signals, by name."""
    found = [*folder.glob("models/*"), *folder.glob("signals/*"), *folder.glob("models/.*"), *folder.glob("signals/.*")]
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in found}
