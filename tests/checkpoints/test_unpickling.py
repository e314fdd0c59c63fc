"""A torch file's pickle is read by a machine of ours: weights come out, all else is inert, and nothing takes long."""

import argparse
import builtins
import collections
import datetime
import enum
import functools
import importlib
import io
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unlearn_audit.checkpoints import read_checkpoint, unpickling
from unlearn_audit.checkpoints.stored import Damaged, Placeholder, key_of
from unlearn_audit.checkpoints.unpickling import Unpickler
from unlearn_audit.errors import CheckpointError

both_formats = pytest.mark.parametrize("new", [True, False])


class Colour(enum.Enum):
    RED = 1


class Settings(dict[str, Any]):
    """As EasyDict and OmegaConf are: a dictionary of a class of its own, which sets attributes when it is filled."""

    def __setstate__(self, state: object) -> None:
        raise AssertionError("it was run")

    def __setitem__(self, key: str, value: object) -> None:
        raise AssertionError("it was run")


class Outer:
    class Inner:
        """Of a class within a class, which pickles of protocol 2 reach through getattr."""


def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def optimizer() -> dict[str, Any]:
    model = nn.Linear(2, 2)
    adam = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    adam.step()
    return adam.state_dict()


def filled() -> Settings:
    settings = Settings()
    dict.__setitem__(settings, "lr", 0.1)
    return settings


BESIDE = {
    "namespace": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("runs/1")),
    "path": pathlib.PurePosixPath("runs/1"),
    "numpy": [np.float64(0.5), np.float32(0.25), np.int64(7), np.bool_(True), np.arange(4)],
    "random": [np.random.get_state(), np.random.default_rng(0), torch.get_rng_state()],
    "time": datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
    "enum": Colour.RED,
    "partial": functools.partial(max, 1),
    "function": json_dumps if (json_dumps := importlib.import_module("json").dumps) else None,
    "class": Outer,
    "inner": Outer.Inner(),
    "settings": filled(),
    "simple": types.SimpleNamespace(a=1),
    "containers": [{1, (1, 2)}, frozenset({1}), collections.deque([1]), collections.Counter("ab"), {(1, 2): 3}],
    "slice": slice(1),
    "default": collections.defaultdict(list, {"a": [1]}),
    "ordered": collections.OrderedDict(a=1),
    "bytes": [b"ab", bytearray(b"ab"), 3 + 4j, 2**100],
    "torch": [torch.device("cpu"), torch.float16, torch.Size([1])],
    "optimizer": optimizer(),
    "module": nn.Linear(2, 2),
}  # fmt: skip


# --- weights beside harmless objects


@both_formats
@pytest.mark.parametrize("name", BESIDE)
def test_weights_are_read_beside_any_harmless_object(name: str, new: bool, tmp_path: Path) -> None:
    content = {"epoch": 3, "state_dict": weights(), name: BESIDE[name]}
    torch.save(content, tmp_path / "c.pt", _use_new_zipfile_serialization=new)
    read = read_checkpoint(tmp_path / "c.pt")
    assert read.state.keys() == weights().keys()
    assert all(torch.equal(read.state[key], tensor) for key, tensor in weights().items())
    assert read.beside["epoch"] == "3"
    assert name in read.beside


def test_placeholders_are_named_and_plain_numbers_stay_numbers(tmp_path: Path) -> None:
    content = {
        "model": weights(),
        "args": argparse.Namespace(lr=0.1),
        "best_acc": np.float64(93.25),
        "top1": np.int64(7),
        "where": pathlib.PurePosixPath("a"),
    }
    torch.save(content, tmp_path / "c.pt")
    read = read_checkpoint(tmp_path / "c.pt")
    assert read.placeholders == ("argparse.Namespace", "pathlib.PurePosixPath")
    assert read.beside == {
        "args": "argparse.Namespace",
        "best_acc": "93.25",
        "top1": "7",
        "where": "pathlib.PurePosixPath",
    }
    assert "not read, and nothing of it imported or called: argparse.Namespace, pathlib.PurePosixPath" in read.notes


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_numpy_numbers_of_every_size_and_order(kind: str, order: str) -> None:
    number = np.dtype(order + kind).type(np.array(100, dtype=order + kind))
    for protocol in (2, 4):
        assert Unpickler(most_bytes=1000).load(io.BytesIO(pickle.dumps(number, protocol))) == 100


