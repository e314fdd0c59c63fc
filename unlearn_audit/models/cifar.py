"""ResNets for small images: the CIFAR family of 20 to 56 layers, and ResNet-18/50 with a 3x3 stem.

Source of the architecture: He et al., *Deep Residual Learning for Image Recognition* (CVPR 2016),
section 4.2 for the CIFAR family, table 1 for ResNet-18/50.
"""

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

STEM_WIDTH = 16


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (option A of the paper)."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = width - width_in
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, width, H / stride, W / stride] of [N, width_in, H, W]."""
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(residual + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        """Take every stride-th pixel and fill the new channels with zeros, half of them on either side."""
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        before = self.new_channels // 2
        return F.pad(x, (0, 0, 0, 0, before, self.new_channels - before)) if self.new_channels else x


class CifarResNet(nn.Module):
    """A ResNet of 6n + 2 layers: a 3x3 stem and three stages of n blocks, 16, 32 and 64 channels wide.

    Takes [N, channels, H, W] (meant for 32x32) and returns logits [N, classes].
    """

    def __init__(self, blocks: int, *, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, STEM_WIDTH, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH)
        self.layer1 = _stage(blocks, STEM_WIDTH, STEM_WIDTH, stride=1)
        self.layer2 = _stage(blocks, STEM_WIDTH, 2 * STEM_WIDTH, stride=2)
        self.layer3 = _stage(blocks, 2 * STEM_WIDTH, 4 * STEM_WIDTH, stride=2)
        self.fc = nn.Linear(4 * STEM_WIDTH, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, channels, H, W]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def _stage(blocks: int, width_in: int, width: int, *, stride: int) -> nn.Sequential:
    """Return `blocks` blocks, of which the first one changes width and resolution."""
    first = Block(width_in, width, stride)
    return nn.Sequential(first, *(Block(width, width, 1) for _ in range(blocks - 1)))


def _initialise(model: nn.Module) -> None:
    """Draw convolutions from He's normal distribution by fan-out, as torchvision's ResNets do."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet20(*, classes: int, channels: int) -> nn.Module:
    """Return a ResNet-20 for CIFAR-sized images (0.27 M parameters).

    Args:
        classes: outputs of the last layer, at least 1.
        channels: channels of the images, 1 for grey and 3 for colour.
    """
    return CifarResNet(3, classes=classes, channels=channels)


def resnet32(*, classes: int, channels: int) -> nn.Module:
    """Return a ResNet-32 for CIFAR-sized images (0.46 M parameters); arguments as in `resnet20`."""
    return CifarResNet(5, classes=classes, channels=channels)


def resnet44(*, classes: int, channels: int) -> nn.Module:
    """Return a ResNet-44 for CIFAR-sized images (0.66 M parameters); arguments as in `resnet20`."""
    return CifarResNet(7, classes=classes, channels=channels)


def resnet56(*, classes: int, channels: int) -> nn.Module:
    """Return a ResNet-56 for CIFAR-sized images (0.85 M parameters); arguments as in `resnet20`."""
    return CifarResNet(9, classes=classes, channels=channels)


def cifar_resnet18(*, classes: int, channels: int) -> nn.Module:
    """Return torchvision's ResNet-18 with a 3x3 stem of stride 1 and no max-pool (11.2 M parameters).

    Args:
        classes: outputs of the last layer, at least 1.
        channels: channels of the images, 1 for grey and 3 for colour.
    """
    return _small_stem(ResNet(BasicBlock, [2, 2, 2, 2], num_classes=classes), channels)


def cifar_resnet50(*, classes: int, channels: int) -> nn.Module:
    """Return torchvision's ResNet-50 with a 3x3 stem of stride 1 and no max-pool (23.5 M parameters).

    Args:
        classes: outputs of the last layer, at least 1.
        channels: channels of the images, 1 for grey and 3 for colour.
    """
    return _small_stem(ResNet(Bottleneck, [3, 4, 6, 3], num_classes=classes), channels)


def _small_stem(model: ResNet, channels: int) -> nn.Module:
    """Exchange the stem that was made for 224x224 for one that keeps the resolution."""
    model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model  # type: ignore[no-any-return]
