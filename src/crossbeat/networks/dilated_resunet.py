"""A small residual U-Net with dilated convolutions: slices in, one logit a class and pixel out.

The generator of Chen, Li, Zhang, Menze 2020 ("Adversarial Convolutional Networks with Weak
Domain-Transfer for Multi-sequence Cardiac MR Images Segmentation", Fig. 3): the width never changes,
and dilation grows instead while the image is halved. The softmax of the figure is left to the loss.

The receptive field, 436 pixels in each direction, is about twice a slice of 224.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossbeat.errors import SettingsError
from crossbeat.networks.sizes import require_sides

DIVISOR: Final = 8  # three poolings
MINIMUM_SIDE: Final = 16  # the bottom keeps 2 x 2 pixels, which instance normalisation needs
DILATIONS: Final = (1, 2, 4, 8, 4, 2, 1)  # Chen 2020, Fig. 3
LOW_DILATIONS: Final = (1, 2, 3, 4, 3, 2, 1)  # the variant "LD" of the released code


class DilatedResUNet(nn.Module):
    """Seven stages of two 3x3 convolutions at resolutions 1, 1/2, 1/4, 1/8, 1/4, 1/2, 1.

    The five inner stages add a 1x1 shortcut of their input, with ReLU on both branches before the sum
    and none after it. `norm="instance"` puts a learned instance normalisation between each convolution
    of a stage and its ReLU; the paper has none.
    """

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 4,
        *,
        width: int = 32,
        dilations: Sequence[int] = DILATIONS,
        norm: str | None = None,
    ) -> None:
        super().__init__()
        if len(dilations) != 7 or min(dilations) < 1:
            raise SettingsError(
                f"network 'dilated_resunet': dilations must be 7 whole numbers of at least 1, one a stage, "
                f"got {list(dilations)}; the paper has {list(DILATIONS)}"
            )
        if norm not in (None, "instance"):
            raise SettingsError(f"network 'dilated_resunet': norm must be null or 'instance', got {norm!r}")
        # torch copies into the other layout and back at every instance normalisation (measured on a CPU: an update
        # of eight slices of 64 pixels took 0.19 s so, and 0.11 s without).
        self.channels_last = norm is None
        first, *inner, last = dilations
        self.enter = _pair(in_channels, width, first, norm)
        self.down = nn.ModuleList(_ResidualPair(width, width, d, norm) for d in inner[:3])
        self.up = nn.ModuleList(_ResidualPair(2 * width, width, d, norm) for d in inner[3:])
        self.leave = _pair(2 * width, width, last, norm)
        self.head = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, image: Float[Tensor, "n c y x"]) -> Float[Tensor, "n k y x"]:
        """Logits of every class, of the image's size; sides must be multiples of 8, at least 16."""
        require_sides("dilated_resunet", (image.shape[-2], image.shape[-1]), DIVISOR, MINIMUM_SIDE)
        kept: list[Tensor] = [self.enter(image)]
        for stage in self.down:
            kept.append(stage(F.max_pool2d(kept[-1], 2)))
        x = kept.pop()
        for stage in (*self.up, self.leave):
            larger = F.interpolate(x, scale_factor=2, mode="nearest")
            x = stage(torch.cat([larger, kept.pop()], dim=1))
        logits: Tensor = self.head(x)
        return logits


class _ResidualPair(nn.Module):
    """Two dilated convolutions beside a 1x1 shortcut of their input."""

    def __init__(self, in_channels: int, width: int, dilation: int, norm: str | None) -> None:
        super().__init__()
        self.pair = _pair(in_channels, width, dilation, norm)
        self.shortcut = _convolution(in_channels, width, 1, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.pair(x) + self.shortcut(x)
        return total


def _pair(in_channels: int, width: int, dilation: int, norm: str | None) -> nn.Sequential:
    return nn.Sequential(
        _convolution(in_channels, width, 3, dilation, norm), _convolution(width, width, 3, dilation, norm)
    )


def _convolution(in_channels: int, width: int, kernel: int, dilation: int, norm: str | None) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, width, kernel, padding=dilation * (kernel // 2), dilation=dilation)
    ]
    if norm == "instance":
        layers.append(nn.InstanceNorm2d(width, affine=True))
    return nn.Sequential(*layers, nn.ReLU())
