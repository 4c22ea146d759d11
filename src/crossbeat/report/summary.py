"""scores.csv → summary.csv: every metric summed up over patients, over all scans and part by part."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pandas as pd

from crossbeat.statistics import summary_table

PARTED_BY: Final = ("sequence", "phase", "vendor", "group", "level")
"""Columns by which the summary is parted: one by one, and all at once."""
ALL: Final = "all"


def summarise_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean, SD, median and 95 % interval over patients, with counts of undefined and missed, in long form.

    `scores` is what `evaluation.read_scores` gives. The rows come in order: of all scans together, parted by
    each of `PARTED_BY` alone, then by all of them at once; `all` stands in columns that do not part a row.
    Scores parted by level are those of single slices in 2-D, all others those of volumes in 3-D. Columns with a
    single value part nothing and add no row of their own.
    """
    parting = [column for column in PARTED_BY if column in scores and scores[column].nunique() > 1]
    groupings = [[], *([column] for column in parting)]
    groupings += [crossed for crossed in ([c for c in parting if c != "level"], parting) if len(crossed) > 1]
    measured = scores[scores["unit"] != "count"]
    tables = [_of(measured, grouping) for grouping in groupings]
    return pd.concat(tables, ignore_index=True).drop_duplicates(ignore_index=True)


def write_summary(scores: pd.DataFrame, path: Path) -> None:
    """Write summary.csv, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        summarise_scores(scores).to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _of(scores: pd.DataFrame, grouping: list[str]) -> pd.DataFrame:
    table = summary_table(scores, ["structure", *grouping])
    for column in PARTED_BY:
        if column not in grouping:
            table[column] = ALL
    figures = [c for c in table if c not in ("structure", "metric", "unit", *PARTED_BY)]
    return table[["structure", "metric", "unit", *PARTED_BY, *figures]]
