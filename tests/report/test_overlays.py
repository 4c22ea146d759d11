"""Where a contour lies, what is cut out and which slices are shown, in numbers one can do on paper."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from crossbeat.case import Case, Domain
from crossbeat.labels import UNKNOWN, Structure
from crossbeat.report.overlays import (
    Window,
    annotation_note,
    contour_path,
    heart_window,
    overlay_svg,
    three_levels,
)


def points(path: str) -> np.ndarray:
    return np.array([[float(v) for v in p.split()] for p in re.split("[MLZ]+", path) if p])


def test_a_contour_surrounds_the_squares_of_its_voxels_in_mm() -> None:
    mask = np.zeros((6, 8), bool)
    mask[2:4, 3:7] = True  # rows 2, 3 of 2 mm: 4 to 8 mm; columns 3 to 6 of 1.5 mm: 4.5 to 10.5 mm
    x, y = points(contour_path(mask, (2.0, 1.5))).T
    assert (x.min(), x.max()) == (4.5, 10.5)
    assert (y.min(), y.max()) == (4.0, 8.0)


def test_a_ring_has_two_contours_and_a_mask_at_the_rim_is_closed() -> None:
    ring = np.ones((9, 9), bool)
    ring[3:6, 3:6] = False
    assert contour_path(ring, (1.0, 1.0)).count("M") == contour_path(ring, (1.0, 1.0)).count("Z") == 2
    x, y = points(contour_path(np.ones((4, 5), bool), (1.0, 1.0))).T
    assert (x.min(), x.max(), y.min(), y.max()) == (0.0, 5.0, 0.0, 4.0)


def test_an_empty_mask_has_no_contour() -> None:
    assert contour_path(np.zeros((5, 5), bool), (1.0, 1.0)) == ""


def test_the_window_is_a_square_in_mm_around_the_heart() -> None:
    masks = np.zeros((2, 3, 200, 400), bool)
    masks[0, 1, 90:110, 180:200] = True  # 20 rows of 2 mm = 40 mm, 20 columns of 1 mm = 20 mm
    masks[1, 2, 90:110, 200:220] = True  # together columns 180 to 219: 40 mm
    window = heart_window(masks, (2.0, 1.0))
    assert window == Window(80, 120, 160, 240)  # the smallest window: 80 mm around (100, 200)
    masks[1, 0, 60:140, 200] = True  # 80 rows of 2 mm = 160 mm, and 14 mm on either side
    assert heart_window(masks, (2.0, 1.0)) == Window(53, 147, 106, 294)


def test_the_window_ends_at_the_image_and_is_the_image_where_nothing_is_drawn() -> None:
    masks = np.zeros((1, 1, 50, 60), bool)
    assert heart_window(masks, (1.0, 1.0)) == Window(0, 50, 0, 60)
    masks[0, 0, 2, 58] = True
    assert heart_window(masks, (1.0, 1.0)) == Window(0, 42, 18, 60)


@pytest.mark.parametrize(
    ("drawn", "shown"), [(range(1, 10), [2, 5, 8]), (range(3, 5), [3, 4]), ([6], [6]), ([], [])]
)
def test_three_levels_are_the_middles_of_the_thirds(drawn: list[int], shown: list[int]) -> None:
    mask = np.zeros((12, 4, 4), bool)
    mask[list(drawn), 1, 1] = True
    assert three_levels(mask) == shown


def make_case(labels: np.ndarray | None) -> Case:
    image = np.zeros((1, 1, 10, 10), np.float32)
    image[..., 5:] = 7.0
    drawn = () if labels is None else (frozenset({Structure.LV, Structure.MYO}),)
    return Case("s", "s", image, np.diag([1.0, 2.0, 8.0, 1.0]), Domain("bssfp"), labels, drawn)


def test_an_overlay_holds_the_image_and_both_contours() -> None:
    labels = np.zeros((1, 1, 10, 10), np.uint8)
    labels[..., 3:6, 3:6] = Structure.LV
    predicted = labels.copy()
    predicted[..., 1, 1] = Structure.RV
    svg = overlay_svg(make_case(labels), predicted, 0, 0, Window(0, 10, 0, 10), 'a "name"')
    assert svg.count('class="predicted"') == 2
    assert svg.count('class="reference"') == 1
    assert 'viewBox="0 0 10.0 20.0"' in svg
    assert "a &quot;name&quot;" in svg
    encoded = re.search(r"base64,([^\"]+)", svg)
    assert encoded is not None
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded[1]))))
    assert (pixels[:, :5] == 0).all()
    assert (pixels[:, 5:] == 255).all()


def test_scar_lies_in_the_contour_of_the_myocardium() -> None:
    labels = np.zeros((1, 1, 10, 10), np.uint8)
    labels[..., 2:7, 2:7] = Structure.MYO
    whole = overlay_svg(make_case(labels), None, 0, 0, Window(0, 10, 0, 10), "")
    labels[..., 4, 4] = Structure.SCAR
    assert overlay_svg(make_case(labels), None, 0, 0, Window(0, 10, 0, 10), "") == whole


def test_without_reference_or_where_nobody_looked_the_prediction_stands_alone() -> None:
    predicted = np.full((1, 1, 10, 10), Structure.LV, np.uint8)
    unknown = np.full((1, 1, 10, 10), UNKNOWN, np.uint8)
    for labels in (None, unknown):
        svg = overlay_svg(make_case(labels), predicted, 0, 0, Window(0, 10, 0, 10), "")
        assert "reference" not in svg
        assert svg.count("predicted") == 1


def test_what_nobody_looked_at_is_called_so() -> None:
    labels = np.zeros((1, 1, 10, 10), np.uint8)
    assert annotation_note(make_case(labels), 0, 0) == "only LV, MYO drawn"
    labels[..., :5] = UNKNOWN
    assert annotation_note(make_case(labels), 0, 0) == "only LV, MYO drawn; annotated in part"
    labels[:] = UNKNOWN
    assert annotation_note(make_case(labels), 0, 0) == "not annotated"
    assert annotation_note(make_case(None), 0, 0) == "not annotated"
    assert annotation_note(make_case(labels * 0), 0, 0, [Structure.LV, Structure.MYO]) == ""
