"""What is scored and what is not: paper arithmetic on two small patients, and refusals."""

from dataclasses import replace

import numpy as np
import pytest

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CaseError, CohortError, SettingsError
from crossbeat.evaluation import MEAN, Score, score_case, score_cohort
from crossbeat.labels import TRAINED, UNKNOWN, Structure
from crossbeat.metrics import diagonal_mm, dice, hausdorff95, surface_distances
from evaluation.conftest import LV, MYO, RV, SHAPE, SPACING, ReadPrediction, with_labels

SCAR = Structure.SCAR


def find(scores: list[Score], **wanted: object) -> list[Score]:
    return [s for s in scores if all(getattr(s, k) == v for k, v in wanted.items())]


def one(scores: list[Score], **wanted: object) -> Score:
    (found,) = find(scores, **wanted)
    return found


def test_a_perfect_prediction_scores_one_everywhere(cohort: Cohort, perfect: ReadPrediction) -> None:
    scores = score_cohort(cohort, perfect)
    volumes = [s for s in scores if s.slice is None and s.unit != "count"]
    assert {s.structure for s in volumes} == {"LV", "MYO", "RV", MEAN}
    assert {s.metric for s in volumes} == {"dice", "jaccard", "hd", "hd95", "hd95_pooled", "assd"}
    assert len(volumes) == 2 * 2 * 4 * 6  # scans, frames, structures and mean, metrics
    assert all(s.value == (0.0 if s.unit == "mm" else 1.0) for s in volumes)
    assert [s.phase for s in find(volumes, structure="LV", metric="dice")] == ["ED", "ES", "ED", "ES"]


def test_dice_of_a_smaller_cavity_is_counted_on_paper(cases: dict[str, Case], cohort: Cohort) -> None:
    case = cases["p1-cine"]
    predicted = case.labels.copy()
    predicted[0, :, 12:14][predicted[0, :, 12:14] == LV] = MYO  # 2 of 8 rows given away: 24 of 32 a slice
    scores = score_case(cohort.rows[0], case, predicted)
    found = one(scores, frame=0, slice=None, structure="LV", metric="dice")
    assert found.value == pytest.approx(2 * 24 / (24 + 32))
    assert one(scores, frame=0, slice=None, structure="LV", metric="jaccard").value == pytest.approx(24 / 32)
    assert one(scores, frame=0, slice=None, structure="LV", metric="hd").value == pytest.approx(2 * 1.5)
    wall = (12 * 8 - 32, 12 * 8 - 32 + 8)  # voxels a slice, reference and predicted
    assert wall == tuple(int((labels[0, 2] == MYO).sum()) for labels in (case.labels, predicted))
    in_mean = [found.value, 2 * wall[0] / sum(wall), 1.0]
    mean = one(scores, frame=0, slice=None, structure=MEAN, metric="dice")
    assert mean.value == pytest.approx(np.mean(in_mean))
    assert one(scores, frame=1, slice=None, structure=MEAN, metric="dice").value == 1.0


def test_distances_come_in_every_unit_that_is_asked_for(cases: dict[str, Case], cohort: Cohort) -> None:
    case = cases["p1-cine"]
    predicted = np.roll(case.labels, 3, axis=3)  # three columns of 2 mm
    scores = score_case(cohort.rows[0], case, predicted, units=("mm", "voxel"))
    wanted = {"frame": 0, "slice": None, "structure": "LV", "metric": "hd"}
    assert one(scores, unit="mm", **wanted).value == pytest.approx(6.0)
    assert one(scores, unit="voxel", **wanted).value == pytest.approx(3.0)


def test_slices_are_scored_in_two_dimensions_with_their_level(cases: dict[str, Case], cohort: Cohort) -> None:
    case = cases["p1-cine"]
    predicted = case.labels.copy()
    predicted[0, 2] = np.roll(predicted[0, 2], 1, axis=0)
    scores = score_case(cohort.rows[0], case, predicted)
    slices = find(scores, frame=0, structure="LV", metric="dice")
    levels = {s.slice: s.level for s in slices if s.slice is not None}
    assert levels == {0: "outside", 1: "apex", 2: "mid", 3: "mid", 4: "base", 5: "outside"}
    of_two = one(scores, frame=0, slice=2, structure="LV", metric="dice")
    assert of_two.value == dice(predicted[0, 2] == LV, case.labels[0, 2] == LV) == 2 * 28 / 64
    distances = surface_distances(predicted[0, 2] == LV, case.labels[0, 2] == LV, SPACING[1:])
    assert one(scores, frame=0, slice=2, structure="LV", metric="hd95").value == hausdorff95(distances)
    assert one(scores, frame=0, slice=0, structure="LV", metric="dice").status == "undefined"
    without = score_case(cohort.rows[0], case, predicted, per_slice=False)
    assert without == [s for s in scores if s.slice is None]


