"""Several cohorts as one: paths hold from the new place, persons stay persons, label values keep their meaning."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from crossbeat.cli import app
from crossbeat.cohort import read_cohort
from crossbeat.data import join, reader
from crossbeat.errors import CohortError
from crossbeat.labels import Structure

HEAD = "subject,scan,sequence,image,labels,convention,split"


def site(folder: Path, *rows: str, conventions: str = "", head: str = HEAD) -> Path:
    """A cohort.csv whose scans are one still of 3 slices, labelled 7 in one voxel."""
    folder.mkdir(parents=True)
    image, labels = np.ones((4, 5, 3), np.float32), np.zeros((4, 5, 3), np.uint8)
    image[0], labels[1, 2, 1] = 2, 7
    nib.save(nib.Nifti1Image(image, np.diag([1.5, 2, 8, 1])), folder / "im.nii.gz")
    nib.save(nib.Nifti1Image(labels, np.diag([1.5, 2, 8, 1])), folder / "gt.nii.gz")
    if conventions:
        (folder / "conventions.yaml").write_text(conventions)
    (folder / "cohort.csv").write_text("\n".join([head, *rows]) + "\n")
    return folder / "cohort.csv"


def run(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["join", *map(str, words)])
    return done.exit_code, done.output + str(done.exception or "")


def test_scans_of_two_places_are_read_from_a_third(tmp_path: Path) -> None:
    """Value 7 is the LV at one site and the RV at the other."""
    here = site(tmp_path / "a", "p1,p1_c,bssfp,im.nii.gz,0=gt.nii.gz,here,test", conventions="here: {7: LV}")
    there = site(
        tmp_path / "b/c",
        "q1,q1_l,lge,im.nii.gz,gt.nii.gz,there,,Aera",
        conventions="there: {7: RV, 9: unknown}",
        head=f"{HEAD},scanner",
    )
    out = tmp_path / "d/both.csv"
    assert run(here, there, "-o", out)[0] == 0
    made = read_cohort(out, reader)
    assert [(row.scan, row.split, row.further) for row in made] == [
        ("p1_c", "test", {"scanner": ""}),
        ("q1_l", "", {"scanner": "Aera"}),
    ]
    seen = [made.read(row).labels for row in made]
    assert [int(labels.max()) for labels in seen if labels is not None] == [Structure.LV, Structure.RV]
    os.rename(tmp_path, tmp_path.with_name("moved"))
    again = read_cohort(tmp_path.with_name("moved") / "d/both.csv", reader)
    assert len(list(again.cases())) == 2, "paths are relative"


def test_a_scan_of_both_is_refused_and_a_name_tells_them_apart(tmp_path: Path) -> None:
    here = site(tmp_path / "a", "p1,p1,bssfp,im.nii.gz,,crossbeat,")
    there = site(tmp_path / "b", "p1,p1,lge,im.nii.gz,,crossbeat,")
    out = tmp_path / "both.csv"
    code, said = run(here, there, "-o", out)
    assert code != 0
    assert f"scan 'p1' is in {here} and in {there}; write NAME={there}" in said
    assert not out.exists()
    assert run(here, f"site={there}", "-o", out)[0] == 0
    assert [(row.subject, row.scan) for row in read_cohort(out)] == [("p1", "p1"), ("site_p1", "site_p1")]
    code, said = run(here, "-o", out)
    assert code != 0
    assert "is there already" in said


def test_a_subject_of_both_is_one_person_and_is_told(tmp_path: Path) -> None:
    here = site(tmp_path / "a", "p1,p1_c,bssfp,im.nii.gz,,crossbeat,train")
    there = site(tmp_path / "b", "p1,p1_l,lge,im.nii.gz,,crossbeat,test")
    cohorts = [("", read_cohort(path, reader)) for path in (here, there)]
    made, remarks = join(cohorts, tmp_path)
    assert made.subjects == ["p1"]
    assert len(remarks) == 1
    assert "subjects in more than one of the cohorts: 1 (p1)" in remarks[0]
    assert join([("", cohorts[0][1]), ("x", cohorts[1][1])], tmp_path)[1] == ()


def test_no_convention_changes_its_meaning(tmp_path: Path) -> None:
    """One name for two things, a built-in's name for another thing, and what the folder has by that name already."""
    given = {
        "lv": ("own", "own: {7: LV}"),
        "myo": ("own", "own: {7: MYO}"),
        "acdc": ("acdc", ""),
        "acdc_turned": ("acdc", "acdc: {1: LV, 2: MYO, 3: RV}"),
    }
    cohorts = {
        key: read_cohort(
            site(tmp_path / key, f"{key},{key},lge,im.nii.gz,gt.nii.gz,{name},", conventions=yaml), reader
        )
        for key, (name, yaml) in given.items()
    }

    def both(*keys: str, into: str = "new") -> list[str]:
        return [row.convention for row in join([("", cohorts[key]) for key in keys], tmp_path / into)[0]]

    for pair, said in (
        (("lv", "myo"), "convention 'own' is one thing in "),
        (("acdc", "acdc_turned"), "convention 'acdc' is one thing in "),
        (("acdc_turned",), "is another thing to whatever lies in that folder"),
    ):
        with pytest.raises(CohortError, match=said):
            both(*pair)
    assert not (tmp_path / "new").exists(), "nothing is written"
    with pytest.raises(CohortError, match=r"is another thing in .*conventions\.yaml; correct one of them"):
        both("lv", into="myo")
    assert both("acdc", "lv") == ["acdc", "own"]
    assert (tmp_path / "new/conventions.yaml").read_text().count("own") == 1


