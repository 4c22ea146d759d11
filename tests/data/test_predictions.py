"""Folders of label maps: every scan that they list is there, and nothing leaves the list unsaid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trees

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row, read_cohort
from crossbeat.data.predictions import open_input, open_predictions, prediction_reader, prediction_writer
from crossbeat.data.reading import reader
from crossbeat.errors import CaseError, FileError, RunError, SettingsError


def scans(folder: Path, names: str = "abc") -> Cohort:
    """Still scans, each labelled by a file of its own."""
    for n, name in enumerate(names):
        trees.save(folder / "images" / f"{name}.nii.gz", trees.grey(trees.heart(), n))
        trees.save(folder / "labels" / f"{name}.nii.gz", trees.heart())
    rows = (Row(n, n, "bssfp", f"images/{n}.nii.gz", labels=f"0=labels/{n}.nii.gz") for n in names)
    return Cohort(tuple(rows), reader(folder, {}), "cohort", folder)


def predict(cohort: Cohort, out: Path, value: int = 1) -> None:
    write = prediction_writer(out, cohort, {})
    for row in cohort:
        write(row, np.full(cohort.read(row).image.shape, value, np.uint8))


def test_a_listed_scan_without_its_label_map_is_named_not_left_out(tmp_path: Path) -> None:
    predict(scans(tmp_path / "in"), tmp_path / "out")
    (tmp_path / "out" / "b.nii.gz").unlink()
    with pytest.raises(
        RunError, match=r"out: 1 of its 3 scans have no label map: b; run `crossbeat predict`"
    ):
        open_predictions(tmp_path / "out")


def test_a_second_prediction_into_a_folder_keeps_the_scans_of_the_first(tmp_path: Path) -> None:
    cohort, out = scans(tmp_path / "in"), tmp_path / "deep" / "out"
    predict(cohort.where(scan=["a", "b"]), out)
    other = scans(tmp_path / "elsewhere" / "in", "bd")
    predict(other, out, value=2)
    found = open_predictions(out)
    assert [row.scan for row in found] == ["a", "b", "d"]
    read = prediction_reader(out, found)
    assert [int(read(row).max()) for row in found] == [1, 2, 2]  # type: ignore[union-attr]
    for row, origin in zip(found, (cohort, other, other), strict=True):
        case, same = found.read(row), origin.read(origin.row(row.scan))
        np.testing.assert_array_equal(case.image, same.image)
        assert case.labelled_frames == [0]


def test_a_second_prediction_forgets_a_scan_whose_label_map_is_gone(tmp_path: Path) -> None:
    cohort, out = scans(tmp_path / "in"), tmp_path / "out"
    predict(cohort, out)
    (out / "a.nii.gz").unlink()
    predict(cohort.where(scan="c"), out)
    assert [row.scan for row in open_predictions(out)] == ["b", "c"]


def test_own_conventions_of_both_predictions_stay_and_may_not_contradict(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name, text in (("a", "site: {1: LV, 2: MYO, 3: RV}"), ("b", "ward: {1: LV, 2: MYO, 3: RV}")):
        folder = tmp_path / name
        made = scans(folder, name)
        (folder / "conventions.yaml").write_text(text.replace("{", "{0: BACKGROUND, "))
        lines = f"subject,scan,sequence,image,labels,convention\n{name},{name},bssfp,images/{name}.nii.gz"
        (folder / "cohort.csv").write_text(f"{lines},labels/{name}.nii.gz,{text.partition(':')[0]}\n")
        predict(read_cohort(folder / "cohort.csv", reader), out)
        assert len(made) == 1
    assert [case.labelled_frames for case in open_predictions(out).cases()] == [[0], [0]]
    (tmp_path / "b" / "conventions.yaml").write_text("site: {0: BACKGROUND, 3: LV, 2: MYO, 1: RV}")
    renamed = replace(scans(tmp_path / "b", "c"), folder=tmp_path / "b")
    with pytest.raises(RunError, match="whose label convention 'site' means something else; choose another"):
        prediction_writer(out, renamed, {})


def test_a_run_folder_keeps_the_cohort_that_it_was_trained_on(tmp_path: Path) -> None:
    cohort, run = scans(tmp_path / "in"), tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    (run / "cohort.csv").write_text("subject,scan,sequence,image\nz,z,bssfp,z.nii.gz\n")
    with pytest.raises(RunError, match="run: is a run folder; label maps need a folder of their own"):
        prediction_writer(run, cohort, {})
    assert [row.scan for row in read_cohort(run / "cohort.csv")] == ["z"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("a.nii", "a.nii.gz"), r"a\.nii and a\.nii\.gz would both be scan 'a'; rename one"),
        (
            ("a/b_c.nii.gz", "a_b/c.nii.gz", "d/c.nii.gz"),
            r"a/b_c.nii.gz and a_b/c.nii.gz would both be scan 'a_b_c'",
        ),
    ],
)
def test_two_files_that_would_be_one_scan_are_refused_by_name(
    tmp_path: Path, names: tuple[str, ...], words: str
) -> None:
    for name in names:
        trees.save(tmp_path / "in" / name, trees.grey(trees.heart(), 0))
    with pytest.raises(FileError, match=words):
        open_input(tmp_path / "in", tmp_path / "out", "")


def test_a_sequence_beside_a_cohort_is_refused_with_the_option_that_chooses(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"--sequence lge: a cohort.csv says itself .* --where sequence=lge"
    ):
        open_input(tmp_path / "cohort.csv", tmp_path / "out", "lge")


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for name in ("anna/sax.nii.gz", "bert/sax.nii.gz"):
        trees.save(tmp_path / "in" / name, trees.grey(trees.heart(), 0))
    cohort, notes = open_input(tmp_path / "in", tmp_path / "out", "lge")
    assert [(row.scan, row.sequence) for row in cohort] == [("anna_sax", "lge"), ("bert_sax", "lge")]
    assert notes == ()


def forbidden(row: Row) -> Case:
    raise AssertionError(f"{row.scan} was read, where its header would do")


@pytest.mark.parametrize("image", ["turned.nii.gz", "images/a.nii.gz;images/b.nii.gz"])
def test_a_label_map_is_held_against_the_header_of_its_scan_alone(tmp_path: Path, image: str) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    scans(folder)
    stored = np.stack([trees.grey(trees.heart(t), t) for t in range(3)], -1).transpose(2, 0, 1, 3)
    trees.save(folder / "turned.nii.gz", stored, trees.AFFINE[:, [2, 0, 1, 3]])
    cohort = Cohort((Row("s", "s", "bssfp", image),), reader(folder, {}), "cohort", folder)
    frames = cohort.read(cohort.rows[0]).image.shape[0]
    predict(cohort, out)
    read = prediction_reader(out, replace(cohort, read=forbidden))
    found = read(cohort.rows[0])
    assert found is not None
    assert found.shape == (frames, 4, 22, 24)


def test_a_label_map_of_another_grid_is_refused_by_the_headers(tmp_path: Path) -> None:
    cohort, out = scans(tmp_path / "in"), tmp_path / "out"
    predict(cohort, out)
    shifted = trees.AFFINE.copy()
    shifted[0, 3] += 13.0
    trees.save(tmp_path / "in" / "images" / "a.nii.gz", trees.grey(trees.heart(), 0), shifted)
    trees.save(tmp_path / "in" / "images" / "b.nii.gz", trees.grey(trees.heart(), 0)[:-1])
    (tmp_path / "in" / "images" / "c.nii.gz").unlink()
    read = prediction_reader(out, replace(cohort, read=forbidden))
    for row, words in zip(
        cohort,
        (
            "a.nii.gz: lies up to 10.0 voxels away from scan 'a': the grid differs",
            r"b.nii.gz: has shape \(1, 4, 22, 24\) .* scan 'b' has \(1, 4, 22, 23\); predict that scan",
            r"images/c.nii.gz: there is no such file",
        ),
        strict=True,
    ):
        with pytest.raises(FileError, match=words):
            read(row)
    with pytest.raises(CaseError, match="names no image file; write one"):
        read(replace(cohort.rows[0], image=";"))


def test_label_maps_without_heart_or_lv_are_remembered(tmp_path: Path) -> None:
    cohort = scans(tmp_path / "in")
    write = prediction_writer(tmp_path / "out", cohort, {})
    assert write.remarks() == []
    for row, value in zip(cohort, (0, 3, 1), strict=True):  # nothing, RV alone, LV
        write(row, np.full(cohort.read(row).image.shape, value, np.uint8))
    assert write.remarks() == ["1 of 3 label maps holds no heart: a", "1 of 3 label maps holds no LV: b"]


def test_one_patients_scans_never_replace_anothers(tmp_path: Path) -> None:
    trees.dicom(tmp_path / "in")
    patients = sorted(p for p in (tmp_path / "in").iterdir() if p.is_dir())[:2]
    found, _ = open_input(patients[0], tmp_path / "out", "")
    write = prediction_writer(tmp_path / "out", found, {})
    for row in found:
        write(row, np.zeros(found.read(row).image.shape, np.uint8))
    assert open_input(patients[0], tmp_path / "out", "")[0].rows == found.rows  # the same patient again
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*.nii.gz")}
    with pytest.raises(FileError, match=r"holds scans made from .* choose another folder with -o"):
        open_input(patients[1], tmp_path / "out", "")
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*.nii.gz")} == before
