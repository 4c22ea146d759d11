"""How much of a Dice is finding the heart: tested scans segmented again with the window where the heart truly is.

A segmenter that is trained about the heart looks for it first, in frame 0, where tagged scans have their freshest
lines, and segments every frame in the window about what it saw there. The farther that lies from the heart, the less of
it can be found, whatever else the arm can do. Of each finished cell of the arms named this keeps in STUDY/placed.csv
beside this file, a line a patient: how far from the heart the window lay (mm), the mean Dice over frames in it, and
that in the right window. Lines of cells that are not named stay.
Run from the repository root:
`python docs/results/placed.py STUDY OUT ARM ...`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from study_tables import head, line_of
from tag_tables import STRUCTURES
from training_scores import cells_of

from crossbeat.case import Case
from crossbeat.cohort import Row, read_cohort
from crossbeat.data import reader
from crossbeat.devices import argmax_channels
from crossbeat.errors import FileError
from crossbeat.evaluation import score_case
from crossbeat.prepare.volumes import window_of
from crossbeat.segmenter import Segmenter, load_segmenter

HERE: Final = Path(__file__).parent
KEY: Final = ["arm", "seed", "subject"]
NEAR_MM: Final = 30.0
"""A window so near has the whole heart in it."""


def heart_of(case: Case) -> tuple[float, float]:
    """Middle (y, x), in voxels, of what is labelled in frame 0."""
    assert case.labels is not None
    _, y, x = np.nonzero(np.isin(case.labels[0], [s.value for s in case.drawn[0]]))
    return float(y.mean()), float(x.mean())


def segmented(segmenter: Segmenter, case: Case, centre: tuple[float, float]) -> NDArray[np.uint8]:
    """As `Segmenter.predict`, in the window about a centre that is given."""
    window = window_of(case, segmenter.preparation, centre=centre)
    chunks = [argmax_channels(p).cpu() for p in segmenter.probabilities(case, window)]
    return segmenter.name_classes(torch.cat(chunks).reshape(case.image.shape).numpy())


def mean_dice(row: Row, case: Case, labels: NDArray[np.uint8]) -> float:
    """Over frames and structures."""
    scores = score_case(row, case, labels, units=(), per_slice=False)
    return float(np.nanmean([s.value for s in scores if s.metric == "dice" and s.structure in STRUCTURES]))


def measured(cell: Path) -> pd.DataFrame:
    """A line a tested target scan of a cell."""
    segmenter = load_segmenter(cell / "segmenter")
    cohort = read_cohort(cell / "cohort.csv", reader).where(split="test", sequence="tagged", centre="tagged")
    found = []
    for row in cohort:
        case = cohort.read(row)
        heart, seen = heart_of(case), segmenter.place(case).centre
        apart = np.subtract(heart, seen) * case.spacing_mm[1:]
        dices = [mean_dice(row, case, segmented(segmenter, case, centre)) for centre in (seen, heart)]
        found.append((row.subject, float(np.hypot(*apart)), *dices))
    return pd.DataFrame(found, columns=["subject", "away_mm", "dice", "dice_placed"])


def table_of(kept: pd.DataFrame) -> list[str]:
    """A row an arm and seed: hearts found, Dice in the window found and in the right one, mean ± SD over patients."""
    lines = head(("Arm", "Seed", "hearts found", "Dice, window as found", "Dice, window on the heart"))
    for (arm, seed), rows in kept.groupby(["arm", "seed"], sort=False):
        near = int((rows["away_mm"] < NEAR_MM).sum())
        told = (f"{rows[c].mean():.3f} ± {rows[c].std():.3f}" for c in ("dice", "dice_placed"))
        lines.append(line_of(f"`{arm}`", f"{seed}", f"{near} of {len(rows)}", *told))
    return lines


def main(words: Sequence[str]) -> None:
    """Segment, score, keep and tell."""
    if len(words) < 3:
        raise SystemExit(
            "say which study, its folder and arms: python docs/results/placed.py STUDY OUT ARM ..."
        )
    file = HERE / words[0] / "placed.csv"
    out, arms = Path(words[1]), words[2:]
    kept = (
        pd.read_csv(file) if file.exists() else pd.DataFrame(columns=[*KEY, "away_mm", "dice", "dice_placed"])
    )
    cells = sorted(cells_of(out, arms), key=lambda cell: (arms.index(cell[0]), cell[1]))
    if not cells:
        raise FileError(out, "has no finished cell of these arms (cells/ARM/seed-N/scores.csv)")
    for arm, seed, cell in cells:
        new = measured(cell).assign(arm=arm, seed=seed)[list(kept)]
        others = kept[(kept["arm"] != arm) | (kept["seed"] != seed)]
        kept = pd.concat([others, new], ignore_index=True) if len(others) else new
        kept.to_csv(file, index=False, float_format="%.5g", lineterminator="\n")
    print("\n".join(table_of(kept)))


if __name__ == "__main__":
    main(sys.argv[1:])
