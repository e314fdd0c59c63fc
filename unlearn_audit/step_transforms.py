"""Transforms that compose with any objective, in unlearning or training: what they are, and how `--with` names them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from unlearn_audit import catalogue
from unlearn_audit.engine import Batches, Device, Hooks
from unlearn_audit.errors import ConfigError, UsageError
from unlearn_audit.progress import Progress
from unlearn_audit.strict_json import problems

Kind = Literal["classifier", "generator", "text-to-image"]  # a generator is conditioned on classes, or on texts
KINDS: Mapping[Kind, str] = {
    "classifier": "a classifier",
    "generator": "a generator of classes",
    "text-to-image": "a generator of texts",
}


class ByKind(Protocol):
    """What may be another thing, or nothing at all, on some kinds of models: a method, or a transform."""

    @property
    def name(self) -> str:
        """As the catalogue has it."""

    @property
    def on(self) -> Mapping[Kind, Any]:
        """By kind: what takes its place, or in words why there is none."""


_ByKind = TypeVar("_ByKind", bound=ByKind)


def on_kind(thing: _ByKind, kind: Kind) -> _ByKind:
    """Return what stands for a method or a transform on a kind of models.

    What is said of generators holds of those of texts, too, where nothing is said of these; where nothing is said of a
    kind, it is the thing itself.

    Args:
        thing: as it was asked for.
        kind: of the model.

    Raises:
        UsageError: there is none; the message has the reason.
    """
    found = thing.on.get(kind, thing.on.get("generator", thing) if kind == "text-to-image" else thing)
    if isinstance(found, str):
        raise UsageError(f"{thing.name} cannot be used on {KINDS[kind]}: {found}")
    return found  # type: ignore[no-any-return]


def forms_of(thing: _ByKind) -> dict[Kind, _ByKind]:
    """Return what stands for a method or a transform, by the kinds of models that it can be used on.

    Args:
        thing: as it was asked for.
    """
    found: dict[Kind, _ByKind] = {}
    for kind in KINDS:
        try:
            found[kind] = on_kind(thing, kind)
        except UsageError:
            continue
    return found


class Settings(BaseModel):
    """What can be set: frozen, unknown keys refused, finite numbers only.

    Attributes:
        PUBLISHED: values that the source has otherwise than our defaults; None where there is no source to follow.
        UNKNOWN: settings of which the source has no value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = None
    UNKNOWN: ClassVar[tuple[str, ...]] = ()

    def without_effect(self) -> tuple[str, ...]:
        """Return the settings that do nothing beside the others, so that they are no deviation either."""
        return ()


@dataclass(frozen=True)
class Course:
    """How long a run is: steps in all, and which epoch of the objective (from 0) a step belongs to."""

    steps: int
    epoch_of: Callable[[int], int]


class StepContext(Protocol):
    """What a transform is given wherever it joins."""

    @property
    def model(self) -> nn.Module:
        """The model, edited in place, on the device."""

    @property
    def sample(self) -> Tensor:
        """One example as the model takes it, [1, ...], on the device."""

    @property
    def compute(self) -> Device:
        """Device and precision."""

    @property
    def seed(self) -> int:
        """Of everything random; the draws of a step depend on (seed, purpose, step) alone."""

    @property
    def progress(self) -> Progress:
        """Callback."""

    @property
    def memory(self) -> dict[str, Tensor]:
        """What is saved beside weights and optimiser; tensors in it are replaced, never changed."""

    @property
    def count_only(self) -> bool:
        """Whether only to tell what a run would take, and to leave the model as it is."""


@dataclass(frozen=True)
class TrainingContext:
    """A `StepContext` of training, where there is nothing to forget; `batches` are what is trained on."""

    model: nn.Module
    seed: int
    progress: Progress
    memory: dict[str, Tensor]
    batches: Batches
    count_only: bool = False

    @property
    def compute(self) -> Device:
        """Device and precision."""
        return self.batches.compute

    @property
    def sample(self) -> Tensor:
        """One example as the model takes it."""
        return self.batches.transform(self.batches.examples.images[:1]).to(self.compute.device)


