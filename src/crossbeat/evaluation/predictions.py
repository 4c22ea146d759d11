"""A cohort and its label maps on disk → one piece of work for each scan; none may lack its prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CaseError
from crossbeat.evaluation.parallel import in_order
from crossbeat.labels import UNKNOWN, Structure

ReadPrediction = Callable[[Row], NDArray[np.uint8] | None]
"""The (t, z, y, x) label map predicted for a scan; None or `FileNotFoundError` where there is none."""

Progress = Callable[[Row], None]

Result = TypeVar("Result")


def for_each_prediction(
    cohort: Cohort,
    read_prediction: ReadPrediction,
    work: Callable[[Row, Case, NDArray[np.uint8]], Result],
    *,
    jobs: int = 1,
    progress: Progress = lambda row: None,
) -> list[Result]:
    """What `work` makes of every scan and its prediction, in the cohort's order, in so many processes.

    Scans without a prediction stop it with one `CaseError` that names them all; so does a prediction of
    another shape than its scan, or with values that are no structure. Of a labelled scan the frames without labels
    may be left out (all `UNKNOWN`), as a study leaves them.
    """

    def of_one(row: Row) -> Result | None:
        predicted = _read(read_prediction, row)
        if predicted is None:
            return None
        case = cohort.read(row)
        _check(case, predicted)
        return work(row, case, predicted)

    found: list[Result] = []
    missing: list[str] = []
    for row, result in zip(cohort, in_order(of_one, cohort.rows, jobs), strict=True):
        progress(row)
        if result is None:
            missing.append(row.scan)
        else:
            found.append(result)
    if missing:
        others = f" (nor have {', '.join(missing[1:])})" if missing[1:] else ""
        raise CaseError(
            missing[0],
            f"has no prediction{others}: {len(missing)} of {len(cohort)} are missing; "
            "run `crossbeat predict` on these scans first, or leave them out of the cohort.csv",
        )
    return found


def _read(read_prediction: ReadPrediction, row: Row) -> NDArray[np.uint8] | None:
    try:
        return read_prediction(row)
    except FileNotFoundError:
        return None


def _check(case: Case, predicted: NDArray[np.uint8]) -> None:
    if predicted.shape != case.image.shape:
        raise CaseError(
            case.id,
            f"the prediction has shape {predicted.shape}, the scan {case.image.shape} (t, z, y, x); "
            "predict this very scan again",
        )
    asked = set(case.labelled_frames or range(case.frames))
    left_out = {t for t, frame in enumerate(predicted) if (frame == UNKNOWN).all()}
    if left_out & asked:
        raise CaseError(
            case.id,
            f"the prediction leaves out frame {min(left_out & asked)}; run `crossbeat predict` on this scan",
        )
    rest = predicted[[t not in left_out for t in range(case.frames)]]
    strange = sorted(set(np.unique(rest).tolist()) - {int(s) for s in Structure})
    if strange:
        raise CaseError(
            case.id,
            f"the prediction holds values {strange} that are no structure; "
            f"ours are {', '.join(f'{int(s)} {s.name}' for s in Structure)}",
        )
