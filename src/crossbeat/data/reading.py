"""Rows of a cohort.csv become Cases, and written label maps come back as arrays.

The contract of the columns `image`, `labels`, `convention` and `structures` lives here, and nowhere else.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbeat import geometry
from crossbeat.case import Case
from crossbeat.cohort import Reader, Row
from crossbeat.data.nifti import Info, Volume, on_our_axes, read_info, read_volume
from crossbeat.errors import CaseError, FileError, GeometryWarning
from crossbeat.labels import CONVENTIONS, UNKNOWN, Convention, Structure, find_convention, translate

_SAME: Final = 0.02  # voxels: what float32 headers and printed decimals lose over a field of 500 voxels
_ROUNDED: Final = 0.5  # voxels: beyond half a voxel a label belongs to the neighbour
_LONGEST_FRAME_MS: Final = (
    250.0  # a real-time frame takes up to 200 ms; ITK writes 1 s where it knows nothing
)
_NO_IMAGE: Final = "names no image file; write one, or several 3-D ones separated by `;`"
_PARTS_OF_WALL: Final = frozenset({Structure.SCAR, Structure.EDEMA})


class Grid(NamedTuple):
    """Where a scan's voxels lie, without their values."""

    scan: str
    shape: tuple[int, ...]
    """(t, z, y, x)."""
    affine: geometry.Affine


def reader(folder: Path, conventions: Mapping[str, Convention]) -> Reader:
    """The function that reads a row of the cohort.csv in `folder`, knowing the user's own `conventions`.

    Frame times follow the row's `frame_interval_ms`, else that in the header of a 4-D file where it can be one.
    Hand it to `cohort.read_cohort`. It raises `FileError`, `CaseError`, `CohortError` or `SettingsError`,
    each naming the file or the scan.
    """

    def read(row: Row) -> Case:
        image = read_image(row, folder)
        labels, drawn = _read_row_labels(row, folder, conventions, image)
        interval = _interval_ms(row, image)
        return Case(
            id=row.scan,
            subject=row.subject,
            image=image.array,
            affine=image.affine,
            domain=row.domain,
            labels=labels,
            drawn=drawn,
            frame_times_ms=None
            if interval is None
            else np.arange(len(image.array), dtype=np.float64) * interval,
        )

    return read


def read_image(row: Row, folder: Path) -> Volume:
    """The row's image (t, z, y, x): one 3-D or 4-D file, or 3-D files that are the frames, on one grid.

    `info` is that of the first file.
    """
    volumes = [read_volume(locate(folder, name)) for name in row.image_files]
    if not volumes:
        raise CaseError(row.scan, _NO_IMAGE)
    first = volumes[0]
    if len(volumes) == 1:
        return first
    for volume in volumes:
        if volume.info.frames != 1:
            raise FileError(
                volume.info.path,
                f"has {volume.info.frames} frames, but files joined by `;` must be single frames; list it alone",
            )
        _agree(volume.info, first.info, what="frame")
    return first._replace(array=np.concatenate([v.array for v in volumes]))


def read_grid(row: Row, folder: Path) -> Grid:
    """The grid of the row's image, from the headers alone; of several files the first counts, each being a frame."""
    infos = [read_info(locate(folder, name), warn=False) for name in row.image_files]
    if not infos:
        raise CaseError(row.scan, _NO_IMAGE)
    frames = infos[0].frames if len(infos) == 1 else len(infos)
    return Grid(row.scan, (frames, *_turned_shape(infos[0])[::-1]), infos[0].affine)


