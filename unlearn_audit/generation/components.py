"""The parts of a diffusion pipeline, built from their settings by classes of a list and filled from safetensors.

Neither diffusers nor transformers reads the folder: each class is handed settings that were checked, and the weights.
"""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unlearn_audit.checkpoints import read_checkpoint
from unlearn_audit.errors import CheckpointError, UsageError
from unlearn_audit.files import read_input
from unlearn_audit.models import check_fits, load_state
from unlearn_audit.models.denoisers import Schedule, library
from unlearn_audit.models.hugging_face import offline_transformers
from unlearn_audit.pipeline_folder import (
    CONFIG,
    LARGEST,
    SCHEDULER,
    TEXT_ENCODER,
    TOKENIZER,
    UNET,
    VAE,
    PipelineFolder,
    read_json,
)
from unlearn_audit.user_code import raised

MOST_WEIGHTS = 4_000_000_000
INSTALL = "a text-to-image pipeline needs transformers: pip install 'unlearn-audit[stable-diffusion]'"
# How parts of attention were called before diffusers 0.15, and are in files from then.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
NOT_IN_TEXT = {  # settings that choose code, or what is handed out beside the embedding
    "architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "attn_implementation", "auto_map",
    "output_attentions", "output_hidden_states", "return_dict", "torchscript", "use_return_dict", "quantization_config",
}  # fmt: skip
HEAD = "text_model."
Renamed = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor]]
TOKENS = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}


def read_unet(folder: PipelineFolder, state: Mapping[str, Tensor]) -> nn.Module:
    """Return a folder's U-Net.

    Args:
        folder: what was read of it.
        state: the U-Net's weights, as its file or a checkpoint has them.

    Raises:
        UsageError: diffusers is not installed, or cannot build it.
        CheckpointError: the weights do not fit.
    """
    where = folder.path / UNET
    return _network(lambda: _built(folder.components[UNET], folder.unet, where / CONFIG), state, where, _of_diffusers)


def read_vae(folder: PipelineFolder) -> nn.Module:
    """Return a folder's autoencoder, in evaluation mode.

    Raises:
        UsageError: diffusers is not installed, or cannot build it.
        CheckpointError: the weights do not fit, or latents are scaled in a way that is not done here.
    """
    where = folder.path / VAE
    config = read_json(where / CONFIG)
    if config.get("latents_mean") or config.get("latents_std"):
        raise CheckpointError(f"{where / CONFIG}: latents that are scaled for each channel are not read here")
    state = _weights(folder, VAE)
    made = _network(lambda: _built("AutoencoderKL", config, where / CONFIG), state, where, _of_diffusers)
    return made.requires_grad_(False).eval()


def read_scheduler(folder: PipelineFolder) -> Any:
    """Return a folder's own sampler, fresh.

    Raises:
        UsageError: diffusers is not installed, or cannot build it.
    """
    where = folder.path / SCHEDULER
    return _built(folder.components[SCHEDULER], folder.scheduler, where)


def read_schedule(folder: PipelineFolder) -> Schedule:
    """Return how much noise stands in x_t, and what the network predicts of it.

    Raises:
        UsageError: diffusers is not installed, or does not know this schedule.
        CheckpointError: it is no schedule of noise.
    """
    config = folder.scheduler
    total, kind = config.get("num_train_timesteps", 1000), config.get("beta_schedule", "linear")
    first, last = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    wide = torch.float64
    if config.get("trained_betas"):
        betas = torch.tensor(config["trained_betas"], dtype=wide)
    elif kind == "linear":
        betas = torch.linspace(first, last, total, dtype=wide)
    elif kind == "scaled_linear":
        betas = torch.linspace(first**0.5, last**0.5, total, dtype=wide) ** 2
    else:
        betas = None
    if betas is None or config.get("rescale_betas_zero_snr"):
        alphas_bar = read_scheduler(folder).alphas_cumprod.double().cpu()
    else:
        alphas_bar = (1 - betas).cumprod(dim=0)
    falls = bool((alphas_bar[1:] <= alphas_bar[:-1]).all()) and 0 <= float(alphas_bar[-1]) <= float(alphas_bar[0]) <= 1
    if len(alphas_bar) != total or not falls:
        raise CheckpointError(
            f"{folder.path / SCHEDULER}: its betas make no schedule of {total} steps of growing noise"
        )
    return Schedule(alphas_bar, config.get("prediction_type", "epsilon"))


def read_text_encoder(folder: PipelineFolder) -> nn.Module:
    """Return a folder's text encoder, in evaluation mode.

    Raises:
        UsageError: transformers is not installed, or cannot build it.
        CheckpointError: the weights do not fit.
    """
    where = folder.path / TEXT_ENCODER
    transformers = offline_transformers(INSTALL)
    settings = {key: value for key, value in read_json(where / CONFIG).items() if key not in NOT_IN_TEXT}
    known = set(inspect.signature(transformers.CLIPTextConfig.__init__).parameters)
    try:
        config = transformers.CLIPTextConfig(
            **{key: value for key, value in settings.items() if key in known}, attn_implementation="sdpa"
        )
    except Exception as problem:
        raise UsageError(f"{where} cannot be built: {raised(problem)}") from problem
    made = _network(lambda: transformers.CLIPTextModel(config), _weights(folder, TEXT_ENCODER), where, _of_text)
    return made.requires_grad_(False).eval()


