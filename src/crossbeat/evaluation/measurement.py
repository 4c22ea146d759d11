"""Label maps in, clinical indices and volume curves out, and those of the references laid beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CaseError, CohortError
from crossbeat.evaluation.predictions import Progress, ReadPrediction, for_each_prediction
from crossbeat.labels import CONVENTIONS, TRAINED, UNKNOWN, Structure, fold_drawn
from crossbeat.metrics.clinical import Indices, find_ed_es, indices, volume_curve_ml

FrameSource = Literal["given", "found", ""]
"""Whether the cohort.csv names a frame, the volume curve gave it, or there is none."""

FRAMES: Final = ("ed_frame", "es_frame")

ONE_SLICE: Final = "one slice, where a stack is needed: no volumes, ejection fractions or mass"
ONE_FRAME: Final = "one frame, where a cine is needed: no ES and stroke volumes, no ejection fractions"

PLAUSIBLE_EF_PERCENT: Final = (
    5.0,
    90.0,
)  # ours: beyond them is a label map or a frame in error, not a patient
LEAST_EDV_ML: Final = 5.0  # ours: a newborn's ventricle holds more

_OF_VOLUMES: Final = tuple(f.name for f in fields(Indices) if f.name not in FRAMES and "wall" not in f.name)


@dataclass(frozen=True, eq=False)
class Measurement:
    """The clinical indices and volume curves of one scan."""

    scan: str
    subject: str
    indices: Indices
    ed_frame_from: FrameSource
    es_frame_from: FrameSource
    papillary: str
    """Where the scan's convention puts the papillary muscles; the model's own follows its training data."""
    remark: str
    """Why indices are missing that another scan would have, and which cannot be; '' where all is well."""
    time_ms: NDArray[np.float64]
    """(t,) since the R wave; nan where unknown."""
    lv_ml: NDArray[np.float64]
    """(t,), 0 in a frame without it, nan in a scan of one slice; so are the others."""
    myo_ml: NDArray[np.float64]
    rv_ml: NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """One index of one scan, from the predicted and from the reference masks; nan where it has none."""

    scan: str
    subject: str
    index: str
    predicted: float
    reference: float


def measure_cohort(
    cohort: Cohort,
    read_prediction: ReadPrediction,
    *,
    jobs: int = 1,
    progress: Progress = lambda row: None,
) -> list[Measurement]:
    """Measure the prediction of every scan, labelled or not, in the cohort's order.

    ED and ES are the row's, else found in the predicted volume curve. A scan without prediction raises
    `CaseError`.
    """
    return for_each_prediction(cohort, read_prediction, measure_case, jobs=jobs, progress=progress)


def measure_case(row: Row, case: Case, labels: NDArray[np.uint8]) -> Measurement:
    """Measure one scan's (t, z, y, x) label map, predicted or reference.

    A scan of one slice has a wall to measure but no volumes: they are nan. The remark says so, and what else
    is missing or implausible: no heart, no LV in a frame, a single frame, ESV above EDV, an EDV near zero, an
    ejection fraction outside `PLAUSIBLE_EF_PERCENT`.
    """
    found = _indices(row, case, labels, row.ed_frame, row.es_frame)
    share = np.where(_left_out(labels) | (not _is_stack(case)), np.nan, 1.0)
    curves = [
        share * volume_curve_ml(labels, case.spacing_mm, s)
        for s in (Structure.LV, Structure.MYO, Structure.RV)
    ]
    return Measurement(
        row.scan,
        row.subject,
        found,
        _source(row.ed_frame, found.ed_frame),
        _source(row.es_frame, found.es_frame),
        CONVENTIONS[row.convention].papillary if row.convention in CONVENTIONS else "not stated",
        "; ".join(_remarks(labels, found, stack=_is_stack(case))),
        _times_ms(row, case),
        *curves,
    )


def told_remarks(measured: Sequence[Measurement]) -> list[str]:
    """The remarks in sentences: each once, with the scans that it is of."""
    scans: dict[str, list[str]] = {}
    for one in measured:
        if one.remark:
            scans.setdefault(one.remark, []).append(one.scan)
    return [
        f"scan {names[0]!r}: {remark}"
        if len(names) == 1
        else f"{len(names)} of {len(measured)} scans: {remark}: {', '.join(names)}"
        for remark, names in scans.items()
    ]


def compare_indices(
    cohort: Cohort,
    read_prediction: ReadPrediction,
    *,
    jobs: int = 1,
    progress: Progress = lambda row: None,
) -> list[Comparison]:
    """Indices from predicted and from reference masks of every labelled scan, index by index.

    Both are measured in the same frames (the row's, else those of the reference's volume curve) and on the
    voxels that the annotators looked at, so that only the drawing differs. An index that takes a structure which
    nobody drew in its frame has no reference and is left out, and so is what neither mask has; what one of
    them lacks is nan there, and to be counted.
    """
    labelled = cohort.labelled()
    if not len(labelled):
        raise CohortError(
            f"{cohort.name}: none of its {len(cohort)} scans has labels, nothing to compare with"
        )
    found = for_each_prediction(labelled, read_prediction, compare_case, jobs=jobs, progress=progress)
    return [comparison for of_scan in found for comparison in of_scan]


def compare_case(row: Row, case: Case, predicted: NDArray[np.uint8]) -> list[Comparison]:
    """Indices of one scan from its (t, z, y, x) prediction and its own labels."""
    if case.labels is None:
        raise CaseError(row.scan, "has no labels to compare the prediction with")
    curve = find_ed_es(volume_curve_ml(case.labels, case.spacing_mm, Structure.LV)) or (None, None)
    ed, es = (f if g is None else g for f, g in zip(curve, (row.ed_frame, row.es_frame), strict=True))
    ours, theirs = (
        _numbers(_indices(row, case, labels, ed, es)) for labels in (_as_drawn(case, predicted), case.labels)
    )
    return [
        Comparison(row.scan, row.subject, index, ours[index], theirs[index])
        for index in ours
        if _was_drawn(index, case, ed, es) and not (math.isnan(ours[index]) and math.isnan(theirs[index]))
    ]


def _indices(
    row: Row, case: Case, labels: NDArray[np.uint8], ed_frame: int | None, es_frame: int | None
) -> Indices:
    for column, frame in zip(FRAMES, (ed_frame, es_frame), strict=True):
        if frame is not None and frame >= case.frames:
            raise CaseError(
                row.scan,
                f"{column} is {frame}, but the scan has {case.frames} frames; frames count from 0 in the cohort.csv",
            )
    found = indices(labels, case.spacing_mm, ed_frame, es_frame)
    unknown: dict[str, Any] = {} if _is_stack(case) else dict.fromkeys(_OF_VOLUMES, float("nan"))
    return replace(found, **unknown)


def _remarks(labels: NDArray[np.uint8], found: Indices, *, stack: bool) -> Iterator[str]:
    """What is missing or cannot be in one scan's (t, z, y, x) label map and its indices, in words."""
    if not stack:
        yield ONE_SLICE
    if not np.isin(labels, [s for s in Structure if s != Structure.BACKGROUND]).any():
        yield "no heart found: the label map is empty"
        return
    held = (labels == Structure.LV).any(axis=(1, 2, 3)) | _left_out(labels)
    if len(labels) == 1 and stack:
        yield ONE_FRAME
    if not (labels == Structure.LV).any():
        yield "no LV found"
    elif not held.all():
        without = np.flatnonzero(~held).tolist()
        yield f"no LV found in {len(without)} of {len(labels)} frames: {', '.join(map(str, without))}"
    elif len(labels) > 1 and None in (found.ed_frame, found.es_frame):
        yield "the LV is equally large in all frames: no ED and ES found"
    for side in ("LV", "RV"):
        yield from _implausible(side, found)


