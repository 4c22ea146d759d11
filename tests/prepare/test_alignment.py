"""Images of one heart in two contrasts are laid onto each other, or left where they are."""

import math

import pytest
import torch
from torch import Tensor

from crossbeat.prepare.alignment import align, mutual_information, pointwise_information, warp

PIXEL_MM = 1.5


def heart(
    shift: tuple[float, float] = (0.0, 0.0), scale: float = 1.0, size: tuple[int, int] = (52, 60)
) -> Tensor:
    """Tissue of a ring with a cavity and a bulge at one side, by soft edges: 0 lung, 1 wall, 2 blood, 3 fat."""
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    y, x = (y - size[0] / 2 + 0.5 - shift[0]) / scale, (x - size[1] / 2 + 0.5 - shift[1]) / scale
    radius, beside = torch.hypot(y, x * 0.9), torch.hypot(y + 1, x + 12)

    def inside(distance: Tensor, reach: float) -> Tensor:
        return torch.sigmoid((reach - distance) * 3)

    tissue = 2.0 * inside(beside, 10)
    tissue = tissue * (1 - inside(radius, 13)) + inside(radius, 13)
    tissue = tissue + inside(radius, 8)
    return tissue + 3.0 * inside((y - 19).abs(), 2) * (1 - inside(radius, 13))


def bssfp(tissue: Tensor) -> Tensor:
    """Blood brightest but for fat, lung dark."""
    return 20 + 70 * tissue


def lge(tissue: Tensor) -> Tensor:
    """Wall darkest, lung brighter than it: no brighter-to-brighter map leads here."""
    return 300 * (tissue - 0.8).square() + 30


def everywhere(images: Tensor) -> Tensor:
    region = torch.zeros(images.shape, dtype=torch.bool)
    region[:, 8:-8, 8:-8] = True
    return region


def noise(shape: tuple[int, ...], sd: float, seed: int = 0) -> Tensor:
    return sd * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_mutual_information_of_tables_that_one_can_work_out() -> None:
    equal = torch.tensor([[5.0, 0.0], [0.0, 5.0]])  # one tells the other: ln 2
    assert float(mutual_information(equal)) == pytest.approx(math.log(2), abs=1e-6)
    apart = torch.tensor([[1.0, 3.0], [2.0, 6.0]])  # rows in proportion: nothing is told
    assert float(mutual_information(apart)) == pytest.approx(0, abs=1e-6)
    assert pointwise_information(equal)[0, 0] == pytest.approx(math.log(2), abs=1e-6)
    assert pointwise_information(equal)[0, 1] == 0, "never seen, so nothing is said"


def test_a_shift_says_where_to_look() -> None:
    image = torch.arange(12.0).reshape(1, 3, 4)
    down = torch.zeros(1, 2, 3, 4)
    down[:, 0] = 1
    torch.testing.assert_close(warp(image, down)[0, 0], image[0, 1])
    torch.testing.assert_close(warp(image, down)[0, 2], image[0, 2])  # the edge is held
    right = torch.zeros(1, 2, 3, 4)
    right[:, 1] = 0.5
    torch.testing.assert_close(warp(image, right)[0, :, 0], image[0, :, 0] + 0.5)


@pytest.mark.slow
def test_each_slices_own_translation_is_found_across_contrasts() -> None:
    true = [(0.0, 0.0), (2.5, -1.25), (-3.0, 3.4)]
    fixed = torch.stack([lge(heart())] * 3)
    moving = torch.stack([bssfp(heart(shift)) for shift in true])
    fixed, moving = fixed + noise(fixed.shape, 8), moving + noise(moving.shape, 4, seed=1)
    found = align(moving, fixed, everywhere(fixed), PIXEL_MM)
    middle = found.displacement_px[:, :, 20:32, 24:36].mean(dim=(2, 3))
    torch.testing.assert_close(middle, torch.tensor(true), atol=0.3, rtol=0)  # 0.45 mm
    assert found.improved[1:].all()


