"""The folder that a diffusion pipeline comes in: which of its files are read, what its configs say, its digest.

Nothing that such a folder names is imported or fetched. Its components are those of a list, each of a class of that
list, and its files are JSON, read strictly, and safetensors.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from unlearn_audit.errors import CheckpointError
from unlearn_audit.files import check_input, first_other_file, read_input, sha256_of_bytes, sha256_of_file
from unlearn_audit.strict_json import parse_object

INDEX = "model_index.json"
CONFIG = "config.json"
SCHEDULER_CONFIG = "scheduler_config.json"
UNET, SCHEDULER, VAE, TEXT_ENCODER, TOKENIZER = "unet", "scheduler", "vae", "text_encoder", "tokenizer"
CLASS_CONDITIONAL, TEXT_TO_IMAGE = "UNet2DModel", "UNet2DConditionModel"
UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"
CLASSES: Mapping[str, tuple[str, ...]] = {
    SCHEDULER: (
        "DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler",
        "DPMSolverMultistepScheduler",
    ),
    TEXT_ENCODER: ("CLIPTextModel",),
    TOKENIZER: ("CLIPTokenizer", "CLIPTokenizerFast"),
    UNET: (CLASS_CONDITIONAL, TEXT_TO_IMAGE),
    VAE: ("AutoencoderKL",),
}  # fmt: skip
NEVER_RUN: Mapping[str, tuple[str, ...]] = {  # would answer for the model; these files go along and are not read
    "safety_checker": ("config.json", "model.safetensors", "pytorch_model.bin"),
    "feature_extractor": ("preprocessor_config.json",),
}
LIBRARIES = ("diffusers", "transformers")
FILES: Mapping[str, tuple[str, ...]] = {  # of each component: the first is needed, and its weights where it has some
    SCHEDULER: (SCHEDULER_CONFIG,),
    TEXT_ENCODER: (CONFIG, "model.safetensors"),
    TOKENIZER: (
        "tokenizer_config.json", "tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json",
        "added_tokens.json",
    ),
    UNET: (CONFIG, UNET_WEIGHTS),
    VAE: (CONFIG, UNET_WEIGHTS),
}  # fmt: skip
LARGEST = 10_000_000  # bytes of a JSON or text file; CLIP's vocabulary has one million
LARGEST_NUMBER, LONGEST_LIST = 1_000_000, 1_000  # of a config; a network of more is never built
MOST_CHANNELS, MOST_TIMESTEPS = 1_000, 100_000
MOST_LAYERS = 1_000  # in all; to build a thousand takes a second or two
LARGEST_SIDE = 8_192  # of an image or a latent
PUT_THERE = "put a diffusers folder there (unet/, vae/, text_encoder/, tokenizer/, scheduler/)"


@dataclass(frozen=True)
class PipelineConfigs:
    """What stands beside the weights of a new class-conditional U-Net: the content of two JSON files."""

    unet: Mapping[str, Any]
    scheduler: Mapping[str, Any]


@dataclass(frozen=True)
class PipelineFolder:
    """What a folder holds.

    Attributes:
        path: the folder.
        unet: config of the U-Net.
        scheduler: config of the noise schedule.
        components: class of each component that is read, by its name.
        read: the files that count, in the order of their names, which is that of the digest.
        passed_over: what lies there and is not read, or is never run.
    """

    path: Path
    unet: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    components: Mapping[str, str]
    read: tuple[Path, ...]
    passed_over: tuple[str, ...] = ()

    @property
    def weights(self) -> Path:
        """The file with the U-Net's weights."""
        return self.path / UNET / UNET_WEIGHTS

    @property
    def spec(self) -> str:
        """The model in a report."""
        return f"diffusers:{self.components[UNET]}"

    @property
    def is_text_to_image(self) -> bool:
        """Whether its condition is a text."""
        return self.components[UNET] == TEXT_TO_IMAGE

    @property
    def class_rows(self) -> int | None:
        """Rows of the label embedding, the null row included where there is one."""
        rows = self.unet.get("num_class_embeds")
        return rows if isinstance(rows, int) and not isinstance(rows, bool) else None


def is_pipeline_folder(path: Path) -> bool:
    """Return whether a path is the folder of a diffusion pipeline."""
    return (path / INDEX).is_file() or (path / UNET).is_dir()


