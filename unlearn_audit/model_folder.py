"""The folder that a Hugging Face model comes in: which of its files are read, what they ask of images, its digest.

Nothing that such a folder names is imported or fetched; its files are JSON, read strictly, and weights.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from unlearn_audit.errors import CheckpointError, MeasurementError
from unlearn_audit.files import check_input, read_input, sha256_of_bytes, sha256_of_file
from unlearn_audit.pipeline_folder import is_pipeline_folder, read_pipeline_folder, sha256_of_pipeline
from unlearn_audit.strict_json import parse_object

CONFIG = "config.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
KIND = "ForImageClassification"
LARGEST = 10_000_000  # bytes; names of 20,000 classes, twice, take two million
LARGEST_INDEX = 30_000_000
DONE = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}
OF_BYTES = 1 / 255  # from pixels of one byte to [0, 1], in which images are held here
CLOSE = 1e-6
MOST_CHANNELS = 16

Moments = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class ModelFolder:
    """What a folder holds.

    Attributes:
        path: the folder.
        weights: the file in it that the weights, or the index of their shards, stand in.
        config: its config.json.
        processor: how images are prepared for the model; None where the folder does not say.
        said_by: the file that says so.
        read: the files beside the weights that count, in the order of the digest.
        passed_over: names of further files of weights, which are not read.
    """

    path: Path
    weights: Path
    config: Mapping[str, Any]
    processor: Mapping[str, Any] | None = None
    said_by: str = PROCESSORS[0]
    read: tuple[Path, ...] = ()
    passed_over: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Channels of the images, as the config has them; colour where it does not say."""
        said = self.config.get("num_channels")
        return said if isinstance(said, int) and said > 0 else 3


def read_model_folder(path: Path) -> ModelFolder:
    """Return what the folder of an image classifier holds; its weights are not touched.

    Args:
        path: a folder with config.json and model.safetensors, an index of shards, or pytorch_model.bin.

    Raises:
        CheckpointError: a file is missing or no JSON, or the config is of another kind of model, of code that the
            folder brings along, or of quantised weights.
    """
    config = read_config(path)
    present = [name for name in WEIGHTS if (path / name).exists()]
    if not present:
        raise CheckpointError(f"{path} holds {CONFIG} and no weights; {' or '.join(WEIGHTS[::2])} is needed beside it")
    check_input(path / present[0], "checkpoint", CheckpointError)  # a pipe would never end, a folder might hold itself
    said_by = next((name for name in PROCESSORS if (path / name).exists()), None)
    processor = _json(path / said_by) if said_by else None
    if processor is not None and isinstance(processor.get("image_processor"), dict):
        processor = processor["image_processor"]
    read = (path / CONFIG, *((path / said_by,) if said_by else ()))
    return ModelFolder(path, path / present[0], config, processor, said_by or PROCESSORS[0], read, tuple(present[1:]))


def read_config(path: Path) -> dict[str, Any]:
    """Return the config.json of an image classifier's folder.

    Args:
        path: the folder.

    Raises:
        CheckpointError: there is none, or it is one of those that `read_model_folder` refuses.
    """
    if not (path / CONFIG).exists():
        raise CheckpointError(f"{path} is a directory without {CONFIG}; {_instead(path)}")
    config = _json(path / CONFIG)
    _check_config(path / CONFIG, config)
    return config


def _instead(path: Path) -> str:
    """Say what to name instead of a folder that holds no model's config."""
    if (path / "adapter_config.json").exists():
        return (
            "it holds an adapter, which is only a part of a model: merge it into its model (PEFT: merge_and_unload()), "
            "and save the whole with save_pretrained"
        )
    return "name a checkpoint file, or the folder of a Hugging Face image classifier or of a diffusers pipeline"


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object strictly."""
    data = read_input(path, "model config", CheckpointError, most=LARGEST)
    try:
        return parse_object(data)
    except ValueError as problem:
        raise CheckpointError(f"cannot read {path}: {problem}; download it again") from problem


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse what is no image classifier, and what only code of the folder's own could build."""
    if config.get("auto_map"):
        raise CheckpointError(
            f"refused: {path} names code of its own ('auto_map'), and code from a folder is not run; if you trust it, "
            "write a function that returns the model, and name it with --model package.module:callable, and the file "
            "of weights instead of the folder"
        )
    named = config.get("architectures")
    if not (isinstance(named, list) and len(named) == 1 and isinstance(named[0], str) and KIND in named[0]):
        raise CheckpointError(
            f"{path} is not of an image classifier: 'architectures' is {json.dumps(named)[:80]}, where one "
            f"...{KIND} is needed"
        )
    if config.get("quantization_config"):
        raise CheckpointError(f"{path}: the weights are quantised; audit the model in floating point that it came from")
    if config.get("problem_type") not in (None, "single_label_classification"):
        raise CheckpointError(
            f"{path}: 'problem_type' is {json.dumps(config['problem_type'])[:60]}, where one class of several is needed"
        )


