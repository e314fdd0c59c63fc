"""Checkpoints come back as they were written, from every kind of file, and say where they come from."""

import hashlib
import json
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unlearn_audit.checkpoints import (
    Checkpoint,
    Metadata,
    check_finite,
    digest_of_state,
    nonfinite,
    read_checkpoint,
    write_checkpoint,
)
from unlearn_audit.errors import CheckpointError, OutputError

FULL = Metadata(
    model="small-cnn",
    role="unlearned",
    classes=10,
    channels=1,
    image_size=(8, 8),
    data="digits?mislabel=0.1&seed=0",
    data_sha256="a" * 64,
    mean=(0.3,),
    std=(0.25,),
    recipe={"name": "small", "lr": 0.1, "milestones": [10, 20], "nested": {"nesterov": True, "clip": None}},
    seed=3,
    method="ieu",
    settings={"alpha": 0.999, "variant": "ga+noisy"},
    parent_sha256="b" * 64,
    forget="mislabelled",
    forget_sha256="c" * 64,
    forget_n=144,
    steps=200,
    gradient_evaluations=28_800,
    tool_version="0.1.0",
    torch_version="2.11.0",
)
PLAIN = Metadata(model="small-cnn")


def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"conv.weight": torch.randn(2, 1, 3, 3, generator=generator), "conv.bias": torch.tensor([1.0, -0.0])}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and digest_of_state(one) == digest_of_state(other)


def saved(folder: Path, content: object, **options: Any) -> Checkpoint:
    path = folder / "saved.pth.tar"
    torch.save(content, path, **options)
    return read_checkpoint(path)


# --- writing and reading back


def test_weights_and_metadata_come_back(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    digest = write_checkpoint(path, state(), FULL, force=False)
    read = read_checkpoint(path)
    assert digest == read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (read.path, read.format, read.metadata) == (path, "safetensors", FULL)
    assert (read.notes, read.foreign_metadata) == ((), {})
    assert same(read.state, state())
    assert same(load_file(path), state())  # the library alone agrees


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.int64, torch.uint16],
)
def test_dtypes_and_odd_shapes_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    written = {
        "matrix": torch.arange(6).reshape(2, 3).to(dtype),
        "scalar": torch.tensor(1).to(dtype),
        "empty": torch.zeros(0, 3).to(dtype),
        "flag": torch.tensor(True),
    }
    write_checkpoint(tmp_path / "c", written, PLAIN, force=False)
    read = read_checkpoint(tmp_path / "c").state
    assert {name: (t.dtype, t.shape) for name, t in read.items()} == {
        name: (t.dtype, t.shape) for name, t in written.items()
    }
    assert same(read, written)


def test_tied_weights_are_stored_once_and_come_back_tied(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    write_checkpoint(tmp_path / "c", model.state_dict(), PLAIN, force=False)
    with safe_open(tmp_path / "c", framework="pt") as stored:
        assert list(stored.keys()) == ["0.weight"]
    read = read_checkpoint(tmp_path / "c").state
    assert read["0.weight"].data_ptr() == read["1.weight"].data_ptr()
    model.load_state_dict(read, strict=True)
    write_checkpoint(tmp_path / "again", read, PLAIN, force=False)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "c").read_bytes()


