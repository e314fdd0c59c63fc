"""Denoisers: the U-Net of a diffusion model as a network of noised images, with the noise schedule that it knows."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from unlearn_audit.errors import UsageError
from unlearn_audit.models.hugging_face import go_offline
from unlearn_audit.user_code import raised

DIFFUSERS = "diffusers"
TIMESTEPS = 1000
FIRST_BETA, LAST_BETA = 1e-4, 0.02  # Ho et al. 2020, section 4: linear
WIDTHS = (32, 64)
TINY_WIDTHS = (16, 32)

Prediction = Literal["epsilon", "v_prediction", "sample"]


class Noised(NamedTuple):
    """What a denoiser is called with.

    Attributes:
        x: [R, C, H, W] images or latents with noise.
        t: [R] int64, the timestep of each.
        condition: [R] int64 class numbers, or [R, L, D] embeddings of a text.
    """

    x: Tensor
    t: Tensor
    condition: Tensor


class Schedule(NamedTuple):
    """How much noise stands in x_t, and what a network predicts of it.

    Attributes:
        alphas_bar: [T] float64 on the CPU, the product of 1 - beta up to each timestep.
        prediction: the noise ("epsilon"), the velocity ("v_prediction") or the image ("sample").
    """

    alphas_bar: Tensor
    prediction: Prediction = "epsilon"

    @property
    def timesteps(self) -> int:
        """T."""
        return len(self.alphas_bar)


def linear_schedule() -> Schedule:
    """Return the schedule of Ho et al. 2020: a thousand linear steps, the noise predicted."""
    betas = torch.linspace(FIRST_BETA, LAST_BETA, TIMESTEPS, dtype=torch.float64)
    return Schedule((1 - betas).cumprod(dim=0))


class Denoiser(nn.Module):
    """A U-Net of diffusers that is called with `Noised`; its weights and parts have the names that they have there.

    It shares the U-Net's parts instead of holding it as one part, so that names of parameters and of the state dict are
    those in a folder's file.

    Args:
        unet: UNet2DModel, UNet2DConditionModel, or any module of (x, t, class_labels or encoder_hidden_states) that
            answers with a tensor or something with `sample`.
        schedule: of its noise.
        null: the class number that stands for no condition; None where there is none.
        conditioning: whether conditions are class numbers or embedded texts.
    """

    unet: nn.Module

    def __init__(
        self,
        unet: nn.Module,
        schedule: Schedule,
        *,
        null: int | None = None,
        conditioning: Literal["class", "text"] = "class",
    ) -> None:
        super().__init__()
        self.__dict__["unet"] = unet
        self._modules, self._parameters, self._buffers = unet._modules, unet._parameters, unet._buffers
        self.schedule, self.null, self.conditioning = schedule, null, conditioning

    def train(self, mode: bool = True) -> "Denoiser":
        """Set training or evaluation mode, of the U-Net too, which is no part of its own."""
        super().train(mode)
        self.unet.training = mode
        return self

    def asked(self, images: Tensor) -> Noised:
        """Return images as this network may be called with them, to try or to count it: at half the time, class 0.

        Args:
            images: [R, C, H, W] images or latents on its device.
        """
        t = torch.full((len(images),), self.schedule.timesteps // 2, device=images.device)
        return Noised(images, t, torch.zeros_like(t))

    def forward(self, noised: Noised) -> Tensor:
        """Return what is predicted of the noise, [R, C, H, W]."""
        name = "class_labels" if self.conditioning == "class" else "encoder_hidden_states"
        answer = self.unet(noised.x, noised.t, **{name: noised.condition})
        found: Tensor = answer if isinstance(answer, Tensor) else answer.sample
        return found


def library() -> Any:
    """Import diffusers, which is optional, without the network.

    Raises:
        UsageError: it is not installed, or cannot be used.
    """
    go_offline()
    try:
        import_module(f"{DIFFUSERS}.utils.logging").set_verbosity_error()
        return import_module(DIFFUSERS)
    except ModuleNotFoundError as missing:
        raise UsageError("a diffusion model needs diffusers: pip install 'unlearn-audit[diffusion]'") from missing
    except (ImportError, AttributeError) as problem:
        raise UsageError(f"diffusers cannot be used: {raised(problem)}; install it anew") from problem


def _unet(widths: tuple[int, ...], classes: int, channels: int) -> Denoiser:
    settings: Mapping[str, Any] = {
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": widths,
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D",) * len(widths),
        "up_block_types": ("UpBlock2D",) * len(widths),
        "norm_num_groups": min(widths),
        "num_class_embeds": classes + 1,
    }
    return Denoiser(library().UNet2DModel(**settings), linear_schedule(), null=classes)


def small_unet(*, classes: int, channels: int) -> nn.Module:
    """Return a freshly initialised class-conditional denoiser: 652,449 parameters for 10 classes and 1 channel.

    Images may have any height and width that are even. Attention stands in the middle block alone. The class number
    `classes` stands for no condition.

    Args:
        classes: of the data, at least 1.
        channels: of the images, 1 for grey and 3 for colour.

    Raises:
        UsageError: diffusers is not installed.
    """
    return _unet(WIDTHS, classes, channels)


def tiny_unet(*, classes: int, channels: int) -> nn.Module:
    """Return the same with half the channels, for trials: 164,689 parameters for 10 classes and 1 channel.

    Args:
        classes: of the data, at least 1.
        channels: of the images, 1 for grey and 3 for colour.

    Raises:
        UsageError: diffusers is not installed.
    """
    return _unet(TINY_WIDTHS, classes, channels)
