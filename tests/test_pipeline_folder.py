"""The folder of a diffusion pipeline: what is read of it, what is refused without being imported, its digest."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import made_up_pipelines as made_up
import pytest
from made_up_pipelines import INDEX, class_conditional, text_to_image, write

from unlearn_audit.errors import CheckpointError
from unlearn_audit.model_folder import sha256_of_checkpoint
from unlearn_audit.pipeline_folder import (
    LARGEST,
    beside_weights,
    is_pipeline_folder,
    read_pipeline_folder,
    stranger_in,
)


def refused(path: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        read_pipeline_folder(path)
    assert "\n" not in str(caught.value)


# ----- what is read


def test_a_class_conditional_folder_needs_no_more_than_unet_and_scheduler(tmp_path: Path) -> None:
    assert not is_pipeline_folder(tmp_path)
    found = read_pipeline_folder(class_conditional(tmp_path))
    assert is_pipeline_folder(tmp_path)
    assert found.components == {"scheduler": "DDPMScheduler", "unet": "UNet2DModel"}
    assert (found.spec, found.class_rows, found.is_text_to_image) == ("diffusers:UNet2DModel", 11, False)
    assert found.scheduler["prediction_type"] == "epsilon"


def test_text_to_image_is_read_with_its_parts_and_its_safety_checker_is_never_run(tmp_path: Path) -> None:
    found = read_pipeline_folder(text_to_image(tmp_path))
    assert found.is_text_to_image
    assert found.components == {
        "scheduler": "PNDMScheduler",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
    }
    assert found.passed_over == ("safety_checker",)
    kept = {file.relative_to(tmp_path).as_posix() for file in beside_weights(found)}
    assert {"model_index.json", "vae/config.json", "safety_checker/config.json"} <= kept
    assert "unet/diffusion_pytorch_model.safetensors" not in kept


def test_the_digest_is_over_the_digests_of_the_files_in_name_order(tmp_path: Path) -> None:
    found = read_pipeline_folder(text_to_image(tmp_path))
    names = [file.relative_to(tmp_path).as_posix() for file in found.read]
    assert names == sorted(names)
    parts = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in names]
    before = sha256_of_checkpoint(tmp_path)
    assert before == hashlib.sha256("".join(parts).encode()).hexdigest()
    (tmp_path / "unet" / "README.md").write_text("of no account")
    assert sha256_of_checkpoint(tmp_path) == before
    (tmp_path / "tokenizer" / "merges.txt").write_text("#version: 0.2\na b\n")
    assert sha256_of_checkpoint(tmp_path) != before


def test_folders_of_the_hubs_own_cache_consist_of_links_and_are_read(tmp_path: Path) -> None:
    (blobs := tmp_path / "models--a--b" / "blobs").mkdir(parents=True)
    snapshot = class_conditional(tmp_path / "models--a--b" / "snapshots" / "0f")
    for file in [each for each in snapshot.rglob("*") if each.is_file()]:
        file.rename(blobs / file.name)
        file.symlink_to(blobs / file.name)
    assert read_pipeline_folder(snapshot).class_rows == 11


# ----- what is refused, and nothing of it imported


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("unet", ["os", "system"]),
        ("unet", ["my_module", "UNet2DModel"]),
        ("scheduler", ["diffusers", "os.system"]),
        ("vae", ["diffusers", "AutoencoderKL", "more"]),
        ("tokenizer", "CLIPTokenizer"),
        ("text_encoder_2", ["transformers", "CLIPTextModel"]),
        ("_class_name", ["pipeline", "MyPipeline"]),
    ],
)
def test_an_index_that_names_anything_else_is_refused_without_an_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    text_to_image(tmp_path)
    for module in ("my_module", "pipeline"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('this must not run')")
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path / "model_index.json", {**INDEX, name: value})
    before = set(sys.modules)
    if value == "CLIPTokenizer":  # a text names nothing: the component's own config counts
        assert read_pipeline_folder(tmp_path).components["tokenizer"] == "CLIPTokenizer"
    else:
        refused(tmp_path, "refused: .*model_index.json")
    assert not (set(sys.modules) - before) & {"my_module", "pipeline"}


@pytest.mark.parametrize("file", ["unet/config.json", "text_encoder/config.json", "tokenizer/tokenizer_config.json"])
def test_code_that_a_component_brings_along_is_refused(tmp_path: Path, file: str) -> None:
    text_to_image(tmp_path)
    write(tmp_path / file, {**json.loads((tmp_path / file).read_text()), "auto_map": {"AutoModel": "evil.Model"}})
    refused(tmp_path, "code of its own")


def test_a_component_of_another_class_than_the_index_says_is_refused(tmp_path: Path) -> None:
    text_to_image(tmp_path)
    write(tmp_path / "model_index.json", {**INDEX, "unet": ["diffusers", "UNet2DModel"]})
    refused(tmp_path, "not of one model")
    write(tmp_path / "unet" / "config.json", {**made_up.UNET, "_class_name": "Kandinsky3UNet"})
    refused(tmp_path, "not on the list")


@pytest.mark.parametrize("component", ["unet", "vae"])
def test_weights_in_a_pickle_alone_are_refused_with_the_way_out(tmp_path: Path, component: str) -> None:
    text_to_image(tmp_path)
    weights = tmp_path / component / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    refused(tmp_path, "in a pickle alone .*weights_only=True")


def test_other_forms_of_weights_are_named(tmp_path: Path) -> None:
    weights = class_conditional(tmp_path) / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    refused(tmp_path, "variant diffusion_pytorch_model.fp16.safetensors")
    write(weights.with_name(f"{weights.name}.index.json"), {"weight_map": {"a": "../../x.safetensors"}})
    refused(tmp_path, "in shards")


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    (secret := tmp_path / "secret").write_text("#version: 0.2\n")
    folder = text_to_image(tmp_path / "folder")
    (folder / "tokenizer" / "merges.txt").unlink()
    (folder / "tokenizer" / "merges.txt").symlink_to(secret)
    refused(folder, "link out of the folder")
    (folder / "tokenizer" / "merges.txt").unlink()
    assert read_pipeline_folder(folder)
    (folder / "vae").rename(tmp_path / "vae")
    (folder / "vae").symlink_to(tmp_path / "vae")
    refused(folder, "link out of the folder")


def test_json_that_is_huge_or_damaged_or_asks_for_a_giant_is_refused(tmp_path: Path) -> None:
    config = class_conditional(tmp_path) / "unet" / "config.json"
    good = config.read_text()
    for text, match in (
        ("{", "cannot read"),
        ('{"a": NaN}', "cannot read"),
        ("[1]", "cannot read"),
        (" " * (LARGEST + 1), "is larger than"),
        (good.replace("[16, 32]", "[16, 99999999]"), "at most 1000000"),
        (good.replace("[16, 32]", f"[{'1,' * 2000}1]"), "at most 1000000"),
        (good.replace('"out_channels": 1', '"out_channels": 2'), "1 channels in and 2 out"),
        (good.replace('"sample_size"', '"layers_per_block": 1000000, "sample_size"'), r"about 2e\+06 layers; at most"),
        (good.replace('"sample_size"', '"layers_per_block": [30, 600], "sample_size"'), "about 1200 layers"),
        (good.replace('"sample_size"', '"layers_per_block": 99, "depth": [[9]], "sample_size"'), "about 1782 layers"),
        (good.replace("[16, 32]", str([16] * 1000)).replace('"sample_size"', '"layers_per_block": 2, "x"'), "layers"),
        (good.replace('"in_channels": 1, "out_channels": 1', '"in_channels": "1", "out_channels": "1"'), "in_channels"),
        (good.replace('"in_channels": 1, "out_channels": 1', '"norm_eps": 1'), "'in_channels' is null"),
        *(
            (good.replace('"sample_size": 8', f'"sample_size": {size}'), "'sample_size' is .* from 1 to 8192")
            for size in ("1000000", "0", "true", "8.0", '"8"', '["a", "b"]', "[8, 8, 8]", "[8, 9000]", "[]")
        ),
        (good.replace('"sample_size"', '"class_embed_type": "timestep", "sample_size"'), "needs more than"),
    ):
        config.write_text(text)
        refused(tmp_path, match)


def test_a_text_encoder_of_too_many_layers_is_refused(tmp_path: Path) -> None:
    config = text_to_image(tmp_path) / "text_encoder" / "config.json"
    write(config, {**json.loads(config.read_text()), "num_hidden_layers": 1_000_000})
    refused(tmp_path, r"text_encoder/config.json: it describes about 1e\+06 layers")


def test_the_depth_of_what_is_published_is_read(tmp_path: Path) -> None:
    deep = {"block_out_channels": [320] * 4, "layers_per_block": 2, "transformer_layers_per_block": [1, 2, 10, 10]}
    class_conditional(tmp_path, **deep, reverse_transformer_layers_per_block=[10, 10, 2, 1])
    assert read_pipeline_folder(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_train_timesteps", 0),
        ("num_train_timesteps", True),
        ("prediction_type", "flow"),
        ("beta_start", "a"),
        ("beta_start", -1),
        ("beta_start", None),
        ("beta_end", 1.5),
        ("beta_end", True),
        ("beta_end", [0.1]),
        ("trained_betas", ["a"]),
        ("trained_betas", [0.1, 0.0]),
        ("trained_betas", 0.1),
    ],
)
def test_a_schedule_that_is_not_understood_is_refused(tmp_path: Path, key: str, value: object) -> None:
    class_conditional(tmp_path, {**made_up.SCHEDULER, key: value})
    refused(tmp_path, f"scheduler_config.json: '{key}' is")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    text_to_image(tmp_path)
    (tmp_path / "tokenizer" / "vocab.json").unlink()
    refused(tmp_path, "no vocabulary")
    (tmp_path / "vae" / "config.json").unlink()
    refused(tmp_path, "not found: .*vae/config.json")
    (tmp_path / "scheduler" / "scheduler_config.json").unlink()
    (tmp_path / "scheduler").rmdir()
    refused(tmp_path, "has no scheduler/")


def test_strangers_in_a_folder_are_seen(tmp_path: Path) -> None:
    text_to_image(tmp_path)
    assert stranger_in(tmp_path) is None
    (tmp_path / "thesis.tex").write_text("")
    assert stranger_in(tmp_path) == "thesis.tex"


@pytest.mark.parametrize(
    "name",
    [
        "unet/lora/optimizer.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "vae/thesis.tex",
        "safety_checker/model.fp16.safetensors",
    ],
)
def test_strangers_beside_the_files_of_a_component_are_seen(tmp_path: Path, name: str) -> None:
    folder = text_to_image(tmp_path / "folder")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("mine")
    assert stranger_in(folder) == name
    assert folder / name not in beside_weights(read_pipeline_folder(folder))


def test_a_linked_component_is_a_stranger(tmp_path: Path) -> None:
    folder = text_to_image(tmp_path / "folder")
    (folder / "vae").rename(tmp_path / "vae")
    (folder / "vae").symlink_to(tmp_path / "vae")
    assert stranger_in(folder) == "vae"