def test_a_missed_structure_scores_nothing_and_lies_a_diagonal_away(
    cases: dict[str, Case], cohort: Cohort
) -> None:
    case = cases["p1-cine"]
    predicted = np.where(case.labels == RV, 0, case.labels)
    scores = score_case(cohort.rows[0], case, predicted)
    diagonal = diagonal_mm(SHAPE[1:], SPACING)
    for metric, value in {
        "dice": 0.0,
        "jaccard": 0.0,
        "hd": diagonal,
        "hd95": diagonal,
        "assd": diagonal,
    }.items():
        found = one(scores, frame=0, slice=None, structure="RV", metric=metric)
        assert (found.value, found.status) == (pytest.approx(value), "missed")
    mean = one(scores, frame=0, slice=None, structure=MEAN, metric="dice")
    assert (mean.value, mean.status) == (pytest.approx(2 / 3), "missed")
    in_plane = one(scores, frame=0, slice=2, structure="RV", metric="hd95")
    assert in_plane.value == pytest.approx(diagonal_mm(SHAPE[2:], SPACING[1:]))


def test_a_structure_in_neither_mask_is_undefined_and_so_is_the_mean_of_the_three(
    cases: dict[str, Case], cohort: Cohort
) -> None:
    labels = np.where(cases["p1-cine"].labels == RV, 0, cases["p1-cine"].labels).astype(np.uint8)
    case = with_labels(cases["p1-cine"], labels)
    scores = score_case(cohort.rows[0], case, labels)
    found = find(scores, slice=None, structure="RV")
    assert {s.status for s in found} == {"undefined"}
    assert np.isnan([s.value for s in found]).all()
    mean = one(scores, frame=0, slice=None, structure=MEAN, metric="dice")
    assert mean.status == "undefined"
    assert np.isnan(mean.value), "a mean of LV and MYO is not one of LV, MYO and RV"


def test_nothing_at_all_is_undefined_throughout(cases: dict[str, Case], cohort: Cohort) -> None:
    empty = np.zeros(SHAPE, np.uint8)
    scores = score_case(cohort.rows[0], with_labels(cases["p1-cine"], empty), empty)
    assert {s.status for s in scores if s.unit != "count"} == {"undefined"}


def test_only_drawn_structures_are_scored(cases: dict[str, Case], cohort: Cohort) -> None:
    case = with_labels(cases["p1-cine"], cases["p1-cine"].labels, {LV, MYO}, {LV})
    scores = score_case(cohort.rows[0], case, cases["p1-cine"].labels)
    drawn = {t: {s.structure for s in scores if s.frame == t and s.metric == "dice"} for t in (0, 1)}
    assert drawn == {0: {"LV", "MYO", "mean LV MYO"}, 1: {"LV"}}


def test_the_mean_of_two_structures_bears_their_names(cases: dict[str, Case], cohort: Cohort) -> None:
    case = with_labels(cases["p1-cine"], cases["p1-cine"].labels, {LV, RV}, set(TRAINED))
    scores = score_case(cohort.rows[0], case, np.where(case.labels == LV, 0, case.labels))
    of_two = one(scores, frame=0, slice=None, structure="mean LV RV", metric="dice")
    assert (of_two.value, of_two.status) == (0.5, "missed")
    assert not find(scores, frame=0, structure=MEAN)
    of_three = one(scores, frame=1, slice=None, structure=MEAN, metric="dice")
    assert (of_three.value, of_three.status) == (pytest.approx(2 / 3), "missed")


def test_what_nobody_looked_at_is_taken_out_of_both_masks_and_counted(
    cases: dict[str, Case], cohort: Cohort
) -> None:
    labels = cases["p1-cine"].labels.copy()
    labels[0, 3:] = UNKNOWN
    labels[0, 1, :, :6] = UNKNOWN
    case = with_labels(cases["p1-cine"], labels)
    predicted = cases["p1-cine"].labels.copy()
    predicted[0, 3:] = RV  # wrong, where nobody can say so
    predicted[0, 1, :, :6] = LV
    scores = score_case(cohort.rows[0], case, predicted)
    assert {s.value for s in find(scores, frame=0, slice=None, metric="dice")} == {1.0}
    assert one(scores, frame=0, metric="annotated_slices").value == 3
    assert one(scores, frame=0, metric="unknown_voxels").value == 3 * 20 * 16 + 20 * 6
    assert one(scores, frame=1, metric="unknown_voxels").value == 0
    slices = find(scores, frame=0, structure="LV", metric="dice")
    assert sorted(s.slice for s in slices if s.slice is not None) == [0, 1, 2]


def test_frames_that_nobody_labelled_are_skipped_and_counted(cases: dict[str, Case], cohort: Cohort) -> None:
    labels = cases["p1-cine"].labels.copy()
    labels[1] = UNKNOWN
    scores = score_case(
        cohort.rows[0], with_labels(cases["p1-cine"], labels, set(TRAINED), set()), labels * 0
    )
    assert {s.frame for s in scores} == {None, 0}
    assert one(scores, metric="unlabelled_frames").value == 1
    declared = score_case(cohort.rows[0], with_labels(cases["p1-cine"], labels), labels * 0)
    assert {s.metric for s in find(declared, frame=1)} == {"annotated_slices", "unknown_voxels"}
    assert one(declared, frame=1, metric="annotated_slices").value == 0


