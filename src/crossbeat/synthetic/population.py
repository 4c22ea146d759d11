"""Ventricles drawn at random from the ranges of each group, solved so that volumes, EF and mass are as drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
from scipy import optimize

from crossbeat.synthetic.motion import Motion
from crossbeat.synthetic.shape import MYOCARDIAL_DENSITY_G_PER_ML, Scar, Shape


class Range(NamedTuple):
    """A normal distribution without its tails: what lies beyond 2 standard deviations is drawn again."""

    mean: float
    sd: float

    def draw(self, rng: np.random.Generator) -> float:
        while abs(deviation := float(rng.standard_normal())) > 2:
            pass
        return self.mean + self.sd * deviation


@dataclass(frozen=True)
class Ranges:
    """What is drawn of a subject's ventricles."""

    edv_ml: Range
    ef_percent: Range
    mass_g: Range
    rv_edv_ml: Range
    rv_ef_percent: Range
    elongation: Range
    """Semi-axis of the cavity over its radius."""
    shortening: Range
    """Share of the length lost at end systole."""
    twist_apex_deg: Range
    bump: Range
    ovality: Range


_SHAPE: Final = Range(2.12, 0.09)  # ours: gives lengths of 80 to 100 mm at normal volumes
# Vo 2018, doi 10.1016/j.jcmg.2016.12.025, pools 659 healthy hearts on CMR: longitudinal -20.1 % (95 % CI -20.9 to
# -19.3), circumferential -23.0 % (-24.3 to -21.7), radial 34.1 % (28.5 to 39.7). Ours has the first;
# the ejection fraction then sets the second (about -20 %, of the mid-wall, which shortens less than the endocardium
# that feature tracking follows), and the incompressible wall the third: it thickens by the inverse of what it
# shortens, by about 57 %, more than feature tracking sees.
_SHORTENING: Final = Range(0.195, 0.015)
_BUMP: Final = Range(0.12, 0.05)  # ours: the septum is a little thicker than the lateral wall in health
_ROUND: Final = Range(0.0, 0.015)  # ours
_TWIST: Final = Range(9.0, 2.0)  # apical rotation, Lorenz 2000, doi 10.3109/10976640009148677

# Means of the UK Biobank, Petersen 2017, doi 10.1186/s12968-017-0327-9, healthy men and women of 45 to 74 years.
# Of the spreads, those of LV EF are his and those of mass near his 9 and 7 g/m2; those of volumes and RV EF are
# narrowed, ours. Whom ACDC would not call normal is drawn again, so NOR has smaller ventricles than his means.
_HEALTHY: Final = {
    "male": Ranges(
        Range(166, 28),
        Range(58, 5),
        Range(103, 17),
        Range(182, 30),
        Range(54, 5),
        _SHAPE,
        _SHORTENING,
        _TWIST,
        _BUMP,
        _ROUND,
    ),
    "female": Ranges(
        Range(124, 19),
        Range(61, 5),
        Range(70, 11),
        Range(130, 20),
        Range(58, 5),
        _SHAPE,
        _SHORTENING,
        _TWIST,
        _BUMP,
        _ROUND,
    ),
}

# Volumes, masses and shapes of the sick are ours, such that most draws meet `meets_criteria`.
_WOMAN: Final = 0.84  # ours: a woman's heart over a man's
BODY_SURFACE_M2: Final[Mapping[str, float]] = MappingProxyType({"male": 2.0, "female": 1.75})
"""Ours: near those of Petersen 2017, whose men have 103 g of LV mass at 53 g/m2 and whose women 70 g at 42 g/m2."""


