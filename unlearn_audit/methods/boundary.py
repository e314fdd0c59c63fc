"""Boundary unlearning (Chen et al. 2023): shrink gives forget examples to the nearest class, expand to a new one.

Both fine-tune on the forget set alone. Shrink: the label of an example becomes what the original says of it after one
signed step uphill in pixels (FGSM). Expand: the head gets one more row, every forget example is trained to it, and the
row is dropped at the end.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from unlearn_audit.engine import Hooks, Term, Terms, derive_seed, upload
from unlearn_audit.engine.task import losses as example_losses
from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.generators import NEEDS_CLASSES
from unlearn_audit.methods.heads import linear_head
from unlearn_audit.methods.loop import LoopSettings, Step, logits_of, minibatches, paired, run_composition
from unlearn_audit.methods.pixel_attacks import check_box, one_signed_step


class BoundarySettings(LoopSettings):
    """Settings of both: those of the authors' code (SGD 1e-5, momentum .9, 10 epochs), whose batch is not known."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {}
    UNKNOWN: ClassVar[tuple[str, ...]] = ("batch_size",)

    step_size: Step = Field(default=1e-5, description="learning rate; small networks need a larger one")
    epochs: float | None = Field(default=10, gt=0, le=1e6, description="passes over the forget set")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")


class ShrinkSettings(BoundarySettings):
    """Settings of boundary shrink."""

    bound: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.1, description="length of the signed step in each pixel of [0, 1]"
    )
    label: Literal["predicted", "nearest"] = Field(
        default="predicted",
        description="what the original says after the step, which may be the example's own label; or the class with "
        "the largest other logit there",
    )


def run_shrink(context: UnlearningContext, settings: ShrinkSettings) -> Unlearned:
    """Fine-tune each forget example to the class that the original says one signed step uphill from it.

    Where the step does not leave the example's own class, the published form trains it in: how many is recorded, and
    --label nearest takes the largest other logit. Images must be stored as uint8, or as floats in [0, 1].
    """
    check_box(context.splits.dataset.train)
    forget = minibatches(context, "forget", settings)
    own = forget.examples.labels
    labels, stayed = own, 0
    if not context.count_only:
        logits = one_signed_step(
            context.model, forget.examples, context.transform, length=settings.bound, compute=context.compute
        )
        stayed = int((logits.argmax(dim=1) == own).sum())
        if settings.label == "nearest":
            logits = logits.scatter(1, own[:, None], -torch.inf)
        labels = logits.argmax(dim=1)
    wrong = upload(labels, context.compute.device)
    kept_in = f"{stayed} of {len(own)} forget examples keep their label after the signed step and are trained in"
    hooks = Hooks(
        gradient_evaluations=len(own),
        notes=(kept_in,) if stayed and settings.label == "predicted" else (),
        figures=lambda: {"boundary.own_label": stayed / len(own)},
    )

    def terms(step: int) -> Terms:
        images, _ = forget.at(step)
        losses = example_losses(logits_of(context, images), wrong[forget.rows(step)])
        return {"other labels": Term(losses.mean(), side="forget")}

    return run_composition(
        context, paired(None, forget, terms, losses=()), settings, hooks=[hooks], task="boundary shrink"
    )


def run_expand(context: UnlearningContext, settings: BoundarySettings) -> Unlearned:
    """Train every forget example to one more class, whose row of the last layer is dropped at the end.

    The last layer must be linear.
    """
    forget = minibatches(context, "forget", settings)
    head = linear_head(context, "boundary-expand widens the last linear layer")
    classes = head.out_features
    given: list[Tensor] = []

    def terms(step: int) -> Terms:
        images, labels = forget.at(step)
        given.clear()
        logits = logits_of(context, images)
        more = nn.functional.linear(given[-1].to(row[0].dtype), *row)
        losses = example_losses(torch.cat([logits, more.to(logits.dtype)], dim=1), torch.full_like(labels, classes))
        return {"new class": Term(losses.mean(), side="forget")}

    with _expanded(head, derive_seed(context.seed, "initialisation", "boundary-expand"), given) as row:
        objective = paired(None, forget, terms, losses=())
        return run_composition(context, objective, settings, task="boundary expand")


@contextmanager
def _expanded(head: nn.Linear, seed: int, given: list[Tensor]) -> Iterator[tuple[nn.Parameter, nn.Parameter | None]]:
    """Give a layer one more row as parameters of their own, and note what the layer is given, within the block.

    They are drawn as torch draws a linear layer. The layer's own answer stays as wide as it was.

    Yields:
        The row [1, width], and its bias [1] where the layer has one.
    """
    generator, reach = torch.Generator().manual_seed(seed), head.in_features**-0.5
    drawn = (torch.rand(1, head.in_features + 1, generator=generator) * 2 - 1) * reach
    drawn = drawn.to(head.weight)
    weight = nn.Parameter(drawn[:, :-1].clone())
    bias = None if head.bias is None else nn.Parameter(drawn[0, -1:].clone())
    head.register_parameter("expanded_weight", weight)
    head.register_parameter("expanded_bias", bias)
    handle = head.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    try:
        yield weight, bias
    finally:
        handle.remove()
        del head.expanded_weight, head.expanded_bias


SHRINK = Method(
    "boundary-shrink",
    "Chen et al. 2023, with the values of its code",
    ShrinkSettings,
    run_shrink,
    deviations=("the labels are worked out once, before the first step; the model that gives them never changes",),
    on=NEEDS_CLASSES,
)
EXPAND = Method(
    "boundary-expand",
    "Chen et al. 2023, with the values of its code",
    BoundarySettings,
    run_expand,
    takes=("ascent", "clip", "feasible", "l1", "nash", "reinit"),
    because="a mask is made of the model as it is, in which the new class's row has no gradient, and would freeze it",
    on=NEEDS_CLASSES,
)
