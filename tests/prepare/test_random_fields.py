"""Hash-made random numbers: good as random numbers, and the same for any sharing of a batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import interpolate, stats
from torch import Tensor

from crossbeat.prepare.random_fields import (
    normal,
    random_bits,
    smooth_field,
    uniform,
    unit_control_points,
)

SEEDS = torch.tensor([0, 1, 2, -1, 2**62 + 12345, 987654321987654321])


def test_bits_equal_a_plain_integer_hash() -> None:
    def hashed(x: int) -> int:
        x ^= x >> 16
        x = x * 0x7FEB352D % 2**32
        x ^= x >> 15
        x = x * 0x846CA68B % 2**32
        return x ^ x >> 16

    golden, stream = 0x9E3779B9, 3
    found = random_bits(SEEDS, stream, 40).tolist()
    for seed, words in zip(SEEDS.tolist(), found, strict=True):
        low, high = seed % 2**32, (seed >> 32) % 2**32
        low ^= hashed(high ^ golden)
        high ^= hashed(low ^ 2 * golden % 2**32)
        for index, word in enumerate(words):
            expected = hashed(hashed(index ^ low) ^ high ^ (stream + 3) * golden % 2**32)
            assert word % 2**32 == expected


def test_every_bit_is_a_fair_and_independent_coin() -> None:
    bits = random_bits(SEEDS, 0, 40_000)
    coins = ((bits.flatten()[:, None] >> torch.arange(32)) & 1).double()  # 240,000 x 32
    five_sd = 5 * 0.5 / math.sqrt(len(coins))
    assert (coins.mean(0) - 0.5).abs().max() < five_sd
    correlation = torch.corrcoef(coins.T) - torch.eye(32)
    assert correlation.abs().max() < 5 / math.sqrt(len(coins))


def test_one_flipped_seed_bit_changes_half_of_all_bits() -> None:
    seed = torch.tensor([123456789])
    for bit in range(63):
        changed = random_bits(seed, 0, 200) ^ random_bits(seed ^ (1 << bit), 0, 200)
        share = ((changed.flatten()[:, None] >> torch.arange(32)) & 1).double().mean().item()
        assert share == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(6400))


def test_uniform_numbers_are_uniform() -> None:
    numbers = uniform(SEEDS, 1, 20_000).flatten()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert stats.kstest(numbers.numpy(), "uniform").pvalue > 1e-3


def test_normal_numbers_are_normal() -> None:
    numbers = normal(SEEDS, 4, 100_000).double().flatten().numpy()
    assert stats.kstest(numbers, "norm").pvalue > 1e-3
    assert numbers.mean() == pytest.approx(0, abs=5 / math.sqrt(len(numbers)))
    assert numbers.std() == pytest.approx(1, abs=5 / math.sqrt(2 * len(numbers)))
    assert stats.kurtosis(numbers) == pytest.approx(0, abs=5 * math.sqrt(24 / len(numbers)))
    assert np.abs(numbers).max() < 4.9
    assert (np.abs(numbers) > 4).mean() == pytest.approx(6.3e-5, rel=0.7)


@pytest.mark.parametrize("lag", [1, 2, 7, 128, 16384])
def test_noise_of_neighbouring_pixels_is_unrelated(lag: int) -> None:
    noise = normal(SEEDS, 4, 128 * 256).double()
    product = (noise[:, :-lag] * noise[:, lag:]).flatten()
    assert abs(product.mean().item()) < 5 / math.sqrt(len(product))
    squares = ((noise[:, :-lag] ** 2 - 1) * (noise[:, lag:] ** 2 - 1)).flatten()
    assert abs(squares.mean().item()) < 5 * 2 / math.sqrt(len(squares))


def test_noise_of_different_samples_is_unrelated_at_every_shift() -> None:
    noise = normal(torch.arange(12), 4, 4096).double()
    spectrum = torch.fft.rfft(noise)
    for other in range(1, 12):
        correlation = torch.fft.irfft(spectrum[0] * spectrum[other].conj()) / 4096
        assert correlation.abs().max() < 6 / math.sqrt(4096)


def test_streams_of_one_seed_are_unrelated() -> None:
    streams = torch.cat([normal(SEEDS[:1], stream, 20_000) for stream in range(8)]).double()
    assert (torch.corrcoef(streams) - torch.eye(8)).abs().max() < 5 / math.sqrt(20_000)


def test_numbers_do_not_depend_on_company_or_count() -> None:
    together = uniform(SEEDS, 2, 9)
    assert torch.equal(together[3:4], uniform(SEEDS[3:4], 2, 9))
    assert torch.equal(together[:, :5], uniform(SEEDS, 2, 5))
    assert normal(SEEDS, 2, 9).shape == (6, 9)
    assert normal(SEEDS[:0], 2, 9).shape == (0, 9)


def test_smooth_field_equals_scipys_b_spline() -> None:
    spacing, size, points = 5.0, (13, 22), 9
    control = normal(SEEDS[:1], 0, points * points).view(1, 1, points, points)

    def weights(length: int) -> np.ndarray:
        at = (np.arange(length) - (length - 1) / 2) / spacing
        total = np.zeros((length, points))
        for k in range(points):
            spline = interpolate.BSpline.basis_element(np.arange(-2, 3) + k - points // 2, extrapolate=False)
            total[:, k] = np.nan_to_num(spline(at))
        return total

    expected = weights(13) @ control[0, 0].double().numpy() @ weights(22).T
    np.testing.assert_allclose(smooth_field(control, spacing, size)[0, 0].numpy(), expected, atol=1e-5)


def test_constant_control_points_give_a_constant_field_beyond_the_torus_too() -> None:
    field = smooth_field(torch.full((1, 2, 6, 6), 3.0), 4.0, (50, 31))
    torch.testing.assert_close(field, torch.full((1, 2, 50, 31), 3.0))


def test_smooth_field_repeats_after_its_period() -> None:
    field = smooth_field(unit_control_points(SEEDS, 0, 1, 6), 4.0, (60, 24))
    torch.testing.assert_close(field[:, :, :24], field[:, :, 24:48], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_unit_control_points_give_a_field_of_standard_deviation_one() -> None:
    field = smooth_field(unit_control_points(torch.arange(100), 1, 2, 20), 16.0, (320, 320))
    assert rms(field) == pytest.approx(1, abs=0.01)
    assert field.mean().item() == pytest.approx(0, abs=0.02)
    # SD of the slope an axis: sqrt(∫b'² / ∫b²) / spacing = sqrt(2/3 · 315/151) / 16 px
    slope = field.diff(dim=2)
    assert rms(slope) == pytest.approx(math.sqrt(2 / 3 * 315 / 151) / 16, rel=0.02)


def rms(field: Tensor) -> float:
    return field.double().square().mean().sqrt().item()
