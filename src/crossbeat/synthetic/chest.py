"""The chest around the heart: lungs, diaphragm, liver, spleen, stomach, kidneys, spine, aorta, ribs and fat.

It stands still while the heart beats. It is built around the heart that lies in it: the chest is as deep as
the heart needs, and the diaphragm lies where the heart rests on it. Sizes, places and courses of all that is in
it are ours, chosen by eye; none is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossbeat.synthetic.shape import Floats
from crossbeat.synthetic.tissue import Tissue


@dataclass(frozen=True)
class Chest:
    """Sizes of one torso in mm; its frame is RAS+ with the origin in the middle at the heart's height."""

    centre_mm: tuple[float, float, float]
    half_width_mm: float
    half_depth_mm: float
    wall_mm: float
    fat_mm: float
    breast_mm: float
    diaphragm_mm: float
    """Height of the diaphragm under the heart."""
    dome_mm: float
    stomach_air: float
    """Share of the stomach's height that is gas."""
    turn: float
    """A random angle for what repeats: ribs, bowel."""


def draw_chest(
    rng: np.random.Generator, heart_points_mm: NDArray[np.float64], sex: str, scale: float = 1.0
) -> Chest:
    """A torso that holds the heart, whose outer points (n, 3) in RAS+ are given; a grown-up's, times `scale`."""
    middle = heart_points_mm.mean(axis=0)
    centre = middle + np.array([32.0, -22.0, 0.0]) * scale + rng.normal(0, 3, 3)
    local = heart_points_mm - centre
    width, depth = rng.normal(128 if sex == "male" else 116, 6), rng.normal(88 if sex == "male" else 80, 4)
    width, depth = width * scale, depth * scale
    fill = float(np.sqrt((local[:, 0] / width) ** 2 + (local[:, 1] / depth) ** 2).max())
    room = max(1.0, fill / rng.uniform(0.93, 0.99))
    return Chest(
        (float(centre[0]), float(centre[1]), float(centre[2])),
        float(width * room),
        float(depth * room),
        float(rng.uniform(17, 24) * scale),
        float(np.clip(rng.gamma(4, 4.0), 5, 32)),
        float(rng.uniform(10, 45) if sex == "female" else rng.uniform(0, 6)),
        float(local[:, 2].min() + rng.uniform(12, 20)),
        float(rng.uniform(20, 34)),
        float(rng.uniform(0.0, 0.5)),
        float(rng.uniform(0, 6.28)),
    )


def chest_tissue(chest: Chest, x: Floats, y: Floats, z: Floats) -> NDArray[np.uint8]:
    """`Tissue` at RAS+ mm x, y, z of one shape."""
    shape = x.shape
    x, y, z = (np.ravel(p) - o for p, o in zip((x, y, z), chest.centre_mm, strict=True))
    tissue = np.zeros(x.shape, np.uint8)
    outside, spread = _distance_outside(chest, x, y, z)
    inner = outside < 0
    tissue[inner] = _inside(chest, x[inner], y[inner], z[inner], outside[inner])
    most = chest.wall_mm + 16 + 1.2 * chest.fat_mm + chest.breast_mm + 2
    near = np.flatnonzero(~inner & (outside < most + spread))
    tissue[near] = _wall(chest, *(v[near] for v in (x, y, z, outside, spread)))
    spine = np.flatnonzero((y < -0.55 * chest.half_depth_mm) & (np.abs(x) < 62) & (tissue != Tissue.AIR))
    tissue[spine] = _spine(chest, x[spine], y[spine], z[spine], tissue[spine])
    return tissue.reshape(shape)


def _distance_outside(chest: Chest, x: Floats, y: Floats, z: Floats) -> tuple[Floats, Floats]:
    """How far a point lies outside the inner surface of the ribs, along the ray from the body's axis, mm.

    Also how far that surface has drawn in on the ray: towards the shoulders the cage narrows, the body does not.
    """
    narrow = np.sqrt(np.maximum(1 - (np.maximum(z - 10, 0) * (1 / 185.0)) ** 2, 0.05))
    u, v = x * (1 / chest.half_width_mm), y * (1 / chest.half_depth_mm)
    full = np.sqrt((x * x + y * y) / np.maximum(u * u + v * v, 1e-6))
    distance = np.sqrt(x * x + y * y)
    return distance - full * narrow, full * (1 - narrow)


