"""Made scans for benchmarks: smooth noise with rings for hearts, read from memory, as many as are wanted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from crossbeat.case import Case, Domain
from crossbeat.cohort import Cohort, Row
from crossbeat.labels import Structure

PIXEL_MM = 1.25
SLICE_MM = 8.0


def cohort(
    subjects: int,
    *,
    side: int = 320,
    slices: int = 10,
    frames: int = 1,
    distinct: int = 4,
    sequences: Sequence[str] = ("bssfp",),
) -> Cohort:
    """So many subjects, each with a labelled scan of every sequence; one in eight of them validates.

    Only `distinct` scans differ: the rest are these again.
    """
    made: dict[int, Case] = {}

    def read(row: Row) -> Case:
        number = int(row.subject[1:]) % distinct
        if number not in made:
            made[number] = heart(number, side=side, slices=slices, frames=frames)
        return made[number]

    phases = {"ed_frame": 0, "es_frame": frames // 2} if frames > 1 else {}
    rows = tuple(
        Row(
            f"s{k}",
            f"s{k}_{of}",
            of,
            "-",
            labels="-",
            split="validation" if k % 8 == 7 else "train",
            **phases,
        )
        for k in range(subjects)
        for of in sequences
    )
    return Cohort(rows, read, f"{len(rows)} scans")


def heart(number: int, *, side: int, slices: int, frames: int = 1) -> Case:
    """One scan (frames, slices, side, side): a ring of myocardium about blood, an RV beside it, in soft noise."""
    generator = np.random.default_rng(number)
    noise = generator.standard_normal((slices, side, side)).astype(np.float32)
    image = ndimage.gaussian_filter(noise, (0, 3, 3))
    y, x = np.ogrid[:side, :side]
    middle = side / 2 + generator.uniform(-10, 10, 2)
    labels = np.zeros((frames, slices, side, side), np.uint8)
    for t in range(frames):
        squeezed = 1 - 0.3 * np.sin(np.pi * t / max(frames, 2)) ** 2
        radius = np.hypot(y - middle[0], x - middle[1])
        beside = np.hypot(y - middle[0], x - middle[1] - 32)
        labels[t, :, (beside < 18)] = Structure.RV
        labels[t, :, (radius < 28)] = Structure.MYO
        labels[t, :, (radius < 20 * squeezed)] = Structure.LV
    seen = np.broadcast_to(image, labels.shape).copy()
    for structure, value in ((Structure.LV, 1.0), (Structure.MYO, 0.4), (Structure.RV, 0.9)):
        seen[labels == structure] += value
    drawn = (frozenset({Structure.LV, Structure.MYO, Structure.RV}),) * frames
    affine = np.diag([PIXEL_MM, PIXEL_MM, SLICE_MM, 1.0])
    return Case(f"s{number}", f"s{number}", seen, affine, Domain("bssfp"), labels, drawn)
