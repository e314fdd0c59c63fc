"""SSD, selective synaptic dampening: shrink weights that matter to the forget set more than to the whole (no training).

Foster et al. 2024. I_D and I_f are the mean over batches of the squared gradient of a batch's mean loss, so that the
batch size is part of the definition. The published code passes the whole training set as D, and so does this.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from unlearn_audit.data import Examples
from unlearn_audit.engine import Draws, FullBatch, trainable
from unlearn_audit.engine.task import widened
from unlearn_audit.methods import Method, Settings, Unlearned, UnlearningContext
from unlearn_audit.methods.generators import Scope
from unlearn_audit.methods.loop import Step, logits_of


class SsdSettings(Settings):
    """Settings of SSD: those of the published code."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {}

    alpha: Step = Field(default=10.0, description="selection: weights with I_f > alpha·I_D are dampened")
    dampening: Step = Field(default=1.0, description="lambda: they are multiplied by min(lambda·I_D/I_f, 1)")
    batch_size: Annotated[int, Field(gt=0)] = Field(default=128, description="examples whose mean gradient is squared")


def importance(
    context: UnlearningContext, examples: Examples, batch_size: int, task: str, *, expected: bool = False
) -> list[Tensor]:
    """Return, for each trainable parameter, the mean over batches of the squared mean gradient, in evaluation mode.

    Batches are as equal as can be and in order, so that the result depends on the set and the batch size alone.

    Args:
        context: the model, and where it is computed.
        examples: the set.
        batch_size: examples whose mean gradient is squared.
        task: its name in the progress.
        expected: instead of the examples' own labels give a batch each label y in turn, and weigh its square by the
            batch's mean probability of y; with batches of one this is the diagonal of the Fisher information.
    """
    model, parameters = context.model.eval(), list(trainable(context.model).values())
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    # A generator's forget examples have the same noise among all data as they have alone.
    draws = Draws(context.seed, ("ssd",), count=1, grid=False)
    compute = replace(context.compute, chunk=batch_size)
    parts = FullBatch(
        examples, context.transform, compute=compute, task=context.task, resident=False, draws=draws
    ).parts
    for done, (inputs, labels, _) in enumerate(parts):
        logits = logits_of(context, inputs)
        shares = _probabilities(logits).mean(dim=0) if expected else torch.ones(1)
        for given, share in enumerate(shares.tolist()):
            losses = context.task.losses(logits, torch.full_like(labels, given) if expected else labels)
            gradients = torch.autograd.grad(
                losses.mean(), parameters, retain_graph=expected, allow_unused=True, materialize_grads=True
            )
            for total, gradient in zip(sums, gradients, strict=True):
                total.addcmul_(gradient, gradient, value=share)
        context.progress(task, done + 1, len(parts))
    model.zero_grad(set_to_none=True)
    return [total / len(parts) for total in sums]


def _probabilities(logits: Tensor) -> Tensor:
    """Return the softmax [B, classes], in float32 at least: bfloat16 has three digits."""
    return widened(logits.detach()).softmax(dim=1)


def run_ssd(context: UnlearningContext, settings: SsdSettings) -> Unlearned:
    """Dampen in one edit: two passes over the data, no step. No weight grows, those with I_f <= alpha·I_D stay.

    With a large or random forget set I_f comes close to I_D: at the default alpha nothing happens, far below it the
    network is wiped.
    """
    splits = context.splits
    done = Unlearned(0, len(splits.dataset.train) + len(splits.forget))
    if context.count_only:
        return done
    whole = importance(context, splits.dataset.train, settings.batch_size, "SSD: importance to all data")
    forget = importance(context, splits.forget_examples, settings.batch_size, "SSD: importance to the forget set")
    with torch.no_grad():
        for parameter, on_all, on_forget in zip(trainable(context.model).values(), whole, forget, strict=True):
            factor = (settings.dampening * on_all / on_forget).clamp(max=1)
            parameter.copy_(torch.where(on_forget > settings.alpha * on_all, parameter * factor, parameter))
    return done


class SsdOnGenerators(SsdSettings):
    """Settings of SSD on a generator: those for classifiers, which have not been tried on one."""

    scope: Scope = "full"


SOURCE = "Foster et al. 2024; values of the published code"
DEVIATIONS = (
    "importance is the mean over batches as equal as can be, in index order; the published code takes its data "
    "loader's batches, shuffled and with a smaller last one",
)
SSD = Method(
    "ssd",
    SOURCE,
    SsdSettings,
    run_ssd,
    composes=False,
    deviations=DEVIATIONS,
    on={"generator": Method("ssd", SOURCE, SsdOnGenerators, run_ssd, composes=False, deviations=DEVIATIONS)},
)