def read_pipeline_folder(path: Path) -> PipelineFolder:
    """Return what the folder of a diffusion pipeline holds; weights are not touched.

    Args:
        path: a folder with unet/ and scheduler/, for text-to-image also vae/, text_encoder/ and tokenizer/.

    Raises:
        CheckpointError: a component or class that is not on the list, code of the folder's own, a file that is missing,
            no JSON, a link out of the folder, or weights in a pickle.
    """
    named, never_run = _named(path)
    found = {name: _config_of(path, name) for name in (UNET, SCHEDULER)}
    components = {name: _class_of(path, name, named, config) for name, config in found.items()}
    needed = (VAE, TEXT_ENCODER, TOKENIZER) if components[UNET] == TEXT_TO_IMAGE else ()
    for name in needed:
        config = _config_of(path, name)
        components[name] = _class_of(path, name, named, config)
    _check_unet(path / UNET / CONFIG, found[UNET], components[UNET])
    _check_schedule(path / SCHEDULER / SCHEDULER_CONFIG, found[SCHEDULER])
    read = [file for name in sorted(components) for file in _files_of(path, name)]
    read = sorted([*read, *((path / INDEX,) if (path / INDEX).exists() else ())], key=lambda file: _within(path, file))
    passed = (*never_run, *(name for name in sorted(named) if name not in components))
    return PipelineFolder(path, found[UNET], found[SCHEDULER], dict(sorted(components.items())), tuple(read), passed)


