"""Trees of DICOM: whose images belong together, whatever folders they lie in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import trees
from pydicom.dataset import FileDataset, FileMetaDataset

from crossbeat.cohort import Cohort, read_cohort, write_cohort
from crossbeat.data.predictions import open_input, prediction_writer
from crossbeat.data.reading import reader
from crossbeat.data.studies import index_dicom
from crossbeat.errors import FileError


def slices(folder: Path, patient: str, study: str, seed: int = 0) -> None:
    """A cine of three slices, each a series in a folder of its own."""
    for z in range(3):
        trees.cine(
            folder / f"s{z}",
            description=f"cine SA {z}",
            only=[z],
            uid=f"1.7.{seed}.{z}",
            seed=seed,
            change=trees.of_patient(patient, study),
        )


def scans(root: Path, folder: Path) -> list[tuple[str, str]]:
    return [(row.subject, row.scan) for row in index_dicom(root, folder).rows]


def test_slices_in_folders_of_their_own_make_one_stack_from_the_patient_and_from_above(
    tmp_path: Path,
) -> None:
    for n, name in enumerate(("anna", "bert")):
        slices(tmp_path / "all" / name, name.upper(), f"1.2.{n}", seed=n)
    above, _ = open_input(tmp_path / "all", tmp_path / "out_all", "")
    assert [(row.subject, row.scan) for row in above] == [("anna", "anna_bssfp"), ("bert", "bert_bssfp")]
    alone, notes = open_input(tmp_path / "all" / "bert", tmp_path / "out_bert", "")
    assert [(row.subject, row.scan) for row in alone] == [("bert", "bert_bssfp")]
    assert notes == ()
    case = alone.read(alone.rows[0])
    assert case.image.shape[:2] == (4, 3)
    np.testing.assert_array_equal(case.image, above.read(above.rows[1]).image)


@pytest.mark.slow
def test_cine_and_lge_folders_of_a_patient_are_one_subject_from_either_side(tmp_path: Path) -> None:
    for n, name in enumerate(("anna", "bert")):
        of = trees.of_patient(name.upper(), f"1.2.{n}")
        trees.cine(tmp_path / name / "cine", uid=f"1.{n}.1", seed=n, change=of)
        trees.cine(
            tmp_path / name / "lge", uid=f"1.{n}.2", frames=1, description="LGE", seed=9 + n, change=of
        )
    anna = [("anna", "anna_bssfp"), ("anna", "anna_lge")]
    listing = index_dicom(tmp_path / "anna", tmp_path / "out")
    assert [(row.subject, row.scan) for row in listing.rows] == anna
    assert listing.remarks == ("anna: its study lies in the folders cine, lge, taken for one subject",)
    assert scans(tmp_path, tmp_path.parent / "b")[:2] == anna
    assert [subject for subject, _ in scans(tmp_path, tmp_path.parent / "b")] == [
        *("anna", "anna", "bert", "bert")
    ]


def test_a_dicomdir_and_stray_files_in_the_root_change_nothing(tmp_path: Path) -> None:
    for name, patient, study in (("p1", "SAME", "1.2.1"), ("p2", "SAME", "1.2.2")):
        slices(tmp_path / "in" / name, patient, study)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.MediaStorageDirectoryStorage
    meta.MediaStorageSOPInstanceUID = "1.9"
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    contents = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    contents.FileSetID = "EXPORT"
    contents.save_as(tmp_path / "in" / "DICOMDIR", enforce_file_format=True)
    (tmp_path / "in" / "readme.txt").write_text("viewer")
    listing = index_dicom(tmp_path / "in", tmp_path / "out")
    assert [row.subject for row in listing.rows] == ["p1", "p2"]
    assert listing.remarks == ()


def test_loose_images_are_told_apart_by_patient_or_else_by_study(tmp_path: Path) -> None:
    for n, (patient, study) in enumerate((("", "1.1"), ("", "1.2"), ("X", "1.3"), ("X", "1.4"))):
        name = f"{n}_{{:04d}}.dcm"
        trees.cine(
            tmp_path / "in", uid=f"1.7.{n}", name=name, seed=n, change=trees.of_patient(patient, study)
        )
    assert [subject for subject, _ in scans(tmp_path / "in", tmp_path / "out")] == [
        *("in_1", "in_2", "in_3", "in_3")
    ]


def test_slices_of_several_patients_never_mix_where_the_headers_were_blanked(tmp_path: Path) -> None:
    for n, name in enumerate(("p1", "p2")):
        slices(tmp_path / "in" / name, "", "", seed=n)
    listing = index_dicom(tmp_path / "in", tmp_path / "out")
    assert [(row.subject, row.scan) for row in listing.rows] == [("p1", "p1_bssfp"), ("p2", "p2_bssfp")]
    with pytest.raises(FileError, match=r"holds no short-axis stack: .* a single slice"):
        index_dicom(tmp_path / "in" / "p1", tmp_path / "out")


def test_two_whole_stacks_of_one_study_over_the_same_places_stay_two(tmp_path: Path) -> None:
    slices(tmp_path / "in" / "rest", "P", "1.2", seed=1)
    for z in range(3):
        of = trees.of_patient("P", "1.2")
        folder = tmp_path / "in" / "again" / f"{z}"
        trees.cine(folder, description=f"cine SA {z}", only=[z], uid=f"1.8.{z}", seed=2, change=of)
    assert scans(tmp_path / "in", tmp_path / "out") == [("in", "in_bssfp_1"), ("in", "in_bssfp_2")]


@pytest.mark.parametrize(
    ("series", "given"),
    [
        ("CINESAX", ""),
        ("CINESAX", "CINESAX"),
        ("DICOM/PA000000/ST000000/SE000001", ""),
        ("DICOM/PA000000/ST000000/SE000001", "DICOM/PA000000/ST000000/SE000001"),
        ("LGE_sax", ""),
        ("", ""),
    ],
)
def test_a_single_patient_is_called_by_its_folder_whatever_the_series_folder_is(
    series: str, given: str, tmp_path: Path
) -> None:
    trees.cine(tmp_path / "SC-HF-I-1" / series)
    assert scans(tmp_path / "SC-HF-I-1" / given, tmp_path / "out") == [("SC-HF-I-1", "SC-HF-I-1_bssfp")]


def test_a_name_is_never_taken_from_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "jane"))
    trees.cine(tmp_path / "jane" / "DICOM")
    assert scans(tmp_path / "jane" / "DICOM", tmp_path / "out") == [("DICOM", "DICOM_bssfp")]


@pytest.mark.parametrize("above", ["Downloads", "data", "Users/jane"])
def test_a_name_is_never_taken_from_a_folder_of_all_kinds_nor_from_beyond_it(
    above: str, tmp_path: Path
) -> None:
    trees.cine(tmp_path / "anna" / above / "DICOM" / "PA001")
    listing = index_dicom(tmp_path / "anna" / above / "DICOM" / "PA001", tmp_path / "out")
    assert [row.subject for row in listing.rows] == ["PA001"]
    assert listing.remarks == ()


def test_a_name_taken_from_above_is_said(tmp_path: Path) -> None:
    trees.cine(tmp_path / "cohortX" / "PA001")
    (remark,) = index_dicom(tmp_path / "cohortX" / "PA001", tmp_path / "out").remarks
    assert remark.startswith(
        f"cohortX: so called after the folder {tmp_path / 'cohortX'}, for 'PA001' does not"
    )
    assert "if that is no patient's name, rename the folder" in remark
    assert index_dicom(tmp_path / "cohortX", tmp_path / "out").remarks == ()


def test_a_folder_beside_others_of_its_pattern_keeps_its_name(tmp_path: Path) -> None:
    for n in (1, 2):
        trees.cine(tmp_path / "cohortX" / f"PA00{n}" / "ST01", seed=n)
    for named in ("PA001", "PA001/ST01"):
        assert scans(tmp_path / "cohortX" / named, tmp_path / "out") == [("PA001", "PA001_bssfp")]
    trees.cine(tmp_path / "anna" / "SE01", seed=3)
    trees.cine(tmp_path / "anna" / "SE02", uid="1.5", seed=3, description="4 chamber")
    assert scans(tmp_path / "anna", tmp_path / "out") == [("anna", "anna_bssfp")], "not by what lies in it"


def listed(root: Path, csv: Path) -> None:
    """As `crossbeat index` does it."""
    write_cohort(Cohort(index_dicom(root, csv.parent).rows, folder=csv.parent), csv)


def test_two_patients_of_one_name_never_share_a_file(tmp_path: Path) -> None:
    for n, name in enumerate(("a/anna", "b/anna", "cohortX/PA001", "cohortX/SE-3")):
        trees.cine(tmp_path / name, seed=n)
    for first, second in (("a/anna", "b/anna"), ("cohortX/PA001", "cohortX/SE-3")):
        one = tmp_path / "one" / Path(first).parts[0]
        listed(tmp_path / first, one / "first.csv")
        (image,) = (one / "nifti").iterdir()
        before = image.read_bytes()
        with pytest.raises(
            FileError, match=r"was made from .*, not from .*, and would be lost; choose another"
        ) as no:
            index_dicom(tmp_path / second, one)
        assert f"{first} series 300 cine, not from ../../{second} series 300 cine" in str(no.value)
        assert image.read_bytes() == before
        (one / "first.csv").unlink()
        with pytest.raises(FileError, match=r"was made from a series that no cohort\.csv here names"):
            index_dicom(tmp_path / second, one)


def test_the_same_series_may_be_indexed_again_also_after_it_grew(tmp_path: Path) -> None:
    trees.cine(tmp_path / "anna", slices=3)
    listed(tmp_path / "anna", tmp_path / "one" / "anna.csv")
    listed(tmp_path / "anna", tmp_path / "one" / "again.csv")
    trees.cine(tmp_path / "anna", slices=4)
    listed(tmp_path / "anna", tmp_path / "one" / "anna.csv")
    cohort = read_cohort(tmp_path / "one" / "anna.csv", reader)
    assert cohort.read(cohort.rows[0]).image.shape[1] == 4


def test_an_interrupted_index_stands_in_nobodys_way(tmp_path: Path) -> None:
    trees.cine(tmp_path / "anna")
    index_dicom(tmp_path / "anna", tmp_path / "one")
    listed(tmp_path / "anna", tmp_path / "one" / "anna.csv")


def test_a_patient_predicted_again_after_its_series_grew_is_no_other_patient(tmp_path: Path) -> None:
    for slices in (3, 4):
        trees.cine(tmp_path / "anna", slices=slices)
        cohort, _ = open_input(tmp_path / "anna", tmp_path / "out", "")
        write = prediction_writer(tmp_path / "out", cohort, {})
        case = cohort.read(cohort.rows[0])
        assert case.image.shape[1] == slices
        write(cohort.rows[0], np.ones(case.image.shape, np.uint8))


def test_patients_numbers_in_the_headers_reach_neither_names_nor_rows(tmp_path: Path) -> None:
    trees.cine(tmp_path / "anna" / "CINESAX", change=trees.of_patient("MRN-4711", "1.2"))
    listing = index_dicom(tmp_path / "anna", tmp_path / "out")
    assert "4711" not in repr(listing)


@pytest.mark.parametrize(
    ("descriptions", "numbers", "names"),
    [
        (("PSIR sax/10 min", "PSIR sax/20 min"), (7, 7), ["PSIR_sax_10_min", "PSIR_sax_20_min"]),
        (("lge", "lge"), (7, 12), ["7", "12"]),
        (("LGE", "lge"), (7, 7), ["1", "2"]),
    ],
)
def test_several_scans_of_one_sequence_are_told_apart_by_their_series(
    descriptions: tuple[str, str], numbers: tuple[int, int], names: list[str], tmp_path: Path
) -> None:
    for n in range(2):
        trees.cine(
            tmp_path / "anna" / f"s{n}",
            description=descriptions[n],
            number=numbers[n],
            frames=1,
            uid=f"1.4.{n}",
            seed=n,
        )
    assert [scan for _, scan in scans(tmp_path / "anna", tmp_path / "out")] == [
        f"anna_lge_{name}" for name in names
    ]


def test_numbered_names_never_meet_a_folder_of_that_name(tmp_path: Path) -> None:
    for n, (folder, patient) in enumerate((("p", "A"), ("p", "B"), ("p_1", "C"))):
        name = f"{n}_{{:04d}}.dcm"
        change = trees.of_patient(patient, f"1.{n}")
        trees.cine(tmp_path / "in" / folder, uid=f"1.6.{n}", name=name, seed=n, change=change)
    assert {subject for subject, _ in scans(tmp_path / "in", tmp_path / "out")} == {"p_2", "p_3", "p_1"}
