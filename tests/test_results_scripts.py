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
