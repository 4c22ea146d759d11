"""Pictures of a cine: which frames, where a warped line lies, which colour means growth, in numbers of paper."""

from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossbeat.case import Case, Domain
from crossbeat.cohort import Row
from crossbeat.labels import UNKNOWN, Structure
from crossbeat.report import motion_page
from crossbeat.report.motion import (
    Motion,
    frame_svg,
    frames_over_cycle,
    grid_lines_mm,
    grid_svg,
    jacobian_colours,
    jacobian_svg,
    largest_motion,
    look,
    strip_png,
)
from crossbeat.report.motion_page import FrameLine, MotionPage, ScanMotion, scan_motion, write_motion_page

FRAMES = 5
LV_MYO = frozenset({Structure.LV, Structure.MYO})


def cine(frames: int = FRAMES, slices: int = 3) -> Case:
    """A disc in a ring that shrinks frame by frame; pixels of 2.5 x 2 mm, slices 8 mm apart."""
    y, x = np.mgrid[:48, :56].astype(float)
    labels = np.zeros((frames, slices, 48, 56), np.uint8)
    for t in range(frames):
        distance_mm = np.hypot((y - 24) * 2.5, (x - 28) * 2.0)
        labels[t, :, distance_mm < 28 - 2 * t] = Structure.MYO
        labels[t, :, distance_mm < 18 - 2 * t] = Structure.LV
    image = np.asarray([60, 250, 90], np.float32)[labels]
    return Case("s", "s", image, np.diag([2.0, 2.5, 8.0, 1.0]), Domain("bssfp"), labels, (LV_MYO,) * frames)


def at_rest(frame: int = 2) -> Motion:
    return Motion(frame, 0, np.zeros((2, 48, 56), np.float32), np.ones((48, 56), np.float32))


def pixels_of(svg: str) -> np.ndarray:
    found = re.search(r"base64,([^\"]+)", svg)
    assert found is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))))


def lines_of(frames: int = FRAMES, drawn: tuple[int, ...] = (0,), **changed: float) -> list[FrameLine]:
    return [
        FrameLine(
            "s", "s", t, math.nan, str(t) if t in drawn else ";".join(map(str, drawn)),
            **{"agreement": math.nan, "similarity": 0.9 - t / 20, "regularity": 1.0, "smallest_jacobian": 0.8,
               "coverage": 1.0, "confidence": 0.9 - t / 20, "lv_ml": 100.0 - 10 * t, **changed},
        )
        for t in range(frames)
    ]  # fmt: skip


def view(
    scan: str = "s", lines: list[FrameLine] | None = None, case: Case | None = None, n: int = 0
) -> ScanMotion:
    case = case or cine()
    row = Row("s", scan, "bssfp", "-", ed_frame=0, es_frame=3)
    return scan_motion(row, case, lines or lines_of(case.frames), at_rest(), look(case, 0), n)


# Which frames and which slice


@pytest.mark.parametrize(
    ("frames", "drawn", "expected"),
    [
        (24, [], [0, 3, 6, 9, 12, 15, 18, 21]),
        (24, [0, 9], [0, 3, 6, 9, 12, 15, 18, 21]),
        (24, [1, 10], [1, 3, 6, 10, 12, 15, 18, 21]),
        (24, [23], [0, 3, 6, 9, 12, 15, 18, 23]),
        (5, [2], [0, 1, 2, 3, 4]),
        (9, [8], [0, 1, 2, 3, 4, 5, 6, 8]),
    ],
)
def test_a_strip_goes_over_the_cycle_and_shows_every_drawn_frame(
    frames: int, drawn: list[int], expected: list[int]
) -> None:
    assert frames_over_cycle(frames, drawn) == expected


@pytest.mark.parametrize("frames", [2, 7, 8, 25, 30])
@pytest.mark.parametrize("drawn", [[], [0], [1, 0]])
def test_no_frame_comes_twice_and_none_too_many(frames: int, drawn: list[int]) -> None:
    found = frames_over_cycle(frames, drawn)
    assert len(set(found)) == len(found) == min(frames, 8)
    assert set(drawn) <= set(found) <= set(range(frames))


def test_the_slice_is_the_middle_one_of_the_heart_and_all_frames_fit_the_cut_out() -> None:
    case = cine(slices=7)
    assert case.labels is not None
    labels = case.labels.copy()
    labels[0, :4] = 0  # in the first frame the heart lies in slices 4 to 6
    labels[4, 5, 2:4, 28] = Structure.RV  # and in the last it reaches far up
    sight = look(replace(case, labels=labels), 0)
    assert sight.z == 5
    assert sight.window.y0 == 0
    assert (sight.labels(4) == Structure.RV).sum() == 2
    empty = look(replace(case, labels=np.zeros_like(labels)), 0)
    assert (empty.z, empty.size_mm) == (3, (48 * 2.5, 56 * 2.0))


