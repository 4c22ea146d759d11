"""What `predict` takes and leaves behind: any input as a cohort; a folder of label maps that knows its scans.

The folder holds `<scan>.nii.gz` with a JSON that names its labels, and a `cohort.csv` of the scans predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from numpy.typing import NDArray

from crossbeat.cohort import Cohort, Row, read_cohort, write_cohort
from crossbeat.data.listing import add_conventions, nifti_files, place, stem
from crossbeat.data.nifti import sidecar, write_labels
from crossbeat.data.reading import read_grid, read_labels, reader
from crossbeat.data.studies import index_dicom
from crossbeat.errors import CaseError, FileError, RunError, SettingsError
from crossbeat.labels import UNKNOWN, Structure

CONVERTED: Final = "converted"
"""Folder, inside that of the label maps, of NIfTI files made from DICOM."""


def choose_folder(run: Path, path: Path) -> Path:
    """Where label maps of an input go when nobody says: into the run, if they are of a cohort.csv.

    Files and folders that nobody listed raise `SettingsError`: among the run's they would be scored and measured.
    What is not there is left to `open_input`.
    """
    if path.suffix != ".csv" and path.exists():
        raise SettingsError(
            f"{path}: is no cohort.csv, so say where its label maps go, as in `-o segmented`; "
            f"{run / 'predictions'} is for the scans of a cohort"
        )
    return run / "predictions"


def open_input(path: Path, out: Path, sequence: str) -> tuple[Cohort, tuple[str, ...]]:
    """A cohort.csv, a NIfTI file, or a folder of NIfTI or DICOM files as a cohort, and remarks on what is left out.

    `sequence` is what single files and folders hold; without it NIfTI is taken for bssfp, and DICOM tells by its
    headers. DICOM becomes NIfTI in `out`, and what lies there already is no input. A path that is none of
    these, a folder with neither, and files that would get one scan name raise `FileError`.
    """
    if path.suffix == ".csv":
        if sequence:
            raise SettingsError(
                f"--sequence {sequence}: a cohort.csv says itself what its scans are; choose rows with "
                f"--where sequence={sequence}"
            )
        return read_cohort(path, reader), ()
    if path.is_file():
        if not path.name.endswith((".nii", ".nii.gz")):
            raise FileError(
                path,
                "is neither a cohort.csv nor a .nii or .nii.gz file; a DICOM series is given by its folder",
            )
        return _of_files([path], path.parent, sequence or "bssfp"), ()
    if not path.is_dir():
        raise FileError(
            path, "does not exist; give a cohort.csv, a NIfTI file, or a folder of NIfTI or DICOM files"
        )
    _refuse_same_folder(out, path)
    found = [file for file in nifti_files(path) if not file.resolve().is_relative_to(out.resolve())]
    if found:
        return _of_files(found, path, sequence or "bssfp"), ()
    folder = out / CONVERTED
    _refuse_other_patients(path, out)
    listing = index_dicom(path.resolve(), folder.resolve(), sequence, [out / "cohort.csv"])
    return Cohort(tuple(listing.rows), reader(folder, {}), path.name, folder), listing.remarks


def _refuse_other_patients(path: Path, out: Path) -> None:
    """Folders of different patients often have the same names inside: one's scans must not replace another's."""
    if not (out / "cohort.csv").exists():
        return
    for row in read_cohort(out / "cohort.csv"):
        if not row.image.startswith(f"{CONVERTED}/"):
            continue
        source = (out / CONVERTED / row.source.rpartition(" series ")[0]).resolve()
        if not source.is_relative_to(path.resolve()):
            raise FileError(
                out, f"holds scans made from {source}, not from {path}; choose another folder with -o"
            )


@dataclass(frozen=True)
class PredictionWriter:
    """Writes a scan's label map into the folder, on the grid of its image, and remembers which show no heart."""

    folder: Path
    images: Path
    """What the paths of the rows are relative to."""
    provenance: Mapping[str, Any]
    written: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    without_lv: list[str] = field(default_factory=list)

    def __call__(self, row: Row, labels: NDArray[np.uint8]) -> None:
        images = [self.images / name for name in row.image_files]
        like = images[0] if len(images) == 1 else images
        write_labels(prediction_path(self.folder, row), labels, like, self.provenance)
        self.written.append(row.scan)
        if not np.isin(labels, [Structure.BACKGROUND, UNKNOWN], invert=True).any():
            self.empty.append(row.scan)
        elif not (labels == Structure.LV).any():
            self.without_lv.append(row.scan)

    def remarks(self) -> list[str]:
        """A sentence on the label maps without any heart, one on those without LV; none where all have it."""
        return [
            f"{len(scans)} of {len(self.written)} label maps {'hold' if len(scans) > 1 else 'holds'} no {what}: "
            f"{', '.join(scans)}"
            for what, scans in (("heart", self.empty), ("LV", self.without_lv))
            if scans
        ]


