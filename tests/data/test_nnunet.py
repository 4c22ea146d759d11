"""nnU-Net raw data sets: what is written reads back, and foreign label names are understood."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import trees

from crossbeat import data
from crossbeat.cohort import Cohort, read_cohort, write_cohort
from crossbeat.data.nnunet import nnunet_labels
from crossbeat.errors import CohortError, FileError
from crossbeat.labels import UNKNOWN, Structure
from crossbeat.splits import assign_splits

LV, MYO, RV, SCAR = Structure.LV, Structure.MYO, Structure.RV, Structure.SCAR


def acdc(tmp_path: Path) -> Cohort:
    trees.acdc(tmp_path / "acdc")
    return data.index("acdc", tmp_path / "acdc", tmp_path)[0]


def test_a_written_data_set_is_the_official_layout_and_reads_back(tmp_path: Path) -> None:
    source = acdc(tmp_path)
    folder = tmp_path / "Dataset501_Heart"
    names = data.write_nnunet(source, folder)
    assert names == ["patient001_f000", "patient001_f002", "patient101_f000", "patient101_f001"]
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == {
        "dataset.json",
        "crossbeat.json",
        *(f"imagesTr/patient001_f00{t}_0000.nii.gz" for t in (0, 2)),
        *(f"labelsTr/patient001_f00{t}.nii.gz" for t in (0, 2)),
        *(f"imagesTs/patient101_f00{t}_0000.nii.gz" for t in (0, 1)),
        *(f"labelsTs/patient101_f00{t}.nii.gz" for t in (0, 1)),
    }
    about = json.loads((folder / "dataset.json").read_text())
    assert about["numTraining"] == 2
    assert sorted(about["labels"].values()) == list(range(5))

    cohort, remarks = data.index("nnunet", folder, tmp_path / "again")
    write_cohort(cohort, tmp_path / "again" / "cohort.csv")
    cohort = read_cohort(tmp_path / "again" / "cohort.csv", data.reader)
    assert remarks == ()
    assert [(r.subject, r.split, r.group, r.further["phase"]) for r in cohort][1:3] == [
        ("patient001", "train", "DCM", "ES"),
        ("patient101", "test", "NOR", "ED"),
    ]
    before, after = source.read(source.row("patient001")), cohort.read(cohort.row("patient001_f002"))
    assert before.labels is not None
    assert after.labels is not None
    np.testing.assert_array_equal(after.image[0], before.image[2])
    np.testing.assert_array_equal(after.labels[0], before.labels[2])
    np.testing.assert_allclose(after.affine, before.affine, atol=1e-4)


def test_what_nobody_decided_is_ignored() -> None:
    labels = np.array([[[0, LV, MYO, RV, SCAR, UNKNOWN]]], np.uint8)
    every = frozenset({LV, MYO, RV})
    assert nnunet_labels(labels, every).ravel().tolist() == [0, 1, 2, 3, 2, 4]
    assert nnunet_labels(labels, frozenset({LV, MYO})).ravel().tolist() == [4, 1, 2, 3, 2, 4]


def test_names_that_match_a_known_convention_need_no_yaml(tmp_path: Path) -> None:
    root = tmp_path / "Dataset027_ACDC"
    trees.nnunet(root)
    cohort, remarks = data.index("nnunet", root, tmp_path / "out")
    assert {r.convention for r in cohort} == {"acdc"}
    assert {r.subject for r in cohort} == {"patient001", "patient101"}
    assert not (tmp_path / "out" / "conventions.yaml").exists()
    assert "subjects are the case names without a trailing frame" in remarks[0]


def test_other_values_are_written_as_a_convention_of_their_own(tmp_path: Path) -> None:
    root = tmp_path / "Dataset100_Mine"
    trees.nnunet(root)
    about = json.loads((root / "dataset.json").read_text())
    about["labels"] = {"background": 0, "left ventricle": 1, "right ventricle": 2, "Myocardium": 3}
    (root / "dataset.json").write_text(json.dumps(about))
    cohort, _ = data.index("nnunet", root, tmp_path / "out")
    labels = cohort.read(cohort.rows[0]).labels
    assert labels is not None
    stored = np.asarray(nib.load(root / "labelsTr" / "patient001_frame01.nii.gz").dataobj).transpose(2, 1, 0)
    np.testing.assert_array_equal(labels[0], np.array([0, LV, RV, MYO])[stored])


def test_names_nobody_knows_and_regions_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "Dataset100_Mine"
    trees.nnunet(root)
    about = json.loads((root / "dataset.json").read_text())
    for labels, words in (
        ({"background": 0, "aorta": 1}, "label 'aorta' = 1 is no structure known here"),
        ({"background": 0, "heart": [1, 2]}, "regions are not read"),
    ):
        (root / "dataset.json").write_text(json.dumps(about | {"labels": labels}))
        with pytest.raises(FileError, match=words):
            data.index("nnunet", root, tmp_path / "out")
    (root / "dataset.json").write_text("{")
    with pytest.raises(FileError, match="is no valid JSON"):
        data.index("nnunet", root, tmp_path / "out")


def test_writing_refuses_bad_names_full_folders_and_empty_cohorts(tmp_path: Path) -> None:
    cohort = assign_splits(acdc(tmp_path))
    with pytest.raises(FileError, match="asks for a folder named like Dataset501_Heart"):
        data.write_nnunet(cohort, tmp_path / "heart")
    with pytest.raises(CohortError, match="no scan has labels"):
        data.write_nnunet(cohort.without_labels(), tmp_path / "Dataset501_Heart")
    data.write_nnunet(cohort, tmp_path / "Dataset502_Heart")
    with pytest.raises(FileError, match="is there already and not empty"):
        data.write_nnunet(cohort, tmp_path / "Dataset502_Heart")
