"""Phantoms made once: found again, made again after a failure, and never put over anything else."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossbeat.cohort import Cohort, Row, read_cohort
from crossbeat.data import reader
from crossbeat.data.nifti import write_volume
from crossbeat.errors import CohortError, RunError, SettingsError
from crossbeat.study.phantom import make_phantom
from crossbeat.study.plan import PhantomSpec
from crossbeat.synthetic import Hearts, made, make_once

HEARTS = Hearts(2, ["t2"], ["a"], cine=False, test=1, seed=5)


def make(folder: Path, hearts: Hearts = HEARTS, write: Any = write_volume, **options: Any) -> bool:
    return make_once(folder, hearts, write=write, remedy="go elsewhere", jobs=1, **options)


def note(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "phantom.json").read_text())
    assert isinstance(found, dict)
    return found


def full(*_: Any, **__: Any) -> None:
    raise OSError("No space left on device")


@pytest.mark.slow
def test_a_phantom_that_failed_is_made_again_without_a_word(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        make(tmp_path, write=full)
    assert note(tmp_path)["whole"] is False
    assert not (tmp_path / "cohort.csv").exists()
    assert make(tmp_path, replace(HEARTS, seed=6)), "nor does another one have to yield to what is not there"
    assert note(tmp_path)["whole"] is True
    assert [row.split for row in read_cohort(tmp_path / "cohort.csv")].count("test") == 1
    assert not make(tmp_path, replace(HEARTS, seed=6))
    with pytest.raises(RunError, match=r"holds another phantom \(seed 6, now 5\); go elsewhere"):
        make(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        *("cohort.csv", "phantom.json", "truth.csv")
    ]


@pytest.mark.slow
def test_one_interrupted_while_it_replaces_another_leaves_no_cohort_of_mixed_scans(tmp_path: Path) -> None:
    (tmp_path / "cohort.csv").write_text("of the other")
    with pytest.raises(OSError, match="No space left"):
        make(tmp_path, write=full, overwrite=True)
    assert not (tmp_path / "cohort.csv").exists()


@pytest.mark.parametrize("damage", ["", '{"subjects": 2, "sequ', "[]"])
def test_a_broken_note_is_named_with_the_remedy(damage: str, tmp_path: Path) -> None:
    (tmp_path / "phantom.json").write_text(damage)
    with pytest.raises(RunError, match=r"phantom\.json: is damaged, .*; go elsewhere"):
        make(tmp_path)
    with pytest.raises(RunError, match=r"phantom\.json: is damaged, .*; choose another folder with -o$"):
        make_phantom(PhantomSpec(subjects=2, test=1), tmp_path)


@pytest.mark.slow
def test_overwriting_passes_over_a_broken_note(tmp_path: Path) -> None:
    (tmp_path / "phantom.json").write_text("{")
    with pytest.raises(OSError, match="No space left"):
        make(tmp_path, write=full, overwrite=True)
    assert note(tmp_path)["whole"] is False


@pytest.mark.slow
def test_a_note_of_before_is_that_of_a_whole_phantom(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        make(tmp_path, write=full)
    (tmp_path / "cohort.csv").write_text("whole")
    old = {key: value for key, value in note(tmp_path).items() if key != "whole"}
    (tmp_path / "phantom.json").write_text(json.dumps(old))
    assert not make(tmp_path, write=full)


@pytest.mark.parametrize("test", [2, 3, 0.9])
def test_a_split_that_leaves_none_to_train_is_refused_before_a_heart_is_made(
    test: float, tmp_path: Path
) -> None:
    with pytest.raises(CohortError, match="leave none of 2 to train"):
        make(tmp_path / "new", replace(HEARTS, test=test), write=full)
    with pytest.raises(CohortError, match="leave none of 2 to train"):
        make_phantom(PhantomSpec(subjects=2, test=2), tmp_path / "new")
    with pytest.raises(SettingsError, match="'t1' does not exist"):
        make(tmp_path / "new", replace(HEARTS, sequences=["t1"]), write=full)
    assert not (tmp_path / "new").exists()


def test_a_foreign_cohort_stays_and_a_study_says_what_it_can_do(tmp_path: Path) -> None:
    (tmp_path / "cohort.csv").write_text("mine")
    with pytest.raises(RunError, match=r"no phantom of ours left there; choose another folder with -o$"):
        make_phantom(PhantomSpec(subjects=2, test=1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cohort.csv"]


def test_the_challenge_splits_scans_and_takes_labels_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Counts of MS-CMRSeg, Chen 2020: 35 labelled patients; LGE 3 train, 2 validate, 40 tested (methods.md 6)."""

    def unscanned(folder: Path, **asked: Any) -> Cohort:
        return Cohort(
            tuple(
                Row(f"s{i}", f"s{i}_{sequence}", sequence, "none", labels=f"{i}.nii.gz")
                for i in range(asked["subjects"])
                for sequence in asked["sequences"]
            ),
            folder=folder,
        )

    monkeypatch.setattr(made, "make_cohort", unscanned)
    make(tmp_path, replace(HEARTS, subjects=45, sequences=["bssfp", "t2", "lge"], split="mscmrseg"))
    cohort = read_cohort(tmp_path / "cohort.csv")
    lge = cohort.where(sequence="lge")
    assert [row.split for row in lge] == ["train"] * 3 + ["validation"] * 2 + ["test"] * 40
    assert len(lge.labelled()) == 45
    for sequence in ("bssfp", "t2"):
        scans = cohort.where(sequence=sequence)
        assert [row.split for row in scans] == ["train"] * 3 + ["validation"] * 2 + ["train"] * 40
        assert [row.subject for row in scans.labelled()] == [f"s{i}" for i in range(35)]
    with pytest.raises(RunError, match=r"another phantom \(split mscmrseg, now subjects\)"):
        make(tmp_path, replace(HEARTS, subjects=45, sequences=["bssfp", "t2", "lge"]))


