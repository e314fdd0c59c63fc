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
    FleetContext,
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


def resaid(context: FleetContext, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the first model's answers."""
    path = context.folder.signals(context.jobs[0])
    arrays = dict(np.load(path))
    change(arrays)
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    path.write_bytes(stream.getvalue())


def model(context: FleetContext, index: int = 0) -> Path:
    return context.folder.model(context.jobs[index])


def signals(context: FleetContext, index: int = 0) -> Path:
    return context.folder.signals(context.jobs[index])


def swap(context: FleetContext, one: int, two: int) -> None:
    """Give one job the other one's model and answers."""
    shutil.copy(model(context, two), model(context, one))
    shutil.copy(signals(context, two), signals(context, one))


DAMAGES: dict[str, Callable[[FleetContext], object]] = {
    "model truncated": lambda context: model(context).write_bytes(model(context).read_bytes()[:-100]),
    "model cut in the header": lambda context: model(context).write_bytes(model(context).read_bytes()[:50]),
    "model empty": lambda context: model(context).write_bytes(b""),
    "model text": lambda context: model(context).write_text("weights"),
    "model a weight changed": lambda context: reweighted(model(context), lambda state: state["fc.weight"].add_(1)),
    "model not finite": lambda context: reweighted(model(context), lambda state: state["fc.weight"].fill_(torch.nan)),
    "model of another shadow": lambda context: shutil.copy(model(context, 1), model(context)),
    "model and answers of another shadow": lambda context: swap(context, 0, 1),
    "model and answers of an untreated one": lambda context: swap(context, 4, 0),
    "model without a word": lambda context: save_file(load_file(model(context)), model(context)),
    "signals truncated": lambda context: signals(context).write_bytes(signals(context).read_bytes()[:-100]),
    "signals empty": lambda context: signals(context).write_bytes(b""),
    "signals text": lambda context: signals(context).write_text("logits"),
    "signals an array": lambda context: shutil.copy(context.folder.path / "forget.npy", signals(context)),
    "signals of another shadow": lambda context: shutil.copy(signals(context, 1), signals(context)),
    "signals without a key": lambda context: resaid(context, lambda arrays: arrays.pop("key")),
    "signals of fewer examples": lambda context: resaid(context, lambda a: a.update(plain=a["plain"][1:])),
    "signals of more queries": lambda context: resaid(
        context, lambda a: a.update(queried=a["queried"].repeat(2, axis=1))
    ),
    "signals in double": lambda context: resaid(context, lambda a: a.update(plain=a["plain"].astype(float))),
    "signals not finite": lambda context: resaid(context, lambda a: a["plain"].fill(np.inf)),
    "signals that lost their model": lambda context: model(context).unlink(),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_damage_is_found_and_removed_and_made_good(damage: str, whole: FleetContext, finished: Path) -> None:
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


def test_any_flipped_byte_is_found_or_changes_nothing(whole: FleetContext) -> None:
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


def test_a_treated_model_of_another_parent_is_found(whole: FleetContext, finished: Path) -> None:
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


def test_files_of_no_task_are_named_and_never_removed(whole: FleetContext) -> None:
    strays = [whole.folder.model("f" * 32), whole.folder.signals("f" * 32)]
    for stray in strays:
        stray.write_bytes(b"mine")
    found = verify(whole)
    assert [damage.told for damage in found] == [
        f"{stray} belongs to no job of the plan: made under another one" for stray in strays
    ]
    assert remove_damaged(found) == 0
    assert all(stray.exists() for stray in strays)


def test_models_that_do_not_say_their_task_or_parent_yet_are_sound(whole: FleetContext) -> None:
    """Those of an earlier version."""
    for job in whole.jobs:
        checkpoint = read_checkpoint(whole.folder.model(job))
        assert checkpoint.metadata is not None
        assert checkpoint.metadata.notes == (f"shadow model {job.number + 1} of a fleet, task {job.id}",)
        older = checkpoint.metadata.model_copy(update={"notes": (), "parent_sha256": None, "torch_version": "1"})
        write_checkpoint(whole.folder.model(job), checkpoint.state, older, force=True)
        whole.folder.signals(job).unlink()
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
    said: dict[str, Any], says: str, whole: FleetContext
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
    assert damage.told == f"{model(whole)} is not what job {whole.jobs[0].id} makes: {says}"
    assert damage.files == (model(whole), signals(whole))


def test_what_cannot_be_removed_is_said(whole: FleetContext, monkeypatch: pytest.MonkeyPatch) -> None:
    model(whole).write_bytes(b"")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OutputError, match=r"cannot remove .*: Permission denied"):
        remove_damaged(verify(whole))


def test_verify_names_the_files_and_the_way_out(run: Run, whole: FleetContext, finished: Path) -> None:
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