def _named(path: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the class of each component that model_index.json names, and what is there and never run."""
    where = path / INDEX
    if not where.exists():
        return {}, ()
    content = _json(path, where)
    if not isinstance(content.get("_class_name", ""), str):
        raise _code(where, f"'_class_name' is {json.dumps(content['_class_name'])[:80]}")
    named, never_run = {}, []
    for name, value in content.items():
        if name.startswith("_") or not isinstance(value, list) or value == [None, None]:
            continue  # of the pipeline itself: its name, its switches, what it does without
        if name in NEVER_RUN:
            never_run.append(name)
        elif name not in CLASSES:
            raise CheckpointError(
                f"refused: {where} names the component {name!r:.60}, which is not read here (read: "
                f"{', '.join(sorted(CLASSES))})"
            )
        elif len(value) == 2 and value[0] in LIBRARIES and value[1] in CLASSES[name]:
            named[name] = str(value[1])
        else:
            raise _code(where, f"{name!r:.60} is {json.dumps(value)[:80]}")
    return named, tuple(never_run)


def _code(where: Path, what: str) -> CheckpointError:
    listed = "; ".join(f"{name}: {', '.join(classes)}" for name, classes in CLASSES.items())
    return CheckpointError(
        f"refused: {where} names code that is not on the list: {what}; nothing that a folder names is imported. On the "
        f"list are {listed}"
    )


def _config_of(path: Path, name: str) -> dict[str, Any]:
    """Return a component's own config, {} of a tokenizer that has none."""
    where = path / name / FILES[name][0]
    if not (path / name).is_dir():
        raise CheckpointError(f"{path} has no {name}/, and a pipeline needs it; {PUT_THERE}")
    if name == TOKENIZER and not where.exists():
        return {}
    config = _json(path, where)
    if config.get("auto_map"):
        raise _code(where, "it has code of its own ('auto_map')")
    for key, number in _numbers("", config):
        if name != TOKENIZER and abs(number) > LARGEST_NUMBER and "token" not in key:
            raise CheckpointError(f"{where}: {key!r:.60} is {number:.6g}; at most {LARGEST_NUMBER} is built")
    layers = _layers(config) if name not in (TOKENIZER, SCHEDULER) else 1
    if layers > MOST_LAYERS:
        raise CheckpointError(f"{where}: it describes about {layers:.6g} layers; at most {MOST_LAYERS} are built")
    return config


def _layers(config: Mapping[str, Any]) -> float:
    """Return about how many layers a config describes, at most: blocks, times each number of layers within another."""
    blocks = [len(value) for key, value in config.items() if "block" in key and isinstance(value, list)]
    within = dict.fromkeys(("num_hidden_layers", "layers_per_block", "transformer_layers_per_block"), 1.0)
    for key, number in _numbers("", config):
        if re.search("layers|depth|blocks", key):
            name = key.removeprefix("reverse_")
            within[name] = max(within.get(name, 1.0), abs(number))
    return max([1, *blocks]) * prod(within.values())


def _numbers(key: str, value: object) -> list[tuple[str, float]]:
    """Return the numbers of a config by name; a list that is too long counts as infinite."""
    if isinstance(value, Mapping):
        return [found for name, inner in value.items() for found in _numbers(str(name), inner)]
    if isinstance(value, list):
        longest = LARGEST_NUMBER if key == "trained_betas" else LONGEST_LIST
        return [(key, float("inf"))] if len(value) > longest else [n for inner in value for n in _numbers(key, inner)]
    return [(key, float(value))] if isinstance(value, int | float) and not isinstance(value, bool) else []


def _class_of(path: Path, name: str, named: Mapping[str, str], config: Mapping[str, Any]) -> str:
    """Return a component's class, in which model_index.json and its own config must agree."""
    architectures = config.get("architectures")
    own = config.get("_class_name") or config.get("tokenizer_class")
    if name == TEXT_ENCODER and isinstance(architectures, list) and len(architectures) == 1:
        own = architectures[0]
    if name == TOKENIZER and not own:
        own = named.get(name, CLASSES[name][0])
    if own not in CLASSES[name]:
        raise _code(path / name / FILES[name][0], f"its class is {json.dumps(own)[:80]}")
    said = named.get(name, own)
    if said != own and name not in (SCHEDULER, TOKENIZER):
        raise CheckpointError(f"{path / INDEX} calls {name} a {said}, {path / name} a {own}; they are not of one model")
    return str(said)


def _check_unet(where: Path, config: Mapping[str, Any], kind: str) -> None:
    """Refuse a U-Net that is given more than x_t, t and one condition, or that answers with more."""
    odd = [
        key
        for key in ("addition_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim", "class_embed_type")
        if config.get(key) is not None
    ]
    odd += ["num_class_embeds"] if kind == TEXT_TO_IMAGE and config.get("num_class_embeds") is not None else []
    if odd:
        raise CheckpointError(f"{where}: a U-Net with {', '.join(odd)} needs more than image, time and condition")
    if config.get("in_channels", 0) != config.get("out_channels", 0):
        raise CheckpointError(
            f"{where}: {config.get('in_channels')} channels in and {config.get('out_channels')} out; a denoiser that "
            "answers with one image of its input's channels is needed (no inpainting, no learned variance)"
        )
    channels, size = config.get("in_channels"), config.get("sample_size")
    if not _is_whole(channels, MOST_CHANNELS):
        raise CheckpointError(f"{where}: 'in_channels' is {json.dumps(channels)[:40]}; 1 to {MOST_CHANNELS} is needed")
    sides = size if isinstance(size, list) and len(size) == 2 else [size]
    if size is not None and not all(_is_whole(side, LARGEST_SIDE) for side in sides):
        raise CheckpointError(
            f"{where}: 'sample_size' is {json.dumps(size)[:40]}; one or two whole numbers "
            f"from 1 to {LARGEST_SIDE} are needed"
        )


def _is_whole(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _check_schedule(where: Path, config: Mapping[str, Any]) -> None:
    """Refuse a schedule whose timesteps, prediction or shares of noise are not understood."""
    steps = config.get("num_train_timesteps", 1000)
    if not _is_whole(steps, MOST_TIMESTEPS):
        raise CheckpointError(
            f"{where}: 'num_train_timesteps' is {json.dumps(steps)[:40]}; 1 to {MOST_TIMESTEPS} is needed"
        )
    trained = config.get("trained_betas")
    if trained is not None and not isinstance(trained, list):
        raise CheckpointError(f"{where}: 'trained_betas' is {json.dumps(trained)[:40]}; a list of numbers is needed")
    betas = [("trained_betas", beta) for beta in trained or ()]
    betas += [(key, config[key]) for key in ("beta_start", "beta_end") if key in config]
    for key, beta in betas:
        if not isinstance(beta, int | float) or isinstance(beta, bool) or not 0 < beta <= 1:
            raise CheckpointError(
                f"{where}: {key!r} is {json.dumps(beta)[:40]}; shares of noise above 0, up to 1, are needed"
            )
    if config.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction", "sample"):
        raise CheckpointError(
            f"{where}: 'prediction_type' is {json.dumps(config['prediction_type'])[:40]}; known: epsilon, "
            "v_prediction, sample"
        )


def _files_of(path: Path, name: str) -> list[Path]:
    """Return the files of a component that count; those that are needed are there."""
    folder = path / name
    present = [folder / file for file in FILES[name] if (folder / file).exists()]
    if name == TOKENIZER:
        if not {file.name for file in present} & {"tokenizer.json", "vocab.json"}:
            raise CheckpointError(f"{folder} holds no vocabulary: tokenizer.json, or vocab.json and merges.txt")
    elif len(present) < len(FILES[name]):
        _refuse_without_weights(folder, FILES[name][-1])
    for file in present:
        _check_place(path, file)
    return present


def _refuse_without_weights(folder: Path, needed: str) -> None:
    """Say why weights in another form are not read, and what to do."""
    stem = needed.removesuffix(".safetensors")
    others = sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".safetensors", ".ckpt", ".json"))
    others = [name for name in others if name != CONFIG]
    pickles = [name for name in others if name.endswith((".bin", ".ckpt"))]
    if pickles and len(pickles) == len(others):
        code = (
            "import torch; from safetensors.torch import save_file; "
            f'save_file({{k: v.contiguous() for k, v in torch.load("{pickles[0]}", weights_only=True).items()}}, '
            f'"{needed}", metadata={{"format": "pt"}})'
        )
        raise CheckpointError(
            f"refused: {folder} holds its weights in a pickle alone ({pickles[0]}), which is not read; write "
            f"safetensors: cd {folder} && python -c '{code}'"
        )
    if f"{needed}.index.json" in others:
        raise CheckpointError(
            f'{folder} holds its weights in shards; save them in one file (save_pretrained(…, max_shard_size="100GB"))'
        )
    variant = next((name for name in others if name.startswith(f"{stem}.")), None)
    more = f"; where the variant {variant} is meant, copy it to that name" if variant else ""
    raise CheckpointError(f"{folder} holds no {needed}, and its weights are needed{more}")


