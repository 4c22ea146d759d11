"""The picture of propagation's page: the first scan unless another is named, drawn frames told from carried ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import pytest

from crossbeat.cohort import Cohort, Row, write_cohort
from crossbeat.errors import RunError


@pytest.fixture(scope="module")
def figure(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("figures/make_propagation_figure")


@pytest.fixture
def carried(tmp_path: Path) -> Path:
    """Two scans of three frames: labels drawn in frames 0 and 2 and carried to 1, whose agreement is the least."""
    rows = [Row(f"s{i}", f"s{i}_bssfp", "bssfp", "-", labels="-", ed_frame=0, es_frame=2) for i in (7, 3)]
    write_cohort(Cohort(tuple(rows), folder=tmp_path), tmp_path / "cohort.csv")
    lines = ["scan,frame,time_ms,source,agreement,similarity,regularity,confidence,lv_ml"]
    for row in rows:
        lines += [
            f"{row.scan},2,60,2,,,,1,50",
            f"{row.scan},0,0,0,,,,1,150",
            f"{row.scan},1,30,0;2,0.7,0.9,1,0.7,90",
        ]
    (tmp_path / "confidence.csv").write_text("\n".join(lines))
    return tmp_path


def test_the_first_scan_is_shown_unless_another_is_named_and_an_unknown_one_is_refused(
    figure: ModuleType, carried: Path
) -> None:
    row, lines = figure.chosen(carried, "")
    assert (row.scan, lines["frame"].tolist()) == ("s7_bssfp", [0, 1, 2])
    assert figure.chosen(carried, "s3_bssfp")[0].scan == "s3_bssfp"
    with pytest.raises(RunError, match="holds no labels carried through scan 'heart'"):
        figure.chosen(carried, "heart")


def test_the_volume_is_of_all_frames_and_the_confidence_of_carried_ones(
    figure: ModuleType, carried: Path
) -> None:
    row, lines = figure.chosen(carried, "")
    drawn, (volume, confidence) = plt.subplots(1, 2)
    figure.draw_volume(volume, row, lines)
    figure.draw_confidence(confidence, lines)
    curve, rings = volume.get_lines()
    assert (list(curve.get_xdata()), list(curve.get_ydata())) == ([0, 30, 60], [150, 90, 50])
    assert list(rings.get_xdata()) == [0, 60]
    assert [text.get_text() for text in volume.texts] == ["ED, drawn", "ES, drawn"]
    points = {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in confidence.get_lines()
    }
    assert points["agreement"] == points["confidence: the least"] == ([30], [0.7])
    plt.close(drawn)