def read_label_file(
    path: Path, convention: Convention, image: Info, frames: int, frame: int | None
) -> NDArray[np.uint8]:
    """One label file in our values, on the image's axes: (t, z, y, x) for `frame` None, else one (z, y, x).

    For a frame a 3-D file is that frame, and a 4-D file of `frames` frames gives its own of that number.
    A grid that is not the image's, a wrong number of frames and unknown values raise `FileError`.
    """
    volume = read_volume(path, warn=False)
    turned = _turned_like(volume, image)
    if frame is None and len(turned) != frames:
        raise FileError(
            path,
            f"has {len(turned)} frames and the image {image.path.name} has {frames}; "
            "say which frames are labelled, each in a 3-D file of its own, as in `0=a.nii.gz;11=b.nii.gz`",
        )
    if frame is not None and len(turned) not in (1, frames):
        raise FileError(
            path,
            f"has {len(turned)} frames; behind `{frame}=` there must be a 3-D file, or one of {frames} frames "
            f"like the image {image.path.name}",
        )
    wanted = turned if frame is None else turned[frame if len(turned) == frames else 0]
    try:
        return translate(wanted, convention)
    except ValueError as error:
        raise FileError(path, str(error)) from None


def read_labels(
    path: Path, reference: Case | Grid | None = None, convention: Convention = CONVENTIONS["crossbeat"]
) -> NDArray[np.uint8]:
    """A label map, such as a prediction, as (t, z, y, x) uint8 in our values on our axes.

    With a `reference` its grid must be that of the scan, to half a voxel at every corner, and so must its
    number of frames; else `FileError`.
    """
    volume = read_volume(path, warn=False)
    if reference is not None:
        if isinstance(reference, Case):
            reference = Grid(reference.id, reference.image.shape, reference.affine)
        if volume.array.shape != reference.shape:
            raise FileError(
                path,
                f"has shape {volume.array.shape} (t, z, y, x), scan {reference.scan!r} has "
                f"{reference.shape}; predict that scan again",
            )
        off = _corner_offset(volume.affine, reference.affine, volume.array.shape[:0:-1])
        if off > _ROUNDED:
            raise FileError(
                path,
                f"lies up to {off:.1f} voxels away from scan {reference.scan!r}: the grid differs; "
                "predict that scan again, or resample with nearest neighbour",
            )
    try:
        return translate(volume.array, convention)
    except ValueError as error:
        raise FileError(path, str(error)) from None


def locate(folder: Path, name: str) -> Path:
    """The path of a file that a cohort.csv in `folder` names, which may be reached by a link."""
    return Path(os.path.normpath(folder.resolve() / name))


def restrict(
    labels: NDArray[np.uint8], drawn: tuple[frozenset[Structure], ...]
) -> tuple[NDArray[np.uint8], tuple[frozenset[Structure], ...]]:
    """Labels (t, z, y, x) cut down to what was drawn in each frame.

    A frame in which nothing was drawn becomes UNKNOWN, and a frame all UNKNOWN has nothing drawn. In the
    others a structure that is not among the drawn becomes 0, "none of these"; scar and oedema stay where
    the myocardium that they are part of was drawn.
    """
    cut = labels.copy()
    seen = []
    for frame, structures in zip(cut, drawn, strict=True):
        if not structures or (frame == UNKNOWN).all():
            frame[:] = UNKNOWN
            seen.append(frozenset[Structure]())
            continue
        kept = structures | (_PARTS_OF_WALL if Structure.MYO in structures else frozenset())
        frame[~np.isin(frame, [0, UNKNOWN, *kept])] = Structure.BACKGROUND
        seen.append(structures)
    return cut, tuple(seen)


def _interval_ms(row: Row, image: Volume) -> float | None:
    stated = image.info.frame_interval_ms
    if row.frame_interval_ms is not None:
        return row.frame_interval_ms
    believable = image.info.frames > 1 and stated is not None and stated <= _LONGEST_FRAME_MS
    return stated if believable else None


def _read_row_labels(
    row: Row, folder: Path, own: Mapping[str, Convention], image: Volume
) -> tuple[NDArray[np.uint8] | None, tuple[frozenset[Structure], ...]]:
    frames = len(image.array)
    files = row.label_files
    if not files:
        return None, ()
    convention = find_convention(row.convention, own)
    labels = np.full(image.array.shape, UNKNOWN, np.uint8)
    drawn = [frozenset[Structure]()] * frames
    for frame, name in files.items():
        if frame is not None and frame >= frames:
            raise CaseError(
                row.scan,
                f"labels name frame {frame}, but the image has {frames} frames, numbered from 0; "
                "correct the `labels` column",
            )
        found = read_label_file(locate(folder, name), convention, image.info, frames, frame)
        for t in range(frames) if frame is None else [frame]:
            labels[t] = found[t] if frame is None else found
            drawn[t] = row.drawn(t, own)
    return restrict(labels, tuple(drawn))