def sha256_of_folder(folder: ModelFolder, weights: str) -> str:
    """Return the digest of a folder: SHA-256 over the hex digests of config, processor's config, and weights.

    Args:
        folder: what was read of it.
        weights: digest of its weights.
    """
    return sha256_of_bytes(*(sha256_of_file(each).encode() for each in folder.read), weights.encode())


def sha256_of_checkpoint(path: Path) -> str:
    """Return the digest that a checkpoint has in a report: of a file, an index with its shards, or a folder.

    Args:
        path: the file or folder.

    Raises:
        CheckpointError: the folder is none of a model's, or a shard is missing.
        OSError: the file cannot be read.
    """
    if is_pipeline_folder(path):
        return sha256_of_pipeline(read_pipeline_folder(path))
    if path.is_dir():
        folder = read_model_folder(path)
        return sha256_of_folder(folder, sha256_of_checkpoint(folder.weights))
    digests = [sha256_of_file(path)]
    for name in _shards_of(path):
        if not re.fullmatch(r"[^/\\:\0]+", name) or name in {".", ".."}:
            raise CheckpointError(f"refused: {path} names a shard outside its folder: {name!r:.80}")
        digests.append(sha256_of_file(check_input(path.parent / name, "shard", CheckpointError)))
    return digests[0] if len(digests) == 1 else sha256_of_bytes(*(digest.encode() for digest in digests))


def _shards_of(path: Path) -> list[str]:
    """Return the names of the shards that a file lists, sorted; none of a file that is no index."""
    with path.open("rb") as stream:
        if stream.read(1) != b"{" or path.stat().st_size > LARGEST_INDEX:
            return []
        stream.seek(0)
        try:
            listed = parse_object(stream.read())["weight_map"].values()
            return sorted(set(listed))
        except (ValueError, KeyError, TypeError, AttributeError):
            return []


def looks_like_hub_name(path: str) -> bool:
    """Return whether what is no file may be the name of a model on a hub.

    >>> looks_like_hub_name("google/vit-base-patch16-224"), looks_like_hub_name("runs/model.safetensors")
    (True, False)
    """
    ending = os.path.splitext(path)[1].lower()
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", path)) and ending not in {
        ".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".json", ".npz", ".tar", ".th",
    }  # fmt: skip


def moments_of(folder: ModelFolder) -> Moments | None:
    """Return mean and std of inputs in [0, 1] that the folder's own preparation of images amounts to.

    An image of bytes b, of which x = b/255 is held here, is scaled by a factor r and normalised: (rb - m) / s, which
    is (x - m/255r) / (s/255r).

    Returns:
        Mean and std, per channel or one for all; None where the folder does not say how images are prepared.

    Raises:
        MeasurementError: the file asks for something else, or says it in a way that is not understood.
    """
    if folder.processor is None:
        return None
    asked, where = folder.processor, folder.path / folder.said_by
    _check_steps(where, asked)
    factor = asked.get("rescale_factor", OF_BYTES) if asked.get("do_rescale", True) else 1.0
    if not _is_number(factor) or factor <= 0:
        raise MeasurementError(f"{where}: 'rescale_factor' is {json.dumps(factor)[:60]}; a positive number is needed")
    scale = factor / OF_BYTES
    scale = 1.0 if abs(scale - 1) < CLOSE else scale
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    if asked.get("do_normalize", "image_mean" in asked):
        mean, std = (_numbers(where, asked, key) for key in ("image_mean", "image_std"))
        if len(mean) != len(std) or min(std) <= 0:
            raise MeasurementError(f"{where}: image_mean and image_std need as many numbers, those of std positive")
    return tuple(each / scale for each in mean), tuple(each / scale for each in std)


def _check_steps(where: Path, asked: Mapping[str, Any]) -> None:
    """Refuse steps that are not those of a resized, scaled and normalised image."""
    odd = [key for key, value in asked.items() if key.startswith("do_") and value and key not in DONE]
    odd += [key for key in ("rescale_offset", "include_top") if asked.get(key)]
    if odd:
        raise MeasurementError(
            f"{where} asks for {', '.join(odd)[:120]}, which is not done to images here, so that the model would see "
            "others than it knows; prepare the data so (npz:FILE), and set this to false in that file"
        )


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(where: Path, asked: Mapping[str, Any], key: str) -> tuple[float, ...]:
    """Return one or a few numbers."""
    value = asked.get(key)
    listed = value if isinstance(value, list) else [value]
    found = tuple(float(each) for each in listed[:MOST_CHANNELS] if _is_number(each))
    if not found or len(found) != len(listed):
        raise MeasurementError(f"{where}: '{key}' is {json.dumps(value)[:60]}; a number for each channel is needed")
    return found


