"""Whoever follows a refusal's way out literally has a file that is read: each situation is tried as printed."""

import bz2
import gzip
import json
import lzma
import pickle
import re
import shlex
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unlearn_audit.checkpoints import read_checkpoint
from unlearn_audit.errors import CheckpointError

LIMIT = 600  # seconds; for hangs


def network() -> nn.Module:
    """Return a model with all that save_file refuses: tied weights, other memory layouts, views."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[2].weight = model[1].weight
    return model.to(memory_format=torch.channels_last)


def weights() -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network().state_dict().items()}


def jitted(path: Path) -> None:
    torch.jit.save(torch.jit.trace(network().eval()[1], torch.ones(1, 4)), path)


def compressed(path: Path) -> None:
    torch.save({"state_dict": weights()}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def numpy_archive(path: Path) -> None:
    with path.open("wb") as stream:
        np.savez(stream, **{name: tensor.numpy() for name, tensor in weights().items()})


def pickled(content: object) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(pickle.dumps(content, 4)) and None


def saved(content: object, **options: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path, **options)


def arrays() -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in weights().items()}


# what is written, and what the message says
COMMANDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "whole": (saved(network()), "it is a whole pickled model"),
    "whole legacy": (saved(network(), _use_new_zipfile_serialization=False), "it is a whole pickled model"),
    "whole under a key": (saved({"epoch": 1, "model": network()}), "under 'model', it is a whole pickled model"),
    "whole under two": (saved({"ckpt": {"net": network()}}), "under 'ckpt.net', it is a whole pickled model"),
    "numbers among weights": (saved({**weights(), "epoch": 3}), "not tensors: 'epoch' (int)"),
    "numbers under a key": (
        saved({"state_dict": {**weights(), "lr": 0.1}}), "under 'state_dict', holds values that are not tensors: 'lr'",
    ),
    "arrays": (saved(arrays()), "whose weights are NumPy arrays"),
    "arrays under a key": (saved({"epoch": 1, "model": arrays()}), "whose weights are NumPy arrays"),
    "sparse": (saved({"w": torch.eye(3).to_sparse()}), "'w' is sparse"),
    "sparse under a key": (saved({"model": {"w": torch.eye(3).to_sparse()}}), "'w' is sparse"),
    "compressed": (compressed, "is compressed"),
    "numpy archive": (numpy_archive, "npz archive"),
    "pickled tensors": (pickled(weights()), "torch.save did not write"),
    "pickled arrays": (pickled(arrays()), "torch.save did not write"),
    "torchscript": (jitted, "TorchScript"),
}  # fmt: skip

RUN_ALL = """
import json, sys, traceback
for name, code in json.load(open(sys.argv[1])).items():
    try:
        exec(code, {})
    except Exception:
        sys.exit(f"{name}: {traceback.format_exc()}")
