"""Clinical indices of a cohort, and predicted beside reference, by arithmetic."""

from dataclasses import replace

import numpy as np
import pytest

from crossbeat.case import Case
from crossbeat.cohort import Cohort
from crossbeat.errors import CaseError, CohortError
from crossbeat.evaluation import compare_indices, measure_case, measure_cohort, told_remarks
from crossbeat.labels import TRAINED, UNKNOWN
from evaluation.conftest import LV, MYO, RV, ReadPrediction, with_labels

VOXEL_ML = 10.0 * 1.5 * 2.0 / 1000
ED_ML, ES_ML = 4 * 8 * 4 * VOXEL_ML, 4 * 4 * 4 * VOXEL_ML  # slices, rows, columns


def test_a_cohort_is_measured_scan_by_scan(cohort: Cohort, perfect: ReadPrediction) -> None:
    first, second = measure_cohort(cohort, perfect)
    assert (first.scan, second.scan) == ("p1-cine", "p2-cine")
    assert first.indices.lv_edv_ml == pytest.approx(ED_ML)
    assert first.indices.lv_ef_percent == pytest.approx(50.0)
    assert first.indices.lv_mass_g == pytest.approx(4 * (12 * 8 - 32) * VOXEL_ML * 1.05)
    assert (first.ed_frame_from, first.es_frame_from) == ("given", "given")
    assert first.papillary == "in the LV cavity"
    np.testing.assert_allclose(first.lv_ml, [ED_ML, ES_ML])
    np.testing.assert_allclose(first.rv_ml, [(3 * 4 * 2 + 6 * 3) * VOXEL_ML] * 2)
    np.testing.assert_allclose(first.time_ms, [0.0, 40.0])


def test_scans_without_labels_are_measured_too(cohort: Cohort, perfect: ReadPrediction) -> None:
    assert len(measure_cohort(cohort.without_labels(), perfect)) == 2


def test_frames_that_nobody_gave_are_found_and_said_so(cases: dict[str, Case], cohort: Cohort) -> None:
    case = cases["p1-cine"]
    row = replace(cohort.rows[0], ed_frame=None, es_frame=None, frame_interval_ms=None)
    found = measure_case(row, case, case.labels[::-1])
    assert (found.indices.ed_frame, found.indices.es_frame) == (1, 0)
    assert (found.ed_frame_from, found.es_frame_from) == ("found", "found")
    assert np.isnan(found.time_ms).all()
    nothing = measure_case(row, case, case.labels * 0)
    assert (nothing.ed_frame_from, nothing.es_frame_from) == ("", "")
    assert np.isnan(nothing.indices.lv_ef_percent)


def test_trigger_times_go_before_the_frame_interval(cases: dict[str, Case], cohort: Cohort) -> None:
    case = replace(cases["p1-cine"], frame_times_ms=np.array([12.0, 49.0]))
    np.testing.assert_allclose(measure_case(cohort.rows[0], case, case.labels).time_ms, [12.0, 49.0])


def test_a_frame_beyond_the_scan_is_refused(cases: dict[str, Case], cohort: Cohort) -> None:
    row = replace(cohort.rows[0], es_frame=2)
    with pytest.raises(CaseError, match="es_frame is 2, but the scan has 2 frames; frames count from 0"):
        measure_case(row, cases["p1-cine"], cases["p1-cine"].labels)


def test_predicted_indices_stand_beside_the_reference(cohort: Cohort, perfect: ReadPrediction) -> None:
    def smaller(row: object) -> np.ndarray:
        labels = perfect(row)
        labels[0, :, 12:14][labels[0, :, 12:14] == LV] = MYO  # two rows of four columns in four slices
        return labels

    found = {(c.scan, c.index): c for c in compare_indices(cohort, smaller)}
    edv = found["p2-cine", "lv_edv_ml"]
    assert (edv.predicted, edv.reference) == (pytest.approx(ED_ML * 6 / 8), pytest.approx(ED_ML))
    assert found["p2-cine", "lv_ef_percent"].predicted == pytest.approx(100 * (1 - 4 / 6))
    assert "ed_frame" not in {index for _, index in found}
    assert "scar_mass_g" not in {index for _, index in found}  # in neither


