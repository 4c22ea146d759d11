"""A subject: a beating bi-ventricular heart, drawn from physiological ranges, at its place in a chest.

`Heart.draw` gives a subject of a group; `classify`, `displacement_mm`, `volumes_ml` and `strains` are the
ground truth of every picture that is made of it. Points are RAS+ mm of the patient; the phase runs from 0
(end diastole) to 1 (the next).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from crossbeat.errors import SettingsError, did_you_mean
from crossbeat.labels import Structure
from crossbeat.synthetic import motion
from crossbeat.synthetic.chest import Chest, chest_tissue, draw_chest
from crossbeat.synthetic.motion import Instant, Material, Motion
from crossbeat.synthetic.population import HEARTS_A_MINUTE, body_scale, draw_ventricles
from crossbeat.synthetic.shape import MYOCARDIAL_DENSITY_G_PER_ML, RV_ABOVE_MM, Floats, Shape
from crossbeat.synthetic.tissue import NOWHERE, Tissue

GROUPS: Final = ("NOR", "DCM", "HCM", "MINF", "RV")
"""As in ACDC (Bernard 2018, doi 10.1109/TMI.2018.2837502): normal, dilated, hypertrophic, infarct, abnormal RV."""

CHILDREN: Final = ("BOY", "DMD")
"""Those of Dhaene 2023: healthy boys, and boys with Duchenne dystrophy. No cohort has them unless asked."""

LABEL_OF_TISSUE: Final[NDArray[np.uint8]] = np.zeros(256, np.uint8)
"""Structure of each tissue; papillary muscles and trabeculae count as cavity, as in ACDC."""
for _tissue, _structure in {
    Tissue.LV_BLOOD: Structure.LV,
    Tissue.PAPILLARY: Structure.LV,
    Tissue.MYOCARDIUM: Structure.MYO,
    Tissue.RV_BLOOD: Structure.RV,
    Tissue.RV_TRABECULA: Structure.RV,
    Tissue.SCAR: Structure.SCAR,
    Tissue.NO_REFLOW: Structure.SCAR,
    Tissue.EDEMA: Structure.EDEMA,
}.items():
    LABEL_OF_TISSUE[_tissue] = _structure
LABEL_OF_TISSUE.flags.writeable = False


def check_group(group: str) -> None:
    """Refuse a group that nobody can be drawn of (`SettingsError`)."""
    known = (*GROUPS, *CHILDREN)
    if group not in known:
        raise SettingsError(f"phantom group {group!r} does not exist; {did_you_mean(group, known)}")


class Volumes(NamedTuple):
    """Ventricular volumes at one phase, analytic, papillary muscles counted as blood."""

    lv_ml: float
    rv_ml: float


class Strains(NamedTuple):
    """Change of length against end diastole, as shares: -0.2 is 20 % shorter."""

    longitudinal: float
    """Of the ventricle's length."""
    circumferential: float
    """Of the mid-wall's circumference at mid-ventricle."""
    radial: float
    """Of the wall's mean thickness at mid-ventricle."""


