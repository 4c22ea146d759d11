"""Two masks in, the distances between their surfaces out: Hausdorff, its 95th percentile, the average.

`surface_distances` does the work once; the four metrics read its record. Lengths are in the unit of the
spacing: mm, or voxels for a spacing of ones.

A surface voxel is a voxel of the mask with a face neighbour outside it; outside the array counts as
outside, so the first and the last slice of a stack are surface altogether. Distances run between voxel
centres. MONAI defines it so too; `surface-distance` (DeepMind) lays the surface between voxels and weights
its elements by area, so its percentiles and averages differ, and its Hausdorff distance by about a voxel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from crossbeat.metrics.overlap import Mask, Status, check_masks

Distances = NDArray[np.float64]

_VOXELS_PER_POINT = 5
"""A distance transform costs about 60 ns a voxel of the box, a search tree 0.6 µs a surface point (measured)."""


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """For every surface voxel of one mask the distance to the other's surface, both ways.

    Both arrays are empty unless `status` is `ok`; then the metrics are nan (`undefined`) or `diagonal`
    (`missed`).
    """

    predicted_to_reference: Distances
    reference_to_predicted: Distances
    diagonal: float
    """Corner to corner of the image: longer than any distance between two of its voxels."""
    status: Status


def surface_distances(
    predicted: Mask,
    reference: Mask,
    spacing_mm: Sequence[float],
    image_shape: Sequence[int] | None = None,
) -> SurfaceDistances:
    """How far the surfaces of two masks lie apart, voxel by voxel, in both directions.

    Masks are (z, y, x) with a (z, y, x) spacing, or (y, x) with (y, x). `image_shape` is the shape of the
    whole image where the masks were cut out of it; only the diagonal depends on it. The work is confined
    to the box that holds both masks, which changes no distance.
    """
    check_masks(predicted, reference)
    if len(spacing_mm) != predicted.ndim or min(spacing_mm) <= 0:
        raise ValueError(
            f"a {predicted.ndim}-D mask needs {predicted.ndim} positive spacings, got {spacing_mm}"
        )
    diagonal = diagonal_mm(image_shape or predicted.shape, spacing_mm)
    box = bounding_box(predicted | reference)
    if box is None:
        return SurfaceDistances(_NONE, _NONE, diagonal, "undefined")
    ours, theirs = surface(predicted[box]), surface(reference[box])
    if not ours.any() or not theirs.any():
        return SurfaceDistances(_NONE, _NONE, diagonal, "missed")
    measure = _by_transform if _transform_is_faster(ours, theirs) else _by_tree
    return SurfaceDistances(
        measure(ours, theirs, spacing_mm), measure(theirs, ours, spacing_mm), diagonal, "ok"
    )


def hausdorff(distances: SurfaceDistances) -> float:
    """Hausdorff distance: the farthest that any surface voxel of one mask lies from the other's surface.

    nan where both masks are empty, the image diagonal where one is.
    """
    if distances.status != "ok":
        return _without_surface(distances)
    return float(max(distances.predicted_to_reference.max(), distances.reference_to_predicted.max()))


def hausdorff95(distances: SurfaceDistances) -> float:
    """HD95: the larger of the two directed 95th percentiles (linear interpolation between ranks).

    This is MONAI's and surface-distance's definition; `hausdorff95_pooled` is the other one in use.
    nan where both masks are empty, the image diagonal where one is.
    """
    if distances.status != "ok":
        return _without_surface(distances)
    directed = (distances.predicted_to_reference, distances.reference_to_predicted)
    return float(max(np.percentile(d, 95) for d in directed))


def hausdorff95_pooled(distances: SurfaceDistances) -> float:
    """HD95 as medpy has it: the 95th percentile of both directions' distances thrown together.

    nan where both masks are empty, the image diagonal where one is.
    """
    if distances.status != "ok":
        return _without_surface(distances)
    return float(np.percentile(_pooled(distances), 95))


def assd(distances: SurfaceDistances) -> float:
    """Average symmetric surface distance: the mean over the surface voxels of both masks together.

    nan where both masks are empty, the image diagonal where one is.
    """
    if distances.status != "ok":
        return _without_surface(distances)
    return float(_pooled(distances).mean())


def diagonal_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Length of the image from corner to corner: what a missed structure gets as its distance."""
    return math.hypot(*(n * step for n, step in zip(shape, spacing_mm, strict=True)))


def surface(mask: Mask) -> Mask:
    """Voxels of a mask that have a face neighbour outside it; outside the array is outside."""
    padded = np.pad(mask, 1)
    inner = mask.copy()
    for axis in range(mask.ndim):
        for start in (0, 2):
            neighbour = [slice(1, -1)] * mask.ndim
            neighbour[axis] = slice(start, start + mask.shape[axis])
            inner &= padded[tuple(neighbour)]
    return mask & ~inner


def bounding_box(mask: Mask) -> tuple[slice, ...] | None:
    """The smallest box of slices that holds a mask; None where it is empty."""
    box = [slice(None)] * mask.ndim
    for axis in reversed(range(mask.ndim)):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        hit = np.flatnonzero(mask[tuple(box)].any(axis=others))
        if not hit.size:
            return None
        box[axis] = slice(int(hit[0]), int(hit[-1]) + 1)
    return tuple(box)


_NONE: Distances = np.zeros(0)


def _without_surface(distances: SurfaceDistances) -> float:
    return distances.diagonal if distances.status == "missed" else float("nan")


def _pooled(distances: SurfaceDistances) -> Distances:
    return np.concatenate((distances.predicted_to_reference, distances.reference_to_predicted))


def _transform_is_faster(a: Mask, b: Mask) -> bool:
    return a.size <= _VOXELS_PER_POINT * int(np.count_nonzero(a) + np.count_nonzero(b))


def _by_transform(from_surface: Mask, to_surface: Mask, spacing: Sequence[float]) -> Distances:
    everywhere = ndimage.distance_transform_edt(~to_surface, sampling=spacing)
    return np.asarray(everywhere[from_surface], np.float64)


def _by_tree(from_surface: Mask, to_surface: Mask, spacing: Sequence[float]) -> Distances:
    tree = cKDTree(np.argwhere(to_surface) * spacing, balanced_tree=False, compact_nodes=False)
    found, _ = tree.query(np.argwhere(from_surface) * spacing)
    return np.asarray(found, np.float64)
