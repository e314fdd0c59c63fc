"""Generators: a denoiser with what turns its conditions and images into numbers and back, opened from a checkpoint."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unlearn_audit.checkpoints import Checkpoint
from unlearn_audit.engine import Device, chunks
from unlearn_audit.errors import CheckpointError, MeasurementError, UsageError
from unlearn_audit.generation.components import (
    read_schedule,
    read_scheduler,
    read_text_encoder,
    read_tokenizer,
    read_unet,
    read_vae,
)
from unlearn_audit.generation.conditions import ClassConditions, PromptConditions
from unlearn_audit.models.denoisers import FIRST_BETA, LAST_BETA, Denoiser
from unlearn_audit.pipeline_folder import CLASS_CONDITIONAL, PipelineConfigs, PipelineFolder, sha256_of_pipeline

PIXELS_AT_ONCE = 2**20  # encoded in one pass: four images of 512 x 512
_PARTS: dict[str, tuple[nn.Module, PromptConditions]] = {}  # the last folder's, which copies of it share


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A generator.

    Attributes:
        denoiser: the U-Net, with its schedule and its null condition; what is trained and measured.
        scheduler_config: settings of its sampler.
        conditions: from what is asked for to what the denoiser is given.
        size: height and width of x where they are fixed: of images, or of latents.
        channels: of x.
        folder: where it was read from; None of one that was made here.
        vae: images to latents and back; None where x is the image itself.
        notes: what was assumed, in words.
    """

    denoiser: Denoiser
    scheduler_config: Mapping[str, Any]
    conditions: ClassConditions | PromptConditions
    size: tuple[int, int] | None
    channels: int
    folder: PipelineFolder | None = None
    vae: nn.Module | None = None
    notes: tuple[str, ...] = ()

    @property
    def has_latents(self) -> bool:
        """Whether x is not the image itself but a code of it."""
        return self.vae is not None

    @property
    def side(self) -> int:
        """Pixels along each side that one position of x stands for."""
        return 1 if self.vae is None else 2 ** (len(_settings(self.vae)["block_out_channels"]) - 1)

    def shape(self, size: tuple[int, int] | None) -> tuple[int, int, int]:
        """Return [C, H, W] of x for images of a height and width; None: of the size that the generator was made for.

        Raises:
            UsageError: no size is known, or one that latents do not divide.
        """
        if size is None:
            if self.size is None:
                raise UsageError(
                    "this generator's folder does not say how large its images are; add sample_size to its "
                    "unet/config.json"
                )
            return self.channels, *self.size
        if any(each % self.side for each in size):
            raise UsageError(f"images of {size[0]} x {size[1]}: height and width must be multiples of {self.side}")
        return self.channels, size[0] // self.side, size[1] // self.side

    def encode(self, conditions: Sequence[int | str], compute: Device) -> Tensor:
        """Return what the denoiser is given for each condition: [N] class numbers, or [N, L, D] embeddings.

        Raises:
            UsageError: a condition that this generator does not know.
        """
        if isinstance(self.conditions, PromptConditions):
            self.conditions.encoder.to(compute.device)
        return self.conditions.encode(conditions, compute.device)

    @torch.no_grad()
    def to_latents(self, images: Tensor) -> Tensor:
        """Return x for images in [-1, 1], [N, C, H, W]: s·mode of the autoencoder's posterior, or the images.

        Raises:
            MeasurementError: images of another number of channels, or of a size that latents do not divide.
        """
        if self.vae is None:
            return images
        vae: Any = self.vae.to(images.device)
        settings = _settings(vae)
        if images.shape[1] != settings["in_channels"] or any(each % self.side for each in images.shape[2:]):
            raise MeasurementError(
                f"this generator's images have {settings['in_channels']} channels and sides that {self.side} divides; "
                f"these are {list(images.shape[1:])}"
            )
        shift = settings.get("shift_factor") or 0.0
        at_once = max(1, PIXELS_AT_ONCE // (images.shape[2] * images.shape[3]))
        parts = [vae.encode(images[part].float()).latent_dist.mode() for part in chunks(len(images), at_once)]
        found: Tensor = (torch.cat(parts) - shift) * settings["scaling_factor"]
        return found

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """Return images in [-1, 1] for x, [N, C, H, W]."""
        if self.vae is None:
            return x
        vae: Any = self.vae.to(x.device)
        settings = _settings(vae)
        found: Tensor = vae.decode(x.float() / settings["scaling_factor"] + (settings.get("shift_factor") or 0.0))[0]
        return found

    def scheduler(self) -> Any:
        """Return the folder's own scheduler, fresh.

        Raises:
            UsageError: it was made here, and has no folder.
        """
        if self.folder is None:
            raise UsageError("this generator was made here and names no scheduler of its own; use --sampler ddim")
        return read_scheduler(self.folder)


def _settings(module: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = module.config
    return found


def open_pipeline(checkpoint: Checkpoint, *, classes: int | None = None) -> Pipeline:
    """Return the generator that a checkpoint holds, on the CPU, its denoiser in evaluation mode.

    Args:
        checkpoint: read from a pipeline's folder; its state goes into the U-Net.
        classes: of the data; None: as the checkpoint says.

    Raises:
        UsageError: a package is missing (the message has the command), or cannot build a component.
        CheckpointError: it is no generator, weights do not fit, or the U-Net takes no condition.
        MeasurementError: its label rows are not those of the data's classes.
    """
    folder = checkpoint.pipeline
    if folder is None:
        raise CheckpointError(f"{checkpoint.path} is no generator: the folder of a diffusion pipeline is needed")
    notes: tuple[str, ...] = ()
    null: int | None = None
    conditions: ClassConditions | PromptConditions
    if folder.is_text_to_image:
        vae, conditions = _parts(folder)
    else:
        vae = None
        recorded = checkpoint.metadata.classes if checkpoint.metadata else None
        null, count, notes = _null_row(folder, classes if classes is not None else recorded)
        conditions = ClassConditions(count, null=null is not None)
    unet = read_unet(folder, checkpoint.state)
    kind = "text" if folder.is_text_to_image else "class"
    denoiser = Denoiser(unet, read_schedule(folder), null=null, conditioning=kind)  # type: ignore[arg-type]
    size = folder.unet.get("sample_size")
    return Pipeline(
        denoiser.eval(),
        folder.scheduler,
        conditions,
        (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list) and len(size) == 2 else None,
        int(folder.unet["in_channels"]),
        folder,
        vae,
        notes,
    )


def _null_row(folder: PipelineFolder, classes: int | None) -> tuple[int | None, int, tuple[str, ...]]:
    """Return the null label, how many classes there are, and what was assumed."""
    rows = folder.class_rows
    where = folder.path / "unet"
    if rows is None:
        raise CheckpointError(f"{where} takes no condition (num_class_embeds), so that nothing can be asked of it")
    if classes is None:
        said = f"assumed: the last of {rows} label rows is the null condition; --data says how many classes there are"
        return rows - 1, rows - 1, (said,)
    if rows not in (classes, classes + 1):
        raise MeasurementError(
            f"{where} has {rows} label rows, the data has {classes} classes: {classes + 1} rows with one for no "
            f"condition, or {classes} without, are needed"
        )
    return (classes if rows > classes else None), classes, ()


def _parts(folder: PipelineFolder) -> tuple[nn.Module, PromptConditions]:
    """Return autoencoder and text encoder, which generators made from one another share."""
    files = tuple(file for file in folder.read if file.parent.name in ("vae", "text_encoder", "tokenizer"))
    key = sha256_of_pipeline(PipelineFolder(folder.path, {}, {}, {}, files))
    if key not in _PARTS:
        _PARTS.clear()
        _PARTS[key] = read_vae(folder), PromptConditions(read_tokenizer(folder), read_text_encoder(folder))
    return _PARTS[key]


def configs_of(denoiser: Denoiser, image_size: tuple[int, int]) -> PipelineConfigs:
    """Return what stands beside the weights of a class-conditional denoiser that was made here.

    Args:
        denoiser: with the linear schedule of `models.denoisers`.
        image_size: height and width of its images.
    """
    settings = {key: value for key, value in _settings(denoiser.unet).items() if not key.startswith("_")}
    height, width = image_size
    size = height if height == width else [height, width]
    unet = {**settings, "sample_size": size, "_class_name": CLASS_CONDITIONAL}
    scheduler = {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": denoiser.schedule.timesteps,
        "beta_schedule": "linear",
        "beta_start": FIRST_BETA,
        "beta_end": LAST_BETA,
        "prediction_type": denoiser.schedule.prediction,
        "variance_type": "fixed_small",
        "clip_sample": True,
    }
    return PipelineConfigs(json.loads(json.dumps(unet)), scheduler)
