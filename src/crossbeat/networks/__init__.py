"""Networks: tensors go in, tensors come out; `SEGMENTERS` is the table of those that segment slices."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import nn

from crossbeat.errors import SettingsError, did_you_mean
from crossbeat.networks import dilated_resunet, dr_unet, dru_net, dynunet, segresnet_vae, unet
from crossbeat.networks.sizes import require_sides

__all__ = ["SEGMENTERS", "Published", "SegmenterEntry", "build", "lay_out"]

Size = tuple[int, int]


@dataclass(frozen=True)
class Published:
    """A parameter count that stands in a paper or its code, and the arguments that give it."""

    count: int
    in_channels: int
    classes: int
    size: Size | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SegmenterEntry:
    """A segmentation network and what it can do; training, DDP and the contract tests honour it.

    `build(in_channels, classes, size, **arguments)` makes it, with PyTorch's random initial weights;
    called on images (n c y x) it gives logits (n k y x), in training and in evaluation alike.
    """

    build: Callable[..., nn.Module]
    source: str
    """The paper that describes it."""
    parameters: Published
    divisor: int
    """Both sides of an image are multiples of it, in pixels."""
    minimum_side: int
    """Both sides have at least so many pixels."""
    channels_last: bool = True
    """May be trained with weights and images in channels_last memory."""
    bf16: bool = True
    """May be trained under bfloat16 autocast."""
    batch_norm: bool = False
    """Has batch normalisation: N devices and one differ, and a sample sees its batch in training."""
    fixed_training_size: bool = False
    """Built for one `size`, and trained on it only."""
    unused_parameters: bool = False
    """Some parameters get no gradient from the logits: DDP must look for them."""


def build(
    name: str,
    in_channels: int,
    classes: int,
    size: Size | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The segmentation network of that name, with fresh weights drawn from torch's random state.

    `size` is the training size in pixels, rows and columns: needed where the entry says
    `fixed_training_size`, and checked wherever it is given. `arguments` are the network's own, as they
    stand in a recipe or a segmenter.json. Unknown names, unknown arguments and impossible values raise
    `SettingsError`.
    """
    if name not in SEGMENTERS:
        raise SettingsError(f"network {name!r} does not exist; {did_you_mean(name, SEGMENTERS)}")
    entry = SEGMENTERS[name]
    if in_channels < 1 or classes < 2:
        raise SettingsError(
            f"network {name!r}: needs at least 1 input channel and 2 classes (background and one structure), "
            f"got {in_channels} and {classes}"
        )
    if size is not None:
        require_sides(name, size, entry.divisor, entry.minimum_side)
    elif entry.fixed_training_size:
        raise SettingsError(
            f"network {name!r}: is built for one training size; give size in pixels, rows first"
        )
    return entry.build(in_channels, classes, size, **_checked(name, entry, arguments or {}))


def lay_out(network: nn.Module, name: str) -> nn.Module:
    """The network named so laid out to compute quickest: in channels_last, where it has nothing against it."""
    fits = SEGMENTERS[name].channels_last and getattr(network, "channels_last", True)
    network.to(memory_format=torch.channels_last if fits else torch.contiguous_format)  # type: ignore[call-overload]
    return network


def _build_dilated_resunet(
    in_channels: int,
    classes: int,
    size: Size | None,
    *,
    width: int = 32,
    dilations: Sequence[int] = dilated_resunet.DILATIONS,
    norm: str | None = None,
) -> nn.Module:
    return dilated_resunet.DilatedResUNet(in_channels, classes, width=width, dilations=dilations, norm=norm)


def _build_unet(in_channels: int, classes: int, size: Size | None, *, width: int = 32) -> nn.Module:
    return unet.UNet(in_channels, classes, width=width)


def _build_dr_unet(in_channels: int, classes: int, size: Size | None, *, width: int = 32) -> nn.Module:
    return dr_unet.DrUNet(in_channels, classes, width=width)


def _build_dru_net(in_channels: int, classes: int, size: Size | None, *, width: int = 16) -> nn.Module:
    return dru_net.DruNet(in_channels, classes, width=width)