def test_nothing_is_imported(tmp_path: Path) -> None:
    (tmp_path / "planted_module.py").write_text(
        "import pathlib\npathlib.Path(__file__ + '.ran').touch()\nclass C: pass\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        made = importlib.import_module("planted_module").C()
        torch.save({"state_dict": weights(), "made": made}, tmp_path / "c.pt")
        del sys.modules["planted_module"]
        (tmp_path / "planted_module.py.ran").unlink()
        assert read_checkpoint(tmp_path / "c.pt").placeholders == ("planted_module.C",)
    finally:
        sys.path.remove(str(tmp_path))
    assert "planted_module" not in sys.modules
    assert not (tmp_path / "planted_module.py.ran").exists()


def test_a_dictionary_of_its_own_class_is_looked_into(tmp_path: Path) -> None:
    outer = Settings()
    dict.__setitem__(outer, "state_dict", weights())
    torch.save(outer, tmp_path / "c.pt")
    assert read_checkpoint(tmp_path / "c.pt").weights == "state_dict"


@both_formats
def test_tensors_are_those_that_torch_reads(new: bool, tmp_path: Path) -> None:
    base = torch.arange(24.0)
    content = {
        "view": base[3:15].reshape(3, 4).T,
        "tied": base,
        "row": base[5],
        "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(torch.ones(2)),
        "layout": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        **{
            str(dtype): torch.arange(5).to(dtype)
            for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.bool,
                          torch.uint16, torch.uint32, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64)
        },
    }  # fmt: skip
    if not new:  # the older layout has no storages of these
        content = {
            name: tensor for name, tensor in content.items() if not name.startswith(("torch.uint", "torch.float8"))
        }
    torch.save(content, tmp_path / "c.pt", _use_new_zipfile_serialization=new)
    expected = torch.load(tmp_path / "c.pt", weights_only=True)
    read = read_checkpoint(tmp_path / "c.pt").state
    assert read.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (read[name].dtype, read[name].shape, read[name].stride()) == (
            tensor.dtype,
            tensor.shape,
            tensor.stride(),
        )
        assert torch.equal(read[name].view(torch.uint8) if "float8" in name else read[name],
                           (tensor.view(torch.uint8) if "float8" in name else tensor).detach())  # fmt: skip
    assert read["row"].data_ptr() == read["tied"].data_ptr() + 20


def test_a_file_of_a_machine_that_counts_the_other_way_round(tmp_path: Path) -> None:
    torch.save({"w": torch.tensor([1.0, 2.0]), "n": torch.tensor([1, 2])}, tmp_path / "c.pt")
    with zipfile.ZipFile(tmp_path / "c.pt") as archive, zipfile.ZipFile(tmp_path / "d.pt", "w") as other:
        for name in archive.namelist():
            data = archive.read(name)
            if name.endswith("byteorder"):
                data = b"big"
            elif "/data/" in name:
                width = 4 if len(data) == 8 else 8
                data = b"".join(data[i : i + width][::-1] for i in range(0, len(data), width))
            other.writestr(name, data)
    read = read_checkpoint(tmp_path / "d.pt").state
    assert read["w"].tolist() == [1.0, 2.0]
    assert read["n"].tolist() == [1, 2]


# --- what an attack asks for


