"""AdaConv: a content image's features and a style's descriptor go in, the content in that style comes out.

Chandran 2021 (CVPR, "Adaptive Convolutions for Structure-Aware Style Transfer"), as Rahman, Gu 2023 compare it with
RAIN: a style is not two statistics of each channel but a descriptor, from which the kernels of a convolution are
predicted at every level of the decoder. The exact layout and parameter counts stand in methods.md 3.6.

    symbol    here                       symbol    here
    W         descriptor                 p         Kernels.pointwise, which the paper's Eq. 9 drops
    f         Kernels.spatial            b         Kernels.bias
    ψ, ξ      StyleCode.centre, .spread  ε         epsilon = ψ + ξ n
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossbeat.errors import SettingsError
from crossbeat.networks.precision import exactly, precise
from crossbeat.networks.rain import StyleCode, perceptron
from crossbeat.networks.vgg import (
    DECODER_DEPTHS,
    WIDTHS,
    Size,
    conv3x3,
    decoder_levels,
    double,
    sizes_of_levels,
    start_as_he,
)

CHANNELS: Final = WIDTHS[-1]  # of relu4_1, of the paper's descriptor, and of the code ε, as RAIN's
STYLE_CHANNELS: Final = 128  # of the small form's descriptor (methods.md 3.6)
KERNEL_SIZE: Final = 3
POOLED: Final = 4  # side of what the style encoder mixes: a style image of 256 pixels, halved six times
LEAK: Final = 0.01  # slope of LeakyReLU below zero
GROUP_WIDTHS: Final = (1, 2, 4, 8)  # channels that a predicted kernel sees at once, from relu4_1 up
ROUNDING: Final = 1e-5  # of a descriptor's size: what differs by less is the same style in another batch

Layout = Literal["mirror", "late"]
DEPTHS: Final[dict[Layout, tuple[int, ...]]] = {"mirror": DECODER_DEPTHS, "late": (1, 2, 2, 4)}


class Kernels(NamedTuple):
    """The predicted convolutions of one level, a set for each image or one for all; i channels of content each."""

    spatial: Float[Tensor, "m c i k k"]
    pointwise: Float[Tensor, "m c i"]
    bias: Float[Tensor, "m c"]


class StyleEncoder(nn.Module):
    """From relu4_1 of style images of any size to their descriptors W.

    Three times a 3x3 convolution, LeakyReLU, and averaging to half the size, but never below 4 x 4, where it ends;
    one linear layer then mixes all places. A style image of 256 pixels is taken as published; others, too, by
    averaging. With 512 channels this is the paper's form (44,832,768 parameters, most of them in that layer);
    with fewer, a 1x1 convolution narrows before it (9,505,536 for 128).
    """

    def __init__(self, style_channels: int = STYLE_CHANNELS, kernel_size: int = KERNEL_SIZE) -> None:
        super().__init__()
        _require_descriptor(style_channels, kernel_size)
        self.shape = (style_channels, kernel_size, kernel_size)
        self.convolutions = nn.ModuleList(conv3x3(CHANNELS, CHANNELS) for _ in range(3))
        narrower = style_channels < CHANNELS
        self.narrow = nn.Conv2d(CHANNELS, style_channels, kernel_size=1) if narrower else nn.Identity()
        self.mix = nn.Linear(style_channels * POOLED**2, style_channels * kernel_size**2)
        start_as_he(self.convolutions)
        _start_as_linear(self.narrow, self.mix)

    def forward(self, style: Float[Tensor, "n 512 q p"]) -> Float[Tensor, "n s k k"]:
        """The descriptors. Features of a single row or column, which nothing mirrors, raise `SettingsError`."""
        q, p = style.shape[2:]
        if min(q, p) < 2:
            raise SettingsError(
                f"adaconv: style features need sides of at least 2, got {q} x {p}; give larger style images"
            )
        x = style
        for halvings, convolution in enumerate(self.convolutions, start=1):
            size = (POOLED, POOLED) if halvings == 3 else (_halved(q, halvings), _halved(p, halvings))
            x = F.adaptive_avg_pool2d(F.leaky_relu(convolution(x), LEAK), size)
        descriptors: Tensor = self.mix(self.narrow(x).flatten(1))
        return descriptors.reshape(len(style), *self.shape)


class KernelPredictor(nn.Module):
    """From a descriptor to the kernels of one level: three linear maps, without activations.

    A 3x3 convolution whose output map, of the descriptor's own size, is the spatial kernel; pointwise kernel and
    bias come from the descriptor's mean. So a larger kernel is a larger descriptor, and costs nothing here.

    Training begins with kernels that keep the content's variance where the descriptor's mean square is 1. Begun like
    rectified layers they would raise it at every level, and the first images' to some hundred times the style's.
    """

    def __init__(
        self,
        channels: int,
        group_width: int,
        style_channels: int = STYLE_CHANNELS,
        kernel_size: int = KERNEL_SIZE,
    ) -> None:
        super().__init__()
        self.channels, self.group_width = channels, group_width
        self.spatial = conv3x3(style_channels, channels * group_width)
        self.pointwise = nn.Linear(style_channels, channels * group_width)
        self.bias = nn.Linear(style_channels, channels)
        _start_as_linear(self.spatial, self.pointwise, self.bias)
        with torch.no_grad():
            self.spatial.weight.div_(kernel_size * group_width**0.5)
            self.pointwise.weight.div_(group_width**0.5)

    def forward(self, descriptor: Float[Tensor, "m s k k"]) -> Kernels:
        """The kernels for each descriptor."""
        m, _, k, _ = descriptor.shape
        mean = descriptor.mean(dim=(2, 3))
        return Kernels(
            self.spatial(descriptor).reshape(m, self.channels, self.group_width, k, k),
            self.pointwise(mean).reshape(m, self.channels, self.group_width),
            self.bias(mean),
        )


class AdaConvDecoder(nn.Module):
    """From relu4_1 and a descriptor to an image: each level is convolved as the style says, then as was learned.

    `layout` "mirror" has the convolutions of `vgg.Decoder`, 1, 4, 2 and 2 from relu4_1 up, and a linear output
    (RElbers/ada-conv-pytorch); "late" has 1, 2, 2 and 4, and a sigmoid (BUVANEASH/AdaConv).
    """

    def __init__(
        self,
        out_channels: int = 1,
        *,
        style_channels: int = STYLE_CHANNELS,
        kernel_size: int = KERNEL_SIZE,
        layout: Layout = "mirror",
    ) -> None:
        super().__init__()
        _require_descriptor(style_channels, kernel_size)
        if out_channels < 1:
            raise SettingsError(f"adaconv: needs at least 1 output channel, got {out_channels}")
        self.shape = (style_channels, kernel_size, kernel_size)
        self.last = nn.Sigmoid() if layout == "late" else nn.Identity()
        self.predictors = nn.ModuleList(
            KernelPredictor(width, group_width, style_channels, kernel_size)
            for width, group_width in zip(reversed(WIDTHS), GROUP_WIDTHS, strict=True)
        )
        widths = [level[-1] for level in decoder_levels(out_channels)]
        self.levels = nn.ModuleList(
            nn.ModuleList([conv3x3(width, width) for _ in range(depth - 1)] + [conv3x3(width, narrower)])
            for depth, (width, narrower) in zip(DEPTHS[layout], widths, strict=True)
        )
        start_as_he(self.levels)

    def forward(
        self,
        content: Float[Tensor, "n 512 v u"],
        descriptor: Float[Tensor, "m s k k"],
        size: Size | None = None,
    ) -> Float[Tensor, "n c y x"]:
        """The content in the descriptors' styles, each in its own or all in one, as images of that size in pixels.

        `size` is the content image's, as `vgg.Decoder` wants it. Another number of descriptors, or of another
        shape, raises `SettingsError`.
        """
        if tuple(descriptor.shape[1:]) != self.shape:
            raise SettingsError(
                f"adaconv: was built for descriptors of shape {self.shape}, got {tuple(descriptor.shape[1:])}; "
                f"describe the style with the same model"
            )
        sizes = sizes_of_levels(content, size)
        x = content
        for depth, (predict, level) in enumerate(zip(self.predictors, self.levels, strict=True)):
            x = double(F.relu(x), sizes[depth]) if depth else x
            x = adaconv(x, predict(descriptor))
            for i, convolution in enumerate(level.children()):
                x = convolution(F.relu(x) if i else x)
        image: Tensor = self.last(x)
        return image


class AdaConv(nn.Module):
    """Style encoder and decoder; relu4_1 of both images comes in from outside (`vgg.Vgg`), frozen.

    The published form is `AdaConv(3, style_channels=512)`: 59,320,323 parameters, all trained. By default it is the
    small form for grey images: 15,758,977. `kernel_size` is the side of the predicted kernels and of the descriptor,
    3 in the paper, which leaves larger ones to later work.
    """

    def __init__(
        self,
        out_channels: int = 1,
        *,
        style_channels: int = STYLE_CHANNELS,
        kernel_size: int = KERNEL_SIZE,
        layout: Layout = "mirror",
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "out_channels": out_channels,
            "style_channels": style_channels,
            "kernel_size": kernel_size,
            "layout": layout,
        }
        self.style_encoder = StyleEncoder(style_channels, kernel_size)
        self.decoder = AdaConvDecoder(
            out_channels, style_channels=style_channels, kernel_size=kernel_size, layout=layout
        )

    def forward(
        self,
        content: Float[Tensor, "n 512 v u"],
        style: Float[Tensor, "m 512 q p"],
        size: Size | None = None,
    ) -> Float[Tensor, "n c y x"]:
        """One pass of training: the content's features in the style of the style's features, as images."""
        return self.stylise(content, self.describe(style), size)

    def describe(self, style: Float[Tensor, "m 512 q p"]) -> Float[Tensor, "m s k k"]:
        """The descriptor of each style."""
        descriptors: Tensor = self.style_encoder(style)
        return descriptors

    def stylise(
        self,
        content: Float[Tensor, "n 512 v u"],
        descriptor: Float[Tensor, "m s k k"],
        size: Size | None = None,
    ) -> Float[Tensor, "n c y x"]:
        """The content in the styles of the descriptors, as images; gradients reach the descriptors.

        One descriptor serves all images, or each has its own.
        """
        images: Tensor = self.decoder(content, descriptor, size)
        return images


class DescriptorAutoencoder(nn.Module):
    """What styles there are, as descriptors: RAIN's style autoencoder (methods.md 3.2) on W in place of statistics.

    Rahman, Gu 2023 leave it to later work, so that its sizes are ours: RAIN's code of 512 numbers and layers of 1024,
    that a step along ε is as long in both, with ends as wide as W flattened. 3,279,872 parameters encode and
    2,755,712 decode 128 x 3 x 3; 6,818,816 and 6,298,112 the paper's 512 x 3 x 3. ξ is e^(log variance / 2) alone
    (methods.md 3.8).

    RAIN's statistics are levelled by the encoder; a descriptor's scale is whatever training made of it, and beside
    the KL divergence a small one would not be worth a code. So descriptors are read and given in units of their own
    deviation once `standardise` has measured it; before, as they are.
    """

    def __init__(self, style_channels: int = STYLE_CHANNELS, kernel_size: int = KERNEL_SIZE) -> None:
        super().__init__()
        _require_descriptor(style_channels, kernel_size)
        self.arguments: dict[str, Any] = {"style_channels": style_channels, "kernel_size": kernel_size}
        self.shape = (style_channels, kernel_size, kernel_size)
        length = style_channels * kernel_size**2
        self.style_encoder = perceptron(length, 2 * CHANNELS)
        self.style_decoder = perceptron(CHANNELS, length)
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(length))
        self.register_buffer("deviation", torch.ones(()))

    def encode(self, descriptor: Float[Tensor, "n s k k"]) -> StyleCode:
        """The distribution of codes that belongs to each descriptor; no gradient goes back into it."""
        centre, log_variance = exactly(self.style_encoder, self.vector(descriptor.detach())).chunk(2, dim=1)
        return StyleCode(centre, (log_variance / 2).exp(), log_variance)

    def decode(self, epsilon: Float[Tensor, "n 512"]) -> Float[Tensor, "n s k k"]:
        """The descriptor of a code, for `AdaConv.stylise`."""
        vector: Tensor = self.mean + self.deviation * exactly(self.style_decoder, epsilon)
        return vector.reshape(len(epsilon), *self.shape)

    def vector(self, descriptor: Float[Tensor, "n s k k"]) -> Float[Tensor, "n d"]:
        """The descriptor less the mean one, in deviations: what is read, and what Eq. 6 should compare."""
        vector: Tensor = (descriptor.flatten(1) - self.mean) / self.deviation
        return vector

    @torch.no_grad()
    def standardise(self, descriptors: Float[Tensor, "m s k k"]) -> None:
        """Measure the mean descriptor, and one deviation for all of its numbers, over the styles trained on.

        One for all, so that numbers that hardly differ between styles stay small. Fewer than 2 descriptors, or all
        alike, raise `SettingsError`.
        """
        flat = descriptors.flatten(1).to(self.mean)
        deviation = flat.var(dim=0).mean().sqrt() if len(flat) > 1 else flat.new_zeros(())
        if not (torch.isfinite(deviation) and deviation > ROUNDING * flat.square().mean().sqrt()):
            raise SettingsError(
                f"adaconv: a style autoencoder needs styles that differ, got {len(flat)} descriptors with a deviation "
                f"of {deviation.item():g}; give more style images, or say turn_styles: true"
            )
        self.mean.copy_(flat.mean(dim=0))
        self.deviation.copy_(deviation)


def adaconv(content: Float[Tensor, "n c y x"], kernels: Kernels) -> Float[Tensor, "n c y x"]:
    """The content, each channel normalised over its places, convolved with predicted kernels (methods.md 3.6).

    First in space, in groups of the kernels' i channels, mirrored beyond the border; then place by place in the same
    groups, with a bias. All images go through at once, their channels laid side by side as so many groups more; one
    set of kernels serves all images, or each has its own. Kernels that reach past the mirror raise `SettingsError`.
    """
    n, c, y, x = content.shape
    m, _, i, k, _ = kernels.spatial.shape
    if m not in (1, n):
        raise SettingsError(f"adaconv: {n} images take {n} descriptors, or 1 for all of them, got {m}")
    if min(y, x) <= k // 2:
        raise SettingsError(
            f"adaconv: kernels of {k} x {k} need features with sides of at least {k // 2 + 1}, got {y} x {x}; "
            f"give larger images or smaller kernels"
        )
    groups = m * c // i
    laid = _normalised(content).reshape(n // m, m * c, y, x)
    wide = F.pad(laid, [k // 2] * 4, mode="reflect")
    filtered = F.conv2d(wide, kernels.spatial.flatten(0, 1), groups=groups)
    mixed = F.conv2d(
        filtered, kernels.pointwise.flatten(0, 1)[..., None, None], kernels.bias.flatten(), groups=groups
    )
    return mixed.reshape(n, c, y, x)


def _normalised(content: Tensor) -> Tensor:
    """Mean 0 and variance 1 (less 1e-5) of each channel, measured in float32 at least; a flat channel becomes 0."""
    return F.instance_norm(precise(content)).to(content.dtype)


def _start_as_linear(*layers: nn.Module) -> None:
    """Draw the weights of layers that nothing rectifies so that they keep the mean square; biases are 0."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _halved(side: int, times: int) -> int:
    """Rounded up, as the encoder's poolings do; not below what is mixed."""
    halved: int = -(-side // 2**times)
    return max(POOLED, halved)


def _require_descriptor(style_channels: int, kernel_size: int) -> None:
    if not 1 <= style_channels <= CHANNELS:
        raise SettingsError(
            f"adaconv: style_channels must lie between 1 and {CHANNELS}, which relu4_1 has, got {style_channels}"
        )
    if kernel_size < KERNEL_SIZE or kernel_size % 2 == 0:
        raise SettingsError(
            f"adaconv: kernel_size must be odd, for a kernel's centre, and {KERNEL_SIZE} or more, got {kernel_size}"
        )
