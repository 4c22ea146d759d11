"""VGG-19 to relu4_1, and the decoder that mirrors it: images go in, features at four depths come out, and back.

Simonyan 2015 as the stylization papers use it (Huang 2017, arXiv 1703.06868): reflection padding, max-pooling
that rounds up, no normalisation layers, which would take the very statistics that are a style. Weights are a
user's file (`load_vgg`), or He-random ones that a method may train and `normalise_activations` then levels;
nothing is ever fetched (methods.md 3.7).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from crossbeat.errors import FileError, SettingsError

Size = tuple[int, int]

WIDTHS: Final = (64, 128, 256, 512)  # of relu1_1, relu2_1, relu3_1, relu4_1
ENCODER_DEPTHS: Final = (2, 2, 4, 1)  # convolutions a level, from the image down; the first one is tapped
DECODER_DEPTHS: Final = (
    1,
    4,
    2,
    2,
)  # from relu4_1 up; the last one of a level narrows to the next (methods.md 3.6)
MINIMUM_SIDE: Final = 9  # pixels: relu4_1 keeps 2, for there is no reflection about a single one
IMAGENET_MEAN: Final = (
    0.485,
    0.456,
    0.406,
)  # torchvision's VGG-19 was trained on (x - mean) / std, x in [0, 1]
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
TORCHVISION_PLACES: Final = (0, 2, 5, 7, 10, 12, 14, 16, 19)  # N of features.N.weight, by convolution
ADAIN_PLACES: Final = (2, 5, 9, 12, 16, 19, 22, 25, 29)  # in naoto0804/pytorch-AdaIN's sequence; 0 is the 1x1
HARDLY_FIRING: Final = 1e-3  # of its layer's mean activation: a filter below it counts as silent
LEAST_SHARE: Final = 0.25
"""Of its layer's mean activation: a filter below it is levelled by that share. By its own mean it would answer the next
image with hundreds, and a few such channels would decide every loss."""
BATCH: Final = 8  # images at a time through the network where all of them are measured


class Features(NamedTuple):
    """What the encoder sees in images: rectified feature maps, each at half the size of the one before, rounded up."""

    relu1_1: Float[Tensor, "n 64 y x"]
    relu2_1: Float[Tensor, "n 128 y2 x2"]
    relu3_1: Float[Tensor, "n 256 y4 x4"]
    relu4_1: Float[Tensor, "n 512 y8 x8"]


class Vgg(nn.Module):
    """VGG-19 to relu4_1, on images in [0, 1] of any size from 9 x 9 pixels.

    With 3 input channels, the published form (3,505,740 parameters), a 1x1 convolution from colours to colours comes
    first: it holds the ImageNet normalisation, or BGR and its mean, and begins as the identity. Grey images
    are then taken three times. With 1 channel there is none (3,504,576 parameters).
    """

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        if in_channels not in (1, 3):
            raise SettingsError(f"vgg: takes 1 (grey) or 3 (colour) input channels, got {in_channels}")
        self.in_channels = in_channels
        self.arguments: dict[str, Any] = {"in_channels": in_channels}
        self.colour = nn.Conv2d(3, 3, kernel_size=1) if in_channels == 3 else nn.Identity()
        self.levels = nn.ModuleList(
            nn.ModuleList(conv3x3(before if i == 0 else width, width) for i in range(depth))
            for before, width, depth in zip((in_channels, *WIDTHS), WIDTHS, ENCODER_DEPTHS, strict=False)
        )
        start_as_he(self.levels)
        if isinstance(self.colour, nn.Conv2d):
            nn.init.dirac_(self.colour.weight)
            nn.init.zeros_(_bias(self.colour))

    def forward(self, images: Float[Tensor, "n c y x"]) -> Features:
        """The four feature maps. Sides below 9 pixels or a wrong number of channels raise `SettingsError`."""
        taps = {sum(ENCODER_DEPTHS[:level]) for level in range(len(ENCODER_DEPTHS))}
        return Features(*(x for i, x in enumerate(self.activations(images)) if i in taps))

    def activations(self, images: Float[Tensor, "n c y x"]) -> Iterator[Tensor]:
        """The rectified output of each of the nine 3x3 convolutions, in order."""
        x = self.colour(self._accepted(images))
        for depth, level in enumerate(self.levels):
            x = F.max_pool2d(x, 2, ceil_mode=True) if depth else x
            for convolution in level.children():
                x = F.relu(convolution(x))
                yield x

    def convolutions(self) -> list[nn.Conv2d]:
        """The nine 3x3 convolutions, in order."""
        return [module for module in self.levels.modules() if isinstance(module, nn.Conv2d)]

    def _accepted(self, images: Tensor) -> Tensor:
        channels, *sides = images.shape[1:]
        if min(sides) < MINIMUM_SIDE:
            raise SettingsError(
                f"vgg: images need sides of at least {MINIMUM_SIDE} pixels, of which relu4_1 keeps 2, "
                f"got {sides[0]} x {sides[1]}; crop less or resample finer"
            )
        if channels == 1 and self.in_channels == 3:
            return images.expand(-1, 3, -1, -1)
        if channels != self.in_channels:
            raise SettingsError(
                f"vgg: was built for images of {self.in_channels} channels, got {channels}; "
                f"{'average them' if self.in_channels == 1 else 'give 1 (grey) or 3 (colour)'}"
            )
        return images


class Decoder(nn.Module):
    """From relu4_1 back to an image: nine 3x3 convolutions, doubling between levels by nearest neighbour.

    The mirror of `Vgg`, rectified but for the last convolution, whose output is linear; no normalisation.
    3,505,219 parameters for 3 channels, 3,504,065 for 1.
    """

    def __init__(self, out_channels: int = 1) -> None:
        super().__init__()
        if out_channels < 1:
            raise SettingsError(f"decoder: needs at least 1 output channel, got {out_channels}")
        self.arguments: dict[str, Any] = {"out_channels": out_channels}
        self.levels = nn.ModuleList(
            nn.ModuleList(conv3x3(a, b) for a, b in widths) for widths in decoder_levels(out_channels)
        )
        start_as_he(self.levels)

    def forward(
        self, features: Float[Tensor, "n 512 v u"], size: Size | None = None
    ) -> Float[Tensor, "n c y x"]:
        """Images of that size in pixels, by default of eight times the features'.

        `size` is that of the image whose relu4_1 came in: where a side was odd, and pooling rounded it up, what
        doubling made too much is cropped from its end, level by level, so that features stay above their pixels. A
        size that does not pool to these features raises `SettingsError`.
        """
        sizes = sizes_of_levels(features, size)
        x = features
        for depth, level in enumerate(self.levels):
            x = double(x, sizes[depth]) if depth else x
            for i, convolution in enumerate(level.children()):
                last = depth == len(self.levels) - 1 and i == DECODER_DEPTHS[depth] - 1
                x = convolution(x) if last else F.relu(convolution(x))
        return x


@torch.no_grad()
def read_levelled(decoder: Decoder, scale: Float[Tensor, " 512"]) -> None:
    """Let a decoder that read relu4_1 before it was levelled draw the same from it afterwards, in place."""
    first = next(m for m in decoder.modules() if isinstance(m, nn.Conv2d))
    first.weight.mul_(scale.to(first.weight)[:, None, None])


def decoder_levels(out_channels: int) -> list[list[tuple[int, int]]]:
    """Channels in and out of each 3x3 convolution of the decoder, by level from relu4_1 up: 1, 4, 2 and 2 of them."""
    widths = tuple(reversed(WIDTHS))
    narrower = (*widths[1:], out_channels)
    return [
        [(width, width)] * (depth - 1) + [(width, to)]
        for width, to, depth in zip(widths, narrower, DECODER_DEPTHS, strict=True)
    ]


def sizes_of_levels(features: Float[Tensor, "n c v u"], size: Size | None) -> list[Size]:
    """Rows and columns of the decoder's four levels, from those of the features up to those of the image.

    A size that the encoder's poolings, which round up, do not bring to the features' raises `SettingsError`.
    """
    v, u = features.shape[-2:]
    y, x = (8 * v, 8 * u) if size is None else size
    sizes = [(-(-y // 2**level), -(-x // 2**level)) for level in (3, 2, 1, 0)]
    if sizes[0] != (v, u):
        raise SettingsError(
            f"decoder: an image of {y} x {x} pixels has features of {sizes[0][0]} x {sizes[0][1]}, got {v} x {u}; "
            f"give the size of the image that was encoded"
        )
    return sizes


def double(x: Float[Tensor, "n c v u"], size: Size) -> Float[Tensor, "n c y x"]:
    """Every pixel twice along each axis, the ends cropped to that size."""
    return F.interpolate(x, scale_factor=2, mode="nearest")[..., : size[0], : size[1]]


def conv3x3(in_channels: int, width: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size; beyond the border lies the image's mirror."""
    return nn.Conv2d(in_channels, width, kernel_size=3, padding=1, padding_mode="reflect")


