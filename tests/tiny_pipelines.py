"""Tiny pipelines with random weights: Stable Diffusion in everything but size, and a class-conditional one.

The tokenizer has 518 entries: 256 symbols of bytes, their forms at the end of a word, four merges, two specials.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

NEEDS = "pip install 'unlearn-audit[stable-diffusion]'"
MERGES = [("n", "u"), ("d", "e</w>"), ("nu", "de</w>"), ("d", "o")]
SPECIALS = ("<|startoftext|>", "<|endoftext|>")


def symbols() -> list[str]:
    """Return a printable character for each byte, as byte-level encodings have them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(others))]


def vocabulary() -> dict[str, int]:
    singles = symbols()
    tokens = [*singles, *(f"{one}</w>" for one in singles), *("".join(pair) for pair in MERGES), *SPECIALS]
    return {token: number for number, token in enumerate(tokens)}


def stable_diffusion(seed: int = 0) -> Any:
    """Return diffusers' own StableDiffusionPipeline, 0.26 million weights in all; images are 16 x 16."""
    diffusers = pytest.importorskip("diffusers", reason=NEEDS)
    transformers = pytest.importorskip("transformers", reason=NEEDS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=518, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                max_position_embeddings=77, projection_dim=16, bos_token_id=516, eos_token_id=517, pad_token_id=517,
            )
        ).eval()  # fmt: skip
        unet = diffusers.UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), cross_attention_dim=16, attention_head_dim=4,
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), norm_num_groups=8,
        ).eval()  # fmt: skip
        vae = diffusers.AutoencoderKL(
            in_channels=3, out_channels=3, block_out_channels=(8, 16), latent_channels=4, norm_num_groups=8,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, sample_size=16,
        ).eval()  # fmt: skip
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=transformers.CLIPTokenizer(vocab=vocabulary(), merges=MERGES, model_max_length=77),
        unet=unet,
        scheduler=diffusers.PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True,
            set_alpha_to_one=False, steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_stable_diffusion(path: Path, seed: int = 0) -> Path:
    """Write such a pipeline as diffusers writes it."""
    stable_diffusion(seed).save_pretrained(path)
    return path
