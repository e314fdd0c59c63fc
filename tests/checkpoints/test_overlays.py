"""Overlays: some of a U-Net's weights over the pipeline that they belong to, and over no other."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from conftest import Run
from made_up_pipelines import WEIGHTS, class_conditional
from safetensors.torch import save_file

from unlearn_audit.checkpoints import read_checkpoint, read_overlay
from unlearn_audit.config import AuditConfig
from unlearn_audit.errors import CheckpointError
from unlearn_audit.inputs import read_entry

CHANGED = {"conv_in.bias": torch.ones(2)}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return class_conditional(tmp_path / "base")


def overlay(base: Path, tensors: dict[str, torch.Tensor], name: str = "esd.safetensors") -> Path:
    save_file(tensors, base.parent / name)
    return base.parent / name


def test_some_weights_are_put_over_the_bases(base: Path) -> None:
    file = overlay(base, CHANGED)
    read, under = read_overlay(file, base), read_checkpoint(base)
    assert torch.equal(read.state["conv_in.bias"], torch.ones(2))
    assert torch.equal(read.state["class_embedding.weight"], WEIGHTS["class_embedding.weight"])
    assert read.pipeline == under.pipeline
    parts = [under.sha256, hashlib.sha256(file.read_bytes()).hexdigest()]
    assert read.sha256 == hashlib.sha256("".join(parts).encode()).hexdigest()
    assert all(part[:12] in read.notes[0] for part in parts)
    assert read.notes[0].startswith("1 of 2 tensors of the U-Net")


def test_names_may_stand_after_unet_in_a_torch_file_too(base: Path) -> None:
    torch.save({f"unet.{name}": tensor for name, tensor in CHANGED.items()}, base.parent / "esd.pt")
    assert torch.equal(read_overlay(base.parent / "esd.pt", base).state["conv_in.bias"], torch.ones(2))


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"conv_in.weight": torch.ones(2)}, "is not of .*whose U-Net has no 'conv_in.weight'"),
        ({**CHANGED, "unet.conv_in.bias": torch.ones(2)}, "has no 'unet.conv_in.bias'"),
        ({"conv_in.bias": torch.ones(3)}, r"'conv_in.bias' is \[3\], there \[2\]"),
        ({"conv_in.bias": torch.zeros(2)}, "changes nothing"),
        ({"model.diffusion_model.input_blocks.0.0.bias": torch.ones(2)}, "convert it first"),
    ],
)
def test_weights_of_another_base_are_refused(base: Path, tensors: dict[str, torch.Tensor], match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        read_overlay(overlay(base, tensors), base)


def test_a_base_is_a_pipeline_and_an_overlay_none(base: Path) -> None:
    file = overlay(base, CHANGED)
    with pytest.raises(CheckpointError, match="leave out --base"):
        read_overlay(base, base)
    with pytest.raises(CheckpointError, match="--base needs one"):
        read_overlay(file, file)


def test_one_base_is_for_all_files_and_no_folder(base: Path) -> None:
    file = overlay(base, CHANGED)
    config = AuditConfig.model_validate({"checkpoint": [{"path": str(base)}, {"path": str(file)}], "base": str(base)})
    whole, over = (read_entry(config, entry) for entry in config.checkpoint)
    assert whole.sha256 == read_checkpoint(base).sha256 != over.sha256
    without = AuditConfig.model_validate({"checkpoint": [{"path": str(file)}]})
    assert read_entry(without, without.checkpoint[0]).pipeline is None
    of_unet = overlay(base, {"down_blocks.0.resnets.0.conv1.bias": torch.ones(2)}, "other.safetensors")
    named = AuditConfig.model_validate({"checkpoint": [{"path": str(of_unet)}]})
    with pytest.raises(CheckpointError, match="name it with --base FOLDER"):
        read_entry(named, named.checkpoint[0])


def test_inspect_shows_what_an_overlay_changes(base: Path, run: Run) -> None:
    done = run("inspect", str(overlay(base, CHANGED)), "--base", str(base), "--format", "json")
    found = json.loads(done.stdout)
    assert found["format"] == "overlay (safetensors) on a pipeline folder, safetensors"
    assert found["pipeline"]["unet"] == "UNet2DModel"
    assert found["sha256"] == read_overlay(overlay(base, CHANGED), base).sha256


def test_paths_of_bases_in_a_config_start_at_its_folder(base: Path) -> None:
    from unlearn_audit.config import file_layer, resolve

    text = 'base = "base"\n[[checkpoint]]\npath = "esd.safetensors"\nbase = "base"\n'
    (base.parent / "a.toml").write_text(text)
    config = resolve([file_layer(base.parent / "a.toml", origin="config")]).config
    assert config.base == config.checkpoint[0].base == str(base)
