"""Jafari's DRU-net: slices in, one logit a class and pixel out.

Jafari et al. 2020 ("DRU-Net", ISBI 2020), which Rahman, Gu 2023 cite: residual and dense
at once. Every encoder block adds its input and its own first convolution to its output, and then
hands on the sum and the input side by side, so that channels double. The released code puts a ReLU
on the logits, which forbids a negative one; it is left out.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossbeat.networks.sizes import require_sides

DIVISOR: Final = 16  # four poolings
MINIMUM_SIDE: Final = 32  # the bottom keeps 2 x 2 pixels, so that a batch of one can be normalised


class DruNet(nn.Module):
    """A 7x7 stem, five doubling blocks with four poolings between them, four blocks on the way up."""

    def __init__(self, in_channels: int = 1, classes: int = 4, *, width: int = 16) -> None:
        super().__init__()
        entering = [width * 2**level for level in range(5)]
        leaving = entering[-2::-1]
        self.stem = nn.Conv2d(in_channels, width, kernel_size=7, padding=3)
        self.down = nn.ModuleList(map(_DenseBlock, entering))
        self.up = nn.ModuleList(
            _UpBlock(below, kept=2 * w, width=w)
            for below, w in zip([2 * entering[-1], *leaving[:-1]], leaving, strict=True)
        )
        self.head = nn.Conv2d(width, classes, kernel_size=1, bias=False)

    def forward(self, image: Float[Tensor, "n c y x"]) -> Float[Tensor, "n k y x"]:
        """Logits of every class, of the image's size; sides must be multiples of 16, at least 32."""
        return self.forward_with_bottleneck(image)[0]

    def forward_with_bottleneck(
        self, image: Float[Tensor, "n c y x"]
    ) -> tuple[Float[Tensor, "n k y x"], Float[Tensor, "n f v u"]]:
        """Logits, and what the lowest block hands on: 32 `width` channels at a 16th of the size."""
        require_sides("dru_net", (image.shape[-2], image.shape[-1]), DIVISOR, MINIMUM_SIDE)
        x: Tensor = self.down[0](self.stem(image))
        kept: list[Tensor] = []
        for block in list(self.down)[1:]:
            kept.append(x)
            x = block(F.max_pool2d(x, 2))
        features = x
        for block in self.up:
            x = block(x, kept.pop())
        return self.head(x), features


class _DenseBlock(nn.Module):
    """Two convolutions; their sum with the first and the input stands beside the input: twice as many channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _convolution(width, width, 3)
        self.second = _convolution(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        second = self.second(F.relu(first))
        return torch.cat([F.relu(second + first + x), x], dim=1)


class _UpBlock(nn.Module):
    """Doubles the size, sees what the encoder kept, and adds a 1x1 shortcut of both to two convolutions."""

    def __init__(self, below: int, kept: int, width: int) -> None:
        super().__init__()
        self.enlarge = nn.Sequential(
            nn.ConvTranspose2d(below, width, kernel_size=3, stride=2, padding=1, output_padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.first = _convolution(width + kept, width, 3)
        self.second = _convolution(width, width, 3)
        self.shortcut = _convolution(width + kept, width, 1)

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        both = torch.cat([self.enlarge(x), kept], dim=1)
        first = self.first(both)
        second = self.second(F.relu(first))
        return F.relu(second + first + self.shortcut(both))


def _convolution(in_channels: int, width: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, width, kernel, padding=kernel // 2), nn.BatchNorm2d(width))