def check_images(folder: ModelFolder, size: tuple[int, int]) -> tuple[str, ...]:
    """Refuse images of another size than the model gets in use; return what is to be said of them.

    Args:
        folder: what the model's folder says.
        size: height and width of the data's images.

    Raises:
        MeasurementError: in use they are resized or cropped to another size.
    """
    wanted = None if folder.processor is None else _size_in_use(folder.processor)
    shown = f"{size[0]} x {size[1]}"
    if wanted is not None and not _fits(wanted, size):
        raise MeasurementError(
            f"{folder.path / folder.said_by}: in use the model gets images of {_as_text(wanted)}, the data has "
            f"{shown}, and images are not resized here; give the data at that size (--data npz:FILE or folder:DIR of "
            "resized images), or, where it was trained on images as they are, set do_resize and do_center_crop to "
            "false in that file"
        )
    if folder.processor is None:
        told = _as_size(folder.config.get("image_size"))
        if told is not None and told != size:
            return (f"{CONFIG} speaks of images of {_as_text(told)}, the data has {shown}; they are not resized",)
    elif folder.processor.get("do_center_crop"):
        return ("assumed: the data's images are already resized and cropped as the model's folder asks",)
    return ()


def _size_in_use(asked: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return height and width, or the shorter edge alone, of what a model gets; None where nothing is resized."""
    if asked.get("do_center_crop", "crop_size" in asked) and asked.get("crop_size"):
        return _as_size(asked["crop_size"])
    return _as_size(asked.get("size")) if asked.get("do_resize", "size" in asked) else None


def _as_size(value: object) -> tuple[int, ...] | None:
    """Read the ways in which a size is written."""
    if isinstance(value, Mapping):
        edges = [value.get(key) for key in ("height", "width")] if "height" in value else [value.get("shortest_edge")]
    else:
        edges = value if isinstance(value, list) else [value, value]
    found = tuple(edge for edge in edges if isinstance(edge, int) and not isinstance(edge, bool) and edge > 0)
    return found if found and len(found) == len(edges) <= 2 else None


def _fits(wanted: Sequence[int], size: tuple[int, int]) -> bool:
    return min(size) == wanted[0] if len(wanted) == 1 else tuple(wanted) == size


def _as_text(size: Sequence[int]) -> str:
    return " x ".join(map(str, size)) if len(size) > 1 else f"{size[0]} pixels at the shorter edge"


def check_labels(folder: ModelFolder, names: Sequence[str], classes: int) -> tuple[str, ...]:
    """Refuse class names in another order than the data's; return what is to be said of them.

    Args:
        folder: what the model's folder says, in 'id2label'.
        names: of the data's classes, in the order of their labels; empty where they have none.
        classes: how many the data has.

    Raises:
        MeasurementError: another number of classes, or the same names for other classes.
    """
    labels = _labels_of(folder)
    if not labels:
        return ()
    where = folder.path / CONFIG
    if len(labels) != classes:
        raise MeasurementError(f"{where} names {len(labels)} classes, the data has {classes}; name its own with --data")
    if all(re.fullmatch(rf"LABEL_{index}", label) for index, label in enumerate(labels)):
        return ()
    theirs = [_plain(label) for label in labels]
    ours = [_plain(name) for name in names or map(str, range(classes))]
    moved = [index for index, name in enumerate(ours) if theirs[index] != name and name in theirs]
    if moved and len(set(theirs)) == classes:
        first = moved[0]
        raise MeasurementError(
            f"{where}: class {first} of the model is '{labels[first][:60]}', that of the data '{ours[first][:60]}', "
            f"which is class {theirs.index(ours[first])} of the model; with classes mixed up every number would be "
            "wrong: number the data's classes as the model does (npz:FILE, or renamed folders)"
        )
    other = [index for index, name in enumerate(ours) if theirs[index] != name]
    if names and other:
        first = other[0]
        return (
            f"assumed: the classes are in the same order; the model calls {len(other)} of {classes} otherwise than the "
            f"data (class {first}: '{labels[first][:60]}', '{names[first][:60]}')",
        )
    return ()


def _labels_of(folder: ModelFolder) -> list[str]:
    """Return the labels in the order of their numbers."""
    said = folder.config.get("id2label")
    if said is None:
        return []
    try:
        by_number = {int(key): str(value) for key, value in said.items()}
        return [by_number[index] for index in range(len(by_number))]
    except (AttributeError, KeyError, ValueError) as problem:
        raise MeasurementError(
            f"{folder.path / CONFIG}: 'id2label' must map each class's number, from 0 on, to its name"
        ) from problem


def _plain(name: str) -> str:
    """Return a name without what is merely written otherwise; of several synonyms the first."""
    return re.sub(r"[\s_-]+", " ", name.partition(",")[0]).strip().lower()
