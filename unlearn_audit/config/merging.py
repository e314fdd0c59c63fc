"""One configuration out of many layers, key by key, with every problem at once."""

import os.path
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from unlearn_audit.config.generation import INCEPTION, NUDENET, TRAIN
from unlearn_audit.config.layers import (
    COMMAND_LINE,
    ENVIRONMENT,
    ENVIRONMENT_PREFIX,
    NAMED,
    Layer,
    file_layer,
    is_index_words,
)
from unlearn_audit.config.lists import WrittenConfig, WrittenOut, written_out
from unlearn_audit.config.settings import SECTIONS, AuditConfig
from unlearn_audit.config.toml_source import key_lines, nearest_line
from unlearn_audit.errors import ConfigError
from unlearn_audit.pipeline_folder import is_pipeline_folder
from unlearn_audit.strict_json import ConfigIssue, Place, dotted, explain


class Resolved(NamedTuple):
    """The merged configuration, and where each dotted key came from."""

    config: AuditConfig
    origins: Mapping[str, str]


Givers = Mapping[Place, Layer]  # which layer gave a key


def resolve(layers: Sequence[Layer]) -> Resolved:
    """Merge layers, the first one winning key by key, and validate what comes out.

    Args:
        layers: highest precedence first.

    Returns:
        The configuration and the origin of every dotted key that some layer gave.

    Raises:
        ConfigError: with every problem of every key, and where that key came from.
    """
    values, givers = _merged(layers)
    config = _validated(written_out(values), givers)
    return Resolved(config, {dotted(place): layer.origin for place, layer in givers.items()})


def check_config(
    path: Path, *, also: Callable[[Mapping[str, Any]], Iterator[ConfigIssue]] | None = None
) -> AuditConfig:
    """Check a config file without running it, and return what it asks for.

    Args:
        path: the file.
        also: finds problems that take knowledge which this room lacks, in values of any kind.

    Raises:
        ConfigError: it cannot be read, or with every problem at once: keys, values, files that are not there.
    """
    values, givers = _merged([file_layer(path, origin=NAMED)])
    written = written_out(values)
    more = map(written.issue_in_file, also(written.values) if also else ())
    return _validated(written, givers, [*_missing(values), *more], str(path))


def _validated(written: WrittenOut, givers: Givers, more: Sequence[ConfigIssue] = (), source: str = "") -> AuditConfig:
    """Return the configuration, or refuse it with what is wrong with keys, values and labels, and what more is."""
    wrong: list[ConfigIssue] = []
    config, cause = None, None
    try:
        config = AuditConfig.model_validate(written.values)
    except ValidationError as problem:
        wrong, cause = _explained(problem, written, givers), problem
    wrong = [*wrong, *written.problems, *more]
    if config is None or wrong:
        raise _refusal(list(dict.fromkeys(wrong)), givers, source) from cause
    return config


def _merged(layers: Sequence[Layer]) -> tuple[dict[str, Any], Givers]:
    """Return the merged values, nested, and who gave each key; a key within something that is no table is left out."""
    flat: dict[Place, Any] = {}
    givers: dict[Place, Layer] = {}
    for layer in layers:
        for place, value in _flat(layer.values):
            inside = place[:-1]
            if place not in flat and (not inside or flat.get(inside) == {}):
                flat[place], givers[place] = value, layer
    return _nested(flat), givers


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


def _explained(problem: ValidationError, written: WrittenOut, givers: Givers) -> list[ConfigIssue]:
    """Return what is wrong, each key of the file once, however many models its entry stands for."""

    def name(place: Place) -> str:
        return _shown(written.in_file(place), _giver(place, givers))

    found: dict[Place, ConfigIssue] = {}
    for issue in explain(problem, written.values, WrittenConfig, name):
        if not written.repeats(issue.place):
            place = written.in_file(issue.place)
            found.setdefault(place, ConfigIssue(place, issue.text))
    return list(found.values())


