"""A folder of DICOM becomes short-axis stacks (t, z, y, x); what is no such stack is refused by name.

Slices are sorted by position along their normal, frames by trigger time; one series may hold the whole
stack, or one slice each. DICOM's LPS+ millimetres become RAS+ here, once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError

from crossbeat import geometry
from crossbeat.data.planes import CannotStackError, Plane, pixels_of, planes_of
from crossbeat.data.series import (
    Guess,
    SeriesHeader,
    looks_like_localiser,
    looks_long_axis,
    sequence_of,
    vendor_of,
)

_LPS_TO_RAS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
_DIRECTORY: Final = "1.2.840.10008.1.3.10"  # DICOMDIR: a table of contents, DICOM PS3.10 8.6
_DICOM_NAMES: Final = (".dcm", ".dicom", ".ima")
_SAME_DIRECTION: Final = 1e-3  # largest difference of direction cosines within a stack
_SAME_PLACE_MM: Final = 0.05  # two images nearer than this along the normal are one slice
_UNEVEN: Final = 0.05  # share of the slice distance by which a gap may differ: half a mm in ten
_SKEW: Final = 0.05  # share of the slice distance by which slices may slide in-plane


class Stack(NamedTuple):
    """One scan put together from DICOM."""

    array: NDArray[np.float32]
    """(t, z, y, x), rescale slope and intercept applied."""
    affine: geometry.Affine
    """Ours: voxel (x, y, z, 1) to RAS+ mm."""
    frame_times_ms: NDArray[np.float64] | None
    """(t,) mean trigger time over the slices; None for a still or where the headers have none."""
    header: SeriesHeader
    files: NDArray[np.object_]
    """(t, z) path of the file of each image, on our axes."""
    turn: geometry.Turn
    """The turn from the files' (column, row, slice) to our axes; slices always become z."""
    notes: tuple[str, ...]
    """What had to be assumed, in sentences."""


class Refusal(NamedTuple):
    """A series that is no usable stack."""

    folder: Path
    series: str
    problem: str

    def __str__(self) -> str:
        return f"{self.folder}: series {self.series!r}: {self.problem}"


@dataclass
class _Series:
    header: SeriesHeader
    planes: list[Plane] = field(default_factory=list)
    problem: str = ""


def read_folder(folder: Path) -> tuple[list[Stack], list[Refusal]]:
    """All stacks in a folder, its sub-folders included, and a refusal for every series that is none.

    Slices of one study that lie in several sub-folders come together. A DICOMDIR, and files that
    neither are DICOM nor have its name, are passed over. A folder without any DICOM gives two empty lists.
    """
    with pydicom.config.disable_value_validation():
        series, refused = _collect(folder)
        stacks = []
        for group in _merge_single_slices(series, folder):
            try:
                stacks.append(_stack(group))
            except CannotStackError as problem:
                refused += [Refusal(s.header.folder, s.header.name, str(problem)) for s in group]
    return stacks, refused


def _collect(folder: Path) -> tuple[list[_Series], list[Refusal]]:
    found: dict[tuple[str, str, str], _Series] = {}
    unreadable = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
            if str(dataset.file_meta.get("MediaStorageSOPClassUID", "")) == _DIRECTORY:
                continue
            header = _header(dataset, path)
            key = header.patient, header.study, str(dataset.get("SeriesInstanceUID", "") or path.parent)
            one = found.setdefault(key, _Series(header))
        except (InvalidDicomError, OSError, EOFError, ValueError, TypeError, AttributeError):
            if path.suffix.lower() in _DICOM_NAMES:
                unreadable.append(
                    Refusal(path.parent, path.name, "is no readable DICOM file; export it again")
                )
            continue
        try:
            one.planes += planes_of(dataset, path)
        except CannotStackError as problem:
            one.problem = one.problem or str(problem)
    for one in found.values():
        one.problem = one.problem or _kind_problem(one)
    bad = [Refusal(s.header.folder, s.header.name, s.problem) for s in found.values() if s.problem]
    return [s for s in found.values() if not s.problem], unreadable + bad


def _header(dataset: pydicom.Dataset, path: Path) -> SeriesHeader:
    number = dataset.get("SeriesNumber")
    words = [str(dataset.get(k, "") or "") for k in ("SeriesDescription", "ProtocolName", "SequenceName")]
    return SeriesHeader(
        folder=path.parent,
        number=None if number in (None, "") else int(number),
        description=words[0],
        words=" ".join(words).lower(),
        image_type=tuple(str(v).upper() for v in dataset.get("ImageType", None) or ()),
        vendor=vendor_of(str(dataset.get("Manufacturer", "") or "")),
        variant=str(dataset.get("SequenceVariant", "") or "").upper(),
        patient=str(dataset.get("PatientID", "") or ""),
        study=str(dataset.get("StudyInstanceUID", "") or ""),
    )


