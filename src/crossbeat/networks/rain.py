"""RAIN: a content image's features and a draw of a style go in, the content in that style comes out.

Luo 2020 (ASM, arXiv 2011.12640) on AdaIN (Huang 2017): a style is the mean and deviation of each of the 512
channels of relu4_1 (`Style`); a small variational autoencoder learns what styles there are, so that new ones can be
drawn, or searched along its code ε. The exact layout stands in methods.md 3.2, the sound forms in 3.8.

    symbol    here                       symbol    here
    μ, σ      Style.mean, .deviation     ψ, ξ      StyleCode.centre, .spread
    ε         epsilon = ψ + ξ n          t         Stylised.target
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossbeat.errors import SettingsError
from crossbeat.networks.precision import exactly, precise
from crossbeat.networks.vgg import WIDTHS, Decoder, Size, start_as_he

CHANNELS: Final = WIDTHS[-1]  # of relu4_1, and of the code ε
HIDDEN: Final = 1024
TINIEST_VARIANCE: Final = 1e-5  # added to a channel's variance (methods.md 3.2)

Spread = Literal["log_variance", "direct"]
Deviation = Literal["softplus", "free"]


class Style(NamedTuple):
    """Mean and standard deviation of each channel of feature maps, by image."""

    mean: Float[Tensor, "n c"]
    deviation: Float[Tensor, "n c"]

    def vector(self) -> Float[Tensor, "n d"]:
        """Means first, then deviations: what the autoencoder reads and is compared with."""
        return torch.cat(self, dim=1)

    def detach(self) -> Style:
        """The same numbers, through which no gradient flows."""
        return Style(self.mean.detach(), self.deviation.detach())


@dataclass(frozen=True)
class StyleCode:
    """The normal distribution over codes that stands for one image's style; one number of each an axis of the code."""

    centre: Float[Tensor, "n d"]
    spread: Float[Tensor, "n d"]
    """Standard deviation. In the published form it is what the network says, which may be negative."""
    log_variance: Float[Tensor, "n d"] | None
    """In the sound form, where it is what the network says; log(spread²), to rounding."""

    def at(self, noise: Float[Tensor, "#n d"]) -> Float[Tensor, "n d"]:
        """ε = ψ + ξ n for standard normal numbers n; one row of them serves all images."""
        return self.centre + self.spread * noise


@dataclass(frozen=True)
class Stylised:
    """A batch of contents in the styles of other images, with all that training compares."""

    images: Float[Tensor, "n k y x"]
    target: Float[Tensor, "n c v u"]
    """What relu4_1 of the images should be: the content's features in the decoded style. Carries no gradient."""
    code: StyleCode
    epsilon: Float[Tensor, "m d"]
    decoded: Style
    measured: Style


class Rain(nn.Module):
    """AdaIN's decoder and the style autoencoder; the encoder's relu4_1 comes in from outside (`vgg.Vgg`), frozen.

    3,148,800 parameters tell an image's style from its statistics, 2,624,512 give the statistics of a code, the
    decoder has its own. `spread` "log_variance" and `deviation` "softplus" are sound; the published ones let ξ
    be negative ("direct") and likewise the deviations that features are given ("free"), which turns
    a channel upside down.
    """

    def __init__(
        self, out_channels: int = 1, *, spread: Spread = "log_variance", deviation: Deviation = "softplus"
    ) -> None:
        super().__init__()
        self.spread, self.deviation = spread, deviation
        self.arguments: dict[str, Any] = {
            "out_channels": out_channels,
            "spread": spread,
            "deviation": deviation,
        }
        self.style_encoder = perceptron(2 * CHANNELS, 2 * CHANNELS)
        self.style_decoder = perceptron(CHANNELS, 2 * CHANNELS)
        self.decoder = Decoder(out_channels)

    def forward(
        self,
        content: Float[Tensor, "n 512 v u"],
        style: Float[Tensor, "#n 512 q p"],
        noise: Float[Tensor, "#n 512"],
        size: Size | None = None,
        *,
        joint: bool = False,
    ) -> Stylised:
        """One pass of training: the content's features rendered in a style like that of the style's features.

        The decoder's losses do not reach the autoencoder, as in the released code, which stops them by hand;
        with `joint` they do, as Eq. 2 of the paper says. `noise` is standard normal: the caller draws it, for
        each sample of the global batch. `size` is the content image's, as `Decoder` wants it.
        """
        measured = style_of(style)
        code = self.encode(measured)
        epsilon = code.at(noise)
        decoded = self.decode(epsilon)
        target = adain(content, *(decoded if joint else decoded.detach()))
        return Stylised(self.decoder(target, size), target.detach(), code, epsilon, decoded, measured)

    def encode(self, style: Style) -> StyleCode:
        """The distribution of codes that belongs to each style; only its numbers are read, no gradient goes back."""
        centre, said = exactly(self.style_encoder, style.detach().vector()).chunk(2, dim=1)
        if self.spread == "direct":
            return StyleCode(centre, said, None)
        return StyleCode(centre, (said / 2).exp(), said)

    def decode(self, epsilon: Float[Tensor, "n 512"]) -> Style:
        """The style of a code."""
        mean, said = exactly(self.style_decoder, epsilon).chunk(2, dim=1)
        return Style(mean, said if self.deviation == "free" else F.softplus(said))

    def stylise(
        self, content: Float[Tensor, "n 512 v u"], epsilon: Float[Tensor, "#n 512"], size: Size | None = None
    ) -> Float[Tensor, "n k y x"]:
        """The content in the style of the code, as images; gradients reach the code, for those who search along it.

        One code serves all images (the released code's ε), or each has its own.
        """
        images: Tensor = self.decoder(adain(content, *self.decode(epsilon)), size)
        return images


def style_of(features: Float[Tensor, "n c y x"]) -> Style:
    """Mean and deviation over the places of each channel: sqrt(unbiased variance + 1e-5), float32 at least.

    A single place has no deviation and raises `SettingsError`.
    """
    places = precise(features).flatten(2)
    if places.shape[2] < 2:
        raise SettingsError(
            f"style: a deviation needs at least 2 places, got features of shape {tuple(features.shape)}; "
            f"give larger images"
        )
    return Style(places.mean(dim=2), (places.var(dim=2, correction=1) + TINIEST_VARIANCE).sqrt())


def adain(
    content: Float[Tensor, "n c y x"], mean: Float[Tensor, "#n c"], deviation: Float[Tensor, "#n c"]
) -> Float[Tensor, "n c y x"]:
    """The content's features with each channel's mean and deviation replaced (Huang 2017, eq. 8).

    t = deviation (f - μ(f)) / σ(f) + mean, where one row serves all images. With σ² = variance + 1e-5 a channel
    without contrast takes the mean and stays flat.
    """
    own = style_of(content)
    scale = deviation / own.deviation
    return (precise(content) - _over_places(own.mean)) * _over_places(scale) + _over_places(mean)


def perceptron(entering: int, leaving: int) -> nn.Sequential:
    """Three linear layers, rectified between: what reads a style, and what tells one, by its ends (methods.md 3.2)."""
    network = nn.Sequential(
        nn.Linear(entering, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, leaving),
    )
    start_as_he(network)
    return network


def _over_places(numbers: Tensor) -> Tensor:
    return numbers[:, :, None, None]
