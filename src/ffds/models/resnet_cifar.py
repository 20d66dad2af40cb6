"""The narrow residual networks for CIFAR (He et al. 2016, section 4.2), without their classifier."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ResNetCifar"]

WIDTHS = (16, 32, 64)


class ResNetCifar(nn.Module):
    """ResNet of depth 6n + 2 for n basic blocks a stage, with shortcuts that have no parameters.

    Convolutions start from Kaiming's normal distribution, N(0, 2 / fan_in).

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2, option A.

    >>> import torch
    >>> ResNetCifar(20)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 64])
    """

    num_features = WIDTHS[-1]

    def __init__(self, depth: int, in_channels: int = 3) -> None:
        super().__init__()
        self.conv = _conv3x3(in_channels, WIDTHS[0])
        self.norm = nn.BatchNorm2d(WIDTHS[0])
        blocks, width = [], WIDTHS[0]
        for stage_width in WIDTHS:
            for _ in range((depth - 2) // 6):
                blocks.append(_Block(width, stage_width))
                width = stage_width
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """The layers of the parameters, as timm's networks tell them: the stem, then block by block."""
        return {"stem": r"^(?:conv|norm)\.", "blocks": r"^blocks\.(\d+)"}

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, in_channels, h, w) with sides of at least 8 → features (N, 64), not negative."""
        maps: Tensor = self.blocks(F.relu(self.norm(self.conv(images))))
        # Not `mean((2, 3))`, for which the compiler makes code several times as slow on a CPU.
        return F.avg_pool2d(maps, maps.shape[2:]).flatten(1)


class _Block(nn.Module):
    """Two convolutions and a shortcut; a wider block halves the sides."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.stride = 1 if in_width == width else 2
        self.padding = (width - in_width) // 2
        self.conv1 = _conv3x3(in_width, width, self.stride)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(out + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        """Option A: every second pixel, and zero channels before and after."""
        if self.stride == 1:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))


def _conv3x3(in_width: int, width: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
