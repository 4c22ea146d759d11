"""From tissue shares to a picture: contrast, texture, shading, flow, truncated k-space, Rician noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from crossbeat.synthetic import signal, spamm
from crossbeat.synthetic.anatomy import Heart
from crossbeat.synthetic.sampling import Mixture, Slice
from crossbeat.synthetic.scanners import Protocol, Scanner
from crossbeat.synthetic.spamm import TagGrid
from crossbeat.synthetic.tissue import Tissue

Image = NDArray[np.float32]

_LATTICE: Final = 48
_COARSE: Final = 8
_FASTEST_PER_CYCLE: Final = 4.5
"""Greatest speed of the activation, at ejection: 1.5 / 0.33, from the cubic step over the shortest systole."""
_JET_LOSS: Final = (0.65, 0.40)
"""Share of the signal that dephases in the outflow's and the inflow's jet; ours, chosen by eye."""
_GHOST: Final = 0.025
"""Largest share of the blood's signal that ghosts; ours, chosen by eye."""
SNR_TISSUE: Final[Mapping[str, Tissue]] = MappingProxyType(
    {
        "bssfp": Tissue.LV_BLOOD,
        "t2": Tissue.MYOCARDIUM,
        "lge": Tissue.SCAR,
        "tagged": Tissue.MYOCARDIUM,
    }
)
"""The tissue whose signal `Protocol.snr` counts."""
_CYCLES: Final = np.linspace(-3.0, 3.0, 601)

# Coefficient of variation of texture within a tissue; looked at beside ACDC, not measured.
_TEXTURE: Final[Image] = np.zeros(len(Tissue), np.float32)
for _tissue, _strength in {
    Tissue.LUNG: 0.30, Tissue.FAT: 0.10, Tissue.MUSCLE: 0.16, Tissue.BONE: 0.30, Tissue.MARROW: 0.15,
    Tissue.LIVER: 0.07, Tissue.SPLEEN: 0.06, Tissue.KIDNEY: 0.12, Tissue.FLUID: 0.10, Tissue.GUT: 0.28,
    Tissue.ARTERY: 0.08, Tissue.LV_BLOOD: 0.07, Tissue.RV_BLOOD: 0.08, Tissue.LA_BLOOD: 0.10,
    Tissue.RA_BLOOD: 0.10, Tissue.MYOCARDIUM: 0.08, Tissue.PAPILLARY: 0.08, Tissue.RV_WALL: 0.10,
    Tissue.RV_TRABECULA: 0.10, Tissue.SCAR: 0.10, Tissue.NO_REFLOW: 0.15, Tissue.EDEMA: 0.08,
}.items():  # fmt: skip
    _TEXTURE[_tissue] = _strength
_TEXTURE.flags.writeable = False


@dataclass(frozen=True)
class Session:
    """One subject on one scanner with one sequence: what chance decides once for a scan."""

    heart: Heart
    scanner: Scanner
    protocol: Protocol
    sequence: str
    lattice: Image
    """(48, 48, 48) noise that gives the tissues their texture; the subject's, whatever the sequence."""
    table: NDArray[np.float32]
    """(tissue,) signal, or (tissue, frequency) for bSSFP; of tagged scans (tissue,) before there are tags."""
    reference: float
    """Signal that gets the scanner's `intensity`."""
    snr: float
    """Of this scan, as `Protocol.snr` defines it."""
    noise: float
    """Standard deviation in each of the two channels of the picture, in units of the reference."""
    shim: NDArray[np.float64]
    """Off-resonance gradient, Hz/mm, RAS+."""
    bias: NDArray[np.float64]
    """Directions of the residual inhomogeneity, 1/mm."""
    ghost: float
    """Share of the blood's signal that pulsation smears along the phase encoding."""
    tags: TagGrid | None = None
    """Of a tagged scan."""


@dataclass(frozen=True)
class Fields:
    """What of a slice does not depend on the heart's phase."""

    fine: Image
    coarse: Image
    shading: Image
    column: NDArray[np.intp]
    """Column of the signal table for each voxel's off-resonance."""
    outflow: Image
    inflow: Image


