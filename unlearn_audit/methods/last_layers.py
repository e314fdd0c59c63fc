"""The last k layers alone: fine-tuned (CF-k), or drawn anew and trained (EU-k), on the retain set (Goel et al. 2022).

CF is catastrophic forgetting, EU exact unlearning: with k = all layers, EU-k is a retraining and CF-k is FT. All that
comes before the k-th last layer with a weight matrix or kernel, in the order in which the network defines its parts, is
as the original has it, and at rest: its parameters take no gradient, and its BatchNorm and dropout are in evaluation
mode, so that running statistics stay, too. What the frozen part holds of the forget set is still there.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import nn

from unlearn_audit.engine import Hooks
from unlearn_audit.errors import UsageError
from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.fresh import fresh_network, take_over
from unlearn_audit.methods.ft import on_retain
from unlearn_audit.methods.generators import UNTRIED
from unlearn_audit.methods.loop import LoopSettings, Schedule, Step, run_composition


class LastLayersSettings(LoopSettings):
    """Settings of CF-k and EU-k: the authors train as the original was, 62 epochs with restarts of the step size.

    k is 1, 3, 5 or 7 there, of a ResNet-20's 20 layers; ours is half of small-cnn's four.
    """

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {"epochs": 62, "step_size": 0.1, "weight_decay": 5e-5}
    UNKNOWN: ClassVar[tuple[str, ...]] = ("k",)

    k: Annotated[int, Field(ge=1)] = Field(
        default=2, description="layers that are trained, from the last; BatchNorm goes with the layer before it"
    )
    step_size: Step = Field(default=0.05, description="learning rate at the beginning")
    epochs: float | None = Field(default=10, gt=0, le=1e6, description="passes over the retain set")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")
    schedule: Schedule = Field(
        default="cosine", description="schedule of the learning rate: constant, linear, cosine, milestones:3,5"
    )


def last_layers(model: nn.Module, k: int) -> tuple[str, ...]:
    """Return the names of the last k layers and of what has parameters between and after them.

    A layer is a module with a parameter of two or more dimensions of its own; modules are in the order of definition.

    Raises:
        UsageError: there are fewer than k layers.
    """
    owners = [
        (name, [each.dim() for each in module.parameters(recurse=False)])
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    layers = [index for index, (_, dimensions) in enumerate(owners) if max(dimensions) >= 2]
    if k > len(layers):
        raise UsageError(f"k {k}: this network has {len(layers)} layers; with k = {len(layers)} all of it is trained")
    return tuple(name for name, _ in owners[layers[-k] :])


def _at_rest(model: nn.Module, moving: tuple[str, ...]) -> tuple[nn.Module, ...]:
    """Return the modules that are to be in evaluation mode: all before the first moving one, and that hold none."""
    modules = list(model.named_modules())
    first = [name for name, _ in modules].index(moving[0])
    return tuple(
        module
        for name, module in modules[:first]
        if not any(other == name or other.startswith(f"{name}." if name else "") for other in moving)
    )


@contextmanager
def _frozen(model: nn.Module, moving: tuple[str, ...]) -> Iterator[None]:
    """Let the parameters of these modules alone take gradients within the block."""
    named = dict(model.named_modules())
    moved = {id(each) for name in moving for each in named[name].parameters(recurse=False)}
    held = [each for each in model.parameters() if each.requires_grad and id(each) not in moved]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def _train_last(context: UnlearningContext, settings: LastLayersSettings, task: str) -> Unlearned:
    """Fine-tune the last layers on the retain set."""
    moving = last_layers(context.model, settings.k)
    resting = _at_rest(context.model, moving)

    def begin() -> None:
        for module in resting:
            module.training = False

    with _frozen(context.model, moving):
        return run_composition(
            context,
            on_retain(context, settings),
            settings,
            hooks=[Hooks(begin=begin, notes=(f"only these were trained: {', '.join(moving)}",))],
            task=task,
        )


def run_cf_k(context: UnlearningContext, settings: LastLayersSettings) -> Unlearned:
    """Fine-tune the last k layers on the retain set; the forget set is never looked at."""
    return _train_last(context, settings, "CF-k")


def run_eu_k(context: UnlearningContext, settings: LastLayersSettings) -> Unlearned:
    """Draw the last k layers anew, then train them on the retain set; the forget set is never looked at."""
    moving = last_layers(context.model, settings.k)
    if settings.steps != 0 and not context.count_only:  # a run that is taken up again gets its own weights after this
        take_over(context.model, fresh_network(context, "eu-k"), moving)
    return _train_last(context, settings, "EU-k")


_SOURCE = "Goel et al. 2022; values of the authors' code"
_RESTARTS = "the step size falls once; in the published code it starts again and again (cosine with warm restarts)"
_STATISTICS = "frozen BatchNorm keeps its running statistics; in the published code they go on moving"

CF_K = Method(
    "cf-k",
    _SOURCE,
    LastLayersSettings,
    run_cf_k,
    deviations=(_RESTARTS, _STATISTICS),
    on=UNTRIED,
)
EU_K = Method(
    "eu-k",
    _SOURCE,
    LastLayersSettings,
    run_eu_k,
    deviations=(
        _RESTARTS,
        _STATISTICS,
        "BatchNorm of the last layers is drawn anew, too; the published code draws convolutions and linear layers",
    ),
    on=UNTRIED,
)
