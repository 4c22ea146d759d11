"""Label maps and references in, scores and compared indices out, every file read once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.evaluation.measurement import Comparison, compare_case
from crossbeat.evaluation.predictions import Progress, ReadPrediction, for_each_prediction
from crossbeat.evaluation.scores import Score, heard, labelled_of, parts_in, score_case


def evaluate_cohort(
    cohort: Cohort,
    read_prediction: ReadPrediction,
    *,
    units: Sequence[str] = ("mm",),
    per_slice: bool = True,
    jobs: int = 1,
    progress: Progress = lambda row: None,
) -> tuple[list[Score], list[Comparison]]:
    """What `score_cohort` and `compare_indices` say of every labelled scan, in one pass over the files."""

    def work(
        row: Row, case: Case, predicted: NDArray[np.uint8]
    ) -> tuple[list[Score], set[str], list[Comparison]]:
        scores = score_case(row, case, predicted, units=units, per_slice=per_slice)
        return scores, parts_in(predicted), compare_case(row, case, predicted)

    labelled = labelled_of(cohort, units)
    found = for_each_prediction(labelled, read_prediction, work, jobs=jobs, progress=progress)
    scores = heard([(of_scan, held) for of_scan, held, _ in found])
    return scores, [comparison for *_, of_scan in found for comparison in of_scan]
