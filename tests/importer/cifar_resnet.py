"""ResNet-20 for CIFAR-10 with parameter-free shortcuts, from its description in the test data."""

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock


class Shortcut(nn.Module):
    """Takes every second pixel, and adds half as many channels of zeros on either side."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padding = x.shape[1] // 2
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, padding, padding))


class CifarResNet20(nn.Module):
    """Three stages of three blocks. Input (n, 3, 32, 32) float32, output (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(BasicBlock(16, 16) for _ in range(3)))
        self.layer2 = _stage(16, 32)
        self.layer3 = _stage(32, 64)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))  # (n, 64, 8, 8)
        logits: torch.Tensor = self.linear(x.mean(dim=(2, 3)))  # (n, 10)
        return logits


def _stage(in_channels: int, channels: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride=2, downsample=Shortcut())
    return nn.Sequential(first, *(BasicBlock(channels, channels) for _ in range(2)))


build = CifarResNet20
