"""One scan's slices resampled, cropped and normalised for a network; and results put back on its own grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from torch import Tensor

from crossbeat.case import Case
from crossbeat.devices import argmax_channels
from crossbeat.labels import UNKNOWN, fold_into_myocardium

FIELD_FACTOR = 1.5
"""Side of the field that is kept around a crop, over the crop's: room for shifts and rotations."""

ROUNDING = 4e-6
"""Spread over size of a slice that counts as constant: resampling leaves up to 5e-7 of a constant one in float32
(measured), and a 16-bit image whose values differ at all has 1.5e-5."""


class Preparation(BaseModel, extra="forbid", frozen=True):
    """How a scan becomes network input. Saved with every network, so that prediction does the same."""

    spacing_mm: float = Field(1.25, gt=0.2, le=5, description="in-plane, of the network's pixels")
    size: int = Field(192, ge=16, le=1024, description="side of the crop in pixels")
    centre: Literal["heart", "image"] = Field(
        "heart",
        description="what the crop is centred on: the labelled heart (in prediction the heart that the "
        "network finds, without labels in training the image); or the image",
    )
    scale: Literal["zscore", "unit", "symmetric"] = Field(
        "zscore", description="mean 0 and SD 1; [0, 1]; or [-1, 1]"
    )
    per: Literal["slice", "volume"] = Field("slice", description="over what the intensity scale is taken")
    low_percentile: float = Field(0.5, ge=0, lt=50, description="clipped below")
    high_percentile: float = Field(99.5, gt=50, le=100, description="clipped above")

    @property
    def field(self) -> int:
        """Side in pixels of the field around the crop: intensity statistics are taken over it."""
        return 2 * round(self.size * FIELD_FACTOR / 2)

    def differences(self, here: Preparation) -> str:
        """What another preparation has otherwise, as in `spacing_mm 1.25, here 1.5`; empty where they are equal."""
        mine, theirs = self.model_dump(), here.model_dump()
        return ", ".join(
            f"{name} {mine[name]}, here {theirs[name]}" for name in mine if mine[name] != theirs[name]
        )