def _left_out(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Frames that nobody segmented, as a study leaves those without labels: nothing is missing in them."""
    found: NDArray[np.bool_] = (labels == UNKNOWN).all(axis=(1, 2, 3))
    return found


def _implausible(side: str, found: Indices) -> Iterator[str]:
    edv, esv, ef = (getattr(found, f"{side.lower()}_{i}") for i in ("edv_ml", "esv_ml", "ef_percent"))
    if edv < LEAST_EDV_ML:
        yield f"{side} EDV {edv:.1f} ml is near zero: look at its label map"
    if esv > edv:
        yield (
            f"{side} ESV {esv:.1f} ml is above its EDV {edv:.1f} ml: look at its label map, and whether "
            f"frames {found.ed_frame} and {found.es_frame} are ED and ES"
        )
    elif not math.isnan(ef) and not PLAUSIBLE_EF_PERCENT[0] <= ef <= PLAUSIBLE_EF_PERCENT[1]:
        low, high = PLAUSIBLE_EF_PERCENT
        yield f"{side} EF {ef:.1f} % is outside {low:g} to {high:g} %: look at its label map"


def _as_drawn(case: Case, predicted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The prediction where somebody looked, without the structures that nobody drew in a frame."""
    assert case.labels is not None
    found = np.where(case.labels == UNKNOWN, np.uint8(UNKNOWN), predicted)
    for t, drawn in enumerate(case.drawn):
        found[t][np.isin(found[t], sorted(set(TRAINED) - fold_drawn(drawn)))] = Structure.BACKGROUND
    return found


def _was_drawn(index: str, case: Case, ed: int | None, es: int | None) -> bool:
    """Whether annotators drew all that an index measures, in its frames."""
    if index == "scar_mass_g":
        needed = {Structure.SCAR}
    elif "wall" in index:
        needed = {Structure.LV, Structure.MYO}
    else:
        needed = {
            Structure.MYO if "mass" in index else Structure.RV if index.startswith("rv") else Structure.LV
        }
    still = 0 if case.frames == 1 else None
    at_es = [es] if index in _AT_ES else [ed, es] if index in _AT_BOTH else []
    frames = at_es or [still if ed is None else ed]
    return all(t is not None and needed <= case.drawn[t] for t in frames)


_AT_ES: Final = ("lv_esv_ml", "rv_esv_ml", "wall_thickness_es_mm", "wall_thickness_es_max_mm")
_AT_BOTH: Final = ("lv_sv_ml", "lv_ef_percent", "rv_sv_ml", "rv_ef_percent")


def _is_stack(case: Case) -> bool:
    return bool(case.image.shape[1] > 1)


def _numbers(found: Indices) -> Mapping[str, float]:
    return {name: value for name, value in asdict(found).items() if name not in FRAMES}


def _source(given: int | None, used: int | None) -> FrameSource:
    return "given" if given is not None else "found" if used is not None else ""


def _times_ms(row: Row, case: Case) -> NDArray[np.float64]:
    if case.frame_times_ms is not None:
        return np.asarray(case.frame_times_ms, np.float64)
    step = float("nan") if row.frame_interval_ms is None else row.frame_interval_ms
    return np.asarray(np.arange(case.frames) * step, np.float64)
