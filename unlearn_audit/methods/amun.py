"""AMUN: fine-tune on the data and on the nearest adversarial example of each forget example.

Ebrahimpour-Boroojeny et al. 2025.

One cross-entropy over one shuffled union. The forget examples keep their true labels; their adversarial neighbours
carry the wrong label that the original gives them, so that the boundary moves between the two and nowhere else:

| retain set | amun | advonly |
|---|---|---|
| at hand | D_r + D_f + D_A | D_r + D_A |
| `retain_free` | D_f + D_A | D_A |
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from unlearn_audit.data import Examples
from unlearn_audit.engine import Hooks, MixedSet, Part, Term, Terms, derive_seed
from unlearn_audit.engine.task import losses as example_losses
from unlearn_audit.errors import UsageError
from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.adversarial_sets import AdversarialSet, adversarial_set, clean_examples
from unlearn_audit.methods.generators import NEEDS_CLASSES
from unlearn_audit.methods.loop import LoopSettings, Size, Step, examples_of, logits_of, run_composition
from unlearn_audit.methods.mixtures import mixed, mixture_of
from unlearn_audit.methods.pixel_attacks import Search, pixels
from unlearn_audit.methods.two_sides import sides_of

EXPECTED_GRADIENTS = 200  # of an example, before its search: four levels; 204 were taken on digits


class AmunSettings(LoopSettings):
    """Settings of AMUN: SGD .01, momentum .9, decay 5e-4, batch 128, 10 epochs, as the code's example has them.

    The source tunes the learning rate in .1 to 1e-5 and a schedule that divides it by 10 every 1, 5 or 10 epochs; the
    example of its README divides it every epoch, which is in `PUBLISHED`.
    """

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {"schedule": "milestones:1,2,3,4,5,6,7,8,9"}

    step_size: Step = Field(default=0.01, description="learning rate; the source tunes it in .1, .05, .01, … 1e-5")
    epochs: float | None = Field(default=10, gt=0, le=1e6, description="passes over all that is mixed")
    batch_size: Size = Field(default=128, description="examples of the mixture in one step; full: all in one pass")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(default=5e-4, ge=0, description="weight decay of the optimiser, on every parameter")
    variant: Literal["amun", "advonly"] = Field(
        default="amun", description="amun: the forget examples take part under their true labels, too; advonly: not"
    )
    retain_free: bool = Field(default=False, description="do not use the retain set")
    set: Literal["adversarial", "advl", "rl", "arl", "ars"] = Field(
        default="adversarial",
        description="what takes the adversarial set's place, to see what it is good for: the clean images under its "
        "labels (advl) or random ones (rl), its images under random labels (arl), the clean images moved as far in a "
        "random direction (ars)",
    )
    adversarial: str | None = Field(
        default=None,
        description="an adversarial set that is there already (.safetensors or .npz: indices, images, labels); "
        "without it one is made and kept beside the output",
    )
    first_radius: Annotated[float, Field(gt=0, le=1e6)] = Field(
        default=0.04,
        description="radius that the search begins with, l2 in pixels of [0, 1]; it doubles level by level",
    )
    attack_steps: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=50, description="steps of the search in each level, of a tenth of its radius"
    )

    def without_effect(self) -> tuple[str, ...]:
        """Return how to search where nothing is searched for."""
        return ("first_radius", "attack_steps") if self.adversarial is not None else ()


def run_amun(context: UnlearningContext, settings: AmunSettings) -> Unlearned:
    """Fine-tune on the data and on the nearest adversarial example of each forget example, which has a wrong label.

    The adversarial set is made first and kept beside the output, where the next run finds it. Images must be stored as
    uint8, or as floats in [0, 1]; at least 95 % of the forget examples need an adversarial example.
    """
    for extra in context.extras:
        if extra.transform.two_sided:  # its one loss is over all rows; said at the first step, it were after the search
            sides_of({"mixture": Part((), None)}, extra.transform.name)
    forget = context.splits.forget_examples
    retain = None if settings.retain_free else examples_of(context, "retain")  # missing, it is so before the search
    if context.count_only:
        gradients = 0 if settings.adversarial else EXPECTED_GRADIENTS * len(forget)
        stand_in, hooks = forget, Hooks(gradient_evaluations=gradients)
    else:
        search = Search(first=settings.first_radius, tries=settings.attack_steps)
        found = adversarial_set(context, search, settings.adversarial)
        stand_in, hooks = _in_its_place(context, found, settings.set), _told(context, found)
    sets = [MixedSet(stand_in, augment=False)]
    if settings.variant == "amun":
        sets.insert(0, MixedSet(forget))
    if retain is not None:
        sets.insert(0, MixedSet(retain))
    mixture = mixture_of(context, sets, settings)

    def terms(step: int) -> Terms:
        batch = mixture.at(step)
        return {"mixture": Term(example_losses(logits_of(context, batch.images), batch.labels).mean())}

    return run_composition(context, mixed(mixture, terms), settings, hooks=[hooks], task="AMUN")


def _in_its_place(context: UnlearningContext, found: AdversarialSet, which: str) -> Examples:
    """Return the adversarial set as examples, or what an ablation puts in its place."""
    clean = clean_examples(context, found)
    images = clean.images if which in ("advl", "rl") else found.images
    if which == "ars":
        images = _moved_at_random(context.seed, pixels(clean.images), found.images)
    labels = found.labels
    if which in ("rl", "arl"):
        labels = _other_labels(context.seed, clean.labels, found.labels, context.splits.dataset.classes)
    return Examples(images, labels, clean.true_labels)


def _other_labels(seed: int, own: Tensor, adversarial: Tensor, classes: int) -> Tensor:
    """Return labels [m] drawn uniformly from the classes that are neither an example's own nor its adversarial one."""
    if classes < 3:
        raise UsageError("set rl and set arl draw from the classes that are neither an example's own nor the model's "
                         "wrong one; with two classes there is none")  # fmt: skip
    generator = torch.Generator().manual_seed(derive_seed(seed, "random labels", "amun"))
    drawn = torch.randint(0, classes - 2, own.shape, generator=generator)
    for taken in torch.stack([own, adversarial]).sort(dim=0).values:  # the lower one first, so that each shifts once
        drawn = drawn + (drawn >= taken).to(drawn.dtype)
    return drawn


