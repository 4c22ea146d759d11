"""Clinical numbers against arithmetic and analytic shapes."""

import numpy as np
import pytest
from jaxtyping import config

from crossbeat.labels import UNKNOWN, Structure
from crossbeat.metrics import (
    ejection_fraction_percent,
    find_ed_es,
    indices,
    mass_g,
    slice_levels,
    stroke_volume_ml,
    volume_curve_ml,
    volume_ml,
    wall_thickness_mm,
)

LV, MYO, RV, SCAR, EDEMA = Structure.LV, Structure.MYO, Structure.RV, Structure.SCAR, Structure.EDEMA
SPACING = (8.0, 1.2, 1.8)


def ring(
    inner_mm: float, outer_mm: float, shift_mm: float = 0.0, shape: tuple[int, int] = (90, 70)
) -> np.ndarray:
    """One slice of pixels of 1.2 x 1.8 mm: a round wall; the cavity may sit off its centre, along x."""
    y = (np.arange(shape[0])[:, None] - 44.3) * SPACING[1]
    x = (np.arange(shape[1])[None, :] - 34.6) * SPACING[2]
    plane = np.zeros(shape, np.uint8)
    plane[np.hypot(y, x) < outer_mm] = MYO
    plane[np.hypot(y, x - shift_mm) < inner_mm] = LV
    return plane


def ellipsoid_shell(inner_mm: tuple[float, ...], outer_mm: tuple[float, ...]) -> np.ndarray:
    """An ellipsoidal cavity in its wall, voxelised at 1 mm: half axes along z, y, x."""
    grid = np.stack(np.meshgrid(*(np.arange(-h, h + 1) for h in (52, 40, 40)), indexing="ij"))
    labels = np.zeros(grid.shape[1:], np.uint8)
    for axes, structure in ((outer_mm, MYO), (inner_mm, LV)):
        labels[sum((g / a) ** 2 for g, a in zip(grid, axes, strict=True)) < 1] = structure
    return labels


def ellipsoid_ml(axes_mm: tuple[float, ...]) -> float:
    return 4 / 3 * np.pi * np.prod(axes_mm) / 1000


def heart(*lv_voxels: int, rv_voxels: int = 20) -> np.ndarray:
    """(t, 2, 30, 10): in each frame that many LV voxels, 30 of myocardium and some of RV."""
    labels = np.zeros((len(lv_voxels), 2, 30, 10), np.uint8)
    for frame, count in zip(labels, lv_voxels, strict=True):
        frame[0].flat[:count] = LV
        frame[1].flat[:30] = MYO
        frame[1].flat[100 : 100 + rv_voxels] = RV
    return labels


def test_volume_counts_voxels_times_spacing() -> None:
    mask = np.zeros((2, 10, 10), bool)
    mask[:, :5, :5] = True  # 50 voxels of 10 x 2 x 1 mm = 1000 mm3 = 1 ml
    assert volume_ml(mask, (10.0, 2.0, 1.0)) == pytest.approx(1.0)
    assert volume_ml(np.zeros((1, 1, 1), bool), SPACING) == 0.0


def test_volume_refuses_a_label_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # the test hook would refuse it first
    with pytest.raises(TypeError, match="boolean mask, got uint8"):
        volume_ml(np.ones((2, 2, 2), np.uint8), SPACING)  # type: ignore[arg-type]


def test_mass_stroke_volume_and_ejection_fraction_on_paper() -> None:
    assert mass_g(100.0) == pytest.approx(105.0)
    assert stroke_volume_ml(150.0, 60.0) == 90.0
    assert ejection_fraction_percent(150.0, 60.0) == pytest.approx(60.0)


def test_an_ejection_fraction_of_swapped_frames_is_negative_and_of_nothing_nan() -> None:
    assert ejection_fraction_percent(60.0, 150.0) == pytest.approx(-150.0)
    assert np.isnan(ejection_fraction_percent(0.0, 0.0))
    assert np.isnan(ejection_fraction_percent(float("nan"), 10.0))
    with pytest.raises(ValueError, match="cannot be negative"):
        ejection_fraction_percent(100.0, -1.0)


def test_the_volume_curve_counts_every_frame_and_scar_as_wall() -> None:
    labels = heart(100, 40, 0)
    labels[1, 1, 0, :5] = SCAR
    labels[1, 1, 0, 5:9] = EDEMA
    voxel_ml = 8.0 * 1.2 * 1.8 / 1000
    np.testing.assert_allclose(volume_curve_ml(labels, SPACING, LV), np.array([100, 40, 0]) * voxel_ml)
    np.testing.assert_allclose(volume_curve_ml(labels, SPACING, MYO), [30 * voxel_ml] * 3)


def test_ed_is_the_largest_and_es_the_smallest_cavity() -> None:
    assert find_ed_es(np.array([90.0, 140.0, 60.0, 80.0])) == (1, 2)


