"""A cohort goes in, every problem of its files comes out in one run, each with its remedy."""

from __future__ import annotations

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from crossbeat import geometry
from crossbeat.cohort import Cohort, Row
from crossbeat.data.nifti import Volume, read_volume
from crossbeat.data.reading import locate, read_image, read_label_file, restrict
from crossbeat.errors import CaseError, CrossbeatError, FileError, GeometryWarning
from crossbeat.labels import UNKNOWN, Convention, Structure, find_convention, looks_swapped
from crossbeat.splits import subjects_across_splits

_T = TypeVar("_T")
Severity = Literal["error", "warning", "note"]

# Cardiac MR as it is made: 0.3 mm would be a microscope or lost units, 4 mm a localiser; slices thinner than
# 1 mm are 3-D angiography, farther apart than 25 mm a survey.
_IN_PLANE_MM: Final = (0.3, 4.0)
_THROUGH_MM: Final = (1.0, 25.0)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong or worth knowing; `scan` and `file` are '' where it concerns several."""

    severity: Severity
    scan: str
    file: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.scan, self.file) if part) or "cohort"
        return f"{self.severity}: {where}: {self.problem}" + (f"; {self.remedy}" if self.remedy else "")


def told(problems: Sequence[Problem]) -> list[str]:
    """A line a problem; warnings and notes that say the same of several scans stand once, with the first of them."""
    alike: dict[tuple[str, str, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        alone = problem.scan + problem.file if problem.severity == "error" else ""
        alike[problem.severity, problem.problem + problem.remedy, alone].append(problem)
    lines = []
    for first, *others in alike.values():
        scans = dict.fromkeys(p.scan for p in (first, *others))
        if len(scans) == 1:
            lines += [str(p) for p in (first, *others)]
        else:
            lines.append(str(replace(first, scan=f"{len(scans)} scans, {first.scan} first", file="")))
    return lines


def check(
    cohort: Cohort,
    folder: Path,
    conventions: Mapping[str, Convention] | None = None,
    progress: Callable[[Row], None] | None = None,
) -> list[Problem]:
    """Open every file of the cohort whose csv stands in `folder`, and tell all that is wrong; [] if nothing is.

    Never stops at the first problem. `progress` is called with each row when it is done.
    """
    found: list[Problem] = []
    hashes: dict[str, list[Row]] = defaultdict(list)
    for row in cohort:
        problems, fingerprint = _check_row(row, folder, conventions or {})
        found += problems
        if fingerprint:
            hashes[fingerprint].append(row)
        if progress:
            progress(row)
    return [*found, *_twins(hashes), *_leaks(cohort), *_unlabelled(cohort)]


def _check_row(row: Row, folder: Path, own: Mapping[str, Convention]) -> tuple[list[Problem], str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", GeometryWarning)
        problems = list(_missing_files(row, folder))
        image = _image(row, folder, problems)
        if image is not None:
            problems += _of_image(row, image)
        problems += _of_labels(row, folder, own, image)
    for warning in caught:
        if issubclass(warning.category, GeometryWarning):
            problems.append(_repaired(row, folder, str(warning.message)))
    return problems, _fingerprint(image) if image is not None else ""


def _missing_files(row: Row, folder: Path) -> Iterator[Problem]:
    for name in [*row.image_files, *_label_names(row)]:
        if not locate(folder, name).is_file():
            remedy = "correct the path in the cohort.csv, or restore the file"
            yield Problem("error", row.scan, name, "there is no such file", remedy)


def _image(row: Row, folder: Path, problems: list[Problem]) -> Volume | None:
    """The scan, or None after a problem for each of its files that cannot be read."""
    there = [name for name in row.image_files if locate(folder, name).is_file()]
    if len(there) == len(row.image_files):
        before = len(problems)
        image = _try(row, folder, problems, lambda: read_image(row, folder))
        if image is not None or len(there) == 1:
            return image
        told = {p.file for p in problems[before:]}
        there = [name for name in there if name not in told]
    for name in there:
        _try(row, folder, problems, partial(read_volume, locate(folder, name), warn=False), name)
    return None


def _label_names(row: Row) -> list[str]:
    try:
        return list(dict.fromkeys(row.label_files.values()))
    except CrossbeatError:
        return []


def _of_image(row: Row, image: Volume) -> Iterator[Problem]:
    name = row.image_files[0]
    finite = np.isfinite(image.array)
    if not finite.all():
        count = int((~finite).sum())
        yield Problem(
            "error", row.scan, name, f"{count} voxels are NaN or infinite", "export it again or fill them"
        )
    constant = [t for t, frame in enumerate(image.array) if _flat(frame[finite[t]])]
    if len(constant) == len(image.array):
        yield Problem("error", row.scan, name, "the image is constant, it shows nothing", "export it again")
    elif constant:
        yield Problem("error", row.scan, name, f"frames {constant} are constant", "export them again")
    else:
        empty = sorted({z for frame in image.array for z in range(len(frame)) if _flat(frame[z])})
        if empty:
            yield Problem(
                "warning", row.scan, name, f"slices {empty} are constant in some frame", "leave them out"
            )
    yield from _of_spacing(row, image)
    for column, frame in (("ed_frame", row.ed_frame), ("es_frame", row.es_frame)):
        if frame is not None and frame >= len(image.array):
            yield Problem(
                "error",
                row.scan,
                name,
                f"{column} is {frame}, but the image has {len(image.array)} frames, numbered from 0",
                "correct the column; data sets that count from 1 need one less",
            )


def _of_spacing(row: Row, image: Volume) -> Iterator[Problem]:
    z, y, x = geometry.spacing_mm(image.affine)
    said = f"the spacing {x:.4g} x {y:.4g} x {z:.4g} mm (x, y, z)"
    bad_plane = any(not _IN_PLANE_MM[0] <= mm <= _IN_PLANE_MM[1] for mm in (x, y))
    if bad_plane or (image.array.shape[1] > 1 and not _THROUGH_MM[0] <= z <= _THROUGH_MM[1]):
        yield Problem(
            "error",
            row.scan,
            row.image_files[0],
            f"{said} is not plausible: in-plane {_IN_PLANE_MM[0]} to {_IN_PLANE_MM[1]:g}, "
            f"between slices {_THROUGH_MM[0]:g} to {_THROUGH_MM[1]:g} are",
            "set the true spacing in the header: every mm and ml depends on it",
        )
    if row.spacing_source == "nominal":
        text = f"{said} is nominal: mm and ml of this scan are no measurements"
        yield Problem("note", row.scan, row.image_files[0], text, "")


def _of_labels(row: Row, folder: Path, own: Mapping[str, Convention], image: Volume | None) -> list[Problem]:
    problems: list[Problem] = []
    files = _try(row, folder, problems, lambda: row.label_files)
    convention = _try(row, folder, problems, lambda: find_convention(row.convention, own)) if files else None
    if image is None:
        for name in dict.fromkeys((files or {}).values()):
            if locate(folder, name).is_file():
                _try(row, folder, problems, partial(read_volume, locate(folder, name), warn=False), name)
    if not files or convention is None or image is None:
        return problems
    frames = len(image.array)
    for frame, name in files.items():
        if not locate(folder, name).is_file():
            continue
        if frame is not None and frame >= frames:
            text = f"labels name frame {frame}, but the image has {frames} frames, numbered from 0"
            problems.append(Problem("error", row.scan, name, text, "correct the `labels` column"))
            continue
        read = _one_file(row, folder, name, convention, image, frame, problems)
        drawn = _try(row, folder, problems, partial(_drawn, row, own, frame, frames))
        if read is not None and drawn is not None:
            problems += _of_masks(row, name, read, drawn, frame)
    return problems


def _one_file(
    row: Row,
    folder: Path,
    name: str,
    convention: Convention,
    image: Volume,
    frame: int | None,
    problems: list[Problem],
) -> NDArray[np.uint8] | None:
    """(t, z, y, x) of one label file, t = 1 for a single frame; None where it cannot be read."""
    frames = len(image.array)
    found = _try(
        row,
        folder,
        problems,
        lambda: read_label_file(locate(folder, name), convention, image.info, frames, frame),
        name,
    )
    return found if found is None or frame is None else found[None]


def _drawn(
    row: Row, own: Mapping[str, Convention], frame: int | None, frames: int
) -> tuple[frozenset[Structure], ...]:
    return tuple(row.drawn(t, own) for t in (range(frames) if frame is None else [frame]))


def _of_masks(
    row: Row, name: str, found: NDArray[np.uint8], drawn: tuple[frozenset[Structure], ...], frame: int | None
) -> Iterator[Problem]:
    labels, seen = restrict(found, drawn)
    undrawn = sorted(
        {
            Structure(v).name
            for before, after, s in zip(found, labels, seen, strict=True)
            for v in (set(np.unique(before).tolist()) - set(np.unique(after).tolist()) if s else ())
            if v != UNKNOWN
        }
        - {"BACKGROUND"}
    )
    if undrawn:
        text = f"holds {', '.join(undrawn)}, which `structures` does not name; counted as none of the named"
        yield Problem("note", row.scan, name, text, "name them if they were drawn")
    if looks_swapped(labels):
        yield Problem(
            "error",
            row.scan,
            name,
            f"the myocardium surrounds what convention {row.convention!r} calls RV, and not its LV",
            "LV and RV look swapped: choose another convention (acdc: 1=RV 3=LV; mnms: 1=LV 3=RV)",
        )
    for t, (one, structures) in enumerate(zip(labels, seen, strict=True)):
        number = t if frame is None else frame
        inside = set(np.unique(one).tolist()) - {0, UNKNOWN}
        if structures and not inside:
            named = ", ".join(s.name for s in sorted(structures))
            text = f"the mask of frame {number} is empty: no voxel of {named}"
            yield Problem(
                "warning", row.scan, name, text, "leave that frame out of `labels` if nobody drew it"
            )
        missing = sorted(
            s.name for s in structures & {Structure.LV, Structure.MYO, Structure.RV} if s not in inside
        )
        if inside and missing:
            text = f"frame {number} has no voxel of {', '.join(missing)}"
            yield Problem("warning", row.scan, name, text, "name in `structures` what was drawn")
    if not any(seen):
        yield Problem(
            "warning", row.scan, name, "nothing in it was looked at (all unknown)", "empty `labels`"
        )


def _twins(hashes: Mapping[str, list[Row]]) -> Iterator[Problem]:
    for rows in hashes.values():
        if len(rows) > 1:
            splits = sorted({row.split for row in rows if row.split})
            severity: Severity = "error" if len(splits) > 1 else "warning"
            across = f", in the splits {' and '.join(splits)}" if len(splits) > 1 else ""
            names = ", ".join(row.scan for row in rows)
            text = f"the same image stands under {len(rows)} names: {names}{across}"
            yield Problem(severity, rows[0].scan, rows[0].image, text, "keep one of the rows")


def _leaks(cohort: Cohort) -> Iterator[Problem]:
    for subject, splits in subjects_across_splits(cohort).items():
        rows = [row for row in cohort if row.subject == subject and row.split]
        sequences = [{row.sequence for row in rows if row.split == split} for split in splits]
        disjoint = sum(map(len, sequences)) == len(set().union(*sequences))
        text = f"subject {subject!r} is in the splits {' and '.join(splits)}"
        if disjoint:
            text += ", with different sequences (transductive)"
            remedy = "a recipe must say `transductive: true` to adapt so, and the report will tell it"
            yield Problem("note", "", "", text, remedy)
        else:
            remedy = "put all scans of a subject in one split"
            yield Problem("error", "", "", text, remedy)


def _unlabelled(cohort: Cohort) -> Iterator[Problem]:
    """Nothing to train on: no scan has labels, or none that trains."""
    training = [row for row in cohort if row.split in ("train", "")]
    remedy = "name label files in the `labels` column"
    if not len(cohort.labelled()):
        text = f"no scan has labels, of {len(cohort)}: they can be predicted and measured, not trained on or scored"
        yield Problem("note", "", "", text, f"{remedy} if there are any")
    elif not any(row.labels for row in training):
        text = (
            f"no training scan has labels, of {len(training)}; {len(cohort.labelled())} of other splits have"
        )
        yield Problem("warning", "", "", text, f"{remedy}, or split again: see `crossbeat index --resplit`")


def _try(row: Row, folder: Path, problems: list[Problem], do: Callable[[], _T], file: str = "") -> _T | None:
    """The result, or None and one more problem."""
    try:
        return do()
    except FileError as error:
        name = _as_listed(row, folder, error.path) or file or error.path.name
        problems.append(_split("error", row.scan, name, error.problem))
    except CaseError as error:
        problems.append(_split("error", row.scan, file, error.problem))
    except CrossbeatError as error:
        problems.append(_split("error", row.scan, file, str(error)))
    return None


def _as_listed(row: Row, folder: Path, path: Path) -> str:
    """The path as the csv writes it."""
    listed = [*row.image_files, *_label_names(row)]
    return next((name for name in listed if locate(folder, name) == path), "")


def _repaired(row: Row, folder: Path, message: str) -> Problem:
    """A reader's warning, which begins with the file's path."""
    for name in [*row.image_files, *_label_names(row)]:
        path = f"{locate(folder, name)}: "
        if message.startswith(path):
            return _split("warning", row.scan, name, message.removeprefix(path))
    return _split("warning", row.scan, "", message)


def _split(severity: Severity, scan: str, file: str, message: str) -> Problem:
    """Our messages read *what is wrong; what to do*."""
    problem, _, remedy = message.rpartition("; ")
    return Problem(severity, scan, file, problem or message, remedy if problem else "")


def _flat(values: NDArray[np.float32]) -> bool:
    return values.size == 0 or bool(values.min() == values.max())


def _fingerprint(image: Volume) -> str:
    digest = hashlib.sha256(repr(image.array.shape).encode())
    digest.update(np.ascontiguousarray(image.array).data)
    return digest.hexdigest()
