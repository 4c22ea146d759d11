"""The two ventricles at end diastole: surfaces in closed form, volumes by exact quadrature, and the scar.

Everything stands in the heart's own frame, in mm: z runs along the long axis from the middle of the mitral
plane (0) to the apex, x towards the right ventricle (the septum), y = z cross x towards the diaphragm.
Angles around the long axis count from the septum: 90 degrees is inferior, 180 lateral, 270 anterior.
Surfaces are given as squared radii, because the motion moves squared radii.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

MYOCARDIAL_DENSITY_G_PER_ML: Final = 1.05
"""Density of myocardium, Vinnakota 2004, doi 10.1152/ajpheart.00478.2003 (1.053); 1.05 is the field's habit."""

_EXTENDED_ABOVE_MM: Final = 18.0
RV_ABOVE_MM: Final = 12.0
"""How far the RV, with its outflow tract, reaches above the mitral plane."""
_INSERTION_MM: Final = 2.0
_ANGLES: Final = 120
_HEIGHTS: Final = 24


class Surfaces(NamedTuple):
    """Squared distances from the long axis of the surfaces on one ray, from inside out, in mm²."""

    endocardium: Floats
    epicardium: Floats
    """Outer surface of the LV wall; on the septum the RV blood begins here."""
    right: Floats
    """Inner surface of the free wall of the RV; equal to the epicardium where there is no RV."""
    outside: Floats
    """Outer surface of that wall."""


@dataclass(frozen=True)
class Scar:
    """An infarct in the territory of one coronary artery, subendocardial up to its transmurality."""

    centre_rad: float
    concentration: float
    """Of its von Mises profile around the wall: the larger, the narrower."""
    height_mm: float
    half_height_mm: float
    transmurality: float
    """Largest share of the wall, counted from the endocardium, that is scarred; (0, 1]."""
    no_reflow: float
    """Share of the scar's depth whose core contrast never reaches; 0 for none."""
    weakness: float
    """Share of the contraction that is lost in its centre, [0, 1]."""
    edge: float = 0.35
    """Profile at which the scar begins."""
    outer: bool = False
    """Whether it counts from the epicardium, as fibrosis of the free wall does, and swells nothing."""

    def profile(self, z: Floats, c: Floats, s: Floats) -> Floats:
        """1 in the middle of the infarct, falling smoothly to 0; (c, s) are cosine and sine of the angle."""
        along = c * float(np.cos(self.centre_rad)) + s * float(np.sin(self.centre_rad))
        around = np.exp(self.concentration * (along - 1))
        return np.asarray(around * np.exp(-(((z - self.height_mm) / self.half_height_mm) ** 2)))

    def depth(self, profile: Floats) -> Floats:
        """Share of the wall, from the endocardium, that is scarred where the profile has this value."""
        return np.asarray(
            self.transmurality * np.clip((profile - self.edge) / (0.35 * (1 - self.edge)), 0, 1)
        )


