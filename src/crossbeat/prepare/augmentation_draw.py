"""Settings in, the random changes of every sample of a global batch out: drawn on the CPU, applied elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum, auto
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from crossbeat.prepare import contrast
from crossbeat.prepare.augmentation_settings import Augmentation
from crossbeat.prepare.random_fields import uniform, unit_control_points

ELASTIC_POINTS = 20
"""Control points an axis of the displacement; at the closest spacing, 16 px, they reach 320 px unrepeated."""
BIAS_POINTS = 16
"""Control points an axis of the bias field; at the closest spacing, 32 px, they reach 512 px unrepeated."""


class Stream(IntEnum):
    """Unrelated streams of random numbers of one seed."""

    NUMBERS = 0
    DISPLACEMENT = 1
    BIAS = 2
    KNOTS = 3
    NOISE = 4


@dataclass(frozen=True, eq=False)
class Draw:
    """What happens to each of n samples. A part that the settings never ask for is None."""

    seed: Int64[Tensor, " n"]
    """Of each sample: its parameters and its noise follow from it."""
    backward: Float[Tensor, "n 2 3"] | None = None
    """From (row, column, 1) about the middle of the output, in px, to (row, column) about that of the field."""
    displacement: Float[Tensor, "n 2 a a"] | None = None
    """Control points of a displacement of (row, column) in px of the field, added to `backward`."""
    displacement_spacing_px: float = 1.0
    moved: Bool[Tensor, " n"] | None = None
    """Samples whose geometry changes."""
    gamma: Float[Tensor, " n"] | None = None
    """Exponent of intensities in [0, 1]; 1 leaves them."""
    inverted: Bool[Tensor, " n"] | None = None
    """Samples whose gamma counts from the bright end."""
    heights: Float[Tensor, "n k"] | None = None
    """Knots of the random transfer curve, which follows gamma (`contrast.transfer_curve`)."""
    log_bias: Float[Tensor, "n 1 b b"] | None = None
    """Control points of the logarithm of the coil sensitivity."""
    bias_spacing_px: float = 1.0
    relit: Bool[Tensor, " n"] | None = None
    """Samples with a curve or a bias field."""
    window: Float[Tensor, "n 2"] | None = None
    """Factor about the mean, and offset in SD of the slice."""
    windowed: Bool[Tensor, " n"] | None = None
    taps: Float[Tensor, "n w"] | None = None
    """Weights of the blur along an axis."""
    blurred: Bool[Tensor, " n"] | None = None
    noise_sd: Float[Tensor, " n"] | None = None
    """In SD of the slice."""
    noisy: Bool[Tensor, " n"] | None = None

    def __len__(self) -> int:
        return len(self.seed)

    def take(self, indices: Int[Tensor, " m"] | slice | list[int]) -> Draw:
        """The draw of some samples, in that order: a device's share."""
        return self._each(lambda part: part[indices])

    def to(self, device: torch.device | str) -> Draw:
        """The same draw on another device."""
        return self._each(lambda part: part.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Draw:
        parts = {name: change(part) for name, part in vars(self).items() if isinstance(part, Tensor)}
        return replace(self, **cast(dict[str, Any], parts))


def draw(settings: Augmentation, n: int, generator: torch.Generator) -> Draw:
    """Draw the random changes of n samples, on the CPU.

    Only n seeds are taken from the generator. The first samples of a larger batch meet the same changes as
    those of a smaller one, and a setting that is switched on or off leaves the other changes as they were.
    """
    return draw_from_seeds(settings, torch.empty(n, dtype=torch.int64).random_(generator=generator))


def draw_from_seeds(settings: Augmentation, seed: Int64[Tensor, " n"]) -> Draw:
    """The random changes that follow from one seed a sample."""
    dice = _Dice(seed)
    parts = _geometry(settings, dice) | _signal(settings, dice) | _scanner(settings, dice)
    return Draw(
        seed,
        displacement_spacing_px=settings.elastic_spacing_px,
        bias_spacing_px=settings.bias_spacing_px,
        **parts,
    )


class _Number(IntEnum):
    """Place of each random number in a sample's list; new ones go to the end, so that old draws stay."""

    ROTATION = 0
    ROTATION_HAPPENS = auto()
    SHEAR = auto()
    SHEAR_HAPPENS = auto()
    ZOOM = auto()
    ZOOM_HAPPENS = auto()
    ZOOM_Y = auto()
    ZOOM_X = auto()
    ANISOTROPIC_ZOOM_HAPPENS = auto()
    SHIFT_Y = auto()
    SHIFT_X = auto()
    SHIFT_HAPPENS = auto()
    FLIP_Y_HAPPENS = auto()
    FLIP_X_HAPPENS = auto()
    ELASTIC = auto()
    ELASTIC_HAPPENS = auto()
    RANDOM_CONTRAST_STRENGTH = auto()
    RANDOM_CONTRAST_HAPPENS = auto()
    GAMMA = auto()
    GAMMA_HAPPENS = auto()
    GAMMA_INVERTED_HAPPENS = auto()
    BIAS = auto()
    BIAS_HAPPENS = auto()
    CONTRAST = auto()
    CONTRAST_HAPPENS = auto()
    BRIGHTNESS = auto()
    BRIGHTNESS_HAPPENS = auto()
    BLUR = auto()
    BLUR_HAPPENS = auto()
    NOISE = auto()
    NOISE_HAPPENS = auto()


class _Dice:
    """A sample's random numbers by name, in [0, 1)."""

    def __init__(self, seed: Int64[Tensor, " n"]) -> None:
        self.seed = seed
        self.numbers = uniform(seed, Stream.NUMBERS, len(_Number)).double()

    def happens(self, number: _Number, probability: float) -> Bool[Tensor, " n"]:
        return self.numbers[:, number] < probability

    def within(self, number: _Number, ends: tuple[float, float]) -> Float[Tensor, " n"]:
        return ends[0] + (ends[1] - ends[0]) * self.numbers[:, number]

    def maybe(
        self,
        number: _Number,
        ends: tuple[float, float],
        happens: _Number,
        probability: float,
        neutral: float = 0.0,
    ) -> Float[Tensor, " n"]:
        return self.within(number, ends).where(
            self.happens(happens, probability), torch.tensor(neutral, dtype=torch.float64)
        )


_Parts = dict[str, Tensor]


def _geometry(settings: Augmentation, dice: _Dice) -> _Parts:
    parts: _Parts = {}
    backward = _backward(settings, dice)
    still = torch.eye(2, 3, dtype=backward.dtype)
    moved = (backward != still).flatten(1).any(1)
    if settings.elastic_px[1] > 0 and settings.elastic_probability > 0:
        sd = dice.maybe(
            _Number.ELASTIC, settings.elastic_px, _Number.ELASTIC_HAPPENS, settings.elastic_probability
        )
        control = unit_control_points(dice.seed, Stream.DISPLACEMENT, 2, ELASTIC_POINTS)
        parts["displacement"] = control * sd.float()[:, None, None, None]
        moved = moved | (sd > 0)
    if parts or _moves(settings):
        parts |= {"backward": backward.float(), "moved": moved}
    return parts


def _moves(settings: Augmentation) -> bool:
    """Whether any rigid or affine change can ever happen."""
    changes = (
        (settings.rotation_deg, settings.rotation_probability, 0),
        (settings.shear_deg, settings.shear_probability, 0),
        (settings.zoom, settings.zoom_probability, 1),
        (settings.anisotropic_zoom, settings.anisotropic_zoom_probability, 1),
        (settings.shift_px, settings.shift_probability, 0),
    )
    flips = settings.flip_x_probability or settings.flip_y_probability
    return bool(flips) or any(p > 0 and ends != (neutral, neutral) for ends, p, neutral in changes)


def _backward(settings: Augmentation, dice: _Dice) -> Float[Tensor, "n 2 3"]:
    """Inverse of: flip, zoom, shear, rotate, then shift, on (row, column) about the middle."""
    s, d = settings, dice
    turn = d.maybe(
        _Number.ROTATION, s.rotation_deg, _Number.ROTATION_HAPPENS, s.rotation_probability
    ).deg2rad()
    slope = d.maybe(_Number.SHEAR, s.shear_deg, _Number.SHEAR_HAPPENS, s.shear_probability).deg2rad().tan()
    zoom = d.maybe(_Number.ZOOM, s.zoom, _Number.ZOOM_HAPPENS, s.zoom_probability, 1.0)
    own = (_Number.ANISOTROPIC_ZOOM_HAPPENS, s.anisotropic_zoom_probability, 1.0)
    scale_y = zoom * d.maybe(_Number.ZOOM_Y, s.anisotropic_zoom, *own)
    scale_x = zoom * d.maybe(_Number.ZOOM_X, s.anisotropic_zoom, *own)
    scale_y = torch.where(d.happens(_Number.FLIP_Y_HAPPENS, s.flip_y_probability), -scale_y, scale_y)
    scale_x = torch.where(d.happens(_Number.FLIP_X_HAPPENS, s.flip_x_probability), -scale_x, scale_x)
    shift = torch.stack(
        [
            d.maybe(number, s.shift_px, _Number.SHIFT_HAPPENS, s.shift_probability)
            for number in (_Number.SHIFT_Y, _Number.SHIFT_X)
        ],
        dim=1,
    )
    zero, one = torch.zeros_like(turn), torch.ones_like(turn)
    unturn = _matrix(turn.cos(), turn.sin(), -turn.sin(), turn.cos())  # rows point down
    unshear = _matrix(one, zero, -slope, one)
    unscale = _matrix(1 / scale_y, zero, zero, 1 / scale_x)
    linear = unscale @ unshear @ unturn
    return torch.cat((linear, -linear @ shift[:, :, None]), dim=2)


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Float[Tensor, "n 2 2"]:
    return torch.stack((a, b, c, d), dim=1).view(-1, 2, 2)


def _signal(settings: Augmentation, dice: _Dice) -> _Parts:
    s, parts = settings, _Parts()
    relit = torch.zeros(len(dice.seed), dtype=torch.bool)
    gamma_ever = s.gamma != (1, 1) and s.gamma_probability > 0
    if gamma_ever or s.random_contrast_probability > 0:
        logarithms = (math.log(s.gamma[0]), math.log(s.gamma[1]))
        gamma = dice.maybe(_Number.GAMMA, logarithms, _Number.GAMMA_HAPPENS, s.gamma_probability).exp()
        inverted = dice.happens(_Number.GAMMA_INVERTED_HAPPENS, s.gamma_inverted_probability)
        strength = dice.maybe(
            _Number.RANDOM_CONTRAST_STRENGTH,
            s.random_contrast_strength,
            _Number.RANDOM_CONTRAST_HAPPENS,
            s.random_contrast_probability,
        )
        knots = uniform(dice.seed, Stream.KNOTS, s.random_contrast_knots)
        parts["heights"] = contrast.random_heights(knots, strength.float())
        parts |= {"gamma": gamma.float(), "inverted": inverted}
        relit = relit | (gamma != 1) | (strength > 0)
    if s.bias_field[1] > 0 and s.bias_probability > 0:
        sd = dice.maybe(_Number.BIAS, s.bias_field, _Number.BIAS_HAPPENS, s.bias_probability)
        control = unit_control_points(dice.seed, Stream.BIAS, 1, BIAS_POINTS)
        parts["log_bias"] = control * sd.float()[:, None, None, None]
        relit = relit | (sd > 0)
    return parts | {"relit": relit} if parts else parts


def _scanner(settings: Augmentation, dice: _Dice) -> _Parts:
    s, parts = settings, _Parts()
    factor = dice.maybe(_Number.CONTRAST, s.contrast, _Number.CONTRAST_HAPPENS, s.contrast_probability, 1.0)
    offset = dice.maybe(
        _Number.BRIGHTNESS, s.brightness, _Number.BRIGHTNESS_HAPPENS, s.brightness_probability
    )
    contrast_ever = s.contrast != (1, 1) and s.contrast_probability > 0
    if contrast_ever or (s.brightness != (0, 0) and s.brightness_probability > 0):
        parts["window"] = torch.stack((factor, offset), dim=1).float()
        parts["windowed"] = (factor != 1) | (offset != 0)
    if s.blur_px[1] > 0 and s.blur_probability > 0:
        sigma = dice.maybe(_Number.BLUR, s.blur_px, _Number.BLUR_HAPPENS, s.blur_probability)
        parts["taps"] = contrast.gaussian_taps(sigma.float(), reach=math.ceil(3 * s.blur_px[1]))
        parts["blurred"] = sigma > 0
    if s.noise_sd[1] > 0 and s.noise_probability > 0:
        sd = dice.maybe(_Number.NOISE, s.noise_sd, _Number.NOISE_HAPPENS, s.noise_probability)
        parts |= {"noise_sd": sd.float(), "noisy": sd > 0}
    return parts
