"""What is not a sound checkpoint gets one clear line; nothing in a file is ever executed."""

import gzip
import json
import os
import pickle
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from unlearn_audit.checkpoints import Metadata, digest_of_state, nonfinite, read_checkpoint, write_checkpoint
from unlearn_audit.errors import CheckpointError
from unlearn_audit.models.loading import load_state, other_types

STATE = {"conv.weight": torch.arange(18.0).reshape(2, 1, 3, 3), "conv.bias": torch.tensor([1.0, 2.0])}


def refused(path: Path) -> str:
    """Return the message of the one error that reading `path` must end with."""
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


# --- other kinds of file


def test_a_missing_file_a_folder_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert "not found" in refused(tmp_path / "nowhere")
    assert "is a directory" in refused(tmp_path)
    assert "is empty" in refused(tmp_path / "empty")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML page"),
        (b"\n<html>", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
        (gzip.compress(b"weights", mtime=0), "gzip archive; unpack"),  # an id that is the same in every process
        (b"BZh91AY&SY", "bzip2"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5 file"),
        (b"\x93NUMPY\x01\x00" + bytes(50), "NumPy array"),
        (b"GGUF" + bytes(50), "GGUF"),
        (b"hello, weights", 'text file that begins "hello, weights"'),
        ("größe\n".encode() * 1000, "text file"),
        (b'{"a":1}', "without a 'weight_map'"),
        (b'{"a": ', "not strict JSON"),
        (b"\x00\x01\x02\x03", "no known kind"),
        (b"\x80", "no known kind"),
        (b"{" + bytes(100), "no known kind"),
        (b"PK\x03\x04" + bytes(100), "zip archive that is truncated or damaged"),
        (b"count\n12\n", "text file"),
    ],
)
def test_other_files_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.safetensors").write_bytes(content)
    assert message in refused(tmp_path / "c.safetensors")


def test_archives_of_other_kinds_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones(3))
    assert "npz archive" in refused(tmp_path / "data.npz")
    for member, message in [("model.weights.h5", "Keras"), ("a.txt", 'zip archive with "a.txt"')]:
        with zipfile.ZipFile(tmp_path / "z", "w") as archive:
            archive.writestr(member, b"x")
        assert message in refused(tmp_path / "z")
    with tarfile.open(tmp_path / "t.pth.tar", "w") as tar:
        tar.add(tmp_path / "data.npz", "data.npz")
    assert "tar archive" in refused(tmp_path / "t.pth.tar")


def test_torchscript_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "c.pt", "w") as archive:
        for name in ("c/data.pkl", "c/constants.pkl", "c/code/__torch__.py", "c/version"):
            archive.writestr(name, b"x")
    message = refused(tmp_path / "c.pt")
    assert "TorchScript" in message
    assert "torch.jit.load" in message


# --- pickles that would run code


