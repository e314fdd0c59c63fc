"""`inception:FILE`: the features that published Fréchet and kernel inception distances are of, from a file of weights.

The network is that of the FID graph (Szegedy et al. 2016; Heusel et al. 2017), with blocks of torchvision: 1008
outputs, average pools that leave padding out of the count, and a max pool in the last block. Images are resized to
299 x 299 as the graph did it, without antialiasing and with corners where TensorFlow 1 had them, and scaled by
(x - 128) / 128. No package ships its weights, and nothing is fetched.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import inception

from unlearn_audit.checkpoints import check_finite, read_checkpoint
from unlearn_audit.engine import Device, chunks, full_float32
from unlearn_audit.errors import UsageError
from unlearn_audit.judges.images import check_stored, in_colour
from unlearn_audit.models import load_state
from unlearn_audit.progress import Progress, silent

SIDE = 299
WIDTH = 2048  # features
LOGITS = 1008
DIGEST = re.compile(r"-([0-9a-f]{8,64})\.[A-Za-z]+$")  # as in pt_inception-2015-12-05-6726825d.pth
CPU_ROWS, GPU_ROWS = 16, 256  # images in a pass, which become 299 x 299 first


class FidInception(nn.Module):
    """Inception v3 as the FID graph has it, uint8 in colour -> [N, 2048]; parameters are named as torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        conv = inception.BasicConv2d
        self.Conv2d_1a_3x3 = conv(3, 32, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = conv(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = conv(32, 64, kernel_size=3, padding=1)
        self.Conv2d_3b_1x1 = conv(64, 80, kernel_size=1)
        self.Conv2d_4a_3x3 = conv(80, 192, kernel_size=3)
        self.Mixed_5b = repooled(inception.InceptionA(192, pool_features=32), _average)
        self.Mixed_5c = repooled(inception.InceptionA(256, pool_features=64), _average)
        self.Mixed_5d = repooled(inception.InceptionA(288, pool_features=64), _average)
        self.Mixed_6a = inception.InceptionB(288)
        self.Mixed_6b = repooled(inception.InceptionC(768, channels_7x7=128), _average)
        self.Mixed_6c = repooled(inception.InceptionC(768, channels_7x7=160), _average)
        self.Mixed_6d = repooled(inception.InceptionC(768, channels_7x7=160), _average)
        self.Mixed_6e = repooled(inception.InceptionC(768, channels_7x7=192), _average)
        self.Mixed_7a = inception.InceptionD(768)
        self.Mixed_7b = repooled(inception.InceptionE(1280), _average)
        self.Mixed_7c = repooled(inception.InceptionE(2048), _largest)
        self.fc = nn.Linear(WIDTH, LOGITS)  # in the file; its outputs are not looked at

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of uint8 images [N, 3, H, W], [N, 2048]."""
        x = (resized_as_tensorflow_1(images.float(), SIDE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = functional.max_pool2d(x, kernel_size=3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = functional.max_pool2d(x, kernel_size=3, stride=2)
        for name, block in self.named_children():
            if name.startswith("Mixed_"):
                x = block(x)
        return x.mean(dim=(2, 3))


def _average(x: Tensor) -> Tensor:
    """Return averages over 3 x 3 in which padding is not counted."""
    return functional.avg_pool2d(x, kernel_size=3, stride=1, padding=1, count_include_pad=False)


def _largest(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, kernel_size=3, stride=1, padding=1)


def repooled(block: nn.Module, pool: Callable[[Tensor], Tensor]) -> nn.Module:
    """Let a block of torchvision take another pool in its last branch, whose channels are the last of its output."""

    def replaced(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        branch = module.branch_pool(pool(inputs[0]))
        return torch.cat([output[:, : -branch.shape[1]], branch], dim=1)

    block.register_forward_hook(replaced)
    return block


def resized_as_tensorflow_1(images: Tensor, side: int) -> Tensor:
    """Return images of another size, bilinear: output pixel i is read at i·(old / new), with no shift by half a pixel.

    Args:
        images: float32 [N, C, H, W].
        side: the new height and width.
    """
    for dim in (3, 2):
        old = images.shape[dim]
        at = torch.arange(side, device=images.device, dtype=torch.float32) * (old / side)
        low = at.long()
        high = (low + 1).clamp_max(old - 1)
        share = (at - low).view(-1, *(1,) * (3 - dim))
        below, above = images.index_select(dim, low), images.index_select(dim, high)
        images = below + (above - below) * share
    return images


@dataclass(frozen=True, eq=False)
class InceptionJudge:
    """Gives features, and no labels.

    Attributes:
        network: on the device, in evaluation mode.
        path: of its weights.
        sha256: of that file.
        compute: where.
        notes: what is to be said beside its numbers.
        progress: callback, called after each pass.
    """

    network: FidInception
    path: Path
    sha256: str
    compute: Device
    notes: tuple[str, ...] = ()
    progress: Progress = silent
    name: str = "inception"

    @property
    def details(self) -> Mapping[str, Any]:
        """What it is, and how images reach it."""
        return {
            "judge": self.name,
            "path": str(self.path),
            "sha256": self.sha256,
            "size": [SIDE, SIDE],
            "resizer": "bilinear as in TensorFlow 1, not antialiased",
            "layer": f"last pool, {WIDTH}",
        }

    def labels(self, images: Tensor) -> NDArray[np.int64] | None:
        """Return None: its classes are not those of the data."""
        check_stored(images)
        return None

    def features(self, images: Tensor) -> NDArray[np.float64] | None:
        """Return the features of the last pool, [N, 2048].

        Args:
            images: uint8 [N, C, H, W].
        """
        check_stored(images)
        device = self.compute.device
        rows = min(self.compute.chunk, CPU_ROWS if device.type == "cpu" else GPU_ROWS)
        found = [np.zeros((0, WIDTH))]
        with full_float32(), torch.inference_mode():
            for part in chunks(len(images), rows):
                found.append(self.network(in_colour(images[part]).to(device)).double().cpu().numpy())
                self.progress("features", part.stop, len(images))
        return np.concatenate(found)


def open_inception(path: Path, *, compute: Device, progress: Progress = silent) -> InceptionJudge:
    """Read the weights of the FID graph's Inception.

    Args:
        path: such as pt_inception-2015-12-05-6726825d.pth; the digits at the end of the name are checked against the
            file's SHA-256.
        compute: where the network goes.
        progress: callback, called after each pass.

    Raises:
        CheckpointError: the file cannot be read, or holds other weights.
        UsageError: its digest is not the one in its name.
    """
    checkpoint = read_checkpoint(path)
    check_finite(checkpoint)
    named = DIGEST.search(path.name)
    if named is not None and not checkpoint.sha256.startswith(named[1]):
        raise UsageError(
            f"{path}: by its name its SHA-256 begins with {named[1]}, but it is {checkpoint.sha256[:8]}…; the file is "
            "damaged or another one: get it again"
        )
    network = FidInception()
    load_state(network, checkpoint.state, where=str(path))
    notes = () if named else (f"the name of {path.name} has no digest to check it against: nobody says what it is",)
    placed = compute.to_device(network.requires_grad_(False)).eval()
    return InceptionJudge(placed, path, checkpoint.sha256, compute, notes, progress)  # type: ignore[arg-type]
