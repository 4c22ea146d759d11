"""Intensity changes: curves by arithmetic, blur against scipy, and the scale that comes back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from crossbeat.prepare.contrast import (
    CURVE_NODES,
    blur,
    change_signal,
    gaussian_taps,
    look_up,
    random_heights,
    standardise_like,
    transfer_curve,
)


def image(n: int = 3, c: int = 2, y: int = 20, x: int = 31) -> Tensor:
    return torch.randn(n, c, y, x, generator=torch.Generator().manual_seed(5)) * 2 + 1


def test_curve_passes_through_its_knots() -> None:
    heights = torch.tensor([[0.1, 0.9, 0.2, 0.7, 0.0], [1.0, 0.5, 0.5, 0.5, 0.0]])
    curve = transfer_curve(heights)
    torch.testing.assert_close(curve[:, :: (CURVE_NODES - 1) // 4], heights)


def test_curve_between_knots_is_catmull_rom() -> None:
    # halfway between the knots 0.9 and 0.2, whose neighbours are 0.1 and 0.7: (-0.1 + 9·0.9 + 9·0.2 - 0.7) / 16
    curve = transfer_curve(torch.tensor([[0.1, 0.9, 0.2, 0.7, 0.0]]))
    assert curve[0, 384].item() == pytest.approx(9.1 / 16, abs=1e-6)


def test_curve_is_smooth_at_its_knots() -> None:
    curve = transfer_curve(torch.tensor([[0.1, 0.9, 0.2, 0.7, 0.0]], dtype=torch.float64))
    slope = curve.diff(dim=1) * (CURVE_NODES - 1)
    # the slope changes by at most the second derivative (under 60 here) times one step of 1/1024
    assert slope.diff(dim=1).abs().max() < 0.1


def test_two_knots_make_a_straight_line() -> None:
    curve = transfer_curve(torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(curve[0], torch.linspace(0, 1, CURVE_NODES))


def test_gamma_by_arithmetic() -> None:
    line = torch.tensor([[0.0, 1.0]] * 2)
    curve = transfer_curve(line, torch.tensor([2.0, 2.0]), torch.tensor([False, True]))
    # at 1/4: 0.25² = 0.0625; counted from the bright end: 1 - 0.75² = 0.4375
    assert curve[:, 256].tolist() == pytest.approx([0.0625, 0.4375])


def test_gamma_comes_before_the_curve() -> None:
    curve = transfer_curve(torch.tensor([[1.0, 0.0]]), torch.tensor([2.0]))
    assert curve[0, 512].item() == pytest.approx(1 - 0.5**2)


def test_strength_mixes_between_straight_line_and_draws() -> None:
    draws = torch.tensor([[1.0, 0.5, 0.0]] * 3)
    heights = random_heights(draws, torch.tensor([0.0, 0.5, 1.0]))
    assert heights.tolist() == [[0.0, 0.5, 1.0], [0.5, 0.5, 0.5], [1.0, 0.5, 0.0]]


def test_look_up_interpolates_like_numpy() -> None:
    curve = transfer_curve(torch.tensor([[0.3, 0.9, 0.1, 0.5]] * 3))
    signal = torch.rand(3, 2, 20, 31, generator=torch.Generator().manual_seed(1))
    signal[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    expected = np.interp(signal.numpy(), np.linspace(0, 1, CURVE_NODES), curve[0].numpy())
    np.testing.assert_allclose(look_up(signal, curve).numpy(), expected, atol=1e-5)


def test_power_of_the_image_by_arithmetic() -> None:
    before = torch.tensor([[0.0, 1.0, 2.0, 4.0]]).view(1, 1, 1, 4)
    after = change_signal(before, transfer_curve(torch.tensor([[0.0, 1.0]]), torch.tensor([2.0])), None)
    # squares of 0, 1/4, 1/2, 1 are 0, 1/16, 4/16, 16/16, then scaled to the mean and SD of before
    squares = np.array([0, 1, 4, 16]) / 16
    expected = (squares - squares.mean()) / squares.std() * before.numpy().std() + before.numpy().mean()
    np.testing.assert_allclose(after.numpy().ravel(), expected, atol=1e-4)


def test_changed_signal_keeps_mean_and_sd_of_each_channel() -> None:
    before = image()
    curve = transfer_curve(torch.rand(3, 5, generator=torch.Generator().manual_seed(2)))
    field = torch.linspace(-0.5, 0.5, 31).expand(3, 1, 20, 31)
    after = change_signal(before, curve, field)
    torch.testing.assert_close(after.mean((2, 3)), before.mean((2, 3)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after.std((2, 3)), before.std((2, 3)), atol=1e-4, rtol=1e-4)


def test_falling_line_inverts_the_image() -> None:
    before = image()
    after = change_signal(before, transfer_curve(torch.tensor([[1.0, 0.5, 0.0]] * 3)), None)
    torch.testing.assert_close(after, 2 * before.mean((2, 3), keepdim=True) - before, atol=1e-4, rtol=1e-4)


def test_straight_line_leaves_the_image() -> None:
    before = image()
    after = change_signal(before, transfer_curve(torch.tensor([[0.0, 1.0]] * 3)), torch.zeros(3, 1, 20, 31))
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


def test_bias_field_multiplies_the_signal_above_its_darkest() -> None:
    before = torch.tensor([[-1.0, 1.0, 1.0, 3.0]]).view(1, 1, 1, 4)
    log_bias = torch.log(torch.tensor([2.0, 1.0, 2.0, 1.0])).view(1, 1, 1, 4)
    after = change_signal(before, None, log_bias).ravel()
    # signal 0, 1/2, 1/2, 1 times 2, 1, 2, 1 is 0, 1/2, 1, 1: the third now equals the fourth
    assert after[2].item() == pytest.approx(after[3].item())
    assert ((after[1] - after[0]) / (after[3] - after[0])).item() == pytest.approx(0.5)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e4])
def test_constant_image_stays_as_it_is(value: float) -> None:
    before = torch.full((2, 1, 8, 8), value)
    curve = transfer_curve(torch.tensor([[0.7, 0.1, 0.4]] * 2))
    torch.testing.assert_close(change_signal(before, curve, None), before)


def test_flat_curve_gives_the_mean_and_no_noise() -> None:
    before = image()
    after = change_signal(before, transfer_curve(torch.full((3, 4), 0.5)), None)
    torch.testing.assert_close(after, before.mean((2, 3), keepdim=True).expand_as(before), atol=0.2, rtol=0)


def test_standardise_like_takes_over_mean_and_sd() -> None:
    after = standardise_like(image() * 7 - 3, image())
    torch.testing.assert_close(after, image(), atol=1e-5, rtol=1e-5)


def test_blur_equals_scipys_gaussian() -> None:
    sigma = torch.tensor([0.6, 1.0, 1.4])
    before = image()
    after = blur(before, gaussian_taps(sigma, reach=5))
    for n, width in enumerate(sigma.tolist()):
        for c in range(2):
            expected = ndimage.gaussian_filter(before[n, c].double().numpy(), width, mode="nearest", radius=5)
            np.testing.assert_allclose(after[n, c].numpy(), expected, atol=1e-5)


def test_blur_of_nothing_leaves_the_image_and_one_keeps_its_sum() -> None:
    taps = gaussian_taps(torch.tensor([0.0, 1.0]), reach=3)
    assert taps[0].tolist() == [0, 0, 0, 1, 0, 0, 0]
    torch.testing.assert_close(taps.sum(1), torch.ones(2))
