"""Histograms of intensities and their divergence, by arithmetic."""

import math

import numpy as np
import pytest

from crossbeat.statistics.histograms import BINS, divergence_nats, intensity_counts


def test_intensities_are_counted_in_bins_of_equal_width_and_the_last_one_is_closed() -> None:
    values = np.array([[0.0, 0.24, 0.25], [0.5, 0.99, 1.0]], np.float32)
    assert intensity_counts(values, 4).tolist() == [2, 1, 1, 2]
    assert intensity_counts(np.array([]), 4).tolist() == [0, 0, 0, 0]
    assert intensity_counts(np.array([1.0])).tolist() == [0] * (BINS - 1) + [1]


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan])
def test_intensities_beyond_the_scale_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        intensity_counts(np.array([0.5, value]))


def test_the_divergence_of_two_histograms_on_paper() -> None:
    """(3, 1) and (0, 2) with one count more each: p = 4/6, 2/6 and q = 1/4, 3/4."""
    ours, theirs = np.array([3, 1]), np.array([0, 2])
    expected = 4 / 6 * math.log((4 / 6) / (1 / 4)) + 2 / 6 * math.log((2 / 6) / (3 / 4))
    assert divergence_nats(ours, theirs) == pytest.approx(expected)
    back = 1 / 4 * math.log((1 / 4) / (4 / 6)) + 3 / 4 * math.log((3 / 4) / (2 / 6))
    assert divergence_nats(theirs, ours) == pytest.approx(back)
    assert divergence_nats(ours, ours) == 0


def test_what_is_empty_has_no_divergence_and_other_bins_are_refused() -> None:
    some, none = np.array([2, 1]), np.array([0, 0])
    assert math.isnan(divergence_nats(some, none))
    assert math.isnan(divergence_nats(none, some))
    with pytest.raises(ValueError, match="the same bins"):
        divergence_nats(some, np.array([1, 1, 1]))


def test_a_divergence_is_never_negative_however_alike() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        ours = rng.integers(0, 1000, 64)
        assert 0 <= divergence_nats(ours, ours + rng.integers(0, 2, 64)) < 0.1
