"""What to audit and how: a frozen, typed configuration, merged from flags, environment and files.

Precedence, highest first: flag, `UNLEARN_AUDIT_*`, the config named by `--config`, the checkpoint's own metadata
(filled in by the audit, for `data`, `model`, `mean` and `std`), a config found here or in a parent, the default.
Unknown keys are refused and every problem is reported at once.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from unlearn_audit.catalogue import ATTACKS
from unlearn_audit.errors import ConfigError, unknown_name
from unlearn_audit.files import check_input

__all__ = [
    "CONFIG_NAME",
    "AuditConfig",
    "CheckpointEntry",
    "GapSettings",
    "Layer",
    "MiaSettings",
    "RcdSettings",
    "Resolved",
    "check_files",
    "code_is_allowed",
    "environment_layer",
    "file_layer",
    "find_config",
    "outranks_metadata",
    "resolve",
]

CONFIG_NAME = "unlearn-audit.toml"
ENVIRONMENT_PREFIX = "UNLEARN_AUDIT_"
FLAG, ENVIRONMENT, NAMED, METADATA, FOUND, DEFAULT = "flag", "environment", "config", "metadata", "found", "default"
ROLES = ("original", "retrained", "unlearned", "subject")


def _tuple_of_numbers(value: Any) -> Any:
    return (value,) if isinstance(value, int | float) and not isinstance(value, bool) else value


Channels = Annotated[tuple[float, ...], BeforeValidator(_tuple_of_numbers), Field(min_length=1)]
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
    step_size: Literal["auto"] | Annotated[float, Field(gt=0, le=1e30)] = "auto"
    floor: Literal["zero", "best"] | float = "zero"
    controls: bool = True
    resamples: Annotated[int, Field(ge=100, le=1_000_000, strict=True)] = 2000


class MiaSettings(Part):
    """Which membership-inference attacks to run."""

    attacks: tuple[str, ...] = ("loss",)

    @field_validator("attacks")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in ATTACKS and ":" not in name:
                raise ValueError(unknown_name("attack", name, ATTACKS))
        return names


class AuditConfig(Part):
    """Everything an audit needs to know; a measurement runs when its section is there."""

    schema_version: Literal[1] = 1
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
    download: bool = False
    gaps: GapSettings | None = None
    rcd: RcdSettings | None = None
    mia: MiaSettings | None = None

    @field_validator("device")
    @classmethod
    def _device(cls, name: str) -> str:
        kind, _, index = name.partition(":")
        if kind not in ("auto", "cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdigit())):
            raise ValueError(unknown_name("device", name, ("auto", "cpu", "cuda", "cuda:N", "mps")))
        return name

    @field_validator("std")
    @classmethod
    def _std_is_positive(cls, std: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if std is not None and min(std) <= 0:
            raise ValueError("every std must be greater than 0")
        return std


class Layer(NamedTuple):
    """One place that settings come from; `values` is nested like the TOML file."""

    origin: str
    values: Mapping[str, Any]
    source: str = ""


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
        project = folder / "pyproject.toml"
        if project.is_file() and b"[tool.unlearn-audit" in project.read_bytes():
            return project
    return None


def file_layer(path: Path, *, origin: str) -> Layer:
    """Read a TOML config; relative paths in it are taken from its folder.

    Args:
        path: `unlearn-audit.toml`, or a `pyproject.toml` whose `[tool.unlearn-audit]` is read.
        origin: "config" when the user named it, "found" when it was come across.

    Raises:
        ConfigError: missing, not TOML, or not UTF-8.
    """
    check_input(path, "config", ConfigError)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ConfigError(str(path), [f"not readable TOML: {problem}"]) from problem
    if path.name == "pyproject.toml":
        values = _project_table(path, values)
    return Layer(origin, _anchored(values, path.resolve().parent), str(path))


def _project_table(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `[tool.unlearn-audit]` of a `pyproject.toml`, empty where there is none."""
    tool = values.get("tool", {})
    table = tool.get("unlearn-audit", {}) if isinstance(tool, dict) else tool
    if not isinstance(table, dict):
        raise ConfigError(str(path), [f"tool.unlearn-audit must be a table (got {table!r})"])
    return table


def environment_layer(variables: Mapping[str, str]) -> Layer:
    """Take `UNLEARN_AUDIT_DEVICE`, `_PRECISION`, `_DATA`, `_FORGET`, `_MODEL`, `_SEED`, `_BATCH_SIZE` and `_SAMPLE`."""
    names = {"device": str, "precision": str, "data": str, "forget": str, "model": str}
    counts = ("seed", "batch_size", "sample")
    found: dict[str, Any] = {}
    for name in (*names, *counts):
        text = variables.get(ENVIRONMENT_PREFIX + name.upper())
        if text:
            found[name] = int(text) if name in counts and text.isdigit() else text
    return Layer(ENVIRONMENT, found, "environment")


INDEX_KEYWORDS = ("class:", "random:", "range:", "mislabelled")


