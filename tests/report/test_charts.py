"""Charts state the numbers that they were given: quartiles of true values, ties in grey, axes that do not lie."""

from __future__ import annotations

import re
from functools import partial
from typing import Any, Literal

import numpy as np
import pytest

from crossbeat.report import ArmView, charts, study_charts
from crossbeat.report.charts import Box, axis_end, box_chart
from crossbeat.report.study_charts import HIGHER, LOWER, arm_boxes, gap_chart, league_chart, paired_chart
from crossbeat.report.study_tables import Standing
from crossbeat.report.wording import number


def arm(name: str, bound: Literal["lower", "upper", ""] = "") -> ArmView:
    """An arm of which a chart asks no more than its name and whether it is a bound."""
    return ArmView(
        name, "supervised", "", bound, {}, cells=1, finished=1, problems=(), wall_seconds=1.0, peak_memory_mb=1.0,
        updates=1, curves={}, read_prediction=None,
    )  # fmt: skip


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The axes of every chart, as matplotlib holds them when it is finished."""
    found: list[Any] = []

    def keep(figure: Any, *rest: Any) -> Any:
        found.append(figure.axes[0])
        return chart(figure, *rest)

    chart = charts._chart
    monkeypatch.setattr(charts, "_chart", keep)
    monkeypatch.setattr(study_charts, "_chart", keep)
    return found


def test_a_box_has_the_quartiles_of_its_values_and_only_its_drawing_ends_with_the_axis() -> None:
    box = Box.of(np.array([1.0, 2.0, 3.0, 4.0, 100.0]))
    # quartiles 2 and 4: whiskers reach to the values within 2 - 3 and 4 + 3
    assert box == Box(1.0, 2.0, 3.0, 4.0, 4.0)
    assert box.up_to(3.5) == Box(1.0, 2.0, 3.0, 3.5, 3.5)


def test_an_axis_of_distances_ends_beyond_the_largest_value_without_a_miss() -> None:
    assert axis_end([(10.0, False), (160.0, True)], room=0.1) == pytest.approx(11.0)
    assert axis_end([(150.0, True), (160.0, True)], room=0.1) == 160.0
    assert axis_end([], room=0.1) == 1.0


def test_the_median_of_an_arm_that_missed_most_is_the_true_one(drawn: list[Any]) -> None:
    values = {
        "good": {"p": (8.0, False), "q": (10.0, False), "r": (12.0, False)},
        "bad": {"p": (9.0, False), "q": (150.0, True), "r": (170.0, True)},
    }
    chart = arm_boxes("x", "HD95, mm", [arm("good"), arm("bad")], values, bounded=False)
    assert "good median 10 over 3 patients; bad median 150 over 3 patients" in chart.svg
    assert drawn[0].get_xlim() == pytest.approx((0, 13.2 * 1.01))
    (bar,) = [p for p in drawn[0].patches if p.get_y() > 0.5]
    assert bar.get_x() == pytest.approx(13.2), (
        "its lower quartile is 79.5 mm, beyond the end of the axis at 13.2"
    )


def test_where_every_arm_missed_the_distances_keep_their_scale(drawn: list[Any]) -> None:
    values = {"a": {"p": (150.0, True), "q": (160.0, True)}}
    chart = arm_boxes("x", "HD95, mm", [arm("a")], values, bounded=False)
    assert "a median 155 over 2 patients" in chart.svg
    assert drawn[0].get_xlim()[1] == pytest.approx(161.6)
    assert drawn[0].patches[0].get_x() == pytest.approx(152.5)


def test_the_boxes_of_a_run_keep_their_quartiles_where_values_lie_beyond_the_axis(drawn: list[Any]) -> None:
    points = [("p", 8.0, False), ("q", 10.0, False), ("r", 20.0, True), ("s", 30.0, True)]
    chart = box_chart("x", "HD95, mm", {"RV": points}, bounded=False)
    assert "RV median 15 over 4 patients" in chart.svg
    # quartiles 9.5, 15 and 22.5; the axis ends at 11.5. Of clipped values the lower one would be the same
    # but the median 10.75, which nobody measured
    (box,) = drawn[0].patches
    assert sorted({round(float(y), 3) for y in box.get_path().vertices[:, 1] if y}) == [9.5, 11.5]
    assert {float(line.get_ydata()[0]) for line in drawn[0].lines if line.get_color() == charts.INK} == {11.5}


@pytest.mark.slow
def test_a_patient_whom_nothing_changed_is_grey(drawn: list[Any]) -> None:
    pairs = {"p": (0.5, 0.6), "q": (0.6, 0.5), "r": (0.7, 0.7)}
    chart = paired_chart("x", "a", "b", pairs, (0.0, 1.0), partial(number, unit=""))
    assert chart is not None
    assert [line.get_color() for line in drawn[0].lines[:3]] == [HIGHER, LOWER, charts.MUTED]
    assert "1 of 3 higher, mean 0.600 to 0.600" in chart.svg


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_an_axis_of_dice_shows_nothing_below_0_or_above_1_where_all_values_are_equal(
    value: float, drawn: list[Any]
) -> None:
    lines = {name: Standing(arm=name, mean=value, n_patients=1) for name in "ab"}
    chart = league_chart("x", "Dice", [arm("a"), arm("b")], lines, {}, partial(number, unit=""), bounded=True)
    low, high = drawn[0].get_xlim()
    assert 0 <= low <= value <= high <= 1
    assert low < high
    assert f"a: {value:.3f}, 1 patient" in chart.svg


def test_a_share_of_the_gap_is_printed_alike_in_text_and_axis() -> None:
    lines = {"a": Standing(arm="a", gap_closed=-0.204, gap_low=-0.5, gap_high=-0.004)}
    chart = gap_chart("x", "Gap", [arm("low", "lower"), arm("a"), arm("up", "upper")], lines)
    assert chart is not None
    assert "a: −20 % of the gap closed, 95 % interval −50 % to 0 %" in chart.svg
    assert not re.search(r"\d%|-\d+ %|−0 %", re.sub(r"<[^>]*>", "", chart.svg))