def _giver(place: Place, givers: Givers) -> Layer | None:
    """Return the layer that gave a key, or else the table around it."""
    return next((givers[place[:end]] for end in range(len(place), 0, -1) if place[:end] in givers), None)


def _shown(place: Place, layer: Layer | None) -> str:
    """Return a key as the person wrote it: as a flag, a variable, or as it stands in a file."""
    name = str(place[1] if place[0] in SECTIONS and len(place) > 1 else place[0])
    if layer is not None and layer.origin == ENVIRONMENT:
        return ENVIRONMENT_PREFIX + name.upper()
    flag = layer is not None and layer.source == COMMAND_LINE and place[0] not in ("checkpoint", "mia")
    return "--" + name.replace("_", "-") if flag else dotted(place)


def _refusal(problems: Sequence[ConfigIssue], givers: Givers, source: str = "") -> ConfigError:
    """Return the error: problems in the order of their lines, where they have one, and the sources of the keys."""
    layers = [_giver(problem.place, givers) for problem in problems]
    sources = {layer.source or layer.origin for layer in layers if layer}
    texts_of = {layer.source: layer.text for layer in layers if layer and layer.text}
    lines = {name: key_lines(text) for name, text in texts_of.items()}
    located = [
        (nearest_line(layer.table + problem.place, lines.get(layer.source, {})) if layer else None, problem.text)
        for problem, layer in zip(problems, layers, strict=True)
    ]
    located.sort(key=lambda pair: pair[0] or 0)
    texts = [f"line {line}: {text}" if line else text for line, text in located]
    return ConfigError(source or ", ".join(sorted(sources)) or "configuration", texts)


def names_generator(config: AuditConfig) -> bool:
    """Return whether the first checkpoint is a diffusion pipeline: its folder, or a file that is put over one."""
    entry = config.checkpoint[0]
    return is_pipeline_folder(Path(entry.path)) or bool(entry.base or config.base)


def _missing(values: Mapping[str, Any]) -> Iterator[ConfigIssue]:
    """Yield the files that a config names and that are not there, and what it forgets to ask for."""
    entries = values.get("checkpoint", [])
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        path = entry.get("path") if isinstance(entry, dict) else None
        if isinstance(path, str) and path and not os.path.isfile(path) and not os.path.isdir(path):
            yield ConfigIssue(("checkpoint", index, "path"), f"checkpoint.{index}.path: no such file: {path}")
    if "forget" not in values:
        yield ConfigIssue((), 'forget: not given; say what is to be forgotten, such as forget = "forget.npy"')
    for key in ("forget", "retain", "unseen", "adjacent"):
        spec = values.get(key)
        if isinstance(spec, str) and spec and not is_index_words(spec) and not os.path.isfile(spec):
            yield ConfigIssue((key,), f"{key}: no such file: {spec}")
    shadows = values["mia"].get("shadows") if isinstance(values.get("mia"), Mapping) else None
    if isinstance(shadows, str) and shadows and not os.path.isdir(shadows):
        yield ConfigIssue(("mia", "shadows"), f"mia.shadows: no such folder: {shadows}")
    generation = values.get("generation")
    for key in ("judge", "prompts", "kept_prompts") if isinstance(generation, Mapping) else ():
        named = generation.get(key) if isinstance(generation, Mapping) else None
        words = (TRAIN, NUDENET) if key == "judge" else ()
        there = os.path.exists if key == "judge" else os.path.isfile  # a checkpoint may be a folder
        if isinstance(named, str) and named not in words and not named.startswith(INCEPTION) and not there(named):
            yield ConfigIssue(("generation", key), f"generation.{key}: no such file: {named}")
    if not entries and not values.get("train"):
        yield ConfigIssue((), "checkpoint: none given; add [[checkpoint]] with a path, or [[train]] with a label")
    measuring = [name for name in SECTIONS if name != "checkpoint"]
    if not any(name in values for name in measuring):
        yield ConfigIssue((), f"nothing to measure: add a section of {', '.join(f'[{name}]' for name in measuring)}")
