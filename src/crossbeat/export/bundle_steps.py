"""Steps of a MONAI bundle around its network: a scan turned, centred and normalised, a result turned back.

A copy of this file lies in every exported bundle as `scripts/bundle_steps.py`, beside one of
`crossbeat.geometry`, and works there without crossbeat: it may import numpy, scipy, torch, monai and that
one module. All of it is tested against `crossbeat.prepare` and `crossbeat.segmenter`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Final

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.croppad.array import ResizeWithPadOrCrop
from monai.transforms.inverse import InvertibleTransform
from monai.transforms.transform import MapTransform
from scipy import ndimage
from torch.nn import functional as F

from crossbeat import geometry

WALK: Final = 6  # steps at most in which the window finds the heart, as in crossbeat.segmenter


def turn(image: Any) -> Any:
    """A scan (1, i, j, k) as it is stored, laid as the network knows it: (1, y, x, z)."""
    if image.ndim != 4:
        raise ValueError(
            f"scan: (channel, i, j, k) is needed, one 3-D frame, got shape {tuple(image.shape)}; split the cine"
        )
    affine, shape = np.asarray(image.affine, np.float64), tuple(image.shape[1:])
    found = geometry.find_turn(affine, shape)
    laid = found.apply(np.asarray(image[0], np.float32)).transpose(1, 2, 0)
    turned = torch.from_numpy(found.affine(affine, shape)[:, [1, 0, 2, 3]])
    meta = {**image.meta, "affine": turned, "stored_affine": affine, "stored_shape": shape}
    return MetaTensor(np.ascontiguousarray(laid)[None], meta=meta)


def turn_back(result: Any) -> Any:
    """Inverse of `turn`, for any number of channels: (k, y, x, z) to (k, i, j, k) as the scan is stored."""
    affine, shape = np.asarray(result.meta["stored_affine"]), tuple(result.meta["stored_shape"])
    found = geometry.find_turn(affine, shape)
    channels = [found.undo(np.asarray(c).transpose(2, 0, 1)) for c in result]
    return MetaTensor(np.stack(channels), meta={**result.meta, "affine": torch.from_numpy(affine)})


def name(classes: Any, values: list[int]) -> Any:
    """Classes 0 to k-1 turned into the values that stand for them in label maps, any shape."""
    return MetaTensor(torch.tensor(values)[classes.as_tensor().long()], meta=classes.meta)


def normalise(fields: Any, low_percentile: float, high_percentile: float, scale: str, per: str) -> Any:
    """Intensities (1, y, x, z) clipped at their percentiles and put on a scale: zscore, unit or symmetric.

    nan marks what the scan does not cover: it counts nowhere, and gets the lowest value. A constant slice
    becomes 0 (zscore, unit) or -1 (symmetric).
    """
    slices = fields[0].permute(2, 0, 1).flatten(1).double()
    seen = slices.reshape(1, -1) if per == "volume" else slices
    at = torch.tensor([low_percentile, high_percentile], dtype=seen.dtype) / 100
    low, high = torch.from_numpy(np.nanquantile(np.asarray(seen), at.numpy(), axis=1, keepdims=True))
    clipped = torch.where(slices.isnan(), low, slices).clamp(low, high)
    if scale == "zscore":
        kept = seen.clamp(low, high)
        mean = kept.nanmean(dim=1, keepdim=True)
        sd = (kept - mean).square().nanmean(dim=1, keepdim=True).sqrt()
        result = _in_units_of(sd, clipped - mean, low, high)
    else:
        unit = _in_units_of(high - low, clipped - low, low, high)
        result = unit if scale == "unit" else 2 * unit - 1
    planes, rows, columns = fields.shape[3], fields.shape[1], fields.shape[2]
    fields[0] = result.reshape(planes, rows, columns).permute(1, 2, 0).float()
    return fields


class CentreHeartd(MapTransform, InvertibleTransform):
    """Pads scans (1, y, x, z) with nan until the heart lies in the middle; its inverse cuts the padding off.

    The heart is found as crossbeat finds it: from the middle of the image the window walks to what the
    network sees in the stack's middle half, until it stands still.
    """

    def __init__(self, keys: Any, network: Any, size: int, field: int, scale: Mapping[str, Any]) -> None:
        super().__init__(keys)
        self.network = network
        self.size = size
        self.scale = dict(scale)
        self.cut_field = ResizeWithPadOrCrop((field, field, -1), value=float("nan"))
        self.cut_size = ResizeWithPadOrCrop((size, size, -1))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        found = dict(data)
        for key in self.key_iterator(found):
            offset = self.find(found[key])
            centred = MetaTensor(_move_middle(found[key].as_tensor(), offset), meta=found[key].meta)
            centred.applied_operations = found[key].applied_operations
            self.push_transform(centred, extra_info={"offset": offset})  # type: ignore[no-untyped-call]
            found[key] = centred
        return found

    def inverse(self, data: Any) -> dict[Hashable, Any]:
        found = dict(data)
        for key in self.key_iterator(found):
            offset = self.pop_transform(found[key])["extra_info"]["offset"]
            cuts = [(max(-2 * step, 0), max(2 * step, 0)) for step in offset]
            (top, bottom), (left, right) = cuts
            whole = found[key]
            found[key] = whole[:, top : whole.shape[1] - bottom, left : whole.shape[2] - right]
        return found

    @torch.no_grad()
    def find(self, image: Any) -> tuple[int, int]:
        """Rows and columns from the middle of the image to that of the heart; (0, 0) where none is seen."""
        z = image.shape[3]
        stack = image.as_tensor()[..., z // 4 : max(z - z // 4, z // 4 + 1)]
        offset = (0, 0)
        for _ in range(WALK):
            step = self._see(torch.as_tensor(self.cut_field(_move_middle(stack, offset))))
            if step is None:
                return 0, 0
            offset = (offset[0] + round(step[0]), offset[1] + round(step[1]))
            if max(abs(s) for s in step) < 2:
                break
        return offset

    def _see(self, fields: Any) -> tuple[float, float] | None:
        crops = torch.as_tensor(self.cut_size(normalise(fields, **self.scale))).permute(3, 0, 1, 2)
        found = self.network(crops.to(next(self.network.parameters()).device))
        shares = found[:, 1:].sum(dim=1).mean(dim=0).cpu().numpy()
        parts, count = ndimage.label(shares > 0.5 * float(shares.max()))
        if not count or shares.max() < 0.1:
            return None
        masses = ndimage.sum_labels(shares, parts, range(1, count + 1))
        row, column = ndimage.center_of_mass(shares, parts, int(np.argmax(masses)) + 1)
        return row - (self.size - 1) / 2, column - (self.size - 1) / 2


def _move_middle(image: Any, offset: tuple[int, int]) -> Any:
    """Padded on one side an axis by twice the offset, so that the middle moves by it."""
    (top, bottom), (left, right) = [(max(-2 * step, 0), max(2 * step, 0)) for step in offset]
    return F.pad(image, (0, 0, left, right, top, bottom), value=float("nan"))


def _in_units_of(spread: Any, difference: Any, low: Any, high: Any) -> Any:
    """As in crossbeat: 0 where the spread is only the rounding of values from low to high."""
    flat = spread <= 4e-6 * torch.maximum(low.abs(), high.abs())
    return torch.where(flat, 0, difference / spread)
