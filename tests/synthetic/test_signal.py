"""Sequence equations against closed formulas and a step-by-step simulation."""

from __future__ import annotations

import numpy as np
import pytest

from crossbeat.synthetic import signal
from crossbeat.synthetic.imaging import receive
from crossbeat.synthetic.signal import Relaxation, relaxation
from crossbeat.synthetic.tissue import Tissue


def _steady_state(at: Relaxation, tr_ms: float, flip_deg: float, cycles: float) -> complex:
    """Bloch simulation of balanced SSFP, pulse by pulse, with alternating pulses; read at TE = TR/2."""
    angle, turn = np.deg2rad(flip_deg), 2 * np.pi * cycles
    half1, half2 = np.exp(-tr_ms / 2 / at.t1_ms), np.exp(-tr_ms / 2 / at.t2_ms)
    m = np.array([0.0, 0.0, at.density])
    read = 0j
    for pulse in range(6000):
        a = angle * (-1) ** pulse
        m = np.array([[1, 0, 0], [0, np.cos(a), np.sin(a)], [0, -np.sin(a), np.cos(a)]]) @ m
        for half in range(2):
            c, s = np.cos(turn / 2), np.sin(turn / 2)
            m = np.array([half2 * (c * m[0] - s * m[1]), half2 * (s * m[0] + c * m[1]), half1 * m[2]])
            m[2] += at.density * (1 - half1)
            if half == 0:
                read = complex(m[0], m[1])
    return read


@pytest.mark.parametrize("cycles", [0.0, 0.2, 0.45, 0.67])
def test_balanced_ssfp_is_what_the_bloch_equations_settle_to(cycles: float) -> None:
    at = Relaxation(500.0, 80.0, 0.8)
    expected = abs(_steady_state(at, 4.0, 50.0, cycles))
    assert abs(float(signal.bssfp(at, 4.0, 50.0, cycles))) == pytest.approx(expected, rel=1e-3)


def test_on_resonance_the_signal_is_the_short_formula() -> None:
    # TR << T2: M0 sin α / (1 + cos α + (1 - cos α) T1/T2), by hand with T1/T2 = 5, 60°: 0.866 / (1.5 + 2.5)
    value = float(signal.bssfp(Relaxation(1500.0, 300.0, 1.0), 0.01, 60.0))
    assert value == pytest.approx(0.8660254 / 4.0, rel=1e-4)


def test_blood_outshines_myocardium_by_the_ratio_of_the_formula() -> None:
    # 55°, 1.5 T: blood 0.95 / (1.5736 + 0.4264 · 1441/290), myocardium 0.80 / (1.5736 + 0.4264 · 1030/52)
    table = signal.bssfp_table(1.5, 0.01, 55.0, np.zeros(1))[:, 0]
    expected = (0.95 / (1.57358 + 0.42642 * 1441 / 290)) / (0.80 / (1.57358 + 0.42642 * 1030 / 52))
    assert table[Tissue.LV_BLOOD] / table[Tissue.MYOCARDIUM] == pytest.approx(expected, rel=1e-3)


def test_bands_are_dark_half_a_cycle_off_and_the_sign_alternates() -> None:
    at = relaxation(Tissue.LV_BLOOD, 1.5)
    on, band, next_on = (float(signal.bssfp(at, 3.0, 55.0, c)) for c in (0.0, 0.5, 1.0))
    assert abs(band) < 0.05 * on
    assert next_on == pytest.approx(-on)


def test_fat_opposes_water_in_balanced_ssfp() -> None:
    # 3.5 ppm at 1.5 T is 223.5 Hz; over 3 ms 0.67 cycles, the next band
    assert signal.fat_shift_hz(1.5) == pytest.approx(-223.5, abs=0.1)
    table = signal.bssfp_table(1.5, 3.0, 55.0, np.zeros(1))[:, 0]
    assert table[Tissue.FAT] < 0 < table[Tissue.MYOCARDIUM]


def test_the_nulling_time_nulls() -> None:
    # T1 450, TR 1700: 450 ln(2 / (1 + e^-3.7778)) = 301.7 ms
    ti = signal.nulling_ti_ms(450.0, 1700.0)
    assert ti == pytest.approx(301.7, abs=0.1)
    assert signal.inversion_recovery(1.0, 450.0, ti, 1700.0) == pytest.approx(0, abs=1e-12)
    assert signal.nulling_ti_ms(450.0, 1e9) == pytest.approx(450 * np.log(2))