def prediction_writer(folder: Path, cohort: Cohort, provenance: Mapping[str, Any]) -> PredictionWriter:
    """What writes the label maps of a cohort's scans into the folder.

    Label maps that an earlier prediction left of these scans are removed first, lest one of them stand for a scan
    that fails now. Other scans whose label maps lie there stay in the folder's cohort.csv. A run folder, and one
    that holds the scans or their cohort.csv themselves, raise `RunError`.
    """
    _refuse_same_folder(folder, cohort.folder)
    if (folder / "run.json").exists():
        raise RunError(f"{folder}: is a run folder; label maps need a folder of their own, give one with -o")
    earlier = _earlier_scans(folder, cohort)
    conventions = _all_conventions(folder, earlier, cohort)
    for row in cohort:
        path = prediction_path(folder, row)
        if path.resolve() in {(cohort.folder / name).resolve() for name in _files(row)}:
            raise RunError(
                f"{path}: is a scan or its reference, not a label map of ours; choose another folder"
            )
        path.unlink(missing_ok=True)
        sidecar(path).unlink(missing_ok=True)
    kept = {row.scan: _seen_from(row, folder, cohort.folder) for row in earlier}
    rows = (kept | {row.scan: row for row in cohort}).values()
    write_cohort(replace(cohort, rows=tuple(rows)), folder / "cohort.csv")
    if conventions:
        add_conventions(folder, conventions)
    return PredictionWriter(folder, cohort.folder, provenance)


def prediction_reader(
    folder: Path, cohort: Cohort | None = None
) -> Callable[[Row], NDArray[np.uint8] | None]:
    """The function that reads a scan's label map (t, z, y, x) back, None where there is none.

    `folder` is a run folder or one of label maps. With a cohort, the label map must lie on
    its scan's grid, by the headers of both.
    """
    folder = _label_maps(folder)

    def read(row: Row) -> NDArray[np.uint8] | None:
        path = prediction_path(folder, row)
        if not path.exists():
            return None
        return read_labels(path, read_grid(row, cohort.folder) if cohort else None)

    return read


def open_predictions(folder: Path) -> Cohort:
    """The scans of a run folder, or of a folder of label maps; each has its label map.

    `RunError` where there is no cohort.csv of predicted scans, and where scans that it lists lack their label
    map: it names them.
    """
    folder = _label_maps(folder)
    if not (folder / "cohort.csv").exists():
        raise RunError(f"{folder}: holds no label maps with their cohort.csv; `crossbeat predict` makes them")
    cohort = read_cohort(folder / "cohort.csv", reader)
    missing = [row.scan for row in cohort if not prediction_path(folder, row).exists()]
    if missing or not len(cohort):
        named = f": {', '.join(missing)}" if missing else ""
        raise RunError(
            f"{folder}: {len(missing)} of its {len(cohort)} scans have no label map{named}; run `crossbeat predict` "
            "on them again, or take their rows out of the cohort.csv there"
        )
    return cohort


def prediction_path(folder: Path, row: Row) -> Path:
    """Where a scan's label map lies."""
    if "/" in row.scan or "\\" in row.scan or row.scan in (".", ".."):
        raise CaseError(row.scan, "a scan's name becomes a file name; it may hold no slash")
    return folder / f"{row.scan}.nii.gz"


def _label_maps(folder: Path) -> Path:
    return folder / "predictions" if (folder / "predictions").is_dir() else folder


def _refuse_same_folder(folder: Path, scans: Path) -> None:
    if folder.resolve() == scans.resolve():
        raise RunError(f"{folder}: holds the scans; label maps need a folder of their own, give one with -o")


def _earlier_scans(folder: Path, cohort: Cohort) -> list[Row]:
    """Rows of the folder's cohort.csv whose label maps are still there, but for the scans of `cohort`."""
    if not (folder / "cohort.csv").exists():
        return []
    again = {row.scan for row in cohort}
    rows = read_cohort(folder / "cohort.csv")
    return [row for row in rows if row.scan not in again and prediction_path(folder, row).exists()]


def _all_conventions(folder: Path, earlier: list[Row], cohort: Cohort) -> dict[str, Any]:
    """What conventions.yaml must say for earlier and new scans; one name with two meanings raises `RunError`."""
    used = {row.convention for row in earlier}
    old = {name: values for name, values in _own_conventions(folder).items() if name in used}
    new = _own_conventions(cohort.folder)
    for name in old.keys() & new.keys():
        if old[name] != new[name]:
            raise RunError(
                f"{folder}: holds label maps of scans whose label convention {name!r} means something else; "
                "choose another folder with -o"
            )
    return old | new if old else {}


def _own_conventions(folder: Path) -> dict[str, Any]:
    path = folder / "conventions.yaml"
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


def _seen_from(row: Row, old: Path, new: Path) -> Row:
    """A row of the cohort.csv in one folder with its paths as seen from another."""

    def path(name: str) -> str:
        return place((old / name).resolve(), new.resolve())

    images = ";".join(path(name) for name in row.image_files)
    labels = ";".join(path(n) if t is None else f"{t}={path(n)}" for t, n in row.label_files.items())
    return replace(row, image=images, labels=labels)


def _files(row: Row) -> list[str]:
    return [*row.image_files, *row.label_files.values()]


def _of_files(paths: list[Path], folder: Path, sequence: str) -> Cohort:
    names = [p.relative_to(folder).as_posix() for p in paths]
    rows = tuple(
        Row(scan, scan, sequence, name) for scan, name in zip(_scan_names(names, folder), names, strict=True)
    )
    return Cohort(rows, reader(folder, {}), folder.name, folder)


def _scan_names(names: list[str], folder: Path) -> list[str]:
    """The files' own names, with those of their folders where they alone would not tell them apart."""
    scans = [stem(Path(name)) for name in names]
    if len(set(scans)) < len(scans):
        scans = [stem(Path(name.replace("/", "_"))) for name in names]
    first: dict[str, str] = {}
    for scan, name in zip(scans, names, strict=True):
        if first.setdefault(scan, name) != name:
            raise FileError(
                folder,
                f"{first[scan]} and {name} would both be scan {scan!r}; rename one of them, or take one away",
            )
    return scans