def test_subjects_are_held_out_for_validation_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unscanned(folder: Path, **asked: Any) -> Cohort:
        return Cohort(
            tuple(Row(f"s{i}", f"s{i}", "t2", "none") for i in range(asked["subjects"])), folder=folder
        )

    monkeypatch.setattr(made, "make_cohort", unscanned)
    make(tmp_path / "with", replace(HEARTS, subjects=10, test=0.2, validation=3))
    make(tmp_path / "alone", replace(HEARTS, subjects=10, test=0, validation=0.3))
    found = [[row.split for row in read_cohort(tmp_path / n / "cohort.csv")] for n in ("with", "alone")]
    assert [Counter(splits) for splits in found] == [
        {"test": 2, "validation": 3, "train": 5},
        {"validation": 3, "train": 7},
    ]


def test_the_challenge_needs_someone_to_test(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="take 6 or more"):
        make(tmp_path / "new", replace(HEARTS, subjects=5, split="mscmrseg"), write=full)
    assert not (tmp_path / "new").exists()


def test_unseen_vendors_are_tested_whole_and_seen_ones_in_part(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in M&Ms, methods.md 2.3: two vendors train, four are tested."""

    def unscanned(folder: Path, **asked: Any) -> Cohort:
        names = enumerate("abcd" * (asked["subjects"] // 4))
        rows = (Row(f"s{i}", f"s{i}", "bssfp", "none", vendor=v, group=f"g{i // 20}") for i, v in names)
        return Cohort(tuple(rows), folder=folder)

    monkeypatch.setattr(made, "make_cohort", unscanned)
    hearts = replace(HEARTS, subjects=40, vendors=list("abcd"), test=4, split="mnms")
    make(tmp_path, hearts)
    cohort = read_cohort(tmp_path / "cohort.csv")
    assert [row.subject for row in cohort] == [f"s{i}" for i in range(40)]
    assert {row.split for row in cohort.where(vendor=["c", "d"])} == {"test"}
    seen = cohort.where(vendor=["a", "b"])
    assert [len(seen.where(split="test", group=group)) for group in ("g0", "g1")] == [2, 2]
    assert len(seen.where(split="test")) == 4


@pytest.mark.parametrize(("subjects", "vendors"), [(40, "ab"), (40, "cd"), (5, "abcd")])
def test_unseen_vendors_need_seen_ones_beside(tmp_path: Path, subjects: int, vendors: str) -> None:
    hearts = replace(HEARTS, subjects=subjects, vendors=list(vendors), split="mnms")
    with pytest.raises(SettingsError, match="split mnms trains on vendors a and b and tests on c and d"):
        make(tmp_path / "new", hearts, write=full)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_cine_may_give_the_labels_of_two_frames_only(tmp_path: Path) -> None:
    make(
        tmp_path,
        replace(HEARTS, subjects=1, test=0, sequences=["bssfp"], cine=True, annotated="ed_es", frames=5),
    )
    [row] = read_cohort(tmp_path / "cohort.csv", reader)
    assert (row.ed_frame, row.labels.split(";")[0]) == (0, "0=labels/phantom001_bssfp.nii.gz")
    [case] = read_cohort(tmp_path / "cohort.csv", reader).cases()
    assert case.frames == 5
    assert case.labelled_frames == [0, row.es_frame]
