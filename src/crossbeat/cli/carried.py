"""A trained registration and a cohort of cines → a folder of carried labels, their confidence, fields and pictures.

The folder has `labels/<scan>.nii.gz`, `fields/` on request, `figures/<scan>.png`, `confidence.csv` (a line a frame),
`cohort.csv` and `propagation.html`.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from crossbeat.cli import folders
from crossbeat.cli.folders import as_file_name
from crossbeat.cohort import Cohort, Row, write_cohort
from crossbeat.data.listing import place
from crossbeat.data.nifti import sidecar, write_displacement, write_labels
from crossbeat.errors import RunError
from crossbeat.labels import TRAINED, Structure
from crossbeat.methods.propagation import Carried, Registrar, carry, find_sources, load_registrar
from crossbeat.metrics.clinical import volume_curve_ml
from crossbeat.networks.deformation import jacobian_determinant
from crossbeat.report.motion import Motion, largest_motion, look
from crossbeat.report.motion_page import FrameLine, MotionPage, ScanMotion, scan_motion, write_motion_page
from crossbeat.report.writing import write_whole

COLUMNS: Final = tuple(f.name for f in fields(FrameLine))
"""Of confidence.csv."""

PAGE: Final = "propagation.html"


@dataclass(frozen=True)
class Task:
    """What to carry labels with, from which frames, and where to."""

    run: Path
    registrar: Registrar
    which: Literal["ed", "ed_es"]
    out: Path
    fields: bool
    """Whether displacements are written too."""


@dataclass(frozen=True)
class CarriedScan:
    """A scan that was carried: its new row, as seen from the folder, and how it looks on the page."""

    row: Row
    view: ScanMotion


def load_registration(run: Path, device: torch.device) -> Registrar:
    """The registration of a run folder; `RunError` where the run has none."""
    folder = run / "models" / "registration"
    if not folder.is_dir():
        raise RunError(
            f"{run}: has no models/registration; give a run of `crossbeat train propagation` that carried labels "
            "(with synthetic_labels, and of scans with more frames than one)"
        )
    return load_registrar(folder, device)


def open_folder(out: Path, cohort: Cohort, overwrite: bool) -> None:
    """Make the folder of a propagation, or clear it of an earlier one; see `folders.open_folder`."""
    work = folders.Work("propagation", "carried labels", "confidence.csv", PAGE, _files_of)
    folders.open_folder(out, cohort, (row.scan for row in cohort), work, overwrite=overwrite)


def carry_cohort(
    cohort: Cohort, task: Task, *, progress: Callable[[Row], None] = lambda row: None
) -> tuple[list[CarriedScan], list[str]]:
    """Carry every scan and write its files; the others go on where one fails, and its problem is in the answer."""
    return folders.each_scan(
        cohort,
        task.out,
        lambda row, before: _carry_scan(row, cohort, task, before),
        lambda row: _files_of(row.scan, task.out),
        progress,
    )


def write_results(scans: Sequence[CarriedScan], failures: Sequence[str], cohort: Cohort, task: Task) -> Path:
    """Write confidence.csv, cohort.csv and the page of scans whose files are there; the path of the page."""
    write_whole(task.out / "confidence.csv", _as_csv([line for scan in scans for line in scan.view.lines]))
    rows = tuple(scan.row for scan in scans)
    write_cohort(Cohort(rows, name=cohort.name, folder=task.out), task.out / "cohort.csv")
    network, grid = task.registrar.network, task.registrar.preparation
    moves = "through the slices too" if network.arguments["through_plane"] else "each slice in its own plane"
    page = MotionPage(
        [scan.view for scan in scans],
        failures,
        [
            ("Run", str(task.run)),
            ("Cohort", str(cohort.folder / f"{cohort.name}.csv")),
            ("Carried from", {"ed": "ED", "ed_es": "ED and ES"}[task.which]),
            (
                "Registration",
                f"{network.dimensions}-D, {moves}; {network.integration_steps} integration steps",
            ),
            ("Its window", f"{grid.size} x {grid.size} pixels of {grid.spacing_mm:g} mm"),
        ],
        f"crossbeat check {task.out / 'cohort.csv'}",
        {row.scan: f"figures/{row.scan}.png" for row in rows},
    )
    return write_motion_page(task.out / PAGE, page)


def _carry_scan(row: Row, cohort: Cohort, task: Task, number: int) -> CarriedScan:
    labels, field, figure, *_ = _files_of(row.scan, task.out)
    named = place(labels.resolve(), task.out.resolve())
    case = cohort.read(row)
    found = carry(case, find_sources(row, case, task.which), task.registrar, keep_displacement=True)
    images = [cohort.folder / name for name in row.image_files]
    about = {"run": str(task.run), "carried_from": list(found.sources)}
    write_labels(labels, found.labels, images, about)
    moved_mm = _in_mm(found)
    if task.fields:
        write_displacement(field, moved_mm, found.sources[0], images, about)
    view = _view(row, found, moved_mm, number)
    write_whole(figure, view.picture)
    return CarriedScan(_new_row(row, found, named, cohort.folder, task.out), view)


def _view(row: Row, found: Carried, moved_mm: NDArray[np.float32], number: int) -> ScanMotion:
    """The pictures: the slice in the middle of the first drawn frame's heart, and its largest motion since."""
    assert found.displacement is not None
    frame = largest_motion(moved_mm, np.isin(found.labels, TRAINED))
    sight = look(found.case, found.sources[0])
    field = found.displacement[frame]
    jacobian = jacobian_determinant(field[None])[0, sight.z]
    motion = Motion(frame, found.sources[0], field[-2:, sight.z].numpy(), jacobian.numpy())
    return scan_motion(row, found.case, _lines(row, found), motion, sight, number)


