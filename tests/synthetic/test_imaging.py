"""Noise as the protocols declare it, and timing as the heart asks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crossbeat.synthetic import signal
from crossbeat.synthetic.cohort import draw_subject
from crossbeat.synthetic.imaging import SNR_TISSUE, acquire, draw_lattice, draw_session, receive, slice_fields
from crossbeat.synthetic.sampling import Mixture, Slice
from crossbeat.synthetic.scanners import SCANNERS, SEQUENCES
from crossbeat.synthetic.tissue import Tissue

LATTICE = draw_lattice(np.random.default_rng(0))


@pytest.mark.slow
@pytest.mark.parametrize("vendor", SCANNERS)
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_the_snr_of_a_flat_region_is_the_declared_one(vendor: str, sequence: str) -> None:
    """By the difference of two pictures, so that texture and shading cancel, as NEMA MS 1 measures it."""
    rng, scanner = np.random.default_rng(1), SCANNERS[vendor]
    heart = draw_subject(0, 3, "MINF")
    session = draw_session(rng, heart, scanner, sequence, LATTICE)
    (ny, nx), pixel = session.protocol.matrix, session.protocol.pixel_mm
    right, down = np.array([pixel, 0, 0]), np.array([0, pixel, 0])
    cut = Slice(np.array(heart.base_mm), right, down, np.array([0.0, 0, 1]), (ny, nx), 8.0)
    fields = slice_fields(session, cut)
    even, on_resonance = np.ones((ny, nx), np.float32), np.full((ny, nx), 300)
    fields = replace(fields, shading=even, column=on_resonance, outflow=0 * even, inflow=0 * even)
    flat = Mixture(
        np.full((ny, nx), SNR_TISSUE[sequence], np.uint8),
        np.zeros(0, np.int64),
        np.zeros((0, len(Tissue)), np.float32),
    )
    one, two = (acquire(rng, replace(session, ghost=0.0), fields, flat, 0.0) for _ in range(2))
    middle = slice(ny // 4, 3 * ny // 4), slice(nx // 4, 3 * nx // 4)
    snr = one[middle].mean() / ((one - two)[middle].std() / np.sqrt(2))
    assert snr == pytest.approx(session.snr, rel=0.1)
    assert 0.8 <= session.snr / session.protocol.snr <= 1.25


@pytest.mark.parametrize("apodisation", [0.0, 0.5, 1.0])
def test_noise_is_as_strong_as_asked_whatever_the_filter(apodisation: float) -> None:
    flat = np.ones((300, 320), np.float32)
    received = receive(np.random.default_rng(0), flat, (0.62, 0.8), apodisation, 0.02)
    assert received.std() == pytest.approx(0.02, rel=0.03)


def test_slow_hearts_recover_more_between_inversions() -> None:
    heart = draw_subject(0, 0, "NOR")
    for beat_ms in (700.0, 1100.0):
        session = draw_session(
            np.random.default_rng(0), replace(heart, beat_ms=beat_ms), SCANNERS["b"], "t2", LATTICE
        )
        expected = signal.t2_table(1.5, black_blood=True, te_ms=75, recovery_ms=2 * beat_ms, flip_deg=60)
        np.testing.assert_array_equal(session.table, expected)
    fast, slow = (
        draw_session(
            np.random.default_rng(0), replace(heart, beat_ms=beat_ms), SCANNERS["a"], "lge", LATTICE
        ).table
        for beat_ms in (700.0, 1100.0)
    )
    assert slow[Tissue.SCAR] > fast[Tissue.SCAR]
