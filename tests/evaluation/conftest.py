"""Two small patients whose scores can be counted on paper, and predictions that are the reference, changed."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.labels import TRAINED, Structure

LV, MYO, RV = TRAINED
SPACING = (10.0, 1.5, 2.0)
SHAPE = (2, 6, 20, 16)

ReadPrediction = Callable[[Row], np.ndarray]


def draw_heart(cavity: int) -> np.ndarray:
    """(6, 20, 16): a cavity of `cavity` rows by 4 columns in a wall of 2, an RV beside it, in slices 1 to 4.

    The uppermost heart slice, 4, has a larger RV: it is the base.
    """
    labels = np.zeros(SHAPE[1:], np.uint8)
    labels[1:5, 4 : 8 + cavity, 4:12] = MYO
    labels[1:5, 6 : 6 + cavity, 6:10] = LV
    labels[1:5, 6:10, 12:14] = RV
    labels[4, 6:12, 12:15] = RV
    return labels


@pytest.fixture
def cases() -> dict[str, Case]:
    """By scan: ED with a cavity of 8 rows, ES of 4."""
    affine = np.diag([*SPACING[::-1], 1.0])
    return {
        scan: Case(
            scan,
            scan[:2],
            np.zeros(SHAPE, np.float32),
            affine,
            Row(scan[:2], scan, "bssfp", "").domain,
            np.stack((draw_heart(8), draw_heart(4))),
            (frozenset(TRAINED),) * 2,
        )
        for scan in ("p1-cine", "p2-cine")
    }


@pytest.fixture
def cohort(cases: dict[str, Case]) -> Cohort:
    rows = tuple(
        Row(
            scan[:2],
            scan,
            "bssfp",
            f"{scan}.nii.gz",
            vendor=vendor,
            group="NOR",
            labels="there.nii.gz",
            convention="acdc",
            ed_frame=0,
            es_frame=1,
            frame_interval_ms=40.0,
            spacing_source="nominal",
            further={"field_t": "1.5"},
        )
        for scan, vendor in zip(cases, ("A", "NA"), strict=True)
    )
    return Cohort(rows, lambda row: cases[row.scan], "small")


@pytest.fixture
def perfect(cases: dict[str, Case]) -> ReadPrediction:
    return lambda row: cases[row.scan].labels.copy()


def with_labels(case: Case, labels: np.ndarray, *drawn: set[Structure]) -> Case:
    """The case with other labels, and for each frame what was drawn."""
    return replace(case, labels=labels, drawn=tuple(frozenset(d) for d in drawn) or case.drawn)