class Trap:
    """Unpickled by the ordinary reader, it makes the file that it names."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.path}'",)


def pickled(content: object, path: Path, protocol: int) -> None:
    path.write_bytes(pickle.dumps(content, protocol=protocol))


@pytest.mark.parametrize(
    "save",
    [
        torch.save,
        lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
        *(lambda content, path, p=protocol: pickled(content, path, p) for protocol in range(6)),
    ],
)
@pytest.mark.parametrize("wrap", [lambda trap: trap, lambda trap: {"state_dict": dict(STATE), "epoch": trap}])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(
    save: Callable[[object, Path], None], wrap: Callable[[Trap], object], tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    save(wrap(Trap(ran)), tmp_path / "c.pt")
    message = refused(tmp_path / "c.pt")
    assert message.startswith("refused: ")
    assert "would run code (" in message
    assert f"{os.system.__module__}.system" in message
    assert "re-save the weights with safetensors: " in message
    assert not ran.exists()
    os.system(f"touch '{ran}'")  # the trap itself works
    assert ran.exists()


def test_a_whole_model_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "c.pt")
    message = refused(tmp_path / "c.pt")
    assert "whole pickled model" in message
    assert "torch.nn.modules.container.Sequential" in message
    assert "model.state_dict()" in message


def test_a_harmless_pickle_of_another_make_is_refused(tmp_path: Path) -> None:
    pickled({"lr": 0.1}, tmp_path / "c.pkl", 4)
    assert "torch.save did not write" in refused(tmp_path / "c.pkl")


# --- torch files without sound weights


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "empty state dict"),
        ({"state_dict": {}}, "empty state dict"),
        ([torch.ones(1)], "holds a list, not a state dict"),
        (torch.ones(1), "holds a Tensor"),
        ({"epoch": 3, "loss": dict(STATE)}, "no state dict .*'loss' \\(state dict\\).* --weights KEY"),
        ({**STATE, "epoch": 3}, "not tensors: 'epoch' \\(int\\)"),
        ({"state_dict": {**STATE, "lr": 0.1}}, "not tensors: 'lr' \\(float\\)"),
        ({0: torch.ones(1)}, "names must be text"),
        ({"w": torch.ones(2, 2).to_sparse()}, "sparse"),
        ({"w": torch.ones(2, device="meta")}, "meta"),
        ({"w": torch.ones(1).expand(10**12)}, "claims 4000000000000 bytes"),
    ],
)
@pytest.mark.parametrize("new", [True, False])
def test_contents_that_are_no_state_dict(content: Any, message: str, new: bool, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "c.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "c.pt")


@pytest.mark.filterwarnings("ignore")  # quantised tensors are deprecated in newer versions of torch
def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    weight = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    torch.save({"w": weight}, tmp_path / "c.pt")
    assert "quantised" in refused(tmp_path / "c.pt")


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(100_000)}, tmp_path / "c.pt")
    with (
        zipfile.ZipFile(tmp_path / "c.pt") as plain,
        zipfile.ZipFile(tmp_path / "z", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in plain.namelist():
            small.writestr(name, plain.read(name))
    assert "compressed" in refused(tmp_path / "z")


# --- safetensors headers


def header(content: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_the_header_builder_builds_sound_files(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(header({"w": entry()}, struct.pack("<2f", 1, 2)))
    assert read_checkpoint(tmp_path / "c").state["w"].tolist() == [1, 2]


def test_headers_that_begin_like_a_pickle_or_a_zip_are_read(tmp_path: Path) -> None:
    for length in (0x0280, 0x0480):
        text = json.dumps({"w": entry()}).encode().ljust(length)
        (tmp_path / "c").write_bytes(header(text, bytes(8)))
        assert read_checkpoint(tmp_path / "c").format == "safetensors"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header({"w": entry()}, bytes(8), length=2**63), "claims a length of 9223372036854775808 bytes"),
        (header({"w": entry()}, bytes(8), length=10**6), "claims a length of 1000000 bytes in a file of"),
        (header(b'{"w": ', bytes(8)), "not strict JSON"),
        (header(b"{" + b"[" * 100_000), "not strict JSON"),
        (header(b'{"w": 1, "w": 2}'), "twice"),
        (header(b"{\xff}"), "not strict JSON"),
        (header({"w": 3}, bytes(8)), "damaged or not complete"),
        (header({"w": {"dtype": "F32", "shape": [2]}}, bytes(8)), "damaged or not complete"),
        (header({"w": entry(dtype="F4", shape=[16])}, bytes(8)), "unknown dtype 'F4'"),
        (header({"w": entry(shape=[1] * 64 + [2])}, bytes(8)), "has 65 dimensions"),
        (header({"w": entry(dtype="F33")}, bytes(8)), "unknown dtype 'F33'"),
        (header({"w": entry(dtype=["F32"])}, bytes(8)), "damaged or not complete"),
        (header({"w": entry(shape=[-2])}, bytes(8)), "damaged or not complete"),
        (header({"w": entry(shape=[2.0])}, bytes(8)), "damaged or not complete"),
        (header({"w": entry(shape=[True, 2])}, bytes(8)), "damaged or not complete"),
        (header({"w": entry(shape=[2**62, 2**62], offsets=[0, 0])}), "impossible shape"),
        (header({"w": entry(shape=[0, 2**62, 2**62], offsets=[0, 0])}), "impossible shape"),
        (header({"w": entry(offsets=[8, 0])}, bytes(8)), "damaged or not complete"),
        (header({"w": entry(offsets=[-8, 0])}, bytes(8)), "damaged or not complete"),
        (header({"w": entry(offsets=[0])}, bytes(8)), "damaged or not complete"),
        (header({"w": entry(shape=[3])}, bytes(8)), "damaged or not complete"),
        (header({"w": entry(), "v": entry()}, bytes(8)), "damaged or not complete"),
        (header({"w": entry(), "v": entry(offsets=[4, 12])}, bytes(12)), "damaged or not complete"),
        (header({"w": entry(), "v": entry(offsets=[12, 20])}, bytes(20)), "damaged or not complete"),
        (header({"w": entry()}, bytes(7)), "damaged or not complete"),
        (header({"w": entry()}, bytes(9)), "damaged or not complete"),
        (header({"w": entry(), "__metadata__": {"a": 1}}, bytes(8)), "damaged or not complete"),
        (header({"w": entry(), "__metadata__": "a"}, bytes(8)), "damaged or not complete"),
        (header({}), "empty state dict"),
    ],
)
def test_absurd_headers(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.safetensors").write_bytes(content)
    assert message in refused(tmp_path / "c.safetensors")


def test_sparse_huge_file_with_a_huge_header(tmp_path: Path) -> None:
    with (tmp_path / "c").open("wb") as stream:
        stream.write(header(b"{", length=200_000_000))
        stream.truncate(300_000_000)
    assert "claims a length of 200000000 bytes" in refused(tmp_path / "c")


# --- shards


def sharded(folder: Path, weight_map: object = None, **more: object) -> Path:
    save_file({"a": torch.ones(2)}, folder / "one.safetensors", metadata={"format": "pt"})
    save_file({"b": torch.zeros(3), "c": torch.tensor(1)}, folder / "two.safetensors")
    usual = {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": usual if weight_map is None else weight_map, **more}))
    return index


def test_shards_are_joined(tmp_path: Path) -> None:
    read = read_checkpoint(sharded(tmp_path, metadata={"total_size": 28}))
    assert read.format == "safetensors, 2 shards"
    assert {name: tensor.shape for name, tensor in read.state.items()} == {"a": (2,), "b": (3,), "c": ()}
    assert read.foreign_metadata == {"total_size": "28", "format": "pt"}
    save_file({"a": torch.zeros(2)}, tmp_path / "one.safetensors")
    assert read_checkpoint(read.path).sha256 != read.sha256


def test_shards_that_torch_wrote_are_joined(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "one.bin")
    torch.save({"b": torch.zeros(3)}, tmp_path / "two.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.bin", "b": "two.bin"}}))
    read = read_checkpoint(index)
    assert read.format == "torch zip, 2 shards"
    assert {name: tensor.tolist() for name, tensor in read.state.items()} == {"a": [1, 1], "b": [0, 0, 0]}
    torch.save({"b": Trap(tmp_path / "ran")}, tmp_path / "two.bin")
    assert "would run code" in refused(index)
    torch.save({"model": {"b": torch.zeros(3)}}, tmp_path / "two.bin")
    assert "not a safetensors file, nor a state dict" in refused(index)


@pytest.mark.parametrize(
    "name", ["../one.safetensors", "/etc/passwd", "sub/one.safetensors", "sub\\one.safetensors", "..", ".", "", "a\0b"]
)
def test_shards_outside_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    assert "outside its folder" in refused(sharded(tmp_path / "in", {"a": name}))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "out.safetensors")
    (tmp_path / "in" / "link.safetensors").symlink_to(tmp_path / "out.safetensors")
    assert "outside its folder" in refused(sharded(tmp_path / "in", {"a": "link.safetensors"}))


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({}, "must map"),
        ([], "without a 'weight_map'"),
        ({"a": 1}, "must map"),
        ({"a": "three.safetensors"}, "shard not found"),
        ({"a": "model.safetensors.index.json"}, "not a safetensors file, nor a state dict"),
        ({"a": "one.safetensors", "z": "one.safetensors"}, "lacks 'z'"),
        ({"a": "one.safetensors", "b": "two.safetensors"}, "also holds 'c'"),
        ({"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}, "'c'"),
    ],
)
def test_an_index_that_does_not_fit_its_shards(weight_map: object, message: str, tmp_path: Path) -> None:
    assert message in refused(sharded(tmp_path, weight_map))


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    save_file({"a": torch.ones(2), "b": torch.ones(3)}, tmp_path / "one.safetensors")
    assert "also holds 'b'" in refused(index)


def test_shards_with_two_descriptions_are_refused(tmp_path: Path) -> None:
    index = sharded(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    write_checkpoint(tmp_path / "one.safetensors", {"a": torch.ones(2)}, Metadata(model="m"), force=True)
    write_checkpoint(tmp_path / "two.safetensors", {"b": torch.ones(2)}, Metadata(model="n"), force=True)
    assert "describe themselves differently" in refused(index)


# --- damage


def written(kind: str, path: Path) -> bytes:
    state = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).state_dict()
    if kind == "safetensors":
        write_checkpoint(path, state, Metadata(model="small-cnn", mean=(0.5,)), force=False)
    else:
        torch.save({"state_dict": state, "epoch": 3}, path, _use_new_zipfile_serialization=kind == "zip")
    return path.read_bytes()


def harmed(data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.4:
        return data[: chance.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 4])):
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_damaged_files_are_read_or_refused_and_nothing_else(kind: str, tmp_path: Path) -> None:
    chance, outcomes = random.Random(kind), set()
    data = written(kind, tmp_path / "whole")
    for _ in range(400):
        (tmp_path / "c").write_bytes(harmed(data, chance))
        try:
            state = read_checkpoint(tmp_path / "c").state
        except CheckpointError:
            outcomes.add("refused")
        else:
            nonfinite(state)
            digest_of_state(state)
            outcomes.add("read")
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_every_truncated_file_is_refused(kind: str, tmp_path: Path) -> None:
    data = written(kind, tmp_path / "whole")
    for length in range(0, len(data), 1 + len(data) // 60):
        (tmp_path / "c").write_bytes(data[:length])
        refused(tmp_path / "c")


# --- what takes long, and names that are none


def test_very_many_tensors_or_dimensions_are_refused_at_once(tmp_path: Path) -> None:
    many = {f"w{i}": entry(shape=[0], offsets=[0, 0]) for i in range(100_001)}
    (tmp_path / "c").write_bytes(header(many))
    assert "lists 100001 tensors; at most 100000" in refused(tmp_path / "c")
    shape = b"1," * 300_000 + b"2"
    content = b'{"w": {"dtype": "F32", "shape": [' + shape + b'], "data_offsets": [0, 8]}}'
    (tmp_path / "c").write_bytes(header(content, bytes(8)))
    assert "has 300001 dimensions; at most 64" in refused(tmp_path / "c")
    (tmp_path / "c").write_bytes(header({"w": entry(offsets=[0] * 1_000_000)}, bytes(8)))
    assert "the file is damaged" in refused(tmp_path / "c")
    (tmp_path / "c").write_bytes(header({"w": entry(dtype=["F32"] * 1_000_000)}, bytes(8)))
    assert "the file is damaged" in refused(tmp_path / "c")


@pytest.mark.parametrize("name", ["a" * 300, "~nobody/c.pt", "a/" * 3000 + "c.pt", "a\nb.pt"])
def test_names_that_no_file_can_have(name: str) -> None:
    with pytest.raises(CheckpointError, match="not found|cannot read"):
        read_checkpoint(Path(name))


def test_complex_weights_and_other_types_are_told() -> None:
    model = nn.Linear(2, 2)
    half = {name: tensor.half() for name, tensor in model.state_dict().items()}
    load_state(model, half, where="c.pt")
    assert other_types(model, half) == ("2 tensors are stored as float16 and computed with as float32",)
    assert other_types(model, model.state_dict()) == ()
    mixed = model.state_dict() | {"bias": torch.zeros(2).to(torch.float8_e4m3fn)}
    assert other_types(model, mixed) == ("1 tensor is stored as float8_e4m3fn and computed with as float32",)
    with pytest.raises(CheckpointError, match=r"c\.pt: tensor 'weight' holds complex numbers"):
        load_state(model, model.state_dict() | {"weight": torch.ones(2, 2, dtype=torch.complex64)}, where="c.pt")