def test_contrast_shortens_t1_by_its_relaxivity() -> None:
    # myocardium: 1/1.030 + 4.6 · 0.26 · 0.6 = 1.6885 /s
    assert signal.enhanced_t1_ms(Tissue.MYOCARDIUM, 1.5, 0.6) == pytest.approx(1000 / 1.68847, rel=1e-4)


@pytest.mark.parametrize("field_t", [1.5, 3.0])
def test_late_enhancement_shows_scar_bright_and_everything_viable_dark(field_t: float) -> None:
    table = signal.lge_table(field_t, plasma_mm=0.6, tr_ms=1700.0)
    scar, blood = table[Tissue.SCAR], table[Tissue.LV_BLOOD]
    assert abs(table[Tissue.MYOCARDIUM]) < 1e-6 * scar
    assert 0.6 * scar < blood < 1.3 * scar
    assert abs(table[Tissue.NO_REFLOW]) < abs(blood)
    assert table[Tissue.NO_REFLOW] < 0  # inverted still: between it and the scar lies a dark rim


def test_t2_weighting_shows_oedema_and_its_black_blood_is_black() -> None:
    for black in (False, True):
        table = signal.t2_table(1.5, black_blood=black, te_ms=60.0, recovery_ms=1900.0, flip_deg=60.0)
        assert table[Tissue.EDEMA] > 1.15 * table[Tissue.MYOCARDIUM]
        assert (table[Tissue.LV_BLOOD] < table[Tissue.MYOCARDIUM]) == black
    # by hand: 0.8 (1 - e^(-1900/1030)) e^(-60/52)
    expected = 0.8 * (1 - np.exp(-1900 / 1030)) * np.exp(-60 / 52)
    assert table[Tissue.MYOCARDIUM] == pytest.approx(expected, rel=1e-5)


def test_fields_without_relaxation_times_are_refused() -> None:
    with pytest.raises(ValueError, match=r"known at 1.5 and 3.0 T, got 7.0"):
        relaxation(Tissue.LIVER, 7.0)


def test_noise_is_rayleigh_in_air_and_rician_in_tissue() -> None:
    sigma = 0.05
    air = receive(np.random.default_rng(0), np.zeros((300, 320), np.float32), (1.0, 1.0), 0.0, sigma)
    assert air.mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.01)
    assert air.std() == pytest.approx(sigma * np.sqrt(2 - np.pi / 2), rel=0.01)
    body = receive(np.random.default_rng(0), np.ones((300, 320), np.float32), (1.0, 1.0), 0.0, sigma)
    assert body.mean() == pytest.approx(1 + sigma**2 / 2, rel=1e-3)
    assert body.std() == pytest.approx(sigma, rel=0.01)


def test_a_cut_k_space_rings_beside_an_edge_and_keeps_the_mean() -> None:
    image = np.zeros((64, 96), np.float32)
    image[:, 32:64] = 1
    cut = receive(np.random.default_rng(0), image, (1.0, 0.5), 0.0, 0.0)
    # 8.9 % of the step is Gibbs' overshoot for a continuous edge; magnitude folds the undershoot
    assert 1.05 < cut.max() < 1.15
    np.testing.assert_allclose(cut, np.broadcast_to(cut[:1], cut.shape), atol=1e-5)
    smooth = receive(np.random.default_rng(0), image, (1.0, 0.5), 1.0, 0.0)
    assert smooth.max() < 1.02
    np.testing.assert_allclose(
        receive(np.random.default_rng(0), image, (1.0, 1.0), 0.0, 0.0), image, atol=1e-6
    )


def test_a_phase_sensitive_picture_blackens_what_is_inverted() -> None:
    image = np.array([[-0.5, 0.0], [0.25, 1.0]], np.float32)
    rng = np.random.default_rng(0)
    plain = receive(rng, image, (1.0, 1.0), 0.0, 0.0)
    np.testing.assert_allclose(plain, [[0.5, 0], [0.25, 1]], atol=1e-6)
    kept = receive(rng, image, (1.0, 1.0), 0.0, 0.0, phase_sensitive=True)
    np.testing.assert_allclose(kept, [[0, 0], [0.25, 1]], atol=1e-6)
