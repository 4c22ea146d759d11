"""The toy comparison of losses, on paper."""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

SIDE, SURE = 128, 0.98
GAIN = math.log(SURE / (1 - SURE))


@pytest.fixture(scope="module")
def rings(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("figures/rings")


@pytest.fixture(scope="module")
def toys(rings: ModuleType) -> dict[str, Any]:
    return {toy.name: toy for toy in rings.compare_on_rings()}


def test_defects_of_equal_size_are_alike_to_cross_entropy(toys: dict[str, Any]) -> None:
    for toy in list(toys.values())[:-1]:
        expected = -math.log(SURE) + toy.wrong / SIDE**2 * GAIN
        assert toy.cross_entropy == pytest.approx(expected, rel=1e-4)
    defects = [
        toy
        for name, toy in toys.items()
        if name not in ("the ring itself", "shifted by 4 px", "its shape map")
    ]
    assert len({toy.wrong for toy in defects}) == 1
    assert len(defects) == 5
    assert toys["the ring itself"].wrong == 0 < defects[0].wrong < toys["shifted by 4 px"].wrong


def test_dice_counts_pixels_and_not_where_they_are(toys: dict[str, Any]) -> None:
    """Of a ring of r pixels with w missing: 1 - 2 (0.98 (r - w) + 0.02 w) / (0.98 (r - w) + 0.02 (all - r + w) + r)."""
    for name, added in (("a gap", False), ("a hole in the wall", False), ("an island", True)):
        w, ring = toys[name].wrong, int((toys["the ring itself"].probabilities > 0.5).sum())
        shared = SURE * ring if added else SURE * (ring - w) + (1 - SURE) * w
        predicted = ring + (w if added else -w)
        total = SURE * predicted + (1 - SURE) * (SIDE**2 - predicted) + ring
        assert toys[name].dice == pytest.approx(1 - 2 * shared / total, rel=1e-4)


def test_the_shape_aware_loss_tells_a_rim_from_a_middle(toys: dict[str, Any]) -> None:
    """A pixel too many costs 0.98 - 0.02 of a ring's pixel; one too few SI - 0.02, less |0.98 - SI|."""
    ring = int((toys["the ring itself"].probabilities > 0.5).sum())
    island, base = toys["an island"], toys["the ring itself"].shape_aware
    assert island.shape_aware - base == pytest.approx(island.wrong * (2 * SURE - 1) / ring, rel=1e-4)
    hole, gap, rim = (toys[n].shape_aware for n in ("a hole in the wall", "a gap", "thinner outside"))
    assert base < hole < gap < rim < toys["shifted by 4 px"].shape_aware


def test_its_shape_map_is_what_it_likes_best_and_the_others_do_not(toys: dict[str, Any]) -> None:
    best = toys["its shape map"]
    assert best.shape_aware == pytest.approx(0, abs=1e-5)
    assert best.wrong == 0
    assert best.dice > toys["the ring itself"].dice
    assert best.cross_entropy > toys["the ring itself"].cross_entropy