def _anchored(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the values of a config file with its relative paths made absolute."""
    found = dict(values)
    for key in ("forget", "retain", "unseen"):
        if isinstance(found.get(key), str) and not found[key].startswith(INDEX_KEYWORDS):
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
    if source in ("idx", "npz", "folder"):
        place = f"{source}{colon}{folder / path}"
    pairs = [option.partition("=") for option in options.split("&")] if mark else []
    parts = [f"{key}={folder / value}" if key in ("labels", "root") else key + eq + value for key, eq, value in pairs]
    return place + mark + "&".join(parts)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as dotted keys; an empty table keeps its name, since a section's presence has meaning."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found[f"{prefix}{key}"] = {}
            found.update(_flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `_flat`."""
    found: dict[str, Any] = {}
    for key, value in flat.items():
        *tables, last = key.split(".")
        place = found
        for table in tables:
            place = place.setdefault(table, {})
        if value == {} and isinstance(value, dict):
            place.setdefault(last, {})
        else:
            place[last] = value
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
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        for key, value in _flat(layer.values).items():
            if key not in merged:
                merged[key], origins[key], sources[key] = value, layer.origin, layer.source or layer.origin
    try:
        return Resolved(AuditConfig.model_validate(_nested(merged)), origins)
    except ValidationError as problem:
        raise _refusal(problem, sources) from problem


COMMAND_LINE = "command line"  # the source whose keys are flags


def _refusal(problem: ValidationError, sources: Mapping[str, str]) -> ConfigError:
    """Return one line per wrong key, however many types it could have had, and the sources of these keys."""
    by_key: dict[str, list[Any]] = {}
    for error in problem.errors():
        by_key.setdefault(_key(error), []).append(error)
    wrong = {key: _source(key, sources) for key in by_key}
    lines = [_explain(errors, _shown(key, wrong[key])) for key, errors in by_key.items()]
    return ConfigError(", ".join(sorted(set(wrong.values()))), lines)


def _key(error: Any) -> str:
    """Return the dotted key that an error is about, without the names that pydantic gives the types of a union."""
    return ".".join(str(part) for part in error["loc"] if "[" not in str(part) and part not in UNION_PARTS)


UNION_PARTS = ("constrained-float", "float")


def _source(key: str, sources: Mapping[str, str]) -> str:
    """Return the source of the longest part of a key that somebody gave."""
    parts = key.split(".")
    givens = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((sources[given] for given in givens if given in sources), "configuration")


def _shown(key: str, source: str) -> str:
    """Return a key as the person wrote it: as a flag, a variable, or as it stands in a file."""
    parts = key.split(".")
    name = parts[1] if parts[0] in SECTIONS and len(parts) > 1 else parts[0]
    if source == ENVIRONMENT:
        return ENVIRONMENT_PREFIX + name.upper()
    positional = parts[0] in ("checkpoint", "mia")
    return "--" + name.replace("_", "-") if source == COMMAND_LINE and not positional else key


def _explain(errors: Sequence[Any], key: str) -> str:
    """Turn what pydantic says of one key into `key: what is wrong`."""
    error, given = errors[0], errors[0].get("input")
    if error["type"] == "extra_forbidden":
        *tables, last = key.split(".")
        known = _known_keys(tables)
        near = get_close_matches(last, known, n=1, cutoff=0.5)
        return f"unknown key '{key}'" + (f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}")
    if error["type"] == "value_error":
        return f"{key}: {error['msg'].removeprefix('Value error, ')}"
    if error["type"] == "literal_error" and isinstance(given, str) and len(errors) == 1:
        choices = re.findall("'([^']*)'", error["ctx"]["expected"])
        return f"{key}: {unknown_name(key.removeprefix('--').rpartition('.')[2], given, choices)}"
    expected = " or ".join(each["msg"].removeprefix("Input should be ").partition(",")[0] for each in errors)
    return f"{key}: {error['msg'] if len(errors) == 1 else f'Input should be {expected}'} (got {given!r})"


SECTIONS: Mapping[str, type[Part]] = {
    "checkpoint": CheckpointEntry,
    "gaps": GapSettings,
    "rcd": RcdSettings,
    "mia": MiaSettings,
}


def _known_keys(tables: Sequence[str]) -> list[str]:
    """Return the keys that may stand in that table."""
    section = SECTIONS.get(tables[0]) if tables else AuditConfig
    return sorted((section or AuditConfig).model_fields)


def check_files(config: AuditConfig, source: str) -> None:
    """Check that the files a configuration names are there and that it asks for something.

    Raises:
        ConfigError: with every problem.
    """
    problems = []
    for index, entry in enumerate(config.checkpoint):
        if not Path(entry.path).is_file():
            problems.append(f"checkpoint.{index}.path: no such file: {entry.path}")
    for key in ("forget", "retain", "unseen"):
        spec = getattr(config, key)
        if spec and not spec.startswith(INDEX_KEYWORDS) and not Path(spec).is_file():
            problems.append(f"{key}: no such file: {spec}")
    if not config.checkpoint:
        problems.append("checkpoint: none given; add [[checkpoint]] with a path")
    if not any(getattr(config, name) is not None for name in ("gaps", "rcd", "mia")):
        problems.append("nothing to measure: add [gaps], [rcd] or [mia]")
    if problems:
        raise ConfigError(source, problems)