def draw_session(
    rng: np.random.Generator, heart: Heart, scanner: Scanner, sequence: str, lattice: Image
) -> Session:
    """Chance decisions of one scan: contrast dose and TI miss, shim, bias, ghosting."""
    table, reference = _table(rng, scanner, sequence, heart.beat_ms)
    protocol = scanner.protocols[sequence]
    # Ours, chosen by eye: a third of the shim's offset is linear, bias waves are of about 370 mm at 1.5 T.
    shim = rng.normal(0, scanner.shim_hz / 450, 3)
    bias = rng.normal(0, 0.0011 * scanner.field_t, (3, 3))
    snr = protocol.snr * rng.uniform(0.8, 1.25)
    noise = _level(table, SNR_TISSUE[sequence]) / reference / snr
    ghost = rng.uniform(0.0, _GHOST)
    tags = spamm.draw_grid(rng, scanner.tags) if sequence == "tagged" else None
    return Session(
        heart, scanner, protocol, sequence, lattice, table, reference, snr, noise, shim, bias, ghost, tags
    )


def draw_lattice(rng: np.random.Generator) -> Image:
    """Noise for textures: standard normal at the nodes of a lattice that repeats."""
    return rng.standard_normal((_LATTICE,) * 3).astype(np.float32)


def slice_fields(session: Session, cut: Slice) -> Fields:
    """Texture, shading, off-resonance and jets of one slice."""
    heart = session.heart
    return Fields(
        _texture(session.lattice, np.stack(cut.centres_mm(), axis=-1), 4.5),
        _smooth_field(cut, lambda p: _texture(session.lattice, p, 13.0), stride=4),
        _smooth_field(cut, lambda p: _shading(session, p)),
        _columns(
            _smooth_field(cut, lambda p: _off_resonance_hz(session, p)) * (session.scanner.tr_ms / 1000)
        ),
        _smooth_field(cut, lambda p: _jet(heart, p, (9.0, -7.0, 6.0), (9.0, 9.0, 26.0))),
        _smooth_field(cut, lambda p: _jet(heart, p, (-5.0, 5.0, 16.0), (10.0, 10.0, 24.0))),
    )


def acquire(
    rng: np.random.Generator,
    session: Session,
    fields: Fields,
    mixture: Mixture,
    phase: float,
    lines: Image | None = None,
) -> Image:
    """Magnitude image (y, x) of one slice at one phase, in the scanner's grey values.

    `lines` is what tags have left of the magnetisation, where there are some.
    """
    if session.tags is not None and lines is not None:
        table = spamm.tagged_table(session.scanner.field_t, session.tags, phase, session.heart.beat_ms)
        image = mixture.signal_by(table, spamm.level_of(lines))
    elif session.table.ndim == 2:
        image = mixture.signal_by(session.table, fields.column)
    else:
        image = mixture.signal(session.table)
    image = image * (1 / session.reference)
    image *= _texture_factor(fields, mixture)
    image = _with_vessels(session, fields, mixture, image)
    if session.sequence == "bssfp":
        image = _with_flow(session, fields, mixture, image, phase)
    image *= fields.shading
    signed = session.sequence == "lge" and session.scanner.phase_sensitive
    filtering = session.protocol.resolved, session.scanner.apodisation
    received = receive(rng, image, *filtering, session.noise, phase_sensitive=signed)
    return received * np.float32(session.scanner.intensity)


def receive(
    rng: np.random.Generator,
    image: Image,
    resolved: tuple[float, float],
    apodisation: float,
    noise: float,
    *,
    phase_sensitive: bool = False,
) -> Image:
    """What the scanner makes of a signed image: k-space cut to `resolved`, complex noise, absolute value.

    `noise` is the standard deviation of each channel after k-space is cut and filtered. A phase-sensitive
    reconstruction keeps the sign (Kellman 2002, doi 10.1002/mrm.10051), and its grey values begin at 0: what is
    still inverted is black.
    """
    shape = image.shape
    along_y, along_x = (_window(n, share, apodisation) for n, share in zip(shape, resolved, strict=True))
    # White noise keeps of its variance the mean squared weight of the filter.
    before = np.float32(noise / np.sqrt((along_y**2).mean() * (along_x**2).mean()))
    received = image.astype(np.complex64)
    received += before * rng.standard_normal(shape, np.float32)
    received += 1j * before * rng.standard_normal(shape, np.float32)
    spectrum = fft.fft2(received)
    spectrum *= along_y[:, None]
    spectrum *= along_x[None, :]
    received = fft.ifft2(spectrum)
    return np.asarray(np.maximum(received.real, 0) if phase_sensitive else np.abs(received), np.float32)


