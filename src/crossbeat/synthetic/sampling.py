"""Slices through the phantom: how much of each tissue every voxel holds, by supersampling.

Every voxel gets `IN_PLANE` x `IN_PLANE` x n samples, n so many that they lie at most 2 mm apart across the
slice; only where the corners of a voxel, at every depth, hold one and the same tissue are its inner samples
taken to hold it too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from crossbeat.geometry import Affine
from crossbeat.synthetic.tissue import Tissue

IN_PLANE: Final = 4
"""Samples along each side of a voxel.

With 4 the shares of cavities and wall are within 0.04 (RMS over mixed voxels) of those of 8 a side and 0.5 mm across,
those of every other tissue within 0.08; worst are thin sheets that lie in the slice.
"""
THROUGH_PLANE_MM: Final = 2.0
_CHUNK: Final = 1 << 16  # points at a time: some 256 kB an array, in the cache; measured best of 2^14 to 2^17

Points = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
Classify = Callable[[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]], NDArray[np.uint8]]
"""`Tissue` at RAS+ x, y and z."""


@dataclass(frozen=True)
class Slice:
    """One slice in the patient: voxel (y, x) has its centre at origin + y * down + x * right, RAS+ mm."""

    origin_mm: NDArray[np.float64]
    right_mm: NDArray[np.float64]
    down_mm: NDArray[np.float64]
    normal: NDArray[np.float64]
    shape: tuple[int, int]
    thickness_mm: float

    @property
    def depths_mm(self) -> NDArray[np.float64]:
        """Where along the normal the samples lie."""
        n = max(1, int(np.ceil(self.thickness_mm / THROUGH_PLANE_MM)))
        return ((np.arange(n) + 0.5) / n - 0.5) * self.thickness_mm

    def points_mm(
        self, rows: NDArray[Any], columns: NDArray[Any], depth_mm: NDArray[Any] | float = 0.0
    ) -> Points:
        """RAS+ mm x, y and z of fractional voxel indices that broadcast against each other."""
        y, x, d = (np.asarray(v, np.float32) for v in (rows, columns, depth_mm))
        steps = [v.astype(np.float32) for v in (self.down_mm, self.right_mm, self.normal, self.origin_mm)]
        px, py, pz = (
            y * down + o + d * normal + x * right for down, right, normal, o in zip(*steps, strict=True)
        )
        return px, py, pz

    def centres_mm(self) -> Points:
        """RAS+ mm of the voxels, each (y, x)."""
        return self.points_mm(np.arange(self.shape[0])[:, None], np.arange(self.shape[1])[None, :])

    def window(self, points_mm: NDArray[np.float64]) -> tuple[slice, slice]:
        """Rows and columns that the points' shadow on the slice covers, cut to the slice."""
        local = points_mm - self.origin_mm
        found = []
        for step, size in ((self.down_mm, self.shape[0]), (self.right_mm, self.shape[1])):
            index = local @ step / (step @ step)
            low, high = int(np.floor(index.min())), int(np.ceil(index.max())) + 1
            found.append(slice(min(max(low, 0), size), max(min(high, size), 0)))
        return found[0], found[1]

    def moved(self, shift_mm: NDArray[np.float64]) -> Slice:
        """The same slice elsewhere in the patient."""
        return Slice(
            self.origin_mm + shift_mm, self.right_mm, self.down_mm, self.normal, self.shape, self.thickness_mm
        )


