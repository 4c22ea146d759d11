"""Scores of all arms on the same patients → the league: what each arm reaches, beside a named arm and the bounds.

The patient is the unit, seeds of training are a random factor crossed with patients. Two arms are compared frame by
frame where both have a value, under the seeds that both ran.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crossbeat.errors import RunError, SettingsError, did_you_mean
from crossbeat.report.wording import NOTHING_FOUND
from crossbeat.statistics import (
    DRAWS,
    Values,
    crossed_interval,
    crossed_mean,
    crossed_ratio_interval,
    holm,
    rank_biserial,
    wilcoxon,
)
from crossbeat.study.published import Published, side_by_side
from crossbeat.study.recommendation import Recommendation, caveat, recommend

__all__ = [
    "LEAGUE_COLUMNS",
    "Published",
    "Recommendation",
    "breakdown",
    "caveat",
    "league",
    "recommend",
    "side_by_side",
]

LEAGUE_COLUMNS: Final = (
    *("arm", "structure", "metric", "unit", "n_patients", "n_seeds"),
    *("mean", "sd", "seed_sd", "median", "low", "high", "undefined", "missed"),
    *("reference", "unpaired", "difference", "difference_low", "difference_high", "p", "p_holm", "effect"),
    *("gap_closed", "gap_low", "gap_high", "rank", "to_best", "to_best_low", "to_best_high", "p_best"),
)
BREAKDOWN_COLUMNS: Final = (
    *("arm", "value", "structure", "metric", "unit", "n_patients", "mean", "sd", "missed"),
)
BREAKDOWNS: Final = ("part", "vendor", "group", "centre", "phase", "level")
HIGHER_IS_BETTER: Final = ("dice", "jaccard")

_ROW: Final = ["structure", "metric", "unit"]
_FRAME: Final = ["subject", "scan", "phase", "nth"]
_GAP: Final = ("gap_closed", "gap_low", "gap_high")
_TO_BEST: Final = ("to_best", "to_best_low", "to_best_high", "p_best")
_NAN: Final = float("nan")


def league(
    scores: pd.DataFrame,
    *,
    reference: str = "source_only",
    lower: str = "source_only",
    upper: str = "target_supervised",
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """Every arm's mean with its interval, its difference from the reference arm, and the share of the gap it closes.

    A row an (arm, structure, metric, unit) of whole volumes, phases pooled, in order of appearance. Mean, SD and
    median run over patients, whose frames are averaged first and their seeds second; `seed_sd` is the SD over seeds of
    their means, nan for one seed. `low` and `high` are those of `statistics.crossed_interval`.

    `difference` (arm - reference), its interval, Wilcoxon's `p` and `effect` (`statistics.rank_biserial`) take what
    both arms have, and `unpaired` counts the patients that only one has. `p_holm` corrects `p` for all arms and
    structures of its metric and unit; means of structures are a family of their own.

    `gap_closed` is (arm - lower) / (upper - lower) of the means over what all three have: 1 is the upper bound,
    of distances too, where less is better. nan throughout a structure whose upper bound does not lie on the
    better side of the lower one with its whole interval.

    `rank` orders the arms between the bounds by their mean over what all of them have, 1 the best (0 for a bound, and
    for all where they share nothing or none has a Dice or Jaccard that is worth the name). `to_best` (arm - best) and
    its interval compare an arm with that best one as with the reference; `p_best` is corrected by Holm's rule for the
    arms so compared.

    A p value takes the trained networks as they are: small, it says that these differ, on other patients too. Only
    the intervals know, of 2 seeds and more, that another training might turn the difference around.
    Raises `SettingsError` for an arm without scores, `RunError` where one cell scored a frame twice.
    """
    volumes = scores[scores["level"] == ""]
    arms = list(dict.fromkeys(volumes["arm"]))
    for role, name in {"reference": reference, "lower bound": lower, "upper bound": upper}.items():
        if name not in arms:
            raise SettingsError(f"{role}: arm {name!r} has no scores; {did_you_mean(name, arms)}")
    _refuse_twice_scored(volumes)
    how = _How(reference, lower, upper, draws, seed)
    lines = [
        dict(zip(_ROW, key, strict=True)) | line
        for key, rows in volumes.groupby(_ROW, sort=False, dropna=False)
        for line in _compare(rows, arms, how)
    ]
    found = pd.DataFrame(lines, columns=LEAGUE_COLUMNS)
    of_mean = found["structure"].str.split().str[0] == "mean"
    for _, family in found.groupby(["metric", "unit", of_mean], sort=False):
        found.loc[family.index, "p_holm"] = holm(family["p"])
    order = {name: i for i, name in enumerate(arms)}
    return found.sort_values("arm", key=lambda c: c.map(order), kind="stable", ignore_index=True)


def breakdown(scores: pd.DataFrame, by: str) -> pd.DataFrame:
    """Every arm's mean ± SD over patients by vendor, group, centre, phase, slice level, or part (target, beside).

    A row an (arm, value, structure, metric, unit), in order of appearance. By `level` it is of slices scored in 2-D,
    otherwise of whole volumes.
    """
    if by not in BREAKDOWNS:
        raise SettingsError(f"breakdown by {by!r} is unknown; {did_you_mean(by, BREAKDOWNS)}")
    rows = scores[(scores["level"] != "") == (by == "level")]
    rows = rows.assign(
        by=rows[by].astype(str),  # by itself may be a column of the frame's key
        missed=rows["status"] == "missed",
    )
    key = ["arm", "by", *_ROW]
    of_seed = rows.groupby([*key, "subject", "seed"], sort=False, dropna=False)["value"].mean()
    of_patient = of_seed.groupby([*key, "subject"], sort=False, dropna=False).mean()
    by_key = of_patient.groupby(key, sort=False, dropna=False)
    found = pd.DataFrame(
        {
            "n_patients": by_key.count(),
            "mean": by_key.mean(),
            "sd": by_key.std(),
            "missed": rows.groupby(key, sort=False, dropna=False)["missed"].sum(),
        }
    )
    return found.reset_index().rename(columns={"by": "value"})[list(BREAKDOWN_COLUMNS)]


@dataclass(frozen=True)
class _How:
    reference: str
    lower: str
    upper: str
    draws: int
    seed: int

    def interval(self, table: Values) -> tuple[float, float]:
        return crossed_interval(table, draws=self.draws, seed=self.seed)


@dataclass(frozen=True, eq=False)
class _Arena:
    """The values of one structure and metric: for each arm a table (frames, seeds), nan where there is none."""

    tables: Mapping[str, Values]
    patient: NDArray[np.int64]
    """Of each frame, numbered in order of appearance."""

    def of_patients(self, of_frames: Values) -> Values:
        """(patients, seeds): the mean over the frames of each that have a value."""
        there = ~np.isnan(of_frames)
        n = int(self.patient.max()) + 1
        seeds = range(of_frames.shape[1])
        counts = np.stack([np.bincount(self.patient[there[:, s]], minlength=n) for s in seeds], axis=1)
        sums = np.stack(
            [
                np.bincount(self.patient[there[:, s]], of_frames[there[:, s], s], minlength=n)
                for s in seeds
            ],
            axis=1,
        )  # fmt: skip
        return np.where(counts > 0, sums / np.maximum(counts, 1), _NAN)

    def together(self, *arms: str) -> list[Values]:
        """A table (patients, seeds) of each arm, of those frames and seeds that all of them have."""
        found = [self.tables[arm] for arm in arms]
        broken = np.logical_or.reduce([np.isnan(table) for table in found])
        return [self.of_patients(np.where(broken, _NAN, table)) for table in found]


def _compare(rows: pd.DataFrame, arms: Sequence[str], how: _How) -> list[dict[str, object]]:
    """The lines of one structure and metric, all but `p_holm`."""
    arena = _arena(rows)
    there = [arm for arm in arms if arm in arena.tables]
    undefined = rows.groupby("arm")["value"].apply(lambda values: values.isna().sum())
    missed = rows.groupby("arm")["status"].apply(lambda status: (status == "missed").sum())
    better = 1.0 if rows["metric"].iloc[0] in HIGHER_IS_BETTER else -1.0
    bounds_hold = _bounds_hold(arena, better, how)
    lines = []
    for arm in there:
        line = {"arm": arm, "reference": how.reference, **_figures(arena, arm, how)}
        line |= {"undefined": int(undefined[arm]), "missed": int(missed[arm])}
        line |= _difference(arena, arm, how)
        line |= _gap(arena, arm, how) if bounds_hold else dict.fromkeys(_GAP, _NAN)
        lines.append(line)
    between = [arm for arm in there if arm not in (how.lower, how.upper)]
    shared = zip(between, arena.together(*between) if between else [], strict=True)
    goodness = {arm: better * crossed_mean(table) for arm, table in shared}
    found = better < 0 or any(good >= NOTHING_FOUND for good in goodness.values())
    beside = _against_best(arena, goodness, how) if found else {}
    nothing = {"rank": 0} | dict.fromkeys(_TO_BEST, _NAN)
    return [line | nothing | beside.get(str(line["arm"]), {}) for line in lines]


def _arena(rows: pd.DataFrame) -> _Arena:
    """Frames that bear the same phase of a scan are told apart by their order in it."""
    nth = rows.groupby(["arm", "seed", "subject", "scan", "phase"], sort=False).cumcount()
    frame, frames = pd.factorize(pd.MultiIndex.from_frame(rows.assign(nth=nth)[_FRAME]))
    column, seeds = pd.factorize(rows["seed"], sort=True)
    of_row, _ = pd.factorize(rows["subject"])
    patient = np.zeros(len(frames), np.int64)
    patient[frame] = of_row
    values = rows["value"].to_numpy(np.float64)
    tables = {}
    for arm in dict.fromkeys(rows["arm"]):
        mine = (rows["arm"] == arm).to_numpy()
        tables[str(arm)] = table = np.full((len(frames), len(seeds)), _NAN)
        table[frame[mine], column[mine]] = values[mine]
    return _Arena(tables, patient)


def _figures(arena: _Arena, arm: str, how: _How) -> dict[str, object]:
    table = arena.of_patients(arena.tables[arm])
    means = _over_seeds(table)
    table = table[~np.isnan(table).all(axis=1)]
    of_seeds = _over_seeds(table.T)
    low, high = how.interval(table)
    return {
        "n_patients": means.size,
        "n_seeds": of_seeds.size,
        "mean": crossed_mean(table),
        "sd": float(means.std(ddof=1)) if means.size > 1 else _NAN,
        "seed_sd": float(of_seeds.std(ddof=1)) if of_seeds.size > 1 else _NAN,
        "median": float(np.median(means)) if means.size else _NAN,
        "low": low,
        "high": high,
    }


def _difference(arena: _Arena, arm: str, how: _How) -> dict[str, object]:
    names = ("difference", "difference_low", "difference_high", "p", "effect")
    if arm == how.reference or how.reference not in arena.tables:
        return {"unpaired": 0} | dict.fromkeys(names, _NAN)
    either = [arena.of_patients(arena.tables[name]) for name in (arm, how.reference)]
    known = np.logical_or.reduce([~np.isnan(table).all(axis=1) for table in either])
    *found, paired = _paired(arena, arm, how.reference, how)
    return {"unpaired": int(known.sum()) - paired} | dict(zip(names, found, strict=True))


def _paired(arena: _Arena, arm: str, other: str, how: _How) -> tuple[float, float, float, float, float, int]:
    """Mean of arm - other, its interval, Wilcoxon's p, effect, and number of patients that both have."""
    mine, theirs = arena.together(arm, other)
    means = _over_seeds(mine - theirs)
    zeros, patients = np.zeros(means.size), range(means.size)
    low, high = how.interval(mine - theirs)
    p, effect = wilcoxon(means, zeros, patients).p, rank_biserial(means, zeros, patients)
    return crossed_mean(mine - theirs), low, high, p, effect, means.size


