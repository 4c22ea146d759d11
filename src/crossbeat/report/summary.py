"""scores.csv → summary.csv: every metric over patients, sequence by sequence, split by split and part by part."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pandas as pd

from crossbeat.report.writing import write_whole
from crossbeat.statistics import summary_table

NEVER_POOLED: Final = ("sequence", "split")
"""Columns that part every row: a mean over training and test, or over cine and LGE, says nothing of either."""
PARTED_BY: Final = (*NEVER_POOLED, "phase", "vendor", "group", "level")
"""Columns by which the summary is parted: the first always, the others one by one and all at once."""
ALL: Final = "all"


def summarise_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean, SD, median and 95 % interval over patients, with counts of undefined and missed, in long form.

    `scores` is what `evaluation.read_scores` gives. Every row is of one sequence and one split (empty where the
    cohort states none). They come in order: of all their scans together, parted by each other column of
    `PARTED_BY` alone, then by all of them at once; `all` stands in columns that do not part a row. Scores parted
    by level are those of single slices in 2-D, all others those of volumes in 3-D. Columns with a single value
    part nothing and add no row of their own. `nominal_scans` counts scans without their true spacing.
    """
    always = [column for column in NEVER_POOLED if column in scores]
    parting = [c for c in PARTED_BY if c not in NEVER_POOLED and c in scores and scores[c].nunique() > 1]
    groupings = [[], *([column] for column in parting)]
    groupings += [crossed for crossed in ([c for c in parting if c != "level"], parting) if len(crossed) > 1]
    measured = scores[scores["unit"] != "count"]
    tables = [_of(measured, [*always, *grouping]) for grouping in groupings]
    return pd.concat(tables, ignore_index=True).drop_duplicates(ignore_index=True)


def write_summary(scores: pd.DataFrame, path: Path) -> None:
    """Write summary.csv, whole or not at all."""
    write_whole(path, summarise_scores(scores).to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def _of(scores: pd.DataFrame, grouping: list[str]) -> pd.DataFrame:
    by = ["structure", *grouping, "metric", "unit"]
    table = summary_table(scores, ["structure", *grouping]).merge(_nominal_scans(scores, by), "left", by)
    table["nominal_scans"] = table["nominal_scans"].fillna(0).astype(int)
    for column in PARTED_BY:
        if column not in grouping:
            table[column] = ALL
    figures = [c for c in table if c not in ("structure", "metric", "unit", *PARTED_BY)]
    return table[["structure", "metric", "unit", *PARTED_BY, *figures]]


def _nominal_scans(scores: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    rows = scores[scores["spacing_source"] == "nominal"] if "spacing_source" in scores else scores.iloc[:0]
    return rows.groupby(by, sort=False)["scan"].nunique().rename("nominal_scans").reset_index()