@dataclass(frozen=True)
class Window:
    """A square field of `size` pixels at `spacing_mm`, about a point of a scan's slices."""

    shape: tuple[int, int]
    """(y, x) of the scan's slices."""
    scan_spacing_mm: tuple[float, float]
    """(y, x)."""
    centre: tuple[float, float]
    """(y, x) in voxels of the scan."""
    size: int
    spacing_mm: float

    def cut(self, slices: Float[Tensor, "n c y x"]) -> Float[Tensor, "n c h w"]:
        """Slices on the window's grid: linear interpolation, averaging where pixels grow, zero outside."""
        rows, columns = (m.to(slices.device) for m in self._onto_window)
        return rows @ slices @ columns.T

    def paste(self, fields: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c y x"]:
        """Fields back on the scan's grid, zero outside the window."""
        rows, columns = (m.to(fields.device) for m in self._onto_scan)
        return rows @ fields @ columns.T

    def cut_labels(self, labels: UInt8[Tensor, "n y x"]) -> UInt8[Tensor, "n h w"]:
        """Labels on the window's grid: the value with the largest share of each pixel, background outside."""
        if not len(labels):
            return labels.new_zeros(0, self.size, self.size)
        values = torch.unique(labels)
        shares = torch.stack([self.cut((labels == v).float()[:, None])[:, 0] for v in values], dim=1)
        if not (values == 0).any():
            values, shares = (
                torch.cat([values.new_zeros(1), values]),
                torch.nn.functional.pad(shares, (0, 0, 0, 0, 1, 0)),
            )
        winner = argmax_channels(shares + 1e-6 * (values == 0)[:, None, None])
        found: Tensor = values.index_select(0, winner.flatten().int()).reshape(winner.shape)
        return found

    @property
    def inside(self) -> tuple[slice, slice]:
        """Rows and columns of the window that the scan covers; all of them where it covers none."""
        rows, columns = (m.sum(dim=1) > 0.5 for m in self._onto_window)
        return _span(rows), _span(columns)

    @cached_property
    def _onto_window(self) -> tuple[Tensor, Tensor]:
        return self._matrices(onto_window=True)

    @cached_property
    def _onto_scan(self) -> tuple[Tensor, Tensor]:
        return self._matrices(onto_window=False)

    def _matrices(self, onto_window: bool) -> tuple[Tensor, Tensor]:
        middle = (self.size - 1) / 2
        found = []
        for n, spacing, centre in zip(self.shape, self.scan_spacing_mm, self.centre, strict=True):
            step = self.spacing_mm / spacing
            if onto_window:
                found.append(_interpolation(n, self.size, step, centre - middle * step))
            else:
                found.append(_interpolation(self.size, n, 1 / step, middle - centre / step))
        return found[0], found[1]


def window_of(case: Case, preparation: Preparation, centre: tuple[float, float] | None = None) -> Window:
    """The scan's field, about `centre` (y, x) in voxels; else about its labelled heart, else its image centre."""
    y, x = case.image.shape[2:]
    if centre is None and preparation.centre == "heart":
        centre = heart_centre(case)
    return Window(
        shape=(y, x),
        scan_spacing_mm=case.spacing_mm[1:],
        centre=centre or ((y - 1) / 2, (x - 1) / 2),
        size=preparation.field,
        spacing_mm=preparation.spacing_mm,
    )


def heart_centre(case: Case) -> tuple[float, float] | None:
    """In-plane middle (y, x), in voxels, of the box around everything labelled; None where nothing is."""
    if case.labels is None:
        return None
    heart = ((case.labels > 0) & (case.labels != UNKNOWN)).any(axis=(0, 1))
    if not heart.any():
        return None
    rows, columns = (np.flatnonzero(heart.any(axis=axis)) for axis in (1, 0))
    return (rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2


def slices_of(volume: NDArray[np.float32]) -> Float[Tensor, "n 1 y x"]:
    """(t, z, y, x) as a batch of one-channel slices, frame by frame."""
    t, z, y, x = volume.shape
    return torch.from_numpy(np.ascontiguousarray(volume)).reshape(t * z, 1, y, x)


def label_slices_of(case: Case) -> UInt8[Tensor, "n y x"]:
    """The scan's labels as slices, scar and oedema folded into the myocardium; `UNKNOWN` without labels."""
    t, z, y, x = case.image.shape
    if case.labels is None:
        return torch.full((t * z, y, x), UNKNOWN, dtype=torch.uint8)
    return torch.from_numpy(fold_into_myocardium(case.labels)).reshape(t * z, y, x)


def normalise(
    fields: Float[Tensor, "n 1 h w"], window: Window, preparation: Preparation
) -> Float[Tensor, "n 1 h w"]:
    """Intensities clipped at their percentiles and put on the preparation's scale.

    Statistics are those of the part that the scan covers; outside it the lowest value stands. `per="volume"`
    takes all n slices together. A constant slice becomes 0 (`zscore`, `unit`) or -1 (`symmetric`), whatever its value.
    """
    rows, columns = window.inside
    seen = fields[:, :, rows, columns].flatten(1)
    if preparation.per == "volume":
        seen = seen.reshape(1, -1)
    ends = torch.tensor([preparation.low_percentile, preparation.high_percentile], device=fields.device) / 100
    low, high = _quantiles(seen, ends)
    shape = (-1, 1, 1, 1)
    covered = covered_pixels(window).to(fields.device)
    clipped = torch.where(covered, fields, low.reshape(shape)).clamp(low.reshape(shape), high.reshape(shape))
    if preparation.scale == "zscore":
        seen = seen.clamp(low[:, None], high[:, None])
        mean, sd = seen.mean(dim=1), seen.std(dim=1, correction=0)
        return _in_units_of(sd, clipped - mean.reshape(shape), low, high)
    unit = _in_units_of(high - low, clipped - low.reshape(shape), low, high)
    return unit if preparation.scale == "unit" else 2 * unit - 1


def stretch(images: Float[Tensor, "n 1 y x"], preparation: Preparation) -> Float[Tensor, "n 1 y x"]:
    """Images that were changed after `normalise`, on [0, 1] again: each clipped at its own percentiles.

    A constant image becomes 0. Every pixel counts, also those that the scan did not cover.
    """
    ends = torch.tensor([preparation.low_percentile, preparation.high_percentile], device=images.device) / 100
    low, high = _quantiles(images.flatten(1), ends)
    shape = (-1, 1, 1, 1)
    clipped = images.clamp(low.reshape(shape), high.reshape(shape))
    return _in_units_of(high - low, clipped - low.reshape(shape), low, high)


def crop(fields: Shaped[Tensor, "n c h w"], size: int) -> Shaped[Tensor, "n c s s"]:
    """The middle of images or labels, `size` pixels wide."""
    first = (fields.shape[-1] - size) // 2
    return fields[..., first : first + size, first : first + size]


def pad(crops: Float[Tensor, "n c s s"], size: int) -> Float[Tensor, "n c h w"]:
    """Inverse of `crop`: zeros around, `size` pixels wide."""
    before = (size - crops.shape[-1]) // 2
    after = size - crops.shape[-1] - before
    return torch.nn.functional.pad(crops, (before, after, before, after))


def covered_pixels(window: Window) -> Bool[Tensor, "h w"]:
    """True for the pixels of a window that the scan covers."""
    covered = torch.zeros(window.size, window.size, dtype=torch.bool)
    covered[window.inside] = True
    return covered


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # kept for callers of every mode: autograd refuses tensors of inference mode
def _interpolation(n_in: int, n_out: int, step: float, first: float) -> Float[Tensor, "o i"]:
    """Weights that sample n_in pixels at first, first + step, …: a triangle, widened where step > 1.

    A sample within half a pixel of the edge takes the edge; one farther out has no weights.
    """
    position = first + step * torch.arange(n_out, dtype=torch.float64)[:, None]
    index = torch.arange(n_in, dtype=torch.float64)[None]
    width = max(step, 1.0)
    held = position.clamp(0, n_in - 1) if n_in > 1 else torch.zeros_like(position)
    weights = (1 - (held - index).abs() / width).clamp_min(0)
    weights = weights / weights.sum(dim=1, keepdim=True)
    covered = (position >= -0.5 - 1e-9) & (position <= n_in - 0.5 + 1e-9)
    return (weights * covered).float()


def _span(covered: Tensor) -> slice:
    places = torch.nonzero(covered).flatten()
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(None)


def _quantiles(values: Float[Tensor, "n m"], at: Float[Tensor, " 2"]) -> tuple[Tensor, Tensor]:
    # torch.quantile refuses more than 2**24 values; every k-th of more than a million is as good.
    seen = values[:, :: max(1, values.shape[1] // 1_000_000)]
    seen = seen if seen.dtype == torch.float64 else seen.float()  # autocast may have halved it
    if seen.device.type != "cpu":
        low, high = torch.quantile(seen, at.to(seen), dim=1)
        return low, high
    # torch sorts every value, which takes a CPU ten times as long as to find these few; the numbers are the same.
    ranks = at.to(seen) * (seen.shape[1] - 1)
    below, above = ranks.floor().long(), ranks.ceil().long()
    places = sorted({*below.tolist(), *above.tolist()})
    ordered = torch.from_numpy(np.partition(seen.detach().numpy(), places, axis=1))
    found = torch.lerp(ordered[:, below], ordered[:, above], ranks - below)
    return found[:, 0], found[:, 1]


def _in_units_of(
    spread: Float[Tensor, " k"],
    difference: Float[Tensor, "n 1 h w"],
    low: Float[Tensor, " k"],
    high: Float[Tensor, " k"],
) -> Float[Tensor, "n 1 h w"]:
    """The difference over the spread (k: n or 1); 0 where that is only the rounding of values from low to high."""
    shape = (-1, 1, 1, 1)
    flat = spread <= ROUNDING * torch.maximum(low.abs(), high.abs())
    return torch.where(flat.reshape(shape), 0, difference / spread.reshape(shape))
