"""How strongly training images are changed at random: the settings, and the named presets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, Field, model_validator

from crossbeat.errors import SettingsError, did_you_mean


def _ordered(ends: tuple[float, float]) -> tuple[float, float]:
    if not all(map(math.isfinite, ends)) or ends[0] > ends[1]:
        raise ValueError(f"a range is [low, high], got {list(ends)}; put the smaller number first")
    return ends


def _from_to(low: float, high: float) -> AfterValidator:
    def within(ends: tuple[float, float]) -> tuple[float, float]:
        if ends[0] < low or ends[1] > high:
            raise ValueError(f"must lie within {low:g} to {high:g}, got {list(ends)}")
        return ends

    return AfterValidator(within)


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
"""[low, high]: the number is drawn uniformly between, one for each sample."""

Probability = Annotated[float, Field(ge=0, le=1)]

_NNUNET = "nnU-Net v2 nnUNetTrainer (Isensee 2021, doi 10.1038/s41592-020-01008-z)"


class Augmentation(BaseModel, extra="forbid", frozen=True):
    """Random changes of training slices. By default nothing is changed.

    Each change has a range and the probability with which a sample meets it. Lengths are in pixels of the
    prepared image, intensities in standard deviations of the slice (z-score). Order: geometry in one
    resampling (flip, zoom, shear, rotation, shift; elastic), gamma, random contrast, bias field, contrast,
    brightness, blur, noise: tissue, coil, display, scanner.
    """

    rotation_deg: Annotated[Range, _from_to(-180, 180)] = Field(
        (0, 0), description="counter-clockwise as displayed, about the middle of the crop; ±180 in " + _NNUNET
    )
    rotation_probability: Probability = Field(1, description="0.2 in " + _NNUNET)
    shear_deg: Annotated[Range, _from_to(-60, 60)] = Field(
        (0, 0),
        description="columns slide right by tan(shear) px a row downwards; ±5.7 in Chen 2020 (its code)",
    )
    shear_probability: Probability = Field(1, description="share of samples that are sheared")
    zoom: Annotated[Range, _from_to(0.2, 5)] = Field(
        (1, 1), description="factor, above 1 enlarges; 0.7 to 1.4 in " + _NNUNET
    )
    zoom_probability: Probability = Field(1, description="0.2 in " + _NNUNET)
    anisotropic_zoom: Annotated[Range, _from_to(0.2, 5)] = Field(
        (1, 1),
        description="a further factor, drawn for rows and columns apart; 0.8 to 1.2 in Chen 2020 (its code)",
    )
    anisotropic_zoom_probability: Probability = Field(1, description="share of samples zoomed so")
    shift_px: Annotated[Range, _from_to(-512, 512)] = Field(
        (0, 0), description="px down and px right, drawn apart; ±16 for shifted crops"
    )
    shift_probability: Probability = Field(1, description="share of samples that are shifted")
    flip_x_probability: Probability = Field(0, description="left and right exchanged; 0.5 in " + _NNUNET)
    flip_y_probability: Probability = Field(0, description="top and bottom exchanged; 0.5 in " + _NNUNET)
    elastic_px: Annotated[Range, _from_to(0, 64)] = Field(
        (0, 0), description="standard deviation of a smooth displacement, px an axis; ours"
    )
    elastic_spacing_px: float = Field(
        32, ge=16, le=256, description="px between its control points (cubic B-splines, Rueckert 1999)"
    )
    elastic_probability: Probability = Field(1, description="share of samples so deformed; 0 in " + _NNUNET)
    random_contrast_probability: Probability = Field(
        0, description="share of samples shown through a random transfer curve, issue 2 point 5"
    )
    random_contrast_knots: int = Field(
        4, ge=3, le=16, description="knots of the curve, at equal steps of intensity; more are wilder; ours"
    )
    random_contrast_strength: Annotated[Range, _from_to(0, 1)] = Field(
        (1, 1), description="0 leaves the image, 1 draws the knots uniformly over all intensities; ours"
    )
    gamma: Annotated[Range, _from_to(0.1, 10)] = Field(
        (1, 1), description="exponent, drawn uniformly in its logarithm; 0.7 to 1.5 in " + _NNUNET
    )
    gamma_probability: Probability = Field(1, description="0.3 in " + _NNUNET)
    gamma_inverted_probability: Probability = Field(
        0, description="share of the gamma changes counted from the bright end; 0.1 of 0.4 in " + _NNUNET
    )
    bias_field: Annotated[Range, _from_to(0, 2)] = Field(
        (0, 0), description="standard deviation of the logarithm of a smooth coil sensitivity; ours"
    )
    bias_spacing_px: float = Field(96, ge=32, le=512, description="px between its control points; ours")
    bias_probability: Probability = Field(1, description="share of samples with a bias field")
    contrast: Annotated[Range, _from_to(0.1, 10)] = Field(
        (1, 1), description="factor about the mean of the slice; 0.75 to 1.25 in " + _NNUNET
    )
    contrast_probability: Probability = Field(1, description="0.15 in " + _NNUNET)
    brightness: Annotated[Range, _from_to(-5, 5)] = Field((0, 0), description="SD of the slice, added; ours")
    brightness_probability: Probability = Field(1, description="0.15 in " + _NNUNET + ", there a factor")
    blur_px: Annotated[Range, _from_to(0, 5)] = Field(
        (0, 0), description="standard deviation of a Gaussian, px; 0.5 to 1 in " + _NNUNET
    )
    blur_probability: Probability = Field(1, description="0.2 in " + _NNUNET)
    noise_sd: Annotated[Range, _from_to(0, 5)] = Field(
        (0, 0), description="white Gaussian noise, SD of the slice; to 0.1 in " + _NNUNET
    )
    noise_probability: Probability = Field(1, description="0.1 in " + _NNUNET)

    @model_validator(mode="after")
    def _never_folds(self) -> Augmentation:
        # The displacement's gradient has an SD of sqrt(2/3 · 315/151) = 1.18 px/spacing; tissue folds where
        # it reaches -1, at a fifth of the spacing 4.2 SD away.
        if self.elastic_px[1] > self.elastic_spacing_px / 5:
            raise ValueError(
                f"elastic_px of up to {self.elastic_px[1]:g} px folds tissue over itself; it must stay under a "
                f"fifth of elastic_spacing_px, here {self.elastic_spacing_px / 5:g} px"
            )
        return self


NONE: Final = Augmentation()
"""The image as prepared."""

LIGHT: Final = Augmentation(
    rotation_deg=(-15, 15),
    zoom=(0.9, 1.1),
    shift_px=(-8, 8),
    gamma=(0.8, 1.25),
    gamma_probability=0.3,
    noise_sd=(0, 0.1),
    noise_probability=0.2,
)
"""What a scan of the same scanner on another day would show."""

STANDARD: Final = Augmentation(
    rotation_deg=(-30, 30),
    rotation_probability=0.5,
    zoom=(0.7, 1.4),
    zoom_probability=0.3,
    anisotropic_zoom=(0.85, 1.15),
    anisotropic_zoom_probability=0.2,
    shift_px=(-16, 16),
    shift_probability=0.5,
    flip_x_probability=0.5,
    flip_y_probability=0.5,
    elastic_px=(0, 4),
    elastic_probability=0.2,
    gamma=(0.7, 1.5),
    gamma_probability=0.4,
    gamma_inverted_probability=0.25,
    bias_field=(0, 0.3),
    bias_probability=0.2,
    contrast=(0.75, 1.25),
    contrast_probability=0.15,
    brightness=(-0.3, 0.3),
    brightness_probability=0.15,
    blur_px=(0.5, 1.0),
    blur_probability=0.2,
    noise_sd=(0, 0.32),
    noise_probability=0.1,
)
"""A strong recipe after nnU-Net v2 (Isensee 2021), whose ranges of zoom, gamma, contrast and blur it keeps.