def _lines(row: Row, found: Carried) -> list[FrameLine]:
    case = found.case
    times = np.full(case.frames, math.nan) if case.frame_times_ms is None else case.frame_times_ms
    measured = Structure.LV in case.drawn[found.sources[0]] and case.image.shape[1] > 1
    volumes = volume_curve_ml(found.labels, case.spacing_mm, Structure.LV)
    sources = ";".join(map(str, found.sources))
    return [
        FrameLine(
            row.scan,
            row.subject,
            record.frame,
            float(times[record.frame]),
            str(record.frame) if record.labelled else sources,
            record.agreement,
            record.similarity,
            record.regularity,
            record.smallest_jacobian,
            record.coverage,
            record.confidence,
            float(volumes[record.frame]) if measured else math.nan,
        )
        for record in found.frames
    ]


def _in_mm(found: Carried) -> NDArray[np.float32]:
    """(t, 3, z, y, x) mm along z, y and x of our axes."""
    assert found.displacement is not None
    voxels = found.displacement.numpy()
    t, d, *grid = voxels.shape
    in_mm = np.zeros((t, 3, *grid), np.float32)
    in_mm[:, 3 - d :] = voxels * np.reshape(found.case.spacing_mm[3 - d :], (d, 1, 1, 1))
    return in_mm


def _new_row(row: Row, found: Carried, labels: str, old: Path, new: Path) -> Row:
    """The row of the new cohort.csv, its paths as seen from there."""
    images = (os.path.relpath((old / name).resolve(), new.resolve()) for name in row.image_files)
    return replace(
        row,
        image=";".join(Path(image).as_posix() for image in images),
        labels=labels,
        convention="crossbeat",
        structures=",".join(s.name for s in TRAINED if s in found.case.drawn[found.sources[0]]),
        further={**row.further, "carried_from": ";".join(map(str, found.sources))},
    )


def _as_csv(lines: Sequence[FrameLine]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in astuple(line)] for line in lines)
    return text.getvalue()


def _files_of(scan: str, out: Path) -> list[Path]:
    """Everything that is written of a scan alone: labels, displacement, picture, and what lies beside them."""
    name = as_file_name(scan)
    labels, field = (out / part / f"{name}.nii.gz" for part in ("labels", "fields"))
    return [labels, field, out / "figures" / f"{scan}.png", sidecar(labels), sidecar(field)]