def _check_place(path: Path, file: Path) -> None:
    """Refuse a link that leads elsewhere; the blobs of the hub's own cache, of which its folders consist, are fine."""
    check_input(file, "pipeline", CheckpointError)
    real, folder = file.resolve(), path.resolve()
    if not real.is_relative_to(folder) and not (
        folder.parent.name == "snapshots" and real.parent == folder.parent.parent / "blobs"
    ):
        raise CheckpointError(f"refused: {file} is a link out of the folder, to {real}; put the file itself there")


def _json(path: Path, where: Path) -> dict[str, Any]:
    """Read a JSON object that lies in the folder itself."""
    if where.exists():
        _check_place(path, where)
    return read_json(where)


def read_json(where: Path) -> dict[str, Any]:
    """Read a JSON object strictly.

    Raises:
        CheckpointError: it is missing, too large or none.
    """
    data = read_input(where, "pipeline config", CheckpointError, most=LARGEST)
    try:
        return parse_object(data)
    except ValueError as problem:
        raise CheckpointError(f"cannot read {where}: {problem}; download it again") from problem


def _within(path: Path, file: Path) -> str:
    return file.relative_to(path).as_posix()


def sha256_of_pipeline(folder: PipelineFolder, known: Mapping[Path, str] | None = None) -> str:
    """Return the digest of a folder: SHA-256 over the hex digests of its files in the order of their names.

    Args:
        folder: what was read of it.
        known: digests of files that are known already.
    """
    had = known or {}
    return sha256_of_bytes(*((had.get(file) or sha256_of_file(file)).encode() for file in folder.read))


def beside_weights(folder: PipelineFolder) -> tuple[Path, ...]:
    """Return every file that goes along when the U-Net's weights are replaced, those that are never run included."""
    kept = [file for file in folder.read if file != folder.weights]
    never_run = (folder.path / name / file for name, files in NEVER_RUN.items() for file in files)
    kept += [file for file in never_run if file.is_file()]
    for file in kept:
        _check_place(folder.path, file)
    return tuple(kept)


def stranger_in(path: Path) -> str | None:
    """Return the name of something in a folder that no pipeline which is written here has, None where there is nothing.

    A folder that is replaced goes away with all that is in it, so that nothing else may stand there: no variants of
    weights, no shards, no state of an optimiser.
    """
    components = {**FILES, **NEVER_RUN}
    ours = {INDEX, *(f"{name}/{file}" for name, files in components.items() for file in files)}
    found = first_other_file(path, ours)
    return "no unet/" if found is None and not is_pipeline_folder(path) else found
