"""Clinical indices of the phantom's true masks against its formulas."""

import numpy as np
import pytest

from crossbeat.labels import Structure
from crossbeat.metrics.clinical import Indices, find_ed_es, indices, volume_curve_ml
from crossbeat.synthetic import GROUPS, Heart, render_isotropic
from crossbeat.synthetic.cohort import draw_subject

SPACING = (1.0, 1.0, 1.0)


def measure(heart: Heart) -> Indices:
    """Indices of the 1-mm rendering at end diastole and end systole."""
    frames = [render_isotropic(heart, phase).labels for phase in (0.0, heart.motion.es_phase)]
    assert all(labels is not None for labels in frames)
    return indices(np.concatenate([labels for labels in frames if labels is not None]), SPACING, 0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_indices_of_the_true_masks_are_the_analytic_ones_within_2_percent(group: str) -> None:
    heart = draw_subject(11, GROUPS.index(group), group)
    found = measure(heart)
    ed, es = heart.volumes_ml(0.0), heart.volumes_ml(heart.motion.es_phase)
    assert found.lv_edv_ml == pytest.approx(ed.lv_ml, rel=0.02)
    assert found.lv_esv_ml == pytest.approx(es.lv_ml, rel=0.02)
    # Of a difference of two volumes the grid's error is a share of the larger one: the flat base falls between slices.
    assert found.lv_sv_ml == pytest.approx(ed.lv_ml - es.lv_ml, abs=0.02 * ed.lv_ml)
    assert found.lv_ef_percent == pytest.approx(heart.ef_percent, abs=2.0)
    assert found.lv_mass_g == pytest.approx(heart.mass_g, rel=0.02)
    assert found.rv_edv_ml == pytest.approx(ed.rv_ml, rel=0.02)
    assert found.rv_esv_ml == pytest.approx(es.rv_ml, rel=0.02)
    assert found.rv_ef_percent == pytest.approx(100 * (1 - es.rv_ml / ed.rv_ml), abs=2.0)
    if group == "MINF":
        assert found.scar_mass_g == pytest.approx(heart.scar_g, rel=0.02)
    else:
        assert np.isnan(found.scar_mass_g)
        assert heart.scar_g == 0


def test_another_spacing_changes_nothing_but_the_rounding() -> None:
    heart = draw_subject(11, 0, "NOR")
    coarse = render_isotropic(heart, 0.0, spacing_mm=2.0)
    assert coarse.labels is not None
    found = indices(coarse.labels, coarse.spacing_mm, 0)
    assert found.lv_edv_ml == pytest.approx(heart.volumes_ml(0.0).lv_ml, rel=0.02)
    assert found.lv_mass_g == pytest.approx(heart.mass_g, rel=0.02)


@pytest.mark.slow
def test_the_volume_curve_finds_the_beats_own_phases() -> None:
    heart = draw_subject(11, 1, "DCM")
    phases = np.linspace(0, 1, 9)[:-1]
    frames = [render_isotropic(heart, phase, spacing_mm=4.0).labels for phase in phases.tolist()]
    curve = np.concatenate(
        [volume_curve_ml(labels, (4.0, 4.0, 4.0), Structure.LV) for labels in frames if labels is not None]
    )
    expected = np.array([heart.volumes_ml(phase).lv_ml for phase in phases.tolist()])
    np.testing.assert_allclose(curve, expected, rtol=0.05)
    assert find_ed_es(curve) == (int(expected.argmax()), int(expected.argmin()))
