"""Lines that stand, that fade and that move with the heart, from their kept scores.

Reads moving_tags/scores.csv.gz and cells.csv beside this file and prints the tables for moving_tags/README.md. Run from
the repository root: `python docs/results/moving_tags.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd
from dhaene2023 import STRUCTURES, by_patient, differences, frames_of, table_by_frame
from study_tables import head, line_of

from crossbeat.study.evidence import TARGET, read_evidence

HERE: Final = Path(__file__).with_name("moving_tags")
PAIRS: Final = {
    ("standing", "scratch"): "cine, and lines that stand, first",
    ("standing", "cine"): "lines that stand, in place of half the cine",
    ("fading", "standing"): "lines that fade",
    ("moving", "fading"): "fading lines that move with the heart",
    ("moving", "standing"): "lines that fade and move",
}
"""What is asked: (arm, the arm without that step)."""


def by_arm(frames: pd.DataFrame, seconds: pd.Series[float], arms: Sequence[str]) -> list[str]:
    """Dice of each structure and the mean of those, mean ± SD over patients; seeds, and seconds a training."""
    lines = head(("Arm", *STRUCTURES, "mean", "Seeds", "Seconds"))
    for arm in (arm for arm in arms if arm in set(frames["arm"])):
        own = frames[frames["arm"] == arm]
        parts = [own[own["structure"] == structure] for structure in STRUCTURES]
        told = [by_patient(part, "dice") for part in (*parts, own)]
        means = (f"{values.mean():.3f} ± {values.std():.3f}" for values in told)
        lines.append(line_of(f"`{arm}`", *means, f"{own['seed'].nunique()}", f"{seconds[arm]:.0f}"))
    return lines


def main() -> None:
    """Print what the kept scores say."""
    evidence = read_evidence(HERE)
    arms = list(evidence.study.arms)
    frames = frames_of(evidence.scores[evidence.scores["part"] == TARGET])
    seconds = evidence.cells.groupby("arm", sort=False)["wall_seconds"].mean()
    parts = [by_arm(frames, seconds, arms), differences(frames, PAIRS), table_by_frame(frames, arms)]
    print("\n\n".join("\n".join(lines) for lines in parts))


if __name__ == "__main__":
    main()
