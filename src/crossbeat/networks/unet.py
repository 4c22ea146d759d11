"""The 2-D U-Net of VoxelMorph label propagation: slices in, one logit a class and pixel out.

Ronneberger 2015 in the form that the label propagation paper trains: 'same' padding, batch
normalisation, four poolings, widths 32, 64, 128, 256 and 512 at the bottom.
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


class UNet(nn.Module):
    """Four halvings and four doublings, with two 3x3 convolutions at each of the nine stages."""

    def __init__(self, in_channels: int = 1, classes: int = 4, *, width: int = 32) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.down = nn.ModuleList(map(_block, [in_channels, *widths[:-1]], widths))
        self.enlarge = nn.ModuleList(
            nn.ConvTranspose2d(2 * w, w, kernel_size=2, stride=2) for w in reversed(widths[:-1])
        )
        self.up = nn.ModuleList(_block(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, image: Float[Tensor, "n c y x"]) -> Float[Tensor, "n k y x"]:
        """Logits of every class, of the image's size; sides must be multiples of 16, at least 32."""
        require_sides("unet", (image.shape[-2], image.shape[-1]), DIVISOR, MINIMUM_SIDE)
        kept: list[Tensor] = []
        x: Tensor = image
        for block in self.down:
            x = block(F.max_pool2d(x, 2) if kept else x)
            kept.append(x)
        kept.pop()
        for enlarge, block in zip(self.enlarge, self.up, strict=True):
            x = block(torch.cat([enlarge(x), kept.pop()], dim=1))
        logits: Tensor = self.head(x)
        return logits


def _block(in_channels: int, width: int) -> nn.Sequential:
    """Twice: a 3x3 convolution (its bias would vanish in the normalisation), batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, width, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )
