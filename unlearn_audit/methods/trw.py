"""TRW, tilted reweighting: answers on a forgotten class become what a model without that class might say of it.

Ebrahimpour-Boroojeny, Wang & Sundaram 2025. For an example x of a forgotten class f, with z the frozen original's
logits on the plain image, S all forgotten classes and s the similarity of f to the others (Σ_{k∉S} s_k = 1):

    q_k(x) = exp(z_k + beta·s_k) / Σ_{j∉S} exp(z_j + beta·s_j) for k not in S, q_k(x) = 0 for k in S

A step descends CE(q, softmax z_theta) on a batch of the forget set + retain_weight·CE on one of the retain set.
beta = 0 is RWFT, the paper's first version; without the retain term that is DELETE (`delete.py`). q is the distribution
nearest to the renormalised softmax among those whose mean similarity is E_q[s] (an I-projection).

A reconstruction: the target's constants are in no source that could be read. What is known is beta = 10, cosines of the
head's rows after PCA, sharpened by a softmax of low temperature, the same for every input.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from unlearn_audit.data import whole_classes
from unlearn_audit.engine import Batches, Term, Terms, predict, upload
from unlearn_audit.engine.task import widened
from unlearn_audit.errors import MeasurementError
from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.generators import NEEDS_CLASSES
from unlearn_audit.methods.heads import linear_head
from unlearn_audit.methods.loop import (
    LoopSettings,
    Objective,
    Share,
    Size,
    Step,
    logits_of,
    mean_loss,
    minibatches,
    paired,
    run_composition,
)

Floats = NDArray[np.float64]


class TrwSettings(LoopSettings):
    """Settings of TRW: beta is published; the others are ours, since no source that could be read has them."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {}
    UNKNOWN: ClassVar[tuple[str, ...]] = (
        "temperature", "energy", "retain_weight", "step_size", "epochs", "batch_size", "momentum", "weight_decay",
    )  # fmt: skip

    beta: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=10.0, description="strength of the tilt; 0: none, the paper's first version (RWFT)"
    )
    temperature: Step = Field(default=0.1, description="of the softmax over cosines that makes the similarities")
    energy: Share = Field(default=0.9, description="share of the head's variance that the PCA of its rows keeps")
    retain_weight: Annotated[float, Field(ge=0, le=1e30)] = Field(
        default=1.0,
        description="lambda: weight of the retain set's cross-entropy; 0: do not use the set",
    )
    retain_free: bool = Field(default=False, description="do not use the retain set; see also the method delete")
    step_size: Step = Field(default=0.01, description="learning rate")
    epochs: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        default=10, description="passes over the forget set, with a retain batch in each step"
    )
    batch_size: Size = Field(default=128, description="examples of a set in one step; full: the whole set in one pass")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="momentum of SGD")
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        default=5e-4, description="weight decay of the optimiser, on every parameter"
    )

    def without_effect(self) -> tuple[str, ...]:
        """Return what does nothing: the similarities without a tilt, the retain term's weight without the term."""
        idle = ("temperature", "energy") if self.beta == 0 else ()
        return (*idle, "retain_weight") if self.retain_free else idle