def _window(n: int, share: float, apodisation: float) -> Image:
    """1 in the middle of k-space, a cosine over the outer `apodisation` of the acquired share, 0 beyond."""
    k = np.abs(np.fft.fftfreq(n)) * 2 / share
    roll = np.clip((k - (1 - apodisation)) / max(apodisation, 1e-6), 0, 1)
    return np.where(k <= 1, 0.5 * (1 + np.cos(np.pi * roll)), 0).astype(np.float32)


def _table(
    rng: np.random.Generator, scanner: Scanner, sequence: str, beat_ms: float
) -> tuple[NDArray[np.float32], float]:
    """Signals of the tissues, and the one that gets the scanner's `intensity`.

    T2-weighted shots and inversions come every second beat, as the SCMR protocols ask (Kramer 2020, doi
    10.1186/s12968-020-00607-1).
    """
    field, two_beats_ms = scanner.field_t, 2 * beat_ms
    if sequence == "bssfp":
        table = signal.bssfp_table(field, scanner.tr_ms, scanner.flip_deg, _CYCLES)
        return table, _level(table, Tissue.LV_BLOOD)
    if sequence == "t2":
        table = signal.t2_table(
            field,
            black_blood=scanner.black_blood,
            te_ms=scanner.t2_te_ms,
            recovery_ms=two_beats_ms,
            flip_deg=60,
        )
        return table, _level(table, Tissue.MYOCARDIUM) * 2.2  # ours: leaves room for oedema, fat and blood
    if sequence == "tagged":
        table = spamm.untagged_table(field, scanner.tags)
        return table, _level(table, Tissue.MYOCARDIUM) * 2.5  # ours: leaves room for fat and fresh blood
    # 0.1 to 0.2 mmol/kg, 10 to 20 minutes before: plasma holds 0.45 to 0.75 mmol/l, Sado 2012's range of T1.
    plasma_mm, ti_error = rng.uniform(0.45, 0.75), rng.normal(3, 8)  # the miss is ours
    table = signal.lge_table(field, plasma_mm=plasma_mm, tr_ms=two_beats_ms, ti_error_ms=ti_error)
    return table, _level(table, Tissue.SCAR)


