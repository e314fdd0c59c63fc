"""From a state dict to the architecture it belongs to, by names and shapes against a table of known models."""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import NamedTuple

from torch import Tensor

from unlearn_audit.errors import CheckpointError, UsageError
from unlearn_audit.model_folder import CONFIG
from unlearn_audit.models.building import RGB, TIMM, TORCHVISION, Shapes, shapes_of, skeleton
from unlearn_audit.models.loading import differences, is_counter
from unlearn_audit.models.naming import NameReading, read_names

TABLE = "fingerprints.json"
SKETCH = 16  # hashes kept of a set; the overlap of two sets is then known to about 1 / sqrt(16)
DIGITS = 6  # hex digits of a kept hash
NEAREST = 3
SHORTLIST = 6  # models that are compared tensor by tensor when none matches
MOST_TOKENS = 2  # beside the patches: for the class, for distillation
# Size of the patches and rows of them, of the transformers that the table has: 16 on 224 pixels, and so on.
USUAL_GRIDS = tuple((size, image // size) for image in (224, 384, 240, 256) for size in (16, 32, 8, 14))
RENAMES = {"linear": "fc", "shortcut": "downsample"}  # how widespread CIFAR code calls what torchvision calls otherwise


@dataclass(frozen=True)
class Identified:
    """The architecture of a state dict.

    Attributes:
        spec: what `build` takes.
        classes: outputs of the head.
        channels: channels of the images.
        state: the tensors, under the names that the model of `spec` has.
        assumptions: what the weights cannot tell, or what was read differently, in words.
        alternatives: other specs with the same names and shapes, the likelier first.
        notes: what was removed from names, left out or put together, in words.
        mean: of a normalisation that stood among the weights, per channel; None where there is none.
        std: likewise.
    """

    spec: str
    classes: int
    channels: int
    state: dict[str, Tensor]
    assumptions: tuple[str, ...]
    alternatives: tuple[str, ...]
    notes: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def in_words(self) -> tuple[str, ...]:
        """How names were read, what is taken for granted, and what else would fit."""
        also = (f"the same weights also fit: {', '.join(self.alternatives)}",) if self.alternatives else ()
        return (*self.notes, *(f"assumed: {text}" for text in self.assumptions), *also)


class Pattern(NamedTuple):
    """Which dimension of which tensors is the number of classes, and which that of channels where it is free."""

    classes: Mapping[str, int]
    channels: Mapping[str, int]

    def read(self, shapes: Shapes) -> tuple[int, int] | None:
        """Return classes and channels of a model, if its tensors have these names and agree on them."""
        classes, channels = (_common_size(shapes, free) for free in self)
        if classes is None or (self.channels and channels is None):
            return None
        return classes, channels or RGB

    @property
    def free(self) -> dict[str, int]:
        """Both kinds of dimension, as `lines_of` takes them."""
        return {**self.classes, **self.channels}


def _common_size(shapes: Shapes, free: Mapping[str, int]) -> int | None:
    """Return the one size that all these dimensions have."""
    sizes = {shapes[name][dim] if len(shapes.get(name, ())) > dim else None for name, dim in free.items()}
    return sizes.pop() if len(sizes) == 1 else None


class KnownModel(NamedTuple):
    """One line of the table: the models that share names and shapes."""

    sha256: str
    specs: tuple[str, ...]
    pattern: int
    tensors: int
    names: str  # sketch of the names
    shapes: str  # sketch of names with shapes


class Table(NamedTuple):
    """The shipped table."""

    patterns: tuple[Pattern, ...]
    entries: tuple[KnownModel, ...]


def lines_of(shapes: Shapes, free: Mapping[str, int]) -> list[str]:
    """Return the sorted lines `name shape` of a model, with `*` for a free dimension and without batch counters.

    >>> lines_of({"fc.weight": (10, 64), "fc.bias": (10,)}, {"fc.weight": 0, "fc.bias": 0})
    ['fc.bias *', 'fc.weight *x64']
    """
    return sorted(f"{name} {_shape(name, shape, free)}" for name, shape in shapes.items() if not is_counter(name))


def _shape(name: str, shape: tuple[int, ...], free: Mapping[str, int]) -> str:
    """Write a shape, a free dimension as a star."""
    return "x".join("*" if free.get(name) == dim else str(size) for dim, size in enumerate(shape))


def fingerprint(lines: Iterable[str]) -> str:
    """Return the hex SHA-256 of a model's lines."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def sketch(lines: Iterable[str]) -> str:
    """Return the smallest hashes of a set of lines, joined: enough to estimate how much two sets share.

    Bottom-k sketch: Broder, *On the resemblance and containment of documents* (1997).
    """
    hashes = sorted({hashlib.sha256(line.encode()).hexdigest()[:DIGITS] for line in lines})
    return "".join(hashes[:SKETCH])


def _resemblance(one: str, other: str) -> float:
    """Estimate |A and B| / |A or B| of two sets from their sketches, between 0 and 1."""
    first, second = ({text[i : i + DIGITS] for i in range(0, len(text), DIGITS)} for text in (one, other))
    smallest = sorted(first | second)[:SKETCH]
    return sum(value in first and value in second for value in smallest) / len(smallest) if smallest else 0.0


def preference(spec: str) -> tuple[int, int, str]:
    """Return the sorting key among equals: ours, torchvision, timm, and of these the one with the shortest name."""
    rank = {TORCHVISION: 1, TIMM: 2}.get(spec.partition(":")[0], 0)
    return rank, len(spec), spec


@cache
def _table() -> Table:
    """Read the shipped table once."""
    content = json.loads(resources.files("unlearn_audit.models").joinpath(TABLE).read_text("utf-8"))
    patterns = tuple(Pattern(p["classes"], p["channels"]) for p in content["patterns"])
    entries = tuple(KnownModel(**{**entry, "specs": tuple(entry["specs"])}) for entry in content["entries"])
    return Table(patterns, entries)


def identify(state: Mapping[str, Tensor], *, where: str = "the checkpoint") -> Identified:
    """Find the architecture that a state dict belongs to, whatever its number of classes.

    Compared are the names and shapes of all tensors; for our own models the number of channels is free as well.

    Args:
        state: names and tensors, as the file has them.
        where: the checkpoint's name, for the message.

    Raises:
        CheckpointError: no known model has these tensors; the message has the nearest ones and what differs.
    """
    reading = read_names(state, lambda shapes: bool(_known(shapes)[0]), where=where)
    found = shapes_of(reading.state)
    matches, renamed = _known(found)
    if matches:
        return _identified(reading, matches, renamed=renamed)
    told = _no_match(found, {_renamed(name): shape for name, shape in found.items()})
    raise CheckpointError(f"{where}: {told}. {_way_out(where)}")


def _way_out(where: str) -> str:
    """Say how an architecture is named; where a config lies beside the weights, it may do that."""
    folder = os.path.dirname(where)
    if folder and os.path.isfile(os.path.join(folder, CONFIG)):
        return f"A {CONFIG} lies beside it: name the folder ({folder}) as the checkpoint, or say --model SPEC"
    return "Name the architecture with --model SPEC"


def _known(found: Shapes) -> tuple[list[tuple[str, int, int]], bool]:
    """Return what `_matches` does, and whether foreign names had to be translated for it."""
    renamed = {_renamed(name): shape for name, shape in found.items()}
    for shapes in (found, renamed):
        matches = _matches(shapes) if len(shapes) == len(found) else []
        matches = matches or _of_other_channels(shapes) or _of_other_sizes(shapes)
        if matches:
            return matches, shapes is renamed
    return [], False


def _of_other_channels(shapes: Shapes) -> list[tuple[str, int, int]]:
    """Return what `_matches` does for a library's model whose first convolution takes other images than in colour."""
    first = next((name for name, shape in shapes.items() if len(shape) == 4), None)
    if first is None or shapes[first][1] == RGB:
        return []
    channels = shapes[first][1]
    found = _matches({**shapes, first: (shapes[first][0], RGB, *shapes[first][2:])})
    torchvision = f"{TORCHVISION}:"
    specs = [(f"{spec}?channels={channels}" if spec.startswith(torchvision) else spec, n) for spec, n, _ in found]
    return [(spec, classes, channels) for spec, classes in specs if ":" in spec]


def _of_other_sizes(shapes: Shapes) -> list[tuple[str, int, int]]:
    """Return what `_matches` does for a transformer of timm's that was built for other images or patches than usual.

    Its grid of patches is in the weights: a position embedding has a row for each patch, and for up to two tokens more.
    """
    patch, positions = shapes.get("patch_embed.proj.weight", ()), shapes.get("pos_embed", ())
    if len(patch) != 4 or len(positions) != 3 or patch[2] != patch[3]:
        return []
    for tokens in range(MOST_TOKENS + 1):
        grid = math.isqrt(max(positions[1] - tokens, 0))
        if grid * grid + tokens != positions[1] or not grid:
            continue
        for size, rows in USUAL_GRIDS:
            usual = {
                "patch_embed.proj.weight": (*patch[:2], size, size),
                "pos_embed": (1, rows * rows + tokens, positions[2]),
            }
            found = [match for match in _matches({**shapes, **usual}) if match[0].startswith(f"{TIMM}:")]
            if found:
                options = f"?img_size={grid * patch[2]}&patch_size={patch[2]}"
                return [(f"{spec}{options}", classes, channels) for spec, classes, channels in found]
    return []


def _renamed(name: str) -> str:
    """Translate the widespread foreign names of CIFAR ResNets."""
    return ".".join(RENAMES.get(part, part) for part in name.split("."))


def _matches(shapes: Shapes) -> list[tuple[str, int, int]]:
    """Return (spec, classes, channels) of every model with these names and shapes, the preferred first."""
    table = _table()
    readings = {i: reading for i, pattern in enumerate(table.patterns) if (reading := pattern.read(shapes))}
    digests = {i: fingerprint(lines_of(shapes, table.patterns[i].free)) for i in readings}
    fitting = [entry for entry in table.entries if digests.get(entry.pattern) == entry.sha256]
    found = [(spec, *readings[entry.pattern]) for entry in fitting for spec in entry.specs]
    return sorted(found, key=lambda match: preference(match[0]))


def _identified(reading: NameReading, matches: list[tuple[str, int, int]], *, renamed: bool) -> Identified:
    """Put the answer together with what it takes for granted."""
    spec, classes, channels = matches[0]
    state = reading.state
    assumptions = [f"stride, pooling, activations and input size are not in the weights: those of {spec} are assumed"]
    changed = sorted({part for name in state for part in name.split(".") if part in RENAMES}) if renamed else []
    assumptions += [f"tensors named '{part}.' are read as '{RENAMES[part]}.'" for part in changed]
    return Identified(
        spec=spec,
        classes=classes,
        channels=channels,
        state={_renamed(name) if renamed else name: tensor for name, tensor in state.items()},
        assumptions=tuple(assumptions),
        alternatives=tuple(match[0] for match in matches[1:]),
        notes=reading.notes,
        mean=reading.mean,
        std=reading.std,
    )


def _no_match(found: Shapes, renamed: Shapes) -> str:
    """Tell the nearest known models, and how the nearest of them differs."""
    (_, ranked), shapes = max((_ranked(found), found), (_ranked(renamed), renamed), key=lambda pair: pair[0][0])
    opening = f"no known architecture has these {len(found)} tensors"
    if not ranked:
        return f"{opening}, nor anything like them ({', '.join(list(found)[:NEAREST])} ...)"
    compared = sorted((_compared(entry, shapes) for entry in ranked), key=lambda pair: pair[0])
    names = ", ".join(entry.specs[0] for _, _, entry in compared[:NEAREST])
    _, words, nearest = compared[0]
    return f"{opening}; nearest: {names}" + (f". Against {nearest.specs[0]}: {words}" if words else "")


def _ranked(shapes: Shapes) -> tuple[float, list[KnownModel]]:
    """Return a shortlist of the table by likeness of names, names with shapes, then size; and the best likeness."""
    table = _table()
    names = sketch(name for name in shapes if not is_counter(name))
    lines = [sketch(lines_of(shapes, pattern.free)) for pattern in table.patterns]
    size = sum(not is_counter(name) for name in shapes)
    scored = [
        (_resemblance(names, entry.names) + _resemblance(lines[entry.pattern], entry.shapes), entry)
        for entry in table.entries
    ]
    scored.sort(key=lambda pair: (-pair[0], abs(pair[1].tensors - size), preference(pair[1].specs[0])))
    return scored[0][0], [entry for score, entry in scored[:SHORTLIST] if score > 0]


def _compared(entry: KnownModel, shapes: Shapes) -> tuple[float, str, KnownModel]:
    """Count and name what differs from a model; infinitely much from one that cannot be built here (without timm)."""
    pattern = _table().patterns[entry.pattern]
    classes, channels = pattern.read(shapes) or (10, RGB)
    try:
        needed = skeleton(entry.specs[0], classes=classes, channels=channels)
    except UsageError:
        return math.inf, "", entry
    differing = set(lines_of(needed, pattern.free)) ^ set(lines_of(shapes, pattern.free))
    return len(differing), differences(needed, shapes), entry
