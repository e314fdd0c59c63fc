"""Images from a generator, each from noise of its own, so that batch size, order and device do not matter.

The noise of image m under condition c is keyed by (seed, c, m): all models begin with the same one, so that their
images can be compared one by one. It is drawn on the CPU, and a sampler that adds noise on the way goes on drawing from
the same generator, one for each image.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from unlearn_audit.engine import Device, chunks
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.generation.prompts import PromptFile
from unlearn_audit.generation.samplers import SAMPLERS, SamplerName, clipped, ddim, ddpm, image_and_noise, jumps
from unlearn_audit.models import models_own
from unlearn_audit.models.denoisers import Denoiser, Noised
from unlearn_audit.progress import Progress, silent
from unlearn_audit.streams import derive_seed
from unlearn_audit.user_code import raised

Condition = int | str  # a class's number, or a prompt
AT_ONCE = 2**17  # positions of x_t in one forward pass: 32 latents of 64 x 64
PIXELS_AT_ONCE = 2**20  # decoded in one pass: four images of 512 x 512


class Sampled(Protocol):
    """What images are drawn from: a pipeline as far as sampling goes."""

    @property
    def denoiser(self) -> Denoiser:
        """With its schedule and its null condition."""

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        """Of the folder's scheduler."""

    @property
    def has_latents(self) -> bool:
        """Whether x is not the image itself but a code of it."""

    @property
    def side(self) -> int:
        """Pixels along each side that one position of x stands for."""

    def shape(self, size: tuple[int, int] | None) -> tuple[int, int, int]:
        """Return [C, H, W] of x for images of a height and width; None: of the size that the generator was made for."""

    def encode(self, conditions: Sequence[Condition], compute: Device) -> Tensor:
        """Return what the denoiser is given for each condition; "" is the null condition of prompts."""

    def decode(self, x: Tensor) -> Tensor:
        """Return images in [-1, 1] for x."""

    def scheduler(self) -> Any:
        """Return the folder's own scheduler, fresh."""


@dataclass(frozen=True)
class Sampling:
    """How images are drawn.

    Attributes:
        sampler: "ddim", "ddpm", or "folder" for the scheduler that the folder names.
        steps: passes through the denoiser for each image.
        guidance: g in ε_∅ + g·(ε_c - ε_∅); 1 is none.
    """

    sampler: SamplerName = "ddim"
    steps: int = 25
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise UsageError(f"unknown sampler {self.sampler!r:.40}; known: {', '.join(SAMPLERS)}")


def usual_sampling(
    conditioning: str, *, sampler: SamplerName | None = None, steps: int | None = None, guidance: float | None = None
) -> Sampling:
    """Return how images are drawn where not all of it is said.

    Class-conditional: DDIM, 25 steps, no guidance. Prompts: the folder's scheduler, 50 steps, guidance 7.5.

    Args:
        conditioning: "class" or "text", the denoiser's.
        sampler: as asked for.
        steps: likewise.
        guidance: likewise.
    """
    usual = Sampling("folder", 50, 7.5) if conditioning == "text" else Sampling()
    return Sampling(
        sampler or usual.sampler,
        usual.steps if steps is None else steps,
        usual.guidance if guidance is None else guidance,
    )


class Wanted(NamedTuple):
    """One image that is asked for.

    Attributes:
        condition: a class's number, or a prompt.
        number: of the image under its condition.
        seed: of its generator itself, instead of one that is keyed by condition and number.
        guidance: its own, instead of that of all.
        size: height and width in pixels; None: those that the generator was made for.
    """

    condition: Condition
    number: int
    seed: int | None = None
    guidance: float | None = None
    size: tuple[int, int] | None = None

    def seeded(self, seed: int) -> int:
        """Return the seed of this image's generator, on which neither its batch nor the device has an influence."""
        return derive_seed(seed, "image", self.condition, self.number) if self.seed is None else self.seed


def of_prompts(file: PromptFile) -> tuple[Wanted, ...]:
    """Return one image for each prompt of a file, with the seed, guidance and size that it asks for."""
    return tuple(
        Wanted(
            one.text, one.number, one.seed, one.guidance, (one.height, one.width) if one.height and one.width else None
        )
        for one in file.prompts
    )