def test_all_frames_are_on_one_scale_of_grey() -> None:
    case = cine()
    image = case.image.copy()
    image[3] /= 2
    sight = look(replace(case, image=image), 0)
    bright, dim = (pixels_of(frame_svg(sight, t, "")) for t in (0, 3))
    assert bright.max() == 255
    assert dim.max() < 128


def test_the_frame_that_moved_furthest_is_found_in_mm_and_over_the_heart_alone() -> None:
    field = np.zeros((3, 2, 1, 4, 4), np.float32)
    heart = np.zeros((3, 1, 4, 4), bool)
    heart[:, 0, 1:3, 1:3] = True
    field[1, :, 0, 1:3, 1:3] = 3.0  # by (3, 3), 4.24 mm
    field[2, 0, 0, 1:3, 1:3] = 4.0  # by 4 mm
    field[2, :, 0, 0, 0] = 99.0  # outside the heart
    assert largest_motion(field, heart) == 1
    assert largest_motion(field, heart & False) == 0


# The warped grid


def test_where_nothing_moves_the_grid_is_straight_and_evenly_spaced() -> None:
    lines = grid_lines_mm(np.zeros((2, 8, 10), np.float32), (3.0, 2.0), every_mm=5.0)
    across = [line for line in lines if np.ptp(line[:, 1]) < 1e-6]
    down = [line for line in lines if np.ptp(line[:, 0]) < 1e-6]
    assert len(across) + len(down) == len(lines)
    assert sorted(line[0, 1] for line in across) == pytest.approx(
        [5, 10, 15, 20]
    )  # rows lie at 1.5 to 22.5 mm
    assert sorted(line[0, 0] for line in down) == pytest.approx([5, 10, 15])  # columns at 1 to 19 mm


def test_a_line_lies_where_its_tissue_went() -> None:
    """Every voxel lay 2 columns of 2 mm further right in the other frame: tissue went 4 mm to the left."""
    field = np.zeros((2, 8, 10), np.float32)
    field[1] = 2.0
    lines = grid_lines_mm(field, (3.0, 2.0), every_mm=5.0)
    down = sorted(line[0, 0] for line in lines if np.ptp(line[:, 0]) < 1e-6)
    assert down == pytest.approx([1, 6, 11, 16])  # of 5, 10, 15 and 20 mm


def test_lines_draw_together_where_tissue_shrank() -> None:
    """moved(p) = moving(p + u) with u = p about the middle: what was 2 wide is 1 wide now."""
    y, x = np.mgrid[:41, :41].astype(np.float32) - 20
    lines = grid_lines_mm(np.stack([y, x]), (1.0, 1.0), every_mm=4.0)
    down = sorted(line[0, 0] for line in lines if np.ptp(line[:, 0]) < 1e-4)
    assert np.diff(down) == pytest.approx(2.0, abs=1e-4)


def test_the_grid_is_drawn_in_the_coordinates_of_the_cut_out() -> None:
    sight = look(cine(), 0)
    numbers = re.search(r'class="grid"[^>]* d="([^"]*)"', grid_svg(sight, at_rest(), ""))
    assert numbers is not None
    points = np.array([[float(v) for v in p.split()] for p in re.split("[ML]+", numbers[1]) if p])
    height, width = sight.size_mm
    assert points.min() > 0
    assert (points[:, 0].max(), points[:, 1].max()) == pytest.approx((width, height), abs=1.3)


# The Jacobian map


def test_what_shrank_is_blue_what_grew_is_red_and_what_folds_is_black() -> None:
    rest, shrank, grew, folds = jacobian_colours(np.array([[1.0, 1.6, 0.6, -0.2]], np.float32))[0].astype(int)
    assert rest.min() > 235
    assert shrank[2] > shrank[0] + 60
    assert grew[0] > grew[2] + 60
    assert folds.tolist() == [0, 0, 0]


def test_half_and_twice_the_size_are_equally_far_from_white_and_end_the_scale() -> None:
    twice, more, half, less = jacobian_colours(np.array([[0.5, 0.1, 2.0, 10.0]], np.float32))[0]
    assert (twice == more).all()
    assert (half == less).all()
    assert (twice.tolist(), half.tolist()) == ([103, 0, 31], [5, 48, 97])  # the ends of RdBu, ColorBrewer 2


def test_the_map_shows_the_cut_out_of_its_slice() -> None:
    sight = look(cine(), 0)
    motion = at_rest()
    motion.jacobian[24, 28] = 4.0
    pixels = pixels_of(jacobian_svg(sight, motion, ""))
    assert pixels.shape[:2] == sight.shades.shape[1:]
    blue = np.argwhere(pixels[..., 2].astype(int) > pixels[..., 0].astype(int) + 60)
    assert blue.tolist() == [[24 - sight.window.y0, 28 - sight.window.x0]]