def _moved_at_random(seed: int, clean: Tensor, adversarial: Tensor) -> Tensor:
    """Return images as far from the clean ones as the adversarial ones, in a random direction, kept in [0, 1]."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "random direction"))
    drawn = torch.randn(clean.shape, generator=generator)
    lengths, drawn_lengths = (
        torch.linalg.vector_norm(each.flatten(1), dim=1).view(-1, 1, 1, 1) for each in (adversarial - clean, drawn)
    )
    moved: Tensor = (clean + drawn * lengths / drawn_lengths).clamp(0, 1)
    return moved


def _told(context: UnlearningContext, found: AdversarialSet) -> Hooks:
    """Return what the search took and found, for the record."""
    distances = torch.linalg.vector_norm(
        (found.images - pixels(clean_examples(context, found).images)).flatten(1), dim=1
    )
    median = float(distances.median())
    share = len(found.indices) / found.asked
    notes = []
    if len(found.indices) < found.asked:
        notes.append(
            f"{found.asked - len(found.indices)} of {found.asked} forget examples have no adversarial example and take "
            "no part in the adversarial set"
        )
    if found.brought:
        notes.append(found.brought)
    if found.name:
        notes.append(f"the adversarial set is kept as {found.name}")
    return Hooks(
        gradient_evaluations=found.gradients,
        notes=tuple(notes),
        figures=lambda: {
            "adversarial.solved": share,
            **({} if found.wrong is None else {"adversarial.misclassified": found.wrong / found.asked}),
            "adversarial.median_distance": median,
            "adversarial.largest_distance": float(distances.max()),
        },
    )


AMUN = Method(
    "amun",
    "Ebrahimpour-Boroojeny et al. 2025, with the values of its code",
    AmunSettings,
    run_amun,
    deviations=(
        "what the last step of a level of the search reaches is looked at before the radius doubles; the published "
        "code looks at it afterwards, and so records twice the radius for it",
    ),
    on=NEEDS_CLASSES,
)