def start_as_he(network: nn.Module) -> None:
    """Draw every convolution's and linear layer's weights anew for rectified units (He 2015); biases are 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Levelled(NamedTuple):
    """What `normalise_activations` found."""

    silent: tuple[int, ...]
    """Of each of the nine layers how many filters (hardly) fire, less than a thousandth of their layer's mean."""
    scale: Float[Tensor, " 512"]
    """What each channel of relu4_1 was divided by."""


@torch.no_grad()
def normalise_activations(vgg: Vgg, images: Float[Tensor, "n c y x"]) -> Levelled:
    """Rescale the filters in place until each is 1 on the mean over these images, or less where it seldom fires.

    Layer by layer a filter's weights and bias are divided by its mean rectified activation, but never by less than
    `LEAST_SHARE` of its layer's, and the weights with which the next layer reads it are multiplied by that (Gatys
    2016, section 2; methods.md 3.7, which has no such floor): what the network computes stays the same but for each
    channel's scale, and errors at different depths become comparable. Images on which a whole layer stays silent, or
    none at all, raise `SettingsError`.
    """
    means = _mean_activations(vgg, images)
    convolutions = vgg.convolutions()
    silent = []
    for layer, (convolution, mean) in enumerate(zip(convolutions, means, strict=True)):
        scale = mean.clamp_min(LEAST_SHARE * float(mean.mean())).to(convolution.weight)
        convolution.weight.div_(scale[:, None, None, None])
        _bias(convolution).div_(scale)
        if layer + 1 < len(convolutions):
            convolutions[layer + 1].weight.mul_(scale[:, None, None])
        silent.append(int((mean < HARDLY_FIRING * mean.mean()).sum()))
    return Levelled(tuple(silent), scale)


