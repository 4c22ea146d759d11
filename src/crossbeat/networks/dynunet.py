"""MONAI's DynUNet as Dhaene 2023 builds it: slices in, one logit a class and pixel out.

Dhaene, Loecher, Wilson, Ennis 2023 (Bioengineering 10:166) call it nnU-Net: seven levels, residual
blocks, instance normalisation, LeakyReLU 0.01, no deep supervision.
"""

from __future__ import annotations

from typing import Final

from jaxtyping import Float
from torch import Tensor, nn

from crossbeat.errors import SettingsError
from crossbeat.networks.sizes import require_sides

DIVISOR: Final = 64  # six halvings
MINIMUM_SIDE: Final = 128  # instance normalisation needs more than one pixel at the bottom
LEVELS: Final = 7  # Dhaene 2023, released configuration
WIDTH_STEP: Final = 16
"""Widths are multiples of it: below 16 channels oneDNN 3.12 (torch 2.13, CPU, channels_last) writes past
its memory in the backward pass of a 1x1 convolution of stride 2, and the process dies."""


class DynUNet2d(nn.Module):
    """Widths 32, 64, 128, 256 and three times 512 (`width` scales them all); `dropout` as a probability.

    The parts are MONAI's and keep its names. MONAI also nests them in a recursive `skip_layers`, which
    lists every weight twice under two names, so that safetensors refuses them; it is left out, and the
    walk down and up stands in `forward`.
    """

    def __init__(
        self, in_channels: int = 1, classes: int = 2, *, width: int = 32, dropout: float = 0.1
    ) -> None:
        from monai.networks.nets.dynunet import DynUNet  # 3 s to import

        super().__init__()
        if width % WIDTH_STEP:
            raise SettingsError(
                f"network 'dynunet': width must be a multiple of {WIDTH_STEP}, got {width}; smaller ones crash "
                f"PyTorch on a CPU in channels_last"
            )
        whole = DynUNet(
            spatial_dims=2,
            in_channels=in_channels,
            out_channels=classes,
            kernel_size=[[3, 3]] * LEVELS,
            strides=[[1, 1]] + [[2, 2]] * (LEVELS - 1),
            upsample_kernel_size=[[2, 2]] * (LEVELS - 1),
            filters=[min(width * 2**level, 16 * width) for level in range(LEVELS)],
            res_block=True,
            trans_bias=True,
            dropout=dropout,
        )
        self.input_block = whole.input_block
        self.downsamples = whole.downsamples
        self.bottleneck = whole.bottleneck
        self.upsamples = whole.upsamples
        self.output_block = whole.output_block

    def forward(self, image: Float[Tensor, "n c y x"]) -> Float[Tensor, "n k y x"]:
        """Logits of every class, of the image's size; sides must be multiples of 64, at least 128."""
        require_sides("dynunet", (image.shape[-2], image.shape[-1]), DIVISOR, MINIMUM_SIDE)
        kept: list[Tensor] = [self.input_block(image)]
        for block in self.downsamples:
            kept.append(block(kept[-1]))
        x: Tensor = self.bottleneck(kept[-1])
        for block in self.upsamples:
            x = block(x, kept.pop())
        logits: Tensor = self.output_block(x)
        return logits
