"""How the inputs of each model are normalised, who says so, and whether all models of one call are read alike.

By precedence: a flag, a variable, a named config; the checkpoint's own metadata; what its weights, or
the folder of a Hugging Face model, hold; the metadata of
a checkpoint that was made from it; a config found; the data's own mean and std, which are assumed and called so.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from unlearn_audit.catalogue import ASSUMED_INPUTS
from unlearn_audit.checkpoints import Checkpoint, Metadata
from unlearn_audit.config import AuditConfig, CheckpointEntry, outranks_metadata
from unlearn_audit.config.layers import DEFAULT, FOUND, METADATA
from unlearn_audit.data import Dataset, Transform
from unlearn_audit.errors import UsageError

Moments = tuple[float, ...]
Key = Literal["mean", "std"]
KEYS: tuple[Key, ...] = ("mean", "std")
OF_CHILD = "metadata of "
ALIKE = 0.01  # of a standard deviation: closer than this is the same normalisation, written with fewer digits


@dataclass(frozen=True)
class FromFile:
    """Mean and std that stand in a checkpoint beside its metadata, such as the buffers of a normalising layer.

    Attributes:
        mean: of inputs in [0, 1].
        std: likewise.
        said_by: what holds them.
        itself: whether the model normalises its images itself, so that they reach it as they are.
    """

    mean: Moments
    std: Moments
    said_by: str = "weights"
    itself: bool = False


@dataclass(frozen=True)
class Normalisation:
    """The transform of one model's inputs, and who said its mean and its std.

    Attributes:
        transform: mean and std, one for each channel.
        origins: of "mean" and "std".
        notes: what is to be said of it beside the model.
    """

    transform: Transform
    origins: Mapping[Key, str]
    notes: tuple[str, ...] = ()


class Normalised(Protocol):
    """A model as far as its normalisation goes."""

    @property
    def label(self) -> str:
        """Its unique label."""

    @property
    def transform(self) -> Transform:
        """What its inputs go through."""

    @property
    def normalised_by(self) -> str:
        """Who said its mean."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said beside it."""

    @property
    def metadata(self) -> Metadata | None:
        """What its file says of itself."""


def heir(checkpoint: Checkpoint, others: Sequence[Checkpoint]) -> Checkpoint | None:
    """Return a checkpoint that says it was made from this one, which says nothing of itself; None where there is none.

    Args:
        checkpoint: which may have metadata; then nobody else is asked.
        others: of the same call.

    Raises:
        UsageError: several were made from it, and do not agree on how it is read.
    """
    if checkpoint.metadata is not None:
        return None
    heirs = [
        other for other in others if other.metadata is not None and other.metadata.parent_sha256 == checkpoint.sha256
    ]
    said = {(m.model, m.mean, m.std): other for other in heirs if (m := other.metadata) is not None}
    if len(said) > 1:
        raise UsageError(
            f"{' and '.join(str(each.path) for each in said.values())} were both made from {checkpoint.path}, and read "
            "it differently (model, mean or std): name them with --model, --mean and --std"
        )
    return next(iter(said.values()), None)


def resolve_normalisation(
    config: AuditConfig,
    origins: Mapping[str, str],
    *,
    entry: CheckpointEntry,
    checkpoint: Checkpoint,
    dataset: Dataset,
    in_file: FromFile | None = None,
    child: Checkpoint | None = None,
) -> Normalisation:
    """Return the normalisation of one checkpoint by precedence.

    Args:
        config: the merged configuration.
        origins: of its keys.
        entry: how the checkpoint was asked for.
        checkpoint: what was read.
        dataset: which it belongs to; its mean and std are assumed where nobody says any.
        in_file: what the weights themselves hold.
        child: a checkpoint made from this one, see `heir`.

    Raises:
        UsageError: mean or std of another length than the channels.
    """
    channels = dataset.train.images.shape[1]
    found: dict[Key, Moments] = {}
    who: dict[Key, str] = {}
    for key in KEYS:
        value, who[key] = next(
            _said(
                key,
                config,
                origins=origins,
                entry=entry,
                checkpoint=checkpoint,
                dataset=dataset,
                in_file=in_file,
                child=child,
            )
        )
        found[key] = _per_channel(tuple(value), channels, key)
    transform = Transform(found["mean"], found["std"])
    notes = []
    if child is not None and any(origin.startswith(OF_CHILD) for origin in who.values()):
        notes.append(f"normalised as {child.path} says, which was made from it: {as_text(transform)}")
    assumed = [key for key in KEYS if who[key] == DEFAULT]
    if assumed:
        values = ", ".join(f"{key} {_short(found[key])}" for key in assumed)
        notes.append(f"{ASSUMED_INPUTS} with {values} ({dataset.moments_from})")
    for origin, source in ((METADATA, checkpoint), (OF_CHILD, child)):
        if source is not None and any(
            each == origin or origin == OF_CHILD and each.startswith(origin) for each in who.values()
        ):
            notes += assumptions(source.metadata.notes if source.metadata else ())
    return Normalisation(transform, who, tuple(dict.fromkeys(notes)))


def assumptions(notes: Sequence[str]) -> tuple[str, ...]:
    """Return those notes that say that a normalisation is assumed; what is made from such a model inherits them."""
    return tuple(note for note in notes if note.startswith(ASSUMED_INPUTS))