class Call:
    """Unpickled by the ordinary reader, it calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


HOSTILE = {
    "os": (os.system, "touch ran"),
    "subprocess": (subprocess.check_output, ["touch", "ran"]),
    "eval": (eval, "open('ran', 'w')"),
    "exec": (exec, "open('ran', 'w')"),
    "open": (open, "ran", "w"),
    "import": (builtins.__import__, "ran"),
    "import_module": (importlib.import_module, "ran"),
    "method": (pathlib.Path.write_text, pathlib.Path("ran"), "x"),
    "bound": (pathlib.Path("ran").write_text, "x"),
    "torch.save": (torch.save, 1, "ran"),
    "torch.load": (torch.load, "ran"),
    "pickle": (pickle.loads, b"N."),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_asks_for_code_is_refused(
    name: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": weights(), "epoch": Call(*HOSTILE[name])}, "c.pt", pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=r"refused: c\.pt: loading it would run code \("):
        read_checkpoint(Path("c.pt"))
    assert not (tmp_path / "ran").exists()


def test_setstate_and_callables_of_the_file_are_not_called(tmp_path: Path) -> None:
    harmless = Call(print, "x" * 10)
    torch.save({"state_dict": weights(), "epoch": harmless, "more": Call(sorted, [2, 1])}, tmp_path / "c.pt")
    assert read_checkpoint(tmp_path / "c.pt").beside["more"] == "__builtin__.sorted"


# --- pickles that spend time or memory


def zipped(program: bytes, path: Path) -> Path:
    """Put a pickle where torch.save puts its own."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("c/data.pkl", program)
        archive.writestr("c/version", b"3\n")
    return path


