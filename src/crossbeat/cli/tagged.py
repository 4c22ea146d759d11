"""A cohort of cines and how to tag them → a folder of tagged scans, what was drawn for each, and a picture of some.

The folder has `images/<scan>_<suffix>.nii.gz`, `cohort.csv` with the labels that there were, `tags.csv` (a line a scan)
and `examples.png`.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from crossbeat.case import Case
from crossbeat.cli import folders
from crossbeat.cohort import Cohort, Row, parse_filter, write_cohort
from crossbeat.data.listing import place
from crossbeat.data.nifti import Displacement, read_displacement, write_volume
from crossbeat.errors import CaseError, CohortError, SettingsError
from crossbeat.labels import TRAINED, UNKNOWN, fold_into_myocardium
from crossbeat.report.overlays import heart_window
from crossbeat.report.svg import COLOURS
from crossbeat.report.writing import write_whole
from crossbeat.synthetic.tagging import Simulation, Tags, draw, tag

TABLE: Final = "tags.csv"
PICTURE: Final = "examples.png"
MOST_EXAMPLES: Final = 6
PEAK: Final = 4095.0
"""Grey value of a scan's largest before it is tagged, and of 1 where images are standardised."""

Unit = Literal["mm", "px"]


@dataclass(frozen=True)
class Task:
    """How to tag, and where to."""

    simulation: Simulation
    unit: Unit
    """Of the spacing of lines."""
    motion: Path | None
    """Folder with a displacement a scan, as `propagate --fields` and `phantom --fields` write it."""
    seed: int
    out: Path
    suffix: str = "tagged"
    """After a scan's name, and in the cohort's column `tag_set`."""

    def __post_init__(self) -> None:
        if not self.suffix.replace("_", "").isalnum():
            raise SettingsError(
                f"--suffix {self.suffix}: becomes part of a file's name; letters, digits and _ alone"
            )


@dataclass(frozen=True)
class TagLine:
    """One scan in tags.csv; what the simulation leaves out is empty."""

    scan: str
    simulated_from: str
    frames: int
    laid_in_frame: int
    spacing: float
    unit: Unit
    across_deg: str
    phase_deg: str
    flip_deg: float
    train: str
    contrast: str
    quantile: float | None
    t1_ms: float | None
    blood_t1_ms: float | None
    imaging_flip_deg: float | None
    tr_ms: float | None
    noise_sd: float
    resolved: float
    standardised: bool
    seed: int
    motion: str


@dataclass(frozen=True)
class TaggedScan:
    """A scan that was tagged: its new row, what was drawn for it, and how it looks."""

    row: Row
    """Its paths as seen from the old cohort's folder."""
    line: TagLine
    timed: bool
    """Whether it says how far apart its frames are."""
    drawn: bool
    """Whether all its frames are labelled, so that labels could take part."""
    look: Look | None


@dataclass(frozen=True, eq=False)
class Look:
    """A slice before and after, around the heart."""

    name: str
    frames: tuple[int, ...]
    cine: NDArray[np.float32]
    """(frame, y, x)."""
    tagged: NDArray[np.float32]
    labels: NDArray[np.uint8]
    """As drawn in the cine; background in frames that nobody drew."""


def pick(cohort: Cohort, where: str) -> Cohort:
    """The bSSFP scans, or those of the filter; `SettingsError` where there are none, or some are tagged already."""
    wanted = parse_filter(where) or {"sequence": ["bssfp"]}
    picked = cohort.where(**wanted)
    if not len(picked):
        told = ",".join(f"{column}={'|'.join(values)}" for column, values in wanted.items())
        raise SettingsError(f"no scan of {cohort.name} matches {told}; choose others with --where")
    tagged = [row.scan for row in picked if row.sequence == "tagged"]
    if tagged:
        raise SettingsError(
            f"{len(tagged)} of the scans chosen in {cohort.name} are tagged already, {tagged[0]!r} first; choose cines "
            "with --where, as in sequence=bssfp"
        )
    return picked