def _fat_thickness(chest: Chest, x: Floats, y: Floats, z: Floats) -> Floats:
    wave = 1 + 0.2 * np.sin(0.021 * x + 0.034 * z + chest.turn)
    side = (np.abs(x) - 75) * (1 / 42.0)
    height = (z - 25) * (1 / 50.0)
    breast = chest.breast_mm * np.exp(-(side * side) - height * height) * (y > 0)
    return np.asarray(chest.fat_mm * wave + breast)


def _wall(
    chest: Chest, x: Floats, y: Floats, z: Floats, outside: Floats, spread: Floats
) -> NDArray[np.uint8]:
    # Thicker beside the spine, and towards the shoulders by what the cage has drawn in.
    thick = chest.wall_mm + 16 * np.clip(-y * (1 / chest.half_depth_mm) - 0.5, 0, 1) + 0.9 * spread
    fat = thick + _fat_thickness(chest, x, y, z)
    tissue = np.full(x.shape, Tissue.FAT, np.uint8)
    tissue[outside >= fat] = Tissue.SKIN
    tissue[outside >= fat + 2.0] = Tissue.AIR
    cage = np.flatnonzero(outside < thick)
    tissue[cage] = _cage(chest, *(v[cage] for v in (x, y, z, outside, thick)))
    return tissue


def _cage(chest: Chest, x: Floats, y: Floats, z: Floats, outside: Floats, thick: Floats) -> NDArray[np.uint8]:
    """Ribs, which run forward and down, sternum, and sheets of fat between the muscles."""
    tissue = np.full(x.shape, Tissue.MUSCLE, np.uint8)
    course = z + 0.55 * y + 0.18 * np.abs(x)
    rib = np.cos(course * (2 * np.pi / 31.0) + chest.turn)
    tissue[(outside < 2.2) & (rib < 0.3)] = Tissue.FAT
    tissue[(outside > 3) & (outside < 13) & (rib > 0.45)] = Tissue.BONE
    tissue[(outside > 5) & (outside < 11) & (rib > 0.68)] = Tissue.MARROW
    middle = (y > 0) & (np.abs(x) < 17)
    tissue[middle & (outside > 3) & (outside < 15)] = Tissue.BONE
    tissue[middle & (outside > 4.5) & (outside < 13.5) & (np.abs(x) < 15)] = Tissue.MARROW
    sheet = 15.5 + 2.5 * np.sin(0.05 * z + chest.turn) + 0.12 * np.maximum(z - 10, 0)
    tissue[np.abs(outside - sheet) < 1.4] = Tissue.FAT
    deep = (outside > 16) & (outside < thick - 4)
    pad = np.sin(0.07 * z + 0.05 * x + chest.turn) * np.sin(0.06 * y - 0.05 * z)
    tissue[deep & (pad > 0.72)] = Tissue.FAT
    return tissue


def _inside(chest: Chest, x: Floats, y: Floats, z: Floats, outside: Floats) -> NDArray[np.uint8]:
    tissue = np.full(x.shape, Tissue.LUNG, np.uint8)
    diaphragm = _diaphragm(chest, x, y, outside)
    middle = ((x + 4) * (1 / 30.0)) ** 2 + ((y + 0.42 * chest.half_depth_mm) * (1 / 44.0)) ** 2 < 1
    tissue[middle] = Tissue.FAT
    front = (x * (1 / 34.0)) ** 2 + ((y - 1.02 * chest.half_depth_mm) * (1 / 20.0)) ** 2 < 1
    tissue[front] = Tissue.FAT
    oesophagus = ((x + 8) ** 2 + (y + 0.40 * chest.half_depth_mm) ** 2) < 64
    tissue[oesophagus] = Tissue.MUSCLE
    under = z < diaphragm
    tissue[under] = _abdomen(chest, x[under], y[under], z[under], (diaphragm - z)[under], outside[under])
    aorta = (x + 24) ** 2 + (y + 0.50 * chest.half_depth_mm) ** 2
    tissue[aorta < 13.5**2] = Tissue.RV_WALL
    tissue[aorta < 12.0**2] = Tissue.ARTERY
    return tissue


