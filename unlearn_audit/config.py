"""What to audit and how: a frozen, typed configuration, merged from flags, environment and files.

Precedence, highest first: flag, `UNLEARN_AUDIT_*`, the config named by `--config`, the checkpoint's own metadata
(filled in by the audit, for `data`, `model`, `mean` and `std`), a config found here or in a parent, the default.
Unknown keys are refused and every problem is reported at once.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from unlearn_audit.catalogue import ATTACKS
from unlearn_audit.errors import ConfigError, unknown_name
from unlearn_audit.toml import (
    Flag,
    Number,
    Place,
    Problem,
    VersionOne,
    dotted,
    explain,
    key_lines,
    nearest_line,
    read_toml,
)

__all__ = [
    "CONFIG_NAME",
    "SECTIONS",
    "AuditConfig",
    "CheckpointEntry",
    "GapSettings",
    "Layer",
    "MiaSettings",
    "RcdSettings",
    "Resolved",
    "anchored_data_spec",
    "check_config",
    "code_is_allowed",
    "environment_layer",
    "file_layer",
    "find_config",
    "outranks_metadata",
    "resolve",
]

CONFIG_NAME = "unlearn-audit.toml"
PROJECT_NAME, PROJECT_TABLE = "pyproject.toml", ("tool", "unlearn-audit")
ENVIRONMENT_PREFIX = "UNLEARN_AUDIT_"
FLAG, ENVIRONMENT, NAMED, METADATA, FOUND, DEFAULT = "flag", "environment", "config", "metadata", "found", "default"
ROLES = ("original", "retrained", "unlearned", "subject")


def _tuple_of_numbers(value: Any) -> Any:
    return (value,) if isinstance(value, int | float) and not isinstance(value, bool) else value


Channels = Annotated[tuple[Number, ...], BeforeValidator(_tuple_of_numbers), Field(min_length=1)]
Positive = Annotated[int, Field(gt=0, strict=True)]


class Part(BaseModel):
    """A part of a configuration: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CheckpointEntry(Part):
    """One checkpoint: where it is and what it is; a role not given comes from its metadata, else it is `subject`."""

    path: str
    role: Literal["original", "retrained", "unlearned", "subject"] | None = None
    label: str | None = None
    model: str | None = None


class GapSettings(Part):
    """Accuracy and loss on every split, and the gaps to retrained models."""


class RcdSettings(Part):
    """The relearning convergence delay; see `relearning`."""

    optimizer: Literal["gd", "adam"] = "gd"
    steps: Annotated[int, Field(ge=0, le=1_000_000, strict=True)] = 100
    step_size: Literal["auto"] | Annotated[Number, Field(gt=0, le=1e30)] = "auto"
    floor: Literal["zero", "best"] | Number = "zero"
    controls: Flag = True
    resamples: Annotated[int, Field(ge=100, le=1_000_000, strict=True)] = 2000


class MiaSettings(Part):
    """Which membership-inference attacks to run."""

    attacks: Annotated[tuple[str, ...], Field(min_length=1)] = ("loss",)

    @field_validator("attacks")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for index, name in enumerate(names):
            if name not in ATTACKS:
                raise ValueError(unknown_name("attack", name, ATTACKS))
            if name in names[:index]:
                raise ValueError(f"attack '{name}' is named twice")
        return names