def test_indices_are_compared_only_where_annotators_looked(cases: dict[str, Case], cohort: Cohort) -> None:
    """As in SCD: some slices unknown, and at ES only the cavity drawn."""
    whole = cases["p1-cine"].labels
    labels = whole.copy()
    labels[:, 4:] = UNKNOWN
    labels[1][labels[1] != UNKNOWN] = np.where(whole[1][labels[1] != UNKNOWN] == LV, LV, 0)
    cases["p1-cine"] = with_labels(cases["p1-cine"], labels, set(TRAINED), {LV})
    found = {c.index: c for c in compare_indices(cohort, lambda row: whole) if c.scan == "p1-cine"}
    assert found["lv_edv_ml"].predicted == found["lv_edv_ml"].reference == pytest.approx(ED_ML * 3 / 4)
    assert found["lv_esv_ml"].predicted == found["lv_esv_ml"].reference == pytest.approx(ES_ML * 3 / 4)
    assert found.keys() == {
        *("lv_edv_ml", "lv_esv_ml", "lv_sv_ml", "lv_ef_percent", "lv_mass_g", "rv_edv_ml"),
        *("wall_thickness_ed_mm", "wall_thickness_ed_max_mm"),
    }, "no index of a structure that nobody drew in its frame"


def test_a_right_ventricle_that_nobody_drew_does_not_turn_the_segments(
    cases: dict[str, Case], cohort: Cohort
) -> None:
    """As in EMIDEC: the same wall in both masks has the same thickest segment."""
    whole = cases["p1-cine"].labels
    left = np.where(whole == RV, 0, whole).astype(np.uint8)
    cases["p1-cine"] = with_labels(cases["p1-cine"], left, {LV, MYO}, {LV, MYO})
    aside = np.zeros_like(whole)
    aside[:, :, 16:18, 2:5] = RV  # below and to the left, where segments would begin
    found = {
        c.index: c
        for c in compare_indices(cohort, lambda row: np.where(left > 0, left, aside))
        if c.scan == "p1-cine"
    }
    thickest = found["wall_thickness_ed_max_mm"]
    assert thickest.predicted == thickest.reference
    assert not [index for index in found if index.startswith(("rv", "scar"))]


def test_a_structure_that_was_drawn_nowhere_in_its_slices_stays_in_the_comparison(
    cases: dict[str, Case], cohort: Cohort
) -> None:
    labels = np.where(cases["p1-cine"].labels == RV, 0, cases["p1-cine"].labels).astype(np.uint8)
    whole = cases["p1-cine"].labels
    cases["p1-cine"] = with_labels(cases["p1-cine"], labels)
    found = {c.index: c for c in compare_indices(cohort, lambda row: whole) if c.scan == "p1-cine"}
    assert np.isnan(found["rv_edv_ml"].reference)
    assert found["rv_edv_ml"].predicted > 0


def test_a_missed_ventricle_stays_in_the_comparison_as_nan(cohort: Cohort, perfect: ReadPrediction) -> None:
    found = compare_indices(cohort, lambda row: np.where(perfect(row) == RV, 0, perfect(row)))
    pairs = [(c.predicted, c.reference) for c in found if c.index == "rv_edv_ml"]
    assert len(pairs) == 2
    assert all(np.isnan(predicted) and reference > 0 for predicted, reference in pairs)


def test_phases_are_the_references_where_the_row_has_none(cases: dict[str, Case], cohort: Cohort) -> None:
    rows = tuple(replace(row, ed_frame=None, es_frame=None) for row in cohort)
    found = compare_indices(Cohort(rows, cohort.read), lambda row: cases[row.scan].labels[::-1])
    ef = next(c for c in found if c.index == "lv_ef_percent")
    assert (ef.predicted, ef.reference) == (pytest.approx(-100.0), pytest.approx(50.0))


def test_a_cohort_without_labels_has_nothing_to_compare_with(cohort: Cohort, perfect: ReadPrediction) -> None:
    with pytest.raises(CohortError, match="nothing to compare with"):
        compare_indices(cohort.without_labels(), perfect)


def test_a_scan_without_prediction_stops_the_measurement(cohort: Cohort) -> None:
    with pytest.raises(CaseError, match="'p1-cine': has no prediction"):
        measure_cohort(cohort, lambda row: None)


