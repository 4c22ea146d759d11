"""A labelled scan and an unlabelled one of the same heart in, a label map on the unlabelled scan's grid out.

These are the pseudo masks of Chen 2020 (section 2, "weak domain transfer"): what was drawn on the source (bSSFP or T2)
is laid onto the target (LGE). Three ways, from trusting nothing but slice numbers to correcting the patient's breath:

index       slice i of the source's m goes to slice j of the target's n, Eq. 1; target slices that no i meets stay
            `UNKNOWN`. For scans whose headers say nothing true about the height of slices.
physical    each slice of the target takes the source slice that lies nearest at the heart, none where none lies within
            half the source's slice spacing; of stacks that are cut at more than 10 degrees each voxel takes its own.
registered  as physical, then each slice of the source image is aligned to the target image in plane, and the mask
            goes along (the paper's footnote 5, left there as future work).

In plane all three go by the affines, and a voxel takes the label with the largest share of it by linear
interpolation. A voxel outside what the source has seen is `UNKNOWN`: nobody looked there. Scar and oedema fold into the
myocardium, which is what segmenters learn: oedema on T2 is no scar on LGE.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from crossbeat import geometry
from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CaseError, CohortError
from crossbeat.labels import UNKNOWN, Structure, fold_drawn, fold_into_myocardium
from crossbeat.prepare.alignment import align

Correspondence = Literal["index", "physical", "registered"]
Rounding = Literal["paper", "code"]
LabelMap = NDArray[np.uint8]

PARALLEL_DEG: Final = 10.0
"""Tilt up to which whole slices are matched by position: 8 mm at the heart's edge, a bSSFP slice. One mask from two
source slices, taken in two breath-holds, would have a seam. SAX stacks of one session differ by a few degrees. Ours."""

LARGEST_TILT_DEG: Final = 30.0
"""Tilt up to which `index` and `registered`, which know whole slices only, are tried at all. Ours."""

_NEAR: Final = 1e-6  # voxels: half a slice away is within half a slice, whatever the rounding of affines
_ALIGNED_PIXEL_MM: Final = 1.5  # about bSSFP's in-plane resolution: finer adds noise and time
_MARGIN_MM: Final = 12.0  # of tissue about the heart that alignment looks at: its outer rims must show
_SURROUND_MM: Final = 25.0  # what is cut out around the heart: the margin, and room to move


def pair_scans(sources: Cohort, targets: Cohort) -> list[tuple[Row, Row]]:
    """Every (source, target) pair of scans of one subject in which the source has labels, in the targets' order.

    With bSSFP and T2 among the sources a target comes twice, as in the paper. `CohortError` where no subject has both.
    """
    pairs = [
        (s, t) for t in targets for s in sources if s.subject == t.subject and s.labels and s.scan != t.scan
    ]
    if not pairs:
        raise CohortError(
            f"{targets.name}: none of {len(targets.subjects)} subjects with a target scan has a labelled source scan "
            f"({len(sources.labelled().subjects)} subjects have one); weak transfer needs both of the same subject"
        )
    return pairs


def pseudo_labels(
    source: Case,
    target: Case,
    *,
    correspondence: Correspondence = "physical",
    rounding: Rounding = "paper",
    frame: int | None = None,
    target_frame: int = 0,
) -> LabelMap:
    """The source's labels as (t, z, y, x) on the target's grid: background, LV, MYO, RV and `UNKNOWN`.

    `frame` is the source's labelled frame to take: give `row.ed_frame` where it is labelled, as LGE and T2 are taken
    while the heart rests and large; without it the first labelled one. A target of several frames is
    `UNKNOWN` in all but `target_frame`. `rounding` matters to `index` alone.

    `CaseError` where the scans are not of one subject, the source has no labels there, or nothing of the heart
    arrives. The target's own labels are never read.
    """
    frame = _labelled_frame(source, frame)
    _check_pair(source, target, correspondence)
    assert source.labels is not None
    labels = fold_into_myocardium(source.labels[frame])
    _check_heart(source, labels)
    onto = _Map(source, target)
    by_index = correspondence == "index"
    slices = _slices_by_index(source, target, rounding) if by_index else _slices_at_heart(labels, onto)
    apart = correspondence == "physical" and _tilt_deg(source, target) > PARALLEL_DEG
    carried = _carry(labels, onto, None if apart else slices)
    _check_arrival(source, target, carried, correspondence)
    if correspondence == "registered":
        carried = _register(source.image[frame], labels, target.image[target_frame], carried, onto, slices)
    found = np.full(target.image.shape, UNKNOWN, np.uint8)
    found[target_frame] = carried
    return found


def pseudo_case(
    source: Case,
    target: Case,
    *,
    correspondence: Correspondence = "physical",
    rounding: Rounding = "paper",
    frame: int | None = None,
) -> Case:
    """The target's scan with the source's labels, as `pseudo_labels` carries them, in the place of its own."""
    taken = _labelled_frame(source, frame)
    labels = pseudo_labels(source, target, correspondence=correspondence, rounding=rounding, frame=taken)
    drawn = (fold_drawn(source.drawn[taken]), *[frozenset[Structure]()] * (target.frames - 1))
    return replace(target, labels=labels, drawn=drawn)


def fuse_labels(maps: Sequence[LabelMap], how: Literal["majority", "intersection"]) -> LabelMap:
    """Several label maps of one grid as one.

    majority      the label that most of those who looked give; `UNKNOWN` where the first place is shared. Of two
                  sources that is where they agree, and where only one has looked.
    intersection  the label that all give; `UNKNOWN` where one differs or has not looked.
    """
    if not maps or any(m.shape != maps[0].shape for m in maps):
        raise ValueError(f"fusing needs label maps of one shape, got {[m.shape for m in maps]}")
    stack = np.stack(maps)
    if how == "intersection":
        agreed = (stack == stack[0]).all(axis=0)
        return np.where(agreed, stack[0], np.uint8(UNKNOWN))
    values = [v for v in np.unique(stack).tolist() if v != UNKNOWN]
    votes = np.stack([(stack == v).sum(axis=0) for v in values] or [np.zeros(maps[0].shape, int)])
    most = votes.max(axis=0)
    clear = (most > 0) & ((votes == most).sum(axis=0) == 1)
    winner = np.asarray(values or [UNKNOWN], np.uint8)[votes.argmax(axis=0)]
    return np.where(clear, winner, np.uint8(UNKNOWN))


def paired_slices(sources: int, targets: int, rounding: Rounding = "paper") -> list[int]:
    """Eq. 1 of Chen 2020: for each of the source's slices, from 0, the slice of the target that it goes to.

    `paper`: floor(i n / m), as printed, with i and the result from 0; it never reaches the last slice of a longer
    target. `code`: round((i + 1) n / m) - 1 of the authors' release, halves to the even number.
    """
    if rounding == "paper":
        return [i * targets // sources for i in range(sources)]
    return [max(round(targets / sources * (i + 1)) - 1, 0) for i in range(sources)]


class _Map:
    """Where voxels of the target lie in the source, both in voxels."""

    def __init__(self, source: Case, target: Case) -> None:
        self.shape = target.image.shape[1:]
        self.source_shape = source.image.shape[1:]
        self.spacing_mm = target.spacing_mm
        onto = np.linalg.inv(source.affine) @ target.affine
        self.matrix, self.offset = onto[:3, :3][::-1, ::-1], onto[:3, 3][::-1]

    def slice(
        self, z: int | NDArray[np.intp], rows: NDArray[np.float64], columns: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """(z, y, x) in the source of points of the target."""
        zs, ys, xs = (
            m[0] * z + m[1] * rows + m[2] * columns + o for m, o in zip(self.matrix, self.offset, strict=True)
        )
        return zs, ys, xs

    def nearest(self, zs: NDArray[np.float64]) -> NDArray[np.intp]:
        """The source slice nearest to a height; -1 where none lies within half the source's slice spacing."""
        n = self.source_shape[0]
        index = np.clip(np.ceil(zs - 0.5 - _NEAR), 0, n - 1).astype(np.intp)
        return np.where(np.abs(zs - index) <= 0.5 + _NEAR, index, -1)


