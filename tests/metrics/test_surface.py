"""Surface distances against arithmetic, brute force, MONAI and surface-distance, always anisotropic."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from scipy.spatial.distance import cdist

from crossbeat.metrics import (
    SurfaceDistances,
    assd,
    diagonal_mm,
    hausdorff,
    hausdorff95,
    hausdorff95_pooled,
    surface_distances,
)
from crossbeat.metrics import surface as surface_module
from crossbeat.metrics.surface import bounding_box, surface

SPACING = (9.0, 1.3, 1.7)
METRICS = (hausdorff, hausdorff95, hausdorff95_pooled, assd)


def blobs(seed: int, shape: tuple[int, ...] = (7, 30, 26)) -> tuple[np.ndarray, np.ndarray]:
    """Two ragged, partly overlapping masks, some of them touching the border."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(2, *shape)), (0, *(2.0,) * len(shape)))
    return tuple(smooth > 0.6 * smooth.std(axis=tuple(range(1, len(shape) + 1)), keepdims=True))


def brute_force(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of surface voxels of the uncropped masks, the surface found by erosion."""
    points = []
    for mask in (a, b):
        cross = ndimage.generate_binary_structure(mask.ndim, 1)
        edge = mask & ~ndimage.binary_erosion(mask, cross, border_value=0)
        points.append(np.argwhere(edge) * spacing)
    table = cdist(*points)
    return table.min(axis=1), table.min(axis=0)


def one_voxel(z: int, y: int, x: int) -> np.ndarray:
    mask = np.zeros((4, 9, 9), bool)
    mask[z, y, x] = True
    return mask


def test_two_voxels_lie_as_far_apart_as_their_centres() -> None:
    found = surface_distances(one_voxel(0, 1, 2), one_voxel(1, 5, 5), (10.0, 2.0, 3.0))
    expected = np.sqrt(10**2 + (4 * 2) ** 2 + (3 * 3) ** 2)
    assert all(metric(found) == pytest.approx(expected) for metric in METRICS)


def test_a_shifted_square_moves_by_its_shift() -> None:
    """A 6 x 6 square (20 border pixels) moved by two columns of 1.5 mm, arithmetic on paper.

    Of the square's border the left column (6 pixels) lies 3 mm from the other's, of the top and bottom
    rows two more pixels each at columns 1: (1.5 mm, 2 pixels) and at the column that both share: 0. The
    right column's 4 inner pixels lie inside the other square, 1.5 mm off its rows at best or 3 mm off its
    left column: rows one pixel away are 1 mm off, rows two away 2 mm.
    """
    a, b = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    a[5:11, 5:11] = True
    b[5:11, 7:13] = True
    found = surface_distances(a, b, (1.0, 1.5))
    expected = sorted([3.0] * 6 + [1.5] * 2 + [0.0] * 8 + [1.0] * 2 + [2.0] * 2)
    np.testing.assert_allclose(np.sort(found.predicted_to_reference), expected)
    np.testing.assert_allclose(np.sort(found.reference_to_predicted), expected)
    assert hausdorff(found) == 3.0
    assert assd(found) == pytest.approx((18 + 3 + 2 + 4) / 20)


def test_hd95_takes_the_worse_direction_and_the_pooled_one_dilutes_it() -> None:
    """Hundred pixels near and one far: predicted 1 pixel, reference a line of 101 pixels of 2 mm."""
    predicted, reference = np.zeros((3, 101), bool), np.zeros((3, 101), bool)
    predicted[1, 0] = True
    reference[1, :] = True
    found = surface_distances(predicted, reference, (1.0, 2.0))
    assert hausdorff(found) == 200.0
    assert hausdorff95(found) == pytest.approx(190.0)  # rank 95 of 0, 2, …, 200
    assert hausdorff95_pooled(found) == pytest.approx(np.percentile([0, *range(0, 202, 2)], 95))
    assert hausdorff95_pooled(found) < hausdorff95(found)
    assert assd(found) == pytest.approx(sum(range(0, 202, 2)) / 102)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("per_point", [0, 10**9], ids=["tree", "transform"])
def test_both_ways_of_measuring_are_exact_despite_the_crop(
    seed: int, per_point: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surface_module, "_VOXELS_PER_POINT", per_point)
    a, b = blobs(seed)
    found = surface_distances(a, b, SPACING)
    forth, back = brute_force(a, b, SPACING)
    np.testing.assert_allclose(np.sort(found.predicted_to_reference), np.sort(forth), atol=1e-10)
    np.testing.assert_allclose(np.sort(found.reference_to_predicted), np.sort(back), atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_slices_are_measured_in_their_plane(seed: int) -> None:
    a, b = blobs(seed, (40, 33))
    found = surface_distances(a, b, SPACING[1:])
    forth, back = brute_force(a, b, SPACING[1:])
    assert hausdorff95(found) == pytest.approx(max(np.percentile(forth, 95), np.percentile(back, 95)))
    assert assd(found) == pytest.approx(np.concatenate((forth, back)).mean())


@settings(max_examples=60)
@given(
    arrays.arrays(bool, (3, 5, 4)),
    arrays.arrays(bool, (3, 5, 4)),
    st.tuples(*[st.floats(0.5, 12)] * 3),
)
def test_distances_are_symmetric_ordered_and_below_the_diagonal(
    a: np.ndarray, b: np.ndarray, spacing: tuple[float, float, float]
) -> None:
    forth, back = surface_distances(a, b, spacing), surface_distances(b, a, spacing)
    for metric in METRICS:
        np.testing.assert_allclose(metric(forth), metric(back))
    if forth.status == "ok":
        assert 0 <= assd(forth) <= hausdorff(forth) < forth.diagonal
        assert hausdorff95(forth) <= hausdorff(forth)
        assert hausdorff95_pooled(forth) <= hausdorff(forth)


@pytest.mark.slow
@given(arrays.arrays(bool, (3, 5, 4)).filter(np.any))
def test_a_mask_lies_on_itself(a: np.ndarray) -> None:
    assert all(metric(surface_distances(a, a, SPACING)) == 0 for metric in METRICS)


def test_a_spacing_of_ones_measures_in_voxels() -> None:
    assert hausdorff(surface_distances(one_voxel(0, 1, 2), one_voxel(2, 1, 2), (1, 1, 1))) == 2.0


def test_two_empty_masks_are_undefined_and_one_empty_mask_lies_a_diagonal_away() -> None:
    empty, full = np.zeros((4, 9, 9), bool), one_voxel(1, 1, 1)
    diagonal = np.sqrt((4 * 9.0) ** 2 + (9 * 1.3) ** 2 + (9 * 1.7) ** 2)
    assert diagonal_mm((4, 9, 9), SPACING) == pytest.approx(diagonal)
    for metric in METRICS:
        assert np.isnan(metric(surface_distances(empty, empty, SPACING)))
        assert metric(surface_distances(empty, full, SPACING)) == pytest.approx(diagonal)
        assert metric(surface_distances(full, empty, SPACING)) == pytest.approx(diagonal)
    assert surface_distances(empty, empty, SPACING).status == "undefined"
    assert surface_distances(full, empty, SPACING).status == "missed"


def test_masks_cut_out_of_an_image_keep_its_diagonal() -> None:
    small = np.zeros((1, 2, 2), bool)
    found = surface_distances(small, ~small, SPACING, image_shape=(10, 200, 180))
    assert assd(found) == diagonal_mm((10, 200, 180), SPACING)


def test_the_end_slices_of_a_stack_are_surface() -> None:
    stack = np.ones((4, 5, 5), bool)
    edge = surface(stack)
    assert edge[0].all()
    assert edge[3].all()
    assert not edge[1:3, 1:4, 1:4].any()
    assert int(edge[1].sum()) == 16


def test_the_box_of_a_mask_is_tight_and_an_empty_mask_has_none() -> None:
    mask = np.zeros((5, 6, 7), bool)
    assert bounding_box(mask) is None
    mask[1, 2, 6] = mask[3, 4, 0] = True
    assert bounding_box(mask) == (slice(1, 4), slice(2, 5), slice(0, 7))


# MONAI announces that its surface metrics will change their default some day; we pass every argument.
@pytest.mark.filterwarnings("ignore::FutureWarning:monai")
@pytest.mark.parametrize("seed", range(4))
def test_monai_finds_the_same_distances(seed: int) -> None:
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_distance import compute_average_surface_distance

    a, b = blobs(seed)
    pair = [torch.from_numpy(np.stack((~m, m)))[None].float() for m in (a, b)]
    found = surface_distances(a, b, SPACING)
    theirs = [
        compute_hausdorff_distance(*pair, spacing=SPACING),
        compute_hausdorff_distance(*pair, spacing=SPACING, percentile=95),
        compute_average_surface_distance(*pair, spacing=SPACING, symmetric=True),
    ]
    ours = [hausdorff(found), hausdorff95(found), assd(found)]
    np.testing.assert_allclose(ours, [float(t) for t in theirs], rtol=1e-5)


# surface-distance 0.1 calls scipy.ndimage.filters and morphology, and its docstrings hold bare backslashes.
@pytest.mark.filterwarnings("ignore:Please import `:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_surface_distance_differs_by_its_surface_between_voxels_only() -> None:
    """Its surface elements sit on voxel corners, half a voxel off ours: HD agrees within a voxel diagonal."""
    import surface_distance as deepmind

    for seed in range(3):
        a, b = blobs(seed)
        theirs = deepmind.compute_robust_hausdorff(deepmind.compute_surface_distances(a, b, SPACING), 100)
        ours = hausdorff(surface_distances(a, b, SPACING))
        assert abs(ours - theirs) <= diagonal_mm((1, 1, 1), SPACING)


def test_a_spacing_of_the_wrong_length_is_refused() -> None:
    mask = np.ones((2, 2, 2), bool)
    with pytest.raises(ValueError, match="3-D mask needs 3 positive spacings"):
        surface_distances(mask, mask, (1.0, 1.0))
    with pytest.raises(ValueError, match="3-D mask needs 3 positive spacings"):
        surface_distances(mask, mask, (1.0, 1.0, 0.0))


def test_the_record_holds_one_distance_a_surface_voxel() -> None:
    a, b = blobs(1)
    found = surface_distances(a, b, SPACING)
    assert isinstance(found, SurfaceDistances)
    assert found.predicted_to_reference.size == surface(a).sum()
    assert found.reference_to_predicted.size == surface(b).sum()
