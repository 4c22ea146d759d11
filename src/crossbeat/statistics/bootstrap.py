"""Values of patients in, intervals out: patients drawn with replacement, and the seeds of training with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from crossbeat.errors import SettingsError
from crossbeat.statistics.patients import Values, patient_means

DRAWS: Final = 5000
"""Efron & Tibshirani 1993, section 14.3, have 1000 at least."""

OUTERMOST: Final = 30
"""Draws that lie beyond a limit at least: with fewer, single draws, and so the bootstrap's seed, decide where it is."""

MOST_DRAWS: Final = 200_000
"""Taken where few, skewed values send BCa's limit out there: as many as have thirty beyond it, up to these."""

FEWEST_PATIENTS: Final = 8
"""Patients below whom a mean gets no interval: resampling so few values misses the mean too often to be shown."""

_NAN: Final = float("nan")
_CHUNK: Final = 2_000_000  # resampled values held at a time: 16 MB
_ROUNDING: Final = 1e-12  # two means of the same values that are added up in other orders are one value
_KEPT: Final = 10_000_000  # counts of one set of draws that are kept for the next mean: 20 MB
_STEPS: Final = (
    DRAWS,
    4 * DRAWS,
    16 * DRAWS,
    MOST_DRAWS,
)  # so many draws are made, the first of which are taken

Counts: TypeAlias = NDArray[np.uint16]


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
    Where a limit would lie among the outermost thirty draws, more are taken.
    The same seed gives the same interval. (nan, nan) for fewer than `FEWEST_PATIENTS`; patients who all
    agree give their common value twice. nan values are left out.
    """
    return crossed_interval(patient_means(values, patients)[:, None], level=level, draws=draws, seed=seed)


def crossed_mean(values: ArrayLike) -> float:
    """Mean over patients of their means over seeds, of a (patients, seeds) table; nan are left out."""
    found = _table(values)
    return float(_row_means(found).mean()) if found.size else _NAN


def crossed_interval(
    values: ArrayLike, *, level: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Interval of `crossed_mean`: what other patients and other seeds of training might have given.

    `values` is (patients, seeds), nan where a patient has no value; of one seed it is `bootstrap_interval`. Each
    draw takes patients and, independently, seeds with replacement, and every value where the two cross (pigeonhole
    bootstrap; Owen 2007, doi 10.1214/07-AOAS122). What is neither the patient's nor the seed's is thereby counted
    more than once, so it errs on the wide side (Owen & Eckles 2012, doi 10.1214/12-AOAS547). It is read as BCa, with
    the acceleration of two samples (Efron & Tibshirani 1993, section 14.3), and further out by Student's t, whose
    degrees of freedom are Satterthwaite's (1946, doi 10.2307/3002019) of the variances that patients and seeds bring
    to the mean. Of two seeds that differ more than patients do it is still too narrow: nothing knows a hundred by two.
    """
    found = _table(values)
    if not _enough(found, level):
        return _NAN, _NAN
    if np.nanmax(found) == np.nanmin(found):
        return float(np.nanmax(found)), float(np.nanmax(found))
    return _bca(found, crossed_mean(found), lambda count: _drawn(found[None], count, seed)[0], level, draws)


