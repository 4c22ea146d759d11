from __future__ import annotations

import math

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler

from crossbeat.training import constant, cosine, one_cycle, plateau, polynomial


def optimizer(rate: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate, momentum=0.9)


def course(schedule: LRScheduler, steps: int) -> list[float]:
    """Learning rate at each of the steps."""
    rates = []
    for _ in range(steps):
        rates.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return rates


def test_constant_is_reached_linearly_over_the_warm_up() -> None:
    assert course(constant(optimizer(0.8), warmup_steps=3), 6) == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 0.8, 0.8]
    )
    assert course(constant(optimizer(0.8)), 2) == [0.8, 0.8]


def test_cosine_falls_along_half_a_wave_and_stays_at_its_floor() -> None:
    # 4 steps: cos 0, 45°, 90°, 135°, 180° -> (1 + cos) / 2
    wanted = [0.1, 0.1 * (1 + math.sqrt(0.5)) / 2, 0.05, 0.1 * (1 - math.sqrt(0.5)) / 2, 0.0, 0.0]
    assert course(cosine(optimizer(), 4), 6) == pytest.approx(wanted)


def test_cosine_with_a_floor_ends_there() -> None:
    assert course(cosine(optimizer(), 2, floor=0.2), 4) == pytest.approx([0.1, 0.06, 0.02, 0.02])


def test_cosine_after_a_warm_up_starts_from_the_top() -> None:
    assert course(cosine(optimizer(), 6, warmup_steps=2), 7) == pytest.approx(
        [0.1 / 3, 0.2 / 3, 0.1, 0.1 * (1 + math.sqrt(0.5)) / 2, 0.05, 0.1 * (1 - math.sqrt(0.5)) / 2, 0.0]
    )


def test_polynomial_is_a_power_of_what_is_left() -> None:
    assert course(polynomial(optimizer(), 4, power=2), 6) == pytest.approx(
        [0.1, 0.05625, 0.025, 0.00625, 0.0, 0.0]
    )
    assert course(polynomial(optimizer(), 10), 6)[5] == pytest.approx(0.1 * 0.5**0.9)


def test_one_cycle_rises_to_the_highest_rate_and_ends_near_nothing() -> None:
    rates = course(one_cycle(optimizer(), 100, rising=0.3), 100)
    assert rates[0] == pytest.approx(0.1 / 25)
    assert max(rates) == pytest.approx(0.1, rel=1e-3)
    assert rates.index(max(rates)) == pytest.approx(29, abs=1)
    assert rates[-1] == pytest.approx(0.1 / 25 / 1e4, rel=0.6, abs=5e-5)
    middle = (rates[0] + 0.1) / 2  # cosine: half-way up after half the rise
    assert rates[15] == pytest.approx(middle, rel=0.05)


def test_plateau_lowers_after_more_than_its_patience_without_a_better_loss() -> None:
    schedule = plateau(optimizer(), patience=2)
    rates = []
    for loss in [1.0, 0.5, 0.6, 0.5, 0.7, 0.4]:  # best at 0.5; three rounds no better: 2 + 1
        schedule.step(loss)
        rates.append(schedule.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_plateau_knows_that_overlap_should_rise_and_counts_nan_as_no_better() -> None:
    schedule = plateau(optimizer(), "dice_target", factor=0.5, patience=1)
    rates = []
    for dice in [0.5, 0.6, math.nan, 0.55, 0.9]:
        schedule.step(dice)
        rates.append(schedule.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.05])