def _diaphragm(chest: Chest, x: Floats, y: Floats, outside: Floats) -> Floats:
    """Height of the diaphragm: two domes, the right one higher, falling off towards the ribs."""
    right = np.exp(-(((x - 66) * (1 / 52.0)) ** 2) - ((y + 6) * (1 / 66.0)) ** 2)
    left = np.exp(-(((x + 78) * (1 / 46.0)) ** 2) - ((y + 12) * (1 / 62.0)) ** 2)
    fall = np.exp(np.minimum(outside, 0) * (1 / 14.0))
    return np.asarray(chest.diaphragm_mm + chest.dome_mm * (right + 0.75 * left) - 42 * fall)


def _abdomen(
    chest: Chest, x: Floats, y: Floats, z: Floats, depth: Floats, outside: Floats
) -> NDArray[np.uint8]:
    tissue = np.full(x.shape, Tissue.FAT, np.uint8)
    level = z - chest.diaphragm_mm
    loops = np.sin(0.105 * x + 0.05 * z + chest.turn) * np.sin(0.12 * y + 0.3) + np.sin(0.115 * z - 0.04 * x)
    tissue[(loops > 0.15) & (depth > 30)] = Tissue.GUT
    tissue[(loops > 1.25) & (depth > 30)] = Tissue.FLUID
    _organ(tissue, x, y, level, (-64, 8, -36), (44, 44, 38), Tissue.GUT)
    content = _ellipsoid(x, y, level, (-64, 8, -36), (39, 39, 33))
    tissue[content] = Tissue.FLUID
    tissue[content & (np.sin(0.19 * x + 1) * np.sin(0.16 * z) + np.sin(0.23 * y) > 0.2)] = Tissue.GUT
    tissue[content & (y > 8 + 39 * (1 - 2 * chest.stomach_air))] = Tissue.AIR
    for side in (-62, 62):
        _organ(tissue, x, y, level, (side, -52, -82), (27, 24, 50), Tissue.KIDNEY)
        _organ(tissue, x, y, level, (side * 0.82, -47, -82), (10, 9, 24), Tissue.FAT)
    _organ(tissue, x, y, level, (-98, -38, -32), (27, 38, 44), Tissue.SPLEEN)
    liver = (x > -38 + 0.35 * (y - 20) - 0.25 * level) & (level > -128 + 0.5 * (60 - np.minimum(x, 60)))
    liver &= (y > -0.55 * chest.half_depth_mm) | (x > 45)
    tissue[liver] = Tissue.LIVER
    cava = (x - 22) ** 2 + (y + 14) ** 2 < 11.5**2
    tissue[cava] = Tissue.ARTERY
    tissue[depth < 3.0] = Tissue.MUSCLE
    tissue[(outside > -3.5) & (depth < 45)] = Tissue.FAT
    return tissue


def _spine(chest: Chest, x: Floats, y: Floats, z: Floats, around: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Vertebrae with discs, the canal, and the muscles along them."""
    tissue = around.copy()
    back = -chest.half_depth_mm
    muscle = (y < back + 10) & (np.abs(x) < 52) & (y > back - chest.wall_mm - 6) & (around != Tissue.FAT)
    tissue[muscle] = Tissue.MUSCLE
    body = (x * (1 / 19.0)) ** 2 + ((y - back - 10) * (1 / 16.0)) ** 2
    disc = np.cos(z * (2 * np.pi / 27.0) + chest.turn) > 0.86
    tissue[body < 1] = Tissue.BONE
    tissue[body < 0.86] = np.where(disc[body < 0.86], Tissue.GUT, Tissue.MARROW)
    arch = x * x + (y - back + 14) ** 2
    tissue[arch < 13**2] = Tissue.BONE
    tissue[arch < 8.5**2] = Tissue.FLUID
    tissue[arch < 5**2] = Tissue.GUT
    return tissue


def _organ(
    tissue: NDArray[np.uint8],
    x: Floats,
    y: Floats,
    z: Floats,
    centre: tuple[float, float, float],
    half: tuple[float, float, float],
    kind: Tissue,
) -> None:
    tissue[_ellipsoid(x, y, z, centre, half)] = kind


def _ellipsoid(
    x: Floats, y: Floats, z: Floats, centre: tuple[float, float, float], half: tuple[float, float, float]
) -> NDArray[np.bool_]:
    u, v, w = ((p - m) * (1 / h) for p, m, h in zip((x, y, z), centre, half, strict=True))
    return np.asarray(u * u + v * v + w * w < 1, np.bool_)
