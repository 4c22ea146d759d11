"""The heartbeat: where each point of the heart is at each phase, in closed form, there and back.

In the wall of the left ventricle, with z' = L + λ (z - L) the shortening towards the apex L, the squared
radius moves as r'² = r² / λ + g(z, θ) and the angle as θ' = θ + τ(z'). The determinant of this map is 1
whatever g and τ are: the wall is incompressible exactly, also where an infarct pulls less. The cavity scales
with the endocardium, the RV cavity's squared depth by α / λ (so its volume by α), its free wall keeps its
volume, and from there the field falls to zero over 25 mm; along z it falls to zero over 60 mm of atria.
Each step is piecewise linear in one coordinate, so its inverse is exact; across surfaces the map is continuous.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from crossbeat.synthetic.shape import Floats, Shape, Surfaces

_FADE_MM: Final = 25.0
"""Over this the motion fades outside the free walls."""
_BASE_MM: Final = 17.0
_ATRIA_MM: Final = 80.0
_APEX_MM: Final = 3.0
_BELOW_MM: Final = 40.0


@dataclass(frozen=True)
class Motion:
    """How strongly a heart beats, and when."""

    shortening: float
    """Share by which the ventricle is shorter at end systole."""
    pull: float
    """Weight of `Shape.contraction` at end systole; it sets the LV's ESV."""
    rv_ejection: float
    """Ejection fraction of the RV as a share."""
    twist_apex_rad: float
    twist_base_rad: float
    es_phase: float
    """Phase of end systole in the cycle, [0, 1)."""
    early_filling: float
    """Share of the filling that the E wave brings; the A wave brings the rest."""

    def activation(self, phase: float) -> float:
        """0 at end diastole, 1 at end systole: ejection, relaxation, E wave, diastasis, A wave.

        Systole takes about a third of the cycle; the A wave ends at end diastole.
        """
        t = phase % 1.0
        if t <= self.es_phase:
            return _smooth(t / self.es_phase)
        early = _smooth((t - self.es_phase - 0.04) / 0.22)
        late = _smooth((t - 0.84) / 0.16)
        return 1 - self.early_filling * early - (1 - self.early_filling) * late


class Instant(NamedTuple):
    """A heart at one phase."""

    stretch: float
    """λ: length now over length at end diastole."""
    pull: float
    rv_share: float
    """α: volume of the RV now over its volume at end diastole."""
    twist_apex_rad: float
    twist_base_rad: float


class Material(NamedTuple):
    """End-diastolic coordinates of points in the heart's frame, with the surfaces on their rays."""

    x: Floats
    y: Floats
    z: Floats
    squared_radius: Floats
    surfaces: Surfaces
    c: Floats
    s: Floats


def at_phase(motion: Motion, phase: float) -> Instant:
    """The beat at one phase: the amounts of shortening, pull and twist follow the activation."""
    a = motion.activation(phase)
    return Instant(
        1 - motion.shortening * a,
        motion.pull * a,
        1 - motion.rv_ejection * a,
        motion.twist_apex_rad * a,
        motion.twist_base_rad * a,
    )


def push_forward(
    shape: Shape, now: Instant, x: Floats, y: Floats, z: Floats
) -> tuple[Floats, Floats, Floats]:
    """Where end-diastolic points (heart frame, mm) are now."""
    r2 = x * x + y * y
    weight = _radial_weight(shape, np.sqrt(r2))
    moved_z = _shorten(shape, now, z, weight)
    height = _unshortened(shape, now, moved_z)
    twist = _twist(shape, now, height)
    c, s = _direction(*_rotate(x, y, twist * (weight - 1)))
    before, after = _knots(shape, now, height, c, s)
    scale = np.sqrt(_piecewise(r2, before, after) / np.maximum(r2, 1e-12))
    moved_x, moved_y = _rotate(x, y, twist * weight)
    return moved_x * scale, moved_y * scale, moved_z


def pull_back(shape: Shape, now: Instant, x: Floats, y: Floats, z: Floats) -> tuple[Floats, Floats, Floats]:
    """Where points that are here now were at end diastole: the exact inverse of `push_forward`."""
    r2 = x * x + y * y
    height = _unshortened(shape, now, z)
    twist = _twist(shape, now, height)
    c, s = _direction(*_rotate(x, y, -twist))
    before, after = _knots(shape, now, height, c, s)
    original = _piecewise(r2, after, before)
    weight = _radial_weight(shape, np.sqrt(original))
    scale = np.sqrt(original / np.maximum(r2, 1e-12))
    back_x, back_y = _rotate(x, y, -twist * weight)
    return back_x * scale, back_y * scale, _lengthen(shape, now, z, weight)


def pull_back_heart(shape: Shape, now: Instant, x: Floats, y: Floats, z: Floats) -> Material:
    """`pull_back` for points nearer to the long axis than `hold_mm`, where it needs fewer steps.

    The surfaces come along for free, and serve to tell the tissue.
    """
    r2 = x * x + y * y
    height = _unshortened(shape, now, z)
    back_x, back_y = _rotate(x, y, -_twist(shape, now, height))
    c, s = _direction(back_x, back_y)
    before, after, surfaces = _knots_and_surfaces(shape, now, height, c, s)
    original = _piecewise(r2, after, before)
    scale = np.sqrt(original / np.maximum(r2, 1e-12))
    return Material(back_x * scale, back_y * scale, _lengthen(shape, now, z, 1.0), original, surfaces, c, s)