@dataclass(frozen=True)
class Heart:
    """One subject: shape and beat of the heart, its pose in the patient, and the chest around it."""

    group: str
    sex: str
    shape: Shape
    motion: Motion
    chest: Chest
    axes: tuple[tuple[float, float, float], ...]
    """Rows x, y, z of the heart's frame as RAS+ unit vectors."""
    base_mm: tuple[float, float, float]
    """Middle of the mitral plane at end diastole, RAS+."""
    fat_mm: float
    """Thickness of the epicardial fat where it is thick."""
    beat_ms: float
    """Length of the cycle."""
    plan_rad: float
    """Turn of the image axes against the heart's, in plane: how the technician laid the field of view."""

    @classmethod
    def draw(cls, rng: np.random.Generator, group: str = "NOR") -> Heart:
        """A subject of the group (`GROUPS`, `CHILDREN`), at random within its ranges; an unknown group is refused."""
        check_group(group)
        return _draw(rng, group)

    @cached_property
    def axes_matrix(self) -> NDArray[np.float64]:
        """(3, 3) rotation from RAS+ to the heart's frame."""
        return np.array(self.axes, np.float64)

    @property
    def edv_ml(self) -> float:
        """LV volume at end diastole."""
        return self.volumes_ml(0.0).lv_ml

    @property
    def esv_ml(self) -> float:
        """LV volume at end systole, the smallest of the cycle."""
        return self.volumes_ml(self.motion.es_phase).lv_ml

    @property
    def ef_percent(self) -> float:
        """LV ejection fraction."""
        return 100 * (self.edv_ml - self.esv_ml) / self.edv_ml

    @property
    def mass_g(self) -> float:
        """LV mass without papillary muscles; the same at every phase."""
        return self._lv_wall_ml * MYOCARDIAL_DENSITY_G_PER_ML

    @cached_property
    def scar_g(self) -> float:
        """Mass of the scar, its no-reflow core included; 0 without infarct."""
        return self.shape.scar_ml() * MYOCARDIAL_DENSITY_G_PER_ML

    def volumes_ml(self, phase: float) -> Volumes:
        """Volumes of both ventricles at a phase, by closed formula from the quadratures at end diastole."""
        now = motion.at_phase(self.motion, phase)
        lv = self._lv_cavity_ml - now.stretch * now.pull * self._contraction_ml
        return Volumes(lv, self._rv_cavity_ml * now.rv_share)

    def strains(self, phase: float) -> Strains:
        """Longitudinal, circumferential and radial strain of the LV at a phase; all 0 at end diastole."""
        now = motion.at_phase(self.motion, phase)
        angle = 2 * np.pi * np.arange(360) / 360
        c, s = np.cos(angle), np.sin(angle)
        z = np.full_like(c, 0.5 * self.shape.cavity_end_mm)
        surfaces = self.shape.surfaces(z, c, s)
        endo, epi = np.sqrt(surfaces.endocardium), np.sqrt(surfaces.epicardium)
        middle = (endo + epi) / 2
        rings = {"endo": endo, "middle": middle, "epi": epi}
        moved = {
            k: np.hypot(*motion.push_forward(self.shape, now, r * c, r * s, z)[:2]) for k, r in rings.items()
        }
        return Strains(
            now.stretch - 1,
            _circumference(moved["middle"]) / _circumference(middle) - 1,
            float((moved["epi"] - moved["endo"]).mean() / (epi - endo).mean() - 1),
        )

    def displacement_mm(self, points_mm: NDArray[np.floating[Any]], phase: float) -> NDArray[np.float64]:
        """How far the tissue that lay at these points (…, 3) at end diastole has moved at the phase."""
        x, y, z = self._to_heart(*np.moveaxis(np.asarray(points_mm, np.float64), -1, 0))
        moved = motion.push_forward(self.shape, motion.at_phase(self.motion, phase), x, y, z)
        change = np.stack([m - p for m, p in zip(moved, (x, y, z), strict=True)], axis=-1)
        return np.asarray(change @ self.axes_matrix, np.float64)

    def origin_mm(self, points_mm: NDArray[np.floating[Any]], phase: float) -> NDArray[np.float64]:
        """Where the tissue that lies at these points (…, 3) at the phase was at end diastole."""
        x, y, z = self._to_heart(*np.moveaxis(np.asarray(points_mm, np.float64), -1, 0))
        back = motion.pull_back(self.shape, motion.at_phase(self.motion, phase), x, y, z)
        return np.asarray(np.stack(back, axis=-1) @ self.axes_matrix + self.base_mm, np.float64)

    def classify(self, points_mm: NDArray[np.floating[Any]], phase: float) -> NDArray[np.uint8]:
        """`Tissue` at points (…, 3): the heart of this phase, and the chest, which stands still, around it."""
        points = np.asarray(points_mm)
        return self.tissue_at(points[..., 0], points[..., 1], points[..., 2], phase)

    def tissue_at(self, x: Floats, y: Floats, z: Floats, phase: float) -> NDArray[np.uint8]:
        """`classify` for coordinates that stand apart."""
        tissue = self.heart_tissue_at(x, y, z, phase)
        rest = tissue == NOWHERE
        tissue[rest] = chest_tissue(self.chest, x[rest], y[rest], z[rest])
        return tissue

    def heart_tissue_at(self, x: Floats, y: Floats, z: Floats, phase: float) -> NDArray[np.uint8]:
        """As `tissue_at`, with `NOWHERE` outside the pericardium and the great vessels."""
        tissue = np.full(x.shape, NOWHERE, np.uint8)
        u, v, w = self._to_heart(x, y, z)
        reach, lateral = self.reach_mm, self._lateral_mm
        near = (u * u + v * v < reach * reach) & (w > -_ATRIA_MM) & (w < self.shape.length_mm + 14)
        near &= u > -lateral
        now = motion.at_phase(self.motion, phase)
        tissue[near] = self._heart_tissue(now, u[near], v[near], w[near])
        return tissue

    @cached_property
    def reach_mm(self) -> float:
        """Distance from the long axis beyond which there is no heart at any phase."""
        return self.shape.widest_mm() + self.fat_mm + 8.0

    @cached_property
    def _lateral_mm(self) -> float:
        """Distance beyond which there is no heart on the side away from the RV, twist allowed for."""
        wall = self.shape.wall_mm * (1 + self.shape.bump)
        left = self.shape.endo_mm * (1 + abs(self.shape.ovality)) + wall
        return max(left + 0.8 * self.fat_mm, 1.75 * self.shape.endo_mm) + 3.0

    def bounds_mm(self) -> NDArray[np.float64]:
        """Corners (8, 3), RAS+, of a box that holds the heart at every phase."""
        r = self.reach_mm
        corners = [
            (x, y, z) for x in (-r, r) for y in (-r, r) for z in (-_ATRIA_MM, self.shape.length_mm + 14)
        ]
        return np.asarray(np.array(corners) @ self.axes_matrix + self.base_mm, np.float64)

    def heart_to_mm(self, points: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Points (…, 3) of the heart's own frame as RAS+ mm."""
        return np.asarray(np.asarray(points) @ self.axes_matrix + self.base_mm, np.float64)

    @cached_property
    def _lv_cavity_ml(self) -> float:
        return self.shape.lv_cavity_ml()

    @cached_property
    def _lv_wall_ml(self) -> float:
        return self.shape.lv_wall_ml()

    @cached_property
    def _rv_cavity_ml(self) -> float:
        return self.shape.rv_cavity_ml()

    @cached_property
    def _contraction_ml(self) -> float:
        return self.shape.contraction_ml()

    def _to_heart(self, x: Floats, y: Floats, z: Floats) -> tuple[Floats, Floats, Floats]:
        x, y, z = (p - o for p, o in zip((x, y, z), self.base_mm, strict=True))
        u, v, w = (x * a + y * b + z * c for a, b, c in self.axes)
        return u, v, w

    def _heart_tissue(self, now: Instant, x: Floats, y: Floats, z: Floats) -> NDArray[np.uint8]:
        material = motion.pull_back_heart(self.shape, now, x, y, z)
        tissue = np.full(x.shape, NOWHERE, np.uint8)
        cut, q = material.surfaces, material.squared_radius
        right = (q >= cut.epicardium) & (q < cut.outside) & (cut.right > cut.epicardium + 1.0)
        above = (material.z < 0) & ~(right & (material.z > -RV_ABOVE_MM))
        tissue[above] = _atria(self, *(np.asarray(v)[above] for v in material[:3]))
        self._fill_ventricles(tissue, material, above)
        return tissue

    def _fill_ventricles(self, tissue: NDArray[np.uint8], at: Material, above: NDArray[np.bool_]) -> None:
        q, cut = at.squared_radius, at.surfaces
        fat, sac = self._outer_surfaces(at)
        r = np.sqrt(q)
        below = ~above
        tissue[below & (r < sac)] = Tissue.PERICARDIUM
        tissue[below & (r < fat)] = Tissue.FAT
        tissue[below & (q < cut.outside)] = Tissue.RV_WALL
        tissue[below & (q < cut.right)] = Tissue.RV_BLOOD
        right = below & (q < cut.right) & (q >= cut.epicardium)
        tissue[right] = _right_tissue(self.shape, at, right)
        wall = below & (q < cut.epicardium) & (q >= cut.endocardium)
        tissue[wall] = _wall_tissue(self.shape, at, wall)
        cavity = below & (q < cut.endocardium)
        tissue[cavity] = _cavity_tissue(self.shape, at, cavity)

    def _outer_surfaces(self, at: Material) -> tuple[Floats, Floats]:
        """Radii of the fat's and of the pericardium's outer surface, mm."""
        # Thick in the grooves between the ventricles and under the atria, thin over the free walls.
        grooves = np.zeros_like(at.c)
        for degrees in (-72.0, 78.0):
            angle = self.shape.rv_rad + float(np.deg2rad(degrees))
            along = at.c * float(np.cos(angle)) + at.s * float(np.sin(angle))
            grooves += np.exp(9 * (along - 1))
        waves = 0.5 + 0.5 * np.sin(0.11 * at.x + 0.13 * at.z + self.shape.relief) * np.sin(
            0.12 * at.y - 0.05 * at.z
        )
        towards_rv = np.clip(0.6 + at.c, 0, 1) * (0.10 + 0.38 * waves)
        base = 0.7 * np.exp(-((at.z * (1 / 14.0)) ** 2)) * (0.4 + 0.6 * waves)
        fat = self.fat_mm * (0.03 + 0.8 * grooves + towards_rv + base)
        beyond = np.maximum(at.z - (self.shape.length_mm - 1.0), 0)
        r = np.sqrt(at.surfaces.outside)
        radius = np.where(beyond < fat, r + fat, 0.0)
        round_off = np.sqrt(np.maximum(1 - (beyond / np.maximum(fat, 0.1)) ** 2, 0))
        fat_surface = np.where(beyond > 0, 6 * round_off, radius)
        return fat_surface, fat_surface + np.where(fat_surface > 0, 1.3, 0)


_ATRIA_MM: Final = 62.0

# Rows: towards the RV, towards the diaphragm, towards the apex. The long axis looks left, forward and down,
# about 45 degrees each way, as SAX planning pictures show (Kramer 2020, doi 10.1186/s12968-020-00607-1).
_USUAL_AXES: Final = np.array([[0.7071, 0.7071, 0.0], [0.4031, -0.4031, -0.8216], [-0.5810, 0.5810, -0.5700]])


def _draw(rng: np.random.Generator, group: str) -> Heart:
    sex, shape, beat = draw_ventricles(rng, group)
    tilt = Rotation.from_rotvec(np.deg2rad(rng.normal(0, 6, 3)))
    u, _, vt = np.linalg.svd(_USUAL_AXES)
    axes = u @ vt @ tilt.as_matrix()
    base = rng.normal(0, 12, 3) - 0.45 * shape.length_mm * axes[2]
    fat = rng.uniform(3, 8)
    chest = draw_chest(rng, _outer_points(shape, fat) @ axes + base, sex, body_scale(group))
    rows = tuple((float(r[0]), float(r[1]), float(r[2])) for r in axes)
    place = (float(base[0]), float(base[1]), float(base[2]))
    return Heart(
        group,
        sex,
        shape,
        beat,
        chest,
        rows,
        place,
        fat,
        60000 / rng.uniform(*HEARTS_A_MINUTE.get(group, (55, 85))),
        float(np.clip(rng.normal(0, 0.14), -0.3, 0.3)),
    )


def _outer_points(shape: Shape, fat_mm: float) -> NDArray[np.float64]:
    """Points (n, 3) of the pericardium in the heart's frame."""
    angle = 2 * np.pi * np.arange(48) / 48
    z = np.repeat(np.linspace(0, shape.length_mm, 24)[:, None], angle.size, axis=1)
    c, s = np.broadcast_to(np.cos(angle), z.shape), np.broadcast_to(np.sin(angle), z.shape)
    r = np.sqrt(shape.surfaces(z, c, s).outside) + fat_mm
    return np.stack([r * c, r * s, z], axis=-1).reshape(-1, 3)


def _circumference(radius: NDArray[np.float64]) -> float:
    angle = 2 * np.pi * np.arange(radius.size) / radius.size
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return float(np.linalg.norm(np.roll(points, -1, axis=0) - points, axis=-1).sum())


def _wall_tissue(shape: Shape, at: Material, where: NDArray[np.bool_]) -> NDArray[np.uint8]:
    q = at.squared_radius[where]
    tissue = np.full(q.shape, Tissue.MYOCARDIUM, np.uint8)
    scar = shape.scar
    if scar is None:
        return tissue
    inner, outer = at.surfaces.endocardium[where], at.surfaces.epicardium[where]
    share = (q - inner) / np.maximum(outer - inner, 1e-6)
    profile = scar.profile(at.z[where], at.c[where], at.s[where])
    depth = scar.depth(profile)
    if scar.outer:
        tissue[share > 1 - depth] = Tissue.SCAR
        return tissue
    tissue[profile > 0.55 * scar.edge] = Tissue.EDEMA
    tissue[share < depth] = Tissue.SCAR
    core = (profile > scar.edge + 0.45 * (1 - scar.edge)) & (share > 0.06) & (share < scar.no_reflow * depth)
    tissue[core] = Tissue.NO_REFLOW
    return tissue


def _cavity_tissue(shape: Shape, at: Material, where: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Blood, two papillary muscles (anterolateral, posteromedial) and trabeculae of the apical half."""
    q, z, c, s = at.squared_radius[where], at.z[where], at.c[where], at.s[where]
    share = np.sqrt(q / np.maximum(at.surfaces.endocardium[where], 1e-6))
    u, v, level = share * c, share * s, z * (1 / shape.cavity_end_mm)
    tissue = np.full(q.shape, Tissue.LV_BLOOD, np.uint8)
    for degrees, thick, phase in ((225.0, 0.19, 0.0), (115.0, 0.17, 2.0)):
        angle = float(np.deg2rad(degrees)) + 0.2 * float(np.sin(shape.relief + phase))
        taper = 1 - ((level - 0.54) * (1 / 0.29)) ** 2
        along = u * float(np.cos(angle)) + v * float(np.sin(angle))
        across = v * float(np.cos(angle)) - u * float(np.sin(angle))
        # Heads stand free in the blood; towards the apex the muscle grows into the wall.
        beyond = along - (0.78 - 0.25 * (0.8 - level))
        beyond = np.where(beyond > 0, beyond * np.clip(4 * (0.62 - level), 0, 1), beyond)
        uneven = 1 + 0.3 * np.sin(0.35 * z + 9 * u + shape.relief + phase)
        tissue[across * across + beyond * beyond < (thick * thick) * taper * uneven] = Tissue.PAPILLARY
    ridges = _relief(at.x[where], at.y[where], z, shape.relief)
    depth = 0.015 + (0.05 + 0.16 * np.clip(level - 0.25, 0, 0.6)) * np.clip(ridges - 0.25, 0, 1.2)
    tissue[(share > 1 - depth) & (level > 0.12)] = Tissue.PAPILLARY
    return tissue


def _right_tissue(shape: Shape, at: Material, where: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Blood, trabeculae along the free wall, more towards the apex, and the moderator band."""
    q, inner, outer = (v[where] for v in (at.squared_radius, at.surfaces.epicardium, at.surfaces.right))
    share = (q - inner) / np.maximum(outer - inner, 1e-6)
    x, y, z = at.x[where], at.y[where], at.z[where]
    level = z * (1 / shape.length_mm)
    ridges = _relief(0.8 * x, 0.8 * y, 0.8 * z, shape.relief + 1)
    depth = (0.06 + 0.30 * np.clip(level - 0.1, 0, 0.8)) * np.clip(ridges - 0.1, 0, 1.4)
    tissue = np.full(q.shape, Tissue.RV_BLOOD, np.uint8)
    tissue[share > 1 - depth] = Tissue.RV_TRABECULA
    band = (y - 6 * np.sin(0.1 * x + shape.relief)) ** 2 + (z - 0.62 * shape.length_mm) ** 2
    tissue[band < 2.6**2] = Tissue.RV_TRABECULA
    return tissue


def _relief(x: Floats, y: Floats, z: Floats, start: float) -> Floats:
    """A bumpy function of about unit size, positive on half of space, different in every heart."""
    first = np.sin(0.47 * x + 0.13 * z + start) * np.sin(0.41 * y - 0.16 * z + 2 * start)
    second = np.sin(0.83 * x - 0.37 * y + 0.09 * z + 3 * start) + np.sin(
        0.29 * x + 0.71 * y + 0.11 * z - start
    )
    return np.asarray(first + 0.45 * second)


def _atria(heart: Heart, x: Floats, y: Floats, z: Floats) -> NDArray[np.uint8]:
    """What lies above the ventricles: atria, roots of the great vessels, and the fat between them."""
    k = heart.shape.endo_mm / 27.0
    tissue = np.full(x.shape, NOWHERE, np.uint8)
    middle = (12.0 * k, 0.0, -14.0)
    tissue[_inside(x, y, z, middle, (58 * k, 46 * k, 40.0))] = Tissue.FAT
    chambers = (
        ((-6 * k, 8 * k, -27.0), (29 * k, 25 * k, 26.0), Tissue.LA_BLOOD),
        ((44 * k, 20 * k, -24.0), (23 * k, 23 * k, 25.0), Tissue.RA_BLOOD),
    )
    for centre, half, blood in chambers:
        wider = (half[0] + 2, half[1] + 2, half[2] + 2)
        tissue[_inside(x, y, z, centre, wider)] = Tissue.RV_WALL
        tissue[_inside(x, y, z, centre, half)] = blood
    for (x0, y0), (dx, dy), radius in (
        ((16 * k, -12 * k), (0.10, 0.05), 14.0),
        ((32 * k, -27 * k), (0.55, 0.0), 13.0),
    ):
        cx, cy = x - (x0 + dx * z), y - (y0 + dy * z)
        q = cx * cx + cy * cy
        tissue[(q < (radius + 1.8) ** 2) & (z > -55)] = Tissue.RV_WALL
        tissue[(q < radius**2) & (z > -55)] = Tissue.RA_BLOOD if x0 > 20 * k else Tissue.LA_BLOOD
    annulus = np.sqrt(x * x + y * y)
    valve = (z > -2.0) & (annulus < 26 * k) & (annulus > 17 * k)
    tissue[valve] = Tissue.RV_WALL
    return tissue


def _inside(
    x: Floats, y: Floats, z: Floats, centre: tuple[float, float, float], half: tuple[float, float, float]
) -> NDArray[np.bool_]:
    u, v, w = ((p - m) * (1 / h) for p, m, h in zip((x, y, z), centre, half, strict=True))
    return np.asarray(u * u + v * v + w * w < 1, np.bool_)