def _carry(
    labels: LabelMap,
    onto: _Map,
    slices: Sequence[int] | None = None,
    shift: NDArray[np.float64] | None = None,
) -> LabelMap:
    """Labels (z, y, x) of the source on the target's grid.

    `slices` names the source slice of each target slice, -1 for none; without it each voxel takes its nearest.
    `shift` (z, 2, y, x), in the target's voxels, is where to look beside each voxel.
    """
    rows, columns = np.mgrid[: onto.shape[1], : onto.shape[2]].astype(np.float64)
    found = np.full(onto.shape, UNKNOWN, np.uint8)
    for z in range(onto.shape[0]):
        if slices is not None and slices[z] < 0:
            continue
        aside = np.zeros(2) if shift is None else shift[z]
        zs, ys, xs = onto.slice(z, rows + aside[0], columns + aside[1])
        found[z] = _read(labels, onto.nearest(zs) if slices is None else np.full(zs.shape, slices[z]), ys, xs)
    return found


def _read(
    labels: LabelMap, index: NDArray[np.intp], ys: NDArray[np.float64], xs: NDArray[np.float64]
) -> LabelMap:
    """The label with the largest share at each point, in plane, of the slice `index`; `UNKNOWN` outside."""
    h, w = labels.shape[1:]
    inside = (
        (index >= 0)
        & (np.abs(ys - (h - 1) / 2) <= h / 2 + _NEAR)
        & (np.abs(xs - (w - 1) / 2) <= w / 2 + _NEAR)
    )
    found = np.full(ys.shape, UNKNOWN, np.uint8)
    k, y, x = index[inside], np.clip(ys[inside], 0, h - 1), np.clip(xs[inside], 0, w - 1)
    top, left = np.floor(y).astype(np.intp), np.floor(x).astype(np.intp)
    down, right = np.minimum(top + 1, h - 1), np.minimum(left + 1, w - 1)
    corners = np.stack([labels[k, i, j] for i in (top, down) for j in (left, right)])
    winner = corners[0].copy()
    split = np.flatnonzero((corners != corners[0]).any(axis=0))
    low, beside = (y - top)[split], (x - left)[split]
    weights = np.stack([a * b for a in (1 - low, low) for b in (1 - beside, beside)])
    most = np.zeros(len(split))
    for value in np.unique(corners[:, split]):
        share = (weights * (corners[:, split] == value)).sum(axis=0)
        winner[split] = np.where(share > most + _NEAR, value, winner[split])
        most = np.maximum(most, share)
    found[inside] = winner
    return found


