"""What a release may do to a model: rounding of weights, pruning, recentring of logits, fine-tuning on other data.

A model whose forgetting is only a thin cover gives back what lies below. Rounding to 4 bits took language models from
21 % to 83 % of what they were to forget (Zhang et al. 2025, "Catastrophic failure of LLM unlearning via quantization",
abstract): unlearning by small steps moves few weights beyond half of a rounding step. Fine-tuning on a few unrelated
examples restored it, too, as did pruning of chosen neurons (Łucki et al. 2024, "An adversarial perspective on machine
unlearning for AI safety", abstract; Hu et al. 2025, "Unlearning or obfuscating?", abstract). All of that is about
language models. In classifiers of images fine-tuning on the retain set alone brought forget accuracy from about 50 % to
nearly 100 %, and left that of a retrained model at 50 % (Siddiqui et al. 2025, "From dormant to deleted", section 1).

Weights here are floating-point parameters of two or more dimensions; biases and normalisation keep their precision, as
they do in quantised networks. BatchNorm's statistics stay as they are stored, except in fine-tuning, which is training.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from unlearn_audit.data import Examples, Transform
from unlearn_audit.engine import Batches, Device, crop_and_flip, predict
from unlearn_audit.errors import MeasurementError
from unlearn_audit.progress import Progress, silent
from unlearn_audit.relearning import Run, last_linear
from unlearn_audit.training import Recipe, follow


@dataclass(frozen=True)
class FineTuning:
    """What fine-tuning needs, the same for every model.

    Attributes:
        examples: the retain set.
        recipe: with the step size of fine-tuning; or, in words, why there is none.
        steps: how many.
        seed: of minibatches and of what a model draws: all models see the same minibatches.
        compute: where.
        progress: callback, called after each step.
    """

    examples: Examples
    recipe: Recipe | str
    steps: int
    seed: int
    compute: Device
    progress: Progress = silent


Alteration = Callable[[nn.Module, Transform, FineTuning], None]  # edits a copy; MeasurementError: why it cannot


def _round(copy: nn.Module, _transform: Transform, _tuning: FineTuning, *, bits: int) -> None:
    """Round weights to 2^bits - 1 levels, symmetric around zero, and leave them as floating-point numbers.

    w' = s * clip(round(w / s), -q, q) with q = 2^(bits - 1) - 1 and s = max |w| / q over one output channel: each
    channel has a scale of its own, nothing is calibrated on data. Round to nearest, ties to even.
    """
    weights = list(_weights(copy))
    if not weights:
        raise MeasurementError("nothing to round: the model has no weight of two or more dimensions")
    most = 2 ** (bits - 1) - 1
    with torch.no_grad():
        for weight in weights:
            scale = weight.abs().amax(dim=tuple(range(1, weight.dim())), keepdim=True).float() / most
            scale[scale == 0] = 1.0  # a channel of zeros stays one
            weight.copy_(((weight / scale).round().clamp(-most, most) * scale).to(weight.dtype))


def _prune(copy: nn.Module, _transform: Transform, _tuning: FineTuning, *, share: float) -> None:
    """Set the given share of all weights to zero, those of the smallest magnitude in the whole network.

    One threshold for all layers is the published use (Jia et al. 2023, "Model sparsity can simplify machine
    unlearning", section 3; their code prunes convolutions); the same share in each layer would take most from the small
    first and last ones. Nothing is trained afterwards: that is fine-tuning's part.
    """
    weights = list(_weights(copy))
    if not weights:
        raise MeasurementError("nothing to prune: the model has no weight of two or more dimensions")
    magnitudes = torch.cat([weight.detach().abs().flatten() for weight in weights])
    count = int(share * len(magnitudes))
    zeros = int((magnitudes == 0).sum())
    if count <= zeros:
        raise MeasurementError(f"nothing to prune: {zeros} of {len(magnitudes)} weights are zero as it is")
    kept = torch.ones_like(magnitudes)
    kept[magnitudes.argsort(stable=True)[:count]] = 0
    sizes = [weight.numel() for weight in weights]
    with torch.no_grad():
        for weight, part in zip(weights, torch.split(kept, sizes), strict=True):
            weight.mul_(part.view(weight.shape))


def recentre(copy: nn.Module, transform: Transform, tuning: FineTuning) -> None:
    """Take from each class's logit its mean over the retain set's images; no label and nothing forgotten has a part.

    This is what is done after training where classes come up more or less often than in it (Menon et al. 2021,
    "Long-tail learning via logit adjustment", abstract), with the model's own mean in the place of a class's log
    frequency. A class whose logit was merely lowered is back; a model that was retrained without the class has nothing
    that would come up in its logit.
    """
    if not len(tuning.examples):
        raise MeasurementError("the retain set is empty; there is nothing to take means over")
    try:
        head = last_linear(copy.eval(), Run(copy, tuning.examples, transform), tuning.compute)
    except MeasurementError:
        raise MeasurementError("nothing to recentre: the model does not end in a linear layer") from None
    if head.bias is None:
        raise MeasurementError("nothing to recentre: the model's last layer has no bias")
    means = predict(copy, tuning.examples.images, transform, compute=tuning.compute).mean(axis=0, dtype=np.float64)
    with torch.no_grad():
        head.bias.sub_(torch.from_numpy(means).to(head.bias))


def fine_tune(copy: nn.Module, transform: Transform, tuning: FineTuning) -> None:
    """Train on the retain set alone, as the original was trained, for a few steps and with a smaller step size."""
    if isinstance(tuning.recipe, str):
        raise MeasurementError(tuning.recipe)
    if not len(tuning.examples):
        raise MeasurementError("the retain set is empty; there is nothing to fine-tune on")
    recipe, augment = tuning.recipe, crop_and_flip if tuning.recipe.augment else None
    batches = Batches(tuning.examples, transform, recipe.batch_size, tuning.seed, "resurgence", tuning.compute, augment)
    follow(recipe, copy, batches, steps=tuning.steps, progress=tuning.progress, task="fine-tuning a copy")


def _weights(model: nn.Module) -> Iterator[Tensor]:
    """Yield what is rounded or pruned, output channels first; tied weights once."""
    turned = {id(part.weight) for part in model.modules() if isinstance(part, _ConvTransposeNd)}
    for parameter in model.parameters():
        if parameter.dim() >= 2 and parameter.is_floating_point():
            yield parameter.transpose(0, 1) if id(parameter) in turned else parameter


def with_step_size(recipe: Recipe, step_size: float | None) -> Recipe:
    """Return a recipe for fine-tuning: with the step size named, else with a tenth of its own.

    A tenth is what the published experiment on images takes beside its own training (Siddiqui et al. 2025, code:
    1e-5 after 1e-4). The whole step size would train the model anew, which makes any model forget.
    """
    return replace(recipe, step_size=step_size or recipe.step_size / 10)


int8: Alteration = partial(_round, bits=8)
int4: Alteration = partial(_round, bits=4)
prune_30: Alteration = partial(_prune, share=0.3)
prune_50: Alteration = partial(_prune, share=0.5)
prune_70: Alteration = partial(_prune, share=0.7)
