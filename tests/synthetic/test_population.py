"""Who is drawn: the criteria of each group, and strains and volumes of health, over fifty hearts each."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from crossbeat.synthetic import GROUPS, Heart
from crossbeat.synthetic.population import BODY_SURFACE_M2, Range
from crossbeat.synthetic.tissue import Tissue

COUNT = 50


@cache
def hearts(group: str) -> tuple[Heart, ...]:
    return tuple(Heart.draw(np.random.default_rng(seed), group) for seed in range(COUNT))


def per_m2(heart: Heart, value: float) -> float:
    return value / BODY_SURFACE_M2[heart.sex]


def rv_edv(heart: Heart) -> float:
    return per_m2(heart, heart.volumes_ml(0).rv_ml)


def rv_ef(heart: Heart) -> float:
    ed, es = (heart.volumes_ml(phase).rv_ml for phase in (0.0, heart.motion.es_phase))
    return 100 * (1 - es / ed)


def thickest(heart: Heart) -> float:
    """Largest distance between the wall's surfaces at the widest level, along rays a degree apart."""
    angle = np.deg2rad(np.arange(360))
    z = np.full(angle.shape, heart.shape.equator_mm)
    cut = heart.shape.surfaces(z, np.cos(angle), np.sin(angle))
    return float((np.sqrt(cut.epicardium) - np.sqrt(cut.endocardium)).max())


@pytest.mark.slow
def test_the_healthy_are_what_acdc_calls_normal() -> None:
    for heart in hearts("NOR"):
        woman = heart.sex == "female"
        assert heart.ef_percent > 50
        assert per_m2(heart, heart.edv_ml) < (80 if woman else 90)
        assert rv_edv(heart) < 100
        assert rv_ef(heart) > 40
        assert thickest(heart) < 12


@pytest.mark.slow
def test_the_dilated_are_large_thin_and_weak() -> None:
    for heart in hearts("DCM"):
        assert heart.ef_percent < 40
        assert per_m2(heart, heart.edv_ml) > 100
        assert thickest(heart) < 12


@pytest.mark.slow
def test_the_hypertrophic_are_heavy_thick_and_strong() -> None:
    for heart in hearts("HCM"):
        assert heart.ef_percent > 55
        assert per_m2(heart, heart.mass_g) > 110
        assert thickest(heart) > 15


@pytest.mark.slow
def test_the_infarcted_are_weak_and_scarred() -> None:
    for heart in hearts("MINF"):
        assert heart.ef_percent < 40
        assert heart.scar_g > 0


@pytest.mark.slow
def test_the_right_ventricles_are_large_or_weak() -> None:
    for heart in hearts("RV"):
        large = 100 if heart.sex == "female" else 110
        assert rv_edv(heart) > large or rv_ef(heart) < 40
    assert sum(rv_edv(heart) > 100 and rv_ef(heart) < 40 for heart in hearts("RV")) > COUNT / 4


@pytest.mark.slow
def test_healthy_strains_are_those_of_the_literature() -> None:
    """Vo 2018, doi 10.1016/j.jcmg.2016.12.025: longitudinal within its confidence interval, -20.9 to -19.3 %.

    The circumferential strain, of the mid-wall, lies just below its -24.3 to -21.7, mostly of the endocardium. Of
    an incompressible wall the radial one is the inverse of both, here to what the mean over a bent wall makes of it.
    """
    strains = np.array([heart.strains(heart.motion.es_phase) for heart in hearts("NOR")]) * 100
    longitudinal, circumferential, radial = strains.mean(axis=0)
    assert -20.9 < longitudinal < -19.3
    assert -24.3 < circumferential < -19.0
    inverse = 100 / ((1 + longitudinal / 100) * (1 + circumferential / 100)) - 100
    assert radial == pytest.approx(inverse, abs=5)
    assert ((strains[:, 0] > -24) & (strains[:, 0] < -16)).all()
    assert ((strains[:, 1] > -30) & (strains[:, 1] < -12)).all()


