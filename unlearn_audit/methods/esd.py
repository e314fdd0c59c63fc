"""ESD: under the concept's condition the model denoises away from the concept (Gandikota et al. 2023).

A step descends |f(x_t, t, c) - [f_o(x_t, t, null) - eta·(f_o(x_t, t, c) - f_o(x_t, t, null))]|^2 / D, with f_o the
original, and x_t from a guided sampler under c, stopped at a random step. No image is needed; a retain term, which the
source has not, keeps the other conditions.

Three public scripts have one flag and two strengths, in the terms of eta: train-esd.py (the first release) has
eps_null - n·(eps_c - eps_null) with n = 1, which is eta = 1; esd_sd.py has eps_c - n·(eps_c - eps_null) with n = 2,
which is eta = n - 1 = 1; alt_esd_diffusers.py has the first form with n = 2, which is eta = 2.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from unlearn_audit.data import whole_classes
from unlearn_audit.engine import Draws, FullBatch, Term, Terms, chunks, derive_seed, modes_kept, upload
from unlearn_audit.errors import UsageError
from unlearn_audit.generation.samplers import Jump, clipped, ddim, image_and_noise, jumps
from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.generators import (
    NEEDS_GENERATOR,
    GeneratorSettings,
    Scope,
    denoiser_of,
    encoded_prompts,
    frozen,
)
from unlearn_audit.methods.loop import (
    Objective,
    Schedule,
    Size,
    Step,
    examples_of,
    logits_of,
    mean_loss,
    minibatches,
    run_composition,
)
from unlearn_audit.models.denoisers import Denoiser, Noised

SOURCE = "Gandikota et al. 2023; values of the first release's train-esd.py"
DEVIATIONS = (
    "eta is the strength in the paper's form, as in the first release; negative_guidance of esd_sd.py is eta + 1, that "
    "of alt_esd_diffusers.py is eta, so that their common default of 2 is eta 1 in the one and eta 2 in the other",
    "the sampler that x_t comes from is DDIM without noise; esd_sd.py takes the pipeline's own",
)
Count = Annotated[int, Field(gt=0)]


class EsdSettings(GeneratorSettings):
    """Settings of ESD on a generator of classes; published are those of the first release, for Stable Diffusion."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {
        "steps": 1000,
        "step_size": 1e-5,
        "batch_size": 1,
        "schedule": "constant",
        "max_norm": "none",
        "retain_weight": 0.0,
        "sample_with": "edited",
    }
    UNKNOWN: ClassVar[tuple[str, ...]] = ("pool",)

    def without_effect(self) -> tuple[str, ...]:
        """Return what only a pool has, where there is none."""
        return ("pool",) if self.sample_with == "edited" else ()

    eta: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=1.0, description="strength in the paper's form; esd_sd.py's negative_guidance is eta + 1"
    )
    retain_weight: Annotated[float, Field(ge=0, le=1e30)] = Field(
        default=1.0, description="of the denoising loss on retain; 0: no image is looked at, and kept classes suffer"
    )
    guidance: Annotated[float, Field(ge=0, le=1e3)] = Field(
        default=3.0, description="of the sampler that x_t comes from; 1 is none"
    )
    sampling_steps: Count = Field(default=50, description="of that sampler")
    sample_with: Literal["frozen", "edited"] = Field(
        default="frozen", description="whose samples: a pool of the original's, drawn once, or the model's own, anew"
    )
    pool: Count = Field(
        default=128, description="samples in the pool; each gives one x_t for every step of the sampler"
    )
    batch_size: Size = Field(default=32, description="x_t, and retain examples, in one step")


