"""Image classifiers of the transformers package, built from their settings alone, with nothing fetched or imported.

A spec `transformers:ViTForImageClassification?hidden_size=16&...` holds the settings, so that a checkpoint made from
such a model describes itself and needs no config.json beside it.
"""

import copy
import json
import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unlearn_audit.errors import CheckpointError, UsageError
from unlearn_audit.model_folder import CONFIG, read_config
from unlearn_audit.models.answers import Logits
from unlearn_audit.strict_json import parse
from unlearn_audit.user_code import raised

TRANSFORMERS = "transformers"
CLASSIFIERS = "transformers.models.auto.modeling_auto"
# What says nothing of the network, or is settled here: classes by the data, attention by what has second derivatives.
LEFT_OUT = {
    "architectures", "auto_map", "id2label", "label2id", "num_labels", "dtype", "torch_dtype", "transformers_version",
    "problem_type", "attn_implementation", "experts_implementation", "quantization_config", "use_cache", "return_dict",
    "output_attentions", "output_hidden_states", "finetuning_task", "out_features", "out_indices", "stage_names",
    "torchscript", "gradient_checkpointing", "name_or_path", "trust_remote_code", "task_specific_params",
}  # fmt: skip
NOT_BUILT = {
    "TimmWrapperForImageClassification": "name it with --model timm:NAME, and the file of weights",
    "ShieldGemma2ForImageClassification": "it reads text beside the image",
    "ImageGPTForImageClassification": "it takes colours by number in the place of images",
    "Siglip2ForImageClassification": "it takes patches and their places in the place of images",
}
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.+-]{0,63}")
LONGEST = 4096  # characters of a spec, as metadata have them
LARGEST_NUMBER = 1_000_000
MOST_LAYERS = 1_000
MOST_WEIGHTS = 4_000_000_000


def spec_of_config(config: Mapping[str, Any], *, where: str) -> str:
    """Return the spec of the model that a config.json describes.

    Args:
        config: its content; "architectures" has one name.
        where: its name, for the message.

    Raises:
        UsageError: it says more than a spec can hold.
    """
    parts = [f"{key}={_written(value)}" for key, value in sorted(_kept(config).items())]
    spec = f"{TRANSFORMERS}:{config['architectures'][0]}" + ("?" + "&".join(parts) if parts else "")
    if len(spec) > LONGEST or not spec.isprintable():
        raise UsageError(f"{where} has settings of {len(spec)} characters; at most {LONGEST} printable ones are read")
    return spec


def written_out(spec: str) -> str:
    """Return a spec with the settings in it, where it names a folder whose config.json has them; others as they are.

    Args:
        spec: any model spec.

    Raises:
        UsageError: the folder's config.json is not that of an image classifier.
    """
    folder = spec.removeprefix(f"{TRANSFORMERS}:")
    if folder == spec or not os.path.isdir(os.path.expanduser(folder)):
        return spec
    path = Path(os.path.expanduser(folder))
    try:
        return spec_of_config(read_config(path), where=str(path / CONFIG))
    except CheckpointError as problem:
        raise UsageError(str(problem)) from problem


