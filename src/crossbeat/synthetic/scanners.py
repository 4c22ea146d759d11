"""Four scanners: field, timing, resolution, noise, filter and shading of each, by one-letter name.

They are no model of any maker's product. Timings lie in the ranges of the SCMR protocols (Kramer 2020,
doi 10.1186/s12968-020-00607-1); resolutions and slice counts in those of MS-CMRSeg (Zhuang 2022,
arXiv 2006.12434: bSSFP 1.25 mm and 8 to 13 mm, T2 1.35 mm and 12 to 20 mm, LGE 0.75 mm and 5 mm). Tags are about
those of the simulator of the laboratory of Dhaene 2023 (methods.md 4.4), 8.3 mm apart and of 90 to 100 degrees; each
scanner's own are ours, and its pulses gentler than the 14 to 20 degrees every 40 ms there, so that lines last a beat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from crossbeat.errors import SettingsError, did_you_mean

SEQUENCES: Final = ("bssfp", "t2", "lge", "tagged")


@dataclass(frozen=True)
class Protocol:
    """Geometry of one sequence on one scanner."""

    pixel_mm: float
    matrix: tuple[int, int]
    """Rows and columns."""
    thickness_mm: float
    spacing_mm: tuple[float, float]
    """Least and largest distance between slices; one is drawn for each subject."""
    slices: tuple[int, int]
    """Least and largest number of slices."""
    resolved: tuple[float, float]
    """Share of k-space that is acquired along y (phase) and x (readout); the rest is filled with zeros."""
    snr: float
    """Signal over standard deviation in the picture, filtered as it is, where the coils see as much as on average.

    Of blood in bSSFP, of healthy myocardium in T2, of scar in LGE, of myocardium without tags in tagged scans (there
    10 to 30, methods.md 4.4). Ours, chosen by eye; a scan has 0.8 to 1.25 times as much.
    """


@dataclass(frozen=True)
class TagProtocol:
    """How one scanner tags."""

    spacing_mm: float
    """Between two lines, across them."""
    angle_deg: float
    """Across the first set of lines, against the rows of the picture; the other set is at right angles."""
    train: tuple[int, ...]
    """Shares of the flip angle."""
    flip_deg: float
    """Of each train together."""
    pulse_deg: float
    """Flip angle of the pulses that take the cine."""
    tr_ms: float
    """Between two of them; they go on through the whole cycle."""


@dataclass(frozen=True)
class Scanner:
    """One scanner."""

    name: str
    field_t: float
    tr_ms: float
    flip_deg: float
    shim_hz: float
    """Off-resonance 150 mm from the isocentre."""
    shading: float
    """Exponent of the coils' sensitivity that its correction leaves; 0 is even."""
    apodisation: float
    """Share of k-space's radius over which the filter falls off: 0 rings most."""
    intensity: float
    """Grey value of on-resonant blood in bSSFP."""
    black_blood: bool
    """T2-weighted images are black-blood TSE rather than T2-prepared bSSFP."""
    t2_te_ms: float
    phase_sensitive: bool
    """LGE keeps its sign; else it is a magnitude image."""
    protocols: Mapping[str, Protocol]
    tags: TagProtocol


def _protocols(
    bssfp: tuple[float, int, int, float],
    t2: tuple[float, int, float],
    lge: tuple[float, int, float],
    tagged: tuple[float, int, float],
    phase: float,
    snr: tuple[float, float, float, float],
) -> Mapping[str, Protocol]:
    return MappingProxyType(
        {
            "bssfp": Protocol(bssfp[0], bssfp[1:3], bssfp[3], (8.0, 11.0), (9, 12), (phase, 0.95), snr[0]),
            "t2": Protocol(t2[0], (t2[1], t2[1]), t2[2], (12.0, 20.0), (3, 7), (phase * 0.9, 0.9), snr[1]),
            "lge": Protocol(
                lge[0], (lge[1], lge[1]), lge[2], (5.0, 7.0), (12, 17), (phase * 0.72, 0.72), snr[2]
            ),
            "tagged": Protocol(
                tagged[0], (tagged[1], tagged[1]), tagged[2], (12.0, 20.0), (3, 5), (phase * 0.8, 0.8), snr[3]
            ),
        }
    )


SCANNERS: Final[Mapping[str, Scanner]] = MappingProxyType(
    {
        s.name: s
        for s in (
            Scanner("a", 1.5, 3.0, 55, 22, 0.35, 0.40, 1500, False, 50, True,
                    _protocols((1.25, 256, 256, 8.0), (1.35, 256, 10.0), (0.75, 480, 5.0), (1.40, 240, 7.0),
                                0.80, (107, 34, 62, 28)), TagProtocol(7.0, 45, (1, 3, 3, 1), 90, 4.0, 5.0)),
            Scanner("b", 1.5, 3.4, 60, 30, 0.20, 0.55, 520, True, 75, False,
                    _protocols((1.40, 240, 240, 8.0), (1.35, 256, 12.0), (0.80, 432, 5.0), (1.50, 224, 8.0),
                                0.90, (140, 41, 76, 32)), TagProtocol(8.0, 45, (1, 2, 1), 100, 3.6, 4.8)),
            Scanner("c", 3.0, 3.1, 42, 45, 0.55, 0.30, 900, False, 45, True,
                    _protocols((1.20, 272, 272, 8.0), (1.30, 264, 10.0), (0.75, 480, 5.0), (1.43, 256, 6.0),
                                0.75, (138, 43, 79, 24)), TagProtocol(6.5, 45, (1, 3, 3, 1), 90, 3.2, 4.4)),
            Scanner("d", 1.5, 3.8, 48, 20, 0.75, 0.15, 220, True, 65, False,
                    _protocols((1.56, 224, 224, 8.0), (1.45, 240, 12.0), (0.90, 400, 5.0), (1.60, 224, 8.0),
                                0.62, (65, 24, 43, 16)), TagProtocol(8.3, 0, (1, 4, 6, 4, 1), 90, 4.8, 5.6)),
        )
    }
)  # fmt: skip


def find_scanner(name: str) -> Scanner:
    """The scanner of that name, else a `SettingsError` that lists them."""
    if name not in SCANNERS:
        raise SettingsError(f"phantom vendor {name!r} does not exist; {did_you_mean(name, SCANNERS)}")
    return SCANNERS[name]
