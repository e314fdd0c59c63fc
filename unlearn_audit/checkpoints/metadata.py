"""What a checkpoint says about itself: one safetensors metadata entry of JSON, checked strictly on the way in."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from unlearn_audit.errors import CheckpointError
from unlearn_audit.strict_json import first_problem, parse_object

ENTRY = "unlearn_audit"
STATE_ENTRY = "unlearn_audit_state"  # of what a killed run goes on with, which is no checkpoint
SCHEMA = 1
_LONGEST = 1_000_000  # characters
_WAY_OUT = "strip the entry (re-save the tensors alone) and pass --model and --data instead"

Name = Annotated[str, Field(min_length=1, max_length=4096)]
Role = Annotated[str, Field(pattern=r"^[a-z]+(-[a-z]+)*$", max_length=40)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]
Deviation = Annotated[float, Field(gt=0)]


class Metadata(BaseModel):
    """Where a checkpoint comes from and how it is to be fed; immutable, strictly typed, all optional except `model`.

    Attributes:
        model: model spec, as `--model` takes it.
        role: "original", "retrained", "unlearned" or another word of a-z and hyphens.
        classes: number of classes.
        channels: number of input channels.
        image_size: height and width of the input, in pixels.
        data: data spec of the training set, as `--data` takes it.
        data_sha256: digest of the resolved data.
        rows_sha256: digest of the training examples it was trained on (images and observed labels), whatever spec named
            them; of an unlearned model, of the training set that it unlearned from.
        mean: per channel (or one for all), of inputs scaled to [0, 1].
        std: likewise, positive.
        recipe: the training recipe, resolved.
        recipe_assumed: whether a retrained model follows a default, since nothing said how its original was trained.
        seed: seed of the run that made the checkpoint.
        method: unlearning method, for an unlearned model.
        settings: the method's settings, resolved.
        transforms: what joined the method, as `--with` takes it, in order.
        parent_sha256: digest of the checkpoint file that the method started from.
        parent_weights: key in that file of the weights that it started from, where they stood under one.
        forget: forget set spec, as `--forget` takes it.
        forget_sha256: digest of the resolved indices.
        forget_n: number of forget examples.
        steps: optimizer steps taken.
        gradient_evaluations: per-example gradients computed.
        figures: what was counted or measured of the run itself, by name.
        looked_at: held-out examples, as test indices, by which it was decided when to stop, or that it learned
            from, here or in a run before.
        wall_seconds: how long the steps took.
        notes: what the reader should know of how it was made, above all where that deviates from the method's source.
        tool_version: version of this package that wrote the file.
        torch_version: version of torch that wrote the file.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)

    model: Name
    role: Role | None = None
    classes: Size | None = None
    channels: Size | None = None
    image_size: tuple[Size, Size] | None = None
    data: Name | None = None
    data_sha256: Digest | None = None
    rows_sha256: Digest | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[Deviation, ...] | None = None
    recipe: Mapping[str, JsonValue] = Field(default_factory=dict)
    recipe_assumed: bool | None = None
    seed: int | None = None
    method: Name | None = None
    settings: Mapping[str, JsonValue] = Field(default_factory=dict)
    transforms: tuple[Name, ...] = ()
    parent_sha256: Digest | None = None
    parent_weights: Name | None = None
    forget: Name | None = None
    forget_sha256: Digest | None = None
    forget_n: Count | None = None
    steps: Count | None = None
    gradient_evaluations: Count | None = None
    figures: Mapping[Name, int | float] | None = None
    looked_at: tuple[Count, ...] | None = None
    wall_seconds: Annotated[float, Field(ge=0)] | None = None
    notes: tuple[Name, ...] = ()
    tool_version: Name | None = None
    torch_version: Name | None = None

    @model_validator(mode="after")
    def _one_length(self) -> "Metadata":
        """Refuse a mean and a std of different lengths."""
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std has {len(self.std)}")
        return self


class MetadataEntry(NamedTuple):
    """A decoded entry: the metadata, which names share a tensor with which stored one, and what was passed over."""

    metadata: Metadata
    tied: dict[str, str]
    notes: tuple[str, ...]


def encode_entry(path: Path, metadata: Metadata, tied: Mapping[str, str]) -> str:
    """Return the entry's JSON: sorted keys, no NaN, the same text for the same content.

    Args:
        path: the file it is for, named in errors.
        metadata: what the checkpoint says about itself.
        tied: name -> name of the stored tensor that it shares.

    Raises:
        CheckpointError: a value is not JSON (NaN included), or the whole is too long to be read back.
    """
    content = {key: value for key, value in metadata.model_dump(warnings=False).items() if value is not None}
    content |= {"schema": SCHEMA} | ({"tied": dict(tied)} if tied else {})
    try:
        text = json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as problem:
        raise CheckpointError(f"cannot describe {path} in its metadata: {problem}") from problem
    if len(text) > _LONGEST:
        raise CheckpointError(f"the metadata for {path} has {len(text)} characters; at most {_LONGEST} are kept")
    return text


def decode_entry(path: Path, text: str) -> MetadataEntry:
    """Return what `encode_entry` wrote, checked.

    Args:
        path: the file it comes from, named in errors.
        text: the value of the metadata entry.

    Raises:
        CheckpointError: not JSON, another schema, a value of the wrong type, too long; never silently ignored.
    """
    content = _parse(path, text)
    schema = content.pop("schema", None)
    if type(schema) is not int or schema != SCHEMA:
        raise _malformed(path, f"schema {schema!r:.40} where this version reads {SCHEMA}")
    tied = content.pop("tied", {})
    if not isinstance(tied, dict) or not all(isinstance(name, str) for name in tied.values()):
        raise _malformed(path, "'tied' must map names to names")
    try:
        metadata = Metadata.model_validate_json(json.dumps(content, allow_nan=False))
    except ValidationError as problem:
        raise _malformed(path, first_problem(problem, content, Metadata)) from problem
    unknown = sorted(set(content) - set(Metadata.model_fields))
    return MetadataEntry(
        metadata, tied, tuple(f"metadata key {key!r:.60} is not known here and was ignored" for key in unknown)
    )


def _parse(path: Path, text: str) -> dict[str, Any]:
    """Return the JSON object in `text`, refusing NaN and repeated keys."""
    if len(text) > _LONGEST:
        raise _malformed(path, f"{len(text)} characters long; at most {_LONGEST} are read")
    try:
        return parse_object(text)
    except ValueError as problem:
        raise _malformed(path, str(problem)) from problem


def _malformed(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"unreadable '{ENTRY}' metadata in {path}: {what}; {_WAY_OUT}")
