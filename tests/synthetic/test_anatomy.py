"""The beating heart against arithmetic, Monte Carlo and finite differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from crossbeat.errors import SettingsError
from crossbeat.labels import Structure, looks_swapped, surrounded_fraction
from crossbeat.synthetic import GROUPS, Heart, render_isotropic
from crossbeat.synthetic.anatomy import LABEL_OF_TISSUE
from crossbeat.synthetic.shape import Shape
from crossbeat.synthetic.tissue import Tissue

LV, MYO, RV = Structure.LV, Structure.MYO, Structure.RV
ROUND = Shape(
    endo_mm=25.0, endo_length_mm=50.0, truncation=0.0, wall_mm=10.0, apex_mm=10.0, ovality=0.0, bump=0.0,
    bump_rad=0.0, rv_centre_mm=28.0, rv_depth_mm=36.0, rv_height_mm=44.0, rv_length_mm=60.0, rv_level_mm=2.0,
    rv_rad=0.0, rv_wall_mm=3.0, relief=0.0,
)  # fmt: skip


@pytest.fixture(scope="module", params=GROUPS)
def heart(request: pytest.FixtureRequest) -> Heart:
    return Heart.draw(np.random.default_rng(3), request.param)


def _ml(heart: Heart, phase: float, spacing_mm: float) -> dict[int, float]:
    case = render_isotropic(heart, phase, spacing_mm)
    assert case.labels is not None
    voxel = float(np.prod(case.spacing_mm)) / 1000
    return {k: float((case.labels == k).sum()) * voxel for k in range(6)}


def _wall_points(heart: Heart, n: int = 400) -> np.ndarray:
    """Points of the LV wall at end diastole, RAS mm, away from its surfaces."""
    points = heart.heart_to_mm(np.random.default_rng(0).uniform((-50, -50, 2), (50, 50, 110), (n * 60, 3)))
    x, y, z = ((points - heart.base_mm) @ heart.axes_matrix.T).T
    r2 = x * x + y * y
    r = np.sqrt(r2)
    cut = heart.shape.surfaces(z, x / r, y / r)
    inside = (r > np.sqrt(cut.endocardium) + 0.3) & (r < np.sqrt(cut.epicardium) - 0.3)
    return points[inside & (z < heart.shape.length_mm - 4)][:n]


def test_half_an_ellipsoid_has_the_volume_of_the_book() -> None:
    # cut at the equator: 2/3 π a² c, with a 25, c 50 inside and 35, 60 outside
    inside, outside = 2 / 3 * np.pi * 25**2 * 50 / 1000, 2 / 3 * np.pi * 35**2 * 60 / 1000
    assert ROUND.lv_cavity_ml() == pytest.approx(inside, rel=1e-9)
    assert ROUND.lv_wall_ml() == pytest.approx(outside - inside, rel=1e-9)


def test_the_scar_of_a_ring_is_its_share_of_the_wall() -> None:
    from crossbeat.synthetic.shape import Scar

    # No concentration and an endless height: the whole wall, half through
    scar = Scar(0.0, 0.0, 0.0, 1e9, transmurality=0.5, no_reflow=0.0, weakness=0.0)
    assert replace(ROUND, scar=scar).scar_ml() == pytest.approx(ROUND.lv_wall_ml() / 2, rel=1e-4)


@pytest.mark.slow
def test_analytic_volumes_are_those_of_a_random_count(heart: Heart) -> None:
    """One random point in each cube of 2.2 mm."""
    rng, step, r = np.random.default_rng(1), 2.2, heart.shape.widest_mm() + 4
    sides = np.arange(-r, r, step), np.arange(-r, r, step), np.arange(-14, heart.shape.length_mm + 2, step)
    corners = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 3)
    points = heart.heart_to_mm(corners + rng.uniform(0, step, corners.shape))
    for phase in (0.0, heart.motion.es_phase):
        labels = LABEL_OF_TISSUE[heart.classify(points, phase)]
        ml = np.bincount(labels, minlength=6) * step**3 / 1000
        truth = heart.volumes_ml(phase)
        assert ml[LV] == pytest.approx(truth.lv_ml, rel=0.02)
        assert ml[RV] == pytest.approx(truth.rv_ml, rel=0.02)
        wall = ml[MYO] + ml[Structure.SCAR] + ml[Structure.EDEMA]
        assert wall * 1.05 == pytest.approx(heart.mass_g, rel=0.02)


@pytest.mark.slow
def test_a_fine_isotropic_grid_gives_the_analytic_indices() -> None:
    heart = Heart.draw(np.random.default_rng(5), "MINF")
    end_diastole, end_systole = (_ml(heart, p, 1.0) for p in (0.0, heart.motion.es_phase))
    ef = 100 * (end_diastole[LV] - end_systole[LV]) / end_diastole[LV]
    assert end_diastole[LV] == pytest.approx(heart.edv_ml, rel=0.02)
    assert end_systole[LV] == pytest.approx(heart.esv_ml, rel=0.02)
    assert ef == pytest.approx(heart.ef_percent, rel=0.02)
    assert end_diastole[Structure.SCAR] * 1.05 == pytest.approx(heart.scar_g, rel=0.02)


def test_the_wall_is_incompressible(heart: Heart) -> None:
    points, h = _wall_points(heart), 1e-4
    for phase in (0.15, heart.motion.es_phase, 0.6):
        columns = []
        for axis in np.eye(3):
            ahead, behind = points + h * axis, points - h * axis
            moved = heart.displacement_mm(ahead, phase) - heart.displacement_mm(behind, phase)
            columns.append(axis + moved / (2 * h))
        determinant = np.linalg.det(np.stack(columns, axis=-1))
        np.testing.assert_allclose(determinant, 1, atol=2e-5)


def test_the_way_back_is_the_inverse_everywhere(heart: Heart) -> None:
    points = heart.heart_to_mm(np.random.default_rng(2).uniform(-140, 140, (20_000, 3)))
    for phase in (0.1, 0.35, 0.8):
        moved = points + heart.displacement_mm(points, phase)
        np.testing.assert_allclose(heart.origin_mm(moved, phase), points, atol=1e-6)


def test_nothing_moves_at_end_diastole_nor_far_away(heart: Heart) -> None:
    points = heart.heart_to_mm(np.random.default_rng(2).uniform(-250, 250, (5_000, 3)))
    np.testing.assert_allclose(heart.displacement_mm(points, 0.0), 0, atol=1e-9)
    far = np.linalg.norm(points - heart.base_mm, axis=1) > 240
    np.testing.assert_allclose(heart.displacement_mm(points[far], 0.35), 0, atol=1e-9)


def test_the_field_is_continuous_across_all_surfaces(heart: Heart) -> None:
    rng = np.random.default_rng(4)
    points = heart.heart_to_mm(rng.uniform((-70, -70, -60), (70, 70, 110), (20_000, 3)))
    step = rng.normal(0, 1, points.shape)
    step *= 1e-5 / np.linalg.norm(step, axis=1, keepdims=True)
    change = heart.displacement_mm(points + step, 0.35) - heart.displacement_mm(points, 0.35)
    away = np.linalg.norm(((points - heart.base_mm) @ heart.axes_matrix.T)[:, :2], axis=1) > 1
    assert np.linalg.norm(change[away], axis=1).max() < 1e-4  # a jump would be of the order of 1 mm


def test_tissue_moves_with_the_field(heart: Heart) -> None:
    points, phase = _wall_points(heart), heart.motion.es_phase
    moved = points + heart.displacement_mm(points, phase)
    np.testing.assert_array_equal(heart.classify(moved, phase), heart.classify(points, 0.0))


def test_volumes_follow_one_beat() -> None:
    heart = Heart.draw(np.random.default_rng(0), "NOR")
    phases = np.linspace(0, 1, 200, endpoint=False)
    lv = np.array([heart.volumes_ml(p).lv_ml for p in phases])
    assert lv.argmax() == 0
    assert phases[lv.argmin()] == pytest.approx(heart.motion.es_phase, abs=0.01)
    ejecting = phases < heart.motion.es_phase - 0.01
    assert (np.diff(lv)[ejecting[:-1]] <= 0).all()
    assert (np.diff(lv)[~ejecting[:-1]] > -0.2).all()
    assert heart.volumes_ml(1.0) == heart.volumes_ml(0.0)
    assert heart.esv_ml == pytest.approx(heart.edv_ml * (1 - heart.ef_percent / 100))


def test_strains_have_the_signs_of_a_contraction(heart: Heart) -> None:
    at_rest, squeezed = heart.strains(0.0), heart.strains(heart.motion.es_phase)
    np.testing.assert_allclose(at_rest, 0, atol=1e-9)
    assert squeezed.longitudinal == pytest.approx(-heart.motion.shortening)
    assert squeezed.circumferential < -0.02
    assert squeezed.radial > 0.05


def test_an_infarct_thickens_less_than_the_wall_opposite() -> None:
    heart = Heart.draw(np.random.default_rng(5), "MINF")
    scar = heart.shape.scar
    assert scar is not None

    def thickening(angle: float) -> float:
        direction = np.array([np.cos(angle), np.sin(angle)])
        z = np.array([scar.height_mm])
        cut = heart.shape.surfaces(z, direction[:1], direction[1:])
        ends = [np.array([*(direction * np.sqrt(q[0])), z[0]]) for q in (cut.endocardium, cut.epicardium)]
        points = heart.heart_to_mm(np.array(ends))
        moved = points + heart.displacement_mm(points, heart.motion.es_phase)
        before, after = (float(np.linalg.norm(p[1] - p[0])) for p in (points, moved))
        return after / before - 1

    assert thickening(scar.centre_rad) < 0.5 * thickening(scar.centre_rad + np.pi)


@pytest.mark.slow
def test_groups_differ_as_their_diseases_do() -> None:
    hearts = {g: [Heart.draw(np.random.default_rng(i), g) for i in range(6)] for g in GROUPS}

    def mean(value: Callable[[Heart], float]) -> dict[str, float]:
        return {group: float(np.mean([value(heart) for heart in drawn])) for group, drawn in hearts.items()}

    edv, ef, mass = (mean(f) for f in (lambda h: h.edv_ml, lambda h: h.ef_percent, lambda h: h.mass_g))
    assert edv["DCM"] > 1.5 * edv["NOR"] > edv["HCM"]
    assert ef["HCM"] > ef["NOR"] > 50 > ef["MINF"]
    assert ef["DCM"] < 40
    assert mass["HCM"] > 1.5 * mass["NOR"]
    rv = mean(lambda h: h.volumes_ml(0).rv_ml)
    assert rv["RV"] > 1.3 * rv["NOR"]
    scar = mean(lambda h: h.scar_g)
    assert scar["MINF"] > 3
    assert scar["NOR"] == 0


@pytest.mark.slow
def test_myocardium_surrounds_the_left_cavity_and_not_the_right(heart: Heart) -> None:
    case = render_isotropic(heart, 0.0, 2.0)
    assert case.labels is not None
    below_base = case.labels[:, : int((heart.shape.length_mm + 8) / 2.0)]
    assert surrounded_fraction(below_base, LV) > 0.97
    assert surrounded_fraction(below_base, RV) < 0.6
    assert not looks_swapped(below_base)


def test_papillary_muscles_count_as_cavity() -> None:
    assert LABEL_OF_TISSUE[Tissue.PAPILLARY] == LV
    assert LABEL_OF_TISSUE[Tissue.RV_TRABECULA] == RV
    assert LABEL_OF_TISSUE[Tissue.NO_REFLOW] == Structure.SCAR
    assert LABEL_OF_TISSUE[Tissue.RV_WALL] == 0


def test_the_chest_holds_the_heart(heart: Heart) -> None:
    from crossbeat.synthetic.chest import chest_tissue

    case_points = _wall_points(heart)
    around = chest_tissue(heart.chest, *case_points.T)
    outside = np.isin(around, (Tissue.AIR, Tissue.SKIN, Tissue.BONE, Tissue.MARROW))
    assert outside.mean() < 0.01  # stomach gas apart, the heart's place is inside the ribs


def test_an_unknown_group_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"group 'DMC' does not exist; did you mean 'DMD' or 'DCM'"):
        Heart.draw(np.random.default_rng(0), "DMC")