# Boys of about 12 years and 1.21 m2. Means of the healthy: Valsangiacomo Buechel 2009, doi 10.1186/1532-429X-11-19, LV
# EDV 77.5 BSA^1.38 ml, mass 53 BSA^1.304 g, RV EDV 83.8 BSA^1.469 ml, EF 61 and 58 %; the spread of 14 % is her 10 %
# and the bodies'. Those with Duchenne dystrophy are ours: like those of Mavrogeni 2017, doi 10.1186/s12872-017-0627-x,
# whose EF was mildly reduced, with fibrosis of the outer posterolateral wall, and of whom some had kept theirs; none
# has thick walls (Hor 2009, doi 10.1016/j.jacc.2008.12.032).
_CHILDREN: Final = {
    "BOY": Ranges(
        Range(101, 14), Range(62, 3.5), Range(68, 9), Range(111, 15), Range(58, 4),
        _SHAPE, _SHORTENING, _TWIST, _BUMP, _ROUND,
    ),
    "DMD": Ranges(
        Range(88, 14), Range(53, 5.5), Range(56, 8), Range(94, 14), Range(55, 5),
        _SHAPE, Range(0.15, 0.02), Range(6, 2), Range(0.30, 0.08), _ROUND,
    ),
}  # fmt: skip
_CHILD: Final = 0.80  # ours: a boy's chest over a man's
HEARTS_A_MINUTE: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {"BOY": (62.0, 95.0), "DMD": (75.0, 110.0)}  # 78 (55 to 99) of Buechel's boys; dystrophy: faster, ours
)
"""Least and largest heart rate of groups that do not beat as grown-ups do."""


def body_scale(group: str) -> float:
    """Size of a chest over a grown-up's."""
    return _CHILD if group in _CHILDREN else 1.0


def _ranges(group: str, sex: str) -> Ranges:
    if group in _CHILDREN:
        return _CHILDREN[group]
    k = 1.0 if sex == "male" else _WOMAN
    healthy = _HEALTHY[sex]
    if group == "DCM":
        return replace(
            healthy,
            edv_ml=Range(280 * k, 38 * k),
            ef_percent=Range(27, 6),
            mass_g=Range(165 * k, 22 * k),
            rv_edv_ml=Range(195 * k, 35 * k),
            rv_ef_percent=Range(42, 8),
            elongation=Range(1.85, 0.08),
            shortening=Range(0.07, 0.015),
            twist_apex_deg=Range(4, 1.5),
        )
    if group == "HCM":
        return replace(
            healthy,
            edv_ml=Range(140 * k, 18 * k),
            ef_percent=Range(67, 4),
            mass_g=Range(250 * k, 26 * k),
            rv_edv_ml=Range(145 * k, 20 * k),
            shortening=Range(0.13, 0.015),
            bump=Range(0.85, 0.22),
        )
    if group == "MINF":
        return replace(
            healthy,
            edv_ml=Range(205 * k, 30 * k),
            ef_percent=Range(33, 4),
            mass_g=Range(125 * k, 17 * k),
            shortening=Range(0.09, 0.015),
            twist_apex_deg=Range(6, 2),
            elongation=Range(2.0, 0.08),
        )
    if group == "RV":
        return replace(
            healthy,
            edv_ml=Range(140 * k, 20 * k),
            ef_percent=Range(57, 5),
            rv_edv_ml=Range(265 * k, 32 * k),
            rv_ef_percent=Range(36, 7),
            ovality=Range(-0.05, 0.015),
        )
    return healthy


def draw_ventricles(rng: np.random.Generator, group: str) -> tuple[str, Shape, Motion]:
    """Sex, shape and motion of a subject who meets the criteria of a group: who does not is drawn again."""
    sex = "male" if rng.random() < 0.55 or group in _CHILDREN else "female"
    ranges = _ranges(group, sex)
    while True:
        shape, motion = _draw_heart(rng, ranges, group)
        if meets_criteria(group, sex, shape, motion):
            return sex, shape, motion


