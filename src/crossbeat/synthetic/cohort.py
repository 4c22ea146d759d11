"""Subjects × sequences, scanned on the phantom's scanners and written as NIfTI with a cohort.csv.

Every subject has its own random streams, one for the anatomy and one a sequence, named by its number: more
subjects, another order or more processes change no scan that was there before.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from crossbeat.cohort import Cohort, Row, write_cohort
from crossbeat.devices import keep_freed_memory
from crossbeat.errors import SettingsError, did_you_mean
from crossbeat.geometry import Affine
from crossbeat.labels import Structure
from crossbeat.synthetic import spamm
from crossbeat.synthetic.anatomy import GROUPS, LABEL_OF_TISSUE, Heart, check_group
from crossbeat.synthetic.chest import chest_tissue
from crossbeat.synthetic.enrolment import Person, enrol
from crossbeat.synthetic.imaging import Image, Session, acquire, draw_lattice, draw_session, slice_fields
from crossbeat.synthetic.planning import middle_of_stack, plan_stack
from crossbeat.synthetic.sampling import Mixture, Slice, mix, mix_around
from crossbeat.synthetic.scanners import SEQUENCES, find_scanner
from crossbeat.synthetic.signal import PHANTOM_VERSION
from crossbeat.synthetic.spamm import TagGrid
from crossbeat.synthetic.tissue import NOWHERE


@runtime_checkable
class Writer(Protocol):
    """Writes a volume (t, z, y, x) with our affine and, of a cine, the interval between frames."""

    def __call__(
        self, path: Path, array: NDArray[Any], affine: Affine, /, *, frame_interval_ms: float | None = None
    ) -> None: ...


@runtime_checkable
class FieldWriter(Protocol):
    """Writes a displacement (t, 3, z, y, x) into a frame, on the grid of an image that is there."""

    def __call__(
        self, path: Path, displacement_mm: NDArray[np.float32], into_frame: int, like: Path, /
    ) -> None: ...


CINE_FRAMES: Final = 25
_DIASTASIS: Final = 0.75
"""Phase at which T2 and LGE are taken: the heart rests between the E and the A wave."""

_FROM_ED: Final = ("bssfp", "tagged")
"""Sequences whose first frame is end diastole; a tagged scan is always a cine."""


_DRAWN: Final = {
    "bssfp": (Structure.LV, Structure.MYO, Structure.RV),
    "t2": (Structure.LV, Structure.MYO, Structure.RV, Structure.EDEMA),
    "lge": (Structure.LV, Structure.MYO, Structure.RV, Structure.SCAR),
    "tagged": (Structure.LV, Structure.MYO, Structure.RV),
}
"""What can be seen, and is drawn, on each sequence; what cannot be seen counts as myocardium."""


@dataclass(frozen=True)
class Scan:
    """One scan in memory."""

    image: NDArray[np.int16]
    """(t, z, y, x)"""
    labels: NDArray[np.uint8]
    """(t, z, y, x), values of `Structure`"""
    affine: Affine
    frame_interval_ms: float | None
    ed_frame: int | None
    es_frame: int | None
    displacement_mm: NDArray[np.float32] | None = None
    """(t, 3, z, y, x) along z, y and x, from each voxel to where its tissue lay at end diastole, frame 0."""


@dataclass(frozen=True)
class Twins:
    """Two scans of one heart, voxel by voxel."""

    cine: Scan
    """With its exact displacement."""
    tagged: Scan
    tags: TagGrid
    """What the second one's lines are."""


