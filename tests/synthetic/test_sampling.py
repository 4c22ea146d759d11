"""Partial volume: exact cases on paper, and the full count as the slow second way."""

from __future__ import annotations

import numpy as np
import pytest

from crossbeat.synthetic import Heart
from crossbeat.synthetic.anatomy import LABEL_OF_TISSUE
from crossbeat.synthetic.sampling import Mixture, Slice, mix, mix_around
from crossbeat.synthetic.tissue import Tissue


def _cut(shape: tuple[int, int] = (6, 8), pixel: float = 1.5, thickness: float = 8.0) -> Slice:
    """Axis-aligned: x to the right, y down the rows, z across."""
    return Slice(
        np.zeros(3), np.array([pixel, 0, 0]), np.array([0, pixel, 0]), np.array([0.0, 0, 1]), shape, thickness
    )


def _heart_cut(heart: Heart, share: float, pixel: float, thickness: float, n: int = 120) -> Slice:
    right, down = -heart.axes_matrix[0] * pixel, heart.axes_matrix[1] * pixel
    middle = heart.heart_to_mm(np.array([8.0, 0, share * heart.shape.length_mm]))
    return Slice(middle - (right + down) * (n - 1) / 2, right, down, -heart.axes_matrix[2], (n, n), thickness)


def _count_everywhere(heart: Heart, cut: Slice, phase: float) -> np.ndarray:
    """Shares (tissue, y, x) from 8 x 8 samples of every voxel, four times as many across: the slow, obvious way."""
    offsets, deep = (np.arange(8) + 0.5) / 8 - 0.5, 4 * cut.depths_mm.size
    depths = ((np.arange(deep) + 0.5) / deep - 0.5) * cut.thickness_mm
    rows = (np.arange(cut.shape[0])[:, None] + offsets).ravel()[:, None]
    columns = (np.arange(cut.shape[1])[:, None] + offsets).ravel()[None, :]
    shares = np.zeros((len(Tissue), *cut.shape), np.float32)
    for depth in depths.tolist():
        kinds = heart.tissue_at(*cut.points_mm(rows, columns, depth), phase)
        blocks = kinds.reshape(cut.shape[0], 8, cut.shape[1], 8)
        for tissue in np.unique(kinds):
            shares[tissue] += (blocks == tissue).mean(axis=(1, 3)) / deep
    return shares