def _slices_by_index(source: Case, target: Case, rounding: Rounding) -> list[int]:
    """The source slice of each target slice by Eq. 1, -1 for none; of two that go to one the later stands.

    Slices are counted the same way along the patient in both scans.
    """
    m, n = source.image.shape[1], target.image.shape[1]
    turned = geometry.normal(source.affine) @ geometry.normal(target.affine) < 0
    found = [-1] * n
    for i, j in enumerate(paired_slices(m, n, rounding)):
        found[j] = m - 1 - i if turned else i
    return found


def _register(
    source_image: NDArray[np.float32],
    labels: LabelMap,
    target_image: NDArray[np.float32],
    carried: LabelMap,
    onto: _Map,
    slices: list[int],
) -> LabelMap:
    """`carried`, with each slice replaced whose alignment of source image to target image raised their information."""
    grid = _heart_grid(carried, onto)
    rows, columns = np.meshgrid(*grid, indexing="ij")
    fixed, moving = np.zeros((2, len(slices), *rows.shape), np.float32)
    region = np.zeros(fixed.shape, bool)
    for z, k in enumerate(slices):
        fixed[z] = _sample(target_image[z], rows, columns, onto.spacing_mm[1:])
        if k < 0:
            continue
        _, ys, xs = onto.slice(z, rows, columns)
        moving[z] = ndimage.map_coordinates(source_image[k], [ys, xs], order=1, mode="nearest")
        heart = carried[z][np.rint(rows).astype(int), np.rint(columns).astype(int)]
        region[z] = _grown((heart > 0) & (heart != UNKNOWN))
    found = align(
        torch.from_numpy(moving), torch.from_numpy(fixed), torch.from_numpy(region), _ALIGNED_PIXEL_MM
    )
    improved = found.improved.numpy()
    shift = _onto_voxels(found.displacement_px.double().numpy(), grid, onto.shape)
    moved = _carry(
        labels, onto, [k if better else -1 for k, better in zip(slices, improved, strict=True)], shift
    )
    return np.where(improved[:, None, None], moved, carried)


def _heart_grid(carried: LabelMap, onto: _Map) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows and columns, in the target's voxels, of a grid of square pixels about the heart, within the image."""
    heart = ((carried > 0) & (carried != UNKNOWN)).any(axis=0)
    found = []
    for axis in (0, 1):
        spacing, last = onto.spacing_mm[1 + axis], heart.shape[axis] - 1
        places = np.flatnonzero(heart.any(axis=1 - axis))
        first = max(places[0] - _SURROUND_MM / spacing, 0)
        found.append(
            np.arange(
                first, min(places[-1] + _SURROUND_MM / spacing, last) + _NEAR, _ALIGNED_PIXEL_MM / spacing
            )
        )
    return found[0], found[1]


