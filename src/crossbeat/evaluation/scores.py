"""Label maps and references in, scores out: every drawn structure of every labelled frame, 3-D and slice by slice.

What nobody looked at (`UNKNOWN`) is taken out of both masks and counted; what nobody drew is not scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CohortError, SettingsError, did_you_mean
from crossbeat.evaluation.predictions import Progress, ReadPrediction, for_each_prediction
from crossbeat.labels import TRAINED, UNKNOWN, Structure, fold_drawn, fold_into_myocardium
from crossbeat.metrics.clinical import slice_levels
from crossbeat.metrics.overlap import Mask, Status, dice, jaccard
from crossbeat.metrics.overlap import status as status_of
from crossbeat.metrics.surface import (
    SurfaceDistances,
    assd,
    bounding_box,
    hausdorff,
    hausdorff95,
    hausdorff95_pooled,
    surface_distances,
)

UNITS: Final = ("mm", "voxel")
MEAN: Final = "mean"
"""Structure name of the mean over LV, MYO and RV. Where only two were drawn their mean is named `mean LV MYO`."""

Distance = Callable[[SurfaceDistances], float]

VOLUME_DISTANCES: Final[Mapping[str, Distance]] = {
    "hd": hausdorff,
    "hd95": hausdorff95,
    "hd95_pooled": hausdorff95_pooled,
    "assd": assd,
}
SLICE_DISTANCES: Final[Mapping[str, Distance]] = {"hd95": hausdorff95}

_PARTS: Final = (Structure.SCAR, Structure.EDEMA)


@dataclass(frozen=True)
class Score:
    """One number about one structure of one frame; a line of scores.csv."""

    scan: str
    subject: str
    frame: int | None
    """None for what is said of the whole scan."""
    phase: str
    """'ED', 'ES' or ''."""
    slice: int | None
    """z for a score of one slice, in 2-D; None for one of the volume, in 3-D."""
    level: str
    """'base', 'mid', 'apex' or 'outside' of the reference heart for a slice; '' for a volume."""
    structure: str
    """LV, MYO, RV, SCAR, EDEMA, 'mean', or '' for counts."""
    metric: str
    unit: str
    """'mm' or 'voxel' of distances, 'count' of counts, '' of overlaps."""
    value: float
    status: Status


def score_cohort(
    cohort: Cohort,
    read_prediction: ReadPrediction,
    *,
    units: Sequence[str] = ("mm",),
    per_slice: bool = True,
    jobs: int = 1,
    progress: Progress = lambda row: None,
) -> list[Score]:
    """Score the prediction of every labelled scan against its reference, in the cohort's order.

    See `score_case` for what is scored. Scar and oedema get scores of their own as soon as one prediction
    of the cohort holds them, and then in every scan where they were drawn; in MYO they are included always.
    Rows without labels are passed over; a cohort without any raises `CohortError`, a labelled scan without
    prediction `CaseError`.
    """

    def score(row: Row, case: Case, predicted: NDArray[np.uint8]) -> tuple[list[Score], set[str]]:
        return score_case(row, case, predicted, units=units, per_slice=per_slice), parts_in(predicted)

    labelled = labelled_of(cohort, units)
    return heard(for_each_prediction(labelled, read_prediction, score, jobs=jobs, progress=progress))


def labelled_of(cohort: Cohort, units: Sequence[str]) -> Cohort:
    """The scans that can be scored; refuses a cohort without any, and units that there are not."""
    for unit in units:
        if unit not in UNITS:
            raise SettingsError(f"unit {unit!r} of distances is unknown; {did_you_mean(unit, UNITS)}")
    labelled = cohort.labelled()
    if not len(labelled):
        raise CohortError(f"{cohort.name}: none of its {len(cohort)} scans has labels, nothing can be scored")
    return labelled


def parts_in(predicted: NDArray[np.uint8]) -> set[str]:
    """Which of scar and oedema a label map holds, by name."""
    return {part.name for part in _PARTS if (predicted == part).any()}


def heard(found: Sequence[tuple[list[Score], set[str]]]) -> list[Score]:
    """All scores of (scores, parts in the prediction) by scan, without those of parts that no prediction holds."""
    silent = {part.name for part in _PARTS}.difference(*(held for _, held in found))
    return [s for scores, _ in found for s in scores if s.structure not in silent]


def score_case(
    row: Row,
    case: Case,
    predicted: NDArray[np.uint8],
    *,
    units: Sequence[str] = ("mm",),
    per_slice: bool = True,
) -> list[Score]:
    """All scores of one scan from its (t, z, y, x) label maps.

    For each labelled frame and each structure drawn in it Dice, Jaccard, HD, HD95, pooled HD95 and ASSD of
    the volume, then their mean over LV, MYO and RV, and the number of slices and voxels that
    were and were not looked at; with `per_slice` Dice and HD95 of every slice that was looked at. For the
    scan, the number of frames that nobody labelled and that therefore have no score.

    A mean names its structures: `mean` is of all three, `mean LV MYO` of a frame where only these were drawn, and
    one alone has none. It is undefined where one of them is, and `missed` where one of them was.
    """
    skipped = case.frames - len(case.labelled_frames)
    scores = [
        Score(
            row.scan, row.subject, None, "", None, "", "", "unlabelled_frames", "count", float(skipped), "ok"
        )
    ]
    for t in case.labelled_frames:
        scores += _score_frame(_frame_of(row, case, predicted, t, units), per_slice)
    return scores


@dataclass(frozen=True, eq=False)
class _Frame:
    """The two label maps of a frame, cut down to what was looked at and to the box that holds any heart."""

    row: Row
    t: int
    masks: Mapping[Structure, tuple[Mask, Mask]]
    """Predicted and reference (z, y, x), of every structure drawn."""
    levels: Sequence[str]
    annotated: Sequence[int]
    """Slices of which a voxel was looked at."""
    unknown_voxels: int
    shape: tuple[int, ...]
    """Of the whole image."""
    spacings: Mapping[str, tuple[float, float, float]]
    """By unit."""

    def score(
        self,
        structure: str,
        metric: str,
        value: float,
        unit: str = "",
        status: Status = "ok",
        z: int | None = None,
    ) -> Score:
        level = "" if z is None else self.levels[z]
        phase = self.row.phase(self.t)
        return Score(
            self.row.scan, self.row.subject, self.t, phase, z, level, structure, metric, unit, value, status
        )


def _frame_of(row: Row, case: Case, predicted: NDArray[np.uint8], t: int, units: Sequence[str]) -> _Frame:
    assert case.labels is not None
    known = case.labels[t] != UNKNOWN
    ours, theirs = np.where(known, predicted[t], 0), np.where(known, case.labels[t], 0)
    box = bounding_box(np.asarray((ours | theirs).any(axis=0))) or ()
    ours, theirs = ours[:, *box], theirs[:, *box]
    whole = fold_into_myocardium(ours), fold_into_myocardium(theirs)
    drawn = case.drawn[t]
    masks: dict[Structure, tuple[Mask, Mask]] = {
        s: (whole[0] == s, whole[1] == s) for s in TRAINED if s in fold_drawn(drawn)
    }
    heart = np.logical_or.reduce([reference for _, reference in masks.values()] or [theirs > 0])
    masks |= {s: (ours == s, theirs == s) for s in _PARTS if s in drawn}
    return _Frame(
        row,
        t,
        masks,
        slice_levels(heart),
        np.flatnonzero(known.any(axis=(1, 2))).tolist(),
        int(np.count_nonzero(~known)),
        known.shape,
        {unit: case.spacing_mm if unit == "mm" else (1.0, 1.0, 1.0) for unit in units},
    )


def _score_frame(frame: _Frame, per_slice: bool) -> Iterator[Score]:
    yield frame.score("", "annotated_slices", float(len(frame.annotated)), "count")
    yield frame.score("", "unknown_voxels", float(frame.unknown_voxels), "count")
    if not frame.annotated:
        return
    volumes = [
        score
        for structure, (predicted, reference) in frame.masks.items()
        for score in _score_volume(frame, structure.name, predicted, reference)
    ]
    yield from volumes
    yield from _means(frame, volumes)
    if per_slice:
        for structure, (predicted, reference) in frame.masks.items():
            for z in frame.annotated:
                yield from _score_slice(frame, structure.name, predicted[z], reference[z], z)


def _score_volume(frame: _Frame, structure: str, predicted: Mask, reference: Mask) -> Iterator[Score]:
    status = status_of(predicted, reference)
    yield frame.score(structure, "dice", dice(predicted, reference), status=status)
    yield frame.score(structure, "jaccard", jaccard(predicted, reference), status=status)
    for unit, spacing in frame.spacings.items():
        distances = surface_distances(predicted, reference, spacing, frame.shape)
        for metric, distance in VOLUME_DISTANCES.items():
            yield frame.score(structure, metric, distance(distances), unit, status)


def _score_slice(frame: _Frame, structure: str, predicted: Mask, reference: Mask, z: int) -> Iterator[Score]:
    status = status_of(predicted, reference)
    yield frame.score(structure, "dice", dice(predicted, reference), "", status, z)
    for unit, spacing in frame.spacings.items():
        distances = surface_distances(predicted, reference, spacing[1:], frame.shape[1:])
        for metric, distance in SLICE_DISTANCES.items():
            yield frame.score(structure, metric, distance(distances), unit, status, z)


def _means(frame: _Frame, volumes: Sequence[Score]) -> Iterator[Score]:
    names = [s.name for s in TRAINED if s in frame.masks]
    if len(names) < 2:
        return
    name = MEAN if len(names) == len(TRAINED) else " ".join([MEAN, *names])
    for metric, unit in dict.fromkeys((s.metric, s.unit) for s in volumes if s.structure in names):
        found = [s for s in volumes if (s.metric, s.unit) == (metric, unit) and s.structure in names]
        status: Status = next((w for w in _WORST_FIRST if any(s.status == w for s in found)), "ok")
        yield frame.score(name, metric, float(np.mean([s.value for s in found])), unit, status)


_WORST_FIRST: Final[tuple[Status, ...]] = ("undefined", "missed")
