"""Pictures and numbers of stylised scans: which voxels count, which lines are drawn, what a table's means are of."""

from __future__ import annotations

import base64
import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossbeat.cohort import Row
from crossbeat.labels import UNKNOWN, Structure
from crossbeat.report.motion_page import Tile
from crossbeat.report.style_page import (
    DICE,
    EDGES,
    Pictures,
    ScanStyles,
    StructureLine,
    StyleLine,
    StylePage,
    name_stylizer,
    write_style_page,
)
from crossbeat.report.styles import Cut, Spread, histogram_chart, join_spreads, region_masks, slice_svg
from crossbeat.report.svg import COLOURS
from crossbeat.statistics.histograms import divergence_nats

LV, MYO, RV, SCAR = Structure.LV, Structure.MYO, Structure.RV, Structure.SCAR


def cut(labels: bool = True) -> Cut:
    """A slice of 4 x 6 pixels of 2 x 1 mm, dark on the left and bright on the right, an LV in the middle."""
    image = np.zeros((4, 6), np.float32)
    image[:, 3:] = 1.0
    image[0, 0] = 0.5
    drawn = np.zeros((4, 6), np.uint8)
    drawn[1:3, 2:4] = LV
    return Cut(image, (2.0, 1.0), drawn if labels else None)


def spread(region: str = "heart", **changed: Any) -> Spread:
    counts = {"content": [4, 0], "style": [0, 2], "stylised": [1, 3]} | changed
    return Spread(region, *(np.array(counts[part]) for part in ("content", "style", "stylised")))


def check(subject: str, stylised: float, content: float = 0.9, **other: str) -> StructureLine:
    told = {"stylizer": "rain", "structure": "LV", "metric": DICE} | other
    return StructureLine(
        f"{subject}_rain", subject, subject, told["stylizer"], "judge", "0", "ED", told["structure"], told["metric"],
        content, stylised,
    )  # fmt: skip


def page(**changed: Any) -> StylePage:
    line = StyleLine("a_rain", "a", "a", "rain", "run", "l1", 0, 2, "centre", 0.5, *[math.nan] * 4, 0.1, 0.2)
    given: dict[str, Any] = {
        "lines": [line],
        "structures": [],
        "spreads": {"rain": [spread("myocardium"), spread("heart"), spread("crop")]},
        "shown": [],
        "scans": 1,
        "styles": "the style of x.nii.gz",
        "names": {"rain": "RAIN"},
        "failures": [],
        "warnings": [],
        "provenance": [],
        "next_command": "crossbeat check out/cohort.csv",
    }
    return StylePage(**given | changed)


# --- voxels ------------------------------------------------------------------------------------------


def test_scar_is_myocardium_what_nobody_saw_is_no_heart_and_what_the_scan_does_not_cover_does_not_count() -> (
    None
):
    labels = np.array([[[LV, MYO, SCAR], [RV, UNKNOWN, 0]]], np.uint8)
    covered = np.array([[True, True, True], [False, True, True]])
    masks = region_masks(labels, covered)
    assert masks["myocardium"].tolist() == [[[False, True, True], [False, False, False]]]
    assert masks["heart"].tolist() == [[[True, True, True], [False, False, False]]]
    assert masks["crop"].tolist() == [covered.tolist()]


def test_scans_are_pooled_voxel_by_voxel() -> None:
    found = join_spreads([spread(), spread(content=[0, 6], style=[1, 1])])
    assert (found.content.tolist(), found.style.tolist(), found.stylised.tolist()) == ([4, 6], [1, 3], [2, 6])
    with pytest.raises(ValueError, match="several regions"):
        join_spreads([spread(), spread("crop")])


def test_divergences_are_of_the_stylised_from_the_two_others() -> None:
    """(1, 3) with one more each is 2/6, 4/6; the content (4, 0) is 5/6, 1/6, the style (0, 2) 1/4, 3/4."""
    found = spread()
    content = 2 / 6 * math.log(2 / 5) + 4 / 6 * math.log(4 / 1)
    style = 2 / 6 * math.log((2 / 6) / (1 / 4)) + 4 / 6 * math.log((4 / 6) / (3 / 4))
    assert (found.from_content, found.from_style) == pytest.approx((content, style))
    assert found.from_content != divergence_nats(found.content, found.stylised)
    assert math.isnan(spread(style=[0, 0]).from_style)


# --- pictures ----------------------------------------------------------------------------------------


def test_greys_are_those_of_the_scale_and_not_stretched() -> None:
    found = re.search(r"base64,([^\"]+)", slice_svg(cut(), ""))
    assert found is not None
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))))
    assert pixels[0].tolist() == [128, 0, 0, 255, 255, 255]


def test_labels_are_drawn_in_mm_where_they_are_asked_for() -> None:
    """The LV covers rows 1 and 2 of 2 mm and columns 2 and 3 of 1 mm: from (2, 2) to (4, 6) mm, its corners cut."""
    assert "<path" not in slice_svg(cut(), "")
    assert "<path" not in slice_svg(cut(labels=False), "", drawn=True)
    svg = slice_svg(cut(), "a <b>", drawn=True)
    (path,) = re.findall(r'<path class="predicted" stroke="([^"]+)" d="([^"]+)"', svg)
    assert path[0] == COLOURS["LV"]
    points = np.array([tuple(map(float, p.split())) for p in re.split("[MLZ]", path[1]) if p])
    assert (points.min(axis=0).tolist(), points.max(axis=0).tolist()) == ([2.0, 2.0], [4.0, 6.0])
    assert 'viewBox="0 0 6.0 8.0"' in svg
    assert 'aria-label="a &lt;b&gt;"' in svg


