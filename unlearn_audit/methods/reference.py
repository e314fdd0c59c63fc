"""Reference: answer on forget as the original answers on held-out data of the same class, and stop there.

A reconstruction in the sense of Forsaken (Ma et al. 2023) and ReGUn (2026), of which the abstracts were read alone.
The target of a label y is t_y, the original's mean softmax on held-out examples that are labelled y by the forget set's
own process; a step descends mean KL(t_y || softmax(theta)) on forget + lambda·CE on retain. After it weights are pulled
back to the original's: with u = theta - theta_o, theta <- theta_o + sign(u)·max(|u| - eta·rho, 0), so that most of them
need not move at all (Forsaken's mask has that purpose; `--with mask:saliency` chooses weights beforehand). It ends when
forget examples are no further from their targets than the held-out examples are themselves: that is the floor. Where
the original is nearer than that, as on random examples, right or wrong, the floor ends nothing.

No example of the unseen twin is among the held-out ones, else an audit would grade its own answer key.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import log_softmax
from torch import Tensor

from unlearn_audit.data import Examples, Splits
from unlearn_audit.engine import Hooks, Term, Terms, derive_seed, modes_kept, predict, trainable, upload
from unlearn_audit.errors import UsageError
from unlearn_audit.methods import Course, Method, Unlearned, UnlearningContext
from unlearn_audit.methods.bad_teacher import divergences
from unlearn_audit.methods.generators import NEEDS_CLASSES
from unlearn_audit.methods.loop import (
    LoopSettings,
    Objective,
    budget_of,
    logits_of,
    mean_loss,
    minibatches,
    paired,
    run_composition,
    schedule_of,
)

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Weight = Annotated[float, Field(ge=0, le=1e30)]
LOOKED_AT = 1000  # forget examples of which the divergence is taken at a look
FROM_TARGET = "divergence from held-out"


class ReferenceSettings(LoopSettings):
    """Settings of reference: a reconstruction, none of them is published in what could be read."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = None

    weight: Weight = Field(
        default=1.0, description="lambda, of the cross-entropy on retain; 0 leaves the retain set out"
    )
    movement: Weight = Field(
        default=0.0, description="rho, of the sum of |theta - original|: a proximal step after each update; 0 for none"
    )
    least: Annotated[int, Field(ge=1)] = Field(
        default=20, description="held-out examples beside the unseen twin that each target needs"
    )
    to_floor: bool = Field(
        default=True, description="stop once forget examples are as near to their targets as held-out ones are"
    )
    step_size: float = Field(default=0.01, gt=0, le=1e30, description="learning rate")
    epochs: float | None = Field(default=10, gt=0, le=1e6, description="passes over the forget set")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")


@dataclass(frozen=True, eq=False)
class Reference:
    """What the original says of held-out data.

    Attributes:
        targets: [C, C] t_y in row y; rows of labels that no forget example has are 0.
        floor: mean KL(t_y || softmax) of the held-out examples themselves, weighted as the forget set is, in nats.
        looked_at: test indices of the held-out examples.
    """

    targets: Floats
    floor: float
    looked_at: tuple[int, ...]


def shares_of(splits: Splits) -> Floats:
    """Return [C, C] how many forget examples have observed label y (row) and true class c (column)."""
    forget = splits.forget_examples
    found = np.zeros((splits.dataset.classes, splits.dataset.classes))
    np.add.at(found, (forget.labels.numpy(), forget.true_labels.numpy()), 1)
    return found


def make_reference(context: UnlearningContext, least: int) -> Reference:
    """Return targets and floor, by the model as it stands, in evaluation mode.

    A held-out example of true class c stands for the forget examples of that class, under each of the labels that they
    have: t_y is the mean over c of what the original says of held-out c, weighted by how often c is labelled y.

    Args:
        context: the model and the sets.
        least: held-out examples that each target needs.

    Raises:
        UsageError: there are fewer of a label, or none of a class.
    """
    counts = shares_of(context.splits)
    rows, true = held_out(context.splits, least)
    said = _log_probabilities(context, context.splits.dataset.test.subset(rows))  # [n, C]
    of_class = np.zeros_like(counts)
    np.add.at(of_class, true, np.exp(said))
    of_class /= np.maximum(np.bincount(true, minlength=len(counts)), 1)[:, None]
    labelled = counts.sum(axis=1)
    weights = np.divide(counts, labelled[:, None], out=np.zeros_like(counts), where=labelled[:, None] > 0)
    targets = weights @ of_class
    floor = 0.0
    for label, number in zip(*np.nonzero(counts), strict=True):
        apart = _divergence(targets[label], said[true == number]).mean()
        floor += counts[label, number] / counts.sum() * apart
    return Reference(targets, float(floor), tuple(int(row) for row in rows))