Mirror images as there, though no heart is one: they keep the network from learning where in the image a ventricle
lies; what they are worth here is not measured. Ours: rotations of ±30 degrees rather than ±180; noise up to three times
nnU-Net's; shifts, zoom of one axis against the other, brightness, elastic deformation and a bias field for coils; and
the probabilities. Augmentation against vendor shift was studied by the winner of M&Ms (Full 2020, arXiv 2011.07592).
"""

RANDOM_CONTRAST: Final = STANDARD.model_copy(update={"random_contrast_probability": 0.8})
"""`STANDARD` and a random transfer curve for four images in five: the honest baseline of cross-sequence work."""

CHEN2020: Final = Augmentation(
    rotation_deg=(-15, 15),
    shear_deg=(-math.degrees(0.1), math.degrees(0.1)),
    anisotropic_zoom=(0.8, 1.2),
)
"""Chen 2020 as its code has it (methods.md 1.5); there nearest neighbour also for images, here linear."""

PRESETS: Final[Mapping[str, Augmentation]] = {
    "none": NONE,
    "light": LIGHT,
    "standard": STANDARD,
    "random_contrast": RANDOM_CONTRAST,
    "chen2020": CHEN2020,
}
"""The presets, by the name that recipes use."""


def preset_with(name: str, changes: Mapping[str, Any]) -> Augmentation:
    """A preset with some of its fields changed. `SettingsError` names a field that there is not (did you mean)."""
    for field in changes:
        if field not in Augmentation.model_fields:
            near = did_you_mean(field, Augmentation.model_fields)
            raise SettingsError(f"augmentation_changes: there is no {field!r}; {near}")
    return Augmentation(**{**PRESETS[name].model_dump(), **changes})
