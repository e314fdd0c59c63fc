"""The typed configuration itself: frozen, unknown keys refused."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo, create_model, field_validator

from unlearn_audit.catalogue import (
    ALTERATIONS,
    ATTACK_GROUPS,
    ATTACKS,
    GENERATOR_ATTACKS,
    METHODS,
    MODEL_ATTACKS,
    RECIPES,
    load,
)
from unlearn_audit.config.fields import USER_CODE, ConfigModel, Mean, Positive, Std, Step
from unlearn_audit.config.generation import GenerationSettings
from unlearn_audit.config.layers import incomplete_words
from unlearn_audit.config.toml_source import Flag, Number, Said, VersionOne
from unlearn_audit.errors import unknown_name
from unlearn_audit.files import without_ending


class CheckpointEntry(ConfigModel):
    """One checkpoint: where it is and what it is; a role not given comes from its metadata, else it is `subject`.

    What it has of its own (`model`, `mean`, `std`) counts for it, and not what the whole configuration says. `weights`
    is the key of the set of weights that is meant, where a file holds several. `base` is the pipeline over whose U-Net
    a file's weights are put. `recipe` and `epochs` say how it was trained, where its own metadata does not.
    """

    path: Said
    role: Literal["original", "retrained", "unlearned", "subject"] | None = None
    label: Said | None = None
    model: Said | None = None
    weights: Said | None = None
    base: Said | None = None
    mean: Mean = None
    std: Std = None
    recipe: Said | None = None
    epochs: Positive | None = None


def _whole(spec: str) -> str:
    written = incomplete_words(spec)
    if written is not None:
        raise ValueError(f"'{spec}' is incomplete or malformed; it is written {written}")
    return spec


IndexSpec = Annotated[Said, AfterValidator(_whole)]
LABEL, LONGEST_LABEL = r"^[A-Za-z0-9][A-Za-z0-9._-]*$", 100
Label = Annotated[str, Field(pattern=LABEL, max_length=LONGEST_LABEL)]
Seed = Annotated[int, Field(ge=0, lt=2**63, strict=True)]


class TrainEntry(ConfigModel):
    """A model that `audit` trains first: an original, or, without the forget set, a retrained one."""

    label: Label
    without: Flag = False
    model: Said | None = None
    recipe: Said | None = None
    epochs: Positive | None = None
    transforms: tuple[str, ...] = ()
    seed: Seed = 0


class ApplyEntry(ConfigModel):
    """A model that `audit` makes by unlearning, from the model labelled `to`; settings are those of the method.

    `recipe = "published"` follows the method's source where `settings` say nothing.
    """

    HINT: ClassVar[str] = "what the method takes goes into settings = { KEY = VALUE }"

    label: Label
    method: str
    to: str = "original"
    recipe: Literal["published"] | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    transforms: tuple[str, ...] = ()
    seed: Seed = 0

    @field_validator("method")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in METHODS and not USER_CODE.fullmatch(name):
            raise ValueError(unknown_name("method", name, METHODS))
        return name


class GapSettings(ConfigModel):
    """Accuracy and loss on every split, and the gaps to retrained models."""


class RcdSettings(ConfigModel):
    """The relearning convergence delay: how to relearn, what to sum, what to compare it with; see `relearning`."""

    optimizer: Annotated[Literal["gd", "sgd", "adam"], Field(description="How to descend")] = "gd"
    momentum: Annotated[Number, Field(ge=0, lt=1, description="Of sgd")] = 0.9
    weight_decay: Annotated[Number, Field(ge=0, description="Phi = loss + this / 2 x |w|^2")] = 0.0
    minibatch: Annotated[Positive | None, Field(description="Examples of a gradient step; default: the whole set")] = (
        None
    )
    bn: Annotated[
        Literal["frozen", "train"], Field(description="BatchNorm; train needs the whole set in one chunk")
    ] = "frozen"
    augment: Annotated[Flag, Field(description="Take gradients on random crops and flips")] = False
    scope: Annotated[
        str, Field(min_length=1, description="all, head (classifier on fixed features, float64), or names: 'fc.*'")
    ] = "all"
    relearn: Annotated[Number, Field(gt=0, le=1, description="Relearn this part of the set, measure on the rest")] = 1.0
    steps: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=0, le=1_000_000, strict=True)],
        Field(description="K; auto: until truncation cuts off less than --tolerance"),
    ] = 100
    tolerance: Annotated[Number, Field(gt=0, lt=1, description="Of --steps auto: share of the sum")] = 0.01
    max_steps: Annotated[int, Field(ge=100, le=1_000_000, strict=True, description="Of --steps auto")] = 10_000
    step_size: Annotated[
        Literal["auto", "lambda"] | Step | Annotated[tuple[Step, ...], Field(min_length=2)],
        Field(
            description="auto (from curvature, safe for all), a number, several (1e-4,1e-5), or lambda: 1/lambda_max, "
            "measured again as it changes"
        ),
    ] = "auto"
    floor: Annotated[
        Literal["zero", "best", "fit", "original"] | Number,
        Field(
            description="zero, fit (minimise), best (lowest reached), original (its own curve; of generators the "
            "default where there is one), or a number"
        ),
    ] = "zero"
    draws: Annotated[
        Literal["fixed"] | Positive | None,
        Field(
            description="Of a generator: timesteps and noises an example that are measured, 8 by default; fixed: these "
            "8 for the gradient, too, with gd"
        ),
    ] = None
    gradient_draws: Annotated[
        Positive | None, Field(description="Of a generator: of a gradient step, new ones in each; default: 4")
    ] = None
    probe: Annotated[
        tuple[Annotated[int, Field(ge=0, strict=True)], ...] | None,
        Field(description="Of a generator: steps at which samples are judged, as the section generation says: 0,10,40"),
    ] = None
    controls: Annotated[Flag, Field(description="Random initialisation, too")] = True
    match_difficulty: Annotated[Flag, Field(description="Twin as hard as the forget set under retrained models")] = (
        False
    )
    accuracies: Annotated[
        tuple[Annotated[Number, Field(gt=0, le=1)], ...],
        Field(min_length=1, description="Whose first steps are reported"),
    ] = (0.5, 0.9, 0.99)
    resamples: Annotated[
        int, Field(ge=100, le=1_000_000, strict=True, description="Of the examples, for intervals")
    ] = 2000


class TruncationSettings(ConfigModel):
    """Whether the truncation error of RCD_K is exponential in K; how to relearn is said in `rcd`.

    The step size is RCD's, unless one is named here.
    """

    reference_steps: Annotated[
        Annotated[int, Field(ge=30, le=10_000_000, strict=True)] | None,
        Field(description="Length of the trajectory; default: 10 x K, at least 100"),
    ] = None
    step_size: Literal["auto"] | Step | None = None
    floor: Annotated[
        Literal["zero", "best", "fit"] | Number,
        Field(description="fit: each model's minimum; zero, best, or a number"),
    ] = "fit"


class SpectrumSettings(ConfigModel):
    """The curvature of the loss on the forget set."""

    eigenvalues: Annotated[int, Field(ge=1, le=100, strict=True, description="How many of the largest")] = 10
    probes: Annotated[int, Field(ge=2, le=10_000, strict=True, description="Random vectors behind the trace")] = 30
    tolerance: Annotated[Number, Field(gt=0, lt=1, description="Residual over the largest eigenvalue")] = 1e-3
    scope: Annotated[str, Field(min_length=1, description="all, head, or parameter names with * and ?")] = "all"
    weight_decay: Annotated[Number, Field(ge=0, description="Of the objective")] = 0.0
    controls: Annotated[Flag, Field(description="Random initialisation, too")] = True


class LayersSettings(ConfigModel):
    """The largest singular values of each layer; they need no forget set."""

    k: Annotated[int, Field(ge=1, le=1000, strict=True, description="With --layers: singular values of each")] = 5


class TwosampleSettings(ConfigModel):
    """The two-sample test of forget set against unseen twin, given the retrained models."""

    swaps: Annotated[
        int,
        Field(
            ge=999, le=9_999, strict=True, description="Exchanges of labels within pairs; p is 1 / (this + 1) at least"
        ),
    ] = 999


class OutputsSettings(ConfigModel):
    """Answers and features beside retrained models': divergences with their floor, and the field's composites."""

    class_test: Annotated[
        Flag | None,
        Field(description="On test images of the forgotten classes, too; default: where whole classes are forgotten"),
    ] = None
    probe: Annotated[
        Flag, Field(description="Whether a linear classifier of the features still finds the forgotten classes")
    ] = False
    svc: Annotated[Flag, Field(description="ToW-MIA, too, which fits an SVC on each model")] = False
    populations: Annotated[
        Flag, Field(description="KLOM and the NeurIPS F of unlearned models that differ by their seed alone")
    ] = False


class _MiaSettings(ConfigModel):
    """Membership inference: which attacks, with which shadow models; "threshold" and "all" name several.

    "nn" asks of a model's outputs as a whole, and is in none of these. Beside its own keys it takes the settings of
    every attack.
    """

    attacks: Annotated[tuple[str, ...], Field(min_length=1)] = ("loss",)
    shadows: Annotated[
        Said | None, Field(description="Folder of shadow models, made by `unlearn-audit shadows run`")
    ] = None
    worst: Annotated[
        int, Field(ge=0, le=1_000_000, strict=True, description="Keep so many of the most exposed examples")
    ] = 10
    thumbnails: Annotated[
        Flag, Field(description="Keep small pictures of the first twenty of these, which are training data, for a page")
    ] = False

    @field_validator("attacks")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = tuple(dict.fromkeys((*ATTACK_GROUPS, *ATTACKS, *GENERATOR_ATTACKS, *MODEL_ATTACKS)))
        for index, name in enumerate(names):
            if name not in known and not USER_CODE.fullmatch(name):
                raise ValueError(unknown_name("attack", name, known))
            if name in names[:index]:
                raise ValueError(f"attack '{name}' is named twice")
        return names


def _of_attacks() -> dict[str, Any]:
    """Return the settings of all attacks by key, as pydantic takes them."""
    kinds = [type(load("attack", ATTACKS, name).settings) for name in ATTACKS]
    return {key: (field.annotation, field) for kind in kinds for key, field in kind.model_fields.items()}


# To a type checker it has its own fields; those of attacks are read by name, with `Attack.with_settings`.
if TYPE_CHECKING:
    MiaSettings = _MiaSettings
else:
    MiaSettings = create_model(
        "MiaSettings", __base__=_MiaSettings, __module__=__name__, __doc__=_MiaSettings.__doc__, **_of_attacks()
    )


class DetectableSettings(ConfigModel):
    """What the audit could have seen: plants of the original's answers in retrained models, shown to each instrument.

    It is measured without being asked for where an original and two retrained models are there.
    """

    draws: Annotated[int, Field(ge=1, le=1000, strict=True, description="Of examples, for each retrained model")] = 6
    swaps: Annotated[int, Field(ge=100, le=10**5, strict=True, description="Of labels, for the two-sample test")] = 299


class ResurgenceSettings(ConfigModel):
    """Whether what was forgotten comes back without the data: in copies that are rounded, pruned or fine-tuned."""

    alterations: Annotated[
        tuple[str, ...], Field(min_length=1, description=f"What copies go through: {', '.join(ALTERATIONS)}")
    ] = tuple(ALTERATIONS)
    steps: Annotated[int, Field(ge=1, le=1_000_000, strict=True, description="Of fine-tuning, on the retain set")] = 100
    step_size: Annotated[Step | None, Field(description="Peak of fine-tuning; default: a tenth of the recipe's")] = None
    rcd_steps: Annotated[
        Positive | None, Field(description="Relearn every copy for so many steps, too: RCD on forget set over twin")
    ] = None
    recipe: Annotated[
        Said | None, Field(description="Of fine-tuning, by name; default: the original's, as its file has it")
    ] = None

    @field_validator("alterations")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for index, name in enumerate(names):
            if name not in ALTERATIONS:
                raise ValueError(unknown_name("alteration", name, ALTERATIONS))
            if name in names[:index]:
                raise ValueError(f"alteration '{name}' is named twice")
        return names

    @field_validator("recipe")
    @classmethod
    def _a_recipe(cls, name: str | None) -> str | None:
        if name is not None and name not in RECIPES:
            raise ValueError(unknown_name("recipe", name, RECIPES))
        return name


class AuditConfig(ConfigModel):
    """Everything an audit needs to know; a measurement runs when its section is there."""

    schema_version: VersionOne = 1
    checkpoint: tuple[CheckpointEntry, ...] = ()
    train: tuple[TrainEntry, ...] = ()
    apply: tuple[ApplyEntry, ...] = ()
    data: Said | None = None
    model: Said | None = None
    weights: Said | None = None
    base: Said | None = None
    mean: Mean = None
    std: Std = None
    forget: IndexSpec | None = None
    retain: IndexSpec | None = None
    unseen: IndexSpec | None = None
    adjacent: IndexSpec | None = None
    device: str = "auto"
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    batch_size: Positive | None = None
    sample: Positive | None = None
    retain_sample: Positive | None = None
    seed: Seed = 0
    download: Flag = False
    gaps: GapSettings | None = None
    rcd: RcdSettings | None = None
    truncation: TruncationSettings | None = None
    spectrum: SpectrumSettings | None = None
    layers: LayersSettings | None = None
    twosample: TwosampleSettings | None = None
    outputs: OutputsSettings | None = None
    mia: MiaSettings | None = None
    detectable: DetectableSettings | None = None
    resurgence: ResurgenceSettings | None = None
    generation: GenerationSettings | None = None

    @field_validator("apply")
    @classmethod
    def _starts_from_a_model(cls, entries: tuple[ApplyEntry, ...], given: ValidationInfo) -> tuple[ApplyEntry, ...]:
        if not {"train", "checkpoint"} <= set(given.data):  # one of them is wrong, which is told
            return entries
        known = [entry.label for entry in given.data["train"]]
        known += [entry.label or without_ending(entry.path) for entry in given.data["checkpoint"]]
        for entry in entries:
            if entry.to not in known:
                raise ValueError(unknown_name("model", entry.to, known, hint="`to` names another model's label"))
            if entry.label in known:
                raise ValueError(f"two models are labelled '{entry.label}'")
            known.append(entry.label)
        return entries

    @field_validator("train")
    @classmethod
    def _labels_differ(cls, entries: tuple[TrainEntry, ...]) -> tuple[TrainEntry, ...]:
        labels = [entry.label for entry in entries]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"two models are labelled '{label}'")
        return entries

    @field_validator("device")
    @classmethod
    def _device(cls, name: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", name):
            raise ValueError(unknown_name("device", name, ("auto", "cpu", "cuda", "cuda:N", "mps")))
        return name


# The tables that a config may have besides its own keys.
SECTIONS: Mapping[str, type[ConfigModel]] = {
    "checkpoint": CheckpointEntry,
    "gaps": GapSettings,
    "rcd": RcdSettings,
    "truncation": TruncationSettings,
    "spectrum": SpectrumSettings,
    "layers": LayersSettings,
    "twosample": TwosampleSettings,
    "outputs": OutputsSettings,
    "mia": MiaSettings,
    "detectable": DetectableSettings,
    "resurgence": ResurgenceSettings,
    "generation": GenerationSettings,
}