def test_a_frame_without_prediction_is_not_systole() -> None:
    assert find_ed_es(np.array([120.0, 0.0, 50.0, np.nan, 110.0])) == (0, 2)


@pytest.mark.parametrize("curve", [[100.0], [100.0, 0.0], [np.nan, np.nan], [], [70.0, 70.0, 70.0]])
def test_a_heart_that_does_not_beat_has_no_phases(curve: list[float]) -> None:
    assert find_ed_es(np.array(curve)) is None


def test_a_voxelised_ellipsoid_shell_has_its_analytic_volumes() -> None:
    ed = ellipsoid_shell((44.0, 24.0, 26.0), (50.0, 33.0, 35.0))
    es = ellipsoid_shell((38.0, 17.0, 18.0), (46.0, 30.0, 32.0))
    found = indices(np.stack((ed, es)), (1.0, 1.0, 1.0))
    edv, esv = ellipsoid_ml((44, 24, 26)), ellipsoid_ml((38, 17, 18))
    assert (found.ed_frame, found.es_frame) == (0, 1)
    assert found.lv_edv_ml == pytest.approx(edv, rel=0.02)
    assert found.lv_esv_ml == pytest.approx(esv, rel=0.02)
    assert found.lv_sv_ml == pytest.approx(edv - esv, rel=0.02)
    assert found.lv_ef_percent == pytest.approx(100 * (edv - esv) / edv, rel=0.02)
    assert found.lv_mass_g == pytest.approx(1.05 * (ellipsoid_ml((50, 33, 35)) - edv), rel=0.02)


def test_a_stack_with_gaps_counts_its_slice_spacing() -> None:
    """Every eighth 1-mm slice of the ellipsoid, 8 mm apart, holds the ellipsoid's volume still."""
    axes = (44.0, 24.0, 26.0)
    stack = ellipsoid_shell(axes, (50.0, 33.0, 35.0))[::8]
    assert volume_ml(stack == LV, (8.0, 1.0, 1.0)) == pytest.approx(ellipsoid_ml(axes), rel=0.02)


def test_indices_follow_the_given_frames() -> None:
    labels = heart(50, 200, 100)
    voxel_ml = 8.0 * 1.2 * 1.8 / 1000
    found = indices(labels, SPACING, ed_frame=2, es_frame=0)
    assert (found.ed_frame, found.es_frame) == (2, 0)
    assert found.lv_edv_ml == pytest.approx(100 * voxel_ml)
    assert found.lv_ef_percent == pytest.approx(50.0)
    assert found.rv_ef_percent == pytest.approx(0.0)
    assert found.lv_mass_g == pytest.approx(30 * voxel_ml * 1.05)


def test_the_phase_that_is_not_given_is_found() -> None:
    found = indices(heart(150, 200, 100), SPACING, ed_frame=0)
    assert (found.ed_frame, found.es_frame) == (0, 2)


def test_a_still_has_mass_but_no_ejection_fraction() -> None:
    labels = heart(120)
    labels[0, 1, 0, :6] = SCAR
    found = indices(labels, SPACING)
    assert (found.ed_frame, found.es_frame) == (None, None)
    assert np.isnan([found.lv_edv_ml, found.lv_esv_ml, found.lv_ef_percent, found.rv_ef_percent]).all()
    assert found.lv_mass_g == pytest.approx(30 * 8.0 * 1.2 * 1.8 / 1000 * 1.05)
    assert found.scar_mass_g == pytest.approx(found.lv_mass_g * 6 / 30)


def test_a_still_of_a_known_phase_has_that_volume() -> None:
    found = indices(heart(120), SPACING, ed_frame=0)
    assert found.lv_edv_ml == pytest.approx(120 * 8.0 * 1.2 * 1.8 / 1000)
    assert np.isnan(found.lv_ef_percent)


def test_an_absent_structure_is_nan_and_never_zero() -> None:
    found = indices(heart(120, 60, rv_voxels=0), SPACING)
    assert found.lv_ef_percent == pytest.approx(50.0)
    assert np.isnan([found.rv_edv_ml, found.rv_esv_ml, found.rv_sv_ml, found.rv_ef_percent]).all()
    assert np.isnan(found.scar_mass_g)


@pytest.mark.parametrize("fill", [0, UNKNOWN])
def test_nothing_segmented_gives_nan_throughout(fill: int) -> None:
    found = indices(np.full((3, 2, 8, 8), fill, np.uint8), SPACING)
    values = [v for k, v in vars(found).items() if not k.endswith("frame")]
    assert np.isnan(values).all()


