"""Adversarial examples in pixel space: attacks on a model together with the normalisation of its inputs.

Pixels lie in [0, 1]: stored bytes over 255, stored floats as they stand. The model is in evaluation mode and computes
in float32 whatever was asked for, as everywhere where single examples are told apart. Whatever the normalisation, the
same function of the pixels is attacked, so that it decides nothing.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unlearn_audit.data import Examples, Transform
from unlearn_audit.engine import Device, chunks, full_float32
from unlearn_audit.engine.device import packed
from unlearn_audit.engine.task import losses as example_losses
from unlearn_audit.errors import DataError
from unlearn_audit.models import models_own
from unlearn_audit.progress import Progress, silent

FLAT = 1e-8  # below this norm of its gradient float32's cross-entropy points nowhere: margins of about 100


@dataclass(frozen=True)
class Search:
    """How the nearest adversarial example is looked for.

    Attributes:
        first: the radius of the first level, in the l2 norm of pixels in [0, 1].
        tries: steps within a level; the next level has twice the radius.
        share: the length of a step, as a share of the level's radius.
        levels: at most; a level beyond the diameter of the box is none.
    """

    first: float = 0.04
    tries: int = 50
    share: float = 0.1
    levels: int = 12

    def radii(self, size: int) -> list[float]:
        """Return the radius of each level for images of `size` values, at least the first.

        >>> Search().radii(64)
        [0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12]
        """
        radii = [self.first * 2**level for level in range(self.levels)]
        return [radius for radius in radii if radius <= math.sqrt(size)] or radii[:1]


class Attacked(NamedTuple):
    """What an attack found, on the CPU.

    Attributes:
        images: [n, C, H, W] float32 in [0, 1]; where nothing was found, the last point that was tried.
        labels: [n] what the model says of them.
        radii: [n] float32, the radius of the level at which each was found; its distance is at most that.
        solved: [n] whether the model says another class than the label.
        gradients: of single examples that it took.
    """

    images: Tensor
    labels: Tensor
    radii: Tensor
    solved: Tensor
    gradients: int


def check_box(examples: Examples) -> None:
    """Refuse images of which nobody knows between which values their pixels lie.

    Raises:
        DataError: float32 outside of [0, 1].
    """
    if examples.images.dtype == torch.uint8:
        return
    lowest, highest = (float(value) for value in torch.aminmax(examples.images))
    if not (lowest >= 0 and highest <= 1):  # NaN is in no box either
        raise DataError(
            f"the images are stored as float32 from {lowest:.3g} to {highest:.3g}, so that nobody knows between which "
            "values a pixel may lie; adversarial examples need to: store uint8, or floats in [0, 1], and name the "
            "normalisation with --mean and --std"
        )


def pixels(images: Tensor) -> Tensor:
    """Return images as float32 in [0, 1]; uint8 is divided by 255."""
    return images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images


def nearest_wrong(
    model: nn.Module,
    examples: Examples,
    transform: Transform,
    search: Search,
    *,
    compute: Device,
    progress: Progress = silent,
    task: str = "adversarial examples",
) -> Attacked:
    """Return for each example the first point at which the model errs, on a way uphill in balls that grow.

    PGD in the l2 norm with doubling radii (Ebrahimpour-Boroojeny et al. 2025): within a level of radius r up to `tries`
    times adv <- clamp(x + min(1, r/|d|) d, 0, 1), d = adv + share·r·g/|g| - x, g the gradient of the cross-entropy of
    the label; between levels adv goes on from where it is. No random start. An example that the model errs on as it is
    is its own adversarial example. Where the cross-entropy is flat, g is the gradient of the largest other logit minus
    the label's.

    Args:
        model: on the device; left in evaluation mode.
        examples: their labels are those that are to be left.
        transform: from pixels to what the model takes.
        search: radii and steps.
        compute: device, and how many examples are attacked at once.
        progress: callback, called after each step.
        task: its name in the progress.
    """
    model.eval()
    radii = search.radii(examples.images[0].numel()) if len(examples) else [search.first]
    found: list[Attacked] = []
    steps, done = len(radii) * search.tries, 0
    for part in chunks(len(examples), compute.chunk):
        attack = _Attack(model, examples.images[part], examples.labels[part], transform, compute)
        for step in attack.run(radii, search):
            progress(task, done, len(examples), f"step {step} of at most {steps}, {len(attack.left)} left")
        found.append(attack.found())
        done += part.stop - part.start
        progress(task, done, len(examples))
    if not found:
        return Attacked(pixels(examples.images), examples.labels, torch.empty(0), torch.empty(0, dtype=torch.bool), 0)
    return Attacked(
        torch.cat([one.images for one in found]),
        torch.cat([one.labels for one in found]),
        torch.cat([one.radii for one in found]),
        torch.cat([one.solved for one in found]),
        sum(one.gradients for one in found),
    )


class _Attack:
    """The search for some examples at once; those that are found leave the batch."""

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, transform: Transform, compute: Device) -> None:
        self.model, self.transform = model, transform
        self.clean, self.labels = pixels(images.to(compute.device)), labels.to(compute.device)
        self.points, self.left = self.clean.clone(), torch.arange(len(labels), device=compute.device)
        self.answers, self.reached = self.labels.clone(), torch.zeros(len(labels), device=compute.device)
        self.gradients = 0

    def run(self, radii: list[float], search: Search) -> Iterator[int]:
        """Search.

        Yields:
            The number of each step, from 0.
        """
        for step in range(len(radii) * search.tries + 1):
            # What the last step of a level reached is looked at before the next level begins, and belongs to the old.
            tested = radii[max(step - 1, 0) // search.tries]
            slopes = self._look(tested)
            if not len(self.left):
                return
            if step < len(radii) * search.tries:
                self._move(slopes, radii[step // search.tries], search.share)
            yield step

    def found(self) -> Attacked:
        """Return what was found, on the CPU."""
        solved = torch.ones(len(self.labels), dtype=torch.bool, device=self.left.device)
        solved[self.left] = False
        return Attacked(
            self.points.cpu(), self.answers.cpu(), self.reached.cpu(), solved.cpu(), gradients=self.gradients
        )

    def _look(self, radius: float) -> Tensor:
        """Let go of the examples that the model errs on, and return the gradients [B, C, H, W] of those left."""
        points, labels = self.points[self.left], self.labels[self.left]
        logits, slopes = _slopes(self.model, points, labels, self.transform)
        self.gradients += len(labels)
        answers = logits.argmax(dim=1)
        wrong = (answers != labels) & torch.isfinite(logits).all(dim=1)
        there = self.left[wrong]
        self.answers[there], self.reached[there] = answers[wrong], radius
        self.left = self.left[~wrong]
        return slopes[~wrong]

    def _move(self, slopes: Tensor, radius: float, share: float) -> None:
        """Take one step of `share` x radius uphill, back into the ball and into the box."""
        clean = self.clean[self.left]
        moved = self.points[self.left] + share * radius * slopes / (_norms(slopes) + 1e-10) - clean
        moved = moved * (radius / _norms(moved)).clamp(max=1)
        self.points[self.left] = (clean + moved).clamp(0, 1)


def _norms(tensors: Tensor) -> Tensor:
    """Return the l2 norm of each of [B, C, H, W], as [B, 1, 1, 1]."""
    norms: Tensor = torch.linalg.vector_norm(tensors.flatten(1), dim=1)
    return norms.view(-1, 1, 1, 1)


def _slopes(model: nn.Module, points: Tensor, labels: Tensor, transform: Transform) -> tuple[Tensor, Tensor]:
    """Return logits [B, C], and the gradient of each example's cross-entropy in its pixels [B, C, H, W]."""
    logits, slopes = _gradient(model, points, transform, lambda logits: example_losses(logits, labels))
    flat = _norms(slopes).flatten() < FLAT
    if bool(flat.any()):
        own = labels[flat]

        def margins(logits: Tensor) -> Tensor:
            others = logits.scatter(1, own[:, None], -math.inf)
            return others.amax(dim=1) - logits.gather(1, own[:, None])[:, 0]

        slopes[flat] = _gradient(model, points[flat], transform, margins)[1]
    return logits, slopes


