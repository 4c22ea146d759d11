"""The whole set of scores of a volume beside what MONAI and surface-distance take for theirs, in one run.

    python benchmarks/evaluation.py [--json OUT]

A volume of 12 slices of 256 × 256 with three structures, anisotropic, two label maps that differ at their edges. Ours
are Dice, Jaccard, HD, HD95 and ASSD of each structure, as `evaluate` scores a frame; theirs HD95 alone, and the same
five. All are on one thread: a cohort's scans are scored in parallel, one a core, which the last line measures.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from hearts import cohort, heart
from numpy.typing import NDArray
from scipy import ndimage
from sides import Line, Turns, parser, take_turns, tell

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.evaluation import score_case, score_cohort
from crossbeat.labels import TRAINED

SLICES, SIDE = 12, 256
Labels = NDArray[np.uint8]


def nearly(labels: Labels) -> Labels:
    """The same structures, with edges that are off by a pixel or two, as a network's are."""
    moved = ndimage.shift(labels, (0, 0, 1.0, -2.0), order=0)
    noise = np.random.default_rng(0).random(labels.shape) < 0.3
    edge = np.stack([ndimage.morphological_gradient(frame, size=(1, 3, 3)) > 0 for frame in moved])
    return np.where(edge & noise, labels, moved).astype(np.uint8)


def one_hot(labels: Labels) -> torch.Tensor:
    """(1, 4, z, y, x), background first, as MONAI wants it."""
    return torch.stack([torch.from_numpy(labels[0] == k) for k in (0, *TRAINED)])[None].float()


def monai_hd95(predicted: Labels, case: Case) -> Callable[[int], object]:
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    y_pred, y = one_hot(predicted), one_hot(case.labels)
    return lambda _: compute_hausdorff_distance(y_pred, y, percentile=95, spacing=case.spacing_mm)


def monai_all(predicted: Labels, case: Case) -> Callable[[int], object]:
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.meandice import compute_dice
    from monai.metrics.meaniou import compute_iou
    from monai.metrics.surface_distance import compute_average_surface_distance

    y_pred, y = one_hot(predicted), one_hot(case.labels)

    def go(_: int) -> None:
        compute_dice(y_pred, y, include_background=False)
        compute_iou(y_pred, y, include_background=False)
        compute_hausdorff_distance(y_pred, y, spacing=case.spacing_mm)
        compute_hausdorff_distance(y_pred, y, percentile=95, spacing=case.spacing_mm)
        compute_average_surface_distance(y_pred, y, symmetric=True, spacing=case.spacing_mm)

    return go


def deepmind_all(predicted: Labels, case: Case) -> Callable[[int], object]:
    import surface_distance as sd

    masks = [(predicted[0] == k, case.labels[0] == k) for k in TRAINED]

    def go(_: int) -> None:
        for ours, theirs in masks:
            sd.compute_dice_coefficient(theirs, ours)
            (theirs & ours).sum() / (theirs | ours).sum()
            found = sd.compute_surface_distances(theirs, ours, case.spacing_mm)
            sd.compute_robust_hausdorff(found, 100)
            sd.compute_robust_hausdorff(found, 95)
            sd.compute_average_surface_distance(found)

    return go


def all_cores(rounds: int) -> Line:
    """A cohort scored on all cores, beside on one."""
    scans = cohort(96, side=SIDE, slices=SLICES)
    cases = {row.scan: scans.read(row) for row in scans}
    told = Cohort(scans.rows, lambda row: cases[row.scan], scans.name)
    jobs = os.cpu_count() or 1
    guesses = {scan: nearly(case.labels) for scan, case in cases.items()}

    def score(count: int) -> float:
        start = time.perf_counter()
        score_cohort(told, lambda row: guesses[row.scan], jobs=count)
        return time.perf_counter() - start

    seconds = [(score(jobs), score(1)) for _ in range(rounds)]
    return Turns(*zip(*seconds, strict=True)).line(
        f"96 scans on {jobs} cores", "one core", "scan/s", len(scans)
    )


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=15)
    options: argparse.Namespace = made.parse_args()
    options.threads, options.device = 1, "cpu"
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    case = heart(0, side=SIDE, slices=SLICES)
    predicted = nearly(case.labels)
    row = Row("s0", "s0", "bssfp", "-", labels="-")

    def ours(_: int) -> object:
        return score_case(row, case, predicted, per_slice=False)

    lines = []
    for name, rival, aim in (
        ("MONAI's HD95 alone", monai_hd95, 1.0),
        ("MONAI's five", monai_all, 2.0),
        ("surface-distance's five", deepmind_all, 2.0),
    ):
        turns = take_turns(ours, rival(predicted, case), options.rounds)
        lines.append(turns.line("five scores of a volume", name, "ms", 1000, aim))
    lines.append(all_cores(3))
    tell(f"Evaluation of {SLICES} slices of {SIDE} × {SIDE}, three structures", lines, options)


if __name__ == "__main__":
    main()
