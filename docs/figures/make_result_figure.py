"""Draws docs/figures/result.png: phantom LGE scans, what two networks that never saw LGE make of them, and the truth.

Run from the repository root with the two runs of docs/methods/supervised.md and their cohort:
`python docs/figures/make_result_figure.py COHORT.CSV PLAIN_RUN RANDOM_CONTRAST_RUN`. Which scans: the test scans whose
random-contrast Dice is the lowest, the middle and the highest.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

from crossbeat.cohort import read_cohort
from crossbeat.data import reader
from crossbeat.data.predictions import prediction_reader
from crossbeat.labels import fold_into_myocardium
from crossbeat.prepare.volumes import heart_centre

mpl.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {1: "#4cc9f0", 2: "#ffb703", 3: "#95d5b2"}  # LV, MYO, RV
HALF_MM = 70.0


def dice_by_scan(run: Path) -> pd.Series:
    """Mean Dice of each LGE scan of a scored run, sorted."""
    scores = pd.read_csv(run / "scores.csv")
    volumes = scores[(scores.metric == "dice") & (scores.structure == "mean") & scores.slice.isna()]
    return volumes[volumes.sequence == "lge"].groupby("scan").value.mean().sort_values()


def main(cohort_csv: str, plain: str, contrast: str) -> None:
    cohort = read_cohort(Path(cohort_csv), reader)
    runs = {"U-Net trained on bSSFP": Path(plain), "the same with random contrast": Path(contrast)}
    order = dice_by_scan(Path(contrast))
    scans = {"lowest": order.index[0], "middle": order.index[len(order) // 2], "highest": order.index[-1]}
    figure, axes = plt.subplots(3, 3, figsize=(7.2, 7.5), facecolor="white")
    for row, (rank, scan) in zip(axes, scans.items(), strict=True):
        case = cohort.read(cohort.row(scan))
        assert case.labels is not None
        z = int(np.argmax((case.labels[0] == 1).sum(axis=(1, 2)) > 0)) + case.image.shape[1] // 3
        centre = heart_centre(case)
        assert centre is not None
        maps = {"truth": fold_into_myocardium(case.labels)}
        maps |= {name: prediction_reader(run)(cohort.row(scan)) for name, run in runs.items()}
        half = [int(HALF_MM / s) for s in case.spacing_mm[1:]]
        window = tuple(slice(max(int(c) - h, 0), int(c) + h) for c, h in zip(centre, half, strict=True))
        image = case.image[0, z][window]
        for axis, (name, labels) in zip(row, maps.items(), strict=True):
            axis.imshow(image, cmap="gray", vmax=np.percentile(image, 99.5))
            for value, colour in COLOURS.items():
                axis.contour(labels[0, z][window] == value, [0.5], colors=colour, linewidths=1.1)
            dice = "" if name == "truth" else f"Dice {dice_by_scan(runs[name])[scan]:.2f}"
            axis.set_title(name if row is axes[0] else "", fontsize=9)
            axis.text(3, image.shape[0] - 6, dice or f"LGE, {rank}", color="white", fontsize=8)
            axis.axis("off")
    figure.tight_layout(pad=0.4)
    figure.savefig(Path(__file__).with_name("result.png"), dpi=110, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