def held_out(splits: Splits, least: int) -> tuple[Indices, Indices]:
    """Return the test indices [n] that targets are made from, outside the twin, and their true classes [n].

    Args:
        splits: the sets.
        least: examples that each target needs.

    Raises:
        UsageError: there are fewer of a label, or none of a class.
    """
    counts = shares_of(splits)
    rows = np.setdiff1d(splits.pool, splits.unseen.unseen)
    true = splits.dataset.test.true_labels.numpy()[rows]
    needed = np.isin(true, np.flatnonzero(counts.any(axis=0)))
    rows, true = rows[needed], true[needed]
    _enough(splits, counts, np.bincount(true, minlength=splits.dataset.classes), least)
    return rows, true


def _enough(splits: Splits, counts: Floats, there: NDArray[np.int64], least: int) -> None:
    """Refuse targets that too few held-out examples stand behind."""
    text = splits.dataset.class_text
    for label in np.flatnonzero(counts.any(axis=1)):
        behind = np.flatnonzero(counts[label])
        missing = behind[there[behind] == 0]
        found, which = (0, missing[0]) if len(missing) else (int(there[behind].sum()), label)
        if found < least:
            raise UsageError(
                f"reference: beside the unseen twin the held-out data has {found} examples for {text(int(which))}, and "
                f"{least} are needed (--least); without them a target would be made from the audit's own answer key"
            )


def _log_probabilities(context: UnlearningContext, examples: Examples) -> Floats:
    """Return log softmax [n, C] of the model as it stands, in evaluation mode."""
    logits = predict(context.model, examples.images, context.transform, compute=context.compute)
    found: Floats = log_softmax(logits.astype(np.float64), axis=1)
    return found


def _divergence(targets: Floats, said: Floats) -> Floats:
    """Return KL(t || p) [n] in nats of targets [n, C] or [C], from log p [n, C]."""
    inner = np.where(targets > 0, targets * (np.log(np.maximum(targets, 1e-300)) - said), 0.0)
    found: Floats = inner.sum(axis=-1)
    return found


class _Floor:
    """Measures how far forget examples are from their targets, and says when that is far enough.

    Args:
        context: the model.
        reference: what is to be reached.
    """

    def __init__(self, context: UnlearningContext, reference: Reference) -> None:
        self.context, self.reference = context, reference
        forget = context.splits.forget_examples
        generator = torch.Generator().manual_seed(derive_seed(context.seed, "forget", "reference"))
        chosen = torch.randperm(len(forget), generator=generator)[:LOOKED_AT].sort().values.numpy()
        self.examples = forget.subset(chosen)
        self.targets = reference.targets[self.examples.labels.numpy()]
        self.start = self.divergence()

    def divergence(self) -> float:
        """Return the mean KL(t || softmax) on forget examples, in nats, in evaluation mode."""
        with modes_kept(self.context.model):
            return float(_divergence(self.targets, _log_probabilities(self.context, self.examples)).mean())

    def figures(self) -> dict[str, float]:
        """Return what is to be reached, what the original had, and what was reached, in nats."""
        found = {"floor": self.reference.floor, "start": self.start, "divergence": self.divergence()}
        return {f"reference.{name}": value for name, value in found.items()}

    def notes(self) -> tuple[str, ...]:
        """Say where the floor cannot tell that the original remembers, so that it is no reason to stop."""
        if self.start > self.reference.floor:
            return ()
        return (
            f"the original's answers on forget examples are no further from the targets ({self.start:.4f}) than on "
            f"held-out examples ({self.reference.floor:.4f}), whatever it remembers: a floor that ends no run",
        )

    def look(self, step: int) -> Mapping[str, float]:
        """Return the divergence after a step."""
        return {FROM_TARGET: self.divergence()}

    def stop(self, found: Mapping[str, float]) -> str | None:
        """Return why to stop, once the floor is reached."""
        value = found.get(FROM_TARGET)
        if value is None or not value <= self.reference.floor:
            return None
        return f"{FROM_TARGET} {value:.4f} is that of held-out examples themselves ({self.reference.floor:.4f})"


