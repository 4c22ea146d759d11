"""Dice and Jaccard against counting on paper, their laws, and MONAI."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays
from jaxtyping import config

from crossbeat.metrics import dice, jaccard, status

masks = arrays.arrays(bool, (2, 4, 3))


def half_covered() -> tuple[np.ndarray, np.ndarray]:
    predicted, reference = np.zeros((2, 6, 6), bool), np.zeros((2, 6, 6), bool)
    predicted[:, :4, :3] = True  # 24 voxels
    reference[:, 2:, :2] = True  # 16 voxels, of which 2 x 2 x 2 = 8 are shared
    return predicted, reference


def test_dice_and_jaccard_count_shared_voxels() -> None:
    predicted, reference = half_covered()
    assert dice(predicted, reference) == 2 * 8 / (24 + 16)
    assert jaccard(predicted, reference) == 8 / (24 + 16 - 8)


def test_two_empty_masks_are_undefined_and_one_empty_mask_is_a_miss() -> None:
    empty, full = np.zeros((3, 3), bool), np.ones((3, 3), bool)
    assert np.isnan(dice(empty, empty))
    assert np.isnan(jaccard(empty, empty))
    assert dice(empty, full) == dice(full, empty) == jaccard(empty, full) == jaccard(full, empty) == 0.0
    assert status(empty, empty) == "undefined"
    assert status(empty, full) == status(full, empty) == "missed"
    assert status(full, full) == "ok"


def test_disjoint_masks_are_compared_and_score_nothing() -> None:
    left, right = np.eye(2, dtype=bool), ~np.eye(2, dtype=bool)
    assert status(left, right) == "ok"
    assert dice(left, right) == jaccard(left, right) == 0.0


@given(masks, masks)
def test_overlap_is_symmetric_bounded_and_jaccard_follows_from_dice(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_equal(dice(a, b), dice(b, a))
    np.testing.assert_equal(jaccard(a, b), jaccard(b, a))
    if a.any() or b.any():
        assert 0 <= jaccard(a, b) <= dice(a, b) <= 1
        assert jaccard(a, b) == pytest.approx(dice(a, b) / (2 - dice(a, b)))


@given(masks)
def test_a_mask_overlaps_itself_entirely(a: np.ndarray) -> None:
    np.testing.assert_equal(dice(a, a), 1.0 if a.any() else np.nan)


@pytest.mark.parametrize("seed", range(5))
def test_dice_agrees_with_monai(seed: int) -> None:
    import torch
    from monai.metrics.meandice import compute_dice

    rng = np.random.default_rng(seed)
    a, b = rng.random((2, 3, 5, 4)) < 0.4
    theirs = compute_dice(torch.from_numpy(a)[None, None].float(), torch.from_numpy(b)[None, None].float())
    assert dice(a, b) == pytest.approx(float(theirs), abs=1e-6)


def test_label_maps_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # the test hook would refuse them first
    labels = np.ones((2, 2), np.uint8)
    with pytest.raises(TypeError, match="boolean masks, got uint8"):
        dice(labels, labels)  # type: ignore[arg-type]


def test_masks_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"differ in shape: predicted \(2, 2\), reference \(2, 3\)"):
        jaccard(np.ones((2, 2), bool), np.ones((2, 3), bool))