def make_cohort(
    folder: Path,
    *,
    write: Writer,
    subjects: int = 12,
    sequences: Sequence[str] = ("bssfp", "t2", "lge"),
    vendors: Sequence[str] = ("a",),
    groups: Sequence[str] = GROUPS,
    cine: bool = False,
    frames: int = CINE_FRAMES,
    slices: int = 0,
    site: int = 0,
    seed: int = 0,
    jobs: int = 2,
    progress: Callable[[int, int], None] | None = None,
    write_field: FieldWriter | None = None,
) -> Cohort:
    """Scan a cohort into `folder`: images/, labels/, cohort.csv and truth.csv, and return its rows.

    `enrolment.enrol` tells who is in it, by `subjects`, `sequences`, `vendors`, `groups`, `slices` and `site`. A tagged
    scan has so many `frames` over the cycle, with labels on all, and so has the bSSFP scan with `cine`; else that is a
    still of end diastole. T2 and LGE are stills of diastasis. `progress` hears (done, all). With `write_field` the
    exact motion of each cine lies in fields/. Unknown sequences, vendors and groups raise `SettingsError`; the
    same seed writes the same voxels.
    """
    check_wishes(subjects, sequences, vendors, groups, jobs=jobs)
    people = enrol(subjects, sequences, vendors, groups, slices=slices, site=site)
    plans = [_Plan(i, seed, person, frames if cine else 1, frames) for i, person in enumerate(people)]
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    done = _run(folder, plans, _Writers(write, write_field), jobs, progress)
    cohort = Cohort(tuple(row for rows, _ in done for row in rows), name="phantom", folder=folder)
    write_cohort(cohort, folder / "cohort.csv")
    _write_truth(folder / "truth.csv", [truth for _, truth in done])
    return cohort


def draw_subject(seed: int, index: int, group: str) -> Heart:
    """The heart of subject number `index` of a cohort."""
    return Heart.draw(_stream(seed, index, "heart"), group)


def scan_heart(
    heart: Heart,
    sequence: str,
    vendor: str = "a",
    *,
    frames: int = 1,
    slices: int = 0,
    seed: int = 0,
    subject: int = 0,
    motion: bool = False,
) -> Scan:
    """One SAX stack of a heart, or so many `slices` of its middle: a still, or frames over the cycle.

    The seed and the subject's number decide chance. With `motion` a cine comes with its exact displacement.
    """
    session, rng = _session(heart, sequence, vendor, seed, subject)
    stack = middle_of_stack(*plan_stack(rng, session), heart, slices)
    return _scan(rng, session, stack, frames, motion=motion)


def scan_twins(
    heart: Heart,
    vendor: str,
    tagged_vendor: str,
    *,
    frames: int,
    slices: int = 0,
    seed: int = 0,
    subject: int = 0,
    retake: int = 0,
) -> Twins:
    """A cine and a tagged scan of the very same slices, on the grid of the cine, as no patient can give them.

    They tell how near an image that was made of the cine is to the true tagged one. A `retake` above 0 changes the
    tagged scan alone: other lines and other noise, as chance would have it another day.
    """
    session, rng = _session(heart, "bssfp", vendor, seed, subject)
    stack = middle_of_stack(*plan_stack(rng, session), heart, slices)
    cine = _scan(rng, session, stack, frames, motion=True)
    tagging, rng = _session(heart, "tagged", tagged_vendor, seed, subject, retake)
    assert tagging.tags is not None
    return Twins(cine, _scan(rng, tagging, stack, frames), tagging.tags)


def scan_slice(
    rng: np.random.Generator, session: Session, cut: Slice, phases: NDArray[np.float64]
) -> tuple[Image, NDArray[np.uint8]]:
    """Image and labels (t, y, x) of one slice at several phases; the chest is sampled once for all."""
    heart = session.heart
    fields = slice_fields(session, cut)
    window = cut.window(heart.bounds_mm())
    still = mix_around(lambda x, y, z: chest_tissue(heart.chest, x, y, z), cut, *window)
    label_of_tissue = _visible(session.sequence)
    laid = None if session.tags is None else spamm.lay(session.tags, cut)
    images, labels = [], []
    for phase in phases.tolist():
        beating = _mix_heart(heart, cut, window, phase)
        mixture = still.with_window(*window, beating)
        lines = None
        if session.tags is not None and laid is not None:
            lines = spamm.carry(session.tags, heart, cut, phase, laid)
        images.append(acquire(rng, session, fields, mixture, phase, lines))
        labels.append(mixture.labels(label_of_tissue))
    return np.stack(images), np.stack(labels)