def crossed_ratio_interval(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of a ratio of two `crossed_mean`s of the same patients and seeds, each draw taken for both.

    As `crossed_interval`, with the influence of a value on the ratio by its linear part: (x - ratio · y) / mean y
    (Efron & Tibshirani 1993, section 22.4). Meant for a denominator that is told apart from 0; a pair with a nan
    is left out.
    """
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if above.shape != below.shape:
        raise ValueError(f"a ratio needs tables of one shape, got {above.shape} and {below.shape}")
    gap = np.isnan(above) | np.isnan(below)
    above, below = _table(np.where(gap, np.nan, above)), _table(np.where(gap, np.nan, below))
    if not _enough(above, level) or crossed_mean(below) == 0:
        return _NAN, _NAN
    ratio = crossed_mean(above) / crossed_mean(below)
    linear = (above - ratio * below) / crossed_mean(below)
    scale = max(1.0, abs(ratio))
    if np.nanmax(np.abs(linear)) <= _ROUNDING * scale:  # one ratio in every patient, but for rounding
        return ratio, ratio

    def drawn(count: int) -> Values:
        over, under = _drawn(np.stack([above, below]), count, seed)
        return np.asarray(over / np.where(under == 0, np.nan, under), np.float64)

    return _bca(linear, ratio, drawn, level, draws)


def _table(values: ArrayLike) -> Values:
    """(patients, seeds) without patients and seeds that have no value at all."""
    found = np.asarray(values, np.float64)
    if found.ndim != 2:
        raise ValueError(f"needs a table of patients by seeds, got shape {found.shape}")
    there = ~np.isnan(found)
    return np.asarray(found[there.any(axis=1)][:, there.any(axis=0)], np.float64)


def _enough(table: Values, level: float) -> bool:
    """Whether there are patients enough for an interval."""
    if not 0 < level < 1:
        raise SettingsError(f"level {level}: a confidence level lies between 0 and 1; write 0.95")
    return len(table) >= FEWEST_PATIENTS


def _drawn(tables: Values, draws: int, seed: int) -> Values:
    """(tables, draws) of drawn means."""
    _, patients, seeds = tables.shape
    # of one seed, fewer draws are the first of more
    made = min((n for n in _STEPS if n >= draws), default=draws) if seeds == 1 else draws
    make = _kept_resamples if made * patients <= _KEPT else _resamples
    chosen, picked = (counts[:draws] for counts in make(patients, seeds, made, seed))
    there = ~np.isnan(tables)
    filled = np.where(there, tables, 0.0)
    size = max(1, _CHUNK // patients)
    parts = []
    for start in range(0, draws, size):
        of_patient = chosen[start : start + size].astype(np.float64)
        of_seed = picked[start : start + size].astype(np.float64)
        parts.append([_mean_of(*both, of_patient, of_seed) for both in zip(filled, there, strict=True)])
    return np.concatenate([np.stack(part) for part in parts], axis=1)


def _resamples(patients: int, seeds: int, draws: int, seed: int) -> tuple[Counts, Counts]:
    """How often each draw takes each patient (draws, patients), and each seed of training (draws, seeds)."""
    rng = np.random.default_rng(seed)
    size = max(1, _CHUNK // patients)
    chosen, picked = [], []
    for start in range(0, draws, size):
        count = min(size, draws - start)
        chosen.append(_counted(rng.integers(patients, size=(count, patients)), patients))
        whole = np.zeros((count, 1), np.int64)  # of one seed
        picked.append(_counted(rng.integers(seeds, size=(count, seeds)) if seeds > 1 else whole, seeds))
    return np.concatenate(chosen), np.concatenate(picked)


_kept_resamples = lru_cache(maxsize=8)(_resamples)  # a league asks for the same ones hundreds of times


def _counted(drawn: NDArray[np.int64], of: int) -> Counts:
    """How often each row of (draws, n) has each of the numbers below `of`."""
    rows = len(drawn)
    flat = (drawn + np.arange(rows)[:, None] * of).ravel()
    found = np.bincount(flat, minlength=rows * of).reshape(rows, of)
    return found.astype(np.uint16)


def _mean_of(filled: Values, there: NDArray[np.bool_], of_patient: Values, of_seed: Values) -> Values:
    """Mean of each draw over the drawn patients of their means over the drawn seeds they have values of."""
    if there.all():
        return np.asarray((of_patient @ filled * of_seed).sum(axis=1) / there.size, np.float64)
    values = of_seed @ there.T.astype(np.float64)
    means = of_seed @ filled.T / np.maximum(values, 1)
    patients = (of_patient * (values > 0)).sum(axis=1)
    return np.where(patients > 0, (of_patient * means).sum(axis=1) / np.maximum(patients, 1), np.nan)


def _row_means(table: Values) -> Values:
    return table[:, 0] if table.shape[1] == 1 else np.asarray(np.nanmean(table, axis=1), np.float64)


def _bca(
    table: Values, estimate: float, draw: Callable[[int], Values], level: float, draws: int
) -> tuple[float, float]:
    """Limits read from so many drawn statistics; from more where they would lie among the outermost of them."""
    while True:
        drawn = draw(draws)
        drawn = drawn[~np.isnan(drawn)]
        ends = _ends(table, estimate, drawn, level)
        nearest = min(ends[0], 1 - ends[1])
        if nearest * draws >= OUTERMOST or draws >= MOST_DRAWS:
            break
        draws = min(MOST_DRAWS, int(2 * OUTERMOST / max(nearest, OUTERMOST / MOST_DRAWS)))
    outermost = min(OUTERMOST / drawn.size, 0.5)
    low, high = np.quantile(drawn, np.clip(ends, outermost, 1 - outermost))
    return float(low), float(high)


def _ends(table: Values, estimate: float, drawn: Values, level: float) -> Values:
    """Where in the drawn statistics BCa reads (Efron & Tibshirani 1993, eq. 14.9 to 14.15), expanded for few values.

    `table` holds the values (patients, seeds), or the linear part of a statistic of them. Influences of a mean are
    proportional to the jackknife's, and scale does not matter.
    """
    level_with = np.abs(drawn - estimate) <= _ROUNDING * max(1.0, abs(estimate))
    below = ((drawn < estimate) & ~level_with).mean() + level_with.mean() / 2
    edge = 0.5 / drawn.size
    bias = stats.norm.ppf(np.clip(below, edge, 1 - edge))
    of_patient = _row_means(table)
    influence = (of_patient - of_patient.mean()) / of_patient.size
    if table.shape[1] > 1:
        of_seed = np.nanmean(table - of_patient[:, None], axis=0)
        of_seed = (of_seed - of_seed.mean()) / of_seed.size
    else:
        of_seed = np.zeros(1)
    both = np.concatenate([influence, of_seed])
    size = np.abs(both).max()  # 0 where values differ only in what patients and seeds do together
    both = both / size if size else both
    acceleration = (both**3).sum() / (6 * (both**2).sum() ** 1.5) if size else 0.0
    reach = _reach(influence, of_seed, level)
    z = bias + np.array([-reach, reach])
    # beyond its pole the correction means the outermost draw
    stretch = np.maximum(1 - acceleration * z, 1e-6)
    return np.asarray(stats.norm.cdf(bias + z / stretch), np.float64)


def _reach(of_patient: Values, of_seed: Values, level: float) -> float:
    """How many of the draws' standard deviations an interval reaches, by Student's t.

    Drawing n values with replacement gives (n - 1) / n of the variance of their mean, for patients and seeds alike.
    """
    sizes = [(influence, influence.size) for influence in (of_patient, of_seed) if influence.size > 1]
    variances = [n / (n - 1) * float((influence**2).sum()) for influence, n in sizes]
    shares = np.array(variances) / (sum(variances) or 1.0)
    freedom = np.array([n - 1 for _, n in sizes], np.float64)
    if not shares.any():  # nothing but what patients and seeds do together
        shares = np.eye(len(sizes))[0]
    degrees = 1 / float((shares**2 / freedom).sum())
    drawn = float((shares * freedom / (freedom + 1)).sum())
    return float(stats.t.ppf((1 + level) / 2, degrees)) / math.sqrt(drawn)
