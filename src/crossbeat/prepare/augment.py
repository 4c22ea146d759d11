"""Batches in, randomly changed batches out: parameters drawn once on the CPU, applied on the device.

`draw` makes the parameters of a whole global batch, each sample's a function of its seed alone; a device takes
its share (`Draw.take`, `Draw.to`) and `apply` changes image and labels alike, without waiting for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from crossbeat.prepare import contrast
from crossbeat.prepare.augmentation_draw import Draw, Stream, draw, draw_from_seeds
from crossbeat.prepare.augmentation_settings import (
    CHEN2020,
    LIGHT,
    NONE,
    PRESETS,
    RANDOM_CONTRAST,
    STANDARD,
    Augmentation,
    preset_with,
)
from crossbeat.prepare.random_fields import normal, smooth_field

__all__ = [
    "CHEN2020",
    "LIGHT",
    "NONE",
    "PRESETS",
    "RANDOM_CONTRAST",
    "STANDARD",
    "Augmentation",
    "Draw",
    "apply",
    "draw",
    "draw_from_seeds",
    "preset_with",
]


@torch.no_grad()
def apply(
    draw: Draw,
    image: Float[Tensor, "n c y x"],
    labels: UInt8[Tensor, "n y x"],
    *,
    size: tuple[int, int],
) -> tuple[Float[Tensor, "n c h w"], UInt8[Tensor, "n h w"]]:
    """Slices and labels changed alike, and cropped to `size` (rows, columns) about the middle.

    The field that comes in may be larger than `size`, so that turned corners show what was there. Beyond the
    field the image holds its minimum, as `prepare` pads, and the labels background; labels are taken from the
    nearest pixel and never mixed. float32 whatever autocast says. A field smaller than `size`, or another
    number of samples than drawn, raises `ValueError`.
    """
    _check(draw, image, labels, size)
    with torch.autocast(image.device.type, enabled=False):
        image, labels = _move(draw, image, labels, size)
        for change in (_relight, _rewindow, _blur, _add_noise):
            image = change(draw, image)
    return image, labels


def _check(draw: Draw, image: Tensor, labels: Tensor, size: tuple[int, int]) -> None:
    if image.shape[2] < size[0] or image.shape[3] < size[1]:
        raise ValueError(
            f"augmentation: the field is {image.shape[2]} x {image.shape[3]} px, smaller than the output of "
            f"{size[0]} x {size[1]}; prepare slices with a larger field or ask for a smaller size"
        )
    if not len(draw) == len(image) == len(labels):
        raise ValueError(
            f"augmentation: drawn for {len(draw)} samples, got {len(image)} images and {len(labels)} label maps; "
            "take the share of the draw that belongs to them"
        )


def _where(
    active: Bool[Tensor, " n"] | None,
    before: tuple[Tensor, ...],
    change: Callable[..., tuple[Tensor, ...]],
    *inputs: Tensor | None,
) -> tuple[Tensor, ...]:
    """`change(*inputs)` for the samples that are `active`, `before` for the others.

    On a CPU only those samples are computed, and `before` is overwritten. A device would have to be waited
    for to know them: there all are computed and the right ones kept.
    """
    if active is None:
        return before
    if active.device.type == "cpu" and not torch.compiler.is_compiling():
        chosen = active.nonzero().flatten()
        if len(chosen) == len(active):
            return change(*inputs) if len(active) else before
        if not len(chosen):
            return before
        after = change(*(None if part is None else part[chosen] for part in inputs))
        return tuple(old.index_copy_(0, chosen, new) for old, new in zip(before, after, strict=True))
    return tuple(
        torch.where(active.view(-1, *[1] * (old.ndim - 1)), new, old)
        for old, new in zip(before, change(*inputs), strict=True)
    )


def _move(
    draw: Draw, image: Tensor, labels: Tensor, size: tuple[int, int]
) -> tuple[Float[Tensor, "n c h w"], UInt8[Tensor, "n h w"]]:
    def warp(
        image: Tensor, labels: Tensor, backward: Tensor, displacement: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        field = (image.shape[2], image.shape[3])
        grid = _grid(backward, displacement, draw.displacement_spacing_px, field, size)
        low = image.amin((2, 3), keepdim=True)
        lit = F.grid_sample(image - low, grid, "bilinear", "zeros", align_corners=False)
        named = F.grid_sample(labels[:, None].float(), grid, "nearest", "zeros", align_corners=False)
        return lit.add_(low), named[:, 0].byte()

    still = _crop(image, size).clone(), _crop(labels, size).clone()
    moved = _where(draw.moved, still, warp, image, labels, draw.backward, draw.displacement)
    return moved[0], moved[1]


def _crop(image: Tensor, size: tuple[int, int]) -> Tensor:
    top, left = (image.shape[-2] - size[0]) // 2, (image.shape[-1] - size[1]) // 2
    return image[..., top : top + size[0], left : left + size[1]]


def _grid(
    backward: Float[Tensor, "n 2 3"],
    displacement: Float[Tensor, "n 2 a a"] | None,
    spacing_px: float,
    field: tuple[int, int],
    size: tuple[int, int],
) -> Float[Tensor, "n h w 2"]:
    """Where each output pixel is found, as `grid_sample` wants it: (column, row), the field's edges at ±1."""
    rows, columns = (
        torch.arange(length, dtype=torch.float32, device=backward.device) - (length - 1) / 2
        for length in size
    )
    # Pixels to halves of the field, about the middle that `_crop` has.
    scale = [2 / long for long in field]
    start = [
        ((long - short) // 2 + short / 2) * 2 / long - 1 for long, short in zip(field, size, strict=True)
    ]
    column, row = (backward[:, axis, :, None] * scale[axis] for axis in (1, 0))
    along_rows = torch.stack((column[:, 0] * rows, row[:, 0] * rows), dim=1)
    along_columns = torch.stack(
        (column[:, 1] * columns + column[:, 2] + start[1], row[:, 1] * columns + row[:, 2] + start[0]), dim=1
    )
    grid = along_rows[..., None] + along_columns[:, :, None]
    if displacement is not None:
        control = torch.stack((displacement[:, 1] * scale[1], displacement[:, 0] * scale[0]), dim=1)
        grid += smooth_field(control, spacing_px, size)
    return grid.permute(0, 2, 3, 1)


def _relight(draw: Draw, image: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    def relight(
        image: Tensor,
        heights: Tensor | None,
        gamma: Tensor | None,
        inverted: Tensor | None,
        control: Tensor | None,
    ) -> tuple[Tensor]:
        size = (image.shape[2], image.shape[3])
        curve = None if heights is None else contrast.transfer_curve(heights, gamma, inverted)
        log_bias = None if control is None else smooth_field(control, draw.bias_spacing_px, size)
        return (contrast.change_signal(image, curve, log_bias),)

    parts = draw.heights, draw.gamma, draw.inverted, draw.log_bias
    return _where(draw.relit, (image,), relight, image, *parts)[0]


def _rewindow(draw: Draw, image: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    def rewindow(image: Tensor, window: Tensor) -> tuple[Tensor]:
        mean, sd = contrast.mean_and_sd(image)
        factor, offset = window[:, 0, None, None, None], window[:, 1, None, None, None]
        return ((image - mean).mul_(factor).add_(mean + offset * sd),)

    return _where(draw.windowed, (image,), rewindow, image, draw.window)[0]


def _blur(draw: Draw, image: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    def blur(image: Tensor, taps: Tensor) -> tuple[Tensor]:
        return (contrast.blur(image, taps),)

    return _where(draw.blurred, (image,), blur, image, draw.taps)[0]


def _add_noise(draw: Draw, image: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    def add_noise(image: Tensor, seed: Tensor, noise_sd: Tensor) -> tuple[Tensor]:
        noise = normal(seed, Stream.NOISE, math.prod(image.shape[1:])).view_as(image)
        _, sd = contrast.mean_and_sd(image)
        return (noise.mul_(noise_sd[:, None, None, None] * sd).add_(image),)

    return _where(draw.noisy, (image,), add_noise, image, draw.seed, draw.noise_sd)[0]
