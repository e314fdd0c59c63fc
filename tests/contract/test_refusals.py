"""Bad input gets one clear line and exit code 2 or 3, whatever the verb, and leaves nothing behind."""

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Refused, Run
from safetensors.torch import save_file

from unlearn_audit.checkpoints import read_checkpoint, write_checkpoint

Arguments = list[object]


pytestmark = pytest.mark.usefixtures("here")


def forget_of(tiny: Path) -> Arguments:
    return ["--forget", tiny / "forget.npy"]


def save_data(path: Path, *, classes: int = 10, channels: int = 1, size: int = 8, shared: int = 0) -> str:
    """Write random images in an .npz, the first `shared` of them in both splits; return its data spec."""
    rng = np.random.default_rng(0)
    train, test = rng.random((2, 60, channels, size, size)).astype(np.float32)
    test[:shared] = train[:shared]
    labels = np.arange(60) % classes
    np.savez(path, x_train=train, y_train=labels, x_test=test, y_test=labels)
    return f"npz:{path}"


# --- checkpoints that cannot be read


class Trap:
    """Unpickled by the ordinary reader, it makes the file that it names."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.path}'",)


def spoil(value: float) -> Callable[[Path, Path], None]:
    """Return a function that writes a checkpoint with one weight of that value."""

    def write(path: Path, sound: Path) -> None:
        found = read_checkpoint(sound)
        assert found.metadata is not None
        state = {name: tensor.clone() for name, tensor in found.state.items()}
        next(tensor for name, tensor in state.items() if name.endswith("weight")).view(-1)[3] = value
        write_checkpoint(path, state, found.metadata, force=False)

    return write


# What is wrong -> how to write such a file in the place of a sound one, and what the message says beside its name.
BROKEN: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "missing": (lambda path, sound: None, "not found"),
    "empty": (lambda path, sound: path.touch(), "is empty (0 bytes)"),
    "truncated": (lambda path, sound: path.write_bytes(sound.read_bytes()[:-9]), "damaged or not complete"),
    "a web page": (lambda path, sound: path.write_bytes(b"<!DOCTYPE html>"), "HTML page"),
    "an array": (lambda path, sound: np.save(path.open("wb"), np.ones(3)), "NumPy array"),
    "absurd header": (lambda path, sound: path.write_bytes(struct.pack("<Q", 2**62) + b"{}"), "absurd header"),
    "code": (lambda path, sound: torch.save({"w": Trap(path.parent / "ran")}, path), "would run code"),
    "bare pickle": (lambda path, sound: path.write_bytes(pickle.dumps(Trap(path.parent / "ran"))), "would run code"),
    "a directory": (lambda path, sound: path.mkdir(), "is a directory"),
    "NaN": (spoil(float("nan")), "NaN or infinite"),
    "infinity": (spoil(float("inf")), "NaN or infinite"),
}
READERS: dict[str, Callable[[Path], Arguments]] = {
    "rcd": lambda tiny: ["rcd", "c.safetensors", *forget_of(tiny), "--out", "report"],
    "gaps": lambda tiny: ["gaps", "--unlearned", "c.safetensors", *forget_of(tiny), "--format", "json"],
    "mia": lambda tiny: ["mia", "loss", tiny / "original.safetensors", "c.safetensors", *forget_of(tiny)],
    "apply": lambda tiny: ["apply", "ieu", "c.safetensors", *forget_of(tiny), "--out", "out.safetensors"],
    "inspect": lambda tiny: ["inspect", "c.safetensors"],
}


SHOWN = (("NaN", "inspect"), ("infinity", "inspect"))  # no reason not to look at a file


@pytest.mark.parametrize(
    ("wrong", "verb"), [(wrong, verb) for wrong in BROKEN for verb in READERS if (wrong, verb) not in SHOWN]
)
def test_a_broken_checkpoint(wrong: str, verb: str, refused: Refused, tiny: Path, here: Path) -> None:
    write, message = BROKEN[wrong]
    write(here / "c.safetensors", tiny / "original.safetensors")
    refused(*READERS[verb](tiny), code=3, says=["c.safetensors", message])
    assert not (here / "ran").exists()


def test_inspect_shows_weights_that_are_not_finite(run: Run, tiny: Path, here: Path) -> None:
    spoil(float("nan"))(here / "c.safetensors", tiny / "original.safetensors")
    ran = run("inspect", "c.safetensors", "--format", "json")
    assert (ran.code, json.loads(ran.stdout)["not finite"]) == (0, ["bn1.weight: 1 values"])


# --- code that nobody asked for


def lay_trap(folder: Path) -> None:
    """Write a module that leaves a file behind when it is imported."""
    (folder / "trap.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nmake = None\n")


def write_changed(path: Path, source: Path, **changes: Any) -> None:
    found = read_checkpoint(source)
    assert found.metadata is not None
    write_checkpoint(path, found.state, found.metadata.model_copy(update=changes), force=False)


@pytest.mark.parametrize("verb", [verb for verb in READERS if verb != "inspect"])
@pytest.mark.parametrize("key", ["model", "data"])
def test_metadata_that_names_a_callable(key: str, verb: str, refused: Refused, tiny: Path, here: Path) -> None:
    lay_trap(here)
    changes: dict[str, Any] = {key: "trap:make"} | ({"data_sha256": None} if key == "data" else {})
    write_changed(here / "c.safetensors", tiny / "original.safetensors", **changes)
    arguments = READERS[verb](tiny)
    if verb == "mia":  # the other checkpoint names other data, which is another refusal
        arguments.remove(tiny / "original.safetensors")
    refused(*arguments, code=2, says=["trap:make", f"--{key}", "code"])
    assert not (here / "ran").exists()


def test_inspect_prints_a_callable_and_does_not_call_it(run: Run, tiny: Path, here: Path) -> None:
    lay_trap(here)
    write_changed(here / "c.safetensors", tiny / "original.safetensors", model="trap:make", data="trap:make")
    ran = run("inspect", "c.safetensors", "--format", "json")
    found = json.loads(ran.stdout)
    assert (ran.code, found["model"], found["data"]) == (0, "trap:make (from metadata)", "trap:make (from metadata)")
    assert not (here / "ran").exists()


@pytest.mark.parametrize("place", ["here", "parent"])
@pytest.mark.parametrize("name", ["unlearn-audit.toml", "pyproject.toml"])
@pytest.mark.parametrize("key", ["model", "data", "checkpoint"])
def test_a_found_config_that_names_a_callable(
    key: str, name: str, place: str, refused: Refused, tiny: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_trap(here)
    state = read_checkpoint(tiny / "original.safetensors").state
    save_file(state, here / "c.safetensors")
    table = '[[checkpoint]]\npath = "c.safetensors"\nmodel = "trap:make"\n'
    text = table if key == "checkpoint" else f'{key} = "trap:make"\n'
    if name == "pyproject.toml":
        text = text.replace("[[", "[[tool.unlearn-audit.") if key == "checkpoint" else f"[tool.unlearn-audit]\n{text}"
    (here / name).write_text(text)
    named: Arguments = [] if key == "checkpoint" else [here / "c.safetensors"]
    (here / "below").mkdir()
    if place == "parent":
        monkeypatch.chdir(here / "below")
    data: Arguments = [] if key == "data" else ["--data", "digits"]
    refused("rcd", *named, *data, *forget_of(tiny), code=2, says=["trap:make", "--config", "code"])
    assert not (here / "ran").exists()


def test_the_environment_may_not_choose_code(
    refused: Refused, tiny: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_trap(here)
    monkeypatch.setenv("UNLEARN_AUDIT_MODEL", "trap:make")
    refused("rcd", tiny / "original.safetensors", *forget_of(tiny), code=2, says=["trap:make", "--model"])
    assert not (here / "ran").exists()


@pytest.mark.parametrize("how", ["flag", "config"])
def test_the_trap_runs_where_the_user_names_it(how: str, run: Run, tiny: Path, here: Path) -> None:
    module = f"trap_by_{how}"
    lay_trap(here)
    (here / "trap.py").rename(here / f"{module}.py")
    (here / "named.toml").write_text(f'model = "{module}:make"\n')
    asked = ["--model", f"{module}:make"] if how == "flag" else ["--config", "named.toml"]
    ran = run("rcd", tiny / "original.safetensors", *forget_of(tiny), *asked)
    assert (ran.code, (here / "ran").exists()) == (2, True), ran  # `make` is None, which is refused after the import


# --- models, data and forget sets that do not fit each other

MISFITS: dict[str, tuple[dict[str, int], int, tuple[str, ...]]] = {
    "classes": ({"classes": 5}, 3, ("original.safetensors", "checkpoint has 10 classes, data has 5", "--data")),
    "channels": ({"channels": 3}, 3, ("original.safetensors", "images of 1 channels, data has 3", "--data")),
    "image size": ({"size": 1}, 3, ("small-cnn", "1 x 1 pixels", "--data")),
    "forget set in the test set": ({"shared": 9}, 2, ("overlaps the test set", "6 of 6 images", "train 0 = test 0")),
}


@pytest.mark.parametrize("misfit", MISFITS)
@pytest.mark.parametrize("verb", ["rcd", "apply"])
def test_data_that_does_not_fit(misfit: str, verb: str, refused: Refused, tiny: Path, here: Path) -> None:
    shape, code, mentions = MISFITS[misfit]
    spec = save_data(here / "data.npz", **shape)
    first: Arguments = ["rcd"] if verb == "rcd" else ["apply", "ieu", "--out", "out.safetensors"]
    arguments = [*first, tiny / "original.safetensors", "--data", spec, "--forget", "range:0-5"]
    refused(*arguments, code=code, says=mentions)


@pytest.mark.parametrize(
    ("shape", "model", "code", "mention"),
    [
        ({"size": 1}, "small-cnn", 3, "1 x 1 pixels"),
        ({"size": 8, "channels": 3}, "torchvision:alexnet", 3, "8 x 8 pixels"),
        ({"channels": 1}, "torchvision:resnet18", 2, "takes images of 3 channels, the data has 1"),
    ],
)
def test_a_model_that_cannot_take_the_training_images(
    shape: dict[str, int], model: str, code: int, mention: str, refused: Refused, here: Path
) -> None:
    spec = save_data(here / "data.npz", **shape)
    refused("train", "--data", spec, "--model", model, "--out", "o.safetensors", code=code, says=[model, mention])


INDICES: dict[str, tuple[Any, str]] = {
    "out of range": (np.array([1, 5000]), "index 5000 is out of range"),
    "negative": (np.array([3, -1]), "index -1 is negative"),
    "duplicated": (np.array([3, 4, 3]), "index 3 is there twice"),
    "empty": (np.array([], dtype=np.int64), "is empty"),
    "everything": (np.arange(1437), "is everything"),
    "floats": (np.array([1.0, 2.0]), "holds float64, not integers"),
    "objects": (np.array([1, None]), "pickled Python objects, which are never loaded"),
    "a short mask": (np.ones(10, dtype=bool), "a mask of 10 entries, but there are 1437 examples"),
    "a mask of nothing": (np.zeros(1437, dtype=bool), "is empty"),
    "a matrix": (np.ones((2, 2), dtype=np.int64), "2 dimensions"),
    "truncated": (b"\x93NUMPY\x01\x00", "cannot read index file"),
    "an empty file": (b"", "is empty (0 bytes)"),
}


@pytest.mark.parametrize("verb", ["rcd", "apply", "train"])
@pytest.mark.parametrize("wrong", INDICES)
def test_indices_that_name_no_forget_set(wrong: str, verb: str, refused: Refused, tiny: Path, here: Path) -> None:
    content, mention = INDICES[wrong]
    if isinstance(content, bytes):
        (here / "idx.npy").write_bytes(content)
    else:
        np.save(here / "idx.npy", content, allow_pickle=True)
    first: dict[str, Arguments] = {
        "rcd": ["rcd", tiny / "original.safetensors", "--forget", "idx.npy"],
        "apply": ["apply", "ieu", tiny / "original.safetensors", "--forget", "idx.npy", "--out", "o.safetensors"],
        "train": ["train", "--data", "digits", "--without", "idx.npy", "--out", "o.safetensors"],
    }
    refused(*first[verb], code=2, says=["idx.npy", mention])


@pytest.mark.parametrize(
    ("spec", "mentions"),
    [
        ("nowhere.npy", ("not found", "nowhere.npy")),
        (".", ("is a directory",)),
        ("clas:3", ("'clas'", "did you mean 'class'?")),
        ("mislabeled", ("did you mean 'mislabelled'?",)),
        ("class:12", ("class 12 is not in", "classes 0-9")),
        ("random:2.5", ("random:0.1:SEED",)),
        ("idx.parquet", ("'.parquet'", ".npy")),
    ],
)
def test_forget_specs_that_name_nothing(spec: str, mentions: tuple[str, ...], refused: Refused, tiny: Path) -> None:
    refused("rcd", tiny / "original.safetensors", "--forget", spec, code=2, says=mentions)


def test_a_retain_set_that_is_to_be_forgotten(refused: Refused, tiny: Path) -> None:
    sets = ["--forget", "range:0-9", "--retain", "range:5-20"]
    refused("gaps", tiny / "original.safetensors", *sets, code=2, says=["overlaps the forget set", "5 examples"])


def test_checkpoints_of_different_data(refused: Refused, tiny: Path, here: Path) -> None:
    write_changed(here / "c.safetensors", tiny / "original.safetensors", data="digits")
    arguments = ["rcd", tiny / "original.safetensors", "c.safetensors", *forget_of(tiny)]
    refused(*arguments, code=2, says=["different data", "digits, digits?mislabel=0.1&seed=0", "--data"])


def test_data_that_changed_since(refused: Refused, tiny: Path, here: Path) -> None:
    write_changed(here / "c.safetensors", tiny / "original.safetensors", data_sha256="0" * 64)
    refused("rcd", "c.safetensors", *forget_of(tiny), code=2, says=["c.safetensors", "has changed since", "--data"])


@pytest.mark.parametrize("verb", ["rcd", "gaps", "mia"])
def test_a_request_without_a_forget_set_or_a_checkpoint(verb: str, refused: Refused, tiny: Path, here: Path) -> None:
    first = ["mia", "loss"] if verb == "mia" else [verb]
    refused(*first, tiny / "original.safetensors", code=2, says=["no forget set given", "--forget"])
    refused(*first, *forget_of(tiny), code=2, says=["no checkpoint given"])
    shutil.copy(tiny / "original.safetensors", here / "c.bin")
    save_file(read_checkpoint(here / "c.bin").state, here / "bare.safetensors")
    refused(*first, "bare.safetensors", *forget_of(tiny), code=2, says=["bare.safetensors", "--data"])


@pytest.mark.parametrize(
    ("arguments", "mention"),
    [
        (["apply", "ieu", "--forget", "class:3", "--out", "o.safetensors"], "CKPT"),
        (["apply", "ieu", "c.safetensors", "--forget", "class:3"], "--out"),
        (["train", "--data", "digits"], "--out"),
        (["train", "--out", "o.safetensors"], "--data"),
        (["inspect"], "CKPT"),
        (["audit"], "CONFIG"),
        (["gate", "report.json"], "--policy"),
    ],
)
def test_something_needed_is_left_out(arguments: Arguments, mention: str, refused: Refused) -> None:
    refused(*arguments, code=2, says=["Missing", mention])


def test_unlearning_needs_a_forget_set(refused: Refused, tiny: Path, here: Path) -> None:
    given = tiny / "original.safetensors"
    refused("apply", "ieu", given, "--out", "o.safetensors", code=2, says=["no forget set given", "--forget"])


@pytest.mark.parametrize("spec", ["", "class:", "random:", "range:", "mislabelled:"])
def test_a_retrained_model_without_nothing_is_no_original(spec: str, refused: Refused) -> None:
    request = ["train", "--data", "digits", "--model", "small-cnn", "--epochs", 1, "--out", "o.safetensors"]
    refused(*request, f"--without={spec}", code=2, says=["forget set"])
