"""Tag lines of the phantom: laid on the tissue at end diastole, carried by its true motion, faded by its own T1.

Spatial modulation of magnetisation with binomial pulses (Axel and Dougherty 1989, doi 10.1148/radiology.172.2.2748813),
taken as a spoiled gradient-echo cine. It shares no code with `tagging`, which trains networks and must not know
the scanners: there rotations of Bloch vectors in torch, here spinors in numpy, and a test lays them beside each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from crossbeat.synthetic.anatomy import Heart
from crossbeat.synthetic.sampling import Slice
from crossbeat.synthetic.scanners import TagProtocol
from crossbeat.synthetic.signal import FLOWING, relaxation
from crossbeat.synthetic.tissue import NOWHERE, Tissue

Modulation = NDArray[np.float32]

LEVELS: Final = np.linspace(-1.0, 1.0, 401)
"""Shares of the magnetisation that tags leave, for which the tissues' signals are tabulated."""
_DEPTHS: Final = 4
_OFFSETS: Final = (-0.25, 0.25)
_INFLOW_T1_MS: Final = 45.0  # middle of the range that scans draw from


@dataclass(frozen=True)
class TagGrid:
    """The tags of one scan: two sets of lines across the slice, the same in every slice of it."""

    protocol: TagProtocol
    across_deg: tuple[float, float]
    phase_rad: tuple[float, float]
    inflow_t1_ms: float
    """Apparent T1 of blood, which leaves the slice and comes anew."""


def draw_grid(rng: np.random.Generator, protocol: TagProtocol) -> TagGrid:
    """Tags of one scan: turned with the field of view by a few degrees, and shifted as chance has it."""
    first = protocol.angle_deg + float(np.clip(rng.normal(0, 4), -8, 8))  # ours
    start = rng.uniform(0, 2 * np.pi, 2)
    inflow_t1_ms = float(rng.uniform(30, 60))  # methods.md 4.4
    return TagGrid(protocol, (first, first - 90.0), (float(start[0]), float(start[1])), inflow_t1_ms)


def left_along_z(theta: NDArray[np.float64], flip_deg: float, train: tuple[int, ...]) -> NDArray[np.float64]:
    """Mz after a train of pulses between which spins turn by θ: |a|² - |b|² of the spinor (a, b), signed."""
    a, b = np.ones_like(theta, np.complex128), np.zeros_like(theta, np.complex128)
    turn = np.exp(0.5j * theta)
    for k, share in enumerate(train):
        if k:
            a, b = a / turn, b * turn
        half = np.deg2rad(flip_deg) * share / sum(train) / 2
        c, s = np.cos(half), 1j * np.sin(half)
        a, b = a * c - b * s, b * c - a * s
    return np.asarray(np.abs(a) ** 2 - np.abs(b) ** 2)


def lay(grid: TagGrid, cut: Slice) -> Modulation:
    """What the tags leave of the magnetisation of each voxel (y, x) of a slice, [-1, 1], when they are laid."""
    rows, columns = np.arange(cut.shape[0])[:, None], np.arange(cut.shape[1])[None, :]
    samples = [_modulation(grid, cut, rows + dy, columns + dx) for dy in _OFFSETS for dx in _OFFSETS]
    return np.asarray(np.mean(samples, axis=0), np.float32)


