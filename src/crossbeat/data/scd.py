"""Sunnybrook Cardiac Data 2009: cine DICOM and contour files become NIfTI, label maps and rows.

`…/SC-HF-I-1/CINESAX/IM-0001-0059.dcm` goes with `…/SC-HF-I-1/…/IM-0001-0059-icontour-manual.txt` (inner wall)
and `-ocontour-` (outer wall) by its last number. At ED both walls are drawn, at ES the inner one alone.
Slices and frames without a contour are UNKNOWN.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from crossbeat.cohort import Row
from crossbeat.data.dicom import Stack, read_folder
from crossbeat.data.listing import Layout, Listing, nothing_found, place
from crossbeat.data.nifti import write_volume
from crossbeat.data.studies import write_stack
from crossbeat.errors import FileError
from crossbeat.labels import UNKNOWN, Structure

_PATIENT: Final = re.compile(r"SC-(HF-I|HF-NI|HYP|N)-0*(\d+)")
_GROUPS: Final = {"HF-I": "infarct", "HF-NI": "failure without infarct", "HYP": "hypertrophic", "N": "normal"}
_CONTOUR: Final = re.compile(r".*?(\d+)-([io])contour-manual\.txt")
# The challenge's Matlab counts pixels from 1, so its (x, y) is the centre of our column x - 1, row y - 1. On the
# scans in hand the edge of the blood pool is sharpest under the contours when they are moved by -1.0 to -1.5.
_FIRST_PIXEL: Final = 1.0


@dataclass(frozen=True)
class _Contours:
    """Walls drawn on one image, as (n, 2) column and row with pixel centres at whole numbers from 0."""

    inner: NDArray[np.float64] | None = None
    outer: NDArray[np.float64] | None = None


def index_scd(root: Path, folder: Path) -> Listing:
    """One row a patient; image and labels are written to `scd/` in `folder`. ED and ES follow from the contours."""
    images, contours = _patients(root)
    if not images:
        raise nothing_found(root, "SC-HF-I-1/CINESAX/*.dcm and SC-HF-I-1/…/*-icontour-manual.txt")
    rows, remarks = [], []
    for patient in sorted(images, key=_order):
        stacks, refused = read_folder(images[patient])
        remarks += [str(r) for r in refused]
        stack = max(stacks, key=lambda s: s.array.size, default=None)
        if stack is None:
            remarks.append(f"{patient}: no short-axis cine, left out")
            continue
        row = write_stack(stack, folder / "scd" / f"{patient}.nii.gz", patient, "bssfp", folder)
        rows.append(_labelled(row, stack, contours.get(patient, []), folder, remarks))
    remarks += [f"{p}: contours without images" for p in sorted(set(contours) - set(images))]
    return Listing(tuple(rows), tuple(remarks))


def rasterise(polygon: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.bool_]:
    """Pixels (rows, columns) whose centre lies inside a closed polygon of (column, row) points.

    Even-odd rule; of centres that lie exactly on an edge those to its left and top are inside, so that two
    polygons that share an edge share no pixel, and areas are unbiased.
    """
    crossings = np.zeros((rows, columns + 1), np.int64)
    for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y1 == y2:
            continue
        low, high = sorted((y1, y2))
        y = np.arange(max(int(np.ceil(low)), 0), min(int(np.ceil(high)), rows))
        x = x1 + (y - y1) * (x2 - x1) / (y2 - y1)
        np.add.at(crossings, (y, np.clip(np.ceil(x), 0, columns).astype(int)), 1)
    to_the_right = crossings[:, ::-1].cumsum(axis=1)[:, ::-1]
    return np.asarray(to_the_right[:, 1:] % 2 == 1)


def _patients(root: Path) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    """The folder of each patient's short-axis images, and the patient's contour files."""
    images: dict[str, Path] = {}
    contours: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        owner = next((m for part in path.parts if (m := _PATIENT.fullmatch(part))), None)
        if owner is None:
            continue
        patient = f"SC-{owner[1]}-{int(owner[2])}"
        if _CONTOUR.fullmatch(path.name):
            contours[patient].append(path)
        elif path.suffix.lower() == ".dcm" and path.parent.name.upper().startswith(("CINESAX", "DICOM")):
            images.setdefault(patient, path.parent)
    return images, contours


def _order(patient: str) -> tuple[str, int]:
    kind, _, number = patient.rpartition("-")
    return kind, int(number)


def _labelled(row: Row, stack: Stack, files: list[Path], folder: Path, remarks: list[str]) -> Row:
    by_image = _read_contours(files)
    where = {_number(path): (t, z) for (t, z), path in np.ndenumerate(stack.files)}
    group = _GROUPS[row.subject.removeprefix("SC-").rpartition("-")[0]]
    strangers = sorted(set(by_image) - set(where))
    if strangers:
        remarks.append(f"{row.scan}: contours of images {strangers} that the series does not hold, left out")
    drawn: dict[int, dict[int, _Contours]] = defaultdict(dict)
    for number, contour in by_image.items():
        if number in where:
            t, z = where[number]
            drawn[t][z] = contour
    if not drawn:
        remarks.append(f"{row.scan}: no contours; left unlabelled")
        return replace(row, group=group, centre="Sunnybrook", convention="scd")
    labels, structures = _draw(stack, drawn, row.scan, remarks)
    path = folder / "scd" / f"{row.scan}_labels.nii.gz"
    write_volume(
        path, labels, stack.affine, frame_interval_ms=row.frame_interval_ms, description="scd contours"
    )
    both = {t: len(s) for t, s in drawn.items() if "MYO" in structures[t]}
    inner = {t: len(s) for t, s in drawn.items() if "MYO" not in structures[t]}
    return replace(
        row,
        group=group,
        centre="Sunnybrook",
        convention="scd",
        labels=place(path, folder),
        structures=";".join(f"{t}={structures[t]}" for t in sorted(structures)),
        ed_frame=max(both, key=lambda t: both[t], default=None),
        es_frame=max(inner, key=lambda t: inner[t], default=None),
    )


def _draw(
    stack: Stack, drawn: dict[int, dict[int, _Contours]], scan: str, remarks: list[str]
) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """Labels (t, z, y, x) and the structures of each drawn frame; slices that lack a wall stay UNKNOWN."""
    labels = np.full(stack.array.shape, UNKNOWN, np.uint8)
    structures = {}
    for t, slices in sorted(drawn.items()):
        with_wall = any(c.outer is not None for c in slices.values())
        structures[t] = "LV,MYO" if with_wall else "LV"
        for z, contour in sorted(slices.items()):
            if contour.inner is None or (with_wall and contour.outer is None):
                side = "inner" if contour.inner is None else "outer"
                remarks.append(f"{scan}: frame {t} slice {z} lacks its {side} contour, left unknown")
                continue
            labels[t, z] = _slice_labels(stack, contour)
    return labels, structures


def _slice_labels(stack: Stack, contour: _Contours) -> NDArray[np.uint8]:
    sizes = dict(zip(stack.turn.axes, stack.array.shape[1:], strict=True))
    columns, rows = sizes[0], sizes[1]
    stored = np.zeros((rows, columns), np.uint8)
    if contour.outer is not None:
        stored[rasterise(contour.outer, rows, columns)] = Structure.MYO
    if contour.inner is not None:
        stored[rasterise(contour.inner, rows, columns)] = Structure.LV
    return np.asarray(stack.turn.apply(stored.T[:, :, None])[0], np.uint8)


def _read_contours(files: list[Path]) -> dict[int, _Contours]:
    walls: dict[int, dict[str, NDArray[np.float64]]] = defaultdict(dict)
    for path in files:
        match = _CONTOUR.fullmatch(path.name)
        assert match is not None
        walls[int(match[1])][match[2]] = _read_polygon(path)
    return {number: _Contours(w.get("i"), w.get("o")) for number, w in walls.items()}


def _read_polygon(path: Path) -> NDArray[np.float64]:
    try:
        points = np.array(
            [line.split() for line in path.read_text().splitlines() if line.strip()], np.float64
        )
    except (ValueError, UnicodeDecodeError):
        raise FileError(path, "is no list of `x y` lines; unpack the contours again") from None
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
        raise FileError(path, f"holds no closed line of 3 or more `x y` points, but shape {points.shape}")
    return points - _FIRST_PIXEL


def _number(path: Path) -> int:
    digits = re.findall(r"\d+", path.stem)
    return int(digits[-1]) if digits else -1


SCD: Final = Layout(
    name="scd",
    title="Sunnybrook Cardiac Data (2009 Cardiac MR Left Ventricle Segmentation Challenge)",
    licence="CC0 1.0",
    source="https://www.cardiacatlas.org/sunnybrook-cardiac-data; Radau 2009, hdl 10380/3070",
    convention="scd",
    index=index_scd,
)