def _kept(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that describe a network, also those of its parts."""
    return {key: _kept_within(value) for key, value in config.items() if NAME.fullmatch(key) and key not in LEFT_OUT}


def _kept_within(value: object) -> object:
    if isinstance(value, list):
        return [_kept_within(inner) for inner in value]
    return _kept(value) if isinstance(value, dict) else value


def _written(value: object) -> str:
    """Write a value: a word as it is, everything else as JSON, in which no `&` stands."""
    text = json.dumps(value, separators=(",", ":"), sort_keys=True).replace("&", "\\u0026")
    return str(value) if isinstance(value, str) and WORD.fullmatch(value) and _parsed(value) == value else text


def _parsed(text: str) -> object:
    """Read what `_written` writes.

    Raises:
        ValueError: it is neither JSON nor a word.
    """
    try:
        return parse(text)
    except ValueError:
        if WORD.fullmatch(text):
            return text
        raise ValueError(f"{text[:60]!r} is neither a word nor JSON") from None


def _settings_of(spec: str) -> tuple[str, dict[str, Any]]:
    """Return the class that a spec names, and its settings.

    Raises:
        UsageError: a setting is none, or is larger than any network's.
    """
    name, mark, text = written_out(spec).removeprefix(f"{TRANSFORMERS}:").partition("?")
    settings: dict[str, Any] = {}
    for part in text.split("&") if mark else ():
        key, equals, value = part.partition("=")
        if not equals or not NAME.fullmatch(key) or key in LEFT_OUT or key in settings:
            raise UsageError(f"model '{_short(spec)}': {part[:60]!r} is not a setting, or is given twice")
        try:
            settings[key] = _parsed(value)
        except ValueError as problem:
            raise UsageError(f"model '{_short(spec)}': {key}: {problem}") from problem
    for key in _keys_in(settings):
        if not NAME.fullmatch(key) or key in LEFT_OUT:  # a part may not choose what the whole may not
            raise UsageError(f"model '{_short(spec)}': {key[:60]!r} is not a setting")
    for key, number in _numbers_in("", settings):
        most = MOST_LAYERS if re.search("depth|layers|blocks|stages", key) else LARGEST_NUMBER
        if abs(number) > most:
            raise UsageError(f"model '{_short(spec)}': {key} is {number:.6g}; at most {most} is built")
    return name, settings


def _keys_in(value: object) -> Iterator[str]:
    """Yield the names of settings, also those of parts."""
    if isinstance(value, dict):
        yield from value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _keys_in(inner)


def _numbers_in(key: str, value: object) -> Iterator[tuple[str, float]]:
    """Yield the numbers of settings by name; of a list their sum, too."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers_in(str(name), inner)
    elif isinstance(value, list):
        found = [number for inner in value for number in _numbers_in(key, inner)]
        yield from found
        yield key, sum(number for _, number in found) if len(value) <= MOST_LAYERS else float("inf")
    elif isinstance(value, int | float):
        yield key, value


def _short(spec: str) -> str:
    return spec if len(spec) <= 80 else f"{spec[:77]}..."


def check_classifier(spec: str) -> None:
    """Refuse a spec whose class or settings nobody has.

    Raises:
        UsageError: as `classifier` does; whether it can be built is another question.
    """
    name, settings = _settings_of(spec)
    _class_of(name, settings, spec)


def _class_of(name: str, settings: Mapping[str, Any], spec: str) -> Any:
    """Return a class of transformers' own table of image classifiers, and of no other place."""
    if name in NOT_BUILT:
        raise UsageError(f"'{TRANSFORMERS}:{name}' is not built: {NOT_BUILT[name]}")
    library, table = _library()
    kinds = {each: kind for kind, named in table.items() for each in ((named,) if isinstance(named, str) else named)}
    if name not in kinds:
        near = get_close_matches(name[:100], kinds, n=3, cutoff=0.6)
        guess = f"did you mean {', '.join(near)}?" if near else f"it has, for example, {', '.join(sorted(kinds)[:4])}"
        raise UsageError(
            f"transformers {library.__version__} has no image classifier '{name[:100]}' (of {len(kinds)}); {guess}. "
            "Models are built from their settings, nothing is fetched by name and no code of a folder is run: for a "
            "model that you have, name its folder as the checkpoint"
        )
    kind = settings.get("model_type", kinds[name])
    if kind != kinds[name]:
        raise UsageError(
            f"model '{_short(spec)}': model_type is {json.dumps(kind)[:60]}, that of {name} is '{kinds[name]}'"
        )
    return getattr(library, name)


def go_offline() -> None:
    """Keep the libraries of Hugging Face from the network; they look when they are imported."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ[name] = "1"


def offline_transformers(install: str) -> Any:
    """Import transformers, which is optional, without the network.

    Args:
        install: what is said where it is missing, with the command.

    Raises:
        UsageError: it is not installed, or cannot be used.
    """
    go_offline()
    try:
        library = import_module(TRANSFORMERS)
        library.logging.set_verbosity_error()
        library.logging.disable_progress_bar()
    except ModuleNotFoundError as missing:
        raise UsageError(install) from missing
    except (ImportError, AttributeError) as problem:
        raise UsageError(f"transformers cannot be used: {raised(problem)}; install it anew") from problem
    return library


def _library() -> tuple[Any, Mapping[str, Any]]:
    """Import transformers; return it and its table of image classifiers."""
    library = offline_transformers(
        "an image classifier of Hugging Face needs transformers: pip install 'unlearn-audit[transformers]'"
    )
    try:
        return library, import_module(CLASSIFIERS).MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    except (ImportError, AttributeError) as problem:
        raise UsageError(f"transformers cannot be used: {raised(problem)}; install it anew") from problem


def classifier(spec: str, *, classes: int, channels: int, image_size: tuple[int, int] | None = None) -> nn.Module:
    """Return a freshly initialised classifier of the transformers package; it answers with logits.

    Args:
        spec: `transformers:CLASS?setting=value&...`, values as JSON or words.
        classes: outputs of the last layer.
        channels: of the images; the spec must say the same.
        image_size: height and width of the images, for a spec that names none.

    Raises:
        UsageError: transformers is not installed, has no such classifier, or cannot build it.
    """
    name, settings = _settings_of(spec)
    made = _class_of(name, settings, spec)
    settings.pop("model_type", None)
    try:
        # Attention in plain operations: the fused ones have no second derivatives.
        config = made.config_class(**settings, num_labels=classes, attn_implementation="eager")
        if image_size is not None and "image_size" not in settings and hasattr(config, "image_size"):
            height, width = image_size
            config.image_size = height if height == width else [height, width]
        taken = getattr(config, "num_channels", channels)
        if taken != channels:
            raise UsageError(
                f"'{TRANSFORMERS}:{name}' takes images of {taken} channels, the data has {channels}; a new one is "
                f"named with num_channels={channels} among the settings"
            )
        _check_size(made, config, spec)
        model: nn.Module = made(config)
    except UsageError:
        raise
    except Exception as problem:
        raise UsageError(f"model '{_short(spec)}' cannot be built: {raised(problem)}") from problem
    model.register_forward_hook(Logits("logits"))
    return model.train()


def _check_size(made: Any, config: Any, spec: str) -> None:
    """Refuse a network that no memory holds, before it is made."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        count = sum(weights.numel() for weights in made(config).parameters())
    if count > MOST_WEIGHTS:
        raise UsageError(f"model '{_short(spec)}' would have {count:,} weights; at most {MOST_WEIGHTS:,} are built")


def renamed(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return weights under the names that a classifier has, from those that the library writes into files.

    Newer releases compute under other names than they store; the library's own loader knows which is which.

    Args:
        model: of `classifier`; left as it is.
        state: names and tensors, as a file has them.

    Returns:
        Every name of the model; None where names are missing or left over. Tensors of another shape than the model's
        come without values, so that a comparison of shapes tells them.
    """
    made: Any = type(model)
    try:
        loaded, told = made.from_pretrained(
            None,  # neither a folder nor a name: the tensors are here
            config=copy.deepcopy(model.config),
            state_dict=dict(state),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception:  # a loader that cannot read them says no more than that they do not fit
        return None
    if told["missing_keys"] or told["unexpected_keys"] or told.get("error_msgs"):
        return None
    found: dict[str, Tensor] = loaded.state_dict()
    for name, shape, *_ in told["mismatched_keys"]:
        found[name] = torch.empty(shape, device="meta")
    return found
