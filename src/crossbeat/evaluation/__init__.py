"""Label maps and references in; scores, clinical indices and their agreement out, as records and as csv."""

from crossbeat.evaluation.measurement import (
    Comparison,
    Measurement,
    compare_case,
    compare_indices,
    measure_case,
    measure_cohort,
    told_remarks,
)
from crossbeat.evaluation.once import evaluate_cohort
from crossbeat.evaluation.scores import MEAN, UNITS, Score, score_case, score_cohort
from crossbeat.evaluation.tables import (
    read_agreement,
    read_indices,
    read_scores,
    read_volumes,
    write_agreement,
    write_indices,
    write_scores,
    write_volumes,
)

__all__ = [
    "MEAN",
    "UNITS",
    "Comparison",
    "Measurement",
    "Score",
    "compare_case",
    "compare_indices",
    "evaluate_cohort",
    "measure_case",
    "measure_cohort",
    "read_agreement",
    "read_indices",
    "read_scores",
    "read_volumes",
    "score_case",
    "score_cohort",
    "told_remarks",
    "write_agreement",
    "write_indices",
    "write_scores",
    "write_volumes",
]