def carry(grid: TagGrid, heart: Heart, cut: Slice, phase: float, laid: Modulation) -> Modulation:
    """The same at a phase: tissue of the heart has taken along what was laid where it was at end diastole.

    The mean over samples of each voxel, also across the slice. The chest stands still, and so do its tags.
    """
    rows, columns = cut.window(heart.bounds_mm())
    y, x = np.arange(cut.shape[0])[rows, None], np.arange(cut.shape[1])[None, columns]
    iy, ix = np.nonzero(heart.heart_tissue_at(*cut.points_mm(y, x), phase) != NOWHERE)
    iy, ix = iy + rows.start, ix + columns.start
    depths = ((np.arange(_DEPTHS) + 0.5) / _DEPTHS - 0.5) * cut.thickness_mm
    dy, dx, dz = (v.ravel() for v in np.meshgrid(_OFFSETS, _OFFSETS, depths, indexing="ij"))
    points = np.stack(cut.points_mm(iy[:, None] + dy, ix[:, None] + dx, dz), axis=-1)
    origin = heart.origin_mm(points, phase) - cut.origin_mm
    at = [origin @ step / (step @ step) for step in (cut.down_mm, cut.right_mm)]
    carried = laid.copy()
    carried[iy, ix] = _modulation(grid, cut, at[0], at[1]).mean(axis=1)
    return carried


def untagged_table(field_t: float, protocol: TagProtocol) -> NDArray[np.float32]:
    """Signal (tissue,) of the cine where no tags are: its steady state."""
    return np.array([_steady(t, field_t, protocol, _INFLOW_T1_MS)[0] for t in Tissue], np.float32)


def tagged_table(field_t: float, grid: TagGrid, phase: float, beat_ms: float) -> NDArray[np.float32]:
    """Signal (tissue, level) at a phase of the cycle, by what tags at its start left of the magnetisation (`LEVELS`).

    Each pulse leaves q = cos α e^(-TR/T1) of what lies off the steady state S, so n pulses after the tags
    M = S + (F M⁻ - S) qⁿ. M⁻, what they found, is what the beat before had left at the same place: with N pulses a
    beat M⁻ = S (1 - q^N) / (1 - F q^N).
    """
    beat = beat_ms / grid.protocol.tr_ms
    rows = []
    for tissue in Tissue:
        steady, kept = _steady(tissue, field_t, grid.protocol, grid.inflow_t1_ms)
        found = steady * (1 - kept**beat) / (1 - LEVELS * kept**beat)
        rows.append(steady + (LEVELS * found - steady) * kept ** (beat * phase))
    return np.stack(rows).astype(np.float32)


_ECHO_MS: Final = 2.5  # ours: the shortest echo of a gradient-echo cine; T2 stands for T2*


def level_of(modulation: Modulation) -> NDArray[np.intp]:
    """Column of `tagged_table` for each voxel's modulation."""
    step = LEVELS[1] - LEVELS[0]
    return np.asarray(np.clip(np.rint((modulation - LEVELS[0]) / step), 0, LEVELS.size - 1), np.intp)


def _steady(
    tissue: Tissue, field_t: float, protocol: TagProtocol, inflow_t1_ms: float
) -> tuple[float, float]:
    """Signal of the steady state, M0 sin α (1 - E) / (1 - E cos α), and what each pulse keeps of what lies off it."""
    at, flip = relaxation(tissue, field_t), np.deg2rad(protocol.pulse_deg)
    recovery = np.exp(-protocol.tr_ms / (inflow_t1_ms if tissue in FLOWING else at.t1_ms))
    kept = np.cos(flip) * recovery
    signal = at.density * np.sin(flip) * np.exp(-_ECHO_MS / at.t2_ms) * (1 - recovery) / (1 - kept)
    return float(signal), float(kept)


def _modulation(grid: TagGrid, cut: Slice, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.float64]:
    """Product of both sets at fractional voxel indices, as the scanner laid them."""
    y_mm, x_mm = (
        np.linalg.norm(step) * index for step, index in ((cut.down_mm, rows), (cut.right_mm, columns))
    )
    total = np.ones(())
    for degrees, start in zip(grid.across_deg, grid.phase_rad, strict=True):
        across = np.deg2rad(degrees)
        along = np.cos(across) * x_mm + np.sin(across) * y_mm
        theta = 2 * np.pi * along / grid.protocol.spacing_mm + start
        total = total * left_along_z(theta, grid.protocol.flip_deg, grid.protocol.train)
    return np.asarray(total)
