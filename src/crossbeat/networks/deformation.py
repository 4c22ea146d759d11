"""Displacement fields: images are warped by them, velocities integrated to them; nothing here is learned.

A displacement u lives on the fixed grid, in voxels of that grid, its channels in axis order, (y, x) or
(z, y, x): moved(p) = moving(p + u(p)). So what is carried from frame a to frame b is warped by the field that
was registered with a as moving and b as fixed; the reversed field deforms it the wrong way (methods.md 2.1).
Two channels on a grid (z, y, x) are an in-plane field: every slice moves in its own plane. All is computed in
float32 at least, also under autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crossbeat.errors import SettingsError
from crossbeat.networks.precision import precise

Outside = Literal["border", "zeros"]


def warp(
    images: Float[Tensor, "n c *grid"],
    displacement: Float[Tensor, "n d *grid"],
    *,
    outside: Outside = "border",
) -> Float[Tensor, "n c *grid"]:
    """The images as seen from the displaced places, linear between voxels: moved(p) = moving(p + u(p)).

    Beyond the image lies its nearest voxel (`border`) or nothing (`zeros`). An in-plane field never mixes
    slices. Other numbers of channels than the grid has axes raise `SettingsError`.
    """
    images, displacement = precise(images), precise(displacement)
    if not _is_in_plane(displacement):
        return _sample(images, displacement, outside)
    moved = _sample(_fold_slices(images), _fold_slices(displacement), outside)
    return _unfold_slices(moved, len(images))


def integrate(velocity: Float[Tensor, "n d *grid"], steps: int = 7) -> Float[Tensor, "n d *grid"]:
    """The displacement after one unit of time in a velocity that stands still (Arsigny 2006, scaling and squaring).

    The velocity over 2^steps is taken for the displacement of a short while, and composed with itself
    `steps` times; 0 steps give the velocity itself. The integral of -v is the inverse of that of v.
    """
    velocity = precise(velocity)
    in_plane = _is_in_plane(velocity)
    displacement = (_fold_slices(velocity) if in_plane else velocity) / 2**steps
    centres = _centres(displacement)
    for _ in range(steps):
        displacement = displacement + _sample(displacement, displacement, "border", centres)
    return _unfold_slices(displacement, len(velocity)) if in_plane else displacement


def compose(
    first: Float[Tensor, "n d *grid"], then: Float[Tensor, "n d *grid"]
) -> Float[Tensor, "n d *grid"]:
    """One displacement for two warps: an image warped by `first`, and its result warped by `then`.

    warp(warp(image, first), then) = warp(image, compose(first, then)), but for the interpolation: a place p
    looks at p + then(p), which looks from there by `first`. With fields of ED → t1 as `first` and t1 → t2 as
    `then` it carries labels from ED to t2.
    """
    return precise(then) + warp(first, then)


def resize_field(field: Float[Tensor, "n d *grid"], size: Sequence[int]) -> Float[Tensor, "n d *new"]:
    """The field on a grid of that size over the same field of view, its values in voxels of the new grid.

    Linear between voxel centres; beyond the outermost ones the value is theirs. Halving an even side averages
    neighbours. A component is scaled with the length of its own axis, so an in-plane one never by z.
    """
    field = precise(field)
    old, new = tuple(field.shape[2:]), tuple(size)
    ratios = [b / a for a, b in zip(old, new, strict=True)][-_components(field) :]
    if old == new:
        return field
    if _is_in_plane(field) and old[0] == new[0]:
        planes = F.interpolate(_fold_slices(field), new[1:], mode="bilinear", align_corners=False)
        resized = _unfold_slices(planes, len(field))
    else:
        mode = "bilinear" if len(new) == 2 else "trilinear"
        resized = F.interpolate(field, new, mode=mode, align_corners=False)
    # Numbers of Python, not a tensor made of them: that would be copied to the device and waited for.
    return torch.stack([part * ratio for part, ratio in zip(resized.unbind(1), ratios, strict=True)], dim=1)


def jacobian_determinant(displacement: Float[Tensor, "n d *grid"]) -> Float[Tensor, " n *grid"]:
    """By how much the warp's p → p + u(p) enlarges each voxel: 1 at rest, negative where it folds.

    The determinant of I + grad u, by central differences, one-sided at the border: exact for affine maps.
    An axis of one voxel has no slope. It compares the place looked at with the place looked from, so tissue
    that shrinks from moving to fixed has determinants above 1.
    """
    u = precise(displacement)
    d = _components(u)
    axes = range(u.ndim - d, u.ndim)
    rows = [[_slope(u[:, i], axis - 1) + float(i == j) for j, axis in enumerate(axes)] for i in range(d)]
    return _determinant(rows)


def _components(field: Tensor) -> int:
    axes, d = field.ndim - 2, field.shape[1]
    if axes not in (2, 3) or d not in (2, axes):
        raise SettingsError(
            f"displacement: needs channels (y, x) or (z, y, x) on a grid of as many axes, or (y, x) on (z, y, x), "
            f"got {d} channels on {axes} axes"
        )
    return d


def _is_in_plane(field: Tensor) -> bool:
    return _components(field) < field.ndim - 2


def _fold_slices(volumes: Tensor) -> Tensor:
    """(n c z y x) as slices (n·z c y x)."""
    return volumes.transpose(1, 2).flatten(0, 1)


def _unfold_slices(slices: Tensor, volumes: int) -> Tensor:
    return slices.view(volumes, -1, *slices.shape[1:]).transpose(1, 2)


def _sample(
    images: Tensor, displacement: Tensor, outside: Outside, centres: Sequence[Tensor] | None = None
) -> Tensor:
    """`warp` for as many components as axes; who samples often on one grid brings its `_centres`."""
    sides = images.shape[2:]
    places = [
        torch.add(centre, displacement[:, axis], alpha=2 / sides[axis])
        for axis, centre in enumerate(centres or _centres(displacement))
    ]
    return F.grid_sample(
        images,
        torch.stack(places[::-1], dim=-1),  # PyTorch wants x first
        mode="bilinear",
        padding_mode=outside,
        align_corners=False,
    )


def _centres(field: Tensor) -> list[Tensor]:
    """Where the voxels lie along each axis, in PyTorch's units: -1 and 1 are the outer edges of the image."""
    sides = field.shape[2:]
    return [
        ((torch.arange(side, dtype=field.dtype, device=field.device) * 2 + 1) / side - 1).view(
            -1, *(1 for _ in sides[axis + 1 :])
        )
        for axis, side in enumerate(sides)
    ]


def _slope(values: Tensor, axis: int) -> Tensor:
    if values.shape[axis] == 1:
        return torch.zeros_like(values)
    return torch.gradient(values, dim=axis)[0]


def _determinant(rows: list[list[Tensor]]) -> Tensor:
    if len(rows) == 2:
        (a, b), (c, d) = rows
        return a * d - b * c
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