def _slices_at_heart(labels: LabelMap, onto: _Map) -> list[int]:
    """The source slice nearest to each target slice where the heart is, -1 where none is near."""
    heart = np.argwhere((labels > 0) & (labels != UNKNOWN)).mean(axis=0)
    _, y, x = np.linalg.solve(onto.matrix, heart - onto.offset)
    heights, _, _ = onto.slice(np.arange(onto.shape[0]), np.array([y]), np.array([x]))
    return [int(k) for k in onto.nearest(heights)]


def _sample(
    image: NDArray[np.float32],
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    spacing_mm: tuple[float, ...],
) -> NDArray[np.float32]:
    """An image at some points, blurred first to the alignment's pixels where its own are finer."""
    blur = [0.5 * math.sqrt(max((_ALIGNED_PIXEL_MM / s) ** 2 - 1, 0)) for s in spacing_mm]
    soft = ndimage.gaussian_filter(image, blur, mode="nearest")
    return np.asarray(ndimage.map_coordinates(soft, [rows, columns], order=1, mode="nearest"), np.float32)


def _grown(heart: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The heart and the margin about it, in alignment pixels."""
    if not heart.any():
        return heart
    return np.asarray(ndimage.distance_transform_edt(~heart) * _ALIGNED_PIXEL_MM <= _MARGIN_MM)


def _onto_voxels(
    displacement_px: NDArray[np.float64],
    grid: tuple[NDArray[np.float64], NDArray[np.float64]],
    shape: tuple[int, int, int],
) -> NDArray[np.float64]:
    """Shifts on the alignment's grid as shifts in the target's voxels, at each of them; the edge held outside."""
    steps = [axis[1] - axis[0] for axis in grid]
    y, x = ((np.arange(n) - axis[0]) / step for n, axis, step in zip(shape[1:], grid, steps, strict=True))
    where = np.meshgrid(y, x, indexing="ij")
    found = [
        [ndimage.map_coordinates(slices[k], where, order=1, mode="nearest") * steps[k] for k in (0, 1)]
        for slices in displacement_px
    ]
    return np.asarray(found, np.float64)


def _labelled_frame(source: Case, frame: int | None) -> int:
    labelled = source.labelled_frames
    if not labelled:
        raise CaseError(source.id, "has no labels to carry to a target; take a labelled source scan")
    if frame is None:
        return labelled[0]
    if frame not in labelled:
        raise CaseError(source.id, f"frame {frame} has no labels to carry; labelled are {labelled}")
    return frame


def _check_pair(source: Case, target: Case, correspondence: Correspondence) -> None:
    if source.subject != target.subject:
        raise CaseError(
            target.id,
            f"is of subject {target.subject!r}, and {source.id!r} of {source.subject!r}; "
            "a mask can be carried only between scans of one heart",
        )
    tilt = _tilt_deg(source, target)
    if correspondence != "physical" and tilt > LARGEST_TILT_DEG:
        raise CaseError(
            target.id,
            f"is cut at {tilt:.0f} degrees to {source.id!r}; correspondence {correspondence!r} matches whole "
            f"slices and needs stacks within {LARGEST_TILT_DEG:.0f} degrees; take 'physical'",
        )


def _check_heart(source: Case, labels: LabelMap) -> None:
    if not ((labels > 0) & (labels != UNKNOWN)).any():
        problem = "nothing of the heart is labelled in the frame to carry; take another frame"
        raise CaseError(source.id, problem)


def _tilt_deg(source: Case, target: Case) -> float:
    """Angle between the two stacks' slices, from 0 to 90."""
    cosine = abs(float(geometry.normal(source.affine) @ geometry.normal(target.affine)))
    return math.degrees(math.acos(min(cosine, 1.0)))


def _check_arrival(source: Case, target: Case, carried: LabelMap, correspondence: str) -> None:
    if ((carried > 0) & (carried != UNKNOWN)).any():
        return
    normal = geometry.normal(target.affine)
    ends = []
    for case in (source, target):
        corners = [
            [z, y, x] for z in (0, case.image.shape[1] - 1) for y, x in [np.array(case.image.shape[2:]) / 2]
        ]
        ends.append(sorted((geometry.voxel_to_mm(case.affine, np.array(corners)) @ normal).tolist()))
    (a, b), (c, d) = ends
    other = " or, if the headers lie, correspondence 'index'" if correspondence != "index" else ""
    raise CaseError(
        target.id,
        f"nothing of the heart labelled on {source.id!r} falls on it: along its slices' normal that scan lies "
        f"from {a:.0f} to {b:.0f} mm and this one from {c:.0f} to {d:.0f} mm; check both headers, take another "
        f"source{other}",
    )
