"""The losses of registration: arithmetic on paper, a slow loop, and what no gain, offset or absence may change."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from crossbeat.errors import SettingsError
from crossbeat.losses.registration import (
    TINIEST_VARIANCE,
    local_correlation,
    local_ncc_loss,
    local_variance,
    mean_squared_error,
    overlap_loss,
    smoothness_loss,
)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_correlation(a: np.ndarray, b: np.ndarray, window: tuple[int, ...]) -> np.ndarray:
    """Around each voxel the part of the window inside the image, its two patches, and their clamped moments."""
    found = np.zeros(a.shape)
    for p in np.ndindex(*a.shape):
        near = [
            range(max(0, i - w // 2), min(s, i + w // 2 + 1))
            for i, w, s in zip(p, window, a.shape, strict=True)
        ]
        patch_a, patch_b = (np.array([image[q] for q in itertools.product(*near)]) for image in (a, b))
        covariance = max(((patch_a - patch_a.mean()) * (patch_b - patch_b.mean())).mean(), 1e-5)
        found[p] = covariance**2 / (max(patch_a.var(), 1e-5) * max(patch_b.var(), 1e-5))
    return found


@pytest.mark.parametrize(
    ("size", "window"),
    [((11, 13), 9), ((11, 13), (3, 7)), ((5, 8, 10), (1, 9, 9)), ((5, 8, 10), 3), ((4, 6, 5), 9)],
)
def test_local_correlation_is_what_the_slow_loop_says(
    size: tuple[int, ...], window: int | tuple[int, ...]
) -> None:
    a, b = noise(0, 1, 1, *size), noise(1, 1, 1, *size)
    b = 0.5 * a + 0.5 * b
    a[..., :4], b[..., -3:, :] = 0.25, 0.75  # constant patches, of either and of both
    sides = (window,) * len(size) if isinstance(window, int) else window
    expected = slow_correlation(a[0, 0].numpy(), b[0, 0].numpy(), sides)
    np.testing.assert_allclose(local_correlation(a, b, window)[0, 0].numpy(), expected, rtol=1e-6, atol=1e-12)
    assert local_ncc_loss(a, b, window).item() == pytest.approx(1 - expected.mean())


def test_clamps_decide_where_a_patch_is_constant() -> None:
    """Two constants agree; a constant and a pattern of variance 0.25 give (1e-5)² / (1e-5 · 0.25) = 4e-5."""
    flat, other, pattern = (torch.full((1, 1, 4, 4), v) for v in (0.3, 0.9, 0.0))
    pattern[..., ::2] = 1.0
    assert TINIEST_VARIANCE == 1e-5
    assert local_correlation(flat, other, 3).flatten().tolist() == pytest.approx([1.0] * 16, rel=1e-5)
    mixed = local_correlation(flat, pattern, (1, 4 + 3))[0, 0, 0, 1].item()  # sees all four columns
    assert mixed == pytest.approx(4e-5, rel=1e-3)
    assert local_correlation(pattern, 1 - pattern, 3).max() < 1e-8  # opposite patterns are unrelated


def test_variance_is_that_of_the_window_within_the_image() -> None:
    """(0, 0, 1) about the middle: 1/3 - 1/9; at the ends the window is what of it lies in the image."""
    row = torch.tensor([0.0, 0.0, 1.0, 1.0]).view(1, 1, 1, 4)
    found = local_variance(row, (1, 3)).flatten().tolist()
    assert found == pytest.approx([0, 2 / 9, 2 / 9, 0], abs=1e-6)
    assert (local_variance(torch.full((1, 1, 2, 5, 5), 0.7), (1, 3, 3)) < TINIEST_VARIANCE).all()


def test_gain_and_offset_of_a_neighbourhood_do_not_count() -> None:
    a = noise(2, 2, 1, 20, 24)
    assert local_ncc_loss(a, a).item() == pytest.approx(0, abs=1e-9)
    assert local_ncc_loss(0.2 + 0.5 * a, a).item() == pytest.approx(0, abs=1e-9)
    assert local_ncc_loss(noise(3, 2, 1, 20, 24), a).item() > 0.9
    assert mean_squared_error(0.2 + 0.5 * a, a).item() > 0.01


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_correlation_of_noise_beneath_float32_stays_bounded(level: float) -> None:
    """Saturated patches are constant but for rounding: unclamped quotients of rounding errors would explode."""
    a = (level + 1e-6 * noise(4, 1, 1, 40, 40)).float().requires_grad_()
    b = (level + 1e-6 * noise(5, 1, 1, 40, 40)).float()
    correlation = local_correlation(a, b)
    assert correlation.min() >= 0
    assert correlation.max() <= 1 + 1e-5
    local_ncc_loss(a, b).backward()
    assert a.grad is not None
    assert a.grad.abs().max() < 1.0


def test_float32_keeps_two_digits_where_mean_squares_cancel() -> None:
    a, b = noise(6, 1, 1, 30, 34), noise(7, 1, 1, 30, 34)
    a, b = 0.95 + 0.05 * a, 0.9 + 0.05 * (a + b)  # bright and nearly flat
    torch.testing.assert_close(
        local_correlation(a.float(), b.float()).double(), local_correlation(a, b), rtol=0, atol=5e-3
    )


def test_thick_slices_are_compared_each_alone() -> None:
    a, b = noise(8, 2, 1, 4, 12, 15), noise(9, 2, 1, 4, 12, 15)
    alone = torch.stack(
        [local_correlation(p, q) for p, q in zip(a.unbind(2), b.unbind(2), strict=True)], dim=2
    )
    torch.testing.assert_close(local_correlation(a, b, (1, 9, 9)), alone)
    assert (local_correlation(a, b, (3, 9, 9)) - alone).abs().max() > 0.01


def test_correlation_is_symmetric_and_turns_with_the_images() -> None:
    a, b = noise(10, 1, 1, 12, 17), noise(11, 1, 1, 12, 17)
    found = local_correlation(a, b, (3, 5))
    torch.testing.assert_close(local_correlation(b, a, (3, 5)), found)
    torch.testing.assert_close(local_correlation(a.mT, b.mT, (5, 3)), found.mT)


@pytest.mark.parametrize("window", [8, 0, -3, (9, 9), (1, 9, 8), (1, 1, 9, 9)])
def test_a_window_without_a_middle_or_of_other_axes_is_refused(window: int | tuple[int, ...]) -> None:
    images = torch.zeros(1, 1, 4, 8, 8)
    with pytest.raises(SettingsError, match=r"one odd side of voxels for each of 3 axes, got .*take 9, or"):
        local_ncc_loss(images, images, window)


def test_the_squared_error_on_paper() -> None:
    moved, fixed = torch.tensor([0.0, 0.5, 1.0, 0.2]), torch.tensor([0.0, 0.0, 1.0, 0.6])
    found = mean_squared_error(moved.view(1, 1, 2, 2), fixed.view(1, 1, 2, 2))
    assert found.item() == pytest.approx((0.25 + 0.16) / 4)


def test_smoothness_on_paper() -> None:
    """u_y = 3 y and u_x = x²: squared differences 9 and 0 along y, 0 and 1, 9, 25 along x.

    Along y their mean over both components is 9/2, along x (1 + 9 + 25) / 3 / 2; the mean of the two, times 2.
    """
    y, x = torch.meshgrid(torch.arange(3.0), torch.arange(4.0), indexing="ij")
    field = torch.stack([3 * y, x.square()])[None]
    along_y, along_x = 9 / 2, 35 / 6
    assert smoothness_loss(field).item() == pytest.approx(along_y + along_x)
    assert smoothness_loss(field, multiplier=1.0).item() == pytest.approx((along_y + along_x) / 2)
    weighted = smoothness_loss(field, axis_weights=(1, 3))
    assert weighted.item() == pytest.approx(2 * (along_y + 3 * along_x) / 4)
    assert smoothness_loss(field, axis_weights=(0, 1)).item() == pytest.approx(2 * along_x)


def test_smoothness_forgives_a_shift_and_is_a_square() -> None:
    field = noise(12, 2, 3, 4, 6, 5)
    torch.testing.assert_close(smoothness_loss(field + 7.0), smoothness_loss(field))
    torch.testing.assert_close(smoothness_loss(3 * field), 9 * smoothness_loss(field))
    assert smoothness_loss(torch.full((1, 2, 5, 6), 4.0)).item() == 0


def test_smoothness_counts_slopes_alike_on_every_grid() -> None:
    """The same affine map on a grid twice as fine: values and distances double, so the multiplier mends nothing."""

    def contraction(*size: int) -> Tensor:
        axes = (torch.arange(side) - (side - 1) / 2 for side in size)
        return -0.3 * torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]

    torch.testing.assert_close(smoothness_loss(contraction(8, 12)), smoothness_loss(contraction(16, 24)))


def test_an_axis_of_one_voxel_has_no_neighbours() -> None:
    field = noise(13, 2, 2, 6, 5)
    torch.testing.assert_close(smoothness_loss(field[:, :, None]), smoothness_loss(field))
    single = noise(14, 1, 2, 1, 1).requires_grad_()
    loss = smoothness_loss(single)
    loss.backward()
    assert loss.item() == 0
    assert single.grad is not None
    assert single.grad.abs().max() == 0


@pytest.mark.parametrize("weights", [(1.0,), (1, 1, 1), (1, -1), ()])
def test_smoothness_refuses_other_weights_than_axes(weights: tuple[float, ...]) -> None:
    with pytest.raises(SettingsError, match="one weight of 0 or more for each of 2 axes"):
        smoothness_loss(torch.zeros(1, 2, 4, 4), axis_weights=weights)


def masks(*rows: tuple[float, ...]) -> Tensor:
    """(1 k 1 x) one row of voxels, a tuple of values a class, the background first."""
    return torch.tensor(rows, dtype=torch.float32)[None, :, None, :]


ALL = torch.ones(1, 3, dtype=torch.bool)


def test_overlap_on_paper() -> None:
    """Class 1: 0.5, 1, 0 beside 1, 1, 0 is 2 · 1.5 / 3.5; class 2: 0, 0, 0.25 beside 0, 0, 1 is 0.5 / 1.25."""
    moved = masks((0.5, 0.0, 0.75), (0.5, 1.0, 0.0), (0.0, 0.0, 0.25))
    fixed = masks((0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    assert overlap_loss(moved, fixed, ALL).item() == pytest.approx(1 - (3 / 3.5 + 0.5 / 1.25) / 2)
    assert overlap_loss(fixed, fixed, ALL).item() == pytest.approx(0)
    only_first = torch.tensor([[False, True, False]])
    assert overlap_loss(moved, fixed, only_first).item() == pytest.approx(1 - 3 / 3.5)


def test_a_structure_in_neither_mask_is_left_out_and_one_in_one_mask_is_a_miss() -> None:
    here = masks((0, 0, 1), (1, 1, 0), (0, 0, 0))
    assert overlap_loss(here, here, ALL).item() == pytest.approx(0)
    there = masks((0, 0, 0), (1, 1, 0), (0, 0, 1))
    assert overlap_loss(here, there, ALL).item() == pytest.approx(0.5)
    assert overlap_loss(there, here, ALL).item() == pytest.approx(0.5)


def test_the_background_is_not_read() -> None:
    moved = masks((1, 0, 0), (0, 1, 0), (0, 0, 1))
    other = moved.clone()
    other[:, 0] = 5.0
    undrawn_background = torch.tensor([[False, True, True]])
    for drawn in (ALL, undrawn_background):
        assert overlap_loss(other, moved, drawn).item() == pytest.approx(0)


def test_samples_count_alike_and_those_without_labels_not_at_all() -> None:
    a, b = (noise(seed, 3, 3, 2, 5, 4) for seed in (15, 16))
    drawn = torch.tensor([[True, True, True], [True, False, True], [True, False, False]])
    each = [overlap_loss(a[i : i + 1], b[i : i + 1], drawn[i : i + 1]).item() for i in range(3)]
    assert each[2] == 0
    assert overlap_loss(a, b, drawn).item() == pytest.approx((each[0] + each[1]) / 2)


def test_without_any_drawn_structure_the_loss_and_its_gradient_are_zero() -> None:
    moved = noise(17, 2, 4, 5, 4).requires_grad_()
    for fixed, drawn in ((noise(18, 2, 4, 5, 4), False), (torch.zeros(2, 4, 5, 4), True)):
        moving = moved if not drawn else moved * 0
        loss = overlap_loss(moving, fixed, torch.full((2, 4), drawn))
        (gradient,) = torch.autograd.grad(loss, moved)
        assert loss.item() == 0
        assert gradient.abs().max() == 0


def test_voxels_that_are_not_known_in_both_frames_count_nowhere() -> None:
    moved, fixed = noise(19, 2, 3, 6, 5), noise(20, 2, 3, 6, 5)
    drawn = torch.ones(2, 3, dtype=torch.bool)
    known = torch.ones(2, 6, 5, dtype=torch.bool)
    torch.testing.assert_close(overlap_loss(moved, fixed, drawn, known), overlap_loss(moved, fixed, drawn))
    known[:, 4:] = False
    cropped = overlap_loss(moved[:, :, :4], fixed[:, :, :4], drawn)
    torch.testing.assert_close(overlap_loss(moved, fixed, drawn, known), cropped)


def test_half_precision_is_raised_before_anything_is_summed() -> None:
    a, b = noise(21, 1, 1, 16, 18).bfloat16(), noise(22, 1, 1, 16, 18).bfloat16()
    drawn = torch.ones(1, 2, dtype=torch.bool)
    two, other = torch.cat([a, b], dim=1), torch.cat([b, a], dim=1)
    for function, arguments in (
        (mean_squared_error, (a, b)),
        (local_ncc_loss, (a, b)),
        (smoothness_loss, (two,)),
        (lambda p, q: overlap_loss(p, q, drawn), (two, other)),
    ):
        expected = function(*(x.float() for x in arguments))
        with torch.autocast("cpu", torch.bfloat16):
            found = function(*arguments)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
