"""Printed values of a paper beside ours, counted as the paper counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

if TYPE_CHECKING:
    import pandas as pd

SIDE_BY_SIDE_COLUMNS: Final = (
    *("where", "arm", "structure", "metric", "unit", "level", "over", "printed", "printed_sd"),
    *(
        "ours",
        "ours_sd",
        "n",
        "difference",
        "mean",
        "sd",
        "low",
        "high",
        "n_patients",
        "n_seeds",
        "note",
        "remark",
    ),
)
_NAN: Final = float("nan")


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Published:
    """One number that a paper prints of an arm, and how it counted."""

    where: str = Field(description="table or figure of the paper")
    arm: str
    structure: str
    metric: Literal["dice", "jaccard", "hd", "hd95", "assd"]
    value: float = Field(ge=0, description="Dice and Jaccard as a share: 86 % is 0.86")
    sd: float | None = Field(None, ge=0)
    unit: Literal["", "mm", "voxel"] = Field("", description="of distances")
    level: Literal["volume", "frame"] = Field("volume", description="what the paper takes one value of")
    over: Literal["patients", "frames", "classes"] = Field(
        "patients", description="what its mean ± SD runs over"
    )
    note: str = ""

    def __post_init__(self) -> None:
        overlap = self.metric in ("dice", "jaccard")
        if overlap and self.value > 1:
            raise ValueError(f"{self.metric} lies between 0 and 1; write 0.86 for 86 %")
        if overlap and self.unit:
            raise ValueError(f"{self.metric} has no unit, got {self.unit!r}; leave it out")
        if not overlap and not self.unit:
            raise ValueError(f"{self.metric} is a distance; write unit: mm or unit: voxel")


def side_by_side(league: pd.DataFrame, scores: pd.DataFrame, published: Sequence[Published]) -> pd.DataFrame:
    """Each printed value with ours in its unit and counted as it was, and beside both our own way of counting.

    `ours`, `ours_sd` and their number `n` run over what the paper's run over: patients; frames, each of each seed
    once; or classes, the means over patients of the single structures. `mean`, `sd`, `low` and `high` are those of
    the league, over patients. What we do not have is nan, and `remark` says why.
    """
    import pandas as pd

    volumes = scores[scores["level"] == ""]
    lines = [_beside(league, volumes, value) for value in published]
    return pd.DataFrame(lines, columns=SIDE_BY_SIDE_COLUMNS)


def _beside(league: pd.DataFrame, volumes: pd.DataFrame, value: Published) -> dict[str, object]:
    wanted = _chosen(league, value)
    line = {
        "where": value.where,
        "arm": value.arm,
        "structure": value.structure,
        "metric": value.metric,
        "unit": value.unit,
        "level": value.level,
        "over": value.over,
        "printed": value.value,
        "printed_sd": _NAN if value.sd is None else value.sd,
        "note": value.note,
        "remark": "",
    }
    figures = ("mean", "sd", "low", "high", "n_patients", "n_seeds")
    own = wanted[wanted["structure"] == value.structure]
    ours, ours_sd, n = _counted(wanted, volumes, value)
    line |= {"ours": ours, "ours_sd": ours_sd, "n": n, "difference": ours - value.value}
    line |= {name: own[name].iloc[0] if len(own) else _NAN for name in figures}
    if math.isnan(ours):
        line["remark"] = _why_not(league, value)
    return line


def _chosen(table: pd.DataFrame, value: Published) -> pd.DataFrame:
    wanted = {"arm": value.arm, "metric": value.metric, "unit": value.unit}
    return table[(table[list(wanted)] == list(wanted.values())).all(axis=1)]


def _counted(wanted: pd.DataFrame, volumes: pd.DataFrame, value: Published) -> tuple[float, float, int]:
    """Mean, SD (n - 1) and number of what the paper's mean runs over."""
    if value.over == "classes":
        parts = wanted.loc[wanted["structure"].str.split().str[0] != "mean", "mean"].dropna()
        return float(parts.mean()), float(parts.std()), len(parts)
    if value.over == "frames":
        rows = _chosen(volumes, value)
        frames = rows.loc[rows["structure"] == value.structure, "value"].dropna()
        return float(frames.mean()), float(frames.std()), len(frames)
    own = wanted[wanted["structure"] == value.structure]
    if not len(own):
        return _NAN, _NAN, 0
    return float(own["mean"].iloc[0]), float(own["sd"].iloc[0]), int(own["n_patients"].iloc[0])


def _why_not(league: pd.DataFrame, value: Published) -> str:
    mine = league[league["arm"] == value.arm]
    if not len(mine):
        return "the arm has no scores yet"
    if value.metric not in set(mine["metric"]):
        return f"{value.metric} is not kept in a study"
    units = sorted(set(mine.loc[mine["metric"] == value.metric, "unit"]))
    if value.unit not in units:
        return f"measured in {' and '.join(units)} only"
    return f"{value.structure} is not drawn in these scans"
