"""A study's statistics and settings → the lines of its tables, arm by arm, failed arms among them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

import pandas as pd

from crossbeat.report.study_view import ArmView, StudyView
from crossbeat.report.tables import STRUCTURES, is_mean, value_place

PARTS: Final = {
    "part": "The target, and what was scored beside it",
    "phase": "By phase",
    "vendor": "By vendor",
    "centre": "By centre",
    "group": "By group",
    "level": "By slice level (each slice scored in 2-D)",
}
"""Titles of the breakdowns, in the order of the page, narrow ones side by side; others follow under their own name."""


@dataclass(frozen=True)
class Standing:
    """One metric of one structure of one arm: a line of the league. What the league does not say is nan or 0."""

    arm: str = ""
    structure: str = ""
    metric: str = ""
    unit: str = ""
    n_patients: int = 0
    n_seeds: int = 0
    mean: float = math.nan
    sd: float = math.nan
    seed_sd: float = math.nan
    median: float = math.nan
    low: float = math.nan
    high: float = math.nan
    undefined: int = 0
    missed: int = 0
    unpaired: int = 0
    difference: float = math.nan
    difference_low: float = math.nan
    difference_high: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan
    effect: float = math.nan
    gap_closed: float = math.nan
    gap_low: float = math.nan
    gap_high: float = math.nan
    rank: int = 0
    """1 is the best arm that is no bound; 0 is a bound."""
    to_best: float = math.nan
    to_best_low: float = math.nan
    to_best_high: float = math.nan
    p_best: float = math.nan


@dataclass(frozen=True)
class League:
    """The whole league, asked for by arm, structure and metric."""

    lines: tuple[Standing, ...]
    scored: tuple[str, ...]
    """Structures and means of structures that have a Dice, also where there is no league yet."""
    apart: Mapping[str, int] = field(default_factory=dict)
    """Arm → values of single structures that both masks have, without any overlap."""

    def of(self, arm: str, structure: str, metric: str) -> Standing | None:
        """Its line; None where the arm has no result. Distances in mm come before those in voxels."""
        found = [s for s in self.lines if (s.arm, s.structure, s.metric) == (arm, structure, metric)]
        return min(found, key=lambda s: s.unit != "mm", default=None)

    @property
    def structures(self) -> list[str]:
        """Single structures that have a Dice, in the order of the labels, others behind."""
        known = [s for s in STRUCTURES if s in self.scored]
        return known + [s for s in self.scored if s not in known and not is_mean(s)]

    @property
    def headline(self) -> str:
        """What an arm is judged by at a glance: the mean of LV, MYO and RV, else another mean, else a structure."""
        means = sorted((s for s in self.scored if is_mean(s)), key=lambda s: (s != "mean", -len(s.split())))
        return (means or self.structures or [""])[0]

    @property
    def best(self) -> str:
        """The arm other than the bounds with the highest Dice of the headline; '' where none is held against it."""
        lines = [s for s in self.lines if (s.structure, s.metric) == (self.headline, "dice")]
        if not any(math.isfinite(s.to_best) for s in lines if s.rank > 1):
            return ""
        return next((s.arm for s in lines if s.rank == 1), "")

    @property
    def columns(self) -> list[str]:
        """The single structures and, last, the headline."""
        return [s for s in dict.fromkeys([*self.structures, self.headline]) if s]

    def unit(self, structure: str, metric: str) -> str:
        """The unit that a metric has in the tables: mm where there are mm."""
        units = [s.unit for s in self.lines if (s.structure, s.metric) == (structure, metric)]
        return min(units, key=lambda unit: unit != "mm", default="")

    def counted(self, arm: str, what: str) -> int:
        """Undefined or missed values of an arm over its single structures (Dice)."""
        found = (self.of(arm, structure, "dice") for structure in self.structures)
        return sum(int(getattr(s, what)) for s in found if s is not None)


def read_league(table: pd.DataFrame, scores: pd.DataFrame) -> League:
    """The league as records; the structures are named by the scores where there is no league yet."""
    lines = tuple(_standings(table))
    of_scores = (
        scores.loc[(scores["metric"] == "dice") & (scores["level"] == ""), "structure"] if len(scores) else ()
    )
    named = [s.structure for s in lines if s.metric == "dice"] or [str(s) for s in of_scores]
    return League(lines, tuple(dict.fromkeys(named)), without_overlap(scores))


def without_overlap(scores: pd.DataFrame) -> dict[str, int]:
    """Arm → how many values of single structures (Dice, whole volumes) are 0 though both masks have the structure.

    They are not missed, which is where one mask alone has it.
    """
    if scores.empty:
        return {}
    rows = scores[(scores["metric"] == "dice") & (scores["level"] == "") & (scores["status"] == "ok")]
    rows = rows[(rows["value"] == 0) & ~rows["structure"].map(is_mean).astype(bool)]
    return {str(arm): int(n) for arm, n in rows.groupby("arm").size().items()}


def patient_values(
    scores: pd.DataFrame, structure: str, metric: str, unit: str
) -> dict[str, dict[str, tuple[float, bool]]]:
    """Arm → patient → (mean over frames, then over seeds; whether a value of his was missed), of whole volumes."""
    rows = _volumes(scores, structure, metric, unit)
    if rows.empty:
        return {}
    by_seed = rows.groupby(["arm", "subject", "seed"], sort=False)["value"].mean()
    means = by_seed.groupby(["arm", "subject"], sort=False).mean().dropna().reset_index()
    missed = {(r["arm"], r["subject"]) for _, r in rows[rows["status"] == "missed"].iterrows()}
    out: dict[str, dict[str, tuple[float, bool]]] = {}
    for _, row in means.iterrows():
        found = float(row["value"]), (row["arm"], row["subject"]) in missed
        out.setdefault(str(row["arm"]), {})[str(row["subject"])] = found
    return out


def paired_values(
    scores: pd.DataFrame, structure: str, metric: str, unit: str, arm: str, reference: str
) -> dict[str, tuple[float, float]]:
    """Patient → (mean by the reference arm, mean by `arm`), over the frames and seeds that both have a value of.

    So is the league's difference taken: a frame that only one of them has would tell of the frame, not of the arm.
    """
    rows = _volumes(scores, structure, metric, unit)
    rows = rows[rows["arm"].isin([arm, reference])] if len(rows) else rows
    if rows.empty or arm == reference:
        return {}
    frame = ["subject", "seed", "scan", "phase"]
    nth = rows.groupby(
        ["arm", *frame], sort=False, dropna=False
    ).cumcount()  # frames of one phase, in their order
    wide = rows.assign(nth=nth).set_index([*frame, "nth", "arm"])["value"].unstack("arm")
    both = wide.reindex(columns=[reference, arm]).dropna()
    means = both.groupby(["subject", "seed"]).mean().groupby("subject").mean()
    return {str(subject): (float(one), float(other)) for subject, one, other in means.itertuples()}


def seed_means(scores: pd.DataFrame, structure: str, metric: str, unit: str) -> dict[str, dict[int, float]]:
    """Arm → seed → mean over patients, whose frames are averaged first."""
    rows = _volumes(scores, structure, metric, unit)
    if rows.empty:
        return {}
    of_patients = rows.groupby(["arm", "seed", "subject"], sort=False)["value"].mean()
    means = of_patients.groupby(["arm", "seed"], sort=False).mean().dropna().reset_index()
    out: dict[str, dict[int, float]] = {}
    for _, row in means.iterrows():
        out.setdefault(str(row["arm"]), {})[int(row["seed"])] = float(row["value"])
    return out


@dataclass(frozen=True)
class PartTable:
    """Mean Dice of every arm in every part of the patients (a vendor, a phase, a slice level, …)."""

    title: str
    values: list[str]
    structures: list[str]
    lines: list[tuple[str, list[Standing | None]]]
    """Arm and its figures, value by value and within these structure by structure."""

    def patients(self, value: str) -> int:
        """Patients of a part where they are the same in every arm and structure, else 0."""
        first = self.values.index(value) * len(self.structures)
        cells = [s for _, line in self.lines for s in line[first : first + len(self.structures)] if s]
        counts = {s.n_patients for s in cells}
        return counts.pop() if len(counts) == 1 else 0


def part_tables(view: StudyView, league: League) -> list[tuple[str, list[PartTable]]]:
    """(title, tables) of each breakdown: the headline first, the single structures behind it.

    A column in which all patients are alike tells nothing and is left out.
    """
    order = [*(p for p in PARTS if p in view.breakdowns), *(b for b in view.breakdowns if b not in PARTS)]
    out = []
    for by in order:
        title = PARTS.get(by, f"By {by.replace('_', ' ')}")
        rows = view.breakdowns[by]
        rows = rows[rows["metric"] == "dice"] if len(rows) else rows
        values = sorted({str(v) for v in rows["value"]}, key=value_place) if len(rows) else []
        if len(values) < 2:
            continue
        there = [s for s in league.columns if s in set(rows["structure"])]
        main = [s for s in there if s == league.headline] or there
        rest = [s for s in there if s not in main]
        tables = [_part_table(title, rows, values, main, view.arms)]
        tables += [_part_table(title, rows, values, [s], view.arms) for s in rest]
        out.append((title, tables))
    return out


@dataclass(frozen=True)
class Settings:
    """What the arms were told, in so far as it differs."""

    arms: list[str]
    differing: list[tuple[str, list[str | None]]]
    """Keys that every arm has, whose values are not the same in all: key and its value in each arm."""
    own: list[tuple[str, list[str | None]]]
    """Keys that only some of the arms have; None where an arm knows no such setting."""
    same: int
    """Number of keys whose value is the same in all."""
    unknown: list[str]
    """Arms without a finished cell, whose settings nobody recorded."""


def differing_settings(arms: Sequence[ArmView]) -> Settings:
    """The settings whose values are not the same in all arms; nested ones under dotted names."""
    known = {arm.name: flat(arm.settings) for arm in arms if arm.settings and arm.finished}
    keys = list(dict.fromkeys(key for found in known.values() for key in found))
    differing, own, same = [], [], 0
    for key in keys:
        values = [found.get(key) for found in known.values()]
        if None in values:
            own.append((key, values))
        elif len(set(values)) > 1:
            differing.append((key, values))
        else:
            same += 1
    return Settings(list(known), differing, own, same, [arm.name for arm in arms if arm.name not in known])


def flat(settings: Mapping[str, Any], head: str = "") -> dict[str, str]:
    """Settings with dotted names and values as one would write them: `target.sequence` is `lge`."""
    out: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            out |= flat(value, f"{head}{key}.")
        else:
            out[f"{head}{key}"] = _said(value)
    return out


def _standings(table: pd.DataFrame) -> Iterator[Standing]:
    """Rows as records; columns that the table lacks are undefined, columns we do not know are left."""
    kinds = {one.name: str(one.type) for one in fields(Standing)}
    for row in table.to_dict("records"):
        yield Standing(**{str(k): _typed(v, kinds[str(k)]) for k, v in row.items() if k in kinds})


def _volumes(scores: pd.DataFrame, structure: str, metric: str, unit: str) -> pd.DataFrame:
    if scores.empty:
        return scores
    rows = scores[(scores["structure"] == structure) & (scores["metric"] == metric)]
    return rows[(rows["unit"] == unit) & (rows["level"] == "")]


def _part_table(
    title: str, rows: pd.DataFrame, values: list[str], structures: list[str], arms: Sequence[ArmView]
) -> PartTable:
    found = {
        (s.arm, str(value), s.structure): s for s, value in zip(_standings(rows), rows["value"], strict=True)
    }
    lines = [(a.name, [found.get((a.name, v, s)) for v in values for s in structures]) for a in arms]
    return PartTable(title, values, structures, lines)


def _typed(value: Any, kind: str) -> Any:
    if kind == "str":
        return "" if value is None or value != value else str(value)
    if kind == "int":
        return int(value) if value is not None and value == value else 0
    return float(value) if value is not None else math.nan


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(_said(v) for v in value) or "none"
    return "none" if value is None or value == {} or value == "" else str(value)
