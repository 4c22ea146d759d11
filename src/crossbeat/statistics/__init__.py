"""Scores in, what one may say of them out: means over patients with intervals, paired tests, agreement.

The patient is the unit. Frames, slices and scans of one patient resemble each other, so they are averaged
first and every mean, SD, interval and test runs over patients. A nan is a score that has no value (both
masks empty): it is left out and counted.
"""

from crossbeat.statistics.bootstrap import (
    DRAWS,
    FEWEST_PATIENTS,
    bootstrap_interval,
    crossed_interval,
    crossed_mean,
    crossed_ratio_interval,
)
from crossbeat.statistics.paired import (
    AGREEMENT_FIGURES,
    BlandAltman,
    PairedTest,
    agreement_table,
    bland_altman,
    holm,
    rank_biserial,
    wilcoxon,
)
from crossbeat.statistics.patients import Values, mean_sd, median, patient_means
from crossbeat.statistics.summary import Summary, summarise, summary_table

__all__ = [
    "AGREEMENT_FIGURES",
    "DRAWS",
    "FEWEST_PATIENTS",
    "BlandAltman",
    "PairedTest",
    "Summary",
    "Values",
    "agreement_table",
    "bland_altman",
    "bootstrap_interval",
    "crossed_interval",
    "crossed_mean",
    "crossed_ratio_interval",
    "holm",
    "mean_sd",
    "median",
    "patient_means",
    "rank_biserial",
    "summarise",
    "summary_table",
    "wilcoxon",
]