def _build_dynunet(
    in_channels: int, classes: int, size: Size | None, *, width: int = 32, dropout: float = 0.1
) -> nn.Module:
    return dynunet.DynUNet2d(in_channels, classes, width=width, dropout=dropout)


def _build_segresnet_vae(in_channels: int, classes: int, size: Size, *, width: int = 8) -> nn.Module:
    return segresnet_vae.SegResNetVae(in_channels, classes, size=size, width=width)


SEGMENTERS: Final[Mapping[str, SegmenterEntry]] = {
    "dilated_resunet": SegmenterEntry(
        build=_build_dilated_resunet,
        source="Chen, Li, Zhang, Menze 2020 (STACOM 2019), Fig. 3",
        parameters=Published(155_652, in_channels=1, classes=4),
        divisor=dilated_resunet.DIVISOR,
        minimum_side=dilated_resunet.MINIMUM_SIDE,
    ),
    "unet": SegmenterEntry(
        build=_build_unet,
        source="VoxelMorph label propagation on M&Ms, after Ronneberger 2015",
        parameters=Published(7_762_564, in_channels=1, classes=4),
        divisor=unet.DIVISOR,
        minimum_side=unet.MINIMUM_SIDE,
        batch_norm=True,
    ),
    "dr_unet": SegmenterEntry(
        build=_build_dr_unet,
        source="Vesal et al., as in MingxuanGu/Few-shot-UDA; Rahman, Gu 2023 cite DRU-net",
        parameters=Published(13_483_524, in_channels=3, classes=4),
        divisor=dr_unet.DIVISOR,
        minimum_side=dr_unet.MINIMUM_SIDE,
        batch_norm=True,
    ),
    "dru_net": SegmenterEntry(
        build=_build_dru_net,
        source="Jafari et al. 2020 (ISBI), cited by Rahman, Gu 2023",
        parameters=Published(3_113_280, in_channels=1, classes=4),
        divisor=dru_net.DIVISOR,
        minimum_side=dru_net.MINIMUM_SIDE,
        batch_norm=True,
    ),
    "dynunet": SegmenterEntry(
        build=_build_dynunet,
        source="Dhaene 2023 (Bioengineering 10:166), its nnU-Net; MONAI",
        parameters=Published(34_164_258, in_channels=1, classes=2),
        divisor=dynunet.DIVISOR,
        minimum_side=dynunet.MINIMUM_SIDE,
    ),
    "segresnet_vae": SegmenterEntry(
        build=_build_segresnet_vae,
        source="Dhaene 2023 (Bioengineering 10:166), its ResNetVAE; Myronenko 2018; MONAI",
        parameters=Published(3_555_891, in_channels=1, classes=2, size=(256, 256)),
        divisor=segresnet_vae.DIVISOR,
        minimum_side=segresnet_vae.MINIMUM_SIDE,
        channels_last=False,  # MONAI flattens the bottleneck with view, which channels_last forbids
        fixed_training_size=True,
        unused_parameters=True,  # the VAE, 89 % of them
    ),
}


def _checked(name: str, entry: SegmenterEntry, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, each known to the network and of the kind of its default."""
    known = {
        key: parameter.default
        for key, parameter in inspect.signature(entry.build).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for key, value in arguments.items():
        if key not in known:
            raise SettingsError(f"network {name!r}: has no argument {key!r}; {did_you_mean(key, known)}")
        if not _alike(value, known[key]):
            raise SettingsError(f"network {name!r}: {key} must be like {known[key]!r}, got {value!r}")
        if key == "width" and value < 1:
            raise SettingsError(f"network {name!r}: width must be at least 1, got {value}")
    return dict(arguments)


def _alike(value: object, default: object) -> bool:
    """True where a value from a recipe can stand for the default: whole numbers for fractions, lists for tuples."""
    if isinstance(value, bool):
        return isinstance(default, bool)
    if default is None:
        return value is None or isinstance(value, str)
    if isinstance(default, tuple):
        return isinstance(value, (list, tuple)) and all(_alike(v, default[0]) for v in value)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    return isinstance(value, type(default))