@dataclass(frozen=True)
class StepTransform:
    """Something that edits each step's gradient or weights, whatever the objective: `--with NAME`.

    Attributes:
        name: as the catalogue has it.
        source: where it comes from.
        settings: its settings with their defaults; a `variant` among them is what may stand right after the colon.
        make: (context, settings, course) -> what to do in each step; the context is a `StepContext`, and in unlearning
            a `methods.UnlearningContext`.
        deviations: how it differs from its source in what is no setting, in words.
        two_sided: whether every step must hold a term of the forget and one of the retain side.
        trains: whether it may join training, too, where there is nothing to forget: then it asks for nothing but what a
            `StepContext` has.
        on: on some kinds of models, the transform that takes this one's place, or in words why there is none.
    """

    name: str
    source: str
    settings: type[Settings]
    make: Callable[[Any, Any, Course], Hooks]
    deviations: tuple[str, ...] = ()
    two_sided: bool = False
    trains: bool = False
    on: Mapping[Kind, "StepTransform | str"] = field(default_factory=dict)


@dataclass(frozen=True)
class Extra:
    """A transform with its settings, as `--with` asked for it."""

    transform: StepTransform
    settings: Settings


# ----- the grammar: NAME[:VARIANT][,KEY=VALUE…]


def parse_extras(texts: Sequence[str], kind: Kind = "classifier") -> tuple[Extra, ...]:
    """Return the transforms asked for, in order, as they are on a kind of models.

    Raises:
        UsageError: as `parse_extra`.
        ConfigError: as `parse_extra`.
    """
    return tuple(parse_extra(text, kind) for text in texts)


def training_extras(texts: Sequence[str]) -> tuple[Extra, ...]:
    """Return the transforms that are to join training, in order.

    Raises:
        UsageError: as `parse_extra`; or one of them has no meaning where there is nothing to forget.
        ConfigError: as `parse_extra`.
    """
    extras = parse_extras(texts)
    for extra in extras:
        if not extra.transform.trains:
            able = [name for name in catalogue.TRANSFORMS if parse_extra(name).transform.trains]
            raise UsageError(
                f"{extra.transform.name} cannot join training, where there is nothing to forget; "
                f"of the transforms {', '.join(able)} can"
            )
    return extras


def parse_extra(text: str, kind: Kind = "classifier") -> Extra:
    """Return one transform with its settings: `reinit:alpha=0.99,scale=fan_in`, `mask:saliency,density=0.5`, `l1`.

    Raises:
        UsageError: unknown name, a word where KEY=VALUE belongs, a key twice, or nothing for this kind of models.
        ConfigError: a setting is unknown or out of range.
    """
    name, colon, rest = text.partition(":")
    if not colon:
        name, _, rest = text.partition(",")
    transform: StepTransform = on_kind(catalogue.load("transform", catalogue.TRANSFORMS, name.strip()), kind)
    values: dict[str, str] = {}
    for index, item in enumerate(part.strip() for part in rest.split(",")) if rest.strip() else ():
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals and index == 0 and colon and "variant" in transform.settings.model_fields:
            key, value = "variant", item
        elif not equals or not key:
            raise UsageError(f"--with {text}: '{item}' is no KEY=VALUE; {_offered(transform)}")
        if key in values:
            raise UsageError(f"--with {text}: {key} is given twice")
        values[key] = value
    return Extra(transform, checked(f"--with {name.strip()}", transform.settings, values))


def _offered(transform: StepTransform) -> str:
    keys = [key for key in transform.settings.model_fields if key != "variant"]
    return f"{transform.name} has the settings {', '.join(keys)}"


def checked(where: str, settings: type[Settings], values: Mapping[str, Any]) -> Any:
    """Return settings, checked, with their defaults filled in.

    Raises:
        ConfigError: unknown or out of range; every problem at once.
    """
    try:
        return settings.model_validate(dict(values))
    except ValidationError as problem:
        raise ConfigError(where, problems(problem, values, settings)) from problem