def read_tokenizer(folder: PipelineFolder) -> Any:
    """Return a folder's tokenizer, made of its vocabulary and its merges.

    Raises:
        UsageError: transformers is not installed, or cannot build it.
        CheckpointError: the vocabulary cannot be read.
    """
    where = folder.path / TOKENIZER
    transformers = offline_transformers(INSTALL)
    vocabulary, merges = _vocabulary(where)
    told = read_json(where / "tokenizer_config.json") if (where / "tokenizer_config.json").exists() else {}
    if (where / "special_tokens_map.json").exists():
        told = {**read_json(where / "special_tokens_map.json"), **told}
    tokens = {name: _content(told.get(name), usual) for name, usual in TOKENS.items()}
    tokens["pad_token"] = _content(told.get("pad_token"), tokens["eos_token"])
    length = told.get("model_max_length", 77)
    missing = sorted({token for token in tokens.values() if token not in vocabulary})
    if missing:
        raise CheckpointError(f"{where}: its vocabulary lacks {', '.join(missing)[:80]}")
    try:
        return transformers.CLIPTokenizer(
            vocab=vocabulary, merges=merges, **tokens, model_max_length=length if isinstance(length, int) else 77
        )
    except Exception as problem:
        raise UsageError(f"{where} cannot be built: {raised(problem)}") from problem


def _vocabulary(where: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the tokens by name and the merges in their order, from either form that they are stored in."""
    try:
        if (where / "vocab.json").exists():
            vocabulary = read_json(where / "vocab.json")
            lines = read_input(where / "merges.txt", "merges", CheckpointError, most=LARGEST).decode().splitlines()
            pairs = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
        else:
            model = read_json(where / "tokenizer.json")["model"]
            vocabulary = model["vocab"]
            pairs = [tuple(pair.split() if isinstance(pair, str) else pair) for pair in model["merges"]]
        if not all(isinstance(name, str) and type(number) is int for name, number in vocabulary.items()):
            raise TypeError("a token without a number")
        merges = [(first, second) for first, second in pairs]
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise CheckpointError(f"cannot read the vocabulary in {where}: {raised(problem)}") from problem
    return vocabulary, merges


def _content(value: object, usual: str) -> str:
    """Return a special token, which is stored as text or with how it is stripped."""
    found = value.get("content") if isinstance(value, Mapping) else value
    return found if isinstance(found, str) else usual


def _built(kind: str, config: Mapping[str, Any], where: Path) -> Any:
    """Return an object of one of diffusers' classes, from settings that it knows."""
    made = getattr(library(), kind)
    known = set(inspect.signature(made.__init__).parameters) - {"self", "kwargs"}
    settings = {key: tuple(value) if isinstance(value, list) and key != "trained_betas" else value
                for key, value in config.items() if key in known}  # fmt: skip
    try:
        return made(**settings)
    except Exception as problem:
        raise UsageError(f"{where} cannot be built: {raised(problem)}") from problem


def _network(make: Callable[[], nn.Module], state: Mapping[str, Tensor], where: Path, renamed: Renamed) -> nn.Module:
    """Return a network with its weights, for which memory is taken only once they are known to fit.

    Args:
        make: the network from its settings.
        state: of its file.
        where: its folder, for messages.
        renamed: turns the names of a file's weights into those of a state dict.

    Raises:
        UsageError: it cannot be built, or has more weights than any memory holds.
        CheckpointError: names or shapes of the weights are not its own.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            blank = make()
    except UsageError:
        raise
    except Exception as problem:
        raise UsageError(f"{where / CONFIG} cannot be built: {raised(problem)}") from problem
    count = sum(weights.numel() for weights in blank.parameters())
    if count > MOST_WEIGHTS:
        raise UsageError(f"{where / CONFIG} would have {count:,} weights; at most {MOST_WEIGHTS:,} are built")
    named = renamed(state, blank.state_dict())
    check_fits(blank, named, where=str(where))
    known = {name for name, _ in blank.named_buffers()} <= set(blank.state_dict())
    model = blank.to_empty(device="cpu") if known else make()  # where the file has every value, none is drawn
    load_state(model, named, where=str(where))
    return model


def _weights(folder: PipelineFolder, name: str) -> Mapping[str, Tensor]:
    """Return the weights of a component."""
    file = next(file for file in folder.read if file.parent.name == name and file.suffix == ".safetensors")
    return read_checkpoint(file).state


def _of_diffusers(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a file under the names that a network has for them."""
    named = dict(state)
    for name in [name for name in state if name not in wanted]:
        head, _, last = name.rpartition(".")
        stem, _, part = head.rpartition(".")
        better = f"{stem}.{OLD_NAMES.get(part, part)}.{last}"
        if better in wanted and better not in state and wanted[better].numel() == state[name].numel():
            named[better] = named.pop(name).reshape(wanted[better].shape)
    return named


def _of_text(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a text encoder's file under the names that this release of transformers has for them.

    Some name the tensors after "text_model.", others do not; old files hold the positions' numbers, too.
    """
    bare = {name.removeprefix(HEAD): tensor for name, tensor in state.items() if not name.endswith("position_ids")}
    return {HEAD + name if HEAD + name in wanted else name: tensor for name, tensor in bare.items()}
