"""How end-diastolic contours of two Sunnybrook cines travel through the cycle, and how they arrive at end systole.

On `../shared/data/scd` (or `$CROSSBEAT_DATA/scd`), with a registration that learnt on other patients of another
scanner, such as one of `acdc_registration.py --train`. Run from the repository root:
`python docs/results/sunnybrook_propagation.py RUN/models/registration`. It writes sunnybrook_propagation.csv, a line a
patient and frame (LV volume, confidence), and prints the table.

An expert drew ED (endocardium and epicardium) and ES (endocardium alone), each in some of the slices. ED is carried.
At ES Dice of the LV is taken over the slices that both the expert and the carried labels have; how many these are
stands beside the number of slices to which labels were carried. The curve is smooth
where it falls to one minimum and rises again: what goes the other way is summed and set beside the stroke volume.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from crossbeat import data
from crossbeat.case import Case
from crossbeat.cohort import Row
from crossbeat.labels import UNKNOWN, Structure
from crossbeat.methods.propagation import Carried, carry, find_sources, load_registrar
from crossbeat.metrics import dice
from crossbeat.metrics.clinical import volume_curve_ml

HERE: Final = Path(__file__).parent
COLUMNS: Final = ("patient", "frame", "lv_ml", "similarity", "regularity", "smallest_jacobian", "confidence")


def carried_slices(carried: NDArray[np.uint8]) -> list[int]:
    """Slices of a frame to which labels were carried: those that somebody looked at, in the drawn frame."""
    return [z for z in range(len(carried)) if (carried[z] != UNKNOWN).all()]


def scored_slices(carried: NDArray[np.uint8], expert: NDArray[np.uint8]) -> list[int]:
    """Those of them in which the expert drew the LV."""
    return [z for z in carried_slices(carried) if (expert[z] == Structure.LV).any()]


def lv_dice(carried: NDArray[np.uint8], expert: NDArray[np.uint8]) -> float:
    """Of the LV, over slices that both have."""
    both = scored_slices(carried, expert)
    return dice(carried[both] == Structure.LV, expert[both] == Structure.LV)


def wrong_way(curve: NDArray[np.float64]) -> float:
    """ml that the volume rises before its smallest and falls after it, over the cycle from ED back to ED."""
    least = int(np.argmin(curve))
    steps = np.diff(np.append(curve, curve[0]))
    return float(np.clip(steps[:least], 0, None).sum() - np.clip(steps[least:], None, 0).sum())


def describe(row: Row, case: Case, found: Carried, curve: NDArray[np.float64]) -> str:
    """A row of the table."""
    assert row.es_frame is not None
    assert row.ed_frame is not None
    assert case.labels is not None
    ed, es = row.ed_frame, row.es_frame
    still = lv_dice(found.labels[ed], case.labels[es])
    moved = lv_dice(found.labels[es], case.labels[es])
    slices = (
        f"{len(scored_slices(found.labels[es], case.labels[es]))} | {len(carried_slices(found.labels[es]))}"
    )
    stroke, back = curve[ed] - curve.min(), wrong_way(np.roll(curve, -ed))
    lowest = min(record.confidence for record in found.frames if not record.labelled)
    return (
        f"| {row.subject} | {still:.3f} | {moved:.3f} | {slices} | {curve[ed]:.0f} | {curve[es]:.0f} | "
        f"{int(curve.argmin())} ({es}) | {back:.1f} ml, {back / stroke:.1%} | {lowest:.2f} |"
    )


def main() -> None:
    """Carry, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("registrar", type=Path)
    registrar = load_registrar(parser.parse_args().registrar)
    torch.set_num_threads(1)
    root = Path(os.environ.get("CROSSBEAT_DATA", HERE.parents[2] / "shared" / "data")) / "scd"
    print(
        "| Patient | LV at ES, ED unmoved | carried | slices scored | slices carried | EDV, ml | at ES | "
        "least at (ES) | wrong way | confidence |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    with (
        TemporaryDirectory() as converted,  # NIfTI made of the DICOM stays out of the project
        (HERE / "sunnybrook_propagation.csv").open("w", encoding="utf-8", newline="") as out,
    ):
        cohort, _ = data.index("scd", root, Path(converted))
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in cohort:
            case = cohort.read(row)
            found = carry(case, find_sources(row, case, "ed"), registrar)
            curve = volume_curve_ml(found.labels, case.spacing_mm, Structure.LV)
            for r, ml in zip(found.frames, curve.tolist(), strict=True):
                numbers = (ml, r.similarity, r.regularity, r.smallest_jacobian, r.confidence)
                writer.writerow((row.subject, r.frame, *(f"{x:.5g}" for x in numbers)))
            print(describe(row, case, found, curve), flush=True)


if __name__ == "__main__":
    main()
