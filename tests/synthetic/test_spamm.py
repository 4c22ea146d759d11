"""The phantom's tags: against the training simulator, pulse by pulse, and where the tissue has carried them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from crossbeat.labels import Structure
from crossbeat.synthetic import Heart, spamm
from crossbeat.synthetic.cohort import Scan, displacement_mm, draw_subject, scan_heart, scan_twins
from crossbeat.synthetic.sampling import Slice
from crossbeat.synthetic.scanners import SCANNERS, TagProtocol
from crossbeat.synthetic.signal import relaxation
from crossbeat.synthetic.spamm import LEVELS, TagGrid
from crossbeat.synthetic.tagging import Simulation, draw, modulation, tag_lines
from crossbeat.synthetic.tissue import NOWHERE, Tissue

PROTOCOL = TagProtocol(7.0, 30.0, (1, 3, 3, 1), 80.0, 4.0, 5.0)
GRID = TagGrid(PROTOCOL, (30.0, -60.0), (0.7, 2.1), 45.0)


@cache
def boy() -> Heart:
    return draw_subject(3, 0, "BOY")


@cache
def scan() -> Scan:
    """One slice of a boy, 8 frames, with its motion."""
    return scan_heart(boy(), "tagged", "c", frames=8, slices=1, motion=True)


def middle_cut(heart: Heart, pixel_mm: float, size: int, thickness_mm: float) -> Slice:
    right, down = -heart.axes_matrix[0] * pixel_mm, heart.axes_matrix[1] * pixel_mm
    middle = heart.heart_to_mm(np.array([0, 0, 0.45 * heart.shape.length_mm]))
    origin = middle - (right + down) * size / 2
    return Slice(origin, right, down, -heart.axes_matrix[2], (size, size), thickness_mm)


def grid_lines(pixel_mm: float, size: int, displacement: torch.Tensor | None = None) -> np.ndarray:
    """The same tags by the training simulator."""
    tags = replace(
        draw(Simulation(), 1, torch.Generator()),
        spacing=torch.tensor([PROTOCOL.spacing_mm], dtype=torch.float64),
        across_deg=torch.tensor([GRID.across_deg], dtype=torch.float64),
        phase_rad=torch.tensor([GRID.phase_rad], dtype=torch.float64),
        flip_deg=torch.tensor([PROTOCOL.flip_deg], dtype=torch.float64),
    )
    found = tag_lines(tags, PROTOCOL.train, (size, size), (pixel_mm, pixel_mm), displacement)
    return np.asarray(found[0].numpy())


@pytest.mark.parametrize("vendor", SCANNERS)
def test_spinors_give_what_the_training_simulator_gets_from_rotations(vendor: str) -> None:
    protocol = SCANNERS[vendor].tags
    theta = np.linspace(-4, 9, 300)
    expected = modulation(
        torch.from_numpy(theta)[None, None],
        torch.tensor([protocol.flip_deg], dtype=torch.float64),
        protocol.train,
    )
    found = spamm.left_along_z(theta, protocol.flip_deg, protocol.train)
    np.testing.assert_allclose(found, expected[0, 0].numpy(), atol=1e-12)


def test_more_than_a_right_angle_turns_the_magnetisation_over() -> None:
    assert spamm.left_along_z(np.zeros(1), 100.0, (1, 2, 1))[0] == pytest.approx(np.cos(np.deg2rad(100)))


@pytest.mark.parametrize("tissue", [Tissue.MYOCARDIUM, Tissue.FAT, Tissue.LV_BLOOD])
def test_the_signal_is_what_pulse_after_pulse_over_many_beats_settles_to(tissue: Tissue) -> None:
    at, beat_ms, pulses = relaxation(tissue, 1.5), 800.0, 160
    t1_ms = GRID.inflow_t1_ms if tissue == Tissue.LV_BLOOD else at.t1_ms
    left, cos, e = 0.3, np.cos(np.deg2rad(4.0)), np.exp(-5.0 / t1_ms)
    m, course = at.density, np.zeros(pulses)
    for _ in range(60):
        m *= left
        for n in range(pulses):
            course[n] = m
            m = at.density + (m * cos - at.density) * e
    column = int(np.argmin(np.abs(LEVELS - left)))
    for n in (0, 40, 120):
        table = spamm.tagged_table(1.5, GRID, n / pulses, beat_ms)
        expected = course[n] * np.sin(np.deg2rad(4.0)) * np.exp(-2.5 / at.t2_ms)
        assert table[tissue, column] == pytest.approx(expected, rel=1e-5)


def test_without_tags_the_signal_stays_what_it_is() -> None:
    still = spamm.untagged_table(3.0, PROTOCOL)
    for phase in (0.0, 0.4, 0.9):
        np.testing.assert_allclose(spamm.tagged_table(3.0, GRID, phase, 900.0)[:, -1], still, rtol=1e-5)


def test_the_tissue_carries_its_tags_along() -> None:
    """At a phase lines are what the training simulator draws with the exact displacement; the chest keeps its own."""
    heart, pixel, size = boy(), 0.8, 160
    cut, phase = middle_cut(heart, pixel, size, 0.01), 0.3
    laid = spamm.lay(GRID, cut)
    np.testing.assert_allclose(np.abs(laid), grid_lines(pixel, size), atol=0.03)
    moved = displacement_mm(heart, cut, np.array([phase]))
    in_plane = torch.from_numpy(moved[:, 1:].astype(np.float64))
    carried = spamm.carry(GRID, heart, cut, phase, laid)
    rows, columns = np.arange(size)[:, None], np.arange(size)[None, :]
    beating = heart.heart_tissue_at(*cut.points_mm(rows, columns), phase) != NOWHERE
    difference = np.abs(np.abs(carried) - grid_lines(pixel, size, in_plane))
    assert np.quantile(difference[beating], 0.99) < 0.06  # means over a pixel beside its middle
    assert np.abs(carried - laid)[beating].max() > 0.5
    np.testing.assert_array_equal(carried[~beating], laid[~beating])


def test_the_displacement_leads_back_to_where_the_tissue_lay() -> None:
    """Pushed forward from there, it is where it is now; through the slice too."""
    heart = boy()
    cut = middle_cut(heart, 3.0, 40, 8.0)
    moved = displacement_mm(heart, cut, np.array([0.0, 0.33]))
    assert np.abs(moved[0]).max() < 1e-4
    points = np.stack(cut.points_mm(np.arange(40)[:, None], np.arange(40)[None, :]), axis=-1)
    axes = np.stack([cut.normal, cut.down_mm / 3, cut.right_mm / 3])
    origin = points + np.moveaxis(moved[1], 0, -1) @ axes
    beating = heart.heart_tissue_at(*np.moveaxis(points, -1, 0), 0.33) != NOWHERE
    again = origin + heart.displacement_mm(origin, 0.33)
    np.testing.assert_allclose(again[beating], points[beating], atol=1e-3)
    assert np.abs(moved[1, 0]).max() > 3  # the base comes down
    assert not moved[:, :, ~beating][1].any()


@pytest.mark.slow
def test_a_tagged_scan_is_a_cine_of_one_slice_with_three_structures() -> None:
    found = scan()
    assert found.image.shape[:2] == (8, 1)
    assert set(np.unique(found.labels)) == {0, Structure.LV, Structure.MYO, Structure.RV}
    assert (found.ed_frame, found.es_frame) == (
        0,
        int(np.argmin((found.labels == Structure.LV).sum((1, 2, 3)))),
    )
    assert found.frame_interval_ms == pytest.approx(boy().beat_ms / 8)
    assert found.displacement_mm is not None
    assert found.displacement_mm.shape == (8, 3, 1, 256, 256)


@pytest.mark.slow
def test_lines_are_strong_in_the_first_frame_fade_in_the_wall_and_leave_the_blood() -> None:
    found = scan()
    spread = {}
    for structure in (Structure.MYO, Structure.LV):
        inside = found.labels[:, 0] == structure
        spread[structure] = [
            float(image[mask].std() / image[mask].mean())
            for image, mask in zip(found.image[:, 0], inside, strict=True)
        ]
    wall, blood = spread[Structure.MYO], spread[Structure.LV]
    assert wall[0] > 0.4
    assert blood[0] > 0.4
    assert wall[0] > wall[1] > wall[3] > wall[6]
    assert wall[2] > 0.2
    assert blood[2] < 0.25  # papillary muscles stay


def test_other_subjects_have_other_lines_and_the_same_one_the_same() -> None:
    grids = [spamm.draw_grid(np.random.default_rng(seed), PROTOCOL) for seed in (1, 2, 1)]
    assert grids[0] == grids[2]
    assert grids[0].across_deg != grids[1].across_deg
    assert grids[0].phase_rad != grids[1].phase_rad
    for grid in grids:
        assert abs(grid.across_deg[0] - PROTOCOL.angle_deg) <= 8
        assert grid.across_deg[0] - grid.across_deg[1] == pytest.approx(90)
        assert 30 <= grid.inflow_t1_ms <= 60


@pytest.mark.slow
def test_twins_are_one_heart_voxel_by_voxel_and_lines_can_be_drawn_from_the_first_onto_the_second() -> None:
    """Tags drawn on the cine with its displacement follow those of the tagged scan far better than tags that stand."""
    twins = scan_twins(boy(), "d", "c", frames=5, slices=1)
    np.testing.assert_array_equal(twins.cine.labels, twins.tagged.labels)
    np.testing.assert_array_equal(twins.cine.affine, twins.tagged.affine)
    np.testing.assert_array_equal(twins.cine.image, scan_heart(boy(), "bssfp", "d", frames=5, slices=1).image)
    assert twins.cine.displacement_mm is not None
    wall = twins.cine.labels[1, 0] == Structure.MYO
    protocol, pixel = twins.tags.protocol, SCANNERS["d"].protocols["bssfp"].pixel_mm
    tags = replace(
        draw(Simulation(), 1, torch.Generator()),
        spacing=torch.tensor([protocol.spacing_mm], dtype=torch.float64),
        across_deg=torch.tensor([twins.tags.across_deg], dtype=torch.float64),
        phase_rad=torch.tensor([twins.tags.phase_rad], dtype=torch.float64),
        flip_deg=torch.tensor([protocol.flip_deg], dtype=torch.float64),
    )
    moved = torch.from_numpy(twins.cine.displacement_mm[1, 1:, 0][None].astype(np.float64))
    alike = []
    for displacement in (moved, None):
        lines = tag_lines(tags, protocol.train, wall.shape, (pixel, pixel), displacement)[0].numpy()
        alike.append(np.corrcoef(lines[wall], twins.tagged.image[1, 0][wall])[0, 1])
    assert alike[0] > 0.7
    assert alike[0] > alike[1] + 0.3
    again = scan_twins(boy(), "d", "c", frames=5, slices=1, retake=1)
    np.testing.assert_array_equal(again.cine.image, twins.cine.image)
    np.testing.assert_array_equal(again.tagged.labels, twins.tagged.labels)
    assert again.tags.phase_rad != twins.tags.phase_rad
