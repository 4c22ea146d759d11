"""Discriminators: an image and a mask go in, one logit says whether the mask was drawn or made up.

Chen, Li, Zhang, Menze 2020 describe "several residual blocks with max-pooling"; their released code has
plain convolutions instead. Both are here, with the same four widths and the same two heads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from crossbeat.errors import SettingsError
from crossbeat.networks.sizes import require_sides

WIDTHS: Final = (16, 32, 64, 128)  # of the released code
SLOPE: Final = 0.3  # LeakyReLU of the released code
DIVISOR: Final = 16  # four poolings
MINIMUM_SIDE: Final = 32  # the last stage keeps 2 x 2 pixels, so that a single sample can be normalised

Body = Literal["plain", "residual"]
Head = Literal["flatten", "pool"]
Norm = Literal["batch", "instance", "none"]


class Discriminator(nn.Module):
    """Four stages, each halving the image, then one logit: high for pairs that look as if an expert drew the mask.

    `plain` is the released network: a 5x5 convolution, max-pooling, normalisation (not in the first stage),
    LeakyReLU. `residual` is the text's: two 3x3 convolutions beside a 1x1 shortcut, then max-pooling. `flatten`
    weighs every place of the last stage, and is bound to images of `side` pixels; `pool` averages over places and
    takes any size. `spectral` divides every weight by its largest singular value (Miyato 2018), which keeps
    the logit from running away. A side that four poolings cannot halve raises `SettingsError`.
    """

    def __init__(
        self,
        in_channels: int = 5,
        *,
        body: Body = "plain",
        head: Head = "pool",
        norm: Norm = "batch",
        spectral: bool = False,
        side: int | None = None,
    ) -> None:
        super().__init__()
        if head == "flatten" and side is None:
            raise SettingsError(
                "discriminator: head 'flatten' is built for one image size; give side in pixels, or take head 'pool'"
            )
        if side is not None:
            require_sides("discriminator", (side, side), DIVISOR, MINIMUM_SIDE)
        self.side = side if head == "flatten" else None
        limit: Callable[[nn.Module], nn.Module] = spectral_norm if spectral else _leave
        stage = _plain_stage if body == "plain" else _ResidualStage
        entering = (in_channels, *WIDTHS[:-1])
        norms: tuple[Norm, ...] = ("none", norm, norm, norm)
        self.stages = nn.Sequential(
            *(stage(a, b, n, limit) for a, b, n in zip(entering, WIDTHS, norms, strict=True))
        )
        places = (side // DIVISOR) ** 2 if head == "flatten" and side else 1
        self.head = limit(nn.Linear(WIDTHS[-1] * places, 1))

    def forward(self, image: Float[Tensor, "n c y x"], mask: Float[Tensor, "n k y x"]) -> Float[Tensor, " n"]:
        """A logit for each pair of an image and its class probabilities; c + k are the input channels."""
        sides = (image.shape[-2], image.shape[-1])
        require_sides("discriminator", sides, DIVISOR, MINIMUM_SIDE)
        if self.side is not None and sides != (self.side, self.side):
            raise SettingsError(
                f"discriminator: head 'flatten' was built for {self.side} x {self.side} pixels, got "
                f"{sides[0]} x {sides[1]}; crop to that, or take head 'pool'"
            )
        features = self.stages(torch.cat([mask, image], dim=1))
        kept = features.mean(dim=(2, 3)) if self.side is None else features.flatten(1)
        logits: Tensor = self.head(kept)[:, 0]
        return logits

    def kernel_penalty(self) -> Float[Tensor, ""]:
        """Sum of all squared convolution weights, biases left out: what the released code adds, times 0.01."""
        kernels = [m.weight for m in self.stages.modules() if isinstance(m, nn.Conv2d)]
        return torch.stack([kernel.float().square().sum() for kernel in kernels]).sum()


class _ResidualStage(nn.Module):
    """Two 3x3 convolutions beside a 1x1 shortcut of their input, rectified after the sum, then halved."""

    def __init__(
        self, in_channels: int, width: int, norm: Norm, limit: Callable[[nn.Module], nn.Module]
    ) -> None:
        super().__init__()
        self.pair = nn.Sequential(
            limit(nn.Conv2d(in_channels, width, 3, padding=1)),
            *_norm(norm, width),
            nn.LeakyReLU(SLOPE),
            limit(nn.Conv2d(width, width, 3, padding=1)),
            *_norm(norm, width),
        )
        self.shortcut = limit(nn.Conv2d(in_channels, width, 1))
        self.leave = nn.Sequential(nn.LeakyReLU(SLOPE), nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.leave(self.pair(x) + self.shortcut(x))
        return halved


def _plain_stage(
    in_channels: int, width: int, norm: Norm, limit: Callable[[nn.Module], nn.Module]
) -> nn.Module:
    return nn.Sequential(
        limit(nn.Conv2d(in_channels, width, 5, padding=2)),
        nn.MaxPool2d(2),
        *_norm(norm, width),
        nn.LeakyReLU(SLOPE),
    )


def _norm(norm: Norm, width: int) -> list[nn.Module]:
    if norm == "none":
        return []
    return [nn.BatchNorm2d(width) if norm == "batch" else nn.InstanceNorm2d(width, affine=True)]


def _leave(module: nn.Module) -> nn.Module:
    return module