def _gradient(
    model: nn.Module, points: Tensor, transform: Transform, each: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return logits and the gradient of a function of each example's logits in its pixels."""
    with full_float32(), torch.enable_grad(), models_own("the search for adversarial examples stopped"):
        points = points.detach().requires_grad_()
        logits = model(packed(transform(points)))
        (slopes,) = torch.autograd.grad(each(logits).sum(), points)
    return logits.detach(), slopes


def one_signed_step(
    model: nn.Module, examples: Examples, transform: Transform, *, length: float, compute: Device
) -> Tensor:
    """Return what the model says after one step uphill in every pixel's sign (FGSM): logits [n, C], on the CPU.

    x_adv = round(255 clamp(x + length·sign g, 0, 1)) / 255, g the gradient of the cross-entropy of the label. It takes
    one gradient and one forward pass of each example.

    Args:
        model: on the device; left in evaluation mode.
        examples: their labels are those that are to be left.
        transform: from pixels to what the model takes.
        length: of the step in each pixel.
        compute: device, and how many examples at once.
    """
    model.eval()
    found = []
    for part in chunks(len(examples), compute.chunk):
        points, labels = pixels(examples.images[part].to(compute.device)), examples.labels[part].to(compute.device)
        slopes = _slopes(model, points, labels, transform)[1]
        moved = ((points + length * slopes.sign()).clamp(0, 1) * 255).round() / 255
        with full_float32(), torch.inference_mode(), models_own("adversarial examples stopped"):
            found.append(model(packed(transform(moved))).float().cpu())
    return torch.cat(found)