def meets_criteria(group: str, sex: str, shape: Shape, motion: Motion) -> bool:
    """Whether a heart is what ACDC calls the group (Bernard 2018, doi 10.1109/TMI.2018.2837502), on our bodies.

    NOR: EF > 50 %, walls < 12 mm, EDV < 90 (women 80) ml/m2, RV EDV < 100 ml/m2, RV EF > 40 %. DCM: EF < 40 %,
    EDV > 100 ml/m2, walls < 12 mm. HCM: EF > 55 %, mass > 110 g/m2, a wall > 15 mm. MINF: EF < 40 % and an infarct.
    RV: RV EDV > 110 (women 100) ml/m2 or RV EF < 40 %. Walls are those of the widest level. Ours, for children: a
    healthy boy has an EF > 55 %, one with Duchenne dystrophy 35 to 60 % and fibrosis, and neither a wall of 10 mm.
    """
    surface, woman = BODY_SURFACE_M2[sex], sex == "female"
    edv = shape.lv_cavity_ml()
    ef = 100 * (1 - motion.shortening) * motion.pull * shape.contraction_ml() / edv
    rv_edv, rv_ef = shape.rv_cavity_ml() / surface, 100 * motion.rv_ejection
    thickest = shape.thickest_wall_mm()
    if group == "BOY":
        return ef > 55 and thickest < 10
    if group == "DMD":
        return 35 < ef < 60 and shape.scar is not None and thickest < 10
    if group == "DCM":
        return ef < 40 and edv / surface > 100 and thickest < 12
    if group == "HCM":
        mass = shape.lv_wall_ml() * MYOCARDIAL_DENSITY_G_PER_ML / surface
        return ef > 55 and mass > 110 and thickest > 15
    if group == "MINF":
        return ef < 40 and shape.scar is not None
    if group == "RV":
        return rv_edv > (100 if woman else 110) or rv_ef < 40
    small = edv / surface < (80 if woman else 90) and rv_edv < 100
    return small and ef > 50 and rv_ef > 40 and thickest < 12


def _draw_heart(rng: np.random.Generator, ranges: Ranges, group: str) -> tuple[Shape, Motion]:
    edv, ef = ranges.edv_ml.draw(rng), ranges.ef_percent.draw(rng)
    # Larger hearts are heavier and have larger right sides.
    growth = (edv / ranges.edv_ml.mean) ** 0.6
    mass, rv_edv = ranges.mass_g.draw(rng) * growth, ranges.rv_edv_ml.draw(rng) * growth
    shape = _draw_shape(rng, ranges, group)
    shape = _scaled_to(shape, edv, mass, rv_edv)
    shortening = ranges.shortening.draw(rng)
    motion = Motion(
        shortening,
        _pull(shape, edv, ef, shortening),
        ranges.rv_ef_percent.draw(rng) / 100,
        float(np.deg2rad(ranges.twist_apex_deg.draw(rng))),
        float(np.deg2rad(-rng.uniform(1.5, 4.0))),  # base turns the other way, Lorenz 2000
        rng.uniform(0.33, 0.40),
        rng.uniform(0.68, 0.80),
    )
    return shape, motion


def _draw_shape(rng: np.random.Generator, ranges: Ranges, group: str) -> Shape:
    """A shape of the right proportions and one size; `_scaled_to` gives it its size."""
    elongation, bump, ovality = (r.draw(rng) for r in (ranges.elongation, ranges.bump, ranges.ovality))
    bump_rad = float(np.deg2rad(rng.normal(-20, 15)))  # the septum, a little anterior
    rv_rad = float(np.deg2rad(rng.normal(6, 5)))
    return Shape(
        endo_mm=1.0,
        endo_length_mm=elongation,
        truncation=rng.uniform(0.45, 0.55),
        wall_mm=0.3,
        apex_mm=0.2,
        ovality=ovality,
        bump=max(bump, 0.0),
        bump_rad=bump_rad,
        rv_centre_mm=1.0,
        rv_depth_mm=1.5,
        rv_height_mm=rng.uniform(1.30, 1.50),
        rv_length_mm=2.5,
        rv_level_mm=0.1,
        rv_rad=rv_rad,
        rv_wall_mm=rng.uniform(2.4, 3.4),
        relief=rng.uniform(0, 2 * np.pi),
        scar=_draw_scar(rng) if group == "MINF" else _draw_fibrosis(rng) if group == "DMD" else None,
    )


