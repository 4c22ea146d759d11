"""Tables of a study's kept scores, and tests of what each step adds: used by the scripts beside this one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import pandas as pd

from crossbeat.report.wording import p_value, signed
from crossbeat.statistics import holm
from crossbeat.study.league import league
from crossbeat.study.plan import LOWER, UPPER

STRUCTURES: Final = ("LV", "MYO", "RV", "mean")
METRICS: Final = (
    ("dice", ""),
    ("jaccard", ""),
    *((metric, unit) for metric in ("assd", "hd", "hd95") for unit in ("mm", "voxel")),
)


def compare(scores: pd.DataFrame, asked_of: Mapping[tuple[str, str], str]) -> pd.DataFrame:
    """A line a question and structure: the difference in Dice over patients, its interval, p by Holm over questions.

    `asked_of` names the questions: (arm, the arm without that step). Those of which an arm is missing are left out.
    """
    lines = []
    there = set(scores["arm"])
    for (arm, without), asked in asked_of.items():
        if not {arm, without} <= there:
            continue
        only = scores[scores["arm"].isin({LOWER, arm, without, UPPER}) & (scores["metric"] == "dice")]
        found = league(only, reference=without)
        rows = found[found["arm"] == arm].set_index("structure")
        for structure in STRUCTURES:
            row = rows.loc[structure]
            told = ("n_patients", "n_seeds", "difference", "difference_low", "difference_high", "p", "effect")
            lines.append(
                {"asked": asked, "arm": arm, "without": without, "structure": structure}
                | {column: row[column] for column in told}
            )
    table = pd.DataFrame(lines)
    for _, rows in table.groupby("structure"):
        table.loc[rows.index, "p_holm"] = holm(rows["p"])
    return table


def table_of(table: pd.DataFrame, arms: Sequence[str], metric: str, unit: str) -> list[str]:
    """Mean (median) over patients of a metric, by arm and structure."""
    digits = 2 if unit else 3
    titles = ("Arm", *STRUCTURES, "95 % interval of the mean")
    lines = [f"{metric} {unit}".strip() + ": mean (median)", "", *head(titles)]
    chosen = table[(table["metric"] == metric) & (table["unit"] == unit)].set_index(["arm", "structure"])
    for arm in arms:
        rows = [chosen.loc[(arm, structure)] for structure in STRUCTURES]
        told = [f"{row['mean']:.{digits}f} ({row['median']:.{digits}f})" for row in rows]
        lines.append(
            line_of(f"`{arm}`", *told, f"{rows[-1]['low']:.{digits}f} to {rows[-1]['high']:.{digits}f}")
        )
    return lines


def table_of_pairs(pairs: pd.DataFrame) -> list[str]:
    """What each step adds in Dice, by structure; interval and p of the mean of structures."""
    lines = head(("What is added", "to", *STRUCTURES, "95 % interval", "Holm's p"))
    for _, rows in pairs.groupby(["arm", "without"], sort=False):
        by = rows.set_index("structure")
        mean = by.loc["mean"]
        each = [signed(by.loc[structure, "difference"]) for structure in STRUCTURES]
        interval = f"{signed(mean['difference_low'])} to {signed(mean['difference_high'])}"
        lines.append(line_of(mean["asked"], f"`{mean['without']}`", *each, interval, p_value(mean["p_holm"])))
    return lines


def table_by_seed(scores: pd.DataFrame, asked_of: Mapping[tuple[str, str], str]) -> list[str]:
    """Mean Dice over patients by seed, of arms that have more than one; then of questions the difference by seed.

    Frames are averaged first and patients second. A question counts where both of its arms have a seed.
    """
    dice = scores[
        (scores["metric"] == "dice") & (scores["level"] == "") & (scores["structure"] == STRUCTURES[-1])
    ]
    by_patient = dice.groupby(["arm", "seed", "subject"], sort=False)["value"].mean()
    means = by_patient.groupby(["arm", "seed"], sort=False).mean().unstack().sort_index(axis=1)
    means = means[means.notna().sum(axis=1) > 1]
    seeds = [f"seed {seed}" for seed in means.columns]
    lines = head(("Arm, or what is added", "to", *seeds))
    for arm, row in means.iterrows():
        lines.append(line_of(f"`{arm}`", "", *(_told(value, "{:.3f}".format) for value in row)))
    for (arm, without), asked in asked_of.items():
        if {arm, without} <= set(means.index):
            differences = means.loc[arm] - means.loc[without]
            if differences.notna().sum() > 1:
                lines.append(line_of(asked, f"`{without}`", *(_told(value, signed) for value in differences)))
    return lines


def _told(value: float, say: Callable[[float], str]) -> str:
    """A value, or a dash where there is none."""
    return "–" if math.isnan(value) else say(value)


def head(names: Sequence[str]) -> list[str]:
    """The head of a table in markdown, and the line under it."""
    return [line_of(*names), line_of("---", *["---:"] * (len(names) - 1))]


def line_of(*cells: str) -> str:
    """A row of a table in markdown."""
    return f"| {' | '.join(cells)} |"