def _level(table: NDArray[np.float32], tissue: Tissue) -> float:
    """Signal of a tissue on resonance."""
    row = table[tissue]
    return float(row if row.ndim == 0 else row[_CYCLES.size // 2])


def _texture_factor(fields: Fields, mixture: Mixture) -> Image:
    strength = _TEXTURE[mixture.tissue]
    return np.asarray(1 + strength * (0.75 * fields.fine + 0.65 * fields.coarse), np.float32)


def _with_vessels(session: Session, fields: Fields, mixture: Mixture, image: Image) -> Image:
    """Vessels of lung and liver: where the fine texture is highest; bright where blood is."""
    level = abs(_level(session.table, Tissue.ARTERY)) / session.reference
    for tissue, threshold, share in ((Tissue.LUNG, 1.9, 0.6), (Tissue.LIVER, 2.0, 0.45)):  # ours, by eye
        vessel = np.clip((fields.fine - threshold) * 2.5, 0, 1) * (mixture.tissue == tissue)
        image = image + share * vessel * (level - image)
    return image


def _with_flow(session: Session, fields: Fields, mixture: Mixture, image: Image, phase: float) -> Image:
    """Jets that dephase near the valves, and pulsation that ghosts along the phase encoding."""
    beat = session.heart.motion
    speed = (beat.activation(phase + 0.01) - beat.activation(phase - 0.01)) / 0.02 / _FASTEST_PER_CYCLE
    left = (mixture.tissue == Tissue.LV_BLOOD) | (mixture.tissue == Tissue.LA_BLOOD)
    loss = _JET_LOSS[0] * max(speed, 0.0) * fields.outflow + _JET_LOSS[1] * max(-speed, 0.0) * fields.inflow
    image = np.where(left, image * (1 - np.clip(loss, 0, 0.9)), image)
    pulsing = np.where(left | (mixture.tissue == Tissue.ARTERY), image, 0)
    return np.asarray(image + session.ghost * np.roll(pulsing, image.shape[0] // 3, axis=0), np.float32)


def _texture(lattice: Image, points_mm: NDArray[np.floating[Any]], period_mm: float) -> Image:
    """Smooth noise of unit variance at points (y, x, 3), with blobs of about the period."""
    coordinates = np.moveaxis(points_mm, -1, 0) * np.float32(1 / period_mm) + np.float32(period_mm)
    noise = ndimage.map_coordinates(lattice, coordinates, order=1, mode="grid-wrap", output=np.float32)
    return np.asarray(
        noise * np.float32((2 / 3) ** -1.5), np.float32
    )  # mean squared linear weight is 2/3 an axis


def _smooth_field(
    cut: Slice, of: Callable[[NDArray[np.float64]], NDArray[np.floating[Any]]], stride: int = _COARSE
) -> Image:
    """A function of place (…, 3), known every few voxels and linear between."""
    nodes = [np.arange(0, n + stride, stride, dtype=np.float64) for n in cut.shape]
    points = np.stack(cut.points_mm(nodes[0][:, None], nodes[1][None, :]), axis=-1).astype(np.float64)
    rows = _between(of(points).astype(np.float32), cut.shape[0], stride)
    return np.ascontiguousarray(_between(rows.T, cut.shape[1], stride).T)


def _between(values: Image, n: int, stride: int) -> Image:
    """Values at every `stride`-th of n places along the first axis, linear between them.

    Written without a matrix product: its threads would fight those of the other processes.
    """
    low, part = np.divmod(np.arange(n), stride)
    share = (part / stride).astype(np.float32)[:, None]
    return np.asarray(values[low] * (1 - share) + values[low + 1] * share, np.float32)


def _shading(session: Session, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Root sum of squares of six coil elements around the chest, as far as left uncorrected, and slow bias.

    Places and reach of the elements and the depth of the bias are ours, chosen by eye.
    """
    chest = session.heart.chest
    local = points - np.array(chest.centre_mm)
    front = chest.half_depth_mm + chest.wall_mm + chest.fat_mm + 15
    elements = [(x, front, z) for x in (-60, 50) for z in (-70, 60)] + [
        (-40, -front - 10, 0),
        (40, -front - 10, 0),
    ]
    total = np.zeros(points.shape[:-1])
    for element in elements:
        total += 1 / (1 + ((local - np.array(element)) ** 2).sum(-1) / 95.0**2) ** 2
    sensitivity = np.sqrt(total) / _SENSITIVITY_AT_HEART
    waves = np.sin(local @ session.bias.T * 9 + np.arange(3))
    return np.asarray(
        sensitivity**session.scanner.shading * (1 + 0.10 * session.scanner.field_t / 1.5 * waves.mean(-1))
    )


_SENSITIVITY_AT_HEART: Final = 0.62
"""What the six elements above add up to in the middle of a heart, by the same formula, in a usual chest."""


def _off_resonance_hz(session: Session, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shim left over, growing with the sixth power of the distance, and the dip where lung, heart and liver meet."""
    heart = session.heart
    local = points - np.array(heart.chest.centre_mm)
    distance = np.linalg.norm(local, axis=-1) / 150.0
    spot = heart.heart_to_mm(np.array([-10.0, heart.shape.endo_mm + 8, 0.45 * heart.shape.length_mm]))
    dip = np.exp(-((points - spot) ** 2).sum(-1) / 22.0**2)  # size and strength ours, by eye
    strength = session.scanner.shim_hz
    return np.asarray(local @ session.shim + strength * distance**6 + 0.9 * strength * dip)


def _columns(cycles: Image) -> NDArray[np.intp]:
    step = _CYCLES[1] - _CYCLES[0]
    return np.asarray(np.clip(np.rint((cycles - _CYCLES[0]) / step), 0, _CYCLES.size - 1), np.intp)


def _jet(
    heart: Heart,
    points: NDArray[np.float64],
    centre: tuple[float, float, float],
    half: tuple[float, float, float],
) -> NDArray[np.float64]:
    local = (points - np.array(heart.base_mm)) @ heart.axes_matrix.T
    return np.asarray(np.exp(-(((local - np.array(centre)) / np.array(half)) ** 2).sum(-1)))