def displacement_mm(heart: Heart, cut: Slice, phases: NDArray[np.float64]) -> NDArray[np.float32]:
    """(t, 3, y, x) from each voxel of a slice to where its tissue lay at end diastole, along the slice's z, y and x.

    0 in the chest, which stands still.
    """
    rows, columns = cut.window(heart.bounds_mm())
    y, x = np.arange(cut.shape[0])[rows, None], np.arange(cut.shape[1])[None, columns]
    at = cut.points_mm(y, x)
    points = np.stack(at, axis=-1)
    axes = np.stack([v / np.linalg.norm(v) for v in (cut.normal, cut.down_mm, cut.right_mm)])
    moved = np.zeros((phases.size, 3, *cut.shape), np.float32)
    for t, phase in enumerate(phases.tolist()):
        beating = heart.heart_tissue_at(*at, phase) != NOWHERE
        back = (heart.origin_mm(points, phase) - points) @ axes.T
        moved[t, :, rows, columns] = np.moveaxis(np.where(beating[..., None], back, 0), -1, 0)
    return moved


def check_wishes(
    subjects: int,
    sequences: Sequence[str],
    vendors: Sequence[str],
    groups: Sequence[str] = GROUPS,
    *,
    jobs: int = 1,
) -> None:
    """Refuse a cohort that cannot be made (`SettingsError`)."""
    if subjects < 1 or jobs < 1:
        raise SettingsError(f"phantom: needs at least one subject and one process, got {subjects=} {jobs=}")
    _check_sequences(sequences)
    for name, given in (("vendor", vendors), ("group", groups)):
        if not given:
            raise SettingsError(f"phantom: needs at least one {name}")
    for vendor in vendors:
        find_scanner(vendor)
    for group in groups:
        check_group(group)


@dataclass(frozen=True)
class _Plan:
    index: int
    seed: int
    person: Person
    bssfp_frames: int
    """1: a still."""
    tagged_frames: int

    def frames(self, sequence: str) -> int:
        return {"bssfp": self.bssfp_frames, "tagged": self.tagged_frames}.get(sequence, 1)


@dataclass(frozen=True)
class _Writers:
    volume: Writer
    field: FieldWriter | None


def _stream(seed: int, index: int, purpose: str) -> np.random.Generator:
    """A generator of its own for each subject and purpose."""
    return np.random.default_rng(np.random.SeedSequence([seed, index, *purpose.encode()]))


def _session(
    heart: Heart, sequence: str, vendor: str, seed: int, subject: int, retake: int = 0
) -> tuple[Session, np.random.Generator]:
    """What chance decides of a scan, and the stream that goes on to decide the rest."""
    scanner = find_scanner(vendor)
    _check_sequences([sequence])
    lattice = draw_lattice(_stream(seed, subject, "texture"))
    rng = _stream(seed, subject, f"{sequence}-{vendor}" + (f"-{retake}" if retake else ""))
    return draw_session(rng, heart, scanner, sequence, lattice), rng


def _scan(
    rng: np.random.Generator,
    session: Session,
    stack: tuple[list[Slice], Affine],
    frames: int,
    *,
    motion: bool = False,
) -> Scan:
    """The slices of a stack: a still, or frames over the cycle."""
    (cuts, affine), heart, sequence = stack, session.heart, session.sequence
    cine = frames > 1
    phases = np.arange(frames) / frames if cine else np.array([_phase(sequence)])
    scanned = [scan_slice(rng, session, cut, phases) for cut in cuts]
    image, labels = (np.stack(parts, axis=1) for parts in zip(*scanned, strict=True))
    moved = (
        np.stack([displacement_mm(heart, cut, phases) for cut in cuts], axis=2) if motion and cine else None
    )
    interval = heart.beat_ms / frames if cine else None
    es = int(np.argmin([heart.volumes_ml(float(p)).lv_ml for p in phases])) if cine else None
    ed = 0 if sequence in _FROM_ED else None
    return Scan(np.rint(np.clip(image, 0, 32767)).astype(np.int16), labels, affine, interval, ed, es, moved)


def _phase(sequence: str) -> float:
    return 0.0 if sequence in _FROM_ED else _DIASTASIS


def _visible(sequence: str) -> NDArray[np.uint8]:
    table = LABEL_OF_TISSUE.copy()
    if sequence == "t2":  # the infarct lies within its oedema
        table[table == Structure.SCAR] = Structure.EDEMA
    for structure in (Structure.SCAR, Structure.EDEMA):
        if structure not in _DRAWN[sequence]:
            table[table == structure] = Structure.MYO
    return table


