"""A tree of DICOM studies becomes NIfTI files beside the cohort.csv, and rows that name them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from crossbeat.cohort import Row, read_cohort
from crossbeat.data.dicom import Stack, frame_interval_ms, guess_sequence, read_folder, top_folder
from crossbeat.data.listing import Layout, Listing, place
from crossbeat.data.nifti import read_volume, write_volume
from crossbeat.data.series import Guess, SeriesHeader, names_no_patient
from crossbeat.errors import CohortError, FileError

_ABOVE: Final = 5  # a DICOM export nests DICOM/PA000000/ST000000/SE000001
_LONGEST: Final = 40  # characters of a series' description in a file name
_NOBODYS: Final = frozenset({  # folders that hold anything: no patient is called by them
    "root", "mnt", "media", "volumes", "run", "tmp", "temp", "var", "data", "dataset", "datasets", "desktop",
    "documents", "downloads", "export", "exports", "import", "imports", "input", "inputs", "raw", "public", "shared",
    "home", "users",
})  # fmt: skip


@dataclass(frozen=True)
class _Found:
    subject: str
    stack: Stack
    guess: Guess


def index_dicom(root: Path, folder: Path, sequence: str = "", listed: Iterable[Path] = ()) -> Listing:
    """One row a short-axis stack, written to `nifti/` in `folder`; every other series is a remark.

    `root` is one patient's folder or holds several. A subject is what the headers call one study, and within a
    folder one patient; it gets the name of its folder in `root`, or of `root` where several make it up. A single
    patient is never called CINESAX or DICOM, but by the next folder above with a name of its own, and a remark says
    so. Patients' names and numbers in the headers are never copied. A scan is called by subject and sequence, and
    where there are several of one by the series' description or number. Without a `sequence` it is guessed from the
    header's words.

    A file that is there already is only replaced where it holds the same voxels, or where the csv files in `folder`
    and those `listed` say that it was made from the same series; else `FileError`, before anything is written.
    """
    if not root.is_dir():
        raise FileError(root, "there is no such folder")
    stacks, refused = read_folder(root)
    subjects, joined = _subjects(root, stacks)
    remarks = [*map(str, refused), *joined]
    guesses = [Guess(sequence, "") if sequence else guess_sequence(stack) for stack in stacks]
    found = [_Found(*one) for one in zip(subjects, stacks, guesses, strict=True)]
    found.sort(key=lambda one: one.subject)
    if not found:
        reasons = "; ".join(remarks[:3]) or "no DICOM file is there"
        raise FileError(root, f"holds no short-axis stack: {reasons}")
    rows, scans = [], _scan_names(found)
    _refuse_other_sources(found, scans, folder, [*sorted(folder.glob("*.csv")), *listed])
    for one, scan in zip(found, scans, strict=True):
        remarks += [f"{scan}: {note}" for note in one.stack.notes]
        if one.guess.remark:
            remarks.append(f"{scan}: {one.guess.remark}")
        rows.append(
            write_stack(one.stack, _image_path(folder, scan), one.subject, one.guess.sequence, folder)
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
        source=_source(stack, folder),
    )


def _image_path(folder: Path, scan: str) -> Path:
    return folder / "nifti" / f"{scan}.nii.gz"


def _source(stack: Stack, folder: Path) -> str:
    return f"{place(stack.header.folder, folder)} series {stack.header.name}"


def _refuse_other_sources(found: list[_Found], scans: list[str], folder: Path, listed: list[Path]) -> None:
    """Two patients' folders may give one name: one's voxels must never stand in the file of the other's."""
    files = [_image_path(folder, scan) for scan in scans]
    if not any(path.exists() for path in files):
        return
    known = _known_sources(listed, folder)
    for one, path in zip(found, files, strict=True):
        if not path.exists():
            continue
        source, earlier = _source(one.stack, folder), known.get(path.resolve(), set())
        if earlier != {source} and not _holds(path, one.stack):
            other = " and ".join(sorted(earlier - {source})) or "a series that no cohort.csv here names"
            raise FileError(
                path,
                f"was made from {other}, not from {source}, and would be lost; choose another folder with -o, "
                "give the patients' folders names of their own, or remove the file if it is the same patient's",
            )


def _known_sources(listed: list[Path], folder: Path) -> dict[Path, set[str]]:
    """Of each image, from which series the csv files say that it was made; other tables are passed over."""
    known: dict[Path, set[str]] = {}
    for path in listed:
        try:
            rows = read_cohort(path).rows if path.exists() else ()
        except CohortError:
            continue
        for row in rows:
            for name in row.image_files if row.source else ():
                known.setdefault((path.parent / name).resolve(), set()).add(row.source)
    return known


def _holds(path: Path, stack: Stack) -> bool:
    """Whether a file holds these very voxels."""
    try:
        there = read_volume(path, warn=False)
    except FileError:
        return False
    return np.array_equal(there.array, stack.array) and np.allclose(there.affine, stack.affine, atol=1e-3)