@dataclass(frozen=True)
class Mixture:
    """Tissue of each voxel of a slice, and the shares of those voxels that hold several."""

    tissue: NDArray[np.uint8]
    """(y, x) the tissue of the pure voxels; of mixed ones any of theirs."""
    mixed: NDArray[np.int64]
    """(m,) flat indices of the mixed voxels."""
    shares: NDArray[np.float32]
    """(m, tissue), summing to 1."""

    def fractions(self) -> NDArray[np.float32]:
        """(tissue, y, x) shares of all voxels."""
        dense = np.zeros((len(Tissue), self.tissue.size), np.float32)
        dense[self.tissue.ravel(), np.arange(self.tissue.size)] = 1
        dense[:, self.mixed] = self.shares.T
        return dense.reshape(len(Tissue), *self.tissue.shape)

    def labels(self, label_of_tissue: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(y, x) the label that most of each voxel has; of equal ones the lower value."""
        labels = label_of_tissue[self.tissue].ravel()
        kinds = np.unique(label_of_tissue[: len(Tissue)])
        membership = label_of_tissue[: len(Tissue)][:, None] == kinds[None, :]
        labels[self.mixed] = kinds[
            np.argmax(np.einsum("mt,tk->mk", self.shares, membership.astype(np.float32)), axis=1)
        ]
        return labels.reshape(self.tissue.shape)

    def signal(self, table: NDArray[np.float32]) -> NDArray[np.float32]:
        """(y, x) signal of a table (tissue,), mixed linearly in the shares."""
        out = table[self.tissue].ravel()
        out[self.mixed] = np.einsum("mt,t->m", self.shares, table)
        return out.reshape(self.tissue.shape)

    def signal_by(self, table: NDArray[np.float32], column: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """(y, x) signal of a table (tissue, frequency), each voxel (y, x) at its own column."""
        out = table[self.tissue, column].ravel()
        out[self.mixed] = np.einsum("mt,tm->m", self.shares, table[:, column.ravel()[self.mixed]])
        return np.asarray(out.reshape(self.tissue.shape), np.float32)

    def with_window(self, rows: slice, columns: slice, part: Mixture) -> Mixture:
        """This mixture with a window of it replaced by another."""
        tissue = self.tissue.copy()
        tissue[rows, columns] = part.tissue
        y, x = np.divmod(self.mixed, tissue.shape[1])
        kept = ~((y >= rows.start) & (y < rows.stop) & (x >= columns.start) & (x < columns.stop))
        py, px = np.divmod(part.mixed, max(part.tissue.shape[1], 1))
        moved = (py + rows.start) * tissue.shape[1] + px + columns.start
        return Mixture(
            tissue,
            np.concatenate([self.mixed[kept], moved]),
            np.concatenate([self.shares[kept], part.shares]),
        )


def mix(classify: Classify, cut: Slice, rows: slice, columns: slice, in_plane: int = IN_PLANE) -> Mixture:
    """Tissue shares of a window of a slice."""
    height, width = rows.stop - rows.start, columns.stop - columns.start
    if height <= 0 or width <= 0:
        return Mixture(
            np.zeros((max(height, 0), max(width, 0)), np.uint8),
            np.zeros(0, np.int64),
            np.zeros((0, len(Tissue)), np.float32),
        )
    depths = cut.depths_mm
    y = np.arange(rows.start, rows.stop + 1)[:, None] - 0.5
    x = np.arange(columns.start, columns.stop + 1)[None, :] - 0.5
    layers = _classify(classify, cut, y, x, depths)
    low, high = reduce(np.minimum, layers), reduce(np.maximum, layers)
    low = np.minimum(np.minimum(low[:-1, :-1], low[1:, :-1]), np.minimum(low[:-1, 1:], low[1:, 1:]))
    high = np.maximum(np.maximum(high[:-1, :-1], high[1:, :-1]), np.maximum(high[:-1, 1:], high[1:, 1:]))
    mixed = np.flatnonzero(low != high)
    shares = _shares(
        classify, cut, mixed // width + rows.start, mixed % width + columns.start, depths, in_plane
    )
    return Mixture(low, mixed, shares)


def mix_around(classify: Classify, cut: Slice, rows: slice, columns: slice) -> Mixture:
    """Tissue shares of a whole slice but for a window, which stays empty, to be filled by `with_window`."""
    height, width = cut.shape
    whole = Mixture(
        np.zeros(cut.shape, np.uint8), np.zeros(0, np.int64), np.zeros((0, len(Tissue)), np.float32)
    )
    for r, c in (
        (slice(0, rows.start), slice(0, width)),
        (slice(rows.stop, height), slice(0, width)),
        (rows, slice(0, columns.start)),
        (rows, slice(columns.stop, width)),
    ):
        whole = whole.with_window(r, c, mix(classify, cut, r, c))
    return whole


def sax_affine(cut: Slice, step_mm: NDArray[np.float64]) -> Affine:
    """Affine of a stack whose first slice is `cut` and whose next one lies `step_mm` further."""
    affine = np.eye(4)
    affine[:3, :3] = np.stack([cut.right_mm, cut.down_mm, step_mm], axis=1)
    affine[:3, 3] = cut.origin_mm
    return affine


def _shares(
    classify: Classify,
    cut: Slice,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    depths: NDArray[np.float64],
    in_plane: int,
) -> NDArray[np.float32]:
    offsets = (np.arange(in_plane) + 0.5) / in_plane - 0.5
    dy, dx, dz = (v.ravel() for v in np.meshgrid(offsets, offsets, depths, indexing="ij"))
    shares = np.zeros((rows.size, len(Tissue)), np.float32)
    step = max(1, _CHUNK // dy.size)
    for start in range(0, rows.size, step):
        part = slice(start, start + step)
        points = cut.points_mm(rows[part, None] + dy, columns[part, None] + dx, dz)
        kinds = classify(*points).astype(np.int64)
        kinds += np.arange(kinds.shape[0])[:, None] * len(Tissue)
        counts = np.bincount(kinds.ravel(), minlength=kinds.shape[0] * len(Tissue))
        shares[part] = counts.reshape(-1, len(Tissue)) / np.float32(dy.size)
    return shares


def _classify(
    classify: Classify, cut: Slice, y: NDArray[Any], x: NDArray[Any], depths: NDArray[np.float64]
) -> list[NDArray[np.uint8]]:
    """Tissue at all nodes of each depth, a few rows at a time so that the work stays in the cache."""
    step = max(1, _CHUNK // x.size)
    return [
        np.concatenate([classify(*cut.points_mm(y[k : k + step], x, depth)) for k in range(0, y.size, step)])
        for depth in depths.tolist()
    ]
