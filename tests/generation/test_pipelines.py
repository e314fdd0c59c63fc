"""Pipelines: opened from folders without anything of theirs being imported, equal to diffusers' own."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import made_up_pipelines as made_up
import pytest
import tiny_pipelines as tiny
import torch
from conftest import Run
from safetensors.torch import load_file, save_file

from unlearn_audit.checkpoints import Metadata, read_checkpoint, write_checkpoint
from unlearn_audit.engine import setup_device
from unlearn_audit.errors import CheckpointError, MeasurementError, UsageError
from unlearn_audit.generation import pipelines
from unlearn_audit.generation.components import read_schedule, read_unet
from unlearn_audit.generation.pipelines import Pipeline, configs_of, open_pipeline
from unlearn_audit.models.denoisers import Denoiser, Noised, linear_schedule
from unlearn_audit.pipeline_folder import read_pipeline_folder

pytest.importorskip("diffusers", reason=tiny.NEEDS)
CPU = setup_device("cpu", "fp32")


def tiny_unet(**more: Any) -> Any:
    import diffusers

    return diffusers.UNet2DModel(
        in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, **{"num_class_embeds": 11, **more},
    )  # fmt: skip


def written(path: Path, **more: Any) -> Path:
    """Write a class-conditional pipeline of ours."""
    denoiser = Denoiser(tiny_unet(**more), linear_schedule(), null=10)
    told = Metadata(model="small-unet", classes=10)
    write_checkpoint(path, denoiser.state_dict(), told, beside=configs_of(denoiser, (8, 8)), force=False)
    return path


@pytest.fixture(scope="module")
def opened(stable_diffusion_folder: Path) -> Pipeline:
    return open_pipeline(read_checkpoint(stable_diffusion_folder))


# ----- class-conditional


def test_a_class_conditional_pipeline_comes_back_as_it_was_written(tmp_path: Path) -> None:
    denoiser = Denoiser(tiny_unet(), linear_schedule(), null=10).eval()
    told = Metadata(model="small-unet", classes=10)
    write_checkpoint(tmp_path / "a", denoiser.state_dict(), told, beside=configs_of(denoiser, (8, 8)), force=False)
    found = open_pipeline(read_checkpoint(tmp_path / "a"))
    assert (found.denoiser.null, found.denoiser.conditioning, found.notes) == (10, "class", ())
    assert torch.equal(found.denoiser.schedule.alphas_bar, linear_schedule().alphas_bar)
    assert (found.has_latents, found.shape(None), found.shape((16, 8))) == (False, (1, 8, 8), (1, 16, 8))
    asked = Noised(torch.ones(2, 1, 8, 8), torch.tensor([3, 900]), found.encode([3, 10], CPU))
    with torch.inference_mode():
        assert torch.equal(found.denoiser(asked), denoiser(asked))
    assert found.denoiser.state_dict().keys() == denoiser.state_dict().keys()


def test_diffusers_reads_what_is_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import diffusers

    folder = written(tmp_path / "a")
    unet = diffusers.UNet2DModel.from_pretrained(folder / "unet", use_safetensors=True, local_files_only=True)
    stored = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in unet.state_dict().items())
    assert diffusers.DDPMScheduler.from_pretrained(folder / "scheduler").config.beta_end == 0.02
    assert capfd.readouterr() == ("", "")


def test_the_null_row_follows_from_the_rows_and_the_classes(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(written(tmp_path / "a"))
    assert open_pipeline(checkpoint, classes=11).denoiser.null is None
    without = open_pipeline(read_checkpoint(written(tmp_path / "b", num_class_embeds=10)), classes=10)
    with pytest.raises(UsageError, match="10 is no class of this generator, which has 10"):
        without.encode([10], CPU)
    with pytest.raises(MeasurementError, match="11 label rows, the data has 7 classes: 8 rows"):
        open_pipeline(checkpoint, classes=7)
    with pytest.raises(UsageError, match="takes no prompts"):
        open_pipeline(checkpoint).encode(["a dog"], CPU)
    import diffusers

    foreign = tmp_path / "c"
    tiny_unet(sample_size=8).save_pretrained(foreign / "unet")
    diffusers.DDPMScheduler().save_pretrained(foreign / "scheduler")
    found = open_pipeline(read_checkpoint(foreign))
    assert found.denoiser.null == 10
    assert "assumed: the last of 11 label rows" in found.notes[0]
    tiny_unet(num_class_embeds=None).save_pretrained(foreign / "unet")
    with pytest.raises(CheckpointError, match="takes no condition"):
        open_pipeline(read_checkpoint(foreign))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    weights = written(tmp_path / "a") / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    del state["conv_in.bias"]
    save_file(state, weights)
    with pytest.raises(CheckpointError, match="missing: 'conv_in.bias'"):
        open_pipeline(read_checkpoint(tmp_path / "a"), classes=10)


def test_a_network_that_no_memory_holds_is_refused_before_it_is_made(tmp_path: Path) -> None:
    config = written(tmp_path / "a") / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "block_out_channels": [8, 80000]}))
    with pytest.raises(UsageError, match=r"would have [\d,]+ weights"):
        open_pipeline(read_checkpoint(tmp_path / "a"))


def test_no_memory_is_taken_for_weights_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = written(tmp_path / "a") / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "block_out_channels": [8, 5000]}))

    def taken(*_: object, **__: object) -> None:
        raise AssertionError("memory for a billion weights")

    monkeypatch.setattr(torch.nn.Module, "to_empty", taken)
    with pytest.raises(CheckpointError, match="do not fit"):
        open_pipeline(read_checkpoint(tmp_path / "a"))


def test_names_of_attention_in_old_files_are_read(tmp_path: Path) -> None:
    folder = read_pipeline_folder(written(tmp_path / "a"))
    state = read_checkpoint(tmp_path / "a").state
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in state.items():
        for new, former in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{former}.")
        renamed[name] = tensor
    assert renamed.keys() != state.keys()
    unet = read_unet(folder, renamed)
    assert all(torch.equal(tensor, state[name]) for name, tensor in unet.state_dict().items())


# ----- schedules


@pytest.mark.parametrize(
    "settings",
    [
        {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    ],
    ids=lambda each: next(iter(each.values())),
)
def test_the_schedule_is_that_of_the_scheduler(tmp_path: Path, settings: dict[str, Any]) -> None:
    import diffusers

    config = {"num_train_timesteps": 1000, **settings}
    folder = made_up.class_conditional(tmp_path, {**config, "_class_name": "DDPMScheduler"})
    found, theirs = read_schedule(read_pipeline_folder(folder)), diffusers.DDPMScheduler(**config)
    assert found.alphas_bar.dtype == torch.float64
    assert torch.allclose(found.alphas_bar.float(), theirs.alphas_cumprod, rtol=2e-5, atol=1e-9)
    assert found.prediction == config.get("prediction_type", "epsilon")


def test_betas_that_are_no_noise_are_refused(tmp_path: Path) -> None:
    folder = made_up.class_conditional(tmp_path, {**made_up.SCHEDULER, "trained_betas": [0.1, 0.2]})
    with pytest.raises(CheckpointError, match="make no schedule"):
        read_schedule(read_pipeline_folder(folder))


# ----- text to image


def test_prompts_are_embedded_as_the_pipeline_embeds_them_alone_or_together(opened: Pipeline) -> None:
    theirs = tiny.stable_diffusion()
    prompts = ["a nude dog", "", "DE do nu", "n " * 100]
    found = opened.encode(prompts, CPU)
    with torch.no_grad():
        wanted = torch.cat([theirs.encode_prompt(p, "cpu", 1, False)[0] for p in prompts])
    assert torch.equal(found, wanted)
    assert torch.equal(opened.encode(prompts[1:2], CPU), found[1:2])
    assert opened.conditions.cut == {prompts[3]}  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="takes prompts"):
        opened.encode([3], CPU)


def test_latents_are_the_scaled_mode_and_decode_as_the_autoencoder_does(opened: Pipeline) -> None:
    theirs = tiny.stable_diffusion()
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        wanted = theirs.vae.encode(images).latent_dist.mode() * 0.18215
        decoded = theirs.vae.decode(wanted / 0.18215).sample
    assert torch.equal(opened.to_latents(images), wanted)
    assert torch.equal(opened.decode(wanted), decoded)
    assert opened.shape(None) == (4, 8, 8)
    assert opened.shape((32, 16)) == (4, 16, 8)
    with pytest.raises(UsageError, match="multiples of 2"):
        opened.shape((15, 16))
    with pytest.raises(MeasurementError, match="have 3 channels"):
        opened.to_latents(images[:, :1])


def test_an_image_is_that_of_the_pipeline_bit_for_bit(opened: Pipeline) -> None:
    theirs = tiny.stable_diffusion()
    drawn = theirs("a nude dog", num_inference_steps=3, guidance_scale=7.5, output_type="pt",
                   generator=torch.Generator().manual_seed(5)).images  # fmt: skip
    x = torch.randn((1, *opened.shape(None)), generator=torch.Generator().manual_seed(5))
    scheduler = opened.scheduler()
    scheduler.set_timesteps(3)
    given = opened.encode(["", "a nude dog"], CPU)
    with torch.no_grad():
        for t in scheduler.timesteps:
            without, under = opened.denoiser(Noised(torch.cat([x, x]), t.expand(2), given)).chunk(2)
            x = scheduler.step(without + 7.5 * (under - without), t, x).prev_sample
    assert torch.equal((opened.decode(x) / 2 + 0.5).clamp(0, 1), drawn)


def test_a_copy_with_other_weights_shares_the_parts_that_stay(
    tmp_path: Path, stable_diffusion_folder: Path, opened: Pipeline
) -> None:
    parent = read_checkpoint(stable_diffusion_folder)
    state = {name: tensor * 2 for name, tensor in parent.state.items()}
    told = Metadata(model="diffusers:UNet2DConditionModel", role="unlearned")
    write_checkpoint(tmp_path / "u", state, told, beside=parent.pipeline, force=False)
    again = open_pipeline(read_checkpoint(stable_diffusion_folder))
    copy = open_pipeline(read_checkpoint(tmp_path / "u"))
    assert copy.vae is again.vae
    assert torch.equal(copy.denoiser.state_dict()["conv_in.bias"], 2 * opened.denoiser.state_dict()["conv_in.bias"])


def test_older_forms_of_tokenizer_and_text_encoder_give_the_same_embeddings(
    tmp_path: Path, stable_diffusion_folder: Path, opened: Pipeline
) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(stable_diffusion_folder, folder)
    (folder / "tokenizer" / "tokenizer.json").unlink()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(tiny.vocabulary()))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, tiny.MERGES)) + "\n")
    weights = folder / "text_encoder" / "model.safetensors"
    state = {name.removeprefix("text_model."): tensor for name, tensor in load_file(weights).items()}
    wanted = opened.encode(["a nude dog", ""], CPU)
    for head in ("text_model.", ""):
        named = {f"{head}{name}": tensor for name, tensor in state.items()}
        save_file({**named, f"{head}embeddings.position_ids": torch.arange(77)[None]}, weights)
        assert torch.equal(open_pipeline(read_checkpoint(folder)).encode(["a nude dog", ""], CPU), wanted)


def test_a_missing_package_answers_with_its_command(
    tmp_path: Path, stable_diffusion_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines, "_PARTS", {})
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"pip install 'unlearn-audit\[stable-diffusion\]'"):
        open_pipeline(read_checkpoint(stable_diffusion_folder))
    monkeypatch.setitem(sys.modules, "diffusers", None)
    folder = written_without_library(tmp_path)
    with pytest.raises(UsageError, match=r"pip install 'unlearn-audit\[diffusion\]'"):
        open_pipeline(read_checkpoint(folder), classes=10)


def written_without_library(path: Path) -> Path:
    return made_up.class_conditional(path / "made-up")


def test_a_folder_that_stands_there_is_trained_again_by_force(here: Path, run: Run) -> None:
    train = ("train", "--data", "digits?train=32", "--model", "tiny-unet", "--epochs", "1", "--out", "a/")
    assert run(*train).code == 0
    assert run(*train).code == 2
    before = read_checkpoint(here / "a")
    again = run(*train, "--seed", "1", "--force")
    assert again.code == 0, again.stderr
    assert read_checkpoint(here / "a").sha256 != before.sha256
    assert [entry.name for entry in here.iterdir()] == ["a"]