def _bounds_hold(arena: _Arena, better: float, how: _How) -> bool:
    """Whether the upper bound lies on the better side of the lower one, with its whole interval."""
    if how.lower not in arena.tables or how.upper not in arena.tables or how.lower == how.upper:
        return False
    lower, upper = arena.together(how.lower, how.upper)
    low, high = how.interval(upper - lower)
    return (low > 0) if better > 0 else (high < 0)


def _gap(arena: _Arena, arm: str, how: _How) -> dict[str, object]:
    if arm in (how.lower, how.upper):
        return dict(zip(_GAP, (float(arm == how.upper), _NAN, _NAN), strict=True))
    mine, lower, upper = arena.together(arm, how.lower, how.upper)
    part, whole = mine - lower, upper - lower
    gap = crossed_mean(whole)
    closed = crossed_mean(part) / gap if gap else _NAN
    ends = crossed_ratio_interval(part, whole, draws=how.draws, seed=how.seed)
    return dict(zip(_GAP, (closed, *ends), strict=True))


def _against_best(arena: _Arena, goodness: Mapping[str, float], how: _How) -> dict[str, dict[str, object]]:
    """Rank of each arm between the bounds, and how far it is from the first of them."""
    order = sorted((arm for arm, good in goodness.items() if not np.isnan(good)), key=lambda a: -goodness[a])
    found = {arm: _paired(arena, arm, order[0], how) for arm in order[1:]}
    corrected = holm([pair[3] for pair in found.values()])
    lines: dict[str, dict[str, object]] = {arm: {"rank": i + 1} for i, arm in enumerate(order)}
    for p, (arm, pair) in zip(corrected.tolist(), found.items(), strict=True):
        lines[arm] |= dict(zip(_TO_BEST, (*pair[:3], p), strict=True))
    return lines


def _over_seeds(table: Values) -> Values:
    """Mean of each row over what it has; rows of nothing but nan are left out."""
    found = table[~np.isnan(table).all(axis=1)]
    return np.asarray(np.nanmean(found, axis=1), np.float64) if found.size else np.empty(0)


def _refuse_twice_scored(volumes: pd.DataFrame) -> None:
    """A patient is scored in one fold a seed; in two he would count twice, once perhaps as one who was trained on."""
    scan = ["arm", "seed", "scan"]
    folds = volumes.drop_duplicates([*scan, "fold"])
    twice = folds[folds.duplicated(scan, keep=False)]
    if len(twice):
        arm, seed, name = twice[scan].iloc[0]
        mine = sorted(twice.loc[(twice[scan] == [arm, seed, name]).all(axis=1), "fold"].tolist())
        raise RunError(
            f"arm {arm}: scan {name!r} is scored in folds {', '.join(map(str, mine))} of seed {seed}; "
            "a patient belongs to one fold: throw out the cells of an earlier division"
        )