def open_folder(cohort: Cohort, task: Task, overwrite: bool, beside: Sequence[Row] = ()) -> None:
    """Make the folder, or clear it of an earlier tagging; see `folders.open_folder`.

    Scans `beside` that are called as those to be made raise `CohortError`.
    """
    twice = {row.scan for row in beside} & {new_name(row.scan, task) for row in cohort}
    if twice:
        raise CohortError(
            f"{cohort.name}: has a scan {min(twice)!r} already; give another --suffix, leave --with-originals away, or "
            "see --where"
        )
    work = folders.Work("tagging", "tagged scans", TABLE, PICTURE, _files_of)
    names = [new_name(row.scan, task) for row in cohort]
    given = [] if task.motion is None else [_field_of(row.scan, task.motion) for row in cohort]
    folders.open_folder(task.out, cohort, names, work, overwrite=overwrite, given=given)


def new_name(scan: str, task: Task) -> str:
    """What a scan is called once it is tagged."""
    return f"{scan}_{task.suffix}"


def tag_cohort(
    cohort: Cohort, task: Task, *, progress: Callable[[Row], None] = lambda row: None
) -> tuple[list[TaggedScan], list[str]]:
    """Tag every scan and write its image; the others go on where one fails, and its problem is in the answer."""
    return folders.each_scan(
        cohort,
        task.out,
        lambda row, before: _tag_scan(row, cohort, task, pictured=before < MOST_EXAMPLES),
        lambda row: _files_of(new_name(row.scan, task), task.out),
        progress,
    )


def remarks(scans: Sequence[TaggedScan], task: Task) -> list[str]:
    """What there is to know of the scans that were tagged."""
    said, simulation = [], task.simulation
    fading, untimed = simulation.fading, sum(not scan.timed for scan in scans)
    if fading is not None and untimed:
        said.append(
            f"scans that do not say how far apart their frames are: {untimed}; their lines fade as over frames "
            f"{fading.tr_ms:g} ms apart; set frame_interval_ms, where ED and ES alone are there too"
        )
    lost = []
    if fading is not None and fading.blood_t1_ms is not None:
        lost.append("blood fades there as the wall does")
    if simulation.contrast == "power0.4_myo":
        lost.append("the contrast is that of the power alone")
    if lost and (partly := sum(not scan.drawn for scan in scans)):
        said.append(
            f"scans of which not all frames are labelled: {partly}; {' and '.join(lost)}; where some frame is, "
            "`crossbeat propagate` carries labels to all"
        )
    return said