def sample(
    pipeline: Sampled,
    conditions: Sequence[Condition],
    numbers: Sequence[int],
    *,
    seed: int,
    compute: Device,
    sampler: SamplerName = "ddim",
    steps: int = 25,
    guidance: float = 1.0,
    progress: Progress = silent,
) -> Tensor:
    """Return an image for each condition, as it would be stored.

    Args:
        pipeline: the generator, on the device of `compute`.
        conditions: N classes or prompts.
        numbers: N; image m under a condition begins with the same noise in every call.
        seed: the person's.
        compute: device, precision, and the largest number of rows in a pass through the denoiser.
        sampler: "ddim", "ddpm" or "folder".
        steps: of the sampler.
        guidance: 1 is none.
        progress: progress callback.

    Returns:
        uint8 [N, C, H, W] on the CPU.

    Raises:
        UsageError: a condition that the generator does not know, guidance without a null condition, or steps or a
            sampler that its schedule does not permit.
        MeasurementError: what comes out is not finite.
    """
    wanted = [Wanted(condition, int(number)) for condition, number in zip(conditions, numbers, strict=True)]
    drawn = dict(images(pipeline, wanted, Sampling(sampler, steps, guidance), seed=seed, compute=compute,
                        progress=progress))  # fmt: skip
    return torch.stack([drawn[index] for index in range(len(wanted))])


