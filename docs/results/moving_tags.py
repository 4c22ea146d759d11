"""Lines that stand, that fade and that move with the heart, from their kept scores.

Reads moving_tags/scores.csv.gz and cells.csv beside this file and prints the tables for moving_tags/README.md. Given
the study's cohort.csv it first draws sets.png there: one heart's cine under each set of lines, and a tagged scan of the
site. Run from the repository root: `python docs/results/moving_tags.py [COHORT]`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from pictures import in_few_greys
from study_tables import head, line_of
from tag_tables import STRUCTURES, by_patient, differences, frames_of, table_by_frame, table_by_seed

from crossbeat.cohort import Cohort, Row, read_cohort
from crossbeat.data import reader
from crossbeat.errors import CohortError
from crossbeat.study.evidence import TARGET, read_evidence

HERE: Final = Path(__file__).with_name("moving_tags")
PAIRS: Final = {
    ("standing", "scratch"): "cine, and lines that stand, first",
    ("standing", "cine"): "lines that stand, in place of half the cine",
    ("fading", "standing"): "lines that fade",
    ("moving", "fading"): "fading lines that move with the heart",
    ("moving", "standing"): "lines that fade and move",
    ("standing_no_labels", "cine_no_labels"): "lines that stand, in place of half the cine, no label",
    ("fading_no_labels", "standing_no_labels"): "lines that fade, no label",
    ("moving_no_labels", "fading_no_labels"): "fading lines that move with the heart, no label",
}
"""What is asked: (arm, the arm without that step)."""
SETS: Final = ("standing", "fading", "moving")
FRAMES: Final = (0, 4, 8, 12, 16, 20, 24)
AROUND_MM: Final = 55.0
"""Half the side of a picture, about the heart."""


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


def pictures(cohort: Cohort, row: Row) -> list[np.ndarray]:
    """The middle slice of `FRAMES`, about the heart of the first of them, black to the brightest of them all."""
    case = cohort.read(row)
    slices = np.flatnonzero(case.labels[0].any(axis=(1, 2)))
    z = int(slices[len(slices) // 2])
    centre = [int(v.mean()) for v in np.nonzero(case.labels[0, z])]
    half = [round(AROUND_MM / size) for size in case.spacing_mm[1:]]
    y, x = (slice(max(c - h, 0), c + h) for c, h in zip(centre, half, strict=True))
    shown = np.stack([case.image[frame, z, y, x] for frame in FRAMES]).astype(np.float64)
    return list(np.clip(shown / np.percentile(shown, 99.6), 0, 1))


def draw_sets(cohort: Cohort, path: Path) -> None:
    """A row each: a labelled cine, the same under each set of lines, a tagged scan that is tested; the first ones."""

    def first(tag_set: str, **wanted: str) -> Row:
        found = cohort.where(**wanted).only(lambda row: row.further.get("tag_set", "") == tag_set)
        if not len(found):
            raise CohortError(f"no scan of {wanted} with tag_set {tag_set!r}: is this the study's cohort?")
        return next(iter(found))

    rows = {"cine": first("", sequence="bssfp", centre="phantom")}
    rows |= {name: first(name, subject=rows["cine"].subject) for name in SETS}
    rows["the site's own"] = first("", sequence="tagged", split="test")
    figure, grid = plt.subplots(len(rows), len(FRAMES), figsize=(9.6, 7.3))
    for line, (name, row) in zip(grid, rows.items(), strict=True):
        for axes, image, frame in zip(line, pictures(cohort, row), FRAMES, strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            if name == "cine":
                axes.set_title(f"frame {frame}", fontsize=11)
        line[0].set_ylabel(name, fontsize=12)
    figure.tight_layout(pad=0.3, w_pad=0.15, h_pad=0.15)
    figure.savefig(path, dpi=90)
    plt.close(figure)
    in_few_greys(path)


def main(words: Sequence[str]) -> None:
    """Draw the sets where the cohort is given; print what the kept scores say."""
    if words:
        draw_sets(read_cohort(Path(words[0]), reader), HERE / "sets.png")
    evidence = read_evidence(HERE)
    arms = list(evidence.study.arms)
    frames = frames_of(evidence.scores[evidence.scores["part"] == TARGET])
    seconds = evidence.cells.groupby("arm", sort=False)["wall_seconds"].mean()
    parts = [
        by_arm(frames, seconds, arms),
        table_by_seed(frames),
        differences(frames, PAIRS),
        table_by_frame(frames, arms),
    ]
    print("\n\n".join("\n".join(lines) for lines in parts))


if __name__ == "__main__":
    main(sys.argv[1:])
