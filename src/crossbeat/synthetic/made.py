"""A phantom that was made remembers what was asked for: made again it is found, and no other is put over it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from crossbeat.cohort import Cohort, Row, write_cohort
from crossbeat.errors import RunError, SettingsError
from crossbeat.splits import assign_splits, count_subjects
from crossbeat.synthetic.cohort import CINE_FRAMES, FieldWriter, Writer, check_wishes, make_cohort
from crossbeat.synthetic.enrolment import SITE, enrol
from crossbeat.synthetic.signal import PHANTOM_VERSION

NOTE: Final = "phantom.json"
"""What was asked for; `whole` says whether all of it is there."""

Split = Literal["subjects", "mscmrseg", "mnms", "dhaene2023"]
"""Whole subjects held out, or as a challenge has it. MS-CMRSeg: the scans of a subject apart, by its number. M&Ms: all
subjects of vendors c and d, and some of the others. Dhaene 2023: as many controls as boys with dystrophy, of a site
that tags."""

Annotated = Literal["all", "ed_es"]
"""Frames of a cine whose labels the cohort gives: every one, or ED and ES as most data sets."""

_BEFORE: Final = {
    "split": "subjects",
    "annotated": "all",
    "frames": CINE_FRAMES,
    "slices": 0,
    "site": 0,
    "fields": False,
    "validation": 0,
}
"""What notes of before there was a choice mean."""

_WATCHED: Final = 0.25  # of those at the site who are not tested; 4.2
_MNMS_UNSEEN: Final = frozenset("cd")
_MSCMRSEG_TRAIN: Final = 3
_MSCMRSEG_VALIDATION: Final = 5
_MSCMRSEG_LABELLED: Final = 35


@dataclass(frozen=True)
class Hearts:
    """What a phantom is asked to be: how many hearts, how they are scanned, and who is held out."""

    subjects: int
    sequences: list[str]
    vendors: list[str]
    cine: bool
    test: float | int
    """Subjects, or a fraction of them, in the test split; each group gives its share. Not under `mscmrseg`, under
    `mnms` of those of vendors a and b, under `dhaene2023` of those at the site."""
    seed: int
    split: Split = "subjects"
    annotated: Annotated = "all"
    frames: int = CINE_FRAMES
    """Of the cycle: of bSSFP where it is a cine, and of tagged scans."""
    slices: int = 0
    """Of each scan, about the middle of the left ventricle; 0: the whole stack. At the site that tags always one."""
    site: int = 0
    """The last of the subjects, who are boys at a site that tags; under `dhaene2023` only."""
    fields: bool = False
    """Whether the exact motion of each cine is written beside it."""
    validation: float | int = 0
    """Subjects, or a fraction of them, in the validation split; under `subjects` only."""


def make_once(
    folder: Path,
    hearts: Hearts,
    *,
    write: Writer,
    remedy: str,
    overwrite: bool = False,
    jobs: int = 2,
    progress: Callable[[], None] = lambda: None,
    write_field: FieldWriter | None = None,
) -> bool:
    """Fill the folder with these hearts and their cohort.csv; False where they were there, whole, already.

    One that failed or was interrupted is made again. Another phantom, another cohort and a broken note raise
    `RunError`, which ends with the `remedy`, unless `overwrite`. Hearts that cannot be made, or leave none to train,
    are refused (`SettingsError`, `CohortError`) before anything is written. `fields` need a `write_field`.
    """
    check_wishes(hearts.subjects, hearts.sequences, hearts.vendors, jobs=jobs)
    _split(_blank_cohort(hearts), hearts)
    if not overwrite and is_whole(folder, hearts, remedy):
        return False
    _note(folder, hearts, whole=False)
    (folder / "cohort.csv").unlink(missing_ok=True)  # its scans are about to change one by one
    made = make_cohort(
        folder,
        subjects=hearts.subjects,
        sequences=hearts.sequences,
        vendors=hearts.vendors,
        cine=hearts.cine,
        frames=hearts.frames,
        slices=hearts.slices,
        site=hearts.site,
        seed=hearts.seed,
        jobs=jobs,
        write=write,
        write_field=write_field if hearts.fields else None,
        progress=lambda done, total: progress(),
    )
    write_cohort(_hide_labels(_split(made, hearts), hearts), folder / "cohort.csv")
    _note(folder, hearts, whole=True)
    return True


def _split(cohort: Cohort, hearts: Hearts) -> Cohort:
    if hearts.split == "mscmrseg":
        return _split_as_mscmrseg(cohort)
    if hearts.split == "mnms":
        return _split_as_mnms(cohort, hearts)
    if hearts.split == "dhaene2023":
        return _split_as_dhaene2023(cohort, hearts)
    if not (hearts.test or hearts.validation):
        return cohort
    return assign_splits(
        cohort, test=hearts.test, validation=hearts.validation, stratify=["group"], seed=hearts.seed
    )


def _hide_labels(cohort: Cohort, hearts: Hearts) -> Cohort:
    """The labels of ED and ES alone, where no others are wanted; the file keeps them all."""
    if hearts.annotated == "all":
        return cohort

    def hidden(row: Row) -> Row:
        frames = sorted({frame for frame in (row.ed_frame, row.es_frame) if frame is not None})
        if len(frames) < 2 or not row.labels:
            return row
        return replace(row, labels=";".join(f"{frame}={row.labels}" for frame in frames))

    return replace(cohort, rows=tuple(map(hidden, cohort)))


def _split_as_mscmrseg(cohort: Cohort) -> Cohort:
    """LGE of subjects 1 to 3 trains and of 6 and beyond is tested; bSSFP and T2 train, labelled up to subject 35.

    All scans of subjects 4 and 5 are held out as validation. The counts are those of Chen 2020 (methods.md 1.8, 6).
    """
    numbers = {subject: i for i, subject in enumerate(cohort.subjects, start=1)}
    if len(numbers) <= _MSCMRSEG_VALIDATION:
        raise SettingsError(
            f"split mscmrseg tests subjects 6 and beyond, got {len(numbers)} subjects; take 6 or more"
        )

    def placed(row: Row) -> Row:
        number = numbers[row.subject]
        if _MSCMRSEG_TRAIN < number <= _MSCMRSEG_VALIDATION:
            return replace(row, split="validation")
        if row.sequence != "lge":
            labels = row.labels if number <= _MSCMRSEG_LABELLED else ""
            return replace(row, split="train", labels=labels)
        return replace(row, split="train" if number <= _MSCMRSEG_TRAIN else "test")

    return replace(cohort, rows=tuple(map(placed, cohort)))


def _split_as_mnms(cohort: Cohort, hearts: Hearts) -> Cohort:
    """Vendors c and d are tested whole, and of a and b as many as asked for (methods.md 2.3)."""
    unseen = cohort.only(lambda row: row.vendor in _MNMS_UNSEEN)
    seen = cohort.only(lambda row: row.vendor not in _MNMS_UNSEEN)
    if not len(unseen) or not len(seen):
        raise SettingsError(
            f"split mnms trains on vendors a and b and tests on c and d, got {', '.join(hearts.vendors)}; "
            "name vendors of both, and enough subjects for each"
        )
    if hearts.test:
        seen = assign_splits(seen, test=hearts.test, stratify=["group"], seed=hearts.seed)
    split = {row.scan: row.split for row in seen} | dict.fromkeys((row.scan for row in unseen), "test")
    return replace(cohort, rows=tuple(replace(row, split=split[row.scan]) for row in cohort))


def _split_as_dhaene2023(cohort: Cohort, hearts: Hearts) -> Cohort:
    """Of the site that tags as many controls are tested as boys with dystrophy, 5 and 5 of 50 (methods.md 4.6).

    A quarter of its others validate (4.2, but by patient); the rest train, as all elsewhere do. Nobody has drawn on the
    site's own cine, which a CycleGAN may learn from.
    """
    if not hearts.site:
        raise SettingsError(
            "split dhaene2023 needs a site that tags; say how many of the subjects are there, as in site: 50 of 95"
        )
    wanted = count_subjects(hearts.test, hearts.site, "test")
    split: dict[str, str] = {}
    for group, test in (("BOY", wanted // 2), ("DMD", wanted - wanted // 2)):
        boys = cohort.where(centre=SITE, group=group)
        if len(boys):
            watched = round(_WATCHED * (len(boys.subjects) - test))
            parts = assign_splits(boys, test=test, validation=watched, seed=hearts.seed)
            split |= {row.subject: row.split for row in parts}

    def placed(row: Row) -> Row:
        labels = "" if row.centre == SITE and row.sequence != "tagged" else row.labels
        return replace(row, split=split.get(row.subject, "train"), labels=labels)

    return replace(cohort, rows=tuple(map(placed, cohort)))


def _blank_cohort(hearts: Hearts) -> Cohort:
    """As many subjects without scans, to learn in a moment whether they can be split at all."""
    if hearts.fields and not hearts.cine and "tagged" not in hearts.sequences:
        raise SettingsError(
            "phantom: a still has no motion to write; ask for a cine or tagged scans, or leave fields away"
        )
    if hearts.site and hearts.split != "dhaene2023":
        raise SettingsError(
            f"a site that tags goes with split dhaene2023, got {hearts.split}; add it, or leave site away"
        )
    people = enrol(hearts.subjects, hearts.sequences, hearts.vendors, slices=hearts.slices, site=hearts.site)
    rows = (
        Row(str(i), str(i), "bssfp", "none", vendor=person.vendor, centre=person.centre, group=person.group)
        for i, person in enumerate(people)
    )
    return Cohort(tuple(rows), name="phantom")


def is_whole(folder: Path, hearts: Hearts, remedy: str) -> bool:
    """Whether these hearts lie in the folder, whole. Other ones, or a broken note, raise `RunError` with the remedy."""
    note, wanted = folder / NOTE, _asked(hearts)
    found = _read(note, remedy)
    if found is None and (folder / "cohort.csv").exists():
        raise RunError(f"{folder}: holds a cohort.csv that no phantom of ours left there; {remedy}")
    if found is None or not found.pop("whole", True):
        return False
    found = _BEFORE | found
    keys = [key for key in wanted if found.get(key) != wanted[key]]
    if keys:
        differing = ", ".join(f"{key} {_text(found.get(key))}, now {_text(wanted[key])}" for key in keys)
        raise RunError(f"{folder}: holds another phantom ({differing}); {remedy}")
    return (folder / "cohort.csv").exists()


def _asked(hearts: Hearts) -> dict[str, Any]:
    return {**asdict(hearts), "version": PHANTOM_VERSION}


def _read(note: Path, remedy: str) -> dict[str, Any] | None:
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise RunError(f"{note}: is damaged, so nobody knows which phantom lies beside it; {remedy}")
    return found


def _note(folder: Path, hearts: Hearts, *, whole: bool) -> None:
    """Leave the note, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{NOTE}.{os.getpid()}"
    temporary.write_text(json.dumps({**_asked(hearts), "whole": whole}, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / NOTE)


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