def test_other_views_of_one_memory_become_tensors_of_their_own(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    views = {
        "whole": whole,
        "row": whole[1],
        "transposed": whole.T,
        "expanded": whole[:1].expand(2, 4),
        "bits": whole.view(torch.int32),
        "same": whole.view(3, 4),
    }
    write_checkpoint(tmp_path / "c", views, PLAIN, force=False)
    read = read_checkpoint(tmp_path / "c").state
    assert same(read, views)
    assert all(tensor.is_contiguous() for tensor in read.values())
    assert len({tensor.data_ptr() for tensor in read.values()}) == len(views) - 1


def test_same_input_same_bytes_whatever_the_order(tmp_path: Path) -> None:
    turned = dict(reversed(state().items()))
    metadata = FULL.model_copy(update={"settings": dict(reversed(dict(FULL.settings).items()))})
    one = write_checkpoint(tmp_path / "one", state(), FULL, force=False)
    assert one == write_checkpoint(tmp_path / "two", turned, metadata, force=False)


def test_parameters_are_written_without_their_gradients(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c", dict(nn.Linear(2, 2).named_parameters()), PLAIN, force=False)
    assert not any(tensor.requires_grad for tensor in read_checkpoint(tmp_path / "c").state.values())


def test_writing_to_what_was_read_leaves_the_file_alone(tmp_path: Path) -> None:
    digest = write_checkpoint(tmp_path / "c", state(), PLAIN, force=False)
    read_checkpoint(tmp_path / "c").state["conv.weight"].zero_()
    assert read_checkpoint(tmp_path / "c").sha256 == digest


def test_a_checkpoint_can_replace_the_one_it_was_read_from(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c", state(), PLAIN, force=False)
    write_checkpoint(tmp_path / "c", read_checkpoint(tmp_path / "c").state, FULL, force=True)
    read = read_checkpoint(tmp_path / "c")
    assert same(read.state, state())
    assert read.metadata == FULL


def test_an_existing_file_needs_force(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"old")
    with pytest.raises(OutputError, match="use --force"):
        write_checkpoint(tmp_path / "c", state(), PLAIN, force=False)
    assert (tmp_path / "c").read_bytes() == b"old"


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(tensors: object, target: Path, metadata: object) -> None:
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("unlearn_audit.checkpoints.described.save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path / "c", state(), PLAIN, force=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({}, "empty state dict"),
        ({"__metadata__": torch.ones(1)}, "cannot be the name of a tensor"),
        ({"": torch.ones(1)}, "names must be text"),
        ({"w": torch.ones(1, dtype=torch.complex128)}, "has no torch.complex128"),
        ({"w": torch.ones(2, 2).to_sparse()}, "is sparse"),
        ({"w": torch.ones(2, device="meta")}, "meta device"),
        ({"w": 3.0}, "not a tensor but of type float"),
    ],
)
def test_states_that_are_not_written(bad: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        write_checkpoint(tmp_path / "c", bad, PLAIN, force=False)
    assert list(tmp_path.iterdir()) == []


# --- metadata


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"model": ""},
        {"model": "m", "role": "Unlearned!"},
        {"model": "m", "classes": 0},
        {"model": "m", "classes": True},
        {"model": "m", "seed": "3"},
        {"model": "m", "image_size": (8,)},
        {"model": "m", "mean": (float("nan"),)},
        {"model": "m", "std": (0.0,)},
        {"model": "m", "mean": (0.1, 0.2, 0.3), "std": (0.2,)},
        {"model": "m", "data_sha256": "abc"},
        {"model": "m", "recipe": {"lr": float("nan")}},
    ],
)
def test_metadata_is_strict(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        Metadata(**wrong)
    save_file(state(), tmp_path / "c", metadata={"unlearn_audit": json.dumps({"schema": 1, **wrong})})
    with pytest.raises(CheckpointError, match="unreadable 'unlearn_audit' metadata .* pass --model and --data"):
        read_checkpoint(tmp_path / "c")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{", "not strict JSON"),
        ("[]", "JSON object is needed"),
        ('{"schema": 1, "model": "a", "model": "b"}', "twice"),
        ('{"schema": 1, "model": "a", "mean": [NaN]}', "NaN"),
        ('{"schema": 1, "model": "a", "recipe": {"lr": 1e999}}', "1e999 where a number belongs"),
        ('{"schema": 2, "model": "a"}', "schema 2 where this version reads 1"),
        ('{"schema": true, "model": "a"}', "schema True"),
        ('{"model": "a"}', "schema None"),
        ('{"schema": 1, "model": "a", "tied": {"x": 1}}', "names to names"),
        ('{"schema": 1, "model": "a", "tied": {"x": "nowhere"}}', "ties 'x' to 'nowhere'"),
        ('{"schema": 1, "model": "a", "tied": {"conv.bias": "conv.weight"}}', "against what it stores"),
        ("[" * 100_000, "not strict JSON"),
        (json.dumps({"schema": 1, "model": "a", "recipe": {"x": "y" * 1_000_001}}), "characters long"),
    ],
)
def test_malformed_metadata_is_refused(entry: str, message: str, tmp_path: Path) -> None:
    save_file(state(), tmp_path / "c", metadata={"unlearn_audit": entry})
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "c")


def test_unknown_keys_are_noted_and_foreign_entries_kept(tmp_path: Path) -> None:
    entry = '{"schema": 1, "model": "a", "colour": "red"}'
    save_file(state(), tmp_path / "c", metadata={"unlearn_audit": entry, "format": "pt"})
    read = read_checkpoint(tmp_path / "c")
    assert read.metadata == Metadata(model="a")
    assert read.notes == ("metadata key 'colour' is not known here and was ignored",)
    assert read.foreign_metadata == {"format": "pt"}


def test_a_foreign_file_has_no_metadata(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "c.pt", metadata={"format": "pt"})
    read = read_checkpoint(tmp_path / "c.pt")
    assert read.metadata is None
    assert read.foreign_metadata == {"format": "pt"}


@pytest.mark.parametrize("value", [float("inf"), object(), "x" * 1_000_001])
def test_metadata_that_is_not_written(value: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="metadata"):
        write_checkpoint(tmp_path / "c", state(), PLAIN.model_copy(update={"recipe": {"x": value}}), force=False)
    assert list(tmp_path.iterdir()) == []


# --- torch files


def test_a_traced_model_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in newer versions of torch
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"TorchScript archive.*torch\.jit\.load"):
        read_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("name", ["c.pt", "c.pth.tar", "c.safetensors", "c"])