def _kind_problem(series: _Series) -> str:
    """Why a series as a whole is no short-axis stack; '' where nothing speaks against it."""
    planes = series.planes
    first = planes[0]
    if looks_like_localiser(series.header):
        return "a localiser (scout); leave it out"
    if any(np.abs(p.normal - first.normal).max() > 0.05 for p in planes):
        return f"mixed orientations ({_orientations(planes)} of them), as in a localiser or radial series; split it"
    if looks_long_axis(series.header):
        return "a long-axis view; crossbeat reads short-axis stacks"
    if len({p.size for p in planes}) > 1 or len({p.spacing for p in planes}) > 1:
        return "images of different matrix or pixel size in one series; export them as separate series"
    kinds = Counter(p.kind for p in planes)
    if len(kinds) > 1:
        return (
            f"magnitude and phase images mixed ({', '.join(sorted(kinds))}); give the magnitude images alone"
        )
    if set(kinds) != {"M"}:
        return "phase or complex images; give the magnitude images"
    return ""


def _orientations(planes: Iterable[Plane]) -> int:
    return len({tuple(np.round(p.normal, 1) + 0.0) for p in planes})


def _merge_single_slices(series: Sequence[_Series], root: Path) -> list[list[_Series]]:
    """Groups of series that make one stack: parallel series of one slice each, or a series by itself."""
    alone, parts = [], defaultdict(list)
    for one in series:
        first = one.planes[0]
        if len(_positions(one.planes)) > 1:
            alone.append([one])
            continue
        key = (one.header.study, one.header.patient, first.size, tuple(np.round(first.spacing, 4)))
        family = (
            *key,
            _family(one.header),
            tuple(np.round(np.concatenate([first.row, first.column]), 2) + 0.0),
        )
        parts[family].append(one)
    return alone + [group for family in parts.values() for group in _across_folders(family, root)]


def _across_folders(family: Sequence[_Series], root: Path) -> list[list[_Series]]:
    """Slices of one family as one stack, whatever folders of `root` they lie in, where that is safe.

    It is not where no study says that the folders are of one patient, nor where two folders each hold a
    stack, over the same places.
    """
    by_folder: dict[str, list[_Series]] = defaultdict(list)
    for one in family:
        by_folder[top_folder(one.planes[0].path, root)].append(one)
    reaches = [_positions(p for s in group for p in s.planes) for group in by_folder.values()]
    reaches = sorted(places for places in reaches if len(places) > 1)
    overlap = any(after[0] <= before[-1] + _SAME_PLACE_MM for before, after in pairwise(reaches))
    return list(by_folder.values()) if overlap or not family[0].header.study else [list(family)]


def top_folder(path: Path, root: Path) -> str:
    """Name of the folder directly in `root` under which a file lies, '' for one in `root` itself."""
    parts = path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else ""


def _family(header: SeriesHeader) -> str:
    """The series' words without the numbers that count its slices."""
    return "".join(c for c in header.words if not c.isdigit()).strip()


def _stack(group: Sequence[_Series]) -> Stack:
    group, notes = _latest_of_each_slice(group)
    planes = [p for series in group for p in series.planes]
    if max(np.abs(np.stack([p.row, p.column]) - [planes[0].row, planes[0].column]).max() for p in planes) > (
        _SAME_DIRECTION
    ):
        raise CannotStackError("slices are not parallel, so they make no stack; split the series")
    slices = _by_position(planes)
    if len(slices) < 2:
        raise CannotStackError(
            "a single slice, where a stack is needed (a long-axis view or one slice alone)"
        )
    step = _step(slices)
    grid, order_notes = _by_time(slices)
    voxels = _read_pixels(grid)
    stored_affine = _affine(grid[0][0], step)
    stored_shape = voxels.shape[:0:-1]
    turn = geometry.find_turn(stored_affine, (stored_shape[0], stored_shape[1], stored_shape[2]))
    if turn.axes[0] != 2:
        raise CannotStackError(
            "slices are not the thickest direction, as in an isotropic 3-D volume; reformat it to a short-axis stack"
        )
    affine = turn.affine(stored_affine, (stored_shape[0], stored_shape[1], stored_shape[2]))
    array = np.stack([turn.apply(frame.transpose(2, 1, 0)) for frame in voxels])
    along_z = slice(None, None, -1) if turn.flips[0] else slice(None)
    return Stack(
        np.ascontiguousarray(array, np.float32),
        geometry.nearest_rotation(affine),
        _frame_times_ms(grid),
        group[0].header,
        np.array([[p.path for p in one] for one in grid], object).T[:, along_z],
        turn,
        (*notes, *order_notes),
    )


def _latest_of_each_slice(group: Sequence[_Series]) -> tuple[list[_Series], list[str]]:
    """Where a slice was taken again in a series of its own, the later series (larger number)."""
    if len(group) == 1:
        return list(group), []
    kept: dict[float, _Series] = {}
    again = 0
    for series in sorted(group, key=lambda s: s.header.number or 0):
        place = float(series.planes[0].corner @ series.planes[0].normal)
        near = next((k for k in kept if abs(k - place) < _SAME_PLACE_MM), place)
        again += near in kept
        kept[near] = series
    note = f"{again} slices were taken again in a later series, which is used"
    return list(kept.values()), [note] if again else []