def legacy(program: bytes, path: Path) -> Path:
    """Put a pickle where torch's legacy files have theirs."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + program + pickle.dumps([], 2))
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


NESTED_KEY = b"\x80\x02}" + b")" + b"".join(b"q%c2\x86" % 0 for _ in range(60)) + b"K\x01s."
BOMBS = {
    # (t, t) sixty times over as a key: 2^60 steps to hash
    "nested key": b"\x80\x02})" + b"2\x86" * 60 + b"K\x01s.",
    "nested key in a set": b"\x80\x04\x8f()" + b"2\x86" * 60 + b"\x90.",
    "deep key": b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s.",
    "deep lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "laughs": b"\x80\x02]" + b"".join(b"q%c](%se" % (i, b"h%c" % i * 200) for i in range(100)) + b".",
    "one hash": b"\x80\x02}(" + b"".join(
        b"\x8a\x0b" + (k * (2**61 - 1)).to_bytes(11, "little") + b"N" for k in range(1, 60_000)) + b"u.",
    "one memo": b"\x80\x02N" + b"".join(b"p%d\n" % (k * (2**61 - 1)) for k in range(1, 60_000)) + b".",
    "copies": b"\x80\x02(" + text("x" * 1_000_000) + b"q\x000cbuiltins\nlist\nq\x01" + b"".join(
        b"c_codecs\nencode\nh\x00" + text("latin1") + b"\x86R" for _ in range(20_000)) + b"l.",
    "lists copied": b"\x80\x02(" + b"N" * 100_000 + b"lq\x000(" + b"".join(
        b"ccollections\nOrderedDict\nh\x00\x85R" for _ in range(20_000)) + b"l.",
    "long number": b"\x80\x02L" + b"9" * 1_000_000 + b"L\n.",
    "long bytes number": b"\x80\x02\x8b" + struct.pack("<i", 1_000_000) + b"\x7f" * 1_000_000 + b".",
    "claims text": b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"x.",
    "claims bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "claims frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
    "bytearray": b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R.",
    "marks": b"\x80\x02" + b"(" * 100_000 + b".",
    "no end": b"\x80\x02" + b"N" * 1000,
    "buffers": b"\x80\x05\x97.",
    "extension": b"\x80\x02\x82\x01)R.",
    "empty stack": b"\x80\x02s.",
    "long name": b"\x80\x02c" + b"a" * 100_000 + b"\nb\n.",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("layout", [zipped, legacy])
def test_pickles_that_spend_time_or_memory_end_soon(
    layout: Callable[[bytes, Path], Path], name: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(layout(BOMBS[name], tmp_path / "c.pt"))
    assert len(str(caught.value)) < 700


def test_keys_that_take_long_to_hash_are_not_hashed() -> None:
    assert [key_of(key) for key in ("a", b"a", 3, True, None, 0.5)] == ["a", b"a", 3, True, None, 0.5]
    assert all(isinstance(key_of(key), Placeholder) for key in ((1,), [1], 2**61 - 1, -(2**60), {}))


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((3,), (1,), 0), ((2,), (2,), 0), ((2,), (1,), 1), ((-1,), (1,), 0), ((2,), (-1,), 1), ((1,) * 65, (1,) * 65, 0),
     ((2,), (), 0), ((2**62, 2**62), (0, 0), 0), ((2.0,), (1,), 0), ((True,), (1,), 0), ((2,), (1,), 2**70)],
)  # fmt: skip
def test_a_tensor_stays_within_its_storage(
    size: tuple[Any, ...], stride: tuple[Any, ...], offset: int, tmp_path: Path
) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "c.pt")
    with zipfile.ZipFile(tmp_path / "c.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    place = b"QK\x00K\x02\x85q\x08K\x01\x85q\t"
    arguments = b"".join(pickle.dumps(value, 2)[2:-1] for value in (offset, size, stride))
    program = members["c/data.pkl"]
    assert place in program
    with zipfile.ZipFile(tmp_path / "d.pt", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data if name != "c/data.pkl" else program.replace(place, b"Q" + arguments))
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(tmp_path / "d.pt")


def test_one_memory_under_very_many_names_is_refused(tmp_path: Path) -> None:
    whole = torch.ones(100_000)
    torch.save({f"w{i}": whole for i in range(200)}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="claim 80000000 bytes together"):
        read_checkpoint(tmp_path / "c.pt")


# --- archives


def rewritten(path: Path, into: Path, change: Callable[[str], list[tuple[str, int]]]) -> None:
    """Write an archive again; each member becomes those that `change` says, each with its compression."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(into, "w") as other:
        for name in archive.namelist():
            for new_name, compression in change(name):
                other.writestr(new_name, archive.read(name), compression)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_with_two_members_of_one_name_or_compressed_ones_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.randn(100)}, tmp_path / "c.pt")
    twice = [("c/data/0", zipfile.ZIP_STORED)] * 2
    rewritten(tmp_path / "c.pt", tmp_path / "d.pt", lambda name: twice if name == "c/data/0" else [(name, 0)])
    with pytest.raises(CheckpointError, match="two members of one name"):
        read_checkpoint(tmp_path / "d.pt")
    other = [("c/data/0", 0), ("d/data/0", 0)]
    rewritten(tmp_path / "c.pt", tmp_path / "d.pt", lambda name: other if name == "c/data/0" else [(name, 0)])
    with pytest.raises(CheckpointError, match="two members of one name"):
        read_checkpoint(tmp_path / "d.pt")
    rewritten(tmp_path / "c.pt", tmp_path / "d.pt", lambda name: [(name, zipfile.ZIP_DEFLATED)])
    with pytest.raises(CheckpointError, match="compressed"):
        read_checkpoint(tmp_path / "d.pt")


def test_an_archive_that_claims_very_many_members_is_refused_before_they_are_read(tmp_path: Path) -> None:
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, 400_000_000, 0, 0)
    (tmp_path / "c.pt").write_bytes(b"PK\x03\x04" + bytes(1000) + end)
    with pytest.raises(CheckpointError, match="zip archive of 65535 members"):
        read_checkpoint(tmp_path / "c.pt")


def test_the_machine_counts_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpickling, "_MOST_OPCODES", 1000)
    assert Unpickler(most_bytes=10).load(io.BytesIO(b"\x80\x02" + b"N0" * 498 + b"N.")) is None
    with pytest.raises(Damaged, match="more than 1000 steps"):
        Unpickler(most_bytes=10).load(io.BytesIO(b"\x80\x02" + b"N0" * 499 + b"N."))
