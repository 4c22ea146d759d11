"""The README's picture: scans chosen by a rule, Dice of the slice by hand, and runs that lack a scan refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

from crossbeat.cohort import Cohort, Row, read_cohort, write_cohort
from crossbeat.data.predictions import prediction_writer
from crossbeat.data.reading import reader
from crossbeat.errors import RunError


@pytest.fixture(scope="module")
def figure(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("figures/make_result_figure")


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    """Two runs on stills of six slices, 8 x 2 x 1.5 mm: one equals the reference, the other lost the RV."""
    affine, rng = np.diag([1.5, 2.0, 8.0, 1.0]), np.random.default_rng(0)
    rows = []
    for i, split in enumerate(("test", "train", "test", "test")):
        labels = np.zeros((6, 40, 50), np.uint8)
        labels[1:5, 10:22, 12:26] = 2
        labels[1:5, 13:19, 16:22] = 1
        labels[1:5, 12:20, 2:10] = 3
        for kind, array in (("image", rng.normal(100, 20, labels.shape).astype(np.float32)), ("gt", labels)):
            nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), affine), tmp_path / f"{i}_{kind}.nii.gz")
        rows.append(
            Row(f"s{i}", f"s{i}_lge", "lge", f"{i}_image.nii.gz", labels=f"{i}_gt.nii.gz", split=split)
        )
    write_cohort(Cohort(tuple(rows), folder=tmp_path), tmp_path / "cohort.csv")
    cohort = read_cohort(tmp_path / "cohort.csv", reader)
    out = {"whole": tmp_path / "whole", "half": tmp_path / "half"}
    for name, folder in out.items():
        write = prediction_writer(folder / "predictions", cohort, {})
        for row in cohort:
            labels = np.asarray(cohort.read(row).labels).copy()
            labels[(labels == 3) & (name == "half")] = 0
            write(row, labels)
    return out


def test_the_scans_are_the_first_of_the_test_split_in_the_order_of_the_cohort(
    figure: ModuleType, runs: dict[str, Path]
) -> None:
    columns = figure.read_columns(runs, "lge", 2)
    assert [column.title for column in columns] == ["s0", "s2"]
    assert {column.when for column in columns} == {"in their only frame"}


def test_the_slice_is_the_middle_one_with_myocardium(figure: ModuleType) -> None:
    labels = np.zeros((9, 2, 2), np.uint8)
    labels[2:7, 0, 0] = 2
    labels[7:, 1, 1] = 3
    assert figure.middle_slice(labels) == 4


def test_dice_is_the_mean_of_the_slice_and_a_missed_structure_counts_as_nought(
    figure: ModuleType, runs: dict[str, Path]
) -> None:
    (column,) = figure.read_columns(runs, "lge", 1)
    whole, half = (figure.mean_dice(labels, column.reference) for labels in column.predicted)
    assert (whole, half) == (1.0, pytest.approx(2 / 3))
    assert column.image.shape == column.reference.shape


@pytest.mark.slow
def test_the_picture_has_a_row_for_each_run_and_one_for_the_reference(
    figure: ModuleType, runs: dict[str, Path], tmp_path: Path
) -> None:
    drawn = figure.draw(figure.read_columns(runs, "lge", 3), list(runs), "how they were chosen")
    assert len(drawn.axes) == 9
    said = [text.get_text() for axes in drawn.axes for text in axes.texts]
    assert said == ["Dice 1.00"] * 3 + ["Dice 0.67"] * 3
    assert {"whole", "half", "reference", "how they were chosen"} <= {text.get_text() for text in drawn.texts}
    figure.plt.close(drawn)


def test_too_few_scans_and_a_run_that_lacks_one_are_refused_by_name(
    figure: ModuleType, runs: dict[str, Path]
) -> None:
    with pytest.raises(RunError, match="label maps of 3 test scans of sequence 'lge', the figure shows 4"):
        figure.read_columns(runs, "lge", 4)
    with pytest.raises(RunError, match="label maps of 0 test scans of sequence 't2'"):
        figure.read_columns(runs, "t2", 1)
    (runs["half"] / "predictions" / "s2_lge.nii.gz").unlink()
    with pytest.raises(RunError, match=r"half: has no label map of scan 's2_lge'; `crossbeat predict`"):
        figure.read_columns(runs, "lge", 2)


def test_quartiles_are_frames_by_the_mean_dice_of_all_runs(figure: ModuleType, tmp_path: Path) -> None:
    """Five frames: the second run loses 2, 0, 4, 1 and 3 of the ten rows of the wall."""
    labels = np.zeros((6, 2, 20, 20), np.uint8)
    labels[:5, 1, 4:14, 4:14] = 2
    affine = np.diag([1.5, 2.0, 8.0, 1.0])
    of_frames(labels, affine, tmp_path / "gt.nii.gz")
    of_frames(labels.astype(np.float32), affine, tmp_path / "im.nii.gz")
    row = Row("s", "s_lge", "lge", "im.nii.gz", labels="gt.nii.gz", split="test", group="DMD")
    write_cohort(Cohort((row,), folder=tmp_path), tmp_path / "cohort.csv")
    cohort = read_cohort(tmp_path / "cohort.csv", reader)
    whole = np.asarray(cohort.read(row).labels)
    less = whole.copy()
    for t, lost in enumerate((2, 0, 4, 1, 3)):
        less[t][:, np.flatnonzero(whole[t].any(axis=(0, 2)))[:lost]] = 0
    for name, given in (("whole", whole), ("less", less)):
        prediction_writer(tmp_path / name / "predictions", cohort, {})(row, given)
    columns = figure.read_quartiles({name: tmp_path / name for name in ("whole", "less")}, "lge")
    assert [column.title.split("\n") for column in columns] == [
        [name, "s, DMD", f"frame {t}"] for name, t in zip(figure.QUARTILES, (2, 4, 0, 3, 1), strict=True)
    ]
    with pytest.raises(RunError, match="no labelled frame of a test scan of sequence 't2' to show"):
        figure.read_quartiles({"whole": tmp_path / "whole"}, "t2")


def of_frames(scan: np.ndarray, affine: np.ndarray, path: Path) -> None:
    nib.save(nib.Nifti1Image(scan.transpose(3, 2, 1, 0), affine), path)


@pytest.mark.parametrize(
    ("frames", "ed_frame", "drawn", "words"),
    [
        (
            2,
            None,
            True,
            "scan 's_lge': is a cine, and no ed_frame says which frame is ED; fill that column in",
        ),
        (2, 1, False, r"scan 's_lge': its reference shows no myocardium at ED \(frame 1\), so no slice is"),
        (1, None, False, r"scan 's_lge': its reference shows no myocardium in its only frame \(frame 0\)"),
    ],
)
def test_a_cine_without_ed_and_a_reference_without_myocardium_are_refused_by_name(
    figure: ModuleType, tmp_path: Path, frames: int, ed_frame: int | None, drawn: bool, words: str
) -> None:
    labels = np.zeros((frames, 3, 20, 20), np.uint8)
    labels[:, :, 5:12, 5:12] = 1
    labels[:, :, 5:12, 3:5] = 2 * drawn
    affine = np.diag([1.5, 2.0, 8.0, 1.0])
    of_frames(labels, affine, tmp_path / "gt.nii.gz")
    of_frames(
        np.random.default_rng(0).normal(size=labels.shape).astype(np.float32), affine, tmp_path / "im.nii.gz"
    )
    row = Row("s", "s_lge", "lge", "im.nii.gz", labels="gt.nii.gz", split="test", ed_frame=ed_frame)
    write_cohort(Cohort((row,), folder=tmp_path), tmp_path / "cohort.csv")
    cohort = read_cohort(tmp_path / "cohort.csv", reader)
    prediction_writer(tmp_path / "run" / "predictions", cohort, {})(row, labels)
    with pytest.raises(RunError, match=words):
        figure.read_columns({"one": tmp_path / "run"}, "lge", 1)