def normalised_as_asked(dataset: Dataset, config: AuditConfig) -> Dataset:
    """Return the data with the mean and std that a configuration names, for models that are trained on it.

    Raises:
        UsageError: mean or std of another length than the channels.
    """
    channels = dataset.train.images.shape[1]
    mean = dataset.mean if config.mean is None else _per_channel(config.mean, channels, "mean")
    std = dataset.std if config.std is None else _per_channel(config.std, channels, "std")
    return replace(dataset, mean=mean, std=std)


def _said(
    key: Key,
    config: AuditConfig,
    *,
    origins: Mapping[str, str],
    entry: CheckpointEntry,
    checkpoint: Checkpoint,
    dataset: Dataset,
    in_file: FromFile | None,
    child: Checkpoint | None,
) -> Iterator[tuple[Moments, str]]:
    """Yield every value that there is and who says it, the one that counts first."""
    asked = [
        (getattr(entry, key), origins.get("checkpoint", "flag")),
        (getattr(config, key), origins.get(key, "default")),
    ]
    recorded = [
        (getattr(checkpoint.metadata, key, None), METADATA),
        (getattr(in_file, key, None), in_file.said_by if in_file else ""),
        (getattr(child.metadata, key, None), f"{OF_CHILD}{child.path}") if child else (None, ""),
    ]
    strong = [(value, origin) for value, origin in asked if outranks_metadata(origin)]
    weak = [(value, origin) for value, origin in asked if not outranks_metadata(origin)]
    for value, origin in (*strong, *recorded, *weak):
        if value is not None:
            yield value, origin
    yield getattr(dataset, key), DEFAULT


def _per_channel(values: Moments, channels: int, key: str) -> Moments:
    if len(values) == 1:
        return values * channels
    if len(values) != channels:
        wanted = "one number" if channels == 1 else f"one number, or {channels}"
        raise UsageError(f"{key} has {len(values)} numbers, the images have {channels} channels; give --{key} {wanted}")
    return values


def as_text(transform: Transform) -> str:
    """Return mean and std for people."""
    return f"mean {_short(transform.mean)}, std {_short(transform.std)}"


def _short(values: Moments) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _alike(one: Transform, other: Transform) -> bool:
    """Return whether two normalisations are the same but for digits left out."""
    rows = zip(one.mean, one.std, other.mean, other.std, strict=True)
    return all(abs(m1 - m2) <= ALIKE * max(s1, s2) and abs(s1 - s2) <= ALIKE * max(s1, s2) for m1, s1, m2, s2 in rows)


def read_otherwise(subjects: Sequence[Normalised]) -> tuple[dict[str, list[str]], list[str]]:
    """Say which models may be read through another normalisation than their own.

    Args:
        subjects: all models of a call.

    Returns:
        Doubts by label, which no gate passes: a file's record contradicts what is used, or a normalisation that is
        merely assumed is not that of the others. And limitations: what is assumed, what was named to be different.
    """
    doubts: dict[str, list[str]] = {one.label: [] for one in subjects}
    for one in subjects:
        recorded = _recorded(one)
        if recorded is not None and not _alike(one.transform, recorded):
            doubts[one.label].append(
                f"{one.label} is read with {as_text(one.transform)}, but its metadata says {as_text(recorded)}: its "
                "numbers are not those of the model as it was made"
            )
    assumed = [one for one in subjects if assumptions(one.notes)]
    for one in assumed:
        other = next((o for o in subjects if o not in assumed and not _alike(o.transform, one.transform)), None)
        if other is not None:
            doubts[one.label].append(
                f"{one.label} is read with {as_text(one.transform)}, which is only assumed, but {other.label} with "
                f"{as_text(other.transform)}: not a fair comparison; name its own with --mean and --std, or in its "
                "[[checkpoint]]"
            )
    return doubts, [*_assumed(assumed), *_named_apart(subjects)]


def _recorded(one: Normalised) -> Transform | None:
    """Return what a model's own metadata says, on as many channels as it is read with."""
    metadata = one.metadata
    if metadata is None or metadata.mean is None or metadata.std is None:
        return None
    channels = len(one.transform.mean)
    mean, std = (values * channels if len(values) == 1 else values for values in (metadata.mean, metadata.std))
    return Transform(mean, std) if len(mean) == len(std) == channels else None


def _assumed(assumed: Sequence[Normalised]) -> list[str]:
    """Say of whom nobody knows how the inputs were normalised."""
    by_text: dict[str, list[str]] = {}
    for one in assumed:
        by_text.setdefault(assumptions(one.notes)[0], []).append(one.label)
    return [
        f"{', '.join(labels)}: {text}; the numbers are wrong where a model was trained with others: name them with "
        "--mean and --std"
        for text, labels in by_text.items()
    ]


def _named_apart(subjects: Sequence[Normalised]) -> list[str]:
    """Say which models are read differently because somebody named it so, and not because their files say it."""
    named = [one for one in subjects if outranks_metadata(one.normalised_by) or one.normalised_by == FOUND]
    for one in named:
        other = next((each for each in subjects if not _alike(each.transform, one.transform)), None)
        if other is not None:
            return [
                f"the inputs of {one.label} and {other.label} are normalised differently ({as_text(one.transform)}; "
                f"{as_text(other.transform)}), as it was asked for"
            ]
    return []