def test_an_edge_through_a_voxel_shares_it() -> None:
    # water right of x = 4.125 = 2.75 pixels: of pixel 3 (2.5 to 3.5) three quarters are water
    def classify(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.where(np.broadcast_arrays(x, y, z)[0] > 4.125, Tissue.FLUID, Tissue.AIR).astype(np.uint8)

    water = mix(classify, _cut(), slice(0, 6), slice(0, 8)).fractions()[Tissue.FLUID]
    np.testing.assert_allclose(water, np.tile([0, 0, 0, 0.75, 1, 1, 1, 1], (6, 1)))


def test_a_slanted_surface_is_averaged_through_the_slice() -> None:
    # water above z = 1 in a slice from -4 to 4 with four samples at -3, -1, 1, 3: only z = 3 lies above
    def classify(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.where(np.broadcast_arrays(x, y, z)[2] > 1.5, Tissue.FLUID, Tissue.FAT).astype(np.uint8)

    cut = _cut()
    np.testing.assert_allclose(cut.depths_mm, [-3, -1, 1, 3])
    fractions = mix(classify, cut, slice(0, 6), slice(0, 8)).fractions()
    np.testing.assert_allclose(fractions[Tissue.FLUID], 0.25)
    np.testing.assert_allclose(fractions[Tissue.FAT], 0.75)


def test_the_label_is_what_most_of_the_voxel_has() -> None:
    shares = np.zeros((2, len(Tissue)), np.float32)
    shares[0, [Tissue.LV_BLOOD, Tissue.PAPILLARY, Tissue.MYOCARDIUM]] = 0.3, 0.25, 0.45  # cavity 0.55
    shares[1, [Tissue.FAT, Tissue.LUNG, Tissue.MYOCARDIUM]] = 0.3, 0.3, 0.4  # background 0.6
    mixture = Mixture(np.full((1, 3), Tissue.RV_BLOOD, np.uint8), np.array([0, 2]), shares)
    np.testing.assert_array_equal(mixture.labels(LABEL_OF_TISSUE), [[1, 3, 0]])


def test_signal_mixes_linearly_with_its_sign() -> None:
    shares = np.zeros((1, len(Tissue)), np.float32)
    shares[0, [Tissue.FAT, Tissue.MUSCLE]] = 0.25, 0.75
    mixture = Mixture(np.full((1, 2), Tissue.FAT, np.uint8), np.array([1]), shares)
    table = np.zeros(len(Tissue), np.float32)
    table[[Tissue.FAT, Tissue.MUSCLE]] = -3.0, 1.0
    np.testing.assert_allclose(mixture.signal(table), [[-3.0, 0.0]])  # fat and water cancel
    two = np.stack([table, 2 * table], axis=1)
    np.testing.assert_allclose(mixture.signal_by(two, np.array([[0, 1]])), [[-3.0, 0.0]])
    np.testing.assert_allclose(mixture.signal_by(two, np.array([[1, 1]])), [[-6.0, 0.0]])


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.15, 0.5, 0.85])
def test_few_samples_are_close_to_eight_times_as_many(share: float) -> None:
    """RMS over the mixed voxels: below 0.08 for every tissue in the picture, below 0.04 for cavities and wall.

    On paper a sheet that lies in the slice is off by 1/4 / √12 = 0.072, with four samples across.
    """
    heart = Heart.draw(np.random.default_rng(1), "MINF")
    cut = _heart_cut(heart, share, 1.25, 8.0, 64)

    def classify(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return heart.tissue_at(x, y, z, 0.2)

    mixture = mix(classify, cut, slice(0, 64), slice(0, 64))
    quick, fine = mixture.fractions(), _count_everywhere(heart, cut, 0.2)
    checked = []
    for tissue in Tissue:
        shared = (fine[tissue] > 0) & (fine[tissue] < 1)
        if shared.sum() < 20:  # too few voxels for a mean
            continue
        checked.append(tissue)
        error = (quick - fine)[tissue]
        assert np.sqrt((error[shared] ** 2).mean()) < 0.08, tissue.name
        if tissue in (Tissue.LV_BLOOD, Tissue.MYOCARDIUM, Tissue.RV_BLOOD):
            assert np.sqrt((error[shared] ** 2).mean()) < 0.04, tissue.name
            assert abs(error.sum()) < 0.01 * fine[tissue].sum() + 0.5, tissue.name
    assert {Tissue.LV_BLOOD, Tissue.MYOCARDIUM, Tissue.RV_BLOOD, Tissue.RV_WALL, Tissue.FAT} <= set(checked)
    slow = Mixture(mixture.tissue, np.arange(64 * 64), fine.reshape(len(Tissue), -1).T)
    agree = mixture.labels(LABEL_OF_TISSUE) == slow.labels(LABEL_OF_TISSUE)
    assert agree.mean() > 0.985


def test_a_slice_in_parts_is_the_slice_in_one() -> None:
    heart = Heart.draw(np.random.default_rng(1), "NOR")
    cut = _heart_cut(heart, 0.5, 2.0, 8.0, 100)

    def classify(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return heart.tissue_at(x, y, z, 0.0)

    window = slice(20, 70), slice(31, 90)
    whole = mix(classify, cut, slice(0, 100), slice(0, 100))
    parts = mix_around(classify, cut, *window).with_window(*window, mix(classify, cut, *window))
    np.testing.assert_array_equal(whole.fractions(), parts.fractions())


def test_the_window_holds_the_heart() -> None:
    heart = Heart.draw(np.random.default_rng(1), "RV")
    cut = _heart_cut(heart, 0.4, 2.0, 8.0, 160)
    rows, columns = cut.window(heart.bounds_mm())
    tissue = heart.heart_tissue_at(*cut.centres_mm(), 0.0)
    outside = np.ones(cut.shape, bool)
    outside[rows, columns] = False
    assert (tissue[outside] == 255).all()
    assert (tissue != 255).any()
