import numpy as np
import pytest

from crossbeat.errors import SettingsError
from crossbeat.labels import (
    CONVENTIONS,
    UNKNOWN,
    Structure,
    convention_from_names,
    find_convention,
    fold_into_myocardium,
    looks_swapped,
    surrounded_fraction,
    translate,
)

LV, MYO, RV = Structure.LV, Structure.MYO, Structure.RV


@pytest.mark.parametrize(
    ("name", "foreign", "ours"),
    [
        ("acdc", [0, 1, 2, 3], [0, RV, MYO, LV]),
        ("mnms", [0, 1, 2, 3], [0, LV, MYO, RV]),
        ("mscmrseg", [0, 200, 500, 600], [0, MYO, LV, RV]),
        ("myops", [0, 200, 500, 600, 1220, 2221], [0, MYO, LV, RV, Structure.EDEMA, Structure.SCAR]),
        ("emidec", [0, 1, 2, 3, 4], [0, LV, MYO, Structure.SCAR, Structure.SCAR]),
        ("scd", [0, 1, 2, 255], [0, LV, MYO, UNKNOWN]),
        ("crossbeat", [0, 1, 2, 3, 4, 5, 255], [0, 1, 2, 3, 4, 5, 255]),
    ],
)
def test_each_convention_says_what_its_dataset_means(name: str, foreign: list[int], ours: list[int]) -> None:
    assert translate(np.array(foreign), CONVENTIONS[name]).tolist() == ours
    assert sorted(CONVENTIONS[name].values) == foreign


def test_whole_numbers_stored_as_floats_are_accepted() -> None:
    assert translate(np.array([[0.0, 500.0]]), CONVENTIONS["mscmrseg"]).tolist() == [[0, LV]]


def test_an_unknown_value_is_refused_with_what_was_expected_and_a_way_out() -> None:
    with pytest.raises(
        ValueError, match=r"7 mean nothing in convention 'acdc', which has 0, 1, 2, 3; choose another"
    ):
        translate(np.array([0, 1, 7]), CONVENTIONS["acdc"])


def test_an_interpolated_label_map_is_recognised() -> None:
    with pytest.raises(ValueError, match="interpolated"):
        translate(np.array([0, 1.5]), CONVENTIONS["acdc"])
    with pytest.raises(ValueError, match="nan mean nothing"):
        translate(np.array([0, np.nan]), CONVENTIONS["acdc"])


def test_a_users_own_convention_is_found_before_ours_and_by_name() -> None:
    mine = convention_from_names("mysite", {10: "lv", 20: "MYO", 99: "unknown"})
    assert translate(np.array([0, 10, 20, 99]), mine).tolist() == [0, LV, MYO, UNKNOWN]
    assert mine.structures == {LV, MYO}
    assert find_convention("mysite", {"mysite": mine}) is mine


def test_misspelt_names_get_a_hint() -> None:
    with pytest.raises(SettingsError, match="did you mean 'acdc'"):
        find_convention("accdc")
    with pytest.raises(SettingsError, match="'myo'"):
        convention_from_names("mysite", {1: "myoo"})


def test_scar_and_oedema_are_myocardium_for_training() -> None:
    labels = np.array([0, 1, 2, 3, 4, 5, 255], np.uint8)
    assert fold_into_myocardium(labels).tolist() == [0, 1, 2, 3, 2, 2, 255]
    assert labels.tolist() == [0, 1, 2, 3, 4, 5, 255]


def short_axis() -> np.ndarray:
    """An LV of 6 x 6 pixels in a wall 2 pixels thick, and an RV of 8 x 3 beside it."""
    slice_ = np.zeros((1, 20, 20), np.uint8)
    slice_[0, 4:14, 8:18] = MYO
    slice_[0, 6:12, 10:16] = LV
    slice_[0, 5:13, 5:8] = RV
    return slice_


def test_myocardium_surrounds_the_lv_and_touches_the_rv_at_the_septum() -> None:
    labels = short_axis()
    assert surrounded_fraction(labels, LV) == 1.0
    assert surrounded_fraction(labels, RV) == pytest.approx(8 / 22)  # 8 of the 2 * (8 + 3) rim pixels
    assert np.isnan(surrounded_fraction(labels, Structure.SCAR))


def test_swapped_lv_and_rv_are_seen() -> None:
    labels = short_axis()
    swapped = np.array([0, RV, MYO, LV], np.uint8)[labels]
    assert not looks_swapped(labels)
    assert looks_swapped(swapped)
    assert not looks_swapped(np.zeros_like(labels))