# The strip as a file


@pytest.mark.slow
def test_the_picture_frames_what_somebody_drew() -> None:
    sight = look(cine(), 0)
    names = [f"frame {t}" for t in range(4)]
    accent = np.array([0x1F, 0x5F, 0x99])
    shares = []
    for drawn in ([], [0], [0, 2]):
        data = strip_png(sight, range(4), names, drawn, at_rest())
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
        shares.append((np.abs(pixels - accent).max(axis=-1) < 30).mean())
    assert shares[0] * 10 < shares[1] < shares[2]
    assert strip_png(sight, range(4), names, [0, 2], at_rest()) == data


# The page


def page_of(tmp_path: Path, scans: list[ScanMotion], failures: tuple[str, ...] = ()) -> str:
    figures = {scan.row.scan: f"figures/{scan.row.scan}.png" for scan in scans}
    page = MotionPage(scans, failures, [("Run", "a & b")], "crossbeat check out/cohort.csv", figures)
    return write_motion_page(tmp_path / "p.html", page).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_shows_every_scan_and_loads_nothing(tmp_path: Path) -> None:
    text = page_of(tmp_path, [view(), view("t<b>", n=1)], ("scan 'u': has one frame",))
    assert "in 2 frames of 2 scans were carried to their 8 other frames" in text
    assert text.count('<article class="case">') == 2
    assert "t&lt;b&gt;" in text
    assert "<b>" not in text
    assert "scan &#39;u&#39;: has one frame" in text
    assert "a &amp; b" in text
    assert not re.findall(r'(?:src|href)="(?:https?:)?//[^"]*"', text)
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


@pytest.mark.slow
def test_a_scans_numbers_are_those_of_its_carried_frames() -> None:
    scan = view(lines=lines_of(drawn=(0, 4)))
    assert scan.drawn == "0 (ED), 4"
    assert scan.weakest is not None
    assert (scan.weakest.frame, scan.weakest.confidence) == (3, pytest.approx(0.75))
    assert scan.mean_confidence == pytest.approx((0.85 + 0.8 + 0.75) / 3)
    assert scan.volumes == (100.0, 60.0)
    assert [tile.drawn for tile in scan.tiles] == [True, False, False, False, True, False, False]
    assert [tile.name for tile in scan.tiles[:5]] == ["0 ED", "1", "2", "3 ES", "4"]
    assert "confidence 0.75" in scan.tiles[3].note


@pytest.mark.slow
def test_where_every_frame_was_drawn_nothing_is_doubted_and_without_volumes_no_curve_is_drawn() -> None:
    assert len(view().charts) == 2
    assert len(view(lines=lines_of(lv_ml=math.nan)).charts) == 1
    drawn = view(lines=lines_of(drawn=tuple(range(FRAMES))))
    assert (len(drawn.charts), drawn.weakest) == (1, None)
    assert math.isnan(drawn.mean_confidence)


@pytest.mark.slow
def test_a_heart_beyond_the_window_stands_in_the_chart_of_what_confidence_is_the_least_of() -> None:
    assert "coverage" not in view().charts[1]
    assert "coverage" in view(lines=lines_of(coverage=0.6)).charts[1]


@pytest.mark.slow
def test_what_was_not_drawn_is_said() -> None:
    case = cine()
    assert case.labels is not None
    labels = case.labels.copy()
    labels[:, 2] = UNKNOWN
    said = view(case=replace(case, labels=labels)).sentence
    assert (
        said
        == "Slice 1 of 3, counted from 0. Nobody looked at 1 slice: nothing was carried there. Not drawn: RV."
    )
    assert view(case=cine(slices=1)).sentence == "One slice: no volumes. Not drawn: RV."


@pytest.mark.slow
def test_of_many_scans_those_to_be_doubted_have_their_pictures_in_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(motion_page, "MOST_SCANS", 2)
    scans = [view(f"scan{i}", lines_of(confidence=c), n=i) for i, c in enumerate((0.9, 0.3, 0.8, 0.2))]
    text = page_of(tmp_path, scans)
    assert re.findall(r"<h3>(scan\d)", text) == ["scan3", "scan1"]
    assert "The 2 of 4 scans with the least confidence" in text
    assert all(f'<th scope="row">scan{i}</th>' in text for i in range(4))


@pytest.mark.slow
def test_nominal_millilitres_are_marked(tmp_path: Path) -> None:
    scan = view()
    marked = replace(scan, row=replace(scan.row, spacing_source="nominal"))
    assert "†" in page_of(tmp_path, [marked])
    assert "†" not in page_of(tmp_path, [scan])
