"""MR signal of each tissue by the equations of the sequences: balanced SSFP, T2-weighted, inversion recovery.

Times are ms, angles degrees, frequencies Hz; signals are shares of the fully relaxed magnetisation of water.
The receive phase at the echo is kept as a sign, so fat and water cancel where they share a voxel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbeat.synthetic.tissue import Tissue

PHANTOM_VERSION: Final = "1"
"""Changes whenever a picture would: method tables name the version that they were measured on."""

Floats = NDArray[np.floating[Any]]


class Relaxation(NamedTuple):
    """Relaxation times of one tissue at one field, and its proton density against water."""

    t1_ms: float
    t2_ms: float
    density: float


@dataclass(frozen=True)
class _Row:
    t1_15: float
    t2_15: float
    t1_30: float
    t2_30: float
    density: float
    ecv: float
    """Share of the tissue that contrast agent enters, 15 minutes after injection."""


# T1 and T2 at 1.5 and 3 T. S: Stanisz 2005, doi 10.1002/mrm.20605. B: de Bazelaire 2004,
# doi 10.1148/radiol.2303021331. G: Giri 2009, doi 10.1186/1532-429X-11-56. K: von Knobelsdorff-Brenkenhoff
# 2013, doi 10.1186/1532-429X-15-53. Proton densities as in MRXCAT, Wissmann 2014, doi 10.1186/s12968-014-0063-3,
# where it has the tissue. Extracellular volumes of the heart: Sado 2012, doi 10.1136/heartjnl-2012-302346.
_BLOOD: Final = _Row(1441, 290, 1932, 275, 0.95, 0.58)  # S; ECV is 1 - haematocrit of 0.42
_HEART: Final = _Row(1030, 52, 1471, 45, 0.80, 0.26)  # T1 S; T2 G at 1.5 T, K at 3 T; ECV Sado
_SOFT: Final = _Row(1008, 44, 1412, 50, 0.80, 0.16)  # S, skeletal muscle
_TABLE: Final[Mapping[Tissue, _Row]] = MappingProxyType(
    {
        Tissue.AIR: _Row(1000, 10, 1000, 10, 0.0, 0.0),
        Tissue.LUNG: _Row(
            1200, 41, 1400, 30, 0.10, 0.5
        ),  # density: Hatabu 1999, doi 10.1016/S0720-048X(98)00170-9
        Tissue.FAT: _Row(288, 165, 371, 133, 0.70, 0.02),  # Gold 2004, doi 10.2214/ajr.183.2.1830343
        Tissue.MUSCLE: _SOFT,
        Tissue.BONE: _Row(500, 2, 500, 2, 0.12, 0.02),  # cortical bone hardly shows; density MRXCAT
        Tissue.MARROW: _Row(549, 49, 586, 49, 0.60, 0.10),  # B, marrow of L4
        Tissue.LIVER: _Row(586, 46, 809, 34, 0.80, 0.30),  # B
        Tissue.SPLEEN: _Row(1057, 79, 1328, 61, 0.80, 0.34),  # B
        Tissue.KIDNEY: _Row(966, 87, 1142, 76, 0.85, 0.40),  # B, cortex
        Tissue.FLUID: _Row(3000, 600, 3500, 500, 0.95, 0.0),  # watery meal and CSF, between Stanisz and water
        Tissue.GUT: _Row(1000, 60, 1300, 55, 0.80, 0.25),  # bowel wall and content, near B's soft organs
        Tissue.ARTERY: _BLOOD,
        Tissue.LV_BLOOD: _BLOOD,
        Tissue.RV_BLOOD: _Row(
            1441, 180, 1932, 150, 0.95, 0.58
        ),  # venous: T2 falls with oxygen, Wright 1991 jmri.1880010303
        Tissue.LA_BLOOD: _BLOOD,
        Tissue.RA_BLOOD: _Row(1441, 200, 1932, 165, 0.95, 0.58),
        Tissue.MYOCARDIUM: _HEART,
        Tissue.PAPILLARY: _HEART,
        Tissue.RV_WALL: _HEART,
        Tissue.RV_TRABECULA: _HEART,
        Tissue.PERICARDIUM: _Row(1000, 8, 1200, 8, 0.25, 0.10),  # fibrous: dark on every sequence
        Tissue.SCAR: _Row(1180, 66, 1620, 58, 0.80, 0.58),  # ECV of infarct 0.585, Sado; oedematous
        Tissue.NO_REFLOW: _Row(1080, 50, 1500, 44, 0.80, 0.03),  # contrast hardly enters
        Tissue.EDEMA: _Row(1190, 68, 1650, 60, 0.80, 0.32),  # T2 of acute oedema 65 to 69, Giri 2009
        Tissue.SKIN: _Row(900, 30, 1000, 30, 0.70, 0.2),
    }
)

FAT_SHIFT_PPM: Final = -3.5
"""Main resonance of fat against water."""
GYROMAGNETIC_MHZ_PER_T: Final = 42.577
RELAXIVITY_PER_S_MM: Final = MappingProxyType({1.5: 4.6, 3.0: 4.5})
"""r1 of gadobutrol in whole blood, 1/(s mM): 4.6 ± 0.2 and 4.5 ± 0.3, Shen 2015, Invest Radiol 50:330."""

_FATTY: Final = frozenset({Tissue.FAT})


def relaxation(tissue: Tissue, field_t: float) -> Relaxation:
    """Native relaxation of a tissue at 1.5 or 3 T."""
    row = _TABLE[tissue]
    if field_t == 1.5:
        return Relaxation(row.t1_15, row.t2_15, row.density)
    if field_t == 3.0:
        return Relaxation(row.t1_30, row.t2_30, row.density)
    raise ValueError(f"field_t: relaxation times are known at 1.5 and 3.0 T, got {field_t}")


def enhanced_t1_ms(tissue: Tissue, field_t: float, plasma_mm: float) -> float:
    """T1 of a tissue once the plasma carries `plasma_mm` mmol/l of contrast: 1/T1 = 1/T1₀ + r₁ · ECV · C."""
    native = relaxation(tissue, field_t).t1_ms
    return 1000.0 / (1000.0 / native + RELAXIVITY_PER_S_MM[field_t] * _TABLE[tissue].ecv * plasma_mm)


def fat_shift_hz(field_t: float) -> float:
    """Frequency of fat against water."""
    return FAT_SHIFT_PPM * GYROMAGNETIC_MHZ_PER_T * field_t


def bssfp(at: Relaxation, tr_ms: float, flip_deg: float, cycles: Floats | float = 0.0) -> Floats:
    """Steady state of balanced SSFP at TE = TR/2, signed; `cycles` is the off-resonance times TR.

    Freeman and Hill 1971, doi 10.1016/0022-2364(71)90021-6, with alternating pulses: maximal at 0 cycles,
    with dark bands at every odd half cycle, between which the sign alternates.
    """
    e1, e2 = float(np.exp(-tr_ms / at.t1_ms)), float(np.exp(-tr_ms / at.t2_ms))
    cos, sin = float(np.cos(np.deg2rad(flip_deg))), float(np.sin(np.deg2rad(flip_deg)))
    turns = np.asarray(cycles, np.float64)
    wave = np.cos(2 * np.pi * turns + np.pi)
    a, b = e2 * (e1 - 1) * (1 + cos), 1 - e1 * cos - (e1 - cos) * e2 * e2
    size = (1 - e1) * sin * np.sqrt(1 - 2 * e2 * wave + e2 * e2) / (a * wave + b)
    sign = np.where(np.round(turns) % 2 == 0, 1.0, -1.0)
    return np.asarray(at.density * size * float(np.exp(-tr_ms / 2 / at.t2_ms)) * sign)


def t2_prepared(at: Relaxation, preparation_ms: float, recovery_ms: float, flip_deg: float) -> float:
    """T2-prepared single-shot bSSFP: T2 decay during the preparation, T1 recovery since the last shot."""
    recovered = 1 - np.exp(-recovery_ms / at.t1_ms)
    return float(at.density * recovered * np.exp(-preparation_ms / at.t2_ms) * np.sin(np.deg2rad(flip_deg)))


def turbo_spin_echo(at: Relaxation, te_ms: float, tr_ms: float) -> float:
    """Turbo spin echo: S = M0 (1 - exp(-TR/T1)) exp(-TE/T2)."""
    return float(at.density * (1 - np.exp(-tr_ms / at.t1_ms)) * np.exp(-te_ms / at.t2_ms))


def inversion_recovery(density: float, t1_ms: float, ti_ms: float, tr_ms: float) -> float:
    """Longitudinal magnetisation at TI, signed: M0 (1 - 2 exp(-TI/T1) + exp(-TR/T1)); TR between inversions."""
    return float(density * (1 - 2 * np.exp(-ti_ms / t1_ms) + np.exp(-tr_ms / t1_ms)))


def nulling_ti_ms(t1_ms: float, tr_ms: float) -> float:
    """The inversion time at which a tissue of this T1 gives no signal: T1 ln(2 / (1 + exp(-TR/T1)))."""
    return float(t1_ms * np.log(2 / (1 + np.exp(-tr_ms / t1_ms))))


def bssfp_table(field_t: float, tr_ms: float, flip_deg: float, cycles: Floats) -> NDArray[np.float32]:
    """Signal (tissue, frequency) of all tissues at these off-resonances; fat carries its own shift."""
    shift = fat_shift_hz(field_t) * tr_ms / 1000
    rows = [
        bssfp(relaxation(t, field_t), tr_ms, flip_deg, cycles + (shift if t in _FATTY else 0.0))
        for t in Tissue
    ]
    return np.stack(rows).astype(np.float32)


def t2_table(
    field_t: float, *, black_blood: bool, te_ms: float, recovery_ms: float, flip_deg: float
) -> NDArray[np.float32]:
    """Signal (tissue,) of T2-weighted imaging: T2-prepared bSSFP, or black-blood TSE with fat suppression."""
    return np.array(
        [_t2_signal(t, field_t, black_blood, te_ms, recovery_ms, flip_deg) for t in Tissue], np.float32
    )


def _t2_signal(
    tissue: Tissue, field_t: float, black_blood: bool, te_ms: float, recovery_ms: float, flip_deg: float
) -> float:
    at = relaxation(tissue, field_t)
    if not black_blood:
        return t2_prepared(at, te_ms, recovery_ms, flip_deg)
    signal = turbo_spin_echo(at, te_ms, recovery_ms)
    if tissue in _FATTY:
        return FAT_LEFT * signal
    return FLOW_VOID * signal if tissue in FLOWING else signal


FAT_LEFT: Final = 0.15
"""Share of fat's signal that its suppression (SPAIR) leaves; ours, chosen by eye."""
FLOW_VOID: Final = 0.10
"""Share of the blood's signal that survives double inversion and wash-out.

Simonetti 1996, doi 10.1148/radiology.199.1.8633172.
"""
FLOWING: Final = frozenset(
    {Tissue.ARTERY, Tissue.LV_BLOOD, Tissue.RV_BLOOD, Tissue.LA_BLOOD, Tissue.RA_BLOOD}
)
"""Blood, which leaves the slice between two pulses or two beats."""


_LGE_ECHO_MS: Final = 1.5  # ours: the shortest echo of a fast gradient echo, as in any protocol


def lge_table(
    field_t: float, *, plasma_mm: float, tr_ms: float, ti_error_ms: float = 0.0
) -> NDArray[np.float32]:
    """Signal (tissue,), signed, of inversion recovery after contrast, TI chosen to null the myocardium.

    `ti_error_ms` is how far the operator missed. Simonetti 2001, doi 10.1148/radiology.218.1.r01ja50215.
    """
    ti = nulling_ti_ms(enhanced_t1_ms(Tissue.MYOCARDIUM, field_t, plasma_mm), tr_ms) + ti_error_ms
    return np.array(
        [
            inversion_recovery(
                relaxation(t, field_t).density, enhanced_t1_ms(t, field_t, plasma_mm), ti, tr_ms
            )
            * float(np.exp(-_LGE_ECHO_MS / relaxation(t, field_t).t2_ms))
            for t in Tissue
        ],
        np.float32,
    )