def _mix_heart(heart: Heart, cut: Slice, window: tuple[slice, slice], phase: float) -> Mixture:
    return mix(lambda x, y, z: heart.tissue_at(x, y, z, phase), cut, *window)


def _run(
    folder: Path, plans: list[_Plan], write: _Writers, jobs: int, progress: Callable[[int, int], None] | None
) -> list[tuple[list[Row], dict[str, str]]]:
    """Subjects in order, whatever the number of processes."""
    tell = progress or (lambda done, total: None)
    results: list[tuple[list[Row], dict[str, str]]] = []
    if jobs == 1 or len(plans) == 1:
        for plan in plans:
            results.append(_make_subject(folder, plan, write))
            tell(len(results), len(plans))
        return results
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=keep_freed_memory) as pool:
        for result in pool.map(_make_subject, [folder] * len(plans), plans, [write] * len(plans)):
            results.append(result)
            tell(len(results), len(plans))
    return results


def _make_subject(folder: Path, plan: _Plan, write: _Writers) -> tuple[list[Row], dict[str, str]]:
    person = plan.person
    heart = draw_subject(plan.seed, plan.index, person.group)
    subject = f"phantom{plan.index + 1:03d}"
    rows = []
    for sequence in person.sequences:
        scan = scan_heart(
            heart,
            sequence,
            person.vendor,
            frames=plan.frames(sequence),
            slices=person.slices,
            seed=plan.seed,
            subject=plan.index,
            motion=write.field is not None,
        )
        name = f"{subject}_{sequence}"
        image, labels = f"images/{name}.nii.gz", f"labels/{name}.nii.gz"
        write.volume(folder / image, scan.image, scan.affine, frame_interval_ms=scan.frame_interval_ms)
        write.volume(folder / labels, scan.labels, scan.affine, frame_interval_ms=scan.frame_interval_ms)
        if write.field is not None and scan.displacement_mm is not None:
            write.field(folder / f"fields/{name}.nii.gz", scan.displacement_mm, 0, folder / image)
        structures = ",".join(s.name for s in _DRAWN[sequence])
        rows.append(
            Row(
                subject,
                name,
                sequence,
                image,
                vendor=person.vendor,
                centre=person.centre,
                group=person.group,
                labels=labels,
                structures=structures,
                ed_frame=scan.ed_frame,
                es_frame=scan.es_frame,
                frame_interval_ms=scan.frame_interval_ms,
                source=f"phantom {PHANTOM_VERSION}, seed {plan.seed}",
            )
        )
    return rows, _truth(subject, plan, heart)


def _truth(subject: str, plan: _Plan, heart: Heart) -> dict[str, str]:
    end, start = heart.volumes_ml(heart.motion.es_phase), heart.volumes_ml(0.0)
    strains = heart.strains(heart.motion.es_phase)
    numbers = {
        "lv_edv_ml": start.lv_ml,
        "lv_esv_ml": end.lv_ml,
        "lv_ef_percent": heart.ef_percent,
        "lv_mass_g": heart.mass_g,
        "rv_edv_ml": start.rv_ml,
        "rv_esv_ml": end.rv_ml,
        "rv_ef_percent": 100 * (1 - end.rv_ml / start.rv_ml),
        "scar_g": heart.scar_g,
        "longitudinal_strain_percent": 100 * strains.longitudinal,
        "circumferential_strain_percent": 100 * strains.circumferential,
        "radial_strain_percent": 100 * strains.radial,
        "es_phase": heart.motion.es_phase,
        "beat_ms": heart.beat_ms,
    }
    text = {"subject": subject, "group": plan.person.group, "sex": heart.sex, "vendor": plan.person.vendor}
    return text | {k: f"{v:.4f}" for k, v in numbers.items()} | {"phantom_version": PHANTOM_VERSION}


def _write_truth(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _check_sequences(sequences: Sequence[str]) -> None:
    if not sequences:
        raise SettingsError("phantom: needs at least one sequence")
    for sequence in sequences:
        if sequence not in SEQUENCES:
            raise SettingsError(
                f"phantom sequence {sequence!r} does not exist; {did_you_mean(sequence, SEQUENCES)}"
            )