class AuditConfig(Part):
    """Everything an audit needs to know; a measurement runs when its section is there."""

    schema_version: VersionOne = 1
    checkpoint: tuple[CheckpointEntry, ...] = ()
    data: str | None = None
    model: str | None = None
    mean: Channels | None = None
    std: Channels | None = None
    forget: str | None = None
    retain: str | None = None
    unseen: str | None = None
    device: str = "auto"
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    batch_size: Positive | None = None
    sample: Positive | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0
    download: Flag = False
    gaps: GapSettings | None = None
    rcd: RcdSettings | None = None
    mia: MiaSettings | None = None

    @field_validator("device")
    @classmethod
    def _device(cls, name: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", name):
            raise ValueError(unknown_name("device", name, ("auto", "cpu", "cuda", "cuda:N", "mps")))
        return name

    @field_validator("std")
    @classmethod
    def _std_is_positive(cls, std: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if std is not None and min(std) <= 0:
            raise ValueError("every std must be greater than 0")
        return std


class Layer(NamedTuple):
    """One place that settings come from; `values` is nested like the TOML file.

    `source` names it for people; `text` is the file's, and `table` the one that the values were taken from.
    """

    origin: str
    values: Mapping[str, Any]
    source: str = ""
    text: str = ""
    table: Place = ()


class Resolved(NamedTuple):
    """The merged configuration, and where each dotted key came from."""

    config: AuditConfig
    origins: Mapping[str, str]


def outranks_metadata(origin: str) -> bool:
    """Whether a value of that origin wins over the checkpoint's own metadata."""
    return origin in (FLAG, ENVIRONMENT, NAMED)


def code_is_allowed(origin: str) -> bool:
    """Whether a `package.module:callable` of that origin may be run: only a flag or a config named with `--config`."""
    return origin in (FLAG, NAMED)


def find_config(start: Path) -> Path | None:
    """Return the nearest `unlearn-audit.toml`, or `pyproject.toml` with `[tool.unlearn-audit]`, here or above."""
    for folder in (start, *start.parents):
        if (folder / CONFIG_NAME).is_file():
            return folder / CONFIG_NAME
        if _has_our_table(folder / PROJECT_NAME):
            return folder / PROJECT_NAME
    return None


def _has_our_table(project: Path) -> bool:
    """Whether it is a `pyproject.toml` with our table; one that is broken counts where it mentions us."""
    content = project.read_bytes() if project.is_file() else b""
    if b"unlearn-audit" not in content:
        return False
    try:
        return "unlearn-audit" in tomllib.loads(content.decode()).get("tool", {})
    except ValueError:
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
    """Take `UNLEARN_AUDIT_DEVICE`, `_PRECISION`, `_DATA`, `_FORGET`, `_MODEL`, `_SEED`, `_BATCH_SIZE` and `_SAMPLE`."""
    names = ("device", "precision", "data", "forget", "model")
    counts = ("seed", "batch_size", "sample")
    found: dict[str, Any] = {}
    for name in (*names, *counts):
        text = variables.get(ENVIRONMENT_PREFIX + name.upper())
        if text:
            found[name] = int(text) if name in counts and re.fullmatch("[+-]?[0-9]{1,19}", text) else text
    return Layer(ENVIRONMENT, found, "environment")


def _is_words(spec: str) -> bool:
    """Whether an index spec is words such as `class:3`, not a file; `mislabelled.npy` is a file."""
    word, colon, _ = spec.partition(":")
    return word in INDEX_WORDS and (bool(colon) or not Path(spec).suffix)


INDEX_WORDS = ("class", "random", "range", "mislabelled")


def _anchored(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the values of a config file with its relative paths made absolute."""
    found = dict(values)
    for key in ("forget", "retain", "unseen"):
        if isinstance(found.get(key), str) and not _is_words(found[key]):
            found[key] = str(folder / found[key])
    if isinstance(found.get("data"), str):
        found["data"] = anchored_data_spec(found["data"], folder)
    if isinstance(found.get("checkpoint"), list):
        found["checkpoint"] = [
            entry | {"path": str(folder / entry["path"])}
            if isinstance(entry, dict) and isinstance(entry.get("path"), str)
            else entry
            for entry in found["checkpoint"]
        ]
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


FILE_SOURCES = ("idx", "npz", "folder")


def _from(path: str, folder: Path) -> str:
    """Return a path of a data spec as seen from a folder, whose own name is escaped as data specs need it."""
    if Path(path).is_absolute() or path.startswith("~"):
        return path
    base = re.sub(r"%(?=3F|26|25)", "%25", str(folder)).replace("?", "%3F").replace("&", "%26")
    return str(Path(base) / path)


def _flat(values: Mapping[str, Any], at: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yield every key with its value, tables as {} before what is in them, since a section's presence has meaning."""
    for key, value in values.items():
        place = (*at, key)
        if isinstance(value, Mapping):
            yield place, {}
            yield from _flat(value, place)
        else:
            yield place, value


def _nested(flat: Mapping[Place, Any]) -> dict[str, Any]:
    """Undo `_flat`."""
    found: dict[str, Any] = {}
    for place, value in flat.items():
        inner: Any = found
        for table in place[:-1]:
            inner = inner[table]
        inner[place[-1]] = dict(value) if isinstance(value, dict) else value
    return found


def resolve(layers: Sequence[Layer]) -> Resolved:
    """Merge layers, the first one winning key by key, and validate what comes out.

    Args:
        layers: highest precedence first.

    Returns:
        The configuration and the origin of every dotted key that some layer gave.

    Raises:
        ConfigError: with every problem of every key, and where that key came from.
    """
    merged: dict[Place, Any] = {}
    givers: dict[Place, Layer] = {}
    for layer in layers:
        for place, value in _flat(layer.values):
            inside = place[:-1]
            if place not in merged and (not inside or merged.get(inside) == {}):
                merged[place], givers[place] = value, layer
    values = _nested(merged)
    try:
        config = AuditConfig.model_validate(values)
    except ValidationError as problem:
        raise _refusal(problem, values, givers) from problem
    return Resolved(config, {dotted(place): layer.origin for place, layer in givers.items()})


COMMAND_LINE = "command line"  # the source whose keys are flags


def _refusal(problem: ValidationError, values: Mapping[str, Any], givers: Mapping[Place, Layer]) -> ConfigError:
    """Return one line per wrong key, and the sources of these keys."""

    def giver(place: Place) -> Layer | None:
        return next((givers[place[:end]] for end in range(len(place), 0, -1) if place[:end] in givers), None)

    wrong = explain(problem, values, AuditConfig, lambda place: _shown(place, giver(place)))
    found = [(giver(one.place), one) for one in wrong]
    sources = sorted({layer.source or layer.origin if layer else "configuration" for layer, _ in found})
    return ConfigError(", ".join(sources), [_located(one, layer) for layer, one in found])


def _shown(place: Place, layer: Layer | None) -> str:
    """Return a key as the person wrote it: as a flag, a variable, or as it stands in a file."""
    name = str(place[1] if place[0] in SECTIONS and len(place) > 1 else place[0])
    if layer is not None and layer.origin == ENVIRONMENT:
        return ENVIRONMENT_PREFIX + name.upper()
    flag = layer is not None and layer.source == COMMAND_LINE and place[0] not in ("checkpoint", "mia")
    return "--" + name.replace("_", "-") if flag else dotted(place)


def _located(problem: Problem, layer: Layer | None) -> str:
    """Put the line before a problem where the file has one for its key."""
    lines = key_lines(layer.text) if layer else {}
    line = nearest_line(layer.table + problem.place, lines) if layer else None
    return f"line {line}: {problem.text}" if line else problem.text


SECTIONS: Mapping[str, type[Part]] = {
    "checkpoint": CheckpointEntry,
    "gaps": GapSettings,
    "rcd": RcdSettings,
    "mia": MiaSettings,
}


def check_config(path: Path) -> AuditConfig:
    """Check a config file without running it, and return what it asks for.

    Raises:
        ConfigError: it cannot be read, or with every problem at once: keys, values, files that are not there.
    """
    layer = file_layer(path, origin=NAMED)
    problems = [_located(problem, layer) for problem in _missing(layer.values)]
    try:
        config = resolve([layer]).config
    except ConfigError as refusal:
        raise ConfigError(refusal.source, [*refusal.problems, *problems]) from refusal
    if problems:
        raise ConfigError(str(path), problems)
    return config


def _missing(values: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the files that a config names and that are not there, and what it forgets to ask for."""
    entries = values.get("checkpoint", [])
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        path = entry.get("path") if isinstance(entry, dict) else None
        if isinstance(path, str) and not Path(path).is_file():
            yield Problem(("checkpoint", index, "path"), f"checkpoint.{index}.path: no such file: {path}")
    for key in ("forget", "retain", "unseen"):
        spec = values.get(key)
        if isinstance(spec, str) and not _is_words(spec) and not Path(spec).is_file():
            yield Problem((key,), f"{key}: no such file: {spec}")
    if "checkpoint" not in values or entries == []:
        yield Problem((), "checkpoint: none given; add [[checkpoint]] with a path")
    if not any(name in values for name in ("gaps", "rcd", "mia")):
        yield Problem((), "nothing to measure: add [gaps], [rcd] or [mia]")