def pulled_back(context: UnlearningContext, settings: ReferenceSettings, course: Course) -> Hooks:
    """Return the proximal step of rho·|theta - theta_o|_1 after each update: small movements are none at all."""
    parameters = list(trainable(context.model).values())
    original = [parameter.detach().clone() for parameter in parameters]
    factor = schedule_of(settings.schedule, course)

    def after(step: int) -> None:
        pull = settings.step_size * factor(step) * settings.movement
        for parameter, before in zip(parameters, original, strict=True):
            moved = parameter - before
            parameter.copy_(before + moved.sign() * (moved.abs() - pull).clamp(min=0))

    def figures() -> dict[str, float]:
        moved = sum(int((now != before).sum()) for now, before in zip(parameters, original, strict=True))
        return {"reference.moved": moved / sum(each.numel() for each in original)}

    return Hooks(after=after, figures=figures)


def answering(context: UnlearningContext, settings: ReferenceSettings, targets: Tensor) -> Objective:
    """Return the objective: KL(t_y || softmax) on a forget batch and lambda·CE on a retain batch, in each step.

    Args:
        context: the model and the sets.
        settings: lambda and the batches.
        targets: [C, C] t_y in row y, on the device.
    """
    forget = minibatches(context, "forget", settings)
    retain = minibatches(context, "retain", settings) if settings.weight > 0 else None

    def terms(step: int) -> Terms:
        images, labels = forget.at(step)
        wanted = targets[labels].clamp(min=1e-30).log()
        apart = divergences(wanted, logits_of(context, images), 1.0).mean()
        found = {"divergence on forget": Term(apart, side="forget")}
        if retain:
            found["retain"] = Term(mean_loss(context, retain, step), settings.weight, "retain")
        return found

    both = paired(retain, forget, terms, losses=("retain",))
    alone = paired(None, forget, terms, losses=())
    return replace(both, length=alone.length, epoch_of=alone.epoch_of)  # an epoch is a pass over the forget set


def run_reference(context: UnlearningContext, settings: ReferenceSettings) -> Unlearned:
    """Fine-tune the forget set towards what the original says of held-out data, until it is as near as these are."""
    if context.count_only:  # the model may be an untrained one: nothing is asked of it, and what is wanting is refused
        held_out(context.splits, settings.least)
        return run_composition(context, answering(context, settings, torch.empty(0)), settings, task="reference")
    reference = make_reference(context, settings.least)
    targets = torch.from_numpy(reference.targets)
    double = any(each.dtype == torch.float64 for each in context.model.parameters())
    objective = answering(context, settings, upload(targets if double else targets.float(), context.compute.device))
    floor = _Floor(context, reference)
    told = f"targets from {len(reference.looked_at)} held-out examples beside the unseen twin of seed {context.seed}"
    hooks = [
        Hooks(
            look=floor.look,
            figures=floor.figures,
            notes=(f"{told}: an audit is fair with that seed and without another choice of the twin", *floor.notes()),
        )
    ]
    if settings.movement > 0:
        hooks.append(pulled_back(context, settings, Course(budget_of(settings, objective), objective.epoch_of)))
    useful = settings.to_floor and floor.start > reference.floor
    stop = floor.stop if useful else None
    done = run_composition(context, objective, settings, hooks=hooks, stop=stop, task="reference")
    looked_at = tuple(sorted({*reference.looked_at, *(done.looked_at or ())}))
    missed = useful and done.figures and done.figures["reference.divergence"] > reference.floor
    never = ("the floor was not reached: the budget is spent",) if missed else ()
    return replace(done, looked_at=looked_at, notes=(*done.notes, *never))


REFERENCE = Method(
    "reference",
    "a reconstruction in the sense of Forsaken (Ma et al. 2023) and ReGUn (2026); their texts were not read",
    ReferenceSettings,
    run_reference,
    on=NEEDS_CLASSES,
)
