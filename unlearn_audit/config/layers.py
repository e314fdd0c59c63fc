"""Where settings come from: flags, environment variables, TOML files; relative paths start at their file's folder."""

import os.path
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from unlearn_audit.config.fields import USER_CODE
from unlearn_audit.config.generation import INCEPTION, NUDENET, TRAIN
from unlearn_audit.config.toml_source import MOST_BYTES, read_toml
from unlearn_audit.errors import ConfigError
from unlearn_audit.files import read_input
from unlearn_audit.strict_json import Place, dotted

CONFIG_NAME = "unlearn-audit.toml"
PROJECT_NAME, PROJECT_TABLE = "pyproject.toml", ("tool", "unlearn-audit")
ENVIRONMENT_PREFIX = "UNLEARN_AUDIT_"
FLAG, ENVIRONMENT, NAMED, METADATA, FOUND, DEFAULT = "flag", "environment", "config", "metadata", "found", "default"
COMMAND_LINE = "command line"  # the source whose keys are shown as flags


class Layer(NamedTuple):
    """One place that settings come from; `values` is nested like the TOML file.

    `source` names it for people; `text` is the file's, and `table` the one that the values were taken from.
    """

    origin: str
    values: Mapping[str, Any]
    source: str = ""
    text: str = ""
    table: Place = ()


def outranks_metadata(origin: str) -> bool:
    """Return whether a value of that origin wins over the checkpoint's own metadata."""
    return origin in (FLAG, ENVIRONMENT, NAMED)


def code_is_allowed(origin: str) -> bool:
    """Return whether a `package.module:callable` of that origin may run: only a flag's or a named config's may."""
    return origin in (FLAG, NAMED)


def find_config(start: Path) -> Path | None:
    """Return the nearest `unlearn-audit.toml`, or `pyproject.toml` with `[tool.unlearn-audit]`, here or above."""
    for folder in (start, *start.parents):
        if os.path.isfile(folder / CONFIG_NAME):
            return folder / CONFIG_NAME
        if _has_our_table(folder / PROJECT_NAME):
            return folder / PROJECT_NAME
    return None


def _has_our_table(project: Path) -> bool:
    """Return whether it is a `pyproject.toml` with our table; one that is broken counts where it mentions us."""
    if not os.path.isfile(project) or not os.path.getsize(project):
        return False
    content = read_input(project, "config", ConfigError, most=MOST_BYTES)
    if b"unlearn-audit" not in content:
        return False
    try:
        return "unlearn-audit" in tomllib.loads(content.decode()).get("tool", {})
    except (ValueError, RecursionError):
        return b"[tool.unlearn-audit" in content


def file_layer(path: Path, *, origin: str) -> Layer:
    """Read a TOML config; relative paths in it are taken from its folder.

    Args:
        path: `unlearn-audit.toml`, or a `pyproject.toml` whose `[tool.unlearn-audit]` is read.
        origin: "config" when the user named it, "found" when it was come across.

    Raises:
        ConfigError: missing, not TOML, or not UTF-8.
    """
    values, text = read_toml(path, "config")
    table = PROJECT_TABLE if path.name == PROJECT_NAME else ()
    for depth, key in enumerate(table):
        values = values.get(key, {})
        if not isinstance(values, dict):
            raise ConfigError(str(path), [f"{dotted(table[: depth + 1])} must be a table (got {values!r})"])
    return Layer(origin, _anchored(values, path.resolve().parent), str(path), text, table)


def environment_layer(variables: Mapping[str, str]) -> Layer:
    """Take what `UNLEARN_AUDIT_*` variables say.

    These are `_DEVICE`, `_PRECISION`, `_DATA`, `_MODEL`, `_FORGET`, `_RETAIN`, `_UNSEEN`, `_ADJACENT`, and the numbers
    `_SEED`, `_BATCH_SIZE`, `_SAMPLE` and `_RETAIN_SAMPLE`.
    """
    names = ("device", "precision", "data", "model", "forget", "retain", "unseen", "adjacent")
    counts = ("seed", "batch_size", "sample", "retain_sample")
    found: dict[str, Any] = {}
    for name in (*names, *counts):
        text = variables.get(ENVIRONMENT_PREFIX + name.upper())
        if text:
            found[name] = int(text) if name in counts and re.fullmatch("[+-]?[0-9]{1,19}", text) else text
    return Layer(ENVIRONMENT, found, "environment")