def images(
    pipeline: Sampled,
    wanted: Sequence[Wanted],
    sampling: Sampling,
    *,
    seed: int,
    compute: Device,
    progress: Progress = silent,
) -> Iterator[tuple[int, Tensor]]:
    """Draw images that may differ in guidance and size, those that do not together.

    Args:
        pipeline: the generator.
        wanted: what is asked for.
        sampling: of all, but for an image's own guidance.
        seed: the person's.
        compute: device, precision, and the largest number of rows in a pass.
        progress: progress callback.

    Yields:
        Which of the wanted it is, and the image, uint8 [C, H, W] on the CPU.

    Raises:
        UsageError: as `sample`.
        MeasurementError: as `sample`.
    """
    alike: dict[tuple[float, tuple[int, int] | None], list[int]] = {}
    for index, one in enumerate(wanted):
        guidance = sampling.guidance if one.guidance is None else one.guidance
        alike.setdefault((guidance, one.size), []).append(index)
    shapes = {key: pipeline.shape(key[1]) for key in alike}  # of all, before any is drawn
    for guidance, _ in alike:
        _check_guidance(pipeline, guidance)
    if pipeline.denoiser.conditioning == "class":
        pipeline.encode([one.condition for one in wanted], compute)
    done = 0
    for key, indices in alike.items():
        guidance, shape = key[0], shapes[key]
        rows = max(1, min(compute.chunk, AT_ONCE // (shape[1] * shape[2])) // (1 if guidance == 1 else 2))
        for part in chunks(len(indices), rows):
            chosen = [wanted[index] for index in indices[part]]
            generators = [torch.Generator().manual_seed(one.seeded(seed)) for one in chosen]
            one_way = Sampling(sampling.sampler, sampling.steps, guidance)
            told = _told(progress, done, len(chosen), len(wanted))
            drawing = _Drawing(pipeline, [one.condition for one in chosen], generators, one_way, compute, told)
            yield from zip(indices[part], drawing.images(shape), strict=True)
            done += len(chosen)


def _told(progress: Progress, before: int, batch: int, count: int) -> Callable[[int, int], None]:
    """Return what tells how far a batch is: it may take minutes, so that to count its images at its end is too late."""

    def told(step: int, steps: int) -> None:
        note = f"{before + batch if step == steps else before} of {count} images"
        progress("sampling", before * steps + batch * step, count * steps, note)

    return told


def _check_guidance(pipeline: Sampled, guidance: float) -> None:
    if guidance != 1 and pipeline.denoiser.conditioning == "class" and pipeline.denoiser.null is None:
        raise UsageError(
            f"guidance {guidance:g}: this generator has no null condition, as it has no row beside those of its "
            "classes; use guidance 1, which is none"
        )


def first_noise(generators: Sequence[torch.Generator], shape: tuple[int, int, int]) -> Tensor:
    """Return the next standard normal draw of each generator, [N, C, H, W], on the CPU."""
    return torch.stack([torch.randn(shape, generator=each) for each in generators])


@dataclass(frozen=True, eq=False)
class _Drawing:
    """One batch on its way from noise to images."""

    pipeline: Sampled
    conditions: Sequence[Condition]
    generators: Sequence[torch.Generator]
    sampling: Sampling
    compute: Device
    told: Callable[[int, int], object]  # of each step that was taken: which, and of how many

    def images(self, shape: tuple[int, int, int]) -> Tensor:
        """Return uint8 [N, C, H, W] on the CPU."""
        self.pipeline.denoiser.eval()
        with torch.inference_mode():
            given = self._given()
            x = first_noise(self.generators, shape).to(self.compute.device)
            x = self._as_the_folder_does(x, given) if self.sampling.sampler == "folder" else self._stepwise(x, given)
            decoded = self._decoded(x)
        if not bool(torch.isfinite(decoded).all()):
            raise MeasurementError("the samples are not finite: this generator has diverged")
        return stored(decoded)

    def _given(self) -> Tensor:
        """Return the conditions as the denoiser takes them, after as many null ones where there is guidance."""
        given = self.pipeline.encode(self.conditions, self.compute)
        if self.sampling.guidance == 1:
            return given
        null = self.pipeline.denoiser.null
        nothing: Sequence[Condition] = ["" if null is None else null] * len(self.conditions)
        return torch.cat([self.pipeline.encode(nothing, self.compute), given])

    def _predicted(self, x: Tensor, t: Tensor, given: Tensor) -> Tensor:
        """Return the prediction, guided: ε_∅ + g·(ε_c - ε_∅)."""
        guided = len(given) > len(x)
        rows = torch.cat([x, x]) if guided else x
        with models_own("sampling stopped"), self.compute.autocast():
            output: Tensor = self.pipeline.denoiser(Noised(rows, t.expand(len(rows)), given)).float()
        if not guided:
            return output
        without, with_condition = output[: len(x)], output[len(x) :]
        return without + self.sampling.guidance * (with_condition - without)

    def _stepwise(self, x: Tensor, given: Tensor) -> Tensor:
        """Return x after all steps of a sampler of ours."""
        schedule, config = self.pipeline.denoiser.schedule, self.pipeline.scheduler_config
        path = jumps(schedule.alphas_bar.tolist(), self.sampling.steps, config)
        for step, jump in enumerate(path, start=1):
            output = self._predicted(x, torch.tensor(jump.t, device=x.device), given)
            image, noise = image_and_noise(output, x, jump.at, schedule.prediction)
            image = clipped(image, config, default=not self.pipeline.has_latents)
            if self.sampling.sampler == "ddim":
                x = ddim(jump, image, noise)
            else:
                channels, height, width = x.shape[1:]
                fresh = x if jump.last else first_noise(self.generators, (channels, height, width)).to(x.device)
                x = ddpm(jump, image, x, fresh=fresh, variance=config.get("variance_type", "fixed_small"))
            self.told(step, len(path))
        return x

    def _as_the_folder_does(self, x: Tensor, given: Tensor) -> Tensor:
        """Return x after all steps of the folder's own scheduler, which draws from each image's generator, too."""
        scheduler = self.pipeline.scheduler()
        with _refused(self.sampling.steps):
            scheduler.set_timesteps(self.sampling.steps, device=x.device)
        x = x * scheduler.init_noise_sigma
        takes = inspect.signature(scheduler.step).parameters
        draws = {"generator": list(self.generators)} if "generator" in takes else {}
        for step, t in enumerate(scheduler.timesteps, start=1):
            output = self._predicted(scheduler.scale_model_input(x, t), t, given)
            x = scheduler.step(output, t, x, return_dict=False, **draws)[0]
            self.told(step, len(scheduler.timesteps))
        found: Tensor = x
        return found

    def _decoded(self, x: Tensor) -> Tensor:
        """Return images in [-1, 1], a few at a time where they are decoded from latents."""
        if not self.pipeline.has_latents:
            return self.pipeline.decode(x)
        pixels = self.pipeline.side**2 * x.shape[2] * x.shape[3]
        with models_own("decoding stopped"):
            parts = [self.pipeline.decode(x[part]) for part in chunks(len(x), max(1, PIXELS_AT_ONCE // pixels))]
        return torch.cat(parts)


@contextmanager
def _refused(steps: int) -> Iterator[None]:
    """Tell a number of steps that a folder's scheduler refuses as the user's move."""
    try:
        yield
    except ValueError as problem:
        raise UsageError(f"sampling steps {steps}: the folder's scheduler refuses them: {raised(problem)}") from problem


def stored(decoded: Tensor) -> Tensor:
    """Return images in [-1, 1] as uint8 in 0-255, what is beyond clipped, on the CPU.

    >>> stored(torch.tensor([-2.0, -1.0, 0.0, 1.0])).tolist()
    [0, 0, 128, 255]
    """
    return (decoded.float() / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8).cpu()
