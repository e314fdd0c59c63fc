"""Folders of diffusion pipelines without any library: configs as diffusers writes them, and made-up weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

UNET: Mapping[str, Any] = {
    "_class_name": "UNet2DModel", "_diffusers_version": "0.42.1", "sample_size": 8, "in_channels": 1,
    "out_channels": 1, "num_class_embeds": 11, "block_out_channels": [16, 32],
}  # fmt: skip
SCHEDULER: Mapping[str, Any] = {
    "_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 0.0001,
    "beta_end": 0.02, "prediction_type": "epsilon",
}  # fmt: skip
WEIGHTS = {"class_embedding.weight": torch.arange(22.0).reshape(11, 2), "conv_in.bias": torch.zeros(2)}
INDEX: Mapping[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "requires_safety_checker": True,
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "feature_extractor": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def class_conditional(path: Path, scheduler: Mapping[str, Any] = SCHEDULER, **unet: object) -> Path:
    """Write unet/ and scheduler/."""
    write(path / "unet" / "config.json", {**UNET, **unet})
    write(path / "scheduler" / "scheduler_config.json", scheduler)
    save_file(WEIGHTS, path / "unet" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    return path


def text_to_image(path: Path) -> Path:
    """Write all that Stable Diffusion's folder has, the safety checker included."""
    conditional = {"_class_name": "UNet2DConditionModel", "in_channels": 4, "out_channels": 4, "num_class_embeds": None}
    class_conditional(path, {**SCHEDULER, "_class_name": "PNDMScheduler"}, **conditional)
    write(path / "vae" / "config.json", {"_class_name": "AutoencoderKL"})
    save_file({"w": torch.ones(1)}, path / "vae" / "diffusion_pytorch_model.safetensors")
    write(path / "text_encoder" / "config.json", {"architectures": ["CLIPTextModel"], "eos_token_id": 49407})
    save_file({"w": torch.ones(1)}, path / "text_encoder" / "model.safetensors")
    write(path / "tokenizer" / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer"})
    write(path / "tokenizer" / "vocab.json", {"a": 0})
    (path / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    write(path / "safety_checker" / "config.json", {})
    write(path / "model_index.json", INDEX)
    return path