def class_similarities(
    rows: Floats, forgotten: NDArray[np.int64], *, temperature: float = 0.1, energy: float = 0.9
) -> Floats:
    """Return how similar each forgotten class is to each retained one, by the rows of the head.

    W_c = rows minus their mean, its SVD cut after the fewest directions that hold `energy` of Σσ², then
    s_k = softmax over k not in S of cos(w_f, w_k) / temperature.

    Args:
        rows: [C, D] weights of the last linear layer; its bias has no part.
        forgotten: [F] the classes S.
        temperature: lower is sharper.
        energy: share of the squared singular values that is kept, 0 to 1.

    Returns:
        [F, C]; each row is 0 in S and sums to 1.
    """
    centred = rows - rows.mean(axis=0)
    _, sigma, directions = np.linalg.svd(centred, full_matrices=False)
    held = np.cumsum(sigma**2)
    rank = int(np.searchsorted(held, energy * held[-1] * (1 - 1e-12))) + 1
    projected = centred @ directions[:rank].T
    unit = projected / np.maximum(np.linalg.norm(projected, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return np.exp(_without(unit[forgotten] @ unit.T / temperature, forgotten))


def tilted(logits: NDArray[np.floating[Any]], forgotten: NDArray[np.int64], tilt: Floats | float = 0.0) -> Floats:
    """Return q = softmax of logits + tilt over the classes that are not forgotten, 0 for those that are.

    Args:
        logits: [n, C] of the original.
        forgotten: [F] the classes S; at least one other is left.
        tilt: [n, C], beta·s of each example's class; 0 renormalises the softmax.

    Returns:
        [n, C], rows sum to 1.
    """
    return np.exp(_without(logits.astype(np.float64) + tilt, forgotten))


def beta_for_moment(
    logits: NDArray[np.floating[Any]], forgotten: NDArray[np.int64], similarities: Floats, moment: float
) -> float | None:
    """Return the beta at which the mean of E_q[s] over the examples is a given one, such as that of retrained models.

    The moment form of the target, for studies where retrained models are there. The mean rises with beta, since its
    derivative is the mean of Var_q(s); found by bisection in [-1e4, 1e4].

    Args:
        logits: [n, C] of the original on the forget set.
        forgotten: [F] the classes S.
        similarities: [n, C], of each example's class.
        moment: what the mean of Σ_k q_k s_k is to be.

    Returns:
        beta, of either sign; None where no beta in this range has that moment.
    """
    low, high = -1e4, 1e4

    def excess(beta: float) -> float:
        q = tilted(logits, forgotten, beta * similarities)
        return float((q * similarities).sum(axis=1).mean()) - moment

    if excess(low) > 0 or excess(high) < 0:
        return None
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return (low + high) / 2


def _without(values: Floats, forgotten: NDArray[np.int64]) -> Floats:
    """Return the log of a softmax over the columns that are not forgotten, -inf in those that are."""
    kept = values.copy()
    kept[:, forgotten] = -np.inf
    highest = kept.max(axis=1, keepdims=True)
    found: Floats = kept - highest - np.log(np.exp(kept - highest).sum(axis=1, keepdims=True))
    return found


def _targets(context: UnlearningContext, settings: TrwSettings, forgotten: NDArray[np.int64]) -> Tensor:
    """Return q [n, C] of the whole forget set on the device, from the model as it is now, on plain images."""
    examples = context.splits.forget_examples
    logits = predict(context.model, examples.images, context.transform, compute=context.compute)
    if not np.isfinite(logits).all():
        raise MeasurementError("TRW: the model's outputs are not finite on the forget set, so there is no target")
    tilt: Floats | float = 0.0
    if settings.beta > 0:
        similarities = class_similarities(
            head_rows(context), forgotten, temperature=settings.temperature, energy=settings.energy
        )
        tilt = settings.beta * similarities[np.searchsorted(forgotten, examples.labels.numpy())]
    found = torch.from_numpy(tilted(logits, forgotten, tilt))
    double = any(each.dtype == torch.float64 for each in context.model.parameters())
    return upload(found if double else found.float(), context.compute.device)


def head_rows(context: UnlearningContext) -> Floats:
    """Return the weights [C, D] of the model's last linear layer, in double precision on the CPU.

    Raises:
        UsageError: it does not end in one.
    """
    needed = "TRW takes the similarity of classes from the rows of the last linear layer"
    head = linear_head(context, needed, otherwise="; --beta 0 needs none")
    return head.weight.detach().cpu().double().numpy()


def distilled(context: UnlearningContext, batches: Batches, step: int, targets: Tensor) -> Tensor:
    """Return the mean of CE(q, softmax z) on the batch of a step, a scalar with its graph.

    Args:
        context: the model.
        batches: of the forget set.
        step: counted from 0.
        targets: [n, C] q of the whole set, in its order.
    """
    images, _ = batches.at(step)
    logits = logits_of(context, images)
    wide = widened(logits)
    return functional.cross_entropy(wide, targets[batches.rows(step)].to(wide.dtype))


def run_trw(context: UnlearningContext, settings: TrwSettings) -> Unlearned:
    """Compute the target once, then fit it on the forget set and the labels on the retain set, a batch of each a step.

    The head keeps the rows of the forgotten classes. Compare with `mask-only`, which trains nothing.
    """
    free = settings.retain_free or settings.retain_weight == 0
    retain = None if free else minibatches(context, "retain", settings)
    forgotten = whole_classes(context.splits, wanted_by="trw needs whole classes: its target leaves them out")
    forget = minibatches(context, "forget", settings)
    forget.augment = None  # the target is that of the plain image
    targets = torch.empty(0) if context.count_only else _targets(context, settings, forgotten)

    def terms(step: int) -> Terms:
        found = {"tilted": Term(distilled(context, forget, step, targets), side="forget")}
        if retain is not None:
            found["retain"] = Term(mean_loss(context, retain, step), settings.retain_weight, "retain")
        return found

    return run_composition(context, by_forget_set(forget, retain, terms), settings, task="TRW")


def by_forget_set(forget: Batches, retain: Batches | None, terms: Callable[[int], Terms]) -> Objective:
    """Return the objective of a batch of each set in every step, whose epoch is a pass over the forget set."""
    alone = paired(None, forget, terms)
    both = paired(retain, forget, terms, losses=("retain",))
    return replace(both, length=alone.length, epoch_of=alone.epoch_of)


TRW = Method(
    "trw",
    "Ebrahimpour-Boroojeny et al. 2025; a reconstruction, since only beta and the form of the target are known",
    TrwSettings,
    run_trw,
    deviations=(
        "similarity (cosines of the head's rows after PCA, a softmax over them) and loss are reconstructed from what "
        "others say of the paper: no code and no full text could be read",
    ),
    whole_classes=True,
    on=NEEDS_CLASSES,
)
