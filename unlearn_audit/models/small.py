"""A small convolutional network with BatchNorm, for demonstrations that train in seconds on a CPU."""

from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (16, 32, 64)


class SmallCNN(nn.Module):
    """Three 3x3 convolutions, one 2x2 max-pool, a global mean and a linear layer.

    Takes [N, channels, H, W] with H and W from 2 up (meant for 8 to 32) and returns logits [N, classes].
    """

    def __init__(self, *, classes: int, channels: int) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.conv1 = nn.Conv2d(channels, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(second)
        self.conv3 = nn.Conv2d(second, third, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(third)
        self.fc = nn.Linear(third, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, channels, H, W]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        x = F.relu(self.bn3(self.conv3(x)))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def small_cnn(*, classes: int, channels: int) -> nn.Module:
    """Return a freshly initialised small CNN: 24,058 parameters for 10 classes and 1 channel.

    Args:
        classes: outputs of the last layer, at least 1.
        channels: channels of the images, 1 for grey and 3 for colour.
    """
    return SmallCNN(classes=classes, channels=channels)