def write_results(
    scans: Sequence[TaggedScan], cohort: Cohort, task: Task, beside: Sequence[Row] = ()
) -> Path:
    """Write cohort.csv, tags.csv and the picture of scans whose images are there; the path of the picture.

    The cohort.csv begins with the rows that it is to list `beside` them.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([f.name for f in fields(TagLine)])
    writer.writerows([f"{v:g}" if isinstance(v, float) else v for v in astuple(scan.line)] for scan in scans)
    write_whole(task.out / TABLE, text.getvalue())
    rows = (*beside, *(scan.row for scan in scans))
    write_cohort(replace(cohort, rows=rows), task.out / "cohort.csv")
    return write_whole(task.out / PICTURE, _picture([s.look for s in scans if s.look is not None]))


@dataclass(frozen=True, eq=False)
class _Subject:
    """A scan that is about to be tagged."""

    case: Case
    tags: Tags
    field: Displacement | None
    laid: int
    """Frame in which the lines are straight."""
    tr_ms: float | None
    """Between two frames, where it is known."""

    @property
    def labels(self) -> NDArray[np.uint8] | None:
        """Those of all frames, or none: a threshold or a T1 that came and went with them would flicker."""
        return self.case.labels if len(self.case.labelled_frames) == self.case.frames else None


def _tag_scan(row: Row, cohort: Cohort, task: Task, *, pictured: bool) -> TaggedScan:
    name = new_name(row.scan, task)
    [image] = _files_of(name, task.out)
    place(image.resolve(), task.out.resolve())  # refuses a name that cannot stand in a cohort.csv
    case = cohort.read(row)
    _check(row, case, task)
    field = None if task.motion is None else _read_field(row, case, task.motion)
    generator = torch.Generator().manual_seed(_seed(task.seed, row.scan))
    tags = draw(task.simulation, 1, generator)
    laid = field.into_frame if field is not None else row.ed_frame or 0
    interval = _interval_ms(case)
    subject = _Subject(case, tags, field, laid, interval)
    tagged = np.stack([_tag_frame(subject, t, task, generator) for t in range(case.frames)])
    grey = np.rint(np.clip(tagged * PEAK, 0, np.iinfo(np.int16).max)).astype(np.int16)
    write_volume(
        image, grey, case.affine, frame_interval_ms=interval, description="crossbeat: simulated tags"
    )
    line = _line(row, subject, task)
    new = replace(
        row, scan=name, sequence="tagged", image=str(image.resolve()), further=_further(row, line, task)
    )
    look = _look(case, tagged, row.scan, laid) if pictured else None
    return TaggedScan(new, line, timed=interval is not None, drawn=subject.labels is not None, look=look)


def _check(row: Row, case: Case, task: Task) -> None:
    if row.ed_frame is not None and row.ed_frame >= case.frames:
        raise CaseError(
            case.id,
            f"ed_frame is {row.ed_frame}, but the scan has {case.frames} frames; frames count from 0 in the cohort.csv",
        )
    try:
        task.simulation.check_spacing(_pixel(case, task.unit))
    except SettingsError as error:
        raise CaseError(case.id, str(error)) from None
    if task.simulation.fading is not None and case.frames == 1:
        raise CaseError(
            case.id, "has one frame, so nothing fades; leave --fade away, or choose cines with --where"
        )


def _interval_ms(case: Case) -> float | None:
    times = case.frame_times_ms
    return None if times is None or case.frames == 1 else float(np.diff(times).mean())


def _pixel(case: Case, unit: Unit) -> tuple[float, float]:
    return case.spacing_mm[1:] if unit == "mm" else (1.0, 1.0)


def _tag_frame(subject: _Subject, t: int, task: Task, generator: torch.Generator) -> NDArray[np.float32]:
    """All slices (z, y, x) of a frame."""
    case, pixel, field = subject.case, _pixel(subject.case, task.unit), subject.field
    _, slices, *size = case.image.shape
    moved = None
    if field is not None:
        per_unit = np.reshape(np.divide(pixel, case.spacing_mm[1:]), (1, 2, 1, 1))
        moved = torch.from_numpy((field.array[t, 1:].swapaxes(0, 1) * per_unit).astype(np.float32))
    noisy = task.simulation.noise_sd[1] > 0
    found = tag(
        torch.from_numpy(case.image[t]),
        subject.tags.take([0] * slices),
        task.simulation,
        pixel=pixel,
        peak=torch.full((slices,), float(case.image.max())),
        labels=None if subject.labels is None else torch.from_numpy(subject.labels[t]),
        displacement=moved,
        pulses=torch.full((slices,), float((t - subject.laid) % case.frames)),
        tr_ms=None if subject.tr_ms is None else torch.full((slices,), subject.tr_ms),
        noise=torch.randn((slices, 2, *size), generator=generator) if noisy else None,
    )
    return np.asarray(found.numpy(), np.float32)


def _read_field(row: Row, case: Case, folder: Path) -> Displacement:
    """The scan's displacement; `CaseError` where it is not of this scan's grid."""
    path = _field_of(row.scan, folder)
    if not path.is_file():
        raise CaseError(
            row.scan,
            f"has no displacement {path}; write it with `crossbeat propagate … --fields`, or leave --fields away",
        )
    field = read_displacement(path)
    shape = (case.frames, 3, *case.image.shape[1:])
    if field.array.shape != shape or not np.allclose(field.affine, case.affine, atol=1e-2):
        raise CaseError(
            row.scan,
            f"the displacement {path} lies on another grid, {field.array.shape} and not {shape}; write it anew",
        )
    if not 0 <= field.into_frame < case.frames:
        raise CaseError(
            row.scan, f"the displacement {path} leads into frame {field.into_frame}, which it has not"
        )
    return field


def _field_of(scan: str, folder: Path) -> Path:
    """The file of a scan in that folder, or in its fields/."""
    name = f"{folders.as_file_name(scan)}.nii.gz"
    inner = folder / "fields" / name
    return inner if inner.is_file() else folder / name


def _line(row: Row, subject: _Subject, task: Task) -> TagLine:
    s, tags, drawn = task.simulation, subject.tags, subject.labels is not None
    fading = s.fading
    tr_ms = subject.tr_ms if subject.tr_ms is not None or fading is None else fading.tr_ms
    across, phase = (_joined(part[0]) for part in (tags.across_deg, tags.phase_rad.rad2deg()))
    return TagLine(
        scan=new_name(row.scan, task),
        simulated_from=row.scan,
        frames=subject.case.frames,
        laid_in_frame=subject.laid,
        spacing=float(tags.spacing),
        unit=task.unit,
        across_deg=across,
        phase_deg=phase,
        flip_deg=float(tags.flip_deg),
        train="-".join(map(str, s.train)),
        contrast=s.contrast,
        quantile=float(tags.quantile) if s.contrast == "power0.4_myo" and drawn else None,
        t1_ms=float(tags.t1_ms) if fading else None,
        blood_t1_ms=float(tags.blood_t1_ms) if fading and drawn else None,
        imaging_flip_deg=float(tags.imaging_flip_deg) if fading else None,
        tr_ms=tr_ms if fading else None,
        noise_sd=float(tags.noise_sd),
        resolved=s.resolved,
        standardised=s.standardised,
        seed=task.seed,
        motion="" if task.motion is None else str(task.motion),
    )


def _joined(values: torch.Tensor) -> str:
    return ";".join(f"{v:.4f}" for v in values.tolist())


def _further(row: Row, line: TagLine, task: Task) -> dict[str, str]:
    said = f"{line.spacing:.2f} {line.unit}"
    return {**row.further, "simulated_from": row.scan, "tag_spacing": said, "tag_set": task.suffix}


def _seed(seed: int, scan: str) -> int:
    """Of one scan: the same whichever others are tagged beside it."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{scan}".encode()).digest()[:7], "big")


