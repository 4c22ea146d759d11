from dataclasses import replace

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from crossbeat.case import Case, Domain
from crossbeat.errors import CaseError
from crossbeat.labels import Structure

DRAWN = frozenset({Structure.LV})


def still(**changes: object) -> Case:
    return replace(
        Case(
            "p1_lge",
            "p1",
            np.zeros((1, 3, 4, 5), np.float32),
            np.diag([1.5, 2.0, 8.0, 1.0]),
            Domain("lge"),
            np.zeros((1, 3, 4, 5), np.uint8),
            (DRAWN,),
        ),
        **changes,
    )


def test_spacing_is_that_of_the_affine_in_zyx_order() -> None:
    assert still().spacing_mm == (8.0, 2.0, 1.5)


def test_a_scan_without_labels_has_nothing_drawn() -> None:
    case = still(labels=None, drawn=())
    assert case.drawn == (frozenset(),)
    assert case.labelled_frames == []
    assert still().labelled_frames == [0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": np.zeros((3, 4, 5), np.float32)}, r"must be \(t, z, y, x\)"),
        ({"image": np.full((1, 3, 4, 5), np.nan, np.float32)}, "60 voxels are NaN"),
        ({"affine": np.zeros((4, 4))}, "affine is singular"),
        ({"labels": np.zeros((1, 3, 4, 6), np.uint8)}, r"labels have shape \(1, 3, 4, 6\)"),
        ({"labels": np.full((1, 3, 4, 5), 7, np.uint8)}, r"values \[7\] that are no structure"),
        ({"drawn": ()}, "one set a frame, got 0 for 1"),
        ({"labels": None}, "says what was drawn, but has no labels"),
        ({"frame_times_ms": np.zeros(2)}, "2 times for 1 frames"),
    ],
)
def test_a_broken_scan_is_refused_at_birth_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(CaseError, match=message) as caught:
        still(**changes)
    assert "p1_lge" in str(caught.value)


@pytest.mark.parametrize(
    "changes", [{"image": np.zeros((1, 3, 4, 5), np.int16)}, {"labels": np.zeros((1, 3, 4, 5), np.int64)}]
)
def test_other_number_types_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(
        (CaseError, TypeCheckError), match=r"must be|Expected type"
    ):  # the shape hook may come first
        still(**changes)
