"""Pseudo conditions: under its own condition a forget image is denoised as under another one (Fan et al. 2024).

A step descends |f(x_t, c) - sg[f(x_t, c')]|^2 / D on forget images, and w times the denoising loss on retain images.
What SalUn calls random labels on generators is this with c' the next class, for all images alike, and with the model
itself, as it stands in the step, for its own teacher.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from unlearn_audit.engine import Term, Terms, derive_seed, upload
from unlearn_audit.errors import UsageError
from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.generators import NEEDS_GENERATOR, GeneratorSettings, denoiser_of, encoded_prompts, frozen
from unlearn_audit.methods.loop import Objective, logits_of, mean_loss, minibatches, paired, run_composition

PROMPT = "prompt:"


def _known_pseudo(text: str) -> str:
    if text not in ("next", "random") and not text.removeprefix(PROMPT).strip():
        raise ValueError(f"'{text}' names no prompt; write it after the colon")
    if text not in ("next", "random") and not text.startswith(PROMPT):
        raise ValueError(f"must be next, random or prompt:TEXT (got '{text}')")
    return text


Pseudo = Annotated[str, AfterValidator(_known_pseudo)]
Others = Callable[[Tensor, int], Tensor]  # conditions of the rows of a step [R, ...] -> those that take their place


class PseudoSettings(GeneratorSettings):
    """Settings of pseudo conditions; a weight counts the mean over elements, as everywhere here.

    The public SalUn code sums the retain loss over 3,072 elements, so that its alpha of 1e-3 is a weight of 3.07.
    """

    pseudo: Pseudo = Field(
        default="next",
        description="the condition in place of the forgotten one: next (kept class), random, prompt:TEXT",
    )
    target: Literal["current", "frozen"] = Field(
        default="current", description="whose prediction under it is aimed at: the model's own, or the original's"
    )
    retain_weight: float = Field(default=1.0, ge=0, le=1e30, description="of the retain loss; 0 leaves it out")


class RlOnGenerators(PseudoSettings):
    """Settings of RL on a generator: pseudo conditions that are drawn at random."""

    pseudo: Pseudo = Field(
        default="random", description="the condition in place of the forgotten one: next, random, prompt:TEXT"
    )


def run_pseudo(context: UnlearningContext, settings: PseudoSettings) -> Unlearned:
    """Denoise forget images under their own condition as under another one, and retain images as they are."""
    return run_composition(context, redirected(context, settings), settings, task="pseudo")


def redirected(context: UnlearningContext, settings: PseudoSettings) -> Objective:
    """Return the objective: |f(x_t, c) - sg[f(x_t, c')]|^2 / D on forget, the denoising loss on retain.

    Raises:
        UsageError: there is no other condition, or one that this kind of generator does not take.
    """
    forget = minibatches(context, "forget", settings)
    retain = minibatches(context, "retain", settings) if settings.retain_weight > 0 else None
    others = other_conditions(context, settings.pseudo)
    teacher = context.model if settings.target == "current" else frozen(context)

    def terms(step: int) -> Terms:
        noised = forget.rows_at(step).inputs
        with torch.no_grad():
            wanted = logits_of(context, noised._replace(condition=others(noised.condition, step)), teacher)
        losses = context.task.losses(logits_of(context, noised), wanted)
        found = {"pseudo": Term(losses.mean(), 1.0, "forget")}
        if retain is not None:
            found["retain"] = Term(mean_loss(context, retain, step), settings.retain_weight, "retain")
        return found

    return paired(retain, forget, terms, losses=("retain",))


def other_conditions(context: UnlearningContext, pseudo: str) -> Others:
    """Return what takes the place of conditions in a step; forgotten classes never do.

    Args:
        context: the sets, and the pipeline of a generator of texts.
        pseudo: next, random or prompt:TEXT.

    Raises:
        UsageError: there is no other condition, or one that this kind of generator does not take.
    """
    device = context.compute.device
    if pseudo.startswith(PROMPT):
        embedded = encoded_prompts(context, [pseudo.removeprefix(PROMPT)], asked_by=f"pseudo {pseudo}")
        return lambda conditions, step: embedded.expand(len(conditions), *embedded.shape[1:])
    if denoiser_of(context).conditioning == "text":
        raise UsageError(
            f"pseudo {pseudo}: a text has no {pseudo} one; name what is to be drawn in its place: prompt:TEXT"
        )
    classes = kept_classes(context)
    if pseudo == "next":
        table = upload(torch.tensor(next_kept(context.splits.dataset.classes, classes)), device)
        return lambda conditions, step: table[conditions]
    among = torch.tensor(classes)

    def drawn(conditions: Tensor, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(context.seed, "random labels", "pseudo", step))
        return upload(among[torch.randint(len(among), (len(conditions),), generator=generator)], device)

    return drawn


def kept_classes(context: UnlearningContext) -> list[int]:
    """Return the classes that are not forgotten as a whole.

    Raises:
        UsageError: fewer than one is left, or there is one class in all.
    """
    splits = context.splits
    kept = [number for number in range(splits.dataset.classes) if number not in splits.forgotten_classes]
    if not kept or splits.dataset.classes < 2:
        raise UsageError("no class is kept that could take the place of a forgotten one")
    return kept


def next_kept(classes: int, kept: list[int]) -> list[int]:
    """Return for each class the next one that is kept, after the last one the first.

    >>> next_kept(4, [0, 1, 3])
    [1, 3, 3, 0]
    """
    return [next(each % classes for each in range(number + 1, number + 1 + classes) if each % classes in kept)
            for number in range(classes)]  # fmt: skip


DEVIATIONS = (
    "labels are dropped in retain batches alone, and predictions that are aimed at are made without dropping any; "
    "the published code drops a tenth in both passes over the forget set, each for itself",
    "a class that is forgotten never takes the place of another",
)
PSEUDO = Method(
    "pseudo",
    "Fan et al. 2024, the loss that SalUn has on generators",
    PseudoSettings,
    run_pseudo,
    on=NEEDS_GENERATOR,
    deviations=DEVIATIONS,
)
