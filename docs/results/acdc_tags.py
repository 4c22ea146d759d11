"""Do masks of real cine still fit once it is tagged? The contrast across drawn borders, and across borders moved aside.

Run from the repository root: `python docs/results/acdc_tags.py [COHORT]`. COHORT is what `crossbeat tag` wrote
--with-originals of labelled cines; what is measured of them is kept as acdc_tags.csv beside this file, of which the
table is printed. A mask that fits has the greatest contrast where it was drawn, and less the farther it is moved.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from study_tables import head, line_of

from crossbeat.case import Case
from crossbeat.cohort import read_cohort
from crossbeat.data import reader
from crossbeat.errors import CohortError
from crossbeat.labels import Structure

KEPT: Final = Path(__file__).with_name("acdc_tags.csv")
MOVED_MM: Final = (0.0, 2.0, 4.0, 6.0)
RIM_MM: Final = 4.0
"""Of either side of a border, what is compared; half of what lies between two lines."""
LEAST: Final = 20
"""Pixels of a rim; slices with fewer are left out."""
CAVITIES: Final = {"LV": Structure.LV, "RV": Structure.RV}


def contrast(
    image: NDArray[np.floating], mask: NDArray[np.uint8], cavity: Structure, pixel: tuple[float, float]
) -> float:
    """Mean of a cavity's rim less that of the wall's along their border, in SD of both; nan where a rim is small."""
    inside, wall = mask == cavity, mask == Structure.MYO
    if not (inside.any() and wall.any()):
        return float("nan")
    rims = [
        image[own & (ndimage.distance_transform_edt(~other, sampling=pixel) <= RIM_MM)]
        for own, other in ((inside, wall), (wall, inside))
    ]
    if min(map(len, rims)) < LEAST:
        return float("nan")
    return float((rims[0].mean() - rims[1].mean()) / max(np.concatenate(rims).std(), 1e-9))


def moved(mask: NDArray[np.uint8], mm: float, pixel: tuple[float, float]) -> Iterator[NDArray[np.uint8]]:
    """The mask moved so far, to whole pixels, in eight directions; once where it stays."""
    if not mm:
        yield mask
        return
    for y, x in product((-1, 0, 1), repeat=2):
        if (y, x) != (0, 0):
            share = mm / np.hypot(y, x)
            yield np.roll(mask, (round(y * share / pixel[0]), round(x * share / pixel[1])), (0, 1))


def measured(case: Case) -> Iterator[tuple[str, float, float]]:
    """(cavity, how far its mask was moved in mm, contrast), the mean over directions, slices and labelled frames."""
    if case.labels is None:
        raise CohortError(f"scan {case.id!r}: has no labels, and they are what is asked about")
    pixel = case.spacing_mm[1:]
    for (name, cavity), mm in product(CAVITIES.items(), MOVED_MM):
        found = [
            contrast(case.image[t, z], mask, cavity, pixel)
            for t in case.labelled_frames
            for z in range(case.image.shape[1])
            for mask in moved(case.labels[t, z], mm, pixel)
        ]
        yield name, mm, float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def keep(cohort: Path) -> None:
    """Measure every labelled scan of a cohort, tagged or not."""
    rows = read_cohort(cohort, reader).labelled()
    found = [(row.subject, row.sequence, *line) for row in rows for line in measured(rows.read(row))]
    table = pd.DataFrame(found, columns=["subject", "sequence", "cavity", "moved_mm", "contrast"])
    table.to_csv(KEPT, index=False, float_format="%.4g", lineterminator="\n")


def table_of(kept: pd.DataFrame) -> list[str]:
    """A row a cavity and kind of image: contrast by how far the mask was moved; in how many it is greatest unmoved."""
    distances = sorted(kept["moved_mm"].unique())
    lines = head(("Border", "Image", *(f"moved {mm:g} mm" for mm in distances), "greatest where drawn"))
    for (cavity, sequence), rows in kept.groupby(["cavity", "sequence"], sort=True):
        wide = rows.pivot_table(index="subject", columns="moved_mm", values="contrast").dropna()
        told = [f"{wide[mm].mean():.2f} ± {wide[mm].std():.2f}" for mm in distances]
        best = int((wide.idxmax(axis=1) == 0).sum())
        lines.append(line_of(f"{cavity} to wall", sequence, *told, f"{best} of {len(wide)}"))
    return lines


def main(words: Sequence[str]) -> None:
    """Measure what is named, tell what is kept."""
    if words:
        keep(Path(words[0]))
    print("\n".join(table_of(pd.read_csv(KEPT))))


if __name__ == "__main__":
    main(sys.argv[1:])
