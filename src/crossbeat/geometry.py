"""Where voxels lie in the patient: affines, spacings, and the turn from a file's axes to ours.

An affine maps voxel (x, y, z, 1) to NIfTI's RAS+ millimetres, x being the last axis of our (t, z, y, x)
arrays. Spacings are (z, y, x) in mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]

# Directions, in RAS+, that x, y and z of our arrays look along as nearly as the file allows: the patient's
# left, then down-and-back, then up (radiological display). The small terms break ties.
_LOOK = np.array([[-1.0, 0.02, 0.01], [0.01, -0.71, -0.70], [0.005, -0.01, 1.0]])


@dataclass(frozen=True)
class Turn:
    """A permutation and flips that take a file's (i, j, k) array to our (z, y, x), and back exactly."""

    axes: tuple[int, int, int]
    """File axis that becomes z, y, x."""
    flips: tuple[bool, bool, bool]
    """Whether z, y, x then run backwards."""

    def apply(self, volume: NDArray[np.generic]) -> NDArray[np.generic]:
        """(i, j, k) to (z, y, x)."""
        return volume.transpose(self.axes)[self._slices()]

    def undo(self, volume: NDArray[np.generic]) -> NDArray[np.generic]:
        """(z, y, x) back to (i, j, k)."""
        return volume[self._slices()].transpose(np.argsort(self.axes))

    def affine(self, file_affine: Affine, shape: tuple[int, int, int]) -> Affine:
        """The affine of the turned array, in our (x, y, z) order; `shape` is the file's (i, j, k)."""
        step = np.zeros((4, 4))
        step[3, 3] = 1
        for ours, (axis, flip) in enumerate(zip(self.axes[::-1], self.flips[::-1], strict=True)):
            step[axis, ours] = -1 if flip else 1
            if flip:
                step[axis, 3] = shape[axis] - 1
        return np.asarray(file_affine, np.float64) @ step

    def _slices(self) -> tuple[slice, slice, slice]:
        z, y, x = (slice(None, None, -1) if flip else slice(None) for flip in self.flips)
        return z, y, x


def find_turn(affine: Affine, shape: tuple[int, int, int]) -> Turn:
    """The turn for a file of this affine and (i, j, k) shape: the same scan gives the same array, however stored.

    z is the through-plane axis: the one whose spacing differs from the two others, which agree; where all
    agree within 10 %, the one with the fewest voxels; where these tie too, the one nearest to the patient's
    long axis. Of the four ways to lay x and y the one nearest to radiological display is taken.
    """
    spacing = column_lengths(affine)
    directions = affine[:3, :3] / spacing
    through = _through_plane(spacing, shape, directions)
    best: tuple[float, Turn] | None = None
    for axes in permutations(range(3)):
        if axes[0] != through:
            continue
        for flips in product((False, True), repeat=3):
            columns = [directions[:, a] * (-1 if f else 1) for a, f in zip(axes, flips, strict=True)]
            score = float(sum(_LOOK[2 - k] @ columns[k] for k in range(3)))
            if best is None or score > best[0] + 1e-9:
                best = score, Turn((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))
    assert best is not None
    return best[1]


def column_lengths(affine: Affine) -> NDArray[np.float64]:
    """Length in mm of one step along each voxel axis, in the affine's own order."""
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0), np.float64)


def spacing_mm(affine: Affine) -> tuple[float, float, float]:
    """(z, y, x) spacing of an affine of ours; along z the distance between slices, gap included."""
    x, y, z = column_lengths(affine).tolist()
    return z, y, x


def orthogonality_error(affine: Affine) -> float:
    """Largest cosine between two different voxel axes: 0 for a right-angled grid."""
    directions = affine[:3, :3] / column_lengths(affine)
    return float(np.abs(directions.T @ directions - np.eye(3)).max())


def nearest_rotation(affine: Affine) -> Affine:
    """The affine with its directions replaced by the nearest right-angled ones (polar decomposition)."""
    lengths = column_lengths(affine)
    u, _, vt = np.linalg.svd(affine[:3, :3] / lengths)
    repaired = np.array(affine, np.float64)
    repaired[:3, :3] = (u @ vt) * lengths
    return repaired


def voxel_to_mm(affine: Affine, zyx: NDArray[np.floating]) -> NDArray[np.float64]:
    """RAS+ mm of points given as (…, 3) voxel indices in (z, y, x) order."""
    return np.asarray(np.asarray(zyx)[..., ::-1] @ affine[:3, :3].T + affine[:3, 3], np.float64)


def mm_to_voxel(affine: Affine, points_mm: NDArray[np.floating]) -> NDArray[np.float64]:
    """Inverse of `voxel_to_mm`: (…, 3) voxel indices in (z, y, x) order."""
    inverse = np.linalg.inv(affine)
    return np.asarray((np.asarray(points_mm) @ inverse[:3, :3].T + inverse[:3, 3])[..., ::-1], np.float64)


def normal(affine: Affine) -> NDArray[np.float64]:
    """Unit vector across the slices: the in-plane axes' cross product, signed to run with z."""
    cross = np.cross(affine[:3, 0], affine[:3, 1])
    cross = cross / np.linalg.norm(cross)
    return np.asarray(cross if cross @ affine[:3, 2] >= 0 else -cross, np.float64)


def slice_positions_mm(affine: Affine, slices: int) -> NDArray[np.float64]:
    """Position of each slice along `normal`, in mm of the patient: comparable between scans cut alike."""
    n = normal(affine)
    return np.asarray([n @ (affine[:3, 2] * z + affine[:3, 3]) for z in range(slices)], np.float64)


def _through_plane(
    spacing: NDArray[np.float64], shape: tuple[int, int, int], directions: NDArray[np.float64]
) -> int:
    def closeness(k: int) -> float:
        a, b = (spacing[i] for i in range(3) if i != k)
        return float(abs(np.log(a / b)))

    if spacing.max() / spacing.min() > 1.1:
        return min(range(3), key=lambda k: (round(closeness(k), 6), -spacing[k]))
    fewest = min(shape)
    if sum(n == fewest for n in shape) == 1:
        return shape.index(fewest)
    candidates = [k for k in range(3) if shape[k] == fewest] if fewest != max(shape) else [0, 1, 2]
    return max(candidates, key=lambda k: float(abs(_LOOK[2] @ directions[:, k])))
