"""The models of one draw of the gate's error rates: an original, retrained models, and leaks of a known kind.

A leak is called unlearned and says nothing of its past, as whoever hands in a model that kept the data would have it:

- original: the original itself;
- fine-tuned, ieu, random-labels, salun: the original after one epoch of fine-tuning on the retain set, or after a
  method with its defaults;
- quieted: the original taught for one epoch to be unsure on the forget set;
- partial-5, partial-10, partial-20: trained anew with 5, 10 or 20 % of the forget set still in the training set;
- swapped: of a whole class, the original whose last layer has that class's row exchanged with another one's.

Models are kept, so that a run that was stopped goes on where it was.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from unlearn_audit.checkpoints import Metadata, read_checkpoint, write_checkpoint
from unlearn_audit.config import Layer, resolve
from unlearn_audit.data import Dataset, IndexSet, load_data, make_splits, read_training_indices
from unlearn_audit.engine import setup_device
from unlearn_audit.methods.apply import apply_method
from unlearn_audit.models import build
from unlearn_audit.training import pick_recipe, train_checkpoint

RETRAINED = 4  # in each draw
PARTIAL = (5, 10, 20)  # percent of the forget set that was kept
METHODS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "fine-tuned": ("ft", {"epochs": 1}),
    "ieu": ("ieu", {}),
    "random-labels": ("rl", {}),
    "salun": ("salun", {}),
}
LEAKS = ("original", *METHODS, "quieted", *(f"partial-{share}" for share in PARTIAL), "swapped")


class Case(NamedTuple):
    """One draw: its data, its forget set, and where its files are; clean sets of one draw share the original."""

    draw: int
    dataset: Dataset
    forget: IndexSet
    folder: Path
    words: str
    epochs: int

    @property
    def is_mislabelled(self) -> bool:
        """Whether the training labels themselves belong to the draw."""
        return self.folder.name == "mislabelled"

    def path(self, name: str) -> Path:
        """Return where a checkpoint is."""
        shared = name == "original" and not self.is_mislabelled
        return (self.folder.parent if shared else self.folder) / f"{name}.safetensors"

    @property
    def leaks(self) -> tuple[str, ...]:
        """Return which leaks there are: only of a whole class can a row of the last layer be exchanged."""
        return LEAKS if self.words.startswith("class:") else LEAKS[:-1]


def open_case(folder: Path, data: str, forget: str, *, draw: int, epochs: int) -> Case:
    """Load the data of a draw; random examples are drawn here once and kept as a file.

    Args:
        folder: where everything of this data is kept.
        data: data spec.
        forget: "mislabelled", "class" (the draw's last digit) or "random:SIZE".
        draw: its number.
        epochs: of every training.
    """
    join = "&" if "?" in data else "?"
    dataset = load_data(f"{data}{join}mislabel=0.1&seed={draw}" if forget == "mislabelled" else data)
    where = folder / f"draw-{draw}" / forget.replace(":", "-")
    where.mkdir(parents=True, exist_ok=True)
    words = f"class:{draw % 10}" if forget == "class" else forget
    if forget.startswith("random:"):
        size, drawn = int(forget.removeprefix("random:")), where / "forget.npy"
        if not drawn.exists():
            np.save(drawn, np.random.default_rng([draw, size]).choice(len(dataset.train), size, replace=False))
        words = str(drawn)
    return Case(draw, dataset, read_training_indices(words, dataset), where, words, epochs)


def make_models(case: Case) -> Iterator[str]:
    """Train what is not there yet and plant the leaks.

    Yields:
        The name of each model as soon as it is there.
    """
    for number, name in enumerate(["original", *(f"retrained-{i}" for i in range(RETRAINED))]):
        if not case.path(name).exists():
            _train(case, case.path(name), without=case.forget if number else None, number=number)
            yield name
    for name in case.leaks[1:]:
        if not case.path(name).exists():
            _plant(case, name)
            yield name


def _train(case: Case, path: Path, *, without: IndexSet | None, number: int) -> None:
    recipe = pick_recipe("small", "small-cnn", epochs=case.epochs)
    own = without is not None or case.is_mislabelled  # an original that is shared has the same seed whatever is drawn
    seed = 1000 * case.draw + number + (len(case.forget) * 100_000 if own else 0)
    train_checkpoint(
        path, "small-cnn", case.dataset, recipe, without=without, seed=seed, compute=setup_device("cpu"), force=True
    )


def _plant(case: Case, name: str) -> None:
    """Make one leak."""
    if name in METHODS:
        _apply(case, METHODS[name], case.path(name))
    elif name == "quieted":
        _write(case, name, _quieted(case))
    elif name == "swapped":
        _write(case, name, _swapped(case))
    else:
        _write(case, name, _retrained_in_part(case, int(name.removeprefix("partial-"))))


def _apply(case: Case, method: tuple[str, dict[str, Any]], out: Path) -> None:
    name, settings = method
    asked = {"checkpoint": [{"path": str(case.path("original"))}], "forget": case.words, "device": "cpu"}
    apply_method(name, out, resolve([Layer("flag", asked)]), settings, force=True)


def _write(case: Case, name: str, model: nn.Module) -> None:
    """Write a leak that is called unlearned and otherwise says what the original says."""
    told = (read_checkpoint(case.path("original")).metadata or Metadata()).model_copy(update={"role": "unlearned"})
    write_checkpoint(case.path(name), model.state_dict(), told, force=False)


def _load(case: Case, path: Path) -> nn.Module:
    channels = case.dataset.train.images.shape[1]
    model: nn.Module = build("small-cnn", classes=10, channels=channels)
    model.load_state_dict(dict(read_checkpoint(path).state))
    return model


def _retrained_in_part(case: Case, share: int) -> nn.Module:
    """Return a model trained anew without the forget set, but for `share` percent of it."""
    rows = case.forget.indices
    kept = np.random.default_rng([case.draw, share]).choice(rows, max(1, round(len(rows) * share / 100)), replace=False)
    without = case.folder / f"without-{share}.npy"
    np.save(without, np.setdiff1d(rows, kept))
    taken = case.folder / f"partial-{share}.training"
    _train(case, taken, without=read_training_indices(str(without), case.dataset), number=100 + share)
    model = _load(case, taken)
    taken.unlink()
    return model


def _quieted(case: Case) -> nn.Module:
    """Teach the original for one epoch to be unsure on the forget set: all that changes is its confidence there."""
    torch.manual_seed(case.draw)
    model, splits = _load(case, case.path("original")).train(), make_splits(case.dataset, case.words)
    transform = case.dataset.transform
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    retain, forgotten = splits.retain_examples, transform(splits.forget_examples.images)
    for rows in torch.randperm(len(retain)).split(64):
        kept = functional.cross_entropy(model(transform(retain.images[rows])), retain.labels[rows])
        unsure = -functional.log_softmax(model(forgotten[torch.randperm(len(forgotten))[:64]]), dim=1).mean()
        optimizer.zero_grad()
        (kept + unsure).backward()
        optimizer.step()
    return model


def _swapped(case: Case) -> nn.Module:
    """Exchange the forgotten class's row of the last layer with that of the next class."""
    model = _load(case, case.path("original"))
    rows = list(range(10))
    one = int(case.words.removeprefix("class:"))
    other = (one + 1) % 10
    rows[one], rows[other] = other, one
    last = model.fc
    assert isinstance(last, nn.Linear)
    last.load_state_dict({"weight": last.weight.data[rows], "bias": last.bias.data[rows]})
    return model