def _files_of(name: str, out: Path) -> list[Path]:
    return [out / "images" / f"{folders.as_file_name(name)}.nii.gz"]


def _look(case: Case, tagged: NDArray[np.float32], name: str, laid: int) -> Look:
    """The slice in the middle of what is drawn, at the frame of the tags, after a third and at the end of the cycle.

    Where one or two frames are drawn, as ED and ES mostly are, they stand in place of the first two.
    """
    drawn = np.zeros(case.image.shape[1:], bool)
    if case.labels is not None:
        drawn = (np.isin(case.labels, TRAINED) & (case.labels != UNKNOWN)).any(axis=0)
    slices = np.flatnonzero(drawn.any(axis=(1, 2)))
    z = int(slices[len(slices) // 2]) if len(slices) else case.image.shape[1] // 2
    cut = heart_window(drawn, case.spacing_mm[1:]).cut
    early, later, late = ((laid + int(share * case.frames)) % case.frames for share in (0, 1 / 3, 0.9))
    few = case.labelled_frames if 0 < len(case.labelled_frames) <= 2 else [early, later]
    frames = tuple(dict.fromkeys([*few, late]))
    cine, after = (array[list(frames), z][(slice(None), *cut)] for array in (case.image, tagged))
    labels = np.zeros(cine.shape, np.uint8)
    for k, frame in enumerate(frames):
        if case.labels is not None and frame in case.labelled_frames:
            labels[k] = fold_into_myocardium(case.labels[frame])[z][cut]
    return Look(name, frames, cine, after, labels)


def _picture(looks: Sequence[Look]) -> bytes:
    """A row a scan: the cine and its tagged likeness, frame by frame."""
    columns = 2 * max(len(look.frames) for look in looks)
    figure = Figure(figsize=(2.2 * columns, 2.35 * len(looks)), layout="constrained")
    grid = figure.subplots(len(looks), columns, squeeze=False)
    for axes, look in zip(grid, looks, strict=True):
        for k, ax in enumerate(axes):
            ax.axis("off")
            if k // 2 < len(look.frames):
                _show(ax, look, k // 2, after=bool(k % 2))
    out = io.BytesIO()
    figure.savefig(out, dpi=90)
    return out.getvalue()


def _show(axes: Axes, look: Look, k: int, *, after: bool) -> None:
    images = look.tagged if after else look.cine
    axes.imshow(
        images[k], cmap="gray", vmin=0, vmax=float(np.percentile(images, 99.5)), interpolation="nearest"
    )
    if after:  # what was drawn in the cine: its lines must not hide where the heart ends
        for structure in TRAINED:
            mask = look.labels[k] == structure
            if mask.any():
                axes.contour(mask, levels=[0.5], colors=[COLOURS[structure.name]], linewidths=0.8)
    title = f"frame {look.frames[k]}, tagged" if after else f"{look.name}, cine" if k == 0 else "cine"
    axes.set_title(title, fontsize=8)