def _turned_like(volume: Volume, image: Info) -> NDArray[np.float32]:
    """A label file's voxels on the image's axes, once it is certain that they lie on the image's voxels."""
    info = volume.info
    if info.grid == image.grid and _corner_offset(info.file_affine, image.file_affine, info.grid) <= _SAME:
        return _on_axes_of(volume, image)
    shape = volume.array.shape[:0:-1]
    same_turned = _turned_shape(image) == shape
    if same_turned and _corner_offset(volume.affine, image.affine, shape) <= _SAME:
        return volume.array
    return _on_axes_of(volume, image) if _agree(info, image, what="label map") else volume.array


def _agree(info: Info, image: Info, what: str) -> bool:
    """True where both files hold the same grid voxel by voxel; warns where headers differ, refuses where grids do."""
    off = (
        _corner_offset(info.file_affine, image.file_affine, info.grid) if info.grid == image.grid else np.inf
    )
    if off <= _SAME:
        return True
    spacings = geometry.column_lengths(info.file_affine), geometry.column_lengths(image.file_affine)
    lost = _position_lost(info) != _position_lost(image) and np.allclose(*spacings, rtol=0.01)
    if info.grid == image.grid and (off <= _ROUNDED or lost):
        warnings.warn(
            f"{info.path}: header differs from that of {image.path.name}, but the grid is the same "
            f"({_said(info)}); the {what} is laid on it voxel by voxel",
            GeometryWarning,
            stacklevel=4,
        )
        return True
    distance = f", lying up to {off:.1f} voxels off" if np.isfinite(off) else ""
    raise FileError(
        info.path,
        f"the grid differs from that of {image.path}: {_said(info)} against {_said(image)}{distance}; "
        f"if this {what} belongs to that image copy the image's header onto it, "
        "else resample it to the image with nearest neighbour",
    )


def _on_axes_of(volume: Volume, image: Info) -> NDArray[np.float32]:
    """The voxels laid on the image's axes index by index, whatever the file's own header says."""
    if volume.info.turn == image.turn:
        return volume.array
    stored = np.stack([volume.info.turn.undo(frame) for frame in volume.array], axis=-1)
    return on_our_axes(stored, image.turn)


def _corner_offset(a: geometry.Affine, b: geometry.Affine, shape: tuple[int, ...]) -> float:
    """Largest distance between the same corner of two grids of one (i, j, k) shape, in voxels of the second."""
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in shape], [1], indexing="ij"), -1).reshape(-1, 4)
    mm = corners @ (a - b)[:3].T
    return float(np.abs(mm @ np.linalg.inv(b[:3, :3]).T).max())


def _position_lost(info: Info) -> bool:
    """Whether a header tells no more than the spacing: unset codes, or plain axes from a plain origin."""
    directions = np.abs(info.file_affine[:3, :3] / geometry.column_lengths(info.file_affine))
    at_origin = np.allclose(info.file_affine[:3, 3], 0)
    return not info.states_position or (at_origin and np.allclose(directions, np.eye(3), atol=1e-6))


def _turned_shape(info: Info) -> tuple[int, ...]:
    return tuple(info.grid[axis] for axis in reversed(info.turn.axes))


def _said(info: Info) -> str:
    size = " x ".join(str(n) for n in info.grid)
    spacing = " x ".join(f"{mm:.4g}" for mm in geometry.column_lengths(info.file_affine))
    origin = ", ".join(f"{mm:.1f}" for mm in info.file_affine[:3, 3])
    return f"{size} voxels of {spacing} mm from ({origin})"
