"""Scores in, what a table says of them out: means over patients with intervals, beside what is not in them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from crossbeat.errors import SettingsError, did_you_mean
from crossbeat.statistics.bootstrap import DRAWS, bootstrap_interval
from crossbeat.statistics.patients import mean_sd, median, patient_means


@dataclass(frozen=True)
class Summary:
    """What a table says of one score: over patients, beside the counts of what is not in it."""

    n_patients: int
    """Patients with at least one defined value."""
    n: int
    """Values that are defined; missed structures are among them."""
    mean: float
    sd: float
    median: float
    low: float
    """Bootstrap interval of the mean, 95 % unless asked otherwise; nan for fewer than `FEWEST_PATIENTS`."""
    high: float
    undefined: int
    """Values that are nan."""
    missed: int
    """Values that stand for a structure that only one of the two masks has."""


def summarise(
    values: ArrayLike,
    patients: Sequence[Hashable],
    status: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Summary:
    """Mean, SD, median and interval over patients, and the counts; no values give nan and n = 0.

    `status` (`ok`, `undefined`, `missed`) stands beside each value; without it no miss can be counted.
    """
    found = np.asarray(values, np.float64)
    mean, sd = mean_sd(found, patients)
    low, high = bootstrap_interval(found, patients, level=level, draws=draws, seed=seed)
    undefined = int(np.isnan(found).sum())
    return Summary(
        n_patients=int(patient_means(found, patients).size),
        n=found.size - undefined,
        mean=mean,
        sd=sd,
        median=median(found, patients),
        low=low,
        high=high,
        undefined=undefined,
        missed=sum(s == "missed" for s in status or ()),
    )


def summary_table(
    scores: pd.DataFrame,
    by: Sequence[str] = ("structure", "phase"),
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """Summaries of a scores table (`evaluation.read_scores`), a row a group, in order of appearance.

    `by` names any of its columns: structure, phase, vendor, centre, group, split, sequence, level … Metric
    and unit always part the rows. With `level` or `slice` among them the 2-D scores of single slices are
    summed up, otherwise those of whole volumes: the two are never mixed.
    """
    columns = list(dict.fromkeys([*by, "metric", "unit"]))
    for column in columns:
        if column not in scores:
            raise SettingsError(
                f"scores have no column {column!r} to sum up by; {did_you_mean(column, scores.columns)}"
            )
    of_slice = scores["slice"].notna() & (scores["slice"].astype(str) != "")
    chosen = scores[of_slice if {"level", "slice"} & set(columns) else ~of_slice]
    lines = []
    for key, rows in chosen.groupby(columns, sort=False, dropna=False):
        summary = summarise(
            rows["value"].to_numpy(np.float64),
            rows["subject"].tolist(),
            rows["status"].tolist(),
            level=level,
            draws=draws,
            seed=seed,
        )
        lines.append(dict(zip(columns, key, strict=True)) | asdict(summary))
    return pd.DataFrame(lines, columns=[*columns, *Summary.__dataclass_fields__])
