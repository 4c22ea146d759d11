"""A tree of DICOM studies becomes NIfTI files beside the cohort.csv, and rows that name them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crossbeat.cohort import Row
from crossbeat.data.dicom import Stack, frame_interval_ms, guess_sequence, read_folder
from crossbeat.data.listing import Layout, Listing, place
from crossbeat.data.nifti import write_volume
from crossbeat.errors import FileError


@dataclass(frozen=True)
class _Found:
    subject: str
    stack: Stack
    sequence: str


def index_dicom(root: Path, folder: Path, sequence: str = "") -> Listing:
    """One row a short-axis stack, written to `nifti/` in `folder`; every other series is a remark.

    A subject is a folder directly in `root`, or `root` itself where the images lie there; names in the
    headers are never copied. Without a `sequence` it is guessed from the header's words.
    """
    if not root.is_dir():
        raise FileError(root, "there is no such folder")
    parts = sorted(p for p in root.iterdir() if p.is_dir())
    loose = any(p.is_file() for p in root.iterdir())
    found, remarks = [], []
    for part in [root] if loose or not parts else parts:
        stacks, refused = read_folder(part)
        remarks += [str(r) for r in refused]
        subjects = _subjects(part.name, stacks)
        found += [_Found(s, k, sequence or guess_sequence(k)) for s, k in zip(subjects, stacks, strict=True)]
    if not found:
        reasons = "; ".join(remarks[:3]) or "no DICOM file is there"
        raise FileError(root, f"holds no short-axis stack: {reasons}")
    rows = []
    for one, scan in zip(found, _scan_names(found), strict=True):
        remarks += [f"{scan}: {note}" for note in one.stack.notes]
        if one.sequence == "unknown":
            remarks.append(f"{scan}: its header does not tell the sequence; say it with sequence=…")
        rows.append(
            write_stack(one.stack, folder / "nifti" / f"{scan}.nii.gz", one.subject, one.sequence, folder)
        )
    return Listing(tuple(rows), tuple(remarks))


def write_stack(stack: Stack, path: Path, subject: str, sequence: str, folder: Path) -> Row:
    """Write a stack as NIfTI and give its row; `source` keeps the original folder and series."""
    interval = frame_interval_ms(stack)
    write_volume(
        path, stack.array, stack.affine, frame_interval_ms=interval, description=stack.header.description
    )
    return Row(
        subject=subject,
        scan=path.name.removesuffix(".nii.gz"),
        sequence=sequence,
        vendor=stack.header.vendor,
        image=place(path, folder),
        frame_interval_ms=None if interval is None else round(interval, 3),
        source=f"{place(stack.header.folder, folder)} series {stack.header.name}",
    )


def _subjects(name: str, stacks: list[Stack]) -> list[str]:
    """The folder's name; numbered by patient where images of several patients lie in it."""
    patients = sorted({s.header.patient for s in stacks})
    if len(patients) < 2:
        return [name] * len(stacks)
    return [f"{name}_{patients.index(s.header.patient) + 1}" for s in stacks]


def _scan_names(found: list[_Found]) -> list[str]:
    """subject_sequence, numbered where a subject has several of one sequence."""
    bases = [f"{f.subject}_{f.sequence}" for f in found]
    total, seen, names = Counter(bases), Counter[str](), []
    for base in bases:
        seen[base] += 1
        names.append(f"{base}_{seen[base]}" if total[base] > 1 else base)
    return names


DICOM: Final = Layout(
    name="dicom",
    title="Any tree of DICOM studies",
    licence="the owner's",
    source="yours; DICOM PS3.3",
    convention="",
    index=index_dicom,
    options=("sequence",),
)
