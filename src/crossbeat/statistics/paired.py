"""Two values of the same patients in, how they differ out: paired tests, effect sizes, agreement."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from crossbeat.statistics.patients import Values, mean_sd, patient_means

AGREEMENT_FIGURES: Final = (
    *("index", "n", "bias", "low", "high", "sd", "undefined"),
    *(f"{of}_interval_{side}" for of in ("bias", "low", "high") for side in ("low", "high")),
    *("mae", "pairs", "missed", "not_in_reference"),
)
"""Columns of an agreement table."""

_NAN: Final = float("nan")


@dataclass(frozen=True)
class PairedTest:
    """Two methods on the same patients."""

    n_patients: int
    median_difference: float
    p: float
    undefined: int
    """Pairs of which one value is nan."""


@dataclass(frozen=True)
class BlandAltman:
    """Agreement of two measurements of the same thing: bias and 95 % limits, each with its 95 % interval."""

    n: int
    """Patients with at least one pair."""
    bias: float
    low: float
    high: float
    sd: float
    bias_interval: tuple[float, float]
    low_interval: tuple[float, float]
    high_interval: tuple[float, float]
    undefined: int
    """Pairs of which one value is nan."""


def wilcoxon(a: ArrayLike, b: ArrayLike, patients: Sequence[Hashable]) -> PairedTest:
    """Wilcoxon signed-rank test, two-sided, of a - b over patients (pairs of one patient averaged first).

    Exact where few patients allow it, as scipy chooses. No difference at all gives p = 1, no pair nan.
    """
    difference = _differences(a, b)
    means = patient_means(difference, patients)
    undefined = int(np.isnan(difference).sum())
    if not means.size:
        return PairedTest(0, _NAN, _NAN, undefined)
    ranks = np.sign(means) * stats.rankdata(np.abs(means))
    p = _p_of_ranks(tuple(ranks.tolist())) if means.any() else 1.0
    return PairedTest(means.size, float(np.median(means)), p, undefined)


@lru_cache(maxsize=1 << 14)
def _p_of_ranks(signed: tuple[float, ...]) -> float:
    """The test's p, which signed ranks decide; a study's page asks for many of them several times."""
    return float(stats.wilcoxon(signed).pvalue)


def rank_biserial(a: ArrayLike, b: ArrayLike, patients: Sequence[Hashable]) -> float:
    """How consistently a lies above b, from -1 (below in every patient) over 0 to 1 (above in every patient).

    Matched-pairs rank-biserial correlation of the patients' mean differences: the share of the signed-rank sum
    that speaks for a less that for b (Kerby 2014, doi 10.2466/11.IT.3.1, "simple difference formula"). As in
    Wilcoxon's test no difference has no rank. All differences zero give 0, no pair nan.
    """
    means = patient_means(_differences(a, b), patients)
    if not means.size:
        return _NAN
    unequal = means[means != 0]
    ranks = stats.rankdata(np.abs(unequal))
    return float((ranks * np.sign(unequal)).sum() / ranks.sum()) if unequal.size else 0.0


def holm(p_values: ArrayLike) -> Values:
    """p values corrected for their number by Holm's step-down rule (Holm 1979), in the order given.

    nan stays nan and does not count as a test.
    """
    p = np.asarray(p_values, np.float64)
    out = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(order.size, 0, -1)
    out[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1) if order.size else []
    return out


def bland_altman(a: ArrayLike, b: ArrayLike, patients: Sequence[Hashable]) -> BlandAltman:
    """Agreement of `a` (predicted) with `b` (reference) over patients: mean of a - b, and bias ± 1.96 SD.

    Pairs of one patient are averaged first, so the limits are those of a patient's mean difference. The intervals
    are those of Bland & Altman 1999 (Stat Methods Med Res 8:135, section 2.1.1): the variance of the bias is s²/n,
    that of a limit s² (1/n + 1.96²/(2 (n - 1))), with Student's t. Pairs with nan are left out and counted; fewer
    than two patients have no limits.
    """
    difference = _differences(a, b)
    found = patient_means(difference, patients)
    n, undefined = int(found.size), int(np.isnan(difference).sum())
    bias = float(found.mean()) if n else _NAN
    if n < 2:
        none = (_NAN, _NAN)
        return BlandAltman(n, bias, _NAN, _NAN, _NAN, none, none, none, undefined)
    sd = float(found.std(ddof=1))
    z, t = float(stats.norm.ppf(0.975)), float(stats.t.ppf(0.975, n - 1))
    of_bias, of_limit = t * sd / math.sqrt(n), t * sd * math.sqrt(1 / n + z**2 / (2 * (n - 1)))
    low, high = bias - z * sd, bias + z * sd
    return BlandAltman(
        n,
        bias,
        low,
        high,
        sd,
        bias_interval=(bias - of_bias, bias + of_bias),
        low_interval=(low - of_limit, low + of_limit),
        high_interval=(high - of_limit, high + of_limit),
        undefined=undefined,
    )


def agreement_table(pairs: pd.DataFrame) -> pd.DataFrame:
    """Bland–Altman of every index of an agreement table (`evaluation.write_agreement`), a row an index.

    It has the columns `index`, `subject`, `predicted` and `reference`; all pairs belong into it, those with nan too.
    `n` counts patients, `pairs` the defined pairs, `missed` those without a prediction of what the reference
    has, `not_in_reference` those of the reverse. `mae` is the mean over patients of the absolute difference.
    """
    lines = []
    for index, rows in pairs.groupby("index", sort=False):
        predicted, reference = (rows[c].to_numpy(np.float64) for c in ("predicted", "reference"))
        patients = rows["subject"].tolist()
        found = asdict(bland_altman(predicted, reference, patients))
        intervals = {f"{of}_interval": found.pop(f"{of}_interval") for of in ("bias", "low", "high")}
        lines.append(
            {
                "index": index,
                **found,
                **{
                    f"{of}_{side}": ends[i]
                    for of, ends in intervals.items()
                    for i, side in enumerate(("low", "high"))
                },
                "mae": mean_sd(np.abs(predicted - reference), patients)[0],
                "pairs": len(rows) - found["undefined"],
                "missed": int((np.isnan(predicted) & ~np.isnan(reference)).sum()),
                "not_in_reference": int((np.isnan(reference) & ~np.isnan(predicted)).sum()),
            }
        )
    return pd.DataFrame(lines, columns=AGREEMENT_FIGURES)


def _differences(a: ArrayLike, b: ArrayLike) -> Values:
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"paired values must come in pairs, got shapes {first.shape} and {second.shape}")
    return first - second
