"""CycleGAN's two networks: an image goes in and one of the other domain comes out; scores say how real it looks.

Zhu 2017 (arXiv 1703.10593) as Dhaene 2023 trains it (methods.md 4.5), to the parameter. Images are on one fixed scale,
[-1, 1]. Normalisation is by instance, so that every image is treated alone, whatever else is in its batch.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossbeat.errors import SettingsError
from crossbeat.networks.sizes import require_sides

DIVISOR: Final = 4  # the generator halves twice
MINIMUM_SIDE: Final = 16  # of a generator's image: a mirrored border must fit in a quarter of it
MINIMUM_JUDGED: Final = 32  # of a discriminator's image: its last layers must keep more than one place
INITIAL_SD: Final = 0.02  # of all weights, Zhu 2017, appendix 7.1
SLOPE: Final = 0.2  # LeakyReLU of the discriminator


class Generator(nn.Module):
    """Paints an image as one of the other domain: two halvings, `blocks` residual blocks, two doublings, tanh.

    Borders are mirrored, so that no dark frame is learnt. 11,365,633 parameters at 64 channels and nine blocks.
    """

    def __init__(
        self, in_channels: int = 1, out_channels: int = 1, *, width: int = 64, blocks: int = 9
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "width": width,
            "blocks": blocks,
        }
        self.layers = nn.Sequential(
            *_normed(_Mirror(3), nn.Conv2d(in_channels, width, 7)),
            *_normed(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)),
            *_normed(nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)),
            *(_ResidualBlock(4 * width) for _ in range(blocks)),
            *_normed(_doubling(4 * width, 2 * width)),
            *_normed(_doubling(2 * width, width)),
            _Mirror(3),
            nn.Conv2d(width, out_channels, 7),
            nn.Tanh(),
        )
        _start(self)

    def forward(self, image: Float[Tensor, "n c y x"]) -> Float[Tensor, "n k y x"]:
        """Images in [-1, 1], of the size that came; sides must be multiples of 4 and at least 16 (`SettingsError`)."""
        require_sides("cyclegan generator", (image.shape[2], image.shape[3]), DIVISOR, MINIMUM_SIDE)
        painted: Tensor = self.layers(image)
        return painted


class PatchDiscriminator(nn.Module):
    """Scores of how real an image looks, each of a patch of 70 x 70 pixels: near 1 for real, near 0 for painted.

    Zhu 2017 takes the map of patches. `pooled` averages it to one score an image, as Dhaene's released code does,
    where a bad patch is made good by another. 2,762,689 parameters at 64 channels.
    """

    def __init__(self, in_channels: int = 1, *, width: int = 64, pooled: bool = False) -> None:
        super().__init__()
        self.pooled = pooled
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(SLOPE),
            *_judging(width, 2 * width, stride=2),
            *_judging(2 * width, 4 * width, stride=2),
            *_judging(4 * width, 8 * width, stride=1),
            nn.Conv2d(8 * width, 1, 4, padding=1),
        )
        _start(self)

    def forward(self, image: Float[Tensor, "n c y x"]) -> Float[Tensor, "n ..."]:
        """The map (n, y / 8 - 2, x / 8 - 2), rounded down, or (n,) under `pooled`; any sides from 32 pixels."""
        if min(image.shape[2:]) < MINIMUM_JUDGED:
            raise SettingsError(
                f"network 'cyclegan discriminator': each side must be at least {MINIMUM_JUDGED} pixels, got "
                f"{image.shape[2]} x {image.shape[3]}; give larger images"
            )
        scores: Tensor = self.layers(image)[:, 0]
        return scores.mean(dim=(1, 2)) if self.pooled else scores


class _ResidualBlock(nn.Module):
    """Two convolutions whose result is added to what came in, without a rectifier after the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_normed(_Mirror(1), nn.Conv2d(width, width, 3)),
            _Mirror(1),
            nn.Conv2d(width, width, 3),
            nn.InstanceNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = x + self.layers(x)
        return changed


class _Mirror(nn.Module):
    """Continues an image over its borders by reflection about the outermost pixel."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, x: Tensor) -> Tensor:
        if not torch.are_deterministic_algorithms_enabled():
            return F.pad(x, [self.pixels] * 4, mode="reflect")
        # torch sums the gradient of a reflection in no fixed order on CUDA, and refuses it then.
        return _mirrored(_mirrored(x, self.pixels, 2), self.pixels, 3)


def _mirrored(x: Tensor, pixels: int, axis: int) -> Tensor:
    before = x.narrow(axis, 1, pixels).flip(axis)
    after = x.narrow(axis, x.shape[axis] - 1 - pixels, pixels).flip(axis)
    return torch.cat([before, x, after], dim=axis)


def _normed(*layers: nn.Module) -> list[nn.Module]:
    """The layers, then instance normalisation without weights of its own, and ReLU."""
    width = layers[-1].out_channels
    assert isinstance(width, int)
    return [*layers, nn.InstanceNorm2d(width), nn.ReLU()]


def _doubling(entering: int, leaving: int) -> nn.Module:
    return nn.ConvTranspose2d(entering, leaving, 3, stride=2, padding=1, output_padding=1)


def _judging(entering: int, leaving: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(entering, leaving, 4, stride=stride, padding=1),
        nn.InstanceNorm2d(leaving),
        nn.LeakyReLU(SLOPE),
    ]


def _start(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, INITIAL_SD)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