def _mean_activations(vgg: Vgg, images: Tensor) -> list[Tensor]:
    """Of each filter of each layer over all images and places, float64: one pass, for levelling changes only scales."""
    sums: list[Tensor] = []
    for start in range(0, len(images), BATCH):
        activations = vgg.activations(images[start : start + BATCH])
        found = [x.mean(dim=(2, 3), dtype=torch.float64).sum(dim=0) for x in activations]
        sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
    means = [total / len(images) for total in sums]
    for layer, mean in enumerate(means, start=1):
        if not (torch.isfinite(mean).all() and mean.max() > 0):
            raise SettingsError(
                f"vgg: layer {layer} of {len(means)} answers the images with nothing, or with nan, so that its "
                f"activations cannot be normalised; give images that are finite and not empty"
            )
    if not means:
        raise SettingsError("vgg: activations are normalised over images, got none; give some")
    return means


def load_vgg(path: Path, in_channels: int = 1) -> Vgg:
    """The encoder with the weights of a user's file, frozen; it takes images in [0, 1].

    Known are torchvision's VGG-19 (`features.0.weight`, ...; the ImageNet normalisation becomes the 1x1
    convolution, so images are given as they are) and the normalised VGG of AdaIN (`0.weight`, `2.weight`, ...),
    as .pth, which is read without unpickling, or .safetensors. With 1 input channel the weights of the three
    colours are summed, which is exactly the grey image given three times. Torchvision's activations are far from 1:
    let `normalise_activations` follow. A file that is not one of these raises `FileError` with what is wrong in it.
    """
    weights = _read_weights(path)
    places = _places(path, weights)
    vgg = Vgg(in_channels=3)
    assert isinstance(vgg.colour, nn.Conv2d)
    with torch.no_grad():
        if "0.weight" in weights:
            _set(path, vgg.colour, weights, "0")
        else:
            _set_imagenet(vgg.colour)
        for convolution, place in zip(vgg.convolutions(), places, strict=True):
            _set(path, convolution, weights, place)
    return (vgg if in_channels == 3 else _summed_over_colours(vgg, in_channels)).eval().requires_grad_(False)


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            found: object = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileError(
            path, "there is no such file; give the weights of a VGG-19 as .pth or .safetensors"
        ) from None
    except SafetensorError as error:
        raise FileError(
            path, f"is no safetensors file ({error}); save the state dict of a VGG-19 again"
        ) from None
    except Exception as error:  # of pickle, of zip, and of whatever else broken bytes lead torch to
        raise FileError(
            path,
            f"is broken, or holds more than tensors ({_first_line(error)}); save the state dict of a VGG-19 "
            f"alone, torch.save(network.state_dict(), path)",
        ) from None
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise FileError(
            path,
            f"holds a {type(found).__name__} that is no state dict; save network.state_dict() of a VGG-19 alone",
        )
    return found