class EsdOnTexts(EsdSettings):
    """Settings of ESD on a generator of texts: those of the first release, but for the pool."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {"sample_with": "edited"}

    def without_effect(self) -> tuple[str, ...]:
        """Return what is no deviation: what is forgotten, and what only a pool has, where there is none."""
        return ("concept", *super().without_effect())

    concept: str | None = Field(
        default=None, min_length=1, description="what is forgotten, as a prompt; default: the forget set's own prompts"
    )
    scope: Scope = "xattn"
    step_size: Step = Field(default=1e-5, description="learning rate")
    steps: int | None = Field(default=1000, ge=0, description="budget in minibatch steps, instead of epochs")
    batch_size: Size = Field(default=1, description="x_t, and retain examples, in one step")
    schedule: Schedule = Field(
        default="constant",
        description="schedule of the step size: constant, linear or cosine (to zero), "
        "milestones:3,5 (x 0.1 after epochs)",
    )
    max_norm: Step | Literal["none"] = Field(
        default="none", description="largest norm of a step's gradient, after every transform; or none"
    )
    retain_weight: Annotated[float, Field(ge=0, le=1e30)] = Field(
        default=0.0, description="of the denoising loss on retain; 0: no image is looked at"
    )
    pool: Count = Field(default=20, description="samples in the pool; each gives one x_t for every step of the sampler")


class Concept(NamedTuple):
    """What is forgotten, [K, ...] conditions, and what stands for no condition, [1, ...]."""

    asked: Tensor
    null: Tensor


def aimed_at(under: Tensor, without: Tensor, eta: float) -> Tensor:
    """Return f_null - eta·(f_c - f_null), what ESD aims at.

    Args:
        under: the original's prediction under the concept.
        without: its prediction under no condition.
        eta: the strength, in the paper's form.
    """
    return without - eta * (under - without)


def run_esd(context: UnlearningContext, settings: EsdSettings) -> Unlearned:
    """Denoise under the concept's condition away from it, as the original shows the way.

    Forget examples are looked at for their conditions alone. At retain_weight 0, as published, a small generator of
    classes loses the kept ones, too.
    """
    retain = minibatches(context, "retain", settings) if settings.retain_weight > 0 else None
    if settings.batch_size == "full":
        raise UsageError("batch_size full: what ESD denoises is drawn, and has no whole; give a number")
    states = States(context, settings, frozen(context), settings.batch_size)

    def terms(step: int) -> Terms:
        noised = states.at(step)
        with torch.no_grad():
            under = logits_of(context, noised, states.teacher)
            without = logits_of(context, noised._replace(condition=states.no_condition), states.teacher)
        losses = context.task.losses(logits_of(context, noised), aimed_at(under, without, settings.eta))
        found = {"esd": Term(losses.mean(), 1.0, "forget")}
        if retain is not None:
            found["retain"] = Term(mean_loss(context, retain, step), settings.retain_weight, "retain")
        return found

    per_epoch = retain.per_epoch if retain is not None else states.per_epoch
    objective = Objective(
        terms,
        length=lambda epochs: max(1, round(epochs * per_epoch)),
        epoch_of=lambda step: step // per_epoch,
        gradients=lambda steps: steps * states.size + (retain.taken(steps) if retain is not None else 0),
        losses=("retain",) if retain is not None else (),
        sides=("forget", "retain") if retain is not None else ("forget",),
    )
    return run_composition(context, objective, settings, task="ESD")


def concept_of(context: UnlearningContext, settings: EsdSettings) -> Concept:
    """Return the conditions that are forgotten, and the null condition.

    Raises:
        UsageError: the generator has no null condition, there is nothing that names the concept, or a generator of
            classes is to forget a part of one: all its samples would be forgotten with it.
    """
    if denoiser_of(context).conditioning == "class":
        whole_classes(context.splits, wanted_by="esd needs whole classes: its concept is all that a class draws")
    named = settings.concept if isinstance(settings, EsdOnTexts) else None
    asked = _own_conditions(context) if named is None else encoded_prompts(context, [named], asked_by="concept")
    denoiser = denoiser_of(context)
    if denoiser.conditioning == "text":
        return Concept(asked, encoded_prompts(context, [""], asked_by="ESD"))
    if denoiser.null is None:
        raise UsageError(
            "ESD leads from a condition towards none, and this generator has no null condition: its label embedding "
            "has a row for each class and no more"
        )
    return Concept(asked, torch.tensor([denoiser.null], device=context.compute.device))


def _own_conditions(context: UnlearningContext) -> Tensor:
    """Return the different conditions of the forget set, [K, ...]."""
    examples = examples_of(context, "forget")
    _, first = np.unique(examples.labels.numpy(), return_index=True)
    batch = FullBatch(
        examples.subset(first), context.transform, compute=context.compute, task=context.task,
        draws=Draws(context.seed, ("forget",), count=1),
    )  # fmt: skip
    return torch.cat([rows.inputs.condition for rows in batch.parts])


class States:
    """Where ESD looks: x_t of a guided sampler under the concept, at any of its steps with the same chance.

    The sampler is DDIM. What a step looks at depends on (seed, step) and on whose samples these are: on the original,
    or on the model as it stands.

    Args:
        context: the model, and the seed.
        settings: of the sampler and the pool.
        teacher: the original, at rest.
        size: x_t in a step.
    """

    def __init__(self, context: UnlearningContext, settings: EsdSettings, teacher: Denoiser, size: int) -> None:
        self.context, self.settings, self.teacher, self.size = context, settings, teacher, size
        self.concept = concept_of(context, settings)
        pipeline = context.pipeline
        self.config: Mapping[str, Any] = pipeline.scheduler_config if pipeline is not None else {}
        self.jumps = jumps(teacher.schedule.alphas_bar.tolist(), settings.sampling_steps, self.config)

    @property
    def per_epoch(self) -> int:
        """Steps in which as many x_t are drawn as a pool has."""
        return max(1, self.settings.pool * len(self.jumps) // self.size)

    @property
    def no_condition(self) -> Tensor:
        """The null condition for each row of a step."""
        return self.concept.null.expand(self.size, *self.concept.null.shape[1:])

    def at(self, step: int) -> Noised:
        """Return what a step looks at, under the concept."""
        if self.settings.sample_with == "edited":
            return self._of_edited(step)
        generator = torch.Generator().manual_seed(derive_seed(self.context.seed, "states", "which", step))
        chosen = torch.randint(self.settings.pool * len(self.jumps), (self.size,), generator=generator)
        image, place = chosen // len(self.jumps), chosen % len(self.jumps)
        device = self.context.compute.device
        times = torch.tensor([jump.t for jump in self.jumps])
        x = self._pool[upload(place, device), upload(image, device)]
        return Noised(x, upload(times[place], device), self._conditions(image.tolist()))

    def _of_edited(self, step: int) -> Noised:
        """Sample with the model as it stands, up to a random step that all rows share."""
        generator = torch.Generator().manual_seed(derive_seed(self.context.seed, "states", "which", step))
        stop = int(torch.randint(len(self.jumps), (1,), generator=generator))
        numbers = [step * self.size + each for each in range(self.size)]
        conditions = self._conditions(numbers)
        model = denoiser_of(self.context)
        with modes_kept(model):
            model.eval()
            path = self._path(model, self._beginnings("edited", numbers), conditions)
            x = next(x for place, x in enumerate(path) if place == stop)
        return Noised(x, torch.full((self.size,), self.jumps[stop].t, device=x.device), conditions)

    @cached_property
    def _pool(self) -> Tensor:
        """Every x_t of the original's samples, [steps, samples, C, H, W]."""
        found, count = [], self.settings.pool
        largest = max(1, self.context.compute.chunk // 2)  # with and without the condition go through together
        for part in chunks(count, largest):
            numbers = list(range(part.start, part.stop))
            beginnings, conditions = self._beginnings("pool", numbers), self._conditions(numbers)
            states = []
            for step, x in enumerate(self._path(self.teacher, beginnings, conditions), start=1):
                states.append(x)
                done = part.start * len(self.jumps) + len(numbers) * step
                self.context.progress("ESD: samples of the original", done, count * len(self.jumps))
            found.append(torch.stack(states))
        return torch.cat(found, dim=1)

    def _path(self, model: Denoiser, x: Tensor, conditions: Tensor) -> Iterator[Tensor]:
        """Yield x_t at each step of the sampler, before it is taken."""
        prediction = model.schedule.prediction
        for jump in self.jumps:
            yield x
            with torch.no_grad():
                output = self._guided(model, x, jump, conditions)
                image, noise = image_and_noise(output, x, jump.at, prediction)
                within = clipped(image, self.config, default=self.context.task.encode is None)
                x = ddim(jump, within, noise)

    def _guided(self, model: Denoiser, x: Tensor, jump: Jump, conditions: Tensor) -> Tensor:
        """Return f_null + guidance·(f_c - f_null)."""
        t = torch.full((len(x),), jump.t, device=x.device)
        null = self.concept.null.expand(len(x), *self.concept.null.shape[1:])
        both = Noised(torch.cat([x, x]), torch.cat([t, t]), torch.cat([null, conditions]))
        without, under = logits_of(self.context, both, model).chunk(2)
        return without + self.settings.guidance * (under - without)

    def _beginnings(self, what: str, numbers: list[int]) -> Tensor:
        """Return x_T of numbered samples."""
        shape = self._shape
        drawn = [
            torch.randn(
                shape, generator=torch.Generator().manual_seed(derive_seed(self.context.seed, "states", what, m))
            )
            for m in numbers
        ]
        return upload(torch.stack(drawn), self.context.compute.device)

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        """Of what is denoised: latents as large as the generator's own, or images as large as the data's."""
        pipeline = self.context.pipeline
        if pipeline is not None and pipeline.has_latents and pipeline.size is not None:
            return tuple(pipeline.shape(None))
        return tuple(self.context.sample.shape[1:])

    def _conditions(self, numbers: list[int]) -> Tensor:
        """Return the condition of numbered samples: where several are forgotten they take turns."""
        asked = self.concept.asked
        return asked[upload(torch.tensor(numbers) % len(asked), asked.device)]


ESD = Method(
    "esd",
    SOURCE,
    EsdSettings,
    run_esd,
    deviations=DEVIATIONS,
    whole_classes=True,
    on={**NEEDS_GENERATOR, "text-to-image": Method("esd", SOURCE, EsdOnTexts, run_esd, deviations=DEVIATIONS)},
)
