"""Scores in, what one may say of them out: means over patients with intervals, paired tests, agreement.

The patient is the unit. Frames, slices and scans of one patient resemble each other, so they are averaged
first and every mean, SD, interval and test runs over patients. A nan is a score that has no value (both
masks empty): it is left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from crossbeat.errors import SettingsError, did_you_mean

Values = NDArray[np.float64]

DRAWS: Final = (
    5000  # some 30 beyond either 95 % limit of eight patients; Efron & Tibshirani 1993, section 14.3
)

FEWEST_PATIENTS: Final = 8
"""Patients below whom a mean gets no interval: resampling so few values misses the mean too often to be shown."""

AGREEMENT_FIGURES: Final = (
    *("index", "n", "bias", "low", "high", "sd", "undefined"),
    *(f"{of}_interval_{side}" for of in ("bias", "low", "high") for side in ("low", "high")),
    *("mae", "pairs", "missed", "not_in_reference"),
)
"""Columns of an agreement table."""

_NAN: Final = float("nan")
_CHUNK: Final = 2_000_000  # resampled values held at a time: 16 MB


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


def patient_means(values: ArrayLike, patients: Sequence[Hashable]) -> Values:
    """One mean a patient, in order of first appearance; nan is left out, and a patient of nothing but nan."""
    found = np.asarray(values, np.float64)
    if found.shape != (len(patients),):
        raise ValueError(f"needs one patient a value, got {found.shape} values of {len(patients)} patients")
    code, names = pd.factorize(np.array([str(p) for p in patients], dtype=object))
    defined = ~np.isnan(found)
    counts = np.bincount(code[defined], minlength=len(names))
    sums = np.bincount(code[defined], weights=found[defined], minlength=len(names))
    return np.asarray(sums[counts > 0] / counts[counts > 0], np.float64)


def mean_sd(values: ArrayLike, patients: Sequence[Hashable]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) over patients; nan for no patient, and an SD of one is nan."""
    means = patient_means(values, patients)
    return (
        float(means.mean()) if means.size else _NAN,
        float(means.std(ddof=1)) if means.size > 1 else _NAN,
    )


def median(values: ArrayLike, patients: Sequence[Hashable]) -> float:
    """Median over patients; nan for no patient."""
    means = patient_means(values, patients)
    return float(np.median(means)) if means.size else _NAN


def bootstrap_interval(
    values: ArrayLike,
    patients: Sequence[Hashable],
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of the mean over patients, by drawing patients with replacement.

    Bias-corrected and accelerated (BCa; Efron 1987, doi 10.1080/01621459.1987.10478410), since Dice piles
    up below 1, and read further out by as much as Student's t lies beyond the normal distribution, since
    resampling few values spreads too little (Hesterberg 2015, doi 10.1080/00031305.2015.1089789, section 4.1.2).
    The same seed gives the same interval. (nan, nan) for fewer than `FEWEST_PATIENTS`; patients who all
    agree give their common value twice. nan values are left out.
    """
    if not 0 < level < 1:
        raise SettingsError(f"level {level}: a confidence level lies between 0 and 1; write 0.95")
    means = patient_means(values, patients)
    if means.size < FEWEST_PATIENTS:
        return _NAN, _NAN
    if np.ptp(means) == 0:
        return float(means[0]), float(means[0])
    drawn = _resampled_means(means, draws, np.random.default_rng(seed))
    low, high = np.quantile(drawn, _bca_quantiles(means, drawn, level))
    return float(low), float(high)


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


def wilcoxon(a: ArrayLike, b: ArrayLike, patients: Sequence[Hashable]) -> PairedTest:
    """Wilcoxon signed-rank test, two-sided, of a - b over patients (pairs of one patient averaged first).

    Exact where few patients allow it, as scipy chooses. No difference at all gives p = 1, no pair nan.
    """
    difference = _differences(a, b)
    means = patient_means(difference, patients)
    undefined = int(np.isnan(difference).sum())
    if not means.size:
        return PairedTest(0, _NAN, _NAN, undefined)
    p = float(stats.wilcoxon(means).pvalue) if means.any() else 1.0
    return PairedTest(means.size, float(np.median(means)), p, undefined)


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


def _resampled_means(means: Values, draws: int, rng: np.random.Generator) -> Values:
    rows = max(1, _CHUNK // means.size)
    parts = [
        means[rng.integers(means.size, size=(min(rows, draws - start), means.size))].mean(axis=1)
        for start in range(0, draws, rows)
    ]
    return np.concatenate(parts)


def _bca_quantiles(means: Values, drawn: Values, level: float) -> Values:
    """Where to read the drawn means (Efron & Tibshirani 1993, eq. 14.9 to 14.15), expanded for few patients."""
    below = (drawn < means.mean()).mean() + (drawn == means.mean()).mean() / 2
    edge = 0.5 / drawn.size
    bias = stats.norm.ppf(np.clip(below, edge, 1 - edge))
    influence = means - means.mean()  # of a mean: proportional to the jackknife's, and scale does not matter
    influence = influence / np.abs(influence).max()
    acceleration = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    reach = math.sqrt(means.size / (means.size - 1)) * stats.t.ppf((1 + level) / 2, means.size - 1)
    z = bias + np.array([-reach, reach])
    stretch = np.maximum(
        1 - acceleration * z, 1e-6
    )  # beyond its pole the correction means the outermost draw
    return np.asarray(stats.norm.cdf(bias + z / stretch), np.float64)


def _differences(a: ArrayLike, b: ArrayLike) -> Values:
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"paired values must come in pairs, got shapes {first.shape} and {second.shape}")
    return first - second