"""


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    return str(caught.value)


def code_in(message: str) -> str:
    """Return the program of the command in a message, as a shell would hand it over."""
    found = re.search(r"python -c ('(?:[^']|'\"'\"')*')", message)
    assert found, message
    return shlex.split(found[1])[0]


@pytest.mark.filterwarnings("ignore")  # of torch, about its own older formats
def test_every_command_can_be_run_as_it_stands(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s a "folder" of $HOME'
    codes = {}
    for number, (name, (write, said)) in enumerate(COMMANDS.items()):
        place = folder / str(number)
        place.mkdir(parents=True)
        write(place / "c.pt")
        message = refusal(place / "c.pt")
        assert said in message, name
        codes[name] = code_in(message)
    (tmp_path / "codes.json").write_text(json.dumps(codes))
    subprocess.run([sys.executable, "-c", RUN_ALL, str(tmp_path / "codes.json")], check=True, timeout=LIMIT)
    for number, name in enumerate(COMMANDS):
        (made,) = (path for path in (folder / str(number)).iterdir() if path.name != "c.pt")
        read = read_checkpoint(made).state
        if "sparse" in name:
            assert torch.equal(read["w"], torch.eye(3))
        else:
            assert all(
                torch.equal(tensor, weights()[key if "." in key else "1.weight"]) for key, tensor in read.items()
            )
            assert set(read) == ({"weight"} if name == "torchscript" else set(weights()))


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_packed_files_are_unpacked_by_the_command(ending: str, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "c.pt")
    packed = tmp_path / f"c d.pt.{ending}"
    packed.write_bytes(pack((tmp_path / "c.pt").read_bytes()))
    command = refusal(packed).partition("unpack it first: ")[2]
    subprocess.run(["sh", "-c", command], check=True, timeout=LIMIT)
    assert read_checkpoint(tmp_path / "c d.pt.unpacked").state.keys() == weights().keys()


def test_an_archive_of_many_files_is_unpacked_by_the_command(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "c.pt")
    with tarfile.open(tmp_path / "c.tar", "w") as archive:
        archive.add(tmp_path / "c.pt", "inside.pt")
    found = re.search(r"unpack it first \((tar -xf .*)\) and name the checkpoint inside", refusal(tmp_path / "c.tar"))
    assert found
    subprocess.run(["sh", "-c", found[1]], check=True, timeout=LIMIT, cwd=tmp_path)
    assert read_checkpoint(tmp_path / "inside.pt").state.keys() == weights().keys()


def test_a_model_of_a_script_is_saved_in_that_script(tmp_path: Path) -> None:
    script = "import torch\nclass Net(torch.nn.Linear): pass\n"
    save = "import sys; torch.save({'net': Net(2, 2)}, sys.argv[1])\n"
    subprocess.run([sys.executable, "-c", script + save, str(tmp_path / "c.pt")], check=True, timeout=LIMIT)
    message = refusal(tmp_path / "c.pt")
    assert "__main__.Net" in message
    code = message.partition("at the end of the script that defines its classes, run ")[2]
    subprocess.run([sys.executable, "-c", script + code], check=True, timeout=LIMIT)
    assert set(read_checkpoint(tmp_path / "c.safetensors").state) == {"weight", "bias"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_exported_program_is_converted_by_the_command(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(2, 3), (torch.ones(1, 2),)), tmp_path / "c.pt2")
    message = refusal(tmp_path / "c.pt2")
    assert "made by torch.export" in message
    exec(code_in(message), {})
    assert set(read_checkpoint(tmp_path / "c.safetensors").state) == {"weight", "bias"}


@pytest.mark.filterwarnings("ignore")  # quantised tensors are deprecated in newer versions of torch
@pytest.mark.parametrize("packed", [True, False])
def test_a_quantised_model_leads_to_the_one_it_was_made_from(
    packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)
    content = {"fc._packed_params._packed_params": (weight, None), "fc.scale": torch.tensor(1.0)}
    torch.save(content if packed else {"fc.weight": weight}, tmp_path / "c.pt")
    message = refusal(tmp_path / "c.pt")
    assert "quantised" in message
    assert ("'fc._packed_params._packed_params'" in message) is packed
    monkeypatch.chdir(tmp_path)
    exec(message.partition("before it is converted, run ")[2], {"model": network()})
    assert all(
        torch.equal(t, weights()[key]) for key, t in read_checkpoint(tmp_path / "model.safetensors").state.items()
    )


def test_a_key_in_a_message_can_be_asked_for(tmp_path: Path) -> None:
    torch.save({"model": weights(), "ema": {name: t + 1 for name, t in weights().items()}}, tmp_path / "c.pt")
    keys = re.findall(r"'(\w+)' \(", refusal(tmp_path / "c.pt"))
    assert keys == ["model", "ema"]
    assert all(read_checkpoint(tmp_path / "c.pt", weights=key).weights == key for key in keys)


class TrainingArguments:
    """As trainers save beside the weights."""


def test_files_without_weights_lead_to_those_beside_them(tmp_path: Path) -> None:
    torch.save(TrainingArguments(), tmp_path / "training_args.bin")
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1, momentum=0.9)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    for name, said in (("training_args.bin", "TrainingArguments and no weights"), ("optimizer.pt", "of an optimizer")):
        message = refusal(tmp_path / name)
        assert said in message
        assert message.endswith("name the file of the weights")
    save_file({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    for name in ("training_args.bin", "optimizer.pt"):
        named = refusal(tmp_path / name).partition("the weights may be in ")[2]
        assert read_checkpoint(Path(named)).state.keys() == {"w"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "copy the weights layer by layer"),
        (b"GGUF" + bytes(50), "name the model in floating point"),
    ],
)
def test_what_no_command_converts_says_so(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "c.h5").write_bytes(content)
    message = refusal(tmp_path / "c.h5")
    assert said in message
    assert "python -c" not in message


def test_a_way_out_writes_over_nothing(tmp_path: Path) -> None:
    (tmp_path / "c.safetensors").write_bytes(b"mine")
    torch.save({**weights(), "epoch": 3}, tmp_path / "c.pt")
    assert "c-2.safetensors" in code_in(refusal(tmp_path / "c.pt"))
