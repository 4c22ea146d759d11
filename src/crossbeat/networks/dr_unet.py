"""The dilated-residual U-Net of the Erlangen group: slices in, logits out, bottleneck features on request.

Vesal et al.'s network, which Rahman, Gu 2023 almost surely trained. Where it is residual it
concatenates: from the second encoder block on, the block's output and its input meet in a 1x1
convolution. The released network also carries a 1x1 convolution in its first block that no data
passes; it is not built here.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossbeat.networks.sizes import require_sides

DIVISOR: Final = 16  # four poolings
MINIMUM_SIDE: Final = 16
BOTTLENECK_DILATIONS: Final = (1, 2, 4, 8)  # MingxuanGu/Few-shot-UDA, model/DRUNet.py; methods.md 3.1
LEAK: Final = 0.01  # slope of LeakyReLU below zero


class DrUNet(nn.Module):
    """Four halvings to a bottleneck of four dilated convolutions in a row, whose outputs are summed.

    The stylization papers feed three channels (a grey slice three times); any number is accepted.
    """

    def __init__(self, in_channels: int = 3, classes: int = 4, *, width: int = 32) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(4)]
        bottom = 16 * width
        self.down = nn.ModuleList(map(_block, [in_channels, *widths[:-1]], widths))
        self.merge = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3 * w, 2 * w, kernel_size=1), nn.LeakyReLU(LEAK)) for w in widths[:-1]
        )
        self.bottleneck = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, bottom, kernel_size=3, padding=d, dilation=d), nn.LeakyReLU(LEAK))
            for before, d in zip([widths[-1], *[bottom] * 3], BOTTLENECK_DILATIONS, strict=True)
        )
        self.enlarge = nn.ModuleList(nn.Conv2d(2 * w, w, kernel_size=3, padding=1) for w in reversed(widths))
        self.up = nn.ModuleList(_block(2 * w, w) for w in reversed(widths))
        self.head = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, image: Float[Tensor, "n c y x"]) -> Float[Tensor, "n k y x"]:
        """Logits of every class, of the image's size; sides must be multiples of 16."""
        return self.forward_with_bottleneck(image)[0]

    def forward_with_bottleneck(
        self, image: Float[Tensor, "n c y x"]
    ) -> tuple[Float[Tensor, "n k y x"], Float[Tensor, "n f v u"]]:
        """Logits, and the summed features of the bottleneck: 16 `width` channels at a 16th of the size."""
        require_sides("dr_unet", (image.shape[-2], image.shape[-1]), DIVISOR, MINIMUM_SIDE)
        x, kept = self._encode(image)
        outputs: list[Tensor] = []
        for convolution in self.bottleneck:
            x = convolution(x)
            outputs.append(x)
        features = x = torch.stack(outputs).sum(dim=0)
        for enlarge, block in zip(self.enlarge, self.up, strict=True):
            larger = enlarge(F.interpolate(x, scale_factor=2, mode="nearest"))
            x = block(torch.cat([larger, kept.pop()], dim=1))
        return self.head(x), features

    def _encode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The input of the bottleneck, and each block's output for the way up, largest first."""
        kept: list[Tensor] = [self.down[0](image)]
        x = F.max_pool2d(kept[0], 2)
        for block, merge in zip(list(self.down)[1:], self.merge, strict=True):
            kept.append(block(x))
            x = F.max_pool2d(merge(torch.cat([kept[-1], x], dim=1)), 2)
        return x, kept


def _block(in_channels: int, width: int) -> nn.Sequential:
    """Twice: a 3x3 convolution, LeakyReLU, and batch norm after it."""
    return nn.Sequential(
        nn.Conv2d(in_channels, width, kernel_size=3, padding=1),
        nn.LeakyReLU(LEAK),
        nn.BatchNorm2d(width),
        nn.Conv2d(width, width, kernel_size=3, padding=1),
        nn.LeakyReLU(LEAK),
        nn.BatchNorm2d(width),
    )
