"""The ablation of Chen 2020 from its kept scores: tables, and tests of what each step adds to the one before.

Reads chen2020/scores.csv.gz and cells.csv beside this file, writes chen2020/pairs.csv and prints the tables that stand
in chen2020/README.md. Run from the repository root: `python docs/results/chen2020.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd
from study_tables import METRICS, compare, head, line_of, table_of, table_of_pairs

from crossbeat.study.evidence import TARGET, read_evidence
from crossbeat.study.league import league

HERE: Final = Path(__file__).with_name("chen2020")
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


def main() -> None:
    """Print the tables, and write the comparisons with every digit."""
    evidence = read_evidence(HERE)
    cells = evidence.cells
    arms = [arm for arm in evidence.study.arms if arm in set(cells["arm"])]
    ranked = evidence.scores[evidence.scores["part"] == TARGET]
    table = league(ranked, reference=evidence.study.reference)
    pairs = compare(ranked, PAIRS)
    pairs.to_csv(HERE / "pairs.csv", index=False, float_format="%.6g", lineterminator="\n")
    parts = [table_of(table, arms, metric, unit) for metric, unit in METRICS]
    parts += [table_of_pairs(pairs)]
    parts += [[*head(("Arm", "4 and 5", "6 to 35", "36 to 45")), *means_by_patients(evidence.scores, arms)]]
    seconds = cells.groupby("arm", sort=False)["wall_seconds"].mean()
    parts += [[*head(("Arm", "Seconds")), *(line_of(f"`{arm}`", f"{seconds[arm]:.0f}") for arm in arms)]]
    print("\n\n".join("\n".join(lines) for lines in parts))


if __name__ == "__main__":
    main()