def test_a_conventions_file_that_lacks_nothing_is_let_be(tmp_path: Path) -> None:
    text = "# agreed on in March\nown: {7: LV}\n"
    here = site(tmp_path / "a", "p1,p1,bssfp,im.nii.gz,gt.nii.gz,own,", conventions=text)
    there = site(
        tmp_path / "b", "q1,q1,lge,im.nii.gz,gt.nii.gz,own,", conventions="own: {0: background, 7: LV}"
    )
    assert run(here, there, "-o", tmp_path / "a/both.csv")[0] == 0
    assert (tmp_path / "a/conventions.yaml").read_text() == text


def test_folders_with_signs_and_links_are_read_or_refused(tmp_path: Path) -> None:
    """A `=` where a label file names no frame; a folder and a file that are links."""
    signs = site(tmp_path / "centre=A", "p1,p1,bssfp,im.nii.gz,gt.nii.gz,acdc,")
    code, said = run(signs, "-o", tmp_path / "both.csv")
    assert code != 0
    assert "scan 'p1': 'centre=A/gt.nii.gz' cannot stand in a cohort.csv" in said
    plain = site(tmp_path / "a", "q1,q1,bssfp,im.nii.gz,,crossbeat,")
    (tmp_path / "a/im.nii.gz").rename(tmp_path / "blob")
    (tmp_path / "a/im.nii.gz").symlink_to(tmp_path / "blob")
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep/er")
    assert run(plain, "-o", tmp_path / "link/both.csv")[0] == 0
    for folder in ("link", "deep/er"):
        assert len(list(read_cohort(tmp_path / folder / "both.csv", reader).cases())) == 1


@pytest.mark.parametrize("word", ["centre=A/cohrt.csv", "../x=cohort.csv", "=cohort.csv", " =cohort.csv"])
def test_a_name_holds_no_slash_and_is_not_blank(word: str, tmp_path: Path) -> None:
    wanted = ("A/cohrt.csv" if word.startswith("centre") else word) + ": cannot be read"
    code, said = run(word, "-o", tmp_path / "both.csv")
    assert code != 0
    assert wanted in said
