"""The ablation of Chen 2020 from its kept scores: tables, and tests of what each step adds to the one before.

Reads chen2020/scores.csv and cells.csv beside this file, writes chen2020/pairs.csv and prints the tables that stand in
chen2020/README.md. Run from the repository root: `python docs/results/chen2020.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from crossbeat.report.wording import p_value, signed
from crossbeat.statistics import holm
from crossbeat.study.evidence import TARGET, read_evidence
from crossbeat.study.league import league
from crossbeat.study.plan import LOWER, UPPER

HERE: Final = Path(__file__).with_name("chen2020")
STRUCTURES: Final = ("LV", "MYO", "RV", "mean")
METRICS: Final = (
    ("dice", ""),
    ("jaccard", ""),
    *((metric, unit) for metric in ("assd", "hd", "hd95") for unit in ("mm", "voxel")),
)
PAIRS: Final = {
    ("u_a_d", "u_d"): "the adversary, alone",
    ("u_d_t", "u_d"): "the transfer, alone",
    ("u_a_d_t", "u_d"): "both",
    ("u_a_d_t", "u_a_d"): "the transfer, on the adversary",
    ("u_a_d_t", "u_d_t"): "the adversary, on the transfer",
    ("u_a_d_t_registered", "u_a_d_t"): "masks that follow the breath",
    ("u_d", "u_d_pure_dice"): "0.9 cross-entropy in place of Dice alone",
    ("u_d_random_contrast", "u_d"): "random contrast, alone",
    ("u_a_d_random_contrast", "u_d_random_contrast"): "the adversary, on random contrast",
    ("u_a_d_t_random_contrast", "u_a_d_random_contrast"): "the transfer, on adversary and random contrast",
    ("u_a_d_t_random_contrast", "u_d_random_contrast"): "both, on random contrast",
}
"""What is asked: (arm, the arm without that step)."""
SEEN: Final = 35
"""Of the tested patients the first 35 train in bSSFP and T2, and their LGE images train too; the others in nothing."""


def compare(scores: pd.DataFrame) -> pd.DataFrame:
    """A line a question and structure: the difference in Dice over patients, its interval, p by Holm over questions."""
    lines = []
    there = set(scores["arm"])
    for (arm, without), asked in PAIRS.items():
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


def means_by_patients(scores: pd.DataFrame, arms: Sequence[str]) -> list[str]:
    """Mean Dice of patients 4 and 5 (Table 1), of those whose other sequences train, and of those never seen."""
    number = scores["subject"].str.extract(r"(\d+)$")[0].astype(int)
    mean = (scores["metric"] == "dice") & (scores["structure"] == "mean") & (scores["level"] == "")
    target = scores["part"] == TARGET
    parts = (~target, target & (number <= SEEN), target & (number > SEEN))
    lines = []
    for arm in arms:
        rows = [scores[mean & part & (scores["arm"] == arm)] for part in parts]
        values = [found.groupby("subject")["value"].mean().mean() for found in rows]
        lines.append(f"| `{arm}` | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    return lines


def table_of(table: pd.DataFrame, arms: Sequence[str], metric: str, unit: str) -> list[str]:
    """Mean (median) over patients of a metric, by arm and structure."""
    digits = 2 if unit else 3
    head = ("Arm", *STRUCTURES, "95 % interval of the mean")
    lines = [f"{metric} {unit}".strip() + ": mean (median)", "", *_head(head)]
    chosen = table[(table["metric"] == metric) & (table["unit"] == unit)].set_index(["arm", "structure"])
    for arm in arms:
        rows = [chosen.loc[(arm, structure)] for structure in STRUCTURES]
        told = [f"{row['mean']:.{digits}f} ({row['median']:.{digits}f})" for row in rows]
        lines.append(
            _line(f"`{arm}`", *told, f"{rows[-1]['low']:.{digits}f} to {rows[-1]['high']:.{digits}f}")
        )
    return lines


def table_of_pairs(pairs: pd.DataFrame) -> list[str]:
    """What each step adds in Dice, by structure; interval and p of the mean of structures."""
    lines = _head(("What is added", "to", *STRUCTURES, "95 % interval", "Holm's p"))
    for _, rows in pairs.groupby(["arm", "without"], sort=False):
        by = rows.set_index("structure")
        mean = by.loc["mean"]
        each = [signed(by.loc[structure, "difference"]) for structure in STRUCTURES]
        interval = f"{signed(mean['difference_low'])} to {signed(mean['difference_high'])}"
        lines.append(_line(mean["asked"], f"`{mean['without']}`", *each, interval, p_value(mean["p_holm"])))
    return lines


def main() -> None:
    """Print the tables, and write the comparisons with every digit."""
    evidence = read_evidence(HERE)
    cells = evidence.cells
    arms = [arm for arm in evidence.study.arms if arm in set(cells["arm"])]
    ranked = evidence.scores[evidence.scores["part"] == TARGET]
    table = league(ranked, reference=evidence.study.reference)
    pairs = compare(ranked)
    pairs.to_csv(HERE / "pairs.csv", index=False, float_format="%.6g", lineterminator="\n")
    parts = [table_of(table, arms, metric, unit) for metric, unit in METRICS]
    parts += [table_of_pairs(pairs)]
    parts += [[*_head(("Arm", "4 and 5", "6 to 35", "36 to 45")), *means_by_patients(evidence.scores, arms)]]
    seconds = cells.groupby("arm", sort=False)["wall_seconds"].mean()
    parts += [[*_head(("Arm", "Seconds")), *(_line(f"`{arm}`", f"{seconds[arm]:.0f}") for arm in arms)]]
    print("\n\n".join("\n".join(lines) for lines in parts))


def _head(names: Sequence[str]) -> list[str]:
    return [_line(*names), _line("---", *["---:"] * (len(names) - 1))]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