def test_one_slice_has_a_wall_but_no_volumes_and_says_so(
    cases: dict[str, Case], cohort: Cohort, perfect: ReadPrediction
) -> None:
    thin = cases["p1-cine"]
    cases["p1-cine"] = replace(thin, image=thin.image[:, 2:3], labels=thin.labels[:, 2:3])
    alone, stack = measure_cohort(cohort, perfect)
    assert "one slice, where a stack is needed" in alone.remark
    assert "slice" not in stack.remark
    volumes = [name for name in vars(alone.indices) if "wall" not in name and "frame" not in name]
    assert len(volumes) == 10
    assert all(np.isnan(getattr(alone.indices, name)) for name in volumes)
    assert alone.indices.wall_thickness_ed_mm == pytest.approx(stack.indices.wall_thickness_ed_mm)
    assert np.isnan(np.concatenate([alone.lv_ml, alone.myo_ml, alone.rv_ml])).all()
    compared = {c.index for c in compare_indices(cohort, perfect) if c.scan == "p1-cine"}
    assert all(index.startswith("wall_thickness") for index in compared)


def large(case: Case) -> Case:
    """The same scan of a heart of plausible size: 128 cavity voxels of 0.96 ml at ED; the RV beats as well."""
    labels = case.labels.copy()
    labels[1, 1:3][labels[1, 1:3] == RV] = 0
    return replace(case, labels=labels, affine=np.diag([8.0, 12.0, 10.0, 1.0]))


def test_a_sound_cine_has_no_remark(cases: dict[str, Case], cohort: Cohort) -> None:
    case = large(cases["p1-cine"])
    assert measure_case(cohort.rows[0], case, case.labels).remark == ""


def test_what_is_missing_is_remarked(cases: dict[str, Case], cohort: Cohort) -> None:
    case = large(cases["p1-cine"])
    row = replace(cohort.rows[0], ed_frame=None, es_frame=None)

    def remark(labels: np.ndarray, of: Case = case) -> str:
        return measure_case(row, of, labels).remark

    assert remark(case.labels * 0) == "no heart found: the label map is empty"
    assert remark(np.where(case.labels == LV, 0, case.labels)) == "no LV found"
    half = case.labels.copy()
    half[1][half[1] == LV] = 0
    assert remark(half) == "no LV found in 1 of 2 frames: 1"
    shut = np.array(case.labels)
    shut[1] = UNKNOWN
    assert "no LV found" not in remark(shut)
    still = np.stack([case.labels[0]] * 2)
    assert remark(still) == "the LV is equally large in all frames: no ED and ES found"
    alone = replace(case, image=case.image[:1], labels=case.labels[:1], drawn=case.drawn[:1])
    assert remark(alone.labels, alone).startswith("one frame, where a cine is needed: no ES and stroke")


def test_indices_that_cannot_be_are_remarked(cases: dict[str, Case], cohort: Cohort) -> None:
    case = large(cases["p1-cine"])
    row = cohort.rows[0]

    def remark(labels: np.ndarray, of: Case = case) -> str:
        return measure_case(row, of, labels).remark

    labels = np.where(case.labels == RV, 0, case.labels)
    swapped = remark(labels[::-1])  # the csv says that frame 0 is ED
    assert swapped.startswith("LV ESV 122.9 ml is above its EDV 61.4 ml: look at its label map, and whether")
    assert "frames 0 and 1 are ED and ES" in swapped
    assert "EF" not in swapped
    tiny = remark(cases["p1-cine"].labels, cases["p1-cine"])  # 128 voxels of 0.03 ml, RV of 42
    assert "LV EDV 3.8 ml is near zero" in tiny
    assert "RV EDV 1.3 ml is near zero" in tiny
    labels[1] = labels[0]
    labels[1, 1, 6, 6:10] = MYO  # 4 of 128 voxels go: 3.125 %
    assert remark(labels) == "LV EF 3.1 % is outside 5 to 90 %: look at its label map"
    labels[1][labels[1] == LV] = MYO
    labels[1, 2, 8, 6:10] = LV  # 4 of 128 stay
    assert remark(labels) == "LV EF 96.9 % is outside 5 to 90 %: look at its label map"


def test_a_remark_of_many_scans_is_told_once(cohort: Cohort, perfect: ReadPrediction) -> None:
    empty = told_remarks(measure_cohort(cohort, lambda row: perfect(row) * 0))
    assert empty == ["2 of 2 scans: no heart found: the label map is empty: p1-cine, p2-cine"]
    one = told_remarks(measure_cohort(cohort, lambda row: perfect(row) * (row.scan == "p1-cine")))
    assert one[1] == "scan 'p2-cine': no heart found: the label map is empty"