def test_a_frame_beyond_the_scan_is_refused() -> None:
    with pytest.raises(ValueError, match="ES frame 7 does not exist; the scan has frames 0 to 1"):
        indices(heart(2, 1), SPACING, ed_frame=0, es_frame=7)


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        (1, "m"),
        (2, "ba"),
        (3, "bma"),
        (4, "bmma"),
        (5, "bbmaa"),
        (6, "bbmmaa"),
        (7, "bbmmmaa"),
        (9, "bbbmmmaaa"),
    ],
)
def test_levels_are_thirds_from_the_larger_end(slices: int, expected: str) -> None:
    heart_mask = np.zeros((slices + 2, 30, 30), bool)
    for z in range(slices):
        heart_mask[z + 1, : 20 - 2 * z] = True  # tapers upwards in z
    levels = slice_levels(heart_mask)
    assert levels[0] == levels[-1] == "outside"
    if slices > 1:
        assert "".join(level[0] for level in levels[1:-1]) == expected
        assert "".join(level[0] for level in slice_levels(heart_mask[::-1])[1:-1]) == expected[::-1]
    else:
        assert levels[1] == "mid"


def test_a_small_slice_at_the_valves_does_not_turn_the_heart_round() -> None:
    areas = [3, 28, 26, 24, 20, 15, 9]  # the first is cut by the valve plane, smaller than the last
    heart_mask = np.zeros((7, 30, 1), bool)
    for z, area in enumerate(areas):
        heart_mask[z, :area] = True
    assert slice_levels(heart_mask)[0] == "base"
    assert slice_levels(heart_mask)[-1] == "apex"


def test_a_hole_in_the_heart_has_no_level() -> None:
    heart_mask = np.zeros((5, 4, 4), bool)
    heart_mask[[0, 1, 3, 4]] = True
    heart_mask[4, 2:] = False
    assert slice_levels(heart_mask) == ["base", "base", "outside", "apex", "apex"]


def test_an_annulus_is_as_thick_as_its_radii_differ() -> None:
    labels = np.stack([ring(22.0, 31.0)] * 3)
    found = wall_thickness_mm(labels, SPACING)
    assert found.mean_mm == pytest.approx(9.0, abs=0.15)
    assert found.max_mm == pytest.approx(9.0, abs=0.4)  # 6 segments of 1.2 x 1.8 mm pixels


def test_wall_thickness_is_that_of_the_middle_of_the_heart() -> None:
    planes = [ring(26.0, 30.0)] * 2 + [ring(20.0, 28.0)] * 2 + [ring(6.0, 9.0)] * 2
    assert wall_thickness_mm(np.stack(planes), SPACING).mean_mm == pytest.approx(8.0, abs=0.15)


def test_the_thickest_segment_of_an_eccentric_wall_is_analytic() -> None:
    """Cavity of 18 mm, 5 mm towards +x in a disc of 30 mm; segments of 60 degrees from the +x axis on.

    From the cavity's centre the outer border lies at r(a) = -d cos a + sqrt(R^2 - d^2 sin^2 a); the third
    and fourth segments (120 to 240 degrees) look at the thick side.
    """
    angle = np.linspace(0, 2 * np.pi, 6001)[:-1]
    outer = -5 * np.cos(angle) + np.sqrt(30**2 - (5 * np.sin(angle)) ** 2)
    radii = np.sqrt((outer.reshape(6, 1000) ** 2).mean(axis=1))
    found = wall_thickness_mm(np.stack([ring(18.0, 30.0, shift_mm=5.0)] * 3), SPACING)
    assert found.max_mm == pytest.approx((radii - 18).max(), abs=0.4)
    assert found.mean_mm == pytest.approx((radii - 18).mean(), abs=0.15)
    assert (radii - 18).max() > 15.5  # and it is far from the mean of 12 mm


def test_segments_turn_with_the_right_ventricle() -> None:
    """Two segments look at the RV: with the RV along +y the thick side of -x falls inside one segment."""
    plane = ring(18.0, 30.0, shift_mm=5.0)
    plane[82:88, 30:40] = RV
    angle = np.linspace(0, 2 * np.pi, 6001)[:-1] + np.pi / 2
    outer = -5 * np.cos(angle) + np.sqrt(30**2 - (5 * np.sin(angle)) ** 2)
    expected = np.sqrt((outer.reshape(6, 1000) ** 2).mean(axis=1)).max() - 18
    assert wall_thickness_mm(np.stack([plane] * 3), SPACING).max_mm == pytest.approx(expected, abs=0.4)


def test_scar_is_part_of_the_wall_and_no_wall_is_no_thickness() -> None:
    labels = np.stack([ring(20.0, 28.0)] * 3)
    scarred = labels.copy()
    scarred[:, :40][labels[:, :40] == MYO] = SCAR
    assert wall_thickness_mm(scarred, SPACING) == wall_thickness_mm(labels, SPACING)
    bare = np.where(labels == MYO, 0, labels)
    assert np.isnan([*vars(wall_thickness_mm(bare, SPACING)).values()]).all()


def test_an_open_ring_is_measured_where_it_has_a_wall() -> None:
    labels = np.stack([ring(20.0, 28.0)] * 3)
    labels[:, :, 35:][labels[:, :, 35:] == MYO] = 0  # half the wall is missing
    assert wall_thickness_mm(labels, SPACING).max_mm == pytest.approx(8.0, abs=0.4)
