"""check opens every file and tells everything in one run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trees

from crossbeat.cohort import Cohort, Row
from crossbeat.data.checking import Problem, check, told

GOOD = Row(
    subject="good",
    scan="good",
    sequence="bssfp",
    image="good.nii.gz",
    labels="good_gt.nii.gz",
    convention="mnms",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    trees.save(tmp_path / "good.nii.gz", trees.grey(trees.heart(), 0))
    trees.save(tmp_path / "good_gt.nii.gz", trees.heart())
    return tmp_path


def row(name: str, **changes: object) -> Row:
    fields = {"subject": name, "scan": name, "image": f"{name}.nii.gz", "labels": ""}
    return replace(GOOD, **(fields | changes))  # type: ignore[arg-type]


def found(folder: Path, *rows: Row) -> list[Problem]:
    return check(Cohort(rows), folder)


def only(problems: list[Problem], scan: str) -> Problem:
    mine = [p for p in problems if p.scan == scan]
    assert len(mine) == 1, [str(p) for p in mine]
    return mine[0]


def test_a_good_scan_has_no_problem_and_progress_is_told(folder: Path) -> None:
    seen: list[str] = []
    assert check(Cohort((GOOD,)), folder, progress=lambda r: seen.append(r.scan)) == []
    assert seen == ["good"]


def test_every_kind_of_fault_is_found_in_one_run(folder: Path) -> None:
    heart, image = trees.heart(), trees.grey(trees.heart(), 1).astype(np.float32)
    broken = image.copy()
    broken[3, 3, 1] = np.nan
    trees.save(folder / "nan.nii.gz", broken)
    trees.save(folder / "flat.nii.gz", np.full(trees.SIZE, 7, np.int16))
    trees.save(folder / "tiny.nii.gz", image + 1, np.diag([-0.13, -0.15, 8.0, 1.0]))
    trees.save(folder / "thick.nii.gz", image + 2, np.diag([-1.3, -1.5, 80.0, 1.0]))
    (folder / "text.nii.gz").write_text("no scan")
    for n, name in enumerate(("values", "half", "empty", "swapped", "shifted", "norv", "undrawn", "late")):
        trees.save(folder / f"{name}.nii.gz", image + 10 + n)
    trees.save(folder / "values_gt.nii.gz", heart * 3)
    trees.save(folder / "half_gt.nii.gz", heart * 0.5)
    trees.save(folder / "empty_gt.nii.gz", heart * 0)
    trees.save(folder / "swapped_gt.nii.gz", trees.foreign(heart, "acdc"))
    trees.save(
        folder / "shifted_gt.nii.gz", heart, trees.AFFINE + np.array([[0, 0, 0, 50.0]] + [[0] * 4] * 3)
    )
    trees.save(folder / "norv_gt.nii.gz", np.where(heart == 3, 0, heart))
    trees.save(folder / "undrawn_gt.nii.gz", heart)
    expected = {
        "nan": ("error", "1 voxels are NaN or infinite"),
        "flat": ("error", "the image is constant"),
        "tiny": ("error", "the spacing 0.13 x 0.15 x 8 mm (x, y, z) is not plausible"),
        "thick": ("error", "the spacing 1.3 x 1.5 x 80 mm (x, y, z) is not plausible"),
        "text": ("error", "is no readable NIfTI file"),
        "gone": ("error", "there is no such file"),
        "values": ("error", "label values 6, 9 mean nothing in convention 'mnms'"),
        "half": ("error", "label values 0.5, 1.5 mean nothing"),
        "empty": ("warning", "the mask of frame 0 is empty: no voxel of LV, MYO, RV"),
        "swapped": ("error", "surrounds what convention 'mnms' calls RV"),
        "shifted": ("error", "the grid differs"),
        "norv": ("warning", "frame 0 has no voxel of RV"),
        "undrawn": ("note", "holds RV, which `structures` does not name"),
        "late": ("error", "es_frame is 9, but the image has 1 frames, numbered from 0"),
    }
    special = {
        "undrawn": {"structures": "LV,MYO"},
        "late": {"es_frame": 9},
    }
    rows = [GOOD]
    for name in expected:
        labels = f"{name}_gt.nii.gz" if (folder / f"{name}_gt.nii.gz").exists() else ""
        rows.append(row(name, labels=labels, **special.get(name, {})))
    problems = found(folder, *rows)
    for name, (severity, words) in expected.items():
        one = only(problems, name)
        assert one.severity == severity, str(one)
        assert words in one.problem, str(one)
        assert one.remedy, str(one)
    assert not [p for p in problems if p.scan == "good"]


def test_all_files_of_one_row_are_opened_even_if_the_first_is_broken(folder: Path) -> None:
    (folder / "a.nii.gz").write_text("no scan")
    (folder / "b.nii.gz").touch()
    (folder / "c_gt.nii.gz").write_text("no labels")
    problems = found(
        folder, row("x", image="a.nii.gz;b.nii.gz;good.nii.gz", labels="0=c_gt.nii.gz;1=gone.nii.gz")
    )
    assert {(p.file, p.severity) for p in problems} == {
        (name, "error") for name in ("a.nii.gz", "b.nii.gz", "c_gt.nii.gz", "gone.nii.gz")
    }


def test_label_frames_and_conventions_that_do_not_exist_are_errors(folder: Path) -> None:
    one = only(found(folder, replace(GOOD, labels="5=good_gt.nii.gz")), "good")
    assert "labels name frame 5, but the image has 1 frames" in one.problem
    one = only(found(folder, replace(GOOD, convention="mnsm")), "good")
    assert "convention 'mnsm' does not exist" in one.problem
    assert "did you mean 'mnms'" in one.remedy


def test_repaired_headers_are_warnings_with_their_file(folder: Path) -> None:
    skew = trees.AFFINE.copy()
    skew[0, 1] = 0.03
    trees.save(folder / "skew.nii.gz", trees.grey(trees.heart(), 5), skew)
    one = only(found(folder, row("skew")), "skew")
    assert (one.severity, one.file) == ("warning", "skew.nii.gz")
    assert "not at right angles" in one.problem


def test_nominal_spacing_is_noted(folder: Path) -> None:
    one = only(found(folder, replace(GOOD, spacing_source="nominal")), "good")
    assert one.severity == "note"
    assert "nominal: mm and ml of this scan are no measurements" in one.problem


def test_what_is_noted_alike_of_many_scans_is_told_once_and_errors_never_are_together() -> None:
    note = Problem("note", "a", "a.nii.gz", "the spacing is nominal", "")
    problems = [note, replace(note, scan="b", file="b.nii.gz"), replace(note, problem="has no labels")]
    problems += [Problem("error", scan, f"{scan}.nii.gz", "cannot be read", "mend it") for scan in "ab"]
    problems += [replace(note, scan="c", problem="two files", file=f) for f in ("c1", "c2")]
    assert told(problems) == [
        "note: 2 scans, a first: the spacing is nominal",
        "note: a, a.nii.gz: has no labels",
        "error: a, a.nii.gz: cannot be read; mend it",
        "error: b, b.nii.gz: cannot be read; mend it",
        "note: c, c1: two files",
        "note: c, c2: two files",
    ]
    assert told([]) == []


def test_one_image_under_two_names_is_told_and_across_splits_it_is_an_error(folder: Path) -> None:
    trees.save(folder / "twin.nii.gz", trees.grey(trees.heart(), 0))
    one = only(found(folder, GOOD, row("twin")), "good")
    assert (one.severity, "good, twin" in one.problem) == ("warning", True)
    one = only(found(folder, replace(GOOD, split="train"), row("twin", split="test")), "good")
    assert one.severity == "error"
    assert "in the splits test and train" in one.problem


def test_a_subject_in_two_splits_leaks_unless_its_sequences_differ(folder: Path) -> None:
    trees.save(folder / "b.nii.gz", trees.grey(trees.heart(), 9))
    first = replace(GOOD, split="train")
    same = row("b", subject="good", split="test")
    (leak,) = found(folder, first, same)
    assert (leak.severity, leak.remedy) == ("error", "put all scans of a subject in one split")
    (note,) = found(folder, first, replace(same, sequence="lge"))
    assert note.severity == "note"
    assert "transductive" in note.problem


def test_a_cohort_with_nothing_to_train_on_is_told(folder: Path) -> None:
    bare = replace(GOOD, labels="")
    (nothing,) = found(folder, bare)
    assert (nothing.severity, nothing.scan) == ("note", "")
    assert "no scan has labels, of 1: they can be predicted and measured, not trained on" in nothing.problem
    trees.save(folder / "other.nii.gz", trees.grey(trees.heart(), 8))
    tested = replace(GOOD, split="test")
    (untrained,) = found(folder, tested, row("other", split="train"))
    assert untrained.severity == "warning"
    assert untrained.problem == "no training scan has labels, of 1; 1 of other splits have"
    assert found(folder, GOOD, row("other", split="test")) == []


def test_a_problem_reads_as_one_line(folder: Path) -> None:
    assert str(found(folder, row("gone"))[0]) == (
        "error: gone, gone.nii.gz: there is no such file; correct the path in the cohort.csv, or restore the file"
    )
