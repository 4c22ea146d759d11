"""Steps of a MONAI bundle around its network: a scan turned and normalised, a result turned back.

A copy of this file lies in every exported bundle as `scripts/bundle_steps.py`, beside one of
`crossbeat.geometry`, and works there without crossbeat: it may import numpy, torch, monai and that one module.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from crossbeat import geometry


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
        result = (clipped - mean) / _positive((kept - mean).square().nanmean(dim=1, keepdim=True).sqrt())
    else:
        unit = (clipped - low) / _positive(high - low)
        result = unit if scale == "unit" else 2 * unit - 1
    planes, rows, columns = fields.shape[3], fields.shape[1], fields.shape[2]
    fields[0] = result.reshape(planes, rows, columns).permute(1, 2, 0).float()
    return fields


def _positive(values: Any) -> Any:
    return torch.where(values > 1e-8, values, torch.ones_like(values))
