"""ACDC: `patientNNN/{Info.cfg, patientNNN_4d.nii.gz, patientNNN_frameMM.nii.gz, …_gt.nii.gz}` become rows.

Frames in Info.cfg and in file names count from 1; ours from 0. Where the 4-D cine is missing, the single
frames that are there stand as the scan's frames.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from crossbeat.cohort import Row
from crossbeat.data.listing import Layout, Listing, nothing_found, place
from crossbeat.errors import FileError

_SPLITS: Final = {"training": "train", "testing": "test"}


def index_acdc(root: Path, folder: Path) -> Listing:
    """One row a patient, in order of their numbers; `root` is the download, its training or its testing folder."""
    patients = sorted((p.parent for p in root.rglob("patient*/Info.cfg")), key=lambda p: p.name)
    if not patients:
        raise nothing_found(root, "training/patient001/Info.cfg and so on")
    rows, remarks = [], []
    incomplete = []
    for patient in patients:
        info = read_info_cfg(patient / "Info.cfg")
        row = _row(patient, folder, info)
        if row is None:
            remarks.append(f"{patient.name}: no image of its ED or ES frame, left out")
            continue
        rows.append(row)
        if not row.labels:
            remarks.append(f"{patient.name}: no labels beside its frames")
        if "Height" not in info:
            incomplete.append(patient.name)
    if incomplete:
        remarks.append(
            f"{len(incomplete)} patients ({incomplete[0]} …): Info.cfg lacks Height and Weight, so these are copies "
            "that somebody converted; if the voxel spacing was lost on the way, name the stand-in with "
            "--nominal-spacing 1.5x1.5x10 and these scans are marked nominal"
        )
    return Listing(tuple(rows), tuple(remarks))


def read_info_cfg(path: Path) -> dict[str, str]:
    """`Key: value` lines as a table; ED and ES must be there as whole numbers from 1."""
    pairs = (line.partition(":") for line in path.read_text(encoding="utf-8").splitlines())
    info = {key.strip(): value.strip() for key, colon, value in pairs if colon}
    for key in ("ED", "ES"):
        if not info.get(key, "").isdigit() or int(info[key]) < 1:
            raise FileError(path, f"{key} is {info.get(key, 'missing')!r}; it must be a frame number from 1")
    return info


def _row(patient: Path, folder: Path, info: dict[str, str]) -> Row | None:
    name = patient.name
    ed, es = int(info["ED"]), int(info["ES"])
    cine = _existing(patient, f"{name}_4d")
    if cine:
        images, frame_of = [cine], {n: n - 1 for n in (ed, es)}
    else:
        singles = _single_frames(patient)
        images = list(singles.values())
        frame_of = {number: i for i, number in enumerate(singles)}
    if ed not in frame_of or es not in frame_of:
        return None
    masks = {n: _existing(patient, f"{name}_frame{n:02d}_gt") for n in dict.fromkeys((ed, es))}
    labels = [f"{frame_of[n]}={place(path, folder)}" for n, path in masks.items() if path]
    further = {"height_cm": info.get("Height", ""), "weight_kg": info.get("Weight", "")}
    return Row(
        subject=name,
        scan=name,
        sequence="bssfp",
        vendor="Siemens",
        centre="Dijon",
        group=info.get("Group", ""),
        split=_SPLITS.get(patient.parent.name.lower(), ""),
        image=";".join(place(p, folder) for p in images),
        labels=";".join(labels),
        convention="acdc",
        ed_frame=frame_of[ed],
        es_frame=frame_of[es],
        further=further,
    )


def _single_frames(patient: Path) -> dict[int, Path]:
    """Frame number (from 1) to its file, in order of time."""
    pattern = re.compile(rf"{re.escape(patient.name)}_frame(\d+)\.nii(\.gz)?")
    found = {int(m[1]): p for p in patient.iterdir() if (m := pattern.fullmatch(p.name))}
    return dict(sorted(found.items()))


def _existing(patient: Path, stem: str) -> Path | None:
    return next((p for p in (patient / f"{stem}.nii.gz", patient / f"{stem}.nii") if p.exists()), None)


ACDC: Final = Layout(
    name="acdc",
    title="Automated Cardiac Diagnosis Challenge 2017",
    licence="CC BY-NC-SA 4.0",
    source="https://humanheart-project.creatis.insa-lyon.fr; Bernard 2018, doi 10.1109/TMI.2018.2837502",
    convention="acdc",
    index=index_acdc,
)