# Middle of each artery's territory around the wall and along the ventricle, after the 17 segments of
# Cerqueira 2002, doi 10.1161/hc0402.102975: left anterior descending, right coronary, left circumflex.
_TERRITORIES: Final = (("LAD", -70.0, 0.62), ("RCA", 75.0, 0.42), ("LCX", 175.0, 0.45))


def _draw_scar(rng: np.random.Generator) -> Scar:
    """An infarct in one territory; heights are shares of the cavity's length until `_scaled_to`."""
    _, degrees, height = _TERRITORIES[int(rng.integers(3))]
    return Scar(
        centre_rad=float(np.deg2rad(degrees + rng.normal(0, 10))),
        concentration=rng.uniform(1.3, 2.8),
        height_mm=height + rng.normal(0, 0.05),
        half_height_mm=rng.uniform(0.34, 0.5),
        transmurality=rng.uniform(0.45, 1.0),
        no_reflow=rng.uniform(0.4, 0.65) if rng.random() < 0.6 else 0.0,
        weakness=rng.uniform(0.75, 0.95),
    )


def _draw_fibrosis(rng: np.random.Generator) -> Scar:
    """Fibrosis of the outer lateral and inferolateral wall, as in dystrophy; heights as in `_draw_scar`.

    Puchalski 2009, doi 10.1007/s10554-008-9352-y, saw it begin under the epicardium of the posterobasal free wall; its
    size and how much weaker it makes the wall are ours.
    """
    return Scar(
        centre_rad=float(np.deg2rad(150 + rng.normal(0, 12))),
        concentration=rng.uniform(1.0, 1.8),
        height_mm=0.40 + rng.normal(0, 0.05),
        half_height_mm=rng.uniform(0.40, 0.60),
        transmurality=rng.uniform(0.25, 0.6),
        no_reflow=0.0,
        weakness=rng.uniform(0.35, 0.75),
        outer=True,
    )


def _scaled_to(shape: Shape, edv_ml: float, mass_g: float, rv_edv_ml: float) -> Shape:
    """The shape with this LV volume, wall mass and RV volume."""
    k = (edv_ml / shape.lv_cavity_ml()) ** (1 / 3)
    shape = replace(shape, endo_mm=k, endo_length_mm=k * shape.endo_length_mm)
    if shape.scar is not None:
        length, scar = shape.cavity_end_mm, shape.scar
        scar = replace(scar, height_mm=scar.height_mm * length, half_height_mm=scar.half_height_mm * length)
        shape = replace(shape, scar=scar)

    def with_wall(mm: float) -> Shape:
        return replace(shape, wall_mm=mm, apex_mm=0.6 * mm)

    wall = _solve(lambda mm: with_wall(mm).lv_wall_ml() * MYOCARDIAL_DENSITY_G_PER_ML - mass_g, 2.0, 40.0)
    shape = with_wall(wall)
    reach = shape.endo_mm + shape.wall_mm

    def with_right(share: float) -> Shape:
        return replace(
            shape,
            rv_centre_mm=0.92 * share * reach,
            rv_depth_mm=1.06 * share * reach,
            rv_height_mm=1.06 * shape.rv_height_mm * share * reach,
            rv_length_mm=0.92 * shape.length_mm,
            rv_level_mm=2.0,
        )

    return with_right(_solve(lambda share: with_right(share).rv_cavity_ml() - rv_edv_ml, 0.55, 2.5))


def _pull(shape: Shape, edv_ml: float, ef_percent: float, shortening: float) -> float:
    """The pull that empties the cavity to the wanted EF, at most to where its walls would meet."""
    wanted = edv_ml * ef_percent / 100 / ((1 - shortening) * shape.contraction_ml())
    return min(wanted, 0.95 * 1.1 / (1 - shortening))


def _solve(error: Any, low: float, high: float) -> float:
    return float(optimize.brentq(error, low, high, xtol=1e-3))