def test_a_larger_heart_is_stretched_onto_the_smaller_one() -> None:
    fixed, moving = lge(heart())[None], bssfp(heart(scale=1.12))[None]
    found = align(moving, fixed, everywhere(fixed), PIXEL_MM)
    right = found.displacement_px[0, 1, 26, 44]  # 14.5 px right of the middle: 12 % of it
    assert float(right) == pytest.approx(0.12 * 14.5, abs=0.5)
    before = (bssfp(heart())[None] - moving).abs().mean()
    after = (bssfp(heart())[None] - warp(moving, found.displacement_px)).abs().mean()
    assert after < 0.35 * before


@pytest.mark.slow
def test_mirrored_images_have_mirrored_shifts() -> None:
    fixed, moving = lge(heart())[None], bssfp(heart((1.5, -2.0)))[None]
    straight = align(moving, fixed, everywhere(fixed), PIXEL_MM).displacement_px
    mirrored = align(moving.flip(2), fixed.flip(2), everywhere(fixed), PIXEL_MM).displacement_px.flip(3)
    torch.testing.assert_close(mirrored[:, 0], straight[:, 0], atol=0.25, rtol=0)
    torch.testing.assert_close(mirrored[:, 1], -straight[:, 1], atol=0.25, rtol=0)


def test_the_same_image_stays_exactly() -> None:
    image = bssfp(heart())[None] + noise((1, 52, 60), 8)
    found = align(image, image, everywhere(image), PIXEL_MM)
    assert not found.improved.any()
    assert not found.displacement_px.any()


def test_images_of_two_contrasts_that_lie_right_stay_within_half_a_pixel() -> None:
    image = heart()[None]
    found = align(bssfp(image), lge(image), everywhere(image), PIXEL_MM)
    assert float(found.displacement_px[:, :, 14:38, 14:46].abs().max()) < 0.5


@pytest.mark.slow
def test_a_slice_without_region_stays_and_does_not_disturb_the_others() -> None:
    fixed, moving = lge(heart())[None], bssfp(heart((2.0, 1.0)))[None]
    alone = align(moving, fixed, everywhere(fixed), PIXEL_MM)
    fixed, moving = (
        torch.cat([noise(fixed.shape, 50), fixed]),
        torch.cat([noise(moving.shape, 50, 1), moving]),
    )
    region = everywhere(fixed)
    region[0] = False
    found = align(moving, fixed, region, PIXEL_MM)
    assert not found.improved[0]
    assert not found.displacement_px[0].any()
    torch.testing.assert_close(found.displacement_px[1:], alone.displacement_px, atol=1e-4, rtol=0)
    none = align(moving, fixed, torch.zeros_like(region), PIXEL_MM)
    assert not none.improved.any()
    assert not none.displacement_px.any()


def test_a_constant_image_tells_nothing_and_moves_nothing() -> None:
    fixed = lge(heart())[None]
    found = align(torch.full_like(fixed, 7.0), fixed, everywhere(fixed), PIXEL_MM)
    assert not found.improved.any()
    assert not found.displacement_px.any()


@pytest.mark.slow
def test_what_moved_has_more_mutual_information() -> None:
    """By a plain histogram that the method does not use."""
    fixed = torch.stack([lge(heart()), noise(heart().shape, 100)])
    moving = torch.stack([bssfp(heart((-2.0, 2.0))), noise(heart().shape, 100, 1)])
    region = everywhere(fixed)
    found = align(moving, fixed, region, PIXEL_MM)
    after = warp(moving, found.displacement_px)

    def told(image: Tensor) -> float:
        pairs = torch.stack([image[0][region[0]], fixed[0][region[0]]], dim=1).double()
        return float(mutual_information(torch.histogramdd(pairs, bins=[12, 12]).hist))

    assert found.improved[0]
    assert told(after) > told(moving) + 0.1