def test_torch_files_are_known_by_content(new: bool, name: str, tmp_path: Path) -> None:
    torch.save(OrderedDict(state()), tmp_path / name, _use_new_zipfile_serialization=new)
    read = read_checkpoint(tmp_path / name)
    assert same(read.state, state())
    assert read.format == ("torch zip" if new else "torch legacy")
    assert read.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert (read.metadata, read.notes, read.foreign_metadata) == (None, (), {})


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net"])
def test_a_state_dict_is_found_under_its_usual_names(key: str, tmp_path: Path) -> None:
    read = saved(tmp_path, {"epoch": 3, key: state(), "optimizer": {"state": {0: torch.ones(2)}}})
    assert same(read.state, state())
    assert read.notes == (f"state dict taken from '{key}'",)


def test_wrappers_nest_twice(tmp_path: Path) -> None:
    read = saved(tmp_path, {"model": {"net": state()}, "state_dict": {"epoch": 1}})
    assert same(read.state, state())
    assert read.notes == ("state dict taken from 'model' > 'net'",)
    assert read.weights == "model.net"
    with pytest.raises(CheckpointError, match="no state dict"):
        saved(tmp_path, {"model": {"model": {"model": state()}}})


def test_prefixes_go_when_all_names_have_them(tmp_path: Path) -> None:
    wrapped = {f"module._orig_mod.module.{name}": tensor for name, tensor in state().items()}
    read = saved(tmp_path, {"state_dict": wrapped})
    assert same(read.state, state())
    assert read.notes[1:] == ("prefix 'module.' removed", "prefix '_orig_mod.' removed", "prefix 'module.' removed")
    save_file(wrapped, tmp_path / "s")
    assert same(read_checkpoint(tmp_path / "s").state, state())


def test_prefixes_stay_when_only_some_names_have_them(tmp_path: Path) -> None:
    read = saved(tmp_path, {"module.w": torch.ones(1), "n_averaged": torch.tensor(1)})
    assert set(read.state) == {"module.w", "n_averaged"}
    assert read.notes == ()


def test_extra_state_without_content_is_left_out_and_said(tmp_path: Path) -> None:
    read = saved(tmp_path, {**state(), "conv._extra_state": None})
    assert same(read.state, state())
    assert read.notes == ("1 '_extra_state' entries that hold nothing were left out",)


def test_ties_and_parameters_of_torch_files(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.ones(2))
    read = saved(tmp_path, {"a": weight, "b": weight}).state
    assert read["a"].data_ptr() == read["b"].data_ptr()
    assert type(read["a"]) is Tensor
    assert not read["a"].requires_grad


# --- values


def test_nonfinite_values_are_counted() -> None:
    nan, inf = float("nan"), float("inf")
    counts = nonfinite({
        "fine": torch.ones(3),
        "two": torch.tensor([nan, 1.0, inf]),
        "half": torch.tensor([-inf], dtype=torch.bfloat16),
        "small": torch.tensor([nan, 1.0]).to(torch.float8_e5m2),
        "complex": torch.tensor([complex(0, nan)]),
        "count": torch.tensor([1]),
        "none": torch.zeros(0),
    })
    assert counts == {"two": 2, "half": 1, "small": 1, "complex": 1}


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    check_finite(saved(tmp_path, state()))
    bad = saved(
        tmp_path, {"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")]), "c": torch.full((3,), torch.inf)}
    )
    with pytest.raises(
        CheckpointError, match=r"4 weights are NaN or infinite, in 2 of 3 tensors, the first in 'b' \(1"
    ):
        check_finite(bad)


def test_the_digest_is_of_content_not_of_layout(tmp_path: Path) -> None:
    base = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1)}
    digest = digest_of_state(base)
    torch.save(base, tmp_path / "t")
    write_checkpoint(tmp_path / "s", base, FULL, force=False)
    assert digest == digest_of_state({"b": base["b"], "w": base["w"].T.contiguous().T})
    assert digest == digest_of_state(read_checkpoint(tmp_path / "t").state)
    assert digest == digest_of_state(read_checkpoint(tmp_path / "s").state)


@pytest.mark.parametrize(
    "changed",
    [
        {"w": torch.ones(3), "b": torch.zeros(2)},
        {"w": torch.zeros(2), "b": torch.zeros(3)},
        {"w": torch.zeros(3), "c": torch.zeros(2)},
        {"w": torch.zeros(3, 1), "b": torch.zeros(2)},
        {"w": torch.zeros(3, dtype=torch.int32), "b": torch.zeros(2)},
        {"w": -torch.zeros(3), "b": torch.zeros(2)},
    ],
)
def test_the_digest_tells_different_content_apart(changed: dict[str, Tensor]) -> None:
    assert digest_of_state(changed) != digest_of_state({"w": torch.zeros(3), "b": torch.zeros(2)})
