"""Labels carried through the cycle, from their kept scores: by region and vendor, and what each step adds.

Reads propagation2d/scores.csv.gz and cells.csv beside this file, writes propagation2d/pairs.csv and prints the tables
that stand in propagation2d/README.md. Run from the repository root: `python docs/results/propagation2d.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd
from study_tables import STRUCTURES, compare, head, line_of, table_of, table_of_pairs

from crossbeat.report.wording import p_value, signed
from crossbeat.statistics import bootstrap_interval, wilcoxon
from crossbeat.study.evidence import TARGET, read_evidence
from crossbeat.study.league import league
from crossbeat.study.plan import LOWER, UPPER

HERE: Final = Path(__file__).with_name("propagation2d")
PAIRS: Final = {
    ("proposed", "baseline"): "labels carried from ED, all alike (the paper)",
    ("from_both_ends", "baseline"): "labels carried from ED and ES, all alike",
    ("from_both_ends", "proposed"): "ES beside ED",
    ("confidence_weighted", "baseline"): "labels carried from ED and ES, by confidence",
    ("confidence_weighted", "from_both_ends"): "weights by confidence",
    ("random_contrast", "baseline"): "random contrast",
    ("confidence_weighted_random_contrast", "random_contrast"): "carried labels, beside random contrast",
}
"""What is asked: (arm, the arm without that step)."""


def by_vendor(scores: pd.DataFrame, arms: Sequence[str]) -> list[str]:
    """Mean Dice of every region over the patients of each vendor, as Table 1 of the paper has it, and over all."""
    dice = scores[(scores["metric"] == "dice") & (scores["level"] == "")]
    vendors = sorted(dice["vendor"].unique())
    lines = head(("Arm", "Region", *vendors, "total"))
    for arm in arms:
        for structure in STRUCTURES:
            of = dice[(dice["arm"] == arm) & (dice["structure"] == structure)]
            means = of.groupby(["vendor", "subject"])["value"].mean().groupby("vendor").mean()
            told = [f"{means[vendor]:.3f}" for vendor in vendors]
            lines.append(line_of(f"`{arm}`", structure, *told, f"{means.mean():.3f}"))
    return lines


def differences(scores: pd.DataFrame, arms: Sequence[str]) -> list[str]:
    """What each step adds in mean Dice on the unseen vendors: over patients, interval by bootstrap, p by Wilcoxon.

    Needs no bounds, as the tables of all arms do.
    """
    dice = scores[(scores["metric"] == "dice") & (scores["level"] == "")]
    wide = dice.pivot_table(index=["subject", "structure"], columns="arm", values="value")
    lines = head(("What is added", "to", *STRUCTURES, "95 % interval of the mean", "p"))
    for (arm, without), asked in PAIRS.items():
        if not {arm, without} <= set(arms):
            continue
        more = (wide[arm] - wide[without]).unstack("structure")
        patients = list(more.index)
        low, high = bootstrap_interval(more["mean"], patients)
        p = wilcoxon(more["mean"], [0.0] * len(more), patients).p
        told = [signed(more[structure].mean()) for structure in STRUCTURES]
        lines.append(line_of(asked, f"`{without}`", *told, f"{signed(low)} to {signed(high)}", p_value(p)))
    return lines


def main() -> None:
    """Print the tables; those that need both bounds where they are there, with every digit of the comparisons."""
    evidence = read_evidence(HERE)
    cells = evidence.cells
    arms = [arm for arm in evidence.study.arms if arm in set(cells["arm"])]
    ranked = evidence.scores[evidence.scores["part"] == TARGET]
    parts = [by_vendor(evidence.scores, arms), differences(ranked, arms)]
    if {LOWER, UPPER} <= set(arms):
        table = league(ranked, reference=evidence.study.reference)
        pairs = compare(ranked, PAIRS)
        pairs.to_csv(HERE / "pairs.csv", index=False, float_format="%.6g", lineterminator="\n")
        parts += [
            table_of(table, arms, "dice", ""),
            table_of(table, arms, "hd95", "mm"),
            table_of_pairs(pairs),
        ]
    seconds = cells.groupby("arm", sort=False)["wall_seconds"].mean()
    parts += [[*head(("Arm", "Seconds")), *(line_of(f"`{arm}`", f"{seconds[arm]:.0f}") for arm in arms)]]
    print("\n\n".join("\n".join(lines) for lines in parts))


if __name__ == "__main__":
    main()