def _subjects(root: Path, stacks: list[Stack]) -> tuple[list[str], list[str]]:
    """The subject of each stack, and a remark for each subject whose stacks lie in several folders."""
    tops = [{top_folder(path, root) for path in stack.files.ravel().tolist()} for stack in stacks]
    groups = _same_subject([_keys(s.header, t) for s, t in zip(stacks, tops, strict=True)])
    groups.sort(key=lambda group: (stacks[group[0]].header.patient, stacks[group[0]].header.study))
    folders = [sorted({top for i in group for top in tops[i]} - {""}) for group in groups]
    bases, remarks = [], list[str]()
    for group, names in zip(groups, folders, strict=True):
        whole = len(groups) == 1 and (len(names) > 1 or any("" in tops[i] for i in group))
        base = root if whole or not names else root / names[0]
        own = _own_place(base, root) if len(groups) == 1 else base
        bases.append(own.name)
        if own in root.parents:
            remarks.append(
                f"{own.name}: so called after the folder {own}, for {root.name!r} does not say whose scans it holds; "
                "if that is no patient's name, rename the folder"
            )
    subjects = [""] * len(stacks)
    for group, names, subject in zip(groups, folders, _numbered(bases), strict=True):
        for i in group:
            subjects[i] = subject
        if any(tops[i] != tops[group[0]] for i in group):
            remarks.append(
                f"{subject}: its study lies in the folders {', '.join(names)}, taken for one subject"
            )
    return subjects, remarks


def _own_place(folder: Path, root: Path) -> Path:
    """The folder, or the nearest one above, whose name says whose scans these are; at worst the folder itself.

    From `root` up a name tells as soon as others of its pattern lie beside it, as PA002 beside PA001: they may be of
    other patients.
    """
    for here in [folder, *folder.parents][:_ABOVE]:
        if here != folder and _is_nobodys(here):
            break
        among_others = (here == root or here in root.parents) and _has_siblings(here)
        if not names_no_patient(here.name) or among_others:
            return here
    return folder


def _has_siblings(folder: Path) -> bool:
    """Whether folders lie beside it whose names differ from its own in digits alone, as PA002 beside PA001."""
    pattern = _without_digits(folder.name)
    try:
        beside = [other for other in folder.parent.iterdir() if other.name != folder.name]
    except OSError:  # a folder may be readable where the one above is not
        return False
    return any(_without_digits(other.name) == pattern and other.is_dir() for other in beside)


def _without_digits(name: str) -> str:
    return re.sub(r"\d+", "0", name.lower())


def _is_nobodys(folder: Path) -> bool:
    """Whether a folder is somebody's home, or holds things of all kinds."""
    home = folder == Path.home() or folder.parent.name.lower() in ("home", "users")
    return home or not folder.name or folder.name.lower() in _NOBODYS


def _keys(header: SeriesHeader, tops: set[str]) -> set[tuple[str, ...]]:
    """What makes stacks those of one subject, as soon as they share one of these.

    The same study; the same patient within one folder. In `root` itself images without a PatientID are told
    apart by their study.
    """
    keys: set[tuple[str, ...]] = {
        ("folder", top, header.patient) for top in tops if top or header.patient or not header.study
    }
    return keys | ({("study", header.patient, header.study)} if header.study else set())


def _same_subject(keys: list[set[tuple[str, ...]]]) -> list[list[int]]:
    """Indices of those that share a key, directly or by way of others."""
    groups: list[tuple[set[tuple[str, ...]], list[int]]] = []
    for i, own in enumerate(keys):
        touching = [group for group in groups if group[0] & own]
        groups = [group for group in groups if not group[0] & own]
        members = sorted([i, *(j for group in touching for j in group[1])])
        groups.append((own.union(*(group[0] for group in touching)), members))
    return [members for _, members in groups]


def _scan_names(found: list[_Found]) -> list[str]:
    """subject_sequence; where a subject has several of one sequence, with what tells their series apart."""
    bases = [f"{f.subject}_{f.guess.sequence}" for f in found]
    names = list(bases)
    for base, times in Counter(bases).items():
        several = [i for i, one in enumerate(bases) if one == base]
        told = _told_apart([found[i].stack.header for i in several]) if times > 1 else [""]
        for i, word in zip(several, told, strict=True):
            names[i] = f"{base}_{word}" if word else base
    return _numbered(names)


def _told_apart(headers: list[SeriesHeader]) -> list[str]:
    """Each series' description in letters that any file system takes, or its number; '' where neither differs."""
    descriptions = [re.sub(r"[^\w-]+", "_", h.description).strip("_")[:_LONGEST] for h in headers]
    numbers = ["" if h.number is None else str(h.number) for h in headers]
    for words in (descriptions, numbers):
        if all(words) and len({word.lower() for word in words}) == len(words):
            return words
    return [""] * len(headers)


def _numbered(bases: list[str]) -> list[str]:
    """Names with a number behind those that occur more than once, such that none is there twice."""
    total, seen, names = Counter(bases), Counter[str](), []
    for base in bases:
        name = base
        while total[base] > 1 and (name == base or name in total):
            seen[base] += 1
            name = f"{base}_{seen[base]}"
        names.append(name)
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