@dataclass(frozen=True)
class Shape:
    """A truncated-ellipsoid left ventricle and the crescent of the right one around its septum."""

    endo_mm: float
    """Radius of the LV cavity at its equator."""
    endo_length_mm: float
    """Semi-axis of the LV cavity along z."""
    truncation: float
    """Where the mitral plane cuts the ellipsoid, as a share of that semi-axis above the equator."""
    wall_mm: float
    """Wall thickness at the equator, without the bump."""
    apex_mm: float
    """Wall thickness at the apex."""
    ovality: float
    """Share by which the cavity is wider along x than round; negative for a flattened septum."""
    bump: float
    """Asymmetric hypertrophy: extra thickness of the bump as a share of `wall_mm`."""
    bump_rad: float
    rv_centre_mm: float
    """Distance of the middle of the RV's ellipse from the long axis, at the level where it is widest."""
    rv_depth_mm: float
    """Semi-axis of that ellipse away from the septum; larger than `rv_centre_mm`."""
    rv_height_mm: float
    """Semi-axis along the septum."""
    rv_length_mm: float
    rv_level_mm: float
    rv_rad: float
    """Direction of the RV's centre."""
    rv_wall_mm: float
    relief: float
    """A random angle for what no formula needs to be the same in two hearts: trabeculae, fat."""
    scar: Scar | None = None

    @property
    def equator_mm(self) -> float:
        """Height z of the widest level."""
        return self.truncation * self.endo_length_mm

    @property
    def cavity_end_mm(self) -> float:
        """Height z at which the LV cavity ends."""
        return self.equator_mm + self.endo_length_mm

    @property
    def length_mm(self) -> float:
        """Height z of the outer apex, the length of the ventricle."""
        return self.cavity_end_mm + self.apex_mm

    def roundness(self, z: Floats) -> Floats:
        """Squared share of the cavity's full radius at height z: 1 at the equator, 0 from the apex on."""
        height = np.maximum(z, -_EXTENDED_ABOVE_MM)
        return np.maximum(1 - ((height - self.equator_mm) / self.endo_length_mm) ** 2, 0)

    def cavity_radius(self, c: Floats, s: Floats) -> Floats:
        """Radius of the cavity at its equator in one direction, mm."""
        return self.endo_mm * (1 + self.ovality * (c * c - s * s))

    def wall_thickness(self, c: Floats, s: Floats) -> Floats:
        """Wall at the equator in one direction, mm: thicker in the bump."""
        along = c * float(np.cos(self.bump_rad)) + s * float(np.sin(self.bump_rad))
        return self.wall_mm * (1 + self.bump * np.exp(2.0 * (along - 1)))

    def thickest_wall_mm(self) -> float:
        """Largest thickness of the LV wall at its widest level."""
        angle = 2 * np.pi * np.arange(_ANGLES) / _ANGLES
        return float(self.wall_thickness(np.cos(angle), np.sin(angle)).max())

    def surfaces(self, z: Floats, c: Floats, s: Floats) -> Surfaces:
        """All surfaces on the rays at height z in the direction (cosine c, sine s)."""
        radius = self.cavity_radius(c, s)
        endocardium = radius * radius * self.roundness(z)
        outer = radius + self.wall_thickness(c, s)
        length = self.endo_length_mm + self.apex_mm
        height = np.maximum(z, -_EXTENDED_ABOVE_MM) - self.equator_mm
        epicardium = outer * outer * np.maximum(1 - (height / length) ** 2, 0)
        # The cavity stays inside the wall beside the mitral plane and at the apex by construction.
        r = np.sqrt(epicardium)
        gap = np.maximum(self._rv_reach(z, c, s) - r, 0)
        depth = gap * gap / (gap + _INSERTION_MM)
        right = (r + depth) ** 2
        wall = self.rv_wall_mm * depth / (depth + _INSERTION_MM)
        return Surfaces(endocardium, epicardium, right, (r + depth + wall) ** 2)

    def _rv_reach(self, z: Floats, c: Floats, s: Floats) -> Floats:
        """Distance from the long axis to the RV's ellipse, which holds the axis, seen from the axis, mm."""
        cr, sr = float(np.cos(self.rv_rad)), float(np.sin(self.rv_rad))
        along, across = c * cr + s * sr, s * cr - c * sr
        level = np.maximum(np.maximum(z, -_EXTENDED_ABOVE_MM) - self.rv_level_mm, 0) * (1 / self.rv_length_mm)
        taper = np.sqrt(np.maximum(1 - level * level * level, 0))
        p, q = 1 / self.rv_depth_mm**2, 1 / self.rv_height_mm**2
        a = along * along * p + across * across * q
        half_b = along * (self.rv_centre_mm * p)
        root = np.sqrt(half_b * half_b + a * (1 - self.rv_centre_mm**2 * p))
        return np.asarray(taper * (half_b + root) / np.maximum(a, 1e-12))

    def contraction(self, z: Floats, c: Floats, s: Floats) -> Floats:
        """How strongly the wall pulls in, in mm² of squared radius: the cavity's own, less in the infarct.

        It falls to zero with its slope at the apex, so that the motion of the apical cap is smooth.
        """
        u = self.roundness(z)
        radius = self.cavity_radius(c, s)
        pull = radius * radius * (u * u / (u + 0.1))
        if self.scar is None:
            return pull
        return pull * (1 - self.scar.weakness * self.scar.profile(z, c, s))

    def lv_cavity_ml(self) -> float:
        """Volume of the LV cavity, papillary muscles included."""
        return self._integrate(lambda z, c, s: self.surfaces(z, c, s).endocardium / 2, self.cavity_end_mm)

    def lv_wall_ml(self) -> float:
        """Volume of the LV wall: it never changes."""
        outer = self._integrate(lambda z, c, s: self.surfaces(z, c, s).epicardium / 2, self.length_mm)
        return outer - self.lv_cavity_ml()

    def rv_cavity_ml(self) -> float:
        """Volume of the RV cavity."""

        def area(z: Floats, c: Floats, s: Floats) -> Floats:
            cut = self.surfaces(z, c, s)
            return (cut.right - cut.epicardium) / 2

        return self._integrate(area, self.length_mm, pieces=4, start_mm=-RV_ABOVE_MM)

    def contraction_ml(self) -> float:
        """Integral of `contraction` over the cavity's height: what a unit of pull takes from the cavity."""
        return self._integrate(lambda z, c, s: self.contraction(z, c, s) / 2, self.cavity_end_mm, pieces=3)

    def scar_ml(self) -> float:
        """Volume of the scar, its no-reflow core included."""
        scar = self.scar
        if scar is None:
            return 0.0

        def area(z: Floats, c: Floats, s: Floats) -> Floats:
            cut = self.surfaces(z, c, s)
            return scar.depth(scar.profile(z, c, s)) * (cut.epicardium - cut.endocardium) / 2

        return self._integrate(area, self.length_mm, pieces=4)

    def widest_mm(self) -> float:
        """Largest distance of the free walls from the long axis."""
        z, c, s = self._rays(np.linspace(0, self.length_mm, 60))
        return float(np.sqrt(self.surfaces(z, c, s).outside.max()))

    def _integrate(self, area: Any, end_mm: float, pieces: int = 2, start_mm: float = 0.0) -> float:
        """Gauss-Legendre in z, trapezium (exact for smooth periodic functions) around; mm³ to ml."""
        nodes, weights = _gauss_legendre(_HEIGHTS)
        total = 0.0
        for k in range(pieces):
            low, high = (start_mm + (end_mm - start_mm) * (k + i) / pieces for i in (0, 1))
            z, c, s = self._rays(low + (high - low) * (nodes + 1) / 2)
            rings = np.broadcast_to(area(z, c, s), z.shape).mean(axis=1) * 2 * np.pi
            total += float(rings @ weights) * (high - low) / 2
        return total / 1000.0

    @staticmethod
    def _rays(heights: Floats) -> tuple[Floats, Floats, Floats]:
        angle = 2 * np.pi * np.arange(_ANGLES) / _ANGLES
        z = np.repeat(np.asarray(heights)[:, None], _ANGLES, axis=1)
        return z, np.broadcast_to(np.cos(angle), z.shape), np.broadcast_to(np.sin(angle), z.shape)


@cache
def _gauss_legendre(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights on [-1, 1]; drawing one heart asks for them dozens of times."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return nodes, weights
