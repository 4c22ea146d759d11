"""One pass over the files says what two would."""

from dataclasses import replace

import numpy as np
import pytest

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CaseError, CohortError, SettingsError
from crossbeat.evaluation import compare_indices, evaluate_cohort, score_cohort
from crossbeat.labels import Structure
from evaluation.conftest import LV, MYO, ReadPrediction


def test_one_pass_gives_the_scores_and_indices_of_two_and_reads_each_scan_once(
    cohort: Cohort, perfect: ReadPrediction
) -> None:
    read: list[str] = []

    def counted(row: Row) -> Case:
        read.append(f"scan {row.scan}")
        return cohort.read(row)

    def predicted(row: Row) -> np.ndarray:
        read.append(f"label map {row.scan}")
        labels = perfect(row)
        labels[0, :, 12:14][labels[0, :, 12:14] == LV] = MYO
        if row.scan == "p2-cine":
            labels[0, 2, 4, 4] = Structure.SCAR  # then scar is scored in both
        return labels

    scores, compared = evaluate_cohort(replace(cohort, read=counted), predicted, units=("mm", "voxel"))
    assert sorted(read) == [f"{what} {row.scan}" for what in ("label map", "scan") for row in cohort]
    assert repr(scores) == repr(score_cohort(cohort, predicted, units=("mm", "voxel")))
    assert repr(compared) == repr(compare_indices(cohort, predicted))
    assert len(compared) > 10


def test_what_cannot_be_evaluated_is_refused_as_by_each(cohort: Cohort, perfect: ReadPrediction) -> None:
    with pytest.raises(CohortError, match="nothing can be scored"):
        evaluate_cohort(cohort.without_labels(), perfect)
    with pytest.raises(SettingsError, match="unit 'inch' of distances is unknown"):
        evaluate_cohort(cohort, perfect, units=("inch",))
    with pytest.raises(CaseError, match=r"has no prediction \(nor have p2-cine\)"):
        evaluate_cohort(cohort, lambda row: None)