@lru_cache(maxsize=256)
def hold_mm(shape: Shape) -> float:
    """Distance from the long axis up to which shortening and twist are complete."""
    return shape.widest_mm() + 25.0


def _radial_weight(shape: Shape, r: Floats) -> Floats:
    """1 in the heart, 0 from 50 mm further out on."""
    return 1 - _smooth_array((r - hold_mm(shape)) / 50.0)


def _levels(shape: Shape, now: Instant) -> tuple[float, float, float, float, float, float]:
    top, base = -_ATRIA_MM, -_BASE_MM
    apex, below = shape.length_mm + _APEX_MM, shape.length_mm + _BELOW_MM
    squeeze = 1 - now.stretch
    return top, base, apex, below, squeeze * (shape.length_mm - base), squeeze * (shape.length_mm - apex)


def _shorten(shape: Shape, now: Instant, z: Floats, weight: Floats) -> Floats:
    top, base, apex, below, at_base, at_apex = _levels(shape, now)
    return z + weight * np.interp(z, [top, base, apex, below], [0.0, at_base, at_apex, 0.0]).astype(z.dtype)


def _lengthen(shape: Shape, now: Instant, z: Floats, weight: Floats | float) -> Floats:
    top, base, apex, below, at_base, at_apex = _levels(shape, now)
    y1, y2 = base + weight * at_base, apex + weight * at_apex
    heart = base + (z - y1) * ((apex - base) / (y2 - y1))
    atria = top + (z - top) * ((base - top) / (y1 - top))
    under = apex + (z - y2) * ((below - apex) / (below - y2))
    inner = np.where(z < y1, atria, np.where(z < y2, heart, under))
    return np.asarray(np.where((z < top) | (z > below), z, inner), z.dtype)


def _unshortened(shape: Shape, now: Instant, z: Floats) -> Floats:
    """The height at end diastole of a point of the ventricles; outside them only a label of the level."""
    return shape.length_mm - (shape.length_mm - z) * (1.0 / now.stretch)


def _twist(shape: Shape, now: Instant, height: Floats) -> Floats:
    share = np.clip(height * (1.0 / shape.length_mm), -0.3, 1.1)
    turn = now.twist_base_rad + (now.twist_apex_rad - now.twist_base_rad) * share
    return np.asarray(turn * _presence(shape, height))


def _presence(shape: Shape, height: Floats) -> Floats:
    """1 along the ventricles, falling smoothly to 0 above the atria and below the apex."""
    above = _smooth_array((-height - 16.0) * (1 / 55.0))
    below = _smooth_array((height - shape.length_mm - _APEX_MM) * (1 / 25.0))
    return (1 - above) * (1 - below)


def _knots(
    shape: Shape, now: Instant, height: Floats, c: Floats, s: Floats
) -> tuple[list[Floats], list[Floats]]:
    before, after, _ = _knots_and_surfaces(shape, now, height, c, s)
    return before, after


def _knots_and_surfaces(
    shape: Shape, now: Instant, height: Floats, c: Floats, s: Floats
) -> tuple[list[Floats], list[Floats], Surfaces]:
    """Squared radii of the surfaces at end diastole and now; between them the map is linear."""
    surfaces = shape.surfaces(height, c, s)
    presence = _presence(shape, height)
    thinner = 1 / (1 + (now.stretch - 1) * presence)
    rv_share = 1 + (now.rv_share - 1) * presence
    pulled = now.pull * presence * shape.contraction(height, c, s)
    endo, epi, right, outside = surfaces
    after_epi = epi * thinner - pulled
    after_right = after_epi + rv_share * thinner * (right - epi)
    after_outside = after_right + thinner * (outside - right)
    far = (np.sqrt(outside) + _FADE_MM) ** 2
    before = [endo, epi, right, outside, far]
    return before, [endo * thinner - pulled, after_epi, after_right, after_outside, far], surfaces


def _piecewise(q: Floats, knots: list[Floats], values: list[Floats]) -> Floats:
    """The increasing piecewise linear function through (0, 0) and the knots, the identity beyond the last."""
    moved = np.where(q > knots[-1], q - knots[-1], 0)
    low, low_value = np.zeros_like(q), np.zeros_like(q)
    for high, high_value in zip(knots, values, strict=True):
        width = high - low
        slope = (high_value - low_value) / np.maximum(width, 1e-9)
        moved = moved + np.clip(q - low, 0, np.maximum(width, 0)) * slope
        low, low_value = high, high_value
    return moved


def _rotate(x: Floats, y: Floats, angle: Floats) -> tuple[Floats, Floats]:
    c, s = np.cos(angle), np.sin(angle)
    return x * c - y * s, x * s + y * c


def _direction(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    inverse = 1 / np.maximum(np.sqrt(x * x + y * y), 1e-6)
    return x * inverse, y * inverse


def _smooth(t: float) -> float:
    t = min(max(t, 0.0), 1.0)
    return t * t * (3 - 2 * t)


def _smooth_array(t: Floats) -> Floats:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)
