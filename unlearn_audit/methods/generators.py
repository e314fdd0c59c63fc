"""What unlearning has in common on all generators: defaults of the loop, the part of a U-Net that moves, refusals."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from unlearn_audit.engine import trainable
from unlearn_audit.errors import UsageError
from unlearn_audit.methods import Extra, Settings, UnlearningContext
from unlearn_audit.methods.loop import LoopSettings, Schedule, Size, Step
from unlearn_audit.models.denoisers import Denoiser
from unlearn_audit.step_transforms import Kind

NEEDS_CLASSES: Mapping[Kind, str] = {
    "generator": "it works with the probabilities of classes, and a generator has none"
}
UNTRIED: Mapping[Kind, str] = {"generator": "what it does to a generator has not been tried"}
NEEDS_GENERATOR: Mapping[Kind, str] = {"classifier": "it edits what a generator draws under a condition"}

NOTHING = "largest ascended loss of an example, times the loss of predicting nothing"  # a clip's unit on generators

ScopeName = Literal["full", "xattn", "noxattn", "selfattn", "labels"]
SCOPES: Mapping[ScopeName, str] = {
    "full": "all of them",
    "xattn": "cross-attention",
    "noxattn": "all but cross-attention, the embedding of time and the output",
    "selfattn": "self-attention",
    "labels": "the embedding of classes",
}
Scope = Annotated[
    ScopeName,
    Field(
        description="parameters of the U-Net that move: " + "; ".join(f"{key}, {text}" for key, text in SCOPES.items())
    ),
]


class GeneratorSettings(LoopSettings):
    """Defaults on a generator of classes: 200 steps of Adam of falling size on batches of 32.

    They were chosen once on a small U-Net of 8 x 8 digits, and not tuned. Plain SGD does nothing at step sizes at which
    a U-Net does not diverge.
    """

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = None
    UNKNOWN: ClassVar[tuple[str, ...]] = ()
    CLIP_UNIT: ClassVar[str] = "times the loss of predicting nothing"

    step_size: Step = Field(default=5e-4, description="learning rate")
    steps: int | None = Field(default=200, ge=0, description="budget in minibatch steps, instead of epochs")
    epochs: float | None = Field(default=None, gt=0, le=1e6, description="budget in epochs of the method")
    batch_size: Size = Field(default=32, description="examples of a set in one step; full: the whole set in one pass")
    optimizer: Literal["sgd", "adam"] = Field(default="adam", description="sgd or adam")
    momentum: float = Field(default=0.0, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(default=0.0, ge=0, description="weight decay of the optimiser, on every parameter")
    schedule: Schedule = Field(
        default="cosine",
        description="schedule of the step size: constant, linear or cosine (to zero), "
        "milestones:3,5 (x 0.1 after epochs)",
    )
    max_norm: Step | Literal["none"] = Field(
        default=1.0, description="largest norm of a step's gradient, after every transform; or none"
    )
    scope: Scope = "full"

    @model_validator(mode="after")
    def _no_stop_by_classes(self) -> "GeneratorSettings":
        """Refuse a stop that compares losses of classes."""
        if self.stop_at is not None:
            raise ValueError("stop_at compares losses of a classifier; on a generator use stop_forget_loss")
        return self


def denoiser_of(context: UnlearningContext) -> Denoiser:
    """Return the model of a run as the denoiser that it is.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(context.model, Denoiser):
        raise UsageError("this method is for generators, and the model is none")
    return context.model


def kind_of(model: nn.Module) -> Kind:
    """Return which kind of model this is."""
    if not isinstance(model, Denoiser):
        return "classifier"
    return "text-to-image" if model.conditioning == "text" else "generator"


def frozen(context: UnlearningContext) -> Denoiser:
    """Return a copy of the model as it is now, at rest; where a run is only counted, the model itself."""
    model = denoiser_of(context)
    return model if context.count_only else copy.deepcopy(model).eval().requires_grad_(False)


OF_NO_DATA: dict[str, None] = dict.fromkeys((
    "classes",
    "image_size",
    "data",
    "data_sha256",
    "rows_sha256",
    "forget",
    "forget_sha256",
    "forget_n",
))  # what the record of a model says nothing of that forgot a concept by its name alone


def concept_alone(settings: Settings, extras: Sequence[Extra], forget: str | None) -> str | None:
    """Return the concept that is forgotten by its name alone, without any data; None where a forget set says it.

    Args:
        settings: of the method.
        extras: what joins it.
        forget: the forget set, where there is one.

    Raises:
        UsageError: something would look at images, and there are none.
    """
    concept: str | None = getattr(settings, "concept", None)
    if concept is None or forget is not None:
        return None
    looks = [extra.transform.name for extra in extras if not extra.transform.trains]
    looks += ["retain_weight"] if getattr(settings, "retain_weight", 0) > 0 else []
    if looks:
        raise UsageError(f"{looks[0]} looks at images, and a concept alone has none; name --data and --forget, too")
    return concept


def encoded_prompts(context: UnlearningContext, prompts: Sequence[str], *, asked_by: str) -> Tensor:
    """Return prompts as conditions, [n, ...], on the device.

    Args:
        context: with the pipeline.
        prompts: n texts.
        asked_by: who, for the message.

    Raises:
        UsageError: this generator takes no texts.
    """
    if context.pipeline is None or denoiser_of(context).conditioning != "text":
        raise UsageError(f"{asked_by} is a text, and this generator is asked by classes")
    found: Tensor = context.pipeline.encode(prompts, context.compute)
    return found


@contextmanager
def scoped(model: nn.Module, scope: ScopeName) -> Iterator[None]:
    """Let only a part of a U-Net's parameters be trained in the block; names are those of the ESD code, `labels` ours.

    Args:
        model: whose parameters of floating point are trainable as before at the end.
        scope: which part.

    Yields:
        Nothing.

    Raises:
        UsageError: there is no such part.
    """
    still = [parameter for name, parameter in trainable(model).items() if not _within(name, scope)]
    if len(still) == len(trainable(model)):
        raise UsageError(f"--scope {scope}: this model has no parameters of {SCOPES[scope]}")
    for parameter in still:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in still:
            parameter.requires_grad_(True)


def _within(name: str, scope: ScopeName) -> bool:
    """Return whether a parameter belongs to a scope; a U-Net of classes has self-attention alone, without a number."""
    if scope == "full":
        return True
    if scope == "labels":
        return "class_embedding." in name
    cross = ".attn2." in name
    if scope == "selfattn":
        return not cross and any(f".to_{part}." in name for part in ("q", "k", "v", "out"))
    outer = name.removeprefix("unet.").split(".")[0]
    return cross if scope == "xattn" else not cross and outer not in ("conv_norm_out", "conv_out", "time_embedding")