def test_scar_counts_as_wall_until_a_prediction_holds_it(cases: dict[str, Case], cohort: Cohort) -> None:
    plain = {scan: case.labels.copy() for scan, case in cases.items()}
    for scan, case in cases.items():
        scarred = case.labels.copy()
        scarred[:, 2, 4:6] = np.where(scarred[:, 2, 4:6] == MYO, SCAR, scarred[:, 2, 4:6])
        cases[scan] = with_labels(case, scarred, {*TRAINED, SCAR}, {*TRAINED, SCAR})
    folded = score_cohort(cohort, lambda row: plain[row.scan])
    assert {s.value for s in find(folded, structure="MYO", metric="dice", slice=None)} == {1.0}
    assert not find(folded, structure="SCAR")
    plain["p2-cine"] = cases["p2-cine"].labels
    scores = score_cohort(cohort, lambda row: plain[row.scan])
    found = find(scores, structure="SCAR", metric="dice", slice=None)
    assert [(s.scan, s.value, s.status) for s in found if s.frame == 0] == [
        ("p1-cine", 0.0, "missed"),
        ("p2-cine", 1.0, "ok"),
    ]
    assert {s.value for s in find(scores, structure="MYO", metric="dice", slice=None)} == {1.0}


def test_processes_give_the_same_scores_in_the_same_order(cohort: Cohort, perfect: ReadPrediction) -> None:
    def shifted(row: Row) -> np.ndarray:
        return np.roll(perfect(row), 1, axis=2)

    seen: list[str] = []
    shared_out = score_cohort(cohort, shifted, jobs=2, progress=lambda row: seen.append(row.scan))
    assert seen == ["p1-cine", "p2-cine"]
    assert list(map(str, shared_out)) == list(
        map(str, score_cohort(cohort, shifted))
    )  # nan equals nan as text


def test_every_scan_without_prediction_is_named(cohort: Cohort) -> None:
    def absent(row: Row) -> np.ndarray | None:
        if row.scan == "p1-cine":
            raise FileNotFoundError("p1-cine.nii.gz")
        return None

    with pytest.raises(CaseError, match=r"'p1-cine'.*nor have p2-cine.*2 of 2.*crossbeat predict"):
        score_cohort(cohort, absent)


def test_rows_without_labels_are_passed_over_but_not_all_of_them(
    cohort: Cohort, perfect: ReadPrediction
) -> None:
    with pytest.raises(CohortError, match="small: none of its 2 scans has labels"):
        score_cohort(cohort.without_labels(), perfect)
    mixed = Cohort((cohort.rows[0], *cohort.without_labels().rows[1:]), cohort.read)
    assert {s.scan for s in score_cohort(mixed, perfect)} == {"p1-cine"}


def test_a_prediction_of_another_shape_is_refused(cohort: Cohort, perfect: ReadPrediction) -> None:
    with pytest.raises(CaseError, match=r"'p1-cine'.*\(1, 6, 20, 16\), the scan \(2, 6, 20, 16\)"):
        score_cohort(cohort, lambda row: perfect(row)[:1])


def test_frames_that_nobody_labelled_may_be_left_out_of_a_prediction_and_others_not(
    cohort: Cohort, perfect: ReadPrediction
) -> None:
    def without(frame: int, row: Row) -> np.ndarray:
        found = np.array(perfect(row))
        found[frame] = UNKNOWN
        return found

    cine = cohort.only(lambda row: row.scan == "p1-cine")
    case = cine.read(cine.rows[0])
    assert case.frames == 2
    with pytest.raises(
        CaseError, match=r"'p1-cine': the prediction leaves out frame 1; run `crossbeat predict`"
    ):
        score_cohort(cine, lambda row: without(1, row))
    labels = np.array(case.labels)
    labels[1] = UNKNOWN
    one = replace(case, labels=labels, drawn=(case.drawn[0], frozenset()))
    shut = Cohort(cine.rows, lambda row: one, "small")
    found = score_cohort(shut, lambda row: without(1, row))
    assert list(map(str, found)) == list(map(str, score_cohort(shut, perfect)))  # nan is like nan


def test_a_prediction_with_foreign_values_is_refused(cohort: Cohort, perfect: ReadPrediction) -> None:
    with pytest.raises(CaseError, match=r"values \[200\] that are no structure"):
        score_cohort(cohort, lambda row: np.where(perfect(row) == MYO, 200, 0).astype(np.uint8))


def test_an_unknown_unit_is_refused(cohort: Cohort, perfect: ReadPrediction) -> None:
    with pytest.raises(SettingsError, match="unit 'voxels' of distances is unknown; did you mean 'voxel'"):
        score_cohort(cohort, perfect, units=("voxels",))
