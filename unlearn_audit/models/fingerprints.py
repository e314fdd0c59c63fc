"""The table of fingerprints, written again when a library brings new models.

Run `python -m unlearn_audit.models.fingerprints OUT` with timm installed. Every classifier of the catalogue, of
torchvision and of timm is built twice without memory for its weights, with two numbers of classes, to see which
dimensions depend on that number. Takes some minutes; models that cannot be described are listed under `skipped`.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unlearn_audit.catalogue import GENERATORS, MODELS
from unlearn_audit.errors import UsageError
from unlearn_audit.files import atomic_write
from unlearn_audit.models.building import TIMM, TORCHVISION, Shapes, library_names, skeleton
from unlearn_audit.models.recognition import KnownModel, Pattern, fingerprint, lines_of, preference, sketch

CLASSES = (7, 13)
CHANNELS = (3, 5)


def describe(spec: str) -> tuple[Pattern, list[str]]:
    """Return the free dimensions of a model and its lines.

    Raises:
        UsageError: the model cannot be built, or does not depend on the number of classes in a plain way.
    """
    few, many = (skeleton(spec, classes=count) for count in CLASSES)
    classes = _free(few, many, CLASSES)
    if not classes:
        raise UsageError("no tensor depends on the number of classes")
    channels: dict[str, int] = {}
    if spec in MODELS:
        channels = _free(few, skeleton(spec, classes=CLASSES[0], channels=CHANNELS[1]), CHANNELS)
    pattern = Pattern(classes, channels)
    return pattern, lines_of(few, pattern.free)


def _free(one: Shapes, other: Shapes, counts: tuple[int, int]) -> dict[str, int]:
    """Return name -> dimension of the sizes that follow a count."""
    if one.keys() != other.keys():
        raise UsageError("the number of classes changes which tensors there are")
    differing = [
        (name, dim)
        for name, shape in one.items()
        for dim, (size, size_then) in enumerate(zip(shape, other[name], strict=True))
        if size != size_then
    ]
    plain = all((one[name][dim], other[name][dim]) == counts for name, dim in differing)
    if not plain or len(dict(differing)) != len(differing):
        raise UsageError("a dimension is not simply the number of classes")
    return dict(differing)


def _specs() -> Iterator[str]:
    """Yield every model that the table should have."""
    yield from (name for name in MODELS if name not in GENERATORS)
    for library in (TORCHVISION, TIMM):
        yield from (f"{library}:{name}" for name in library_names(library))


def table(specs: Sequence[str]) -> dict[str, Any]:
    """Return the table of the given models, ready to be written."""
    patterns: list[Pattern] = []
    groups: dict[tuple[int, str], list[str]] = {}
    lines_by_group: dict[tuple[int, str], list[str]] = {}
    skipped: dict[str, str] = {}
    for spec in sorted(specs, key=preference):
        try:
            pattern, lines = describe(spec)
        except UsageError as problem:
            skipped[spec] = str(problem)
            continue
        if pattern not in patterns:
            patterns.append(pattern)
        group = (patterns.index(pattern), fingerprint(lines))
        groups.setdefault(group, []).append(spec)
        lines_by_group[group] = lines
    entries = [_entry(group, names, lines_by_group[group]) for group, names in groups.items()]
    return {"patterns": [p._asdict() for p in patterns], "entries": entries, "skipped": skipped}


def _entry(group: tuple[int, str], specs: list[str], lines: list[str]) -> dict[str, Any]:
    """Return one line of the table."""
    names = sketch(line.partition(" ")[0] for line in lines)
    return KnownModel(group[1], tuple(specs), group[0], len(lines), names, sketch(lines))._asdict()


def text_of(content: dict[str, Any]) -> str:
    """Return the JSON text of a table with one entry per line, so that versions can be compared."""
    parts = []
    for key, value in content.items():
        rows = [json.dumps(row, separators=(",", ":")) for row in value] if isinstance(value, list) else []
        parts.append(f"{json.dumps(key)}: " + ("[\n" + ",\n".join(rows) + "\n]" if rows else json.dumps(value)))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(arguments: Sequence[str]) -> int:
    """Write the table to the file named by the only argument; return the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m unlearn_audit.models.fingerprints OUT\n")
        return UsageError.exit_code
    versions = {library: version(library).partition("+")[0] for library in (TORCHVISION, TIMM)}
    content = {"versions": versions, **table(tuple(_specs()))}
    atomic_write(Path(arguments[0]), text_of(content).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
