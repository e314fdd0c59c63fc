"""A generator as a checkpoint: its folder read, written whole or not at all, describing itself."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Run
from made_up_pipelines import SCHEDULER, UNET, WEIGHTS, class_conditional, text_to_image

import unlearn_audit.checkpoints.pipelines as writing
from unlearn_audit.checkpoints import Metadata, check_checkpoint_output, read_checkpoint, write_checkpoint
from unlearn_audit.errors import CheckpointError, OutputError
from unlearn_audit.model_folder import sha256_of_checkpoint
from unlearn_audit.pipeline_folder import PipelineConfigs

NEW = PipelineConfigs(UNET, SCHEDULER)
TOLD = Metadata(model="small-unet", role="original", classes=10, data="digits")


def test_a_new_pipeline_is_written_and_read_back(tmp_path: Path) -> None:
    out = tmp_path / "original"
    digest = write_checkpoint(out, WEIGHTS, TOLD, beside=NEW, force=False)
    read = read_checkpoint(out)
    assert read.sha256 == digest == sha256_of_checkpoint(out)
    assert read.metadata == TOLD
    assert read.pipeline is not None
    assert read.pipeline.unet == UNET
    assert read.foreign_metadata == {"format": "pt"}
    assert all(torch.equal(read.state[name], tensor) for name, tensor in WEIGHTS.items())
    assert [entry.name for entry in tmp_path.iterdir()] == ["original"]


def test_equal_pipelines_are_equal_bytes(tmp_path: Path) -> None:
    digests = {write_checkpoint(tmp_path / f"{n}", WEIGHTS, TOLD, beside=NEW, force=False) for n in range(8)}
    assert len(digests) == 1


def test_another_pipelines_files_go_along_and_stay_as_they_are(tmp_path: Path) -> None:
    source = text_to_image(tmp_path / "sd")
    before = {file: file.read_bytes() for file in source.rglob("*") if file.is_file()}
    parent = read_checkpoint(source)
    assert parent.pipeline is not None
    changed = {name: tensor + 1 for name, tensor in parent.state.items()}
    write_checkpoint(tmp_path / "out", changed, TOLD, beside=parent.pipeline, force=False)
    read = read_checkpoint(tmp_path / "out")
    assert torch.equal(read.state["conv_in.bias"], torch.ones(2))
    assert {file: file.read_bytes() for file in source.rglob("*") if file.is_file()} == before
    theirs = {file.relative_to(source).as_posix() for file in before}
    assert {f.relative_to(tmp_path / "out").as_posix() for f in (tmp_path / "out").rglob("*") if f.is_file()} == theirs
    assert (tmp_path / "out/vae/config.json").samefile(source / "vae/config.json")
    shutil.rmtree(source)
    assert read_checkpoint(tmp_path / "out").sha256 == read.sha256


def test_without_hard_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    parent = read_checkpoint(class_conditional(tmp_path / "a"))
    assert parent.pipeline is not None
    monkeypatch.setattr(writing.os, "link", refuse)
    write_checkpoint(tmp_path / "b", parent.state, TOLD, beside=parent.pipeline, force=False)
    assert not (tmp_path / "b/unet/config.json").samefile(tmp_path / "a/unet/config.json")
    assert (tmp_path / "b/unet/config.json").read_bytes() == (tmp_path / "a/unet/config.json").read_bytes()


@pytest.mark.parametrize("ends", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_is_interrupted_leaves_the_old_folder_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: BaseException
) -> None:
    digest = write_checkpoint(tmp_path / "a", WEIGHTS, TOLD, beside=NEW, force=False)

    def end(*_: object) -> None:
        raise ends

    monkeypatch.setattr(writing, "_write_json", end)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        write_checkpoint(tmp_path / "a", WEIGHTS, TOLD, beside=NEW, force=True)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        write_checkpoint(tmp_path / "b", WEIGHTS, TOLD, beside=NEW, force=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
    assert sha256_of_checkpoint(tmp_path / "a") == digest


def test_a_folder_is_replaced_only_when_asked_and_only_a_pipelines(tmp_path: Path) -> None:
    out = tmp_path / "a"
    write_checkpoint(out, WEIGHTS, TOLD, beside=NEW, force=False)
    with pytest.raises(OutputError, match="--force"):
        check_checkpoint_output(out, generator=True, force=False)
    changed = TOLD.model_copy(update={"role": "retrained"})
    write_checkpoint(out, WEIGHTS, changed, beside=NEW, force=True)
    assert read_checkpoint(out).metadata == changed
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="holds thesis.tex"):
        check_checkpoint_output(out, generator=True, force=True)
    (out / "thesis.tex").unlink()
    (out / "unet" / "lora").mkdir()
    (out / "unet" / "lora" / "optimizer.bin").write_text("days of work")
    with pytest.raises(OutputError, match=r"holds unet/lora/optimizer\.bin"):
        write_checkpoint(out, WEIGHTS, TOLD, beside=NEW, force=True)
    assert (out / "unet" / "lora" / "optimizer.bin").read_text() == "days of work"
    with pytest.raises(OutputError, match="as a folder; name it"):
        check_checkpoint_output(tmp_path / "x.safetensors", generator=True, force=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        check_checkpoint_output(tmp_path / "file", generator=True, force=True)
    (tmp_path / "link").symlink_to(out)
    with pytest.raises(OutputError, match="is a link"):
        check_checkpoint_output(tmp_path / "link", generator=True, force=True)


def test_corrupt_weights_and_metadata_are_refused(tmp_path: Path) -> None:
    weights = class_conditional(tmp_path) / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match="damaged or not complete"):
        read_checkpoint(tmp_path)
    weights.write_bytes((1 << 40).to_bytes(8, "little") + whole[8:])
    with pytest.raises(CheckpointError, match="absurd header"):
        read_checkpoint(tmp_path)


def test_a_missing_folder_is_answered_without_a_request(tmp_path: Path) -> None:
    for name in ("CompVis/stable-diffusion-v1-4", "sd14", "runs/x/sd14"):
        with pytest.raises(CheckpointError, match=f"no pipeline folder at {name}, and nothing is downloaded: put a"):
            read_checkpoint(Path(name))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="or of a diffusers pipeline"):
        read_checkpoint(tmp_path / "empty")


def test_inspect_shows_components_and_schedule(tmp_path: Path, run: Run) -> None:
    write_checkpoint(tmp_path / "a", WEIGHTS, TOLD, beside=NEW, force=False)
    found = json.loads(run("inspect", str(tmp_path / "a"), "--format", "json").stdout)
    assert found["model"] == "small-unet (from metadata)"
    assert found["pipeline"] == {
        "scheduler": "DDPMScheduler",
        "unet": "UNet2DModel",
        "images": "1 x 8",
        "timesteps": 1000,
        "betas": "linear, 0.0001 to 0.02",
        "prediction": "epsilon",
        "null condition": "label 10",
    }
    table = run("inspect", str(text_to_image(tmp_path / "b")))
    assert table.code == 0, table.stderr
    assert "diffusers:UNet2DConditionModel" in table.stdout
    assert "the empty prompt" in table.stdout
    assert "safety_checker" in table.stdout
