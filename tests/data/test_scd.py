"""Contours become masks by the centres of pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trees
from matplotlib.path import Path as Outline

from crossbeat import data
from crossbeat.data.scd import rasterise
from crossbeat.errors import FileError
from crossbeat.labels import UNKNOWN, Structure


def test_a_rectangle_holds_the_pixels_whose_centres_it_holds() -> None:
    # columns 1.5 to 4.5 hold the centres 2, 3, 4; rows 0.5 to 2.5 hold 1, 2: six pixels
    corners = np.array([[1.5, 0.5], [4.5, 0.5], [4.5, 2.5], [1.5, 2.5]])
    expected = np.zeros((5, 7), bool)
    expected[1:3, 2:5] = True
    np.testing.assert_array_equal(rasterise(corners, 5, 7), expected)
    np.testing.assert_array_equal(rasterise(corners[::-1], 5, 7), expected)


def test_polygons_that_share_an_edge_through_centres_share_no_pixel_and_leave_none_out() -> None:
    left = np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0], [0.0, 4.0]])
    right = left + [3.0, 0.0]
    both = rasterise(left, 6, 8).astype(int) + rasterise(right, 6, 8)
    assert both.max() == 1
    assert both.sum() == 6 * 4


def test_any_polygon_agrees_with_an_independent_test_of_every_centre() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 30))
        radius = rng.uniform(3, 14, 30)
        star = np.stack([15.3 + radius * np.cos(angles), 12.1 + radius * np.sin(angles)], 1)
        y, x = np.indices((25, 31))
        inside = Outline(star).contains_points(np.stack([x.ravel(), y.ravel()], 1)).reshape(25, 31)
        np.testing.assert_array_equal(rasterise(star, 25, 31), inside)


def test_a_polygon_beyond_the_image_is_cut_at_its_border() -> None:
    corners = np.array([[-5.0, -5.0], [20.0, -5.0], [20.0, 20.0], [-5.0, 20.0]])
    assert rasterise(corners, 4, 6).all()


def test_a_contour_lands_on_its_image_and_its_pixels_count_from_one(tmp_path: Path) -> None:
    trees.scd(tmp_path / "in")
    cohort, remarks = data.index("scd", tmp_path / "in", tmp_path / "out")
    assert remarks == ()
    row = cohort.rows[0]
    assert (row.ed_frame, row.es_frame, row.structures, row.group) == (3, 1, "1=LV;3=LV,MYO", "infarct")
    case = cohort.read(row)
    assert case.labels is not None
    labelled = {(t, z) for t in range(4) for z in range(3) if (case.labels[t, z] != UNKNOWN).any()}
    # on our axes the slices may run the other way; find each by its bright pixel
    place = {int(case.image[t, z].max()): (t, z) for t in range(4) for z in range(3)}
    assert labelled == {place[code] for code in (1003, 1103, 1001, 1101)}
    t, z = place[1003]
    centre = np.argwhere(case.labels[t, z] == Structure.LV).mean(axis=0)
    bright = np.argwhere(case.image[t, z] == 1003)[0]
    # the circle's centre is (12, 10) counted from 1, so column 11 and row 9; the bright pixel is column 6, row 2
    steps = case.affine[:3, :3] @ [*(centre - bright)[::-1], 0]
    expected = (5 * 1.25 * trees.ROW + 7 * 1.5 * trees.COLUMN) * [-1, -1, 1]
    np.testing.assert_allclose(steps, expected, atol=0.5)


def test_a_slice_that_lacks_a_wall_stays_unknown_and_is_told(tmp_path: Path) -> None:
    trees.scd(tmp_path / "in")
    folder = next((tmp_path / "in").rglob("IRCCI-expert"))
    (folder / "IM-0001-0008-ocontour-manual.txt").unlink()
    trees.circle(folder / "IM-0001-0099-icontour-manual.txt", 12, 10, 4)
    cohort, remarks = data.index("scd", tmp_path / "in", tmp_path / "out")
    assert any("frame 3 slice" in r and "lacks its outer contour, left unknown" in r for r in remarks)
    assert any("contours of images [99] that the series does not hold" in r for r in remarks)
    labels = cohort.read(cohort.rows[0]).labels
    assert labels is not None
    assert sum((labels[3, z] != UNKNOWN).any() for z in range(3)) == 1


def test_a_file_that_is_no_contour_is_refused(tmp_path: Path) -> None:
    trees.scd(tmp_path / "in")
    folder = next((tmp_path / "in").rglob("IRCCI-expert"))
    for text, words in (("1 2\n3 4\n", "no closed line of 3 or more"), ("a b\n", "no list of `x y` lines")):
        (folder / "IM-0001-0008-icontour-manual.txt").write_text(text)
        with pytest.raises(FileError, match=words):
            data.index("scd", tmp_path / "in", tmp_path / "out")
