"""Label maps in, the numbers of a cardiac MR report out: volumes, ejection fraction, mass, wall thickness.

Labels are (t, z, y, x) or (z, y, x) in `Structure` values, spacing is (z, y, x) in mm. Along z it is the
distance between slice centres, gap included, never the slice thickness: a slice stands for the tissue up
to half-way to its neighbours. Scar and oedema belong to the myocardium; voxels of value `UNKNOWN` belong to
nothing. A structure without a voxel has no measure: nan, never 0 ml.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from crossbeat.labels import Structure, fold_into_myocardium
from crossbeat.metrics.overlap import Mask
from crossbeat.metrics.surface import bounding_box

Labels = NDArray[np.uint8]
Spacing = tuple[float, float, float]

MM3_PER_ML: Final = 1000.0
MYOCARDIUM_G_PER_ML: Final = 1.05  # Schulz-Menger 2020, SCMR post-processing, doi 10.1186/s12968-020-00610-6
SEGMENTS: Final = 6  # segments of a mid-ventricular slice, AHA 17-segment model, Cerqueira 2002
LEVELS: Final = ("base", "mid", "apex")

_SUBSAMPLES = 5
"""Points a pixel side, to share a pixel among the segments that it lies in."""


@dataclass(frozen=True)
class WallThickness:
    """Thickness of the left ventricular wall in mm: mean over the segments, and the thickest segment."""

    mean_mm: float
    max_mm: float


@dataclass(frozen=True)
class Indices:
    """What a report says of one scan; nan where a frame or a structure is not there to be measured."""

    ed_frame: int | None
    es_frame: int | None
    lv_edv_ml: float
    lv_esv_ml: float
    lv_sv_ml: float
    lv_ef_percent: float
    lv_mass_g: float
    """Myocardium at ED, scar and oedema included; of a single still, at its only frame."""
    rv_edv_ml: float
    rv_esv_ml: float
    rv_sv_ml: float
    rv_ef_percent: float
    wall_thickness_ed_mm: float
    wall_thickness_ed_max_mm: float
    wall_thickness_es_mm: float
    wall_thickness_es_max_mm: float
    scar_mass_g: float
    """Of the frame of the mass; nan where nobody marked scar."""


def volume_ml(mask: Mask, spacing_mm: Sequence[float]) -> float:
    """Volume of a (z, y, x) boolean mask in millilitres: voxels times spacing; 0.0 where it is empty."""
    if mask.dtype != np.bool_:
        raise TypeError(
            f"a volume is counted in a boolean mask, got {mask.dtype}; write labels == Structure.LV"
        )
    return float(np.count_nonzero(mask) * math.prod(spacing_mm) / MM3_PER_ML)


def mass_g(tissue_ml: float) -> float:
    """Mass of that much myocardium in grams, at 1.05 g/ml."""
    return tissue_ml * MYOCARDIUM_G_PER_ML


def stroke_volume_ml(edv_ml: float, esv_ml: float) -> float:
    """Blood that a ventricle throws out in one beat."""
    return edv_ml - esv_ml


def ejection_fraction_percent(edv_ml: float, esv_ml: float) -> float:
    """Share of its blood that a ventricle throws out in one beat, in percent, at most 100.

    Negative where the ES volume is the larger one: the frames or the segmentation are wrong, and that
    should be seen. nan where a volume is nan or EDV is 0; a negative volume raises `ValueError`.
    """
    if edv_ml < 0 or esv_ml < 0:
        raise ValueError(f"a volume cannot be negative, got {edv_ml=} {esv_ml=}")
    return 100 * (edv_ml - esv_ml) / edv_ml if edv_ml else float("nan")


def volume_curve_ml(labels: Labels, spacing_mm: Spacing, structure: Structure) -> NDArray[np.float64]:
    """Volume of a structure in every frame of (t, z, y, x) labels, in ml; 0.0 in a frame without it.

    The myocardium is meant with its scar and oedema.
    """
    folded = fold_into_myocardium(labels) if structure == Structure.MYO else labels
    voxels = np.count_nonzero(folded == structure, axis=(1, 2, 3))
    return np.asarray(voxels * math.prod(spacing_mm) / MM3_PER_ML, np.float64)


def find_ed_es(lv_curve_ml: NDArray[np.floating]) -> tuple[int, int] | None:
    """The frames of end diastole and end systole: the largest and the smallest LV cavity.

    Frames with an empty cavity (0 or nan) are failures of the segmentation, not a heart that emptied
    itself, and are left out; of equal frames the first counts. None where fewer than two frames are left,
    or all are equal: a still has no phases.
    """
    curve = np.asarray(lv_curve_ml, np.float64)
    usable = np.flatnonzero(curve > 0)
    if usable.size < 2 or np.ptp(curve[usable]) == 0:
        return None
    return int(usable[curve[usable].argmax()]), int(usable[curve[usable].argmin()])


def slice_levels(heart: Mask) -> list[str]:
    """For each slice of a (z, y, x) mask of the heart: `base`, `mid`, `apex`, or `outside` of it.

    Thirds of the slices from the first to the last that hold heart, after the thirds of the long axis in
    the AHA model (Cerqueira 2002); a slice belongs where its centre lies, so one slice is `mid`, two are
    base and apex, four are base, mid, mid, apex. The ventricles taper towards the apex, so the base is the
    half with the larger area, all its slices together: a single outermost slice may be cut at the valves.
    A tie, which no heart gives, puts the base at the last slice, upwards in our axes.
    """
    areas = np.count_nonzero(heart, axis=(1, 2))
    levels = ["outside"] * len(areas)
    held = np.flatnonzero(areas)
    if not held.size:
        return levels
    first, count = int(held[0]), int(held[-1] - held[0]) + 1
    low, high = areas[first : first + count // 2].sum(), areas[first + (count + 1) // 2 : first + count].sum()
    for z in held.tolist():
        third = (2 * (z - first) + 1) * len(LEVELS) // (2 * count)
        levels[z] = LEVELS[third] if low > high else LEVELS[-1 - third]
    return levels


def wall_thickness_mm(labels: Labels, spacing_mm: Spacing) -> WallThickness:
    """Thickness of the LV wall at mid-ventricle, in the slice plane, of one (z, y, x) frame.

    Every mid-level slice with cavity and wall is cut, from the centre of the cavity, into six segments,
    two of them facing the RV (where there is none, counted from the x axis). In a segment of angle a,
    an area A within a border means a radius of sqrt(2 A / a); the segment's thickness is the outer radius
    less the inner. Areas of whole segments average over the stairs of a pixel border, where distances between
    border pixels would be wrong by up to a pixel. A segment is averaged over the slices; one without wall
    is left out. nan where no slice is left.
    """
    folded = fold_into_myocardium(labels)
    left = (folded == Structure.LV) | (folded == Structure.MYO)
    slices = [
        _segment_thickness_mm(folded[z], spacing_mm[1:])
        for z, level in enumerate(slice_levels(left))
        if level == "mid" and {Structure.LV, Structure.MYO} <= set(np.unique(folded[z]).tolist())
    ]
    if not slices:
        return WallThickness(float("nan"), float("nan"))
    stack = np.stack(slices)
    seen = ~np.isnan(stack)
    walled = seen.any(axis=0)
    segments = np.where(seen, stack, 0).sum(axis=0)[walled] / seen.sum(axis=0)[walled]
    return WallThickness(float(segments.mean()), float(segments.max()))


def indices(
    labels: Labels, spacing_mm: Spacing, ed_frame: int | None = None, es_frame: int | None = None
) -> Indices:
    """All clinical indices of one scan from its (t, z, y, x) labels.

    A phase that is not given is found in the LV volume curve where there are frames enough. Never fails on
    a poor segmentation; a given frame that the scan does not have raises `ValueError`.
    """
    ed, es = _phases(labels, spacing_mm, ed_frame, es_frame)
    lv_edv, lv_esv = (_measured_ml(labels, spacing_mm, t, Structure.LV) for t in (ed, es))
    rv_edv, rv_esv = (_measured_ml(labels, spacing_mm, t, Structure.RV) for t in (ed, es))
    weighed = 0 if ed is None and len(labels) == 1 else ed
    wall_ed, wall_es = (
        WallThickness(float("nan"), float("nan")) if t is None else wall_thickness_mm(labels[t], spacing_mm)
        for t in (ed, es)
    )
    return Indices(
        ed_frame=ed,
        es_frame=es,
        lv_edv_ml=lv_edv,
        lv_esv_ml=lv_esv,
        lv_sv_ml=stroke_volume_ml(lv_edv, lv_esv),
        lv_ef_percent=ejection_fraction_percent(lv_edv, lv_esv),
        lv_mass_g=mass_g(_measured_ml(labels, spacing_mm, weighed, Structure.MYO)),
        rv_edv_ml=rv_edv,
        rv_esv_ml=rv_esv,
        rv_sv_ml=stroke_volume_ml(rv_edv, rv_esv),
        rv_ef_percent=ejection_fraction_percent(rv_edv, rv_esv),
        wall_thickness_ed_mm=wall_ed.mean_mm,
        wall_thickness_ed_max_mm=wall_ed.max_mm,
        wall_thickness_es_mm=wall_es.mean_mm,
        wall_thickness_es_max_mm=wall_es.max_mm,
        scar_mass_g=mass_g(_measured_ml(labels, spacing_mm, weighed, Structure.SCAR)),
    )


def _phases(
    labels: Labels, spacing_mm: Spacing, ed_frame: int | None, es_frame: int | None
) -> tuple[int | None, int | None]:
    for name, frame in (("ED", ed_frame), ("ES", es_frame)):
        if frame is not None and not 0 <= frame < len(labels):
            raise ValueError(
                f"{name} frame {frame} does not exist; the scan has frames 0 to {len(labels) - 1}"
            )
    if ed_frame is not None and es_frame is not None:
        return ed_frame, es_frame
    found = find_ed_es(volume_curve_ml(labels, spacing_mm, Structure.LV))
    found_ed, found_es = found if found else (None, None)
    return (
        found_ed if ed_frame is None else ed_frame,
        found_es if es_frame is None else es_frame,
    )


def _measured_ml(labels: Labels, spacing_mm: Spacing, frame: int | None, structure: Structure) -> float:
    if frame is None:
        return float("nan")
    volume = float(volume_curve_ml(labels[frame : frame + 1], spacing_mm, structure)[0])
    return volume if volume > 0 else float("nan")


def _segment_thickness_mm(plane: Labels, pixel_mm: Sequence[float]) -> NDArray[np.float64]:
    """Thickness in each segment of one (y, x) slice that holds cavity and wall; nan in one without wall."""
    cavity, wall, right = plane == Structure.LV, plane == Structure.MYO, plane == Structure.RV
    centre = _centroid_mm(cavity, pixel_mm)
    toward = _centroid_mm(right, pixel_mm) - centre if right.any() else np.array([0.0, 1.0])
    start = math.atan2(toward[0], toward[1])
    cavity_mm2 = _segment_areas_mm2(cavity, pixel_mm, centre, start)
    wall_mm2 = _segment_areas_mm2(wall, pixel_mm, centre, start)
    half_angle = math.pi / SEGMENTS
    thickness = np.sqrt((cavity_mm2 + wall_mm2) / half_angle) - np.sqrt(cavity_mm2 / half_angle)
    return np.where(wall_mm2 > 0, thickness, np.nan)


def _segment_areas_mm2(
    mask: Mask, pixel_mm: Sequence[float], centre: NDArray[np.float64], start: float
) -> NDArray[np.float64]:
    box = bounding_box(mask)
    assert box is not None
    offsets = (np.arange(_SUBSAMPLES) + 0.5) / _SUBSAMPLES - 0.5
    rows, columns = (
        (np.arange(b.start, b.stop)[:, None] + offsets).ravel() * step - middle
        for b, step, middle in zip(box, pixel_mm, centre, strict=True)
    )
    angle = (np.arctan2(rows[:, None], columns[None, :]) - start) % (2 * math.pi)
    segment = np.minimum((angle * SEGMENTS / (2 * math.pi)).astype(np.intp), SEGMENTS - 1)
    fine = mask[box].repeat(_SUBSAMPLES, axis=0).repeat(_SUBSAMPLES, axis=1)
    counts = np.bincount(segment[fine], minlength=SEGMENTS)
    return np.asarray(counts * (math.prod(pixel_mm) / _SUBSAMPLES**2), np.float64)


def _centroid_mm(mask: Mask, pixel_mm: Sequence[float]) -> NDArray[np.float64]:
    return np.asarray(np.argwhere(mask).mean(axis=0) * pixel_mm, np.float64)
