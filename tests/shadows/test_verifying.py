"""Damage in a fleet's folder: what is found, what is removed, and that the next run makes it good."""

import errno
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from safetensors.torch import load_file, save_file
from small_fleets import contents

from unlearn_audit.checkpoints import read_checkpoint, write_checkpoint
from unlearn_audit.errors import OutputError
from unlearn_audit.files import sha256_of_file
from unlearn_audit.shadows import (
    Workshop,
    remove_damaged,
    verify,
    work,
)
from unlearn_audit.shadows.store import load_signals

# ----- damage


def reweighted(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the weights of a checkpoint, and nothing that it says."""
    checkpoint = read_checkpoint(path)
    state = {name: tensor.clone() for name, tensor in checkpoint.state.items()}
    change(state)
    assert checkpoint.metadata is not None
    write_checkpoint(path, state, checkpoint.metadata, force=True)


def resaid(shop: Workshop, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the first model's answers."""
    path = shop.folder.signals(shop.tasks[0])
    arrays = dict(np.load(path))
    change(arrays)
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    path.write_bytes(stream.getvalue())


def model(shop: Workshop, index: int = 0) -> Path:
    return shop.folder.model(shop.tasks[index])


def signals(shop: Workshop, index: int = 0) -> Path:
    return shop.folder.signals(shop.tasks[index])


def swap(shop: Workshop, one: int, two: int) -> None:
    """Give one task the other one's model and answers."""
    shutil.copy(model(shop, two), model(shop, one))
    shutil.copy(signals(shop, two), signals(shop, one))


DAMAGES: dict[str, Callable[[Workshop], object]] = {
    "model truncated": lambda shop: model(shop).write_bytes(model(shop).read_bytes()[:-100]),
    "model cut in the header": lambda shop: model(shop).write_bytes(model(shop).read_bytes()[:50]),
    "model empty": lambda shop: model(shop).write_bytes(b""),
    "model text": lambda shop: model(shop).write_text("weights"),
    "model a weight changed": lambda shop: reweighted(model(shop), lambda state: state["fc.weight"].add_(1)),
    "model not finite": lambda shop: reweighted(model(shop), lambda state: state["fc.weight"].fill_(torch.nan)),
    "model of another shadow": lambda shop: shutil.copy(model(shop, 1), model(shop)),
    "model and answers of another shadow": lambda shop: swap(shop, 0, 1),
    "model and answers of an untreated one": lambda shop: swap(shop, 4, 0),
    "model without a word": lambda shop: save_file(load_file(model(shop)), model(shop)),
    "signals truncated": lambda shop: signals(shop).write_bytes(signals(shop).read_bytes()[:-100]),
    "signals empty": lambda shop: signals(shop).write_bytes(b""),
    "signals text": lambda shop: signals(shop).write_text("logits"),
    "signals an array": lambda shop: shutil.copy(shop.folder.path / "forget.npy", signals(shop)),
    "signals of another shadow": lambda shop: shutil.copy(signals(shop, 1), signals(shop)),
    "signals without a key": lambda shop: resaid(shop, lambda arrays: arrays.pop("key")),
    "signals of fewer examples": lambda shop: resaid(shop, lambda a: a.update(plain=a["plain"][1:])),
    "signals of more queries": lambda shop: resaid(shop, lambda a: a.update(queried=a["queried"].repeat(2, axis=1))),
    "signals in double": lambda shop: resaid(shop, lambda a: a.update(plain=a["plain"].astype(float))),
    "signals not finite": lambda shop: resaid(shop, lambda a: a["plain"].fill(np.inf)),
    "signals that lost their model": lambda shop: model(shop).unlink(),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_damage_is_found_and_removed_and_made_good(damage: str, whole: Workshop, finished: Path) -> None:
    assert verify(whole) == []
    DAMAGES[damage](whole)
    found = verify(whole)
    kind = damage.partition(" ")[0]
    (first,) = found
    index = 4 if "untreated" in damage else 0
    wrong = model(whole, index) if kind == "model" else signals(whole, index)
    assert wrong.name in first.told or wrong.stem in first.told
    assert wrong in first.files
    assert remove_damaged(found) == len(first.files)
    assert verify(whole) == []
    assert work(whole) == 1
    assert contents(whole.folder.path) == contents(finished)
    assert verify(whole) == []


def test_any_flipped_byte_is_found_or_changes_nothing(whole: Workshop) -> None:
    rng = np.random.default_rng(0)
    for path in (model(whole), signals(whole)):
        content = path.read_bytes()
        for place in rng.choice(len(content), size=40, replace=False):
            flipped = bytearray(content)
            flipped[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(bytes(flipped))
            found = verify(whole)
            assert found or (path.suffix == ".npz" and same_answers(path, content)), (path.suffix, place)
        path.write_bytes(content)
    assert verify(whole) == []


def same_answers(path: Path, content: bytes) -> bool:
    """Whether a file says what the other one said: the time in an archive's header is not read."""
    found = load_signals(path)
    with np.load(io.BytesIO(content)) as arrays:
        return np.array_equal(found.plain, arrays["plain"]) and np.array_equal(found.queried, arrays["queried"])


def test_a_treated_model_of_another_parent_is_found(whole: Workshop, finished: Path) -> None:
    """The parent is sound, and not the one that the child was made from."""
    child = model(whole, 4)
    checkpoint = read_checkpoint(child)
    assert checkpoint.metadata is not None
    assert checkpoint.metadata.parent_sha256 == sha256_of_file(model(whole))
    write_checkpoint(
        child, checkpoint.state, checkpoint.metadata.model_copy(update={"parent_sha256": "0" * 64}), force=True
    )
    (damage,) = verify(whole)
    assert f"it was made from another {model(whole).name}" in damage.told
    assert remove_damaged([damage]) == 2
    assert work(whole) == 1
    assert contents(whole.folder.path) == contents(finished)


def test_files_of_no_task_are_named_and_never_removed(whole: Workshop) -> None:
    strays = [whole.folder.model("f" * 32), whole.folder.signals("f" * 32)]
    for stray in strays:
        stray.write_bytes(b"mine")
    found = verify(whole)
    assert [damage.told for damage in found] == [
        f"{stray} belongs to no task of the plan: made under another one" for stray in strays
    ]
    assert remove_damaged(found) == 0
    assert all(stray.exists() for stray in strays)


def test_models_that_do_not_say_their_task_or_parent_yet_are_sound(whole: Workshop) -> None:
    """Those of an earlier version."""
    for task in whole.tasks:
        checkpoint = read_checkpoint(whole.folder.model(task))
        assert checkpoint.metadata is not None
        assert checkpoint.metadata.notes == (f"shadow model {task.number + 1} of a fleet, task {task.id}",)
        older = checkpoint.metadata.model_copy(update={"notes": (), "parent_sha256": None, "torch_version": "1"})
        write_checkpoint(whole.folder.model(task), checkpoint.state, older, force=True)
        whole.folder.signals(task).unlink()
    assert verify(whole) == []


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"notes": ("shadow model 1 of a fleet, task 0",)}, "another task"),
        ({"notes": (), "seed": 5}, "another seed"),
        ({"notes": (), "role": "original"}, "another role"),
        ({"notes": (), "recipe": {"epochs": 3}}, "another recipe"),
        ({"notes": (), "mean": (0.5,), "std": (0.5,)}, "another mean, another std"),
        ({"notes": (), "data_sha256": "0" * 64}, "another data_sha256"),
        ({"notes": (), "method": "ga"}, "another method"),
    ],
)
def test_a_sound_model_of_another_fleet_is_found_by_what_it_says(
    said: dict[str, Any], says: str, whole: Workshop
) -> None:
    """Its answers were asked for here, so that they belong to it."""
    checkpoint = read_checkpoint(model(whole))
    assert checkpoint.metadata is not None
    write_checkpoint(model(whole), checkpoint.state, checkpoint.metadata.model_copy(update=said), force=True)
    signals(whole).unlink()
    model(whole, 4).unlink()
    signals(whole, 4).unlink()
    assert work(whole) == 2
    (damage,) = verify(whole)
    assert damage.told == f"{model(whole)} is not what task {whole.tasks[0].id} makes: {says}"
    assert damage.files == (model(whole), signals(whole))


def test_what_cannot_be_removed_is_said(whole: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    model(whole).write_bytes(b"")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OutputError, match=r"cannot remove .*: Permission denied"):
        remove_damaged(verify(whole))


def test_verify_names_the_files_and_the_way_out(run: Run, whole: Workshop, finished: Path) -> None:
    folder = whole.folder.path
    done = run("shadows", "verify", folder)
    assert (done.code, done.stdout, done.stderr) == (0, "", "8 of 8 models are there, 0 problems\n")
    model(whole).write_bytes(b"nothing")
    done = run("shadows", "verify", folder)
    assert done.code == 3
    assert model(whole).name in done.stdout
    assert f"`shadows verify {folder} --remove` removes the damaged files; `unlearn-audit shadows run" in done.stderr
    assert model(whole).exists()
    done = run("shadows", "verify", folder, "--remove")
    assert done.code == 3
    assert f"2 files removed; `unlearn-audit shadows run {folder}` makes them anew" in done.stderr
    done = run("shadows", "worker", folder)
    assert (done.code, done.stderr) == (0, "1 models made here\n")
    assert run("shadows", "verify", folder).code == 0
    assert contents(folder) == contents(finished)