NEIGHBOURS = "neighbours"  # of an adjacent set: the forget set's nearest in the features of the original


def is_index_words(spec: str) -> bool:
    """Return whether an index spec is words such as `class:3`, not a file; `mislabelled.npy` is a file."""
    word, colon, _ = spec.partition(":")
    return spec == NEIGHBOURS or word in INDEX_WORDS and (bool(colon) or not Path(spec).suffix)


def incomplete_words(spec: str) -> str | None:
    """Return how the words of an index spec are written, where these are not written so; None where they may be."""
    word, _, rest = spec.partition(":")
    if spec == NEIGHBOURS or not is_index_words(spec) or re.fullmatch(INDEX_WORDS[word].form, rest):
        return None
    return INDEX_WORDS[word].written


class IndexWord(NamedTuple):
    """A word that names examples without a file: what follows its colon, as a pattern, and an example of all."""

    form: str
    written: str


INDEX_WORDS: Mapping[str, IndexWord] = {
    "class": IndexWord(r"[^,\s][^,]*(,[^,\s][^,]*)*", "class:3,5"),
    "random": IndexWord(r"(0?\.[0-9]+|[0-9]+)(:[0-9]+)?", "random:0.1:SEED or random:COUNT:SEED"),
    "range": IndexWord(r"[0-9]+-[0-9]+", "range:0-999"),
    "mislabelled": IndexWord("", "mislabelled"),
}


def _anchored(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the values of a config file with its relative paths made absolute."""
    found = dict(values)
    for key in ("forget", "retain", "unseen", "adjacent"):
        if isinstance(found.get(key), str) and found[key] and not is_index_words(found[key]):
            found[key] = str(folder / found[key])
    if isinstance(found.get("base"), str) and found["base"]:
        found["base"] = str(folder / found["base"])
    if isinstance(found.get("data"), str):
        found["data"] = anchored_data_spec(found["data"], folder)
    mia = found.get("mia")
    if isinstance(mia, dict) and isinstance(mia.get("shadows"), str) and mia["shadows"]:
        found["mia"] = mia | {"shadows": str(folder / mia["shadows"])}
    if isinstance(found.get("generation"), dict):
        found["generation"] = _anchored_generation(found["generation"], folder)
    if isinstance(found.get("checkpoint"), list):
        found["checkpoint"] = [
            entry | {key: str(folder / entry[key]) for key in ("path", "base") if _is_text(entry.get(key))}
            if isinstance(entry, dict)
            else entry
            for entry in found["checkpoint"]
        ]
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _anchored_generation(table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the section with the files that it names as seen from a folder; words that name no file stay."""
    found = dict(table)
    for key in ("judge", "prompts", "kept_prompts"):
        value = found.get(key)
        if isinstance(value, str) and value and value not in (TRAIN, NUDENET) and not USER_CODE.fullmatch(value):
            found[key] = str(folder / value)
    features = found.get("features")
    if isinstance(features, str) and features.startswith(INCEPTION):
        found["features"] = INCEPTION + str(folder / features.removeprefix(INCEPTION))
    if isinstance(found.get("real"), str) and found["real"]:
        found["real"] = anchored_data_spec(found["real"], folder)
    return found


def anchored_data_spec(spec: str, folder: Path) -> str:
    """Return a data spec whose paths are absolute, taken from `folder` where they were relative.

    >>> anchored_data_spec("idx:fashion?train=100", Path("/data"))
    'idx:/data/fashion?train=100'
    """
    place, mark, options = spec.partition("?")
    source, colon, path = place.partition(":")
    if source in FILE_SOURCES and path:
        place = f"{source}:{_from(path, folder)}"
    pairs = [option.partition("=") for option in options.split("&")] if mark else []
    parts = [
        f"{key}={_from(value, folder)}" if key in ("labels", "root") and value else key + eq + value
        for key, eq, value in pairs
    ]
    return place + mark + "&".join(parts)


FILE_SOURCES = ("idx", "npz", "folder", "captioned")  # data sources whose target is a file or folder


def _from(path: str, folder: Path) -> str:
    """Return a path of a data spec as seen from a folder, whose own name is escaped as data specs need it."""
    if Path(path).is_absolute() or path.startswith("~"):
        return path
    base = re.sub(r"%(?=3F|26|25)", "%25", str(folder)).replace("?", "%3F").replace("&", "%26")
    return str(Path(base) / path)