def _positions(planes: Iterable[Plane]) -> list[float]:
    """Places along the normal, in mm, ascending."""
    places: list[float] = []
    for place in sorted(float(p.corner @ p.normal) for p in planes):
        if not places or place - places[-1] > _SAME_PLACE_MM:
            places.append(place)
    return places


def _by_position(planes: Sequence[Plane]) -> list[list[Plane]]:
    normal = planes[0].normal
    places = np.array(_positions(planes))
    slices: list[list[Plane]] = [[] for _ in places]
    for plane in planes:
        slices[int(np.abs(places - plane.corner @ normal).argmin())].append(plane)
    counts = [len(one) for one in slices]
    if len(set(counts)) > 1:
        usual = Counter(counts).most_common(1)[0][0]
        odd = next(i for i, n in enumerate(counts) if n != usual)
        raise CannotStackError(
            f"missing frames: the slice at {places[odd]:.1f} mm has {counts[odd]} images, others have {usual}; "
            "export the series again"
        )
    return slices


def _step(slices: Sequence[Sequence[Plane]]) -> NDArray[np.float64]:
    """LPS mm from one slice to the next."""
    corners = np.array([one[0].corner for one in slices])
    gaps = np.diff(corners @ slices[0][0].normal)
    usual = float(np.median(gaps))
    if np.abs(gaps - usual).max() > _UNEVEN * usual:
        at = int(np.abs(gaps - usual).argmax())
        raise CannotStackError(
            f"non-uniform slice spacing: {gaps[at]:.2f} mm between slices {at} and {at + 1}, {usual:.2f} mm "
            "elsewhere; a slice is missing or doubled: export the whole stack, or split it"
        )
    mean: NDArray[np.float64] = (corners[-1] - corners[0]) / (len(corners) - 1)
    slide = np.linalg.norm(mean - (mean @ slices[0][0].normal) * slices[0][0].normal)
    wander = np.linalg.norm(corners - corners[0] - np.arange(len(corners))[:, None] * mean, axis=1).max()
    if slide > _SKEW * usual or wander > max(1.0, slices[0][0].spacing[0]):
        raise CannotStackError(
            f"slices slide in-plane (by {max(slide, wander):.1f} mm), so they make no right-angled stack; "
            "resample the series first"
        )
    return mean


def _by_time(slices: Sequence[Sequence[Plane]]) -> tuple[list[list[Plane]], list[str]]:
    """Each slice's images in order of time; by instance number where trigger times are missing or repeat."""
    if len(slices[0]) == 1:
        return [list(one) for one in slices], []
    times = [[p.time_ms for p in one] for one in slices]
    if all(None not in one and len(set(one)) == len(one) for one in times):
        return [sorted(one, key=lambda p: p.time_ms or 0.0) for one in slices], []
    if any(len({p.order for p in one}) < len(one) for one in slices):
        raise CannotStackError(
            "several images of one slice have the same time and number; export each contrast as its own series"
        )
    why = "missing" if any(None in one for one in times) else "not distinct"
    note = f"trigger times are {why}: frames stand in order of their instance numbers"
    return [sorted(one, key=lambda p: p.order) for one in slices], [note]


def _frame_times_ms(grid: Sequence[Sequence[Plane]]) -> NDArray[np.float64] | None:
    if len(grid[0]) == 1:
        return None
    times = [[np.nan if p.time_ms is None else p.time_ms for p in one] for one in grid]
    mean = np.mean(np.asarray(times, np.float64), axis=0)
    return mean if np.isfinite(mean).all() and (np.diff(mean) > 0).all() else None


def _read_pixels(grid: Sequence[Sequence[Plane]]) -> NDArray[np.float32]:
    """(t, slice, row, column), rescaled."""
    rows, columns = grid[0][0].size
    out = np.empty((len(grid[0]), len(grid), rows, columns), np.float32)
    opened: dict[Path, NDArray[Any]] = {}
    for z, one in enumerate(grid):
        for t, plane in enumerate(one):
            pixels = pixels_of(plane, opened)
            out[t, z] = pixels * np.float32(plane.slope) + np.float32(plane.intercept)
    return out


def _affine(first: Plane, step: NDArray[np.float64]) -> geometry.Affine:
    """RAS+ affine of (column, row, slice) indices: DICOM PS3.3 C.7.6.2.1.1, with x and y negated."""
    lps = np.eye(4)
    lps[:3, 0] = first.row * first.spacing[1]
    lps[:3, 1] = first.column * first.spacing[0]
    lps[:3, 2] = step
    lps[:3, 3] = first.corner
    return np.asarray(_LPS_TO_RAS @ lps, np.float64)


def frame_interval_ms(stack: Stack) -> float | None:
    """Usual time between frames; None for a still or where the times are not known."""
    if stack.frame_times_ms is None or len(stack.frame_times_ms) < 2:
        return None
    return float(np.median(np.diff(stack.frame_times_ms)))


def guess_sequence(stack: Stack) -> Guess:
    """bssfp, lge, t2 or tagged, from the header; 'unknown' where it says nothing."""
    return sequence_of(stack.header, frames=len(stack.array))
