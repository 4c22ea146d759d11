"""The arithmetic of scripts in docs/results, on paper: what they print is what the pages say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from crossbeat.labels import UNKNOWN, Structure
from crossbeat.study.plan import Study

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, RESULTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sunnybrook() -> ModuleType:
    return script("sunnybrook_propagation")


def test_sunnybrook_is_scored_in_slices_that_both_have(sunnybrook: ModuleType) -> None:
    """Carried to slices 0, 1 and 3; the LV was drawn in 0, 1 and 2, so 0 and 1 count: 2 (2 + 0) / (3 + 6)."""
    carried = np.zeros((4, 3, 3), np.uint8)
    carried[2] = UNKNOWN
    carried[0, 0] = carried[3] = Structure.LV
    expert = np.zeros((4, 3, 3), np.uint8)
    expert[0, 0, :2] = expert[0, 1, :2] = expert[1, 0, :2] = expert[2] = Structure.LV
    assert sunnybrook.carried_slices(carried) == [0, 1, 3]
    assert sunnybrook.scored_slices(carried, expert) == [0, 1]
    assert sunnybrook.lv_dice(carried, expert) == pytest.approx(4 / 9)


def test_sunnybrook_sums_what_a_volume_goes_the_wrong_way(sunnybrook: ModuleType) -> None:
    """It rises by 5 before the least, falls by 7 after it, and by 4 from the last frame to the first."""
    assert sunnybrook.wrong_way(np.array([100.0, 80, 85, 60, 70, 63, 104])) == pytest.approx(5 + 7 + 4)
    assert sunnybrook.wrong_way(np.array([100.0, 80, 60, 70, 95])) == 0


def test_acdc_baselines_are_chosen_by_patients_whom_the_fold_does_not_test() -> None:
    """The first is best in fold 0, the second in the others: 0.6 to 0.5 without fold 0, 0.433 to 0.633 with it."""
    pytest.importorskip("SimpleITK")
    dice = {0: (0.9, 0.1)} | dict.fromkeys((1, 2, 3), (0.5, 0.6))
    lines = [
        {"fold": fold, "side": side, "candidate": candidate, "dice": dice[fold][candidate ^ turned]}
        for turned, side in enumerate(("demons", "B-spline"))
        for fold in range(4)
        for candidate in (0, 1)
    ]
    assert script("acdc_registration").choices(lines) == {"demons": (1, 0, 0, 0), "B-spline": (0, 1, 1, 1)}


def test_acdc_baselines_have_the_settings_that_the_kept_tuning_found_best() -> None:
    pytest.importorskip("SimpleITK")
    acdc = script("acdc_registration")
    kept = pd.read_csv(RESULTS / "acdc_registration_tuning.csv").to_dict("records")
    assert acdc.choices(kept) == acdc.CHOSEN
    assert {(line["side"], line["candidate"]) for line in kept} == {
        (side, number) for side, tried in acdc.CANDIDATES.items() for number in range(len(tried))
    }


@pytest.fixture
def rain_adaconv(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RESULTS))
    return script("rain_adaconv")


def test_rain_adaconv_averages_seeds_before_patients_and_leaves_a_dash_where_an_arm_is_to_come(
    rain_adaconv: ModuleType,
) -> None:
    """LV of patient a 0.5 and 0.7 by two seeds, of b 0.8 by one: 0.6 and 0.8, so 0.7; distances are by their unit."""
    lines = [
        ("rain_1_n1", seed, subject, level, structure, metric, unit, value)
        for structure, more in (("LV", 0.0), ("MYO", 0.1), ("RV", 0.0), ("mean", 0.03))
        for metric, unit, times in (("dice", "", 1), ("hd", "voxel", 10), ("hd", "mm", 20))
        for seed, subject, level, dice in (
            (0, "a", "", 0.5),
            (1, "a", "", 0.7),
            (0, "b", "", 0.8),
            (0, "b", "apex", 0.0),
        )
        for value in (times * (dice + more),)
    ]
    columns = ("arm", "seed", "subject", "level", "structure", "metric", "unit", "value")
    scores = pd.DataFrame(lines, columns=columns)
    assert rain_adaconv.by_ascents(scores)[2:4] == [
        "| as many updates | 1 | 0.700 | 0.800 | 0.700 | 0.730 |",
        "| as many updates | 3 | – | – | – | – |",
    ]
    as_setting_0 = scores.assign(arm="setting_0")
    assert rain_adaconv.by_setting(as_setting_0)[2:] == [
        "| RAIN | 0.730 | – | – | – |",
        "| AdaConv | 0.730 | – | – | – |",
    ]
    told = rain_adaconv.by_network(as_setting_0)
    assert "| DR-UNet | none | hd voxel | 7.0 | 8.0 | 7.0 | 7.3 |" in told
    assert "| DR-UNet | none | hd mm | 14.0 | 16.0 | 14.0 | 14.6 |" in told


def test_rain_adaconv_asks_of_arms_that_the_study_has(rain_adaconv: ModuleType) -> None:
    """Two arms at most are updated less often than the others, for the table that counts as the paper does."""
    study = Study.load(RESULTS.parents[1] / "studies" / "rain_adaconv.yaml")
    asked = {arm for pair in rain_adaconv.PAIRS for arm in pair}
    for table in (rain_adaconv.TABLE_1, rain_adaconv.TABLE_2, rain_adaconv.TABLE_3):
        asked |= {arm for arms in table.values() for arm in arms}
    assert asked <= set(study.arms)
    updates = {name: study.recipe(name).segmenter_updates for name in study.arms}
    assert {name: n for name, n in updates.items() if n != 500} == {
        "rain_1_n1_100_batches": 100,
        "rain_1_n3_100_batches": 300,
    }
    assert updates["rain_1_n5"] == 5 * 100
