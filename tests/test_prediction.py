from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CaseError, FileError, SettingsError
from crossbeat.labels import UNKNOWN, Structure
from crossbeat.prediction import keep_largest_components, predict_case, predict_cohort
from crossbeat.prepare.volumes import Preparation
from crossbeat.segmenter import NetworkSpec, Segmenter

SPEC = NetworkSpec(name="dilated_resunet", size=32)


class Always(nn.Module):
    """Gives every pixel the same class probabilities."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.log[None, :, None, None].expand(len(image), -1, *image.shape[2:])


def always(*probabilities: float) -> Segmenter:
    return Segmenter(Always(*probabilities), SPEC, Preparation(size=32, spacing_mm=2.0, centre="image"))


def test_only_the_largest_part_of_each_structure_stays_frame_by_frame() -> None:
    labels = np.zeros((2, 3, 5, 9), np.uint8)
    labels[0, 0, 1, 1:4] = labels[0, 1, 1, 1:3] = Structure.LV  # 5 voxels that touch across two slices
    labels[0, 0, 3, 5:9] = Structure.LV  # 4 in one slice
    labels[0, 2, 4, 0] = Structure.RV
    labels[1, 0, 3, 5] = Structure.LV  # alone in its frame
    kept = keep_largest_components(labels)
    assert (kept[0] == Structure.LV).sum() == 5
    assert not kept[0, 0, 3].any()
    assert kept[0, 2, 4, 0] == Structure.RV
    assert kept[1, 0, 3, 5] == Structure.LV
    assert labels[0, 0, 3, 5] == Structure.LV  # the input is untouched


def test_an_ensemble_averages_probabilities_not_votes(hearts: Callable[..., Cohort]) -> None:
    cohort = hearts(1, 0)
    case = cohort.read(cohort.rows[0])
    weak_lv, strong_myo = always(0.2, 0.45, 0.35, 1e-6), always(0.05, 0.05, 0.9, 1e-6)
    assert set(np.unique(predict_case([weak_lv, weak_lv], case))) == {0, Structure.LV}
    assert set(np.unique(predict_case([weak_lv, weak_lv, strong_myo], case))) == {0, Structure.MYO}


def test_frames_that_nobody_asks_for_are_not_predicted(hearts: Callable[..., Cohort]) -> None:
    case = hearts(1, 0).read(hearts(1, 0).rows[0])
    rng = np.random.default_rng(0)
    cine = replace(
        case, image=rng.normal(size=(5, *case.image.shape[1:])).astype(np.float32), labels=None, drawn=()
    )
    torch.manual_seed(0)
    segmenter = Segmenter(SPEC.build(), SPEC, Preparation(size=32, spacing_mm=2.0, centre="image"))
    whole = predict_case([segmenter], cine)
    some = predict_case([segmenter], cine, frames=[3, 1])
    assert (some[[0, 2, 4]] == UNKNOWN).all()
    assert (some[[1, 3]] == whole[[1, 3]]).all()
    assert len(np.unique(whole[[1, 3]])) > 1
    assert (predict_case([segmenter], cine, frames=[]) == UNKNOWN).all()


def test_an_ensemble_of_different_structures_is_refused(hearts: Callable[..., Cohort]) -> None:
    other = always(0.5, 0.5, 1e-6)
    other.structures = (Structure.LV, Structure.MYO)
    with pytest.raises(SettingsError, match="same structures"):
        predict_case([always(0.5, 0.5, 1e-6, 1e-6), other], hearts(1, 0).read(hearts(1, 0).rows[0]))


def test_a_scan_that_fails_is_named_and_the_others_go_on(hearts: Callable[..., Cohort]) -> None:
    cohort = hearts(4, 0)

    def read(row: Row) -> Case:
        if row.scan == "s1_bssfp":
            raise CaseError(row.scan, "the file is truncated")
        return cohort.read(row)

    written: dict[str, np.ndarray] = {}

    def write(row: Row, labels: np.ndarray) -> None:
        if row.scan == "s3_bssfp":
            raise FileError("disk", "is full")
        written[row.scan] = labels

    seen: list[str] = []
    broken = Cohort(cohort.rows, read)
    failures = predict_cohort(
        [always(0.1, 0.9, 1e-6, 1e-6)], broken, write, progress=lambda row: seen.append(row.scan)
    )
    assert sorted(written) == ["s0_bssfp", "s2_bssfp"]
    assert {f.scan: f.problem for f in failures} == {
        "s1_bssfp": "scan 's1_bssfp': the file is truncated",
        "s3_bssfp": "disk: is full",
    }
    assert seen == [row.scan for row in cohort]
    assert written["s0_bssfp"].dtype == np.uint8


def test_label_files_are_never_opened(hearts: Callable[..., Cohort]) -> None:
    cohort = hearts(2, 1)

    def read(row: Row) -> Case:
        assert not row.labels, f"the labels of {row.scan} were asked for"
        return cohort.read(row)

    written: list[str] = []
    network = [always(0.1, 0.9, 1e-6, 1e-6)]
    assert not predict_cohort(network, Cohort(cohort.rows, read), lambda row, _: written.append(row.scan))
    assert written == ["s0_bssfp", "s1_bssfp", "s90_lge"]