@pytest.mark.slow
def test_the_sick_shorten_less_than_the_healthy() -> None:
    mean = {g: np.mean([heart.motion.shortening for heart in hearts(g)]) for g in GROUPS}
    assert mean["DCM"] < mean["MINF"] < mean["HCM"] < mean["NOR"]


def test_draws_are_normal_without_tails_and_do_not_pile_up_at_the_limits() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([Range(10.0, 2.0).draw(rng) for _ in range(4000)])
    assert drawn.min() >= 6
    assert drawn.max() <= 14
    assert drawn.mean() == pytest.approx(10, abs=0.1)
    # variance of a normal cut at 2: 1 - 2 · 2 φ(2) / (2 Φ(2) - 1) = 1 - 4 · 0.05399 / 0.9545 = 0.7737
    assert drawn.std() == pytest.approx(2 * 0.7737**0.5, rel=0.03)
    assert len(np.unique(drawn)) == drawn.size


@pytest.mark.slow
def test_the_same_seed_draws_the_same_heart() -> None:
    for group in GROUPS:
        assert Heart.draw(np.random.default_rng(7), group) == hearts(group)[7]


@pytest.mark.slow
def test_boys_are_small_quick_and_their_walls_are_thin() -> None:
    """Buechel 2009, doi 10.1186/1532-429X-11-19, at 1.21 m2: EDV 101 ml, mass 68 g, RV EDV 111 ml, EF 61 %."""
    boys, men = ([Heart.draw(np.random.default_rng(seed), g) for seed in range(12)] for g in ("BOY", "NOR"))
    assert {boy.sex for boy in boys} == {"male"}
    assert np.mean([boy.edv_ml for boy in boys]) == pytest.approx(101, abs=12)
    assert np.mean([boy.mass_g for boy in boys]) == pytest.approx(68, abs=8)
    assert np.mean([boy.volumes_ml(0).rv_ml for boy in boys]) == pytest.approx(111, abs=13)
    assert np.mean([boy.ef_percent for boy in boys]) == pytest.approx(61, abs=3)
    assert all(boy.ef_percent > 55 and thickest(boy) < 10 and 60 <= 60000 / boy.beat_ms <= 96 for boy in boys)
    assert max(boy.chest.half_width_mm for boy in boys) < np.mean([man.chest.half_width_mm for man in men])


@pytest.mark.slow
def test_dystrophy_weakens_and_scars_the_outer_lateral_wall() -> None:
    boys = [Heart.draw(np.random.default_rng(seed), "DMD") for seed in range(8)]
    assert all(35 < boy.ef_percent < 60 and thickest(boy) < 10 for boy in boys)
    assert np.mean([boy.ef_percent for boy in boys]) < 57
    for boy in boys:
        scar = boy.shape.scar
        assert scar is not None
        c, s = np.cos(np.deg2rad([180.0, 0.0])), np.sin(np.deg2rad([180.0, 0.0]))  # lateral, septal
        assert np.diff(boy.shape.wall_thickness(c, s))[0] > 0.5
        z = np.full(2, scar.height_mm)
        pull = boy.shape.contraction(z, c, s) / replace(boy.shape, scar=None).contraction(z, c, s)
        assert pull[0] < 0.85 < 0.9 < pull[1]
        cut = boy.shape.surfaces(z[:1], c[:1], s[:1])
        endo, epi = (float(np.sqrt(q[0])) for q in (cut.endocardium, cut.epicardium))
        inner, outer = (endo + share * (epi - endo) for share in (0.05, 0.95))
        points = np.array([[r * c[0], r * s[0], scar.height_mm] for r in (inner, outer)])
        found = boy.classify(boy.heart_to_mm(points), 0.0)
        assert found[0] == Tissue.MYOCARDIUM
        assert found[1] == Tissue.SCAR
