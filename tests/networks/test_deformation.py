"""Displacement fields, by arithmetic, by a slow second implementation, and by the phantom's exact motion."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossbeat.errors import SettingsError
from crossbeat.labels import Structure
from crossbeat.networks.deformation import (
    compose,
    integrate,
    jacobian_determinant,
    resize_field,
    warp,
)
from crossbeat.synthetic import Heart
from crossbeat.synthetic.anatomy import LABEL_OF_TISSUE

GRIDS = [(2, (14, 19)), (2, (5, 14, 19)), (3, (6, 11, 9))]  # components, grid


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth(seed: int, components: int, size: tuple[int, ...], largest: float) -> Tensor:
    """Two fields of three waves each, at most one cycle long on every axis, below `largest` voxels."""
    wave_numbers = 2 * torch.pi * noise(seed, 2, components, 3, len(size)).tanh() / torch.tensor(size)
    phases = 6 * noise(seed + 1, 2, components, 3).view(2, components, 3, *(1 for _ in size))
    along = torch.einsum("ncwd,d...->ncw...", wave_numbers, places(size))
    return (along + phases).sin().mean(dim=2) * largest


def places(size: tuple[int, ...]) -> Tensor:
    """(d *grid) distance of each voxel from the middle of the grid, in voxels."""
    axes = [torch.arange(side, dtype=torch.float64) - (side - 1) / 2 for side in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def affine_field(matrix: Tensor, size: tuple[int, ...]) -> Tensor:
    """(1 d *grid) displacement that looks from p at (I + matrix) p, p counted from the middle."""
    return torch.einsum("ij,j...->i...", matrix, places(size)[-len(matrix) :])[None]


def slow_warp(image: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """Voxel by voxel and corner by corner; outside lies the nearest voxel."""
    moved = np.zeros(image.shape)
    for p in np.ndindex(*image.shape):
        at = [min(max(a + u, 0), s - 1) for a, u, s in zip(p, displacement[:, *p], image.shape, strict=True)]
        for corner in itertools.product((0, 1), repeat=image.ndim):
            q = [min(math.floor(a) + c, s - 1) for a, c, s in zip(at, corner, image.shape, strict=True)]
            share = math.prod(
                a - math.floor(a) if c else 1 - a + math.floor(a) for a, c in zip(at, corner, strict=True)
            )
            moved[p] += share * image[tuple(q)]
    return moved


def slice_by_slice(function: Callable[..., Tensor], *volumes: Tensor) -> Tensor:
    return torch.stack([function(*slices) for slices in zip(*(v.unbind(2) for v in volumes), strict=True)], 2)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    return F.one_hot(labels.long(), classes).movedim(-1, 0)[None].double()


def dice(a: Tensor, b: Tensor) -> float:
    return (2 * (a & b).sum() / (a.sum() + b.sum())).item()


@pytest.mark.parametrize(("components", "size"), GRIDS)
def test_no_displacement_leaves_an_image_alone(components: int, size: tuple[int, ...]) -> None:
    image = noise(0, 2, 3, *size)
    still = torch.zeros(2, components, *size, dtype=torch.float64)
    for outside in ("border", "zeros"):
        torch.testing.assert_close(warp(image, still, outside=outside), image)
    torch.testing.assert_close(integrate(still), still)
    torch.testing.assert_close(compose(still, still), still)
    torch.testing.assert_close(jacobian_determinant(still), torch.ones_like(image[:, 0]), rtol=0, atol=0)


def test_each_voxel_looks_where_the_field_points() -> None:
    row = torch.tensor([[10.0, 20.0, 40.0, 80.0]]).view(1, 1, 1, 4)
    field = torch.zeros(1, 2, 1, 4)
    field[:, 1] = 1.0
    assert warp(row, field).flatten().tolist() == pytest.approx([20, 40, 80, 80])
    assert warp(row, field, outside="zeros").flatten().tolist() == pytest.approx([20, 40, 80, 0])
    field[:, 1] = -0.25
    assert warp(row, field).flatten().tolist() == pytest.approx([10, 17.5, 35, 70])


@pytest.mark.parametrize("size", [(7, 10), (4, 7, 5)])
def test_warping_is_what_the_slow_loop_says(size: tuple[int, ...]) -> None:
    image, field = noise(1, 1, 1, *size), 2.5 * noise(2, 1, len(size), *size)
    expected = slow_warp(image[0, 0].numpy(), field[0].numpy())
    np.testing.assert_allclose(warp(image, field)[0, 0].numpy(), expected, atol=1e-9)


def test_a_volume_that_moves_in_plane_is_its_slices_each_alone() -> None:
    size = (5, 14, 19)
    image, field, other = noise(3, 2, 3, *size), smooth(4, 2, size, 4.0), smooth(5, 2, size, 4.0)
    torch.testing.assert_close(warp(image, field), slice_by_slice(warp, image, field))
    torch.testing.assert_close(integrate(field), slice_by_slice(integrate, field))
    torch.testing.assert_close(compose(field, other), slice_by_slice(compose, field, other))
    alone = torch.stack([jacobian_determinant(f) for f in field.unbind(2)], dim=1)
    torch.testing.assert_close(jacobian_determinant(field), alone)
    halved = torch.stack([resize_field(f, (7, 10)) for f in field.unbind(2)], dim=2)
    torch.testing.assert_close(resize_field(field, (5, 7, 10)), halved)


def test_an_in_plane_field_is_one_that_does_not_move_along_z() -> None:
    size = (5, 14, 19)
    image, field = noise(6, 2, 1, *size), smooth(7, 2, size, 2.0)
    whole = torch.cat([torch.zeros_like(field[:, :1]), field], dim=1)
    torch.testing.assert_close(warp(image, field), warp(image, whole))
    torch.testing.assert_close(integrate(field), integrate(whole)[:, 1:])
    torch.testing.assert_close(jacobian_determinant(field), jacobian_determinant(whole))
    for grid in ((5, 7, 10), (3, 20, 19)):
        torch.testing.assert_close(resize_field(field, grid), resize_field(whole, grid)[:, 1:])


def test_a_constant_velocity_arrives_where_it_points() -> None:
    velocity = torch.tensor([1.5, -0.75, 2.0]).view(1, 3, 1, 1, 1).expand(1, 3, 4, 9, 7)
    torch.testing.assert_close(integrate(velocity), velocity)


@pytest.mark.parametrize("size", [(15, 21), (7, 15, 21)])
def test_an_affine_velocity_integrates_to_its_matrix_exponential(size: tuple[int, ...]) -> None:
    """Inwards everywhere, so that no place looks outside: (I + A/128)^128 exactly, exp(A) nearly."""
    rates = torch.tensor([[-0.3, 0.02, 0.01], [0.02, -0.5, -0.1], [0.0, 0.1, -0.4]], dtype=torch.float64)
    rates = rates[: len(size), : len(size)]
    identity = torch.eye(len(size), dtype=torch.float64)
    found = integrate(affine_field(rates, size))
    squared = torch.linalg.matrix_power(identity + rates / 128, 128) - identity
    torch.testing.assert_close(found, affine_field(squared, size))
    exact = affine_field(torch.linalg.matrix_exp(rates) - identity, size)
    assert (found - exact).abs().max() < 0.02
    coarse = integrate(affine_field(rates, size), steps=2)
    assert (coarse - exact).abs().max() > 10 * (found - exact).abs().max()


def test_no_step_takes_the_velocity_for_the_displacement() -> None:
    field = smooth(8, 2, (9, 12), 2.0)
    assert torch.equal(integrate(field, steps=0), field)


@pytest.mark.parametrize(("components", "size"), [(2, (40, 56)), (2, (3, 40, 56)), (3, (24, 40, 32))])
def test_there_and_back_is_nearly_nowhere(components: int, size: tuple[int, ...]) -> None:
    velocity = smooth(9, components, size, 3.0)
    there, back = integrate(velocity), integrate(-velocity)
    inner = (..., *(slice(6, -6) if side > 12 else slice(None) for side in size))  # where none looks outside
    moved = there[inner].abs().mean()
    assert moved > 0.5
    for round_trip in (compose(there, back), compose(back, there)):
        assert round_trip[inner].abs().mean() < 0.01 * moved
    assert compose(there, -there)[inner].abs().mean() > 0.1 * moved  # a mere sign does not invert
    assert compose(there, there)[inner].abs().mean() > 1.5 * moved


@pytest.mark.parametrize(
    ("components", "size", "largest"), [(2, (40, 56), 12.0), (2, (3, 40, 56), 12.0), (3, (24, 40, 32), 9.0)]
)
def test_a_smooth_velocity_never_folds_where_its_bare_displacement_does(
    components: int, size: tuple[int, ...], largest: float
) -> None:
    velocity = smooth(10, components, size, largest)
    assert jacobian_determinant(velocity).min() < 0
    assert jacobian_determinant(integrate(velocity)).min() > 0


@pytest.mark.parametrize("size", [(6, 9), (4, 6, 9)])
def test_the_jacobian_of_an_affine_map_is_its_determinant_everywhere(size: tuple[int, ...]) -> None:
    matrix = torch.tensor([[0.2, -0.3, 0.1], [0.5, -0.4, 0.7], [-0.6, 0.25, 0.3]], dtype=torch.float64)
    matrix = matrix[: len(size), : len(size)]
    determinant = torch.linalg.det(torch.eye(len(size), dtype=torch.float64) + matrix)
    found = jacobian_determinant(affine_field(matrix, size))
    torch.testing.assert_close(found, determinant.expand(1, *size))


def test_the_jacobian_on_paper() -> None:
    """In plane y' = 1.5 y and x' = 0.5 x + 0.2 y: 0.75, whatever the slices; a mirrored axis is negative."""
    matrix = torch.tensor([[0.5, 0.0], [0.2, -0.5]], dtype=torch.float64)
    torch.testing.assert_close(
        jacobian_determinant(affine_field(matrix, (3, 5, 8))),
        torch.full((1, 3, 5, 8), 0.75, dtype=torch.float64),
    )
    mirror = torch.tensor([[-2.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert jacobian_determinant(affine_field(mirror, (5, 8))).unique().tolist() == pytest.approx([-1.0])
    row = affine_field(matrix, (1, 8))  # an axis of one voxel has no slope
    assert jacobian_determinant(row).unique().tolist() == pytest.approx([0.5])


def test_the_jacobian_is_one_sided_at_the_border_and_central_inside() -> None:
    field = torch.zeros(1, 2, 2, 4)
    field[0, 1] = torch.tensor([0.0, 1.0, 4.0, 9.0])
    assert jacobian_determinant(field)[0, 0].tolist() == pytest.approx([2.0, 3.0, 5.0, 6.0])


def test_two_warps_are_one_by_their_composition_in_that_order() -> None:
    """A quarter more, then a shift: the second warp's places are looked at first."""
    size = (21, 31)
    larger = affine_field(torch.eye(2, dtype=torch.float64) * 0.25, size)
    shift = torch.tensor([2.0, -3.0], dtype=torch.float64).view(1, 2, 1, 1).expand_as(larger)
    inner = (..., slice(4, -4), slice(4, -4))
    expected = 0.25 * places(size)[None] + 1.25 * torch.tensor([2.0, -3.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(compose(larger, shift)[inner], expected[inner])
    image = places(size)[None, :1] - 2 * places(size)[None, 1:]  # linear, so that interpolation is exact
    twice = warp(warp(image, larger), shift)[..., 7:-7, 8:-8]
    torch.testing.assert_close(twice, warp(image, compose(larger, shift))[..., 7:-7, 8:-8])
    assert (twice - warp(image, compose(shift, larger))[..., 7:-7, 8:-8]).abs().max() > 1


def test_a_resized_field_counts_in_the_voxels_of_its_new_grid() -> None:
    """From 8 x 12 to 4 x 36: 2 and -1 voxels become 1 and -3; z of an in-plane field scales nothing."""
    field = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, 8, 12)
    resized = resize_field(field, (4, 36))
    assert resized.shape == (1, 2, 4, 36)
    torch.testing.assert_close(resized, torch.tensor([1.0, -3.0]).view(1, 2, 1, 1).expand_as(resized))
    volume = resize_field(field[:, :, None].expand(-1, -1, 6, -1, -1), (2, 4, 36))
    torch.testing.assert_close(volume, resized[:, :, None].expand(-1, -1, 2, -1, -1))
    third = torch.cat([torch.full((1, 1, 6, 8, 12), 3.0), field[:, :, None].expand(-1, -1, 6, -1, -1)], dim=1)
    assert resize_field(third, (2, 4, 36))[0, :, 0, 0, 0].tolist() == pytest.approx([1.0, 1.0, -3.0])


def test_halving_averages_neighbours_and_keeps_affine_fields_and_their_jacobian() -> None:
    field = noise(11, 1, 2, 8, 12)
    torch.testing.assert_close(resize_field(field, (4, 6)), F.avg_pool2d(field, 2) / 2)
    matrix = torch.tensor([[-0.2, 0.3], [0.1, 0.4]], dtype=torch.float64)
    halved = resize_field(affine_field(matrix, (8, 12)), (4, 6))
    torch.testing.assert_close(halved, affine_field(matrix, (4, 6)))  # the same map of the same field of view
    doubled = resize_field(affine_field(matrix, (8, 12)), (16, 24))
    inner = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(doubled[inner], affine_field(matrix, (16, 24))[inner])


def test_a_contracting_field_shrinks_the_ring_and_its_reverse_makes_it_grow() -> None:
    """The ring of methods.md 2.1, on pixels of 1.5 x 1.25 mm: inner radius 20, outer 30, contracted to 0.7.

    Paper: π (30² - 20²) = 1571 mm², 0.49 of it 770, over 0.49 of it 3206; unmoved, the ring from 14 to 21 and that
    from 20 to 30 share π (21² - 20²) = 129 mm², Dice 0.11.
    """
    spacing, size = torch.tensor([1.5, 1.25], dtype=torch.float64), (80, 96)
    radius_mm = (places(size) * spacing.view(2, 1, 1)).norm(dim=0)
    end_diastolic, end_systolic = ((radius_mm >= 20 * s) & (radius_mm < 30 * s) for s in (1.0, 0.7))
    velocity = affine_field(torch.eye(2, dtype=torch.float64) * -math.log(0.7), size)
    inner_to_outer = integrate(velocity, steps=12)  # of moving = ED, fixed = ES: looks further out
    reversed_field = integrate(-velocity, steps=12)  # of moving = ES, fixed = ED

    def carried(field: Tensor) -> Tensor:
        return warp(one_hot(end_diastolic, 2), field).argmax(dim=1)[0].bool()

    def area_mm2(mask: Tensor) -> float:
        return mask.sum().item() * 1.5 * 1.25

    assert area_mm2(end_diastolic) == pytest.approx(1571, rel=0.02)
    assert area_mm2(carried(inner_to_outer)) == pytest.approx(770, rel=0.03)
    assert dice(carried(inner_to_outer), end_systolic) > 0.95
    assert area_mm2(carried(reversed_field)) == pytest.approx(3206, rel=0.03)
    assert dice(carried(reversed_field), end_systolic) == 0.0
    assert dice(end_diastolic, end_systolic) == pytest.approx(0.11, abs=0.02)


class Beat:
    """A heart of the phantom on voxels of 4 x 1.5 x 1.25 mm along its own axes, at end diastole and end systole."""

    def __init__(self) -> None:
        spacing_mm, size = np.array([4.0, 1.5, 1.25]), (34, 80, 96)
        self.heart = Heart.draw(np.random.default_rng(3))
        phase = self.heart.motion.es_phase
        z, y, x = (a.numpy() * s for a, s in zip(places(size), spacing_mm, strict=True))
        points = self.heart.heart_to_mm(np.stack([x, y, z + self.heart.shape.length_mm / 2], axis=-1))

        def field(moved_mm: np.ndarray) -> Tensor:
            along = (moved_mm @ self.heart.axes_matrix.T)[..., ::-1] / spacing_mm
            return torch.from_numpy(along.copy()).movedim(-1, 0)[None]

        self.ed, self.es = (
            torch.from_numpy(LABEL_OF_TISSUE[self.heart.classify(points, t)]) for t in (0.0, phase)
        )
        self.to_es = field(self.heart.origin_mm(points, phase) - points)  # moving = ED, fixed = ES
        self.to_ed = field(self.heart.displacement_mm(points, phase))  # moving = ES, fixed = ED

    def carried(self, labels: Tensor, field: Tensor) -> Tensor:
        return warp(one_hot(labels, 6), field).argmax(dim=1)[0]


@pytest.fixture(scope="module")
def beat() -> Beat:
    return Beat()


@pytest.mark.slow
def test_the_phantoms_exact_motion_carries_its_labels_there_and_back(beat: Beat) -> None:
    for structure in (Structure.LV, Structure.MYO, Structure.RV):
        es, ed = beat.es == structure, beat.ed == structure
        there, back = (
            beat.carried(labels, field) == structure
            for labels, field in ((beat.ed, beat.to_es), (beat.es, beat.to_ed))
        )
        assert dice(there, es) > 0.95
        assert dice(back, ed) > 0.92  # the fewer voxels of ES are enlarged
        assert dice(ed, es) < 0.65
        wrong_way = beat.carried(beat.ed, beat.to_ed) == structure
        assert dice(wrong_way, es) < 0.5
        assert (
            wrong_way.sum() > ed.sum() > es.sum() or structure == Structure.MYO
        )  # the wall keeps its volume


def test_the_phantoms_two_fields_undo_each_other_within_a_fiftieth(beat: Beat) -> None:
    inside = (beat.ed == Structure.LV) | (beat.ed == Structure.MYO)

    def length(field: Tensor) -> float:
        return field.norm(dim=1)[0][inside].mean().item()

    assert length(beat.to_ed) > 3
    assert length(compose(beat.to_es, beat.to_ed)) < 0.02 * length(beat.to_ed)
    assert length(compose(beat.to_ed, beat.to_ed)) > 1.5 * length(beat.to_ed)


def test_the_jacobian_tells_the_walls_incompressibility_and_the_ejection(beat: Beat) -> None:
    """The wall keeps its volume exactly; the cavity at ES looks at EDV/ESV times its own."""
    heart = beat.heart
    determinant = jacobian_determinant(beat.to_es)[0]
    assert determinant[beat.es == Structure.MYO].median().item() == pytest.approx(1.0, abs=0.01)
    cavity = determinant[beat.es == Structure.LV].mean().item()
    assert cavity == pytest.approx(heart.edv_ml / heart.esv_ml, rel=0.03)
    assert determinant[beat.es > 0].min() > 0.3


def test_half_precision_and_autocast_do_not_touch_the_arithmetic() -> None:
    image, velocity = noise(12, 1, 1, 20, 26).float(), smooth(13, 2, (20, 26), 2.0)[:1].float()

    def all_of_it(images: Tensor, field: Tensor) -> list[Tensor]:
        moved = integrate(field)
        return [
            moved,
            warp(images, moved),
            compose(moved, field),
            resize_field(moved, (10, 13)),
            jacobian_determinant(moved),
        ]

    expected = all_of_it(image, velocity)
    with torch.autocast("cpu", torch.bfloat16):
        for found, wanted in zip(all_of_it(image, velocity), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    halves = all_of_it(image.bfloat16(), velocity.bfloat16())
    assert all(found.dtype == torch.float32 for found in halves)
    torch.testing.assert_close(halves[0], integrate(velocity.bfloat16().float()), rtol=0, atol=0)


@pytest.mark.parametrize(("components", "size"), GRIDS)
def test_gradients_are_those_of_finite_differences(components: int, size: tuple[int, ...]) -> None:
    small = tuple(min(side, 5) for side in size)
    image, velocity = noise(14, 1, 1, *small), 0.7 * noise(15, 1, components, *small)
    velocity.requires_grad_()
    direction = noise(16, *velocity.shape)

    def value(v: Tensor) -> Tensor:
        return warp(image, integrate(v, steps=3)).square().sum()

    (slope,) = torch.autograd.grad(value(velocity), velocity)
    step = 1e-6
    with torch.no_grad():
        change = (value(velocity + step * direction) - value(velocity - step * direction)) / (2 * step)
    assert (slope * direction).sum().item() == pytest.approx(change.item(), rel=1e-4)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 1, 8, 8), (1, 1, 4, 8, 8), (1, 2, 8)])
def test_a_field_of_other_components_than_axes_is_refused(shape: tuple[int, ...]) -> None:
    field = torch.zeros(shape)
    words = rf"displacement: needs channels \(y, x\).* got {shape[1]} channels on {len(shape) - 2} axes"
    for refused in (integrate, jacobian_determinant, lambda f: resize_field(f, f.shape[2:])):
        with pytest.raises(SettingsError, match=words):
            refused(field)
    with pytest.raises(SettingsError, match=words):
        warp(torch.zeros(1, 1, *shape[2:]), field)