def _first_line(error: Exception) -> str:
    """What went wrong; a `KeyError` of broken bytes names only the byte, so its kind stands in front."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _places(path: Path, weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the nine convolutions in this file, without `.weight`."""
    if any(name.startswith("features.") for name in weights):
        kind, others = "torchvision's VGG-19", " (VGG-16 and networks with batch norm have other places)"
        needed = places = [f"features.{n}" for n in TORCHVISION_PLACES]
    elif any(name.split(".")[0].isdigit() for name in weights):
        kind, others = "AdaIN's normalised VGG", ""
        places = [str(n) for n in ADAIN_PLACES]
        needed = ["0", *places]
    else:
        raise FileError(
            path,
            f"is no VGG-19: its names begin {', '.join(map(repr, list(weights)[:3])) or 'nowhere, it is empty'}; give "
            f"torchvision's (features.0.weight, ...) or AdaIN's normalised one (0.weight, 2.weight, ...)",
        )
    names = [f"{place}.{part}" for place in needed for part in ("weight", "bias")]
    missing = [name for name in names if name not in weights]
    if missing:
        raise FileError(
            path, f"looks like {kind} but has no {missing[0]!r}{others}; give the whole network's weights"
        )
    return places


def _set_imagenet(colour: nn.Conv2d) -> None:
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    colour.weight.copy_(torch.diag(1 / std)[:, :, None, None])
    _bias(colour).copy_(-mean / std)


def _set(path: Path, convolution: nn.Conv2d, weights: Mapping[str, Tensor], place: str) -> None:
    for part, into in (("weight", convolution.weight), ("bias", _bias(convolution))):
        given = weights[f"{place}.{part}"]
        if given.shape != into.shape:
            raise FileError(
                path,
                f"{place}.{part} must have shape {tuple(into.shape)} in a VGG-19, got {tuple(given.shape)}; "
                f"is this another network?",
            )
        if not torch.isfinite(given).all():
            raise FileError(path, f"{place}.{part} has values that are not finite; save the weights again")
        into.copy_(given)


def _summed_over_colours(vgg: Vgg, in_channels: int) -> Vgg:
    """The same function of grey images. Reflection padding lets the colours' offsets pass the border unchanged."""
    grey = Vgg(in_channels)
    colour, first = vgg.colour, vgg.convolutions()[0]
    assert isinstance(colour, nn.Conv2d)
    gains, offsets = colour.weight.sum(dim=(1, 2, 3)), _bias(colour)
    with torch.no_grad():
        for ours, theirs in zip(grey.convolutions(), vgg.convolutions(), strict=True):
            ours.weight.copy_(theirs.weight if theirs is not first else _weighted(first.weight, gains))
            _bias(ours).copy_(_bias(theirs))
        _bias(grey.convolutions()[0]).add_(_weighted(first.weight, offsets).sum(dim=(1, 2, 3)))
    return grey


def _weighted(kernels: Tensor, colours: Tensor) -> Tensor:
    """(o 3 y x) kernels, summed over the colours with these weights to (o 1 y x)."""
    return (kernels * colours[:, None, None]).sum(dim=1, keepdim=True)


def _bias(convolution: nn.Conv2d) -> Tensor:
    """Every convolution here has one; torch types it as if it might be missing."""
    assert convolution.bias is not None
    return convolution.bias