def test_a_prediction_is_coloured_and_what_was_drawn_is_dashed() -> None:
    predicted = np.zeros((4, 6), np.uint8)
    predicted[0:2, 0:2] = RV
    svg = slice_svg(cut(), "", predicted=predicted)
    assert re.findall(r'class="(\w+)"(?: stroke="([^"]+)")? d', svg) == [
        ("predicted", COLOURS["RV"]),
        ("reference", ""),
    ]
    assert 'class="reference"' not in slice_svg(cut(labels=False), "", predicted=predicted)
    unseen = Cut(cut().image, (2.0, 1.0), np.full((4, 6), UNKNOWN, np.uint8))
    assert "<path" not in slice_svg(unseen, "", drawn=True)


def test_a_style_without_labels_has_no_line_in_the_chart_and_a_content_without_labels_no_chart() -> None:
    names = {"content": "content", "style": "style", "stylised": "RAIN"}
    whole = histogram_chart("a", "Heart, RAIN", spread(), names)
    assert "divergence from style" in whole
    assert all(f">{name}<" in whole for name in names.values())
    without = histogram_chart("a", "Heart, RAIN", spread(style=[0, 0]), names)
    assert ">style<" not in without
    assert "divergence" not in without
    assert histogram_chart("a", "Heart, RAIN", spread(content=[0, 0]), names) == ""


# --- the page ----------------------------------------------------------------------------------------


def test_means_are_over_patients_and_of_those_alone_who_have_both_numbers() -> None:
    """Patient a has two scans, 0.8 and 0.6: 0.7. With b's 0.5 the mean is 0.6, not 0.633; c has no number after."""
    lines = [
        check("a", 0.8),
        check("a", 0.6),
        check("b", 0.5, 0.7),
        check("c", math.nan),
        check("d", 0.1, math.nan),
    ]
    (found,) = page(structures=lines).checks
    assert (found.stylizer, found.structure, found.patients) == ("RAIN", "LV", 2)
    assert found.content == pytest.approx((0.8, math.sqrt(0.02)))
    assert found.stylised == pytest.approx((0.6, math.sqrt(0.02)))
    assert found.difference[0] == pytest.approx(-0.2)


def test_structures_stand_in_their_order_by_stylizer_and_edges_apart() -> None:
    lines = [
        check("a", 0.5, structure=structure, stylizer=stylizer)
        for stylizer in ("adaconv", "rain")
        for structure in ("mean", "RV", "LV")
    ]
    lines.append(check("a", 0.4, 1.0, structure="", metric=EDGES))
    found = page(structures=lines, names={"rain": "RAIN", "adaconv": "AdaConv"})
    assert [(x.stylizer, x.structure) for x in found.checks] == [
        (name, structure) for name in ("RAIN", "AdaConv") for structure in ("LV", "RV", "mean")
    ]
    assert [(x.stylizer, x.stylised[0]) for x in found.edges] == [("RAIN", 0.4)]


def test_the_crops_histogram_is_shown_only_where_nobody_drew_a_heart() -> None:
    assert len(page().charts) == 2
    empty = {"content": [0, 0], "stylised": [0, 0]}
    bare = page(spreads={"rain": [spread("myocardium", **empty), spread("heart", **empty), spread("crop")]})
    assert ["Crop, RAIN" in chart for chart in bare.charts] == [True]
    assert [s.region for _, s in bare.divergences] == ["crop"]


def test_the_second_stylizer_of_a_kind_has_a_name_of_its_own() -> None:
    assert [name_stylizer(name) for name in ("rain", "adaconv", "rain-2")] == ["RAIN", "AdaConv", "RAIN 2"]


def test_what_comes_from_outside_is_escaped_and_nothing_is_loaded(tmp_path: Path) -> None:
    view = ScanStyles(
        Row("s", "<i>scan", "bssfp", "-"),
        "Slice <1>.",
        [Pictures("As they are.", "", [Tile("<svg></svg>", "<u>", "n"), Tile("", "Style", "")])],
        [],
    )
    given = {
        "failures": ["scan '<b>': broken"],
        "styles": "the style of <x>",
        "provenance": [("Run", "<run>")],
        "warnings": [("<Bold>", "and on")],
    }
    text = write_style_page(tmp_path / "page.html", page(shown=[view], scans=2, **given)).read_text(
        encoding="utf-8"
    )
    for raw in ("<i>scan", "<1>", "<u>", "<b>", "<x>", "<run>", "<Bold>"):
        assert raw not in text
    assert "nothing drawn" in text
    assert "The first 1 of 2 scans" in text
    assert "1 scan could not be restyled" in text
    assert not re.search(r'(?:src|href)="(?!#|data:)', text)
    assert "No Dice: it needs scans with labels" in text
    assert "<td>0.500</td>" in text
