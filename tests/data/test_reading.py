"""The image, labels, convention and structures columns of a cohort.csv, turned into cases."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import trees

from crossbeat.cohort import Row
from crossbeat.data.nifti import write_labels
from crossbeat.data.reading import read_labels, reader
from crossbeat.errors import CaseError, CohortError, FileError, GeometryWarning, SettingsError
from crossbeat.labels import CONVENTIONS, UNKNOWN, Structure, convention_from_names

LV, MYO, RV = Structure.LV, Structure.MYO, Structure.RV
ROW = Row(subject="p", scan="p1", sequence="bssfp", image="cine.nii.gz", convention="mnms")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cine of three frames, a 4-D label file with zeros in frame 1, and single-frame files."""
    hearts = [trees.heart(t) for t in range(3)]
    trees.save(tmp_path / "cine.nii.gz", np.stack([trees.grey(h, t) for t, h in enumerate(hearts)], -1))
    trees.save(tmp_path / "gt.nii.gz", np.stack([hearts[0], 0 * hearts[1], hearts[2]], -1))
    for t, one in enumerate(hearts):
        trees.save(tmp_path / f"f{t}.nii.gz", trees.grey(one, t))
        trees.save(tmp_path / f"g{t}.nii.gz", one)
    return tmp_path


def ours(frame: int) -> np.ndarray:
    """The drawn heart on our axes: the tiny scans are stored the way we look, so (i, j, k) is (x, y, z)."""
    return trees.heart(frame).transpose(2, 1, 0).astype(np.uint8)


def test_a_label_file_of_the_images_shape_labels_every_frame(folder: Path) -> None:
    case = reader(folder, {})(replace(ROW, labels="gt.nii.gz", frame_interval_ms=40.0))
    assert case.labelled_frames == [0, 1, 2]
    assert case.labels is not None
    np.testing.assert_array_equal(case.labels[2], ours(2))
    assert not case.labels[1].any()
    np.testing.assert_array_equal(case.frame_times_ms, [0.0, 40.0, 80.0])
    assert case.spacing_mm == pytest.approx((8.0, 1.5, 1.3))


@pytest.mark.parametrize(
    ("step", "unit", "times"),
    [
        (31.5, "msec", [0.0, 31.5, 63.0]),
        (0.03125, "sec", [0.0, 31.25, 62.5]),
        (1.0, "sec", None),  # what ITK writes where it knows nothing
        (31.5, "unknown", None),
        (0.0, "msec", None),
    ],
)
def test_the_header_tells_the_frame_interval_where_the_row_does_not(
    folder: Path, step: float, unit: str, times: list[float] | None
) -> None:
    for name in ("cine", "f0"):
        image = nib.load(folder / f"{name}.nii.gz")
        header = image.header.copy()
        header.set_xyzt_units("mm", unit)
        header["pixdim"][4] = step
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, header), folder / f"{name}.nii.gz")
    read = reader(folder, {})
    found = read(ROW).frame_times_ms
    assert (found is None) if times is None else (found is not None and found.tolist() == times)
    np.testing.assert_array_equal(read(replace(ROW, frame_interval_ms=40.0)).frame_times_ms, [0, 40, 80])
    assert read(replace(ROW, image="f0.nii.gz;f1.nii.gz")).frame_times_ms is None
    assert read(replace(ROW, image="f0.nii.gz")).frame_times_ms is None


@pytest.mark.parametrize("labels", ["0=gt.nii.gz;2=gt.nii.gz", "0=g0.nii.gz; 2=g2.nii.gz"])
def test_frames_that_nobody_labelled_are_unknown(folder: Path, labels: str) -> None:
    case = reader(folder, {})(replace(ROW, labels=labels))
    assert case.labels is not None
    np.testing.assert_array_equal(case.labels[0], ours(0))
    assert (case.labels[1] == UNKNOWN).all()
    np.testing.assert_array_equal(case.labels[2], ours(2))
    assert case.drawn == ({LV, MYO, RV}, frozenset(), {LV, MYO, RV})


def test_single_frame_files_are_the_frames_in_their_order(folder: Path) -> None:
    whole = reader(folder, {})(ROW)
    joined = reader(folder, {})(replace(ROW, image="f0.nii.gz;f1.nii.gz;f2.nii.gz", labels="1=g1.nii.gz"))
    np.testing.assert_array_equal(joined.image, whole.image)
    assert joined.labelled_frames == [1]


def test_structures_by_frame_say_what_was_drawn_and_cut_the_rest(folder: Path) -> None:
    row = replace(ROW, labels="gt.nii.gz", structures="0=LV,MYO;2=LV")
    case = reader(folder, {})(row)
    assert case.labels is not None
    assert case.drawn == ({LV, MYO}, frozenset(), {LV})
    assert (case.labels[1] == UNKNOWN).all()
    assert set(np.unique(case.labels[0]).tolist()) == {0, LV, MYO}
    assert set(np.unique(case.labels[2]).tolist()) == {0, LV}


def test_scar_stays_where_its_myocardium_was_drawn(folder: Path) -> None:
    scarred = trees.heart(structures=[MYO, LV, Structure.SCAR])
    trees.save(folder / "scar.nii.gz", scarred)
    row = replace(ROW, image="f0.nii.gz", labels="scar.nii.gz", convention="crossbeat", structures="LV,MYO")
    case = reader(folder, {})(row)
    assert case.labels is not None
    assert (case.labels == Structure.SCAR).sum() == (scarred == Structure.SCAR).sum() > 0


def test_a_frame_all_unknown_has_nothing_drawn(folder: Path) -> None:
    labels = np.stack([trees.heart(0), np.full(trees.SIZE, UNKNOWN), trees.heart(2)], -1).astype(np.int16)
    trees.save(folder / "u.nii.gz", labels)
    case = reader(folder, {})(replace(ROW, labels="u.nii.gz", convention="crossbeat"))
    assert case.labelled_frames == [0, 2]


def test_a_users_own_convention_is_understood(folder: Path) -> None:
    own = {"site": convention_from_names("site", {10: "LV", 20: "MYO", 30: "RV"})}
    trees.save(folder / "site.nii.gz", (trees.heart() * 10).astype(np.float32))
    case = reader(folder, own)(replace(ROW, image="f0.nii.gz", labels="site.nii.gz", convention="site"))
    assert case.labels is not None
    np.testing.assert_array_equal(case.labels[0], ours(0))
    with pytest.raises(SettingsError, match="label convention 'site' does not exist"):
        reader(folder, {})(replace(ROW, image="f0.nii.gz", labels="site.nii.gz", convention="site"))


def test_labels_stored_in_another_orientation_are_laid_on_the_image(folder: Path) -> None:
    flipped = trees.heart()[::-1, :, ::-1].transpose(2, 0, 1)
    step = np.zeros((4, 4))
    step[2, 0], step[0, 1], step[1, 2], step[3, 3] = -1, -1, 1, 1
    step[0, 3], step[2, 3] = trees.SIZE[0] - 1, trees.SIZE[2] - 1
    trees.save(folder / "turned.nii.gz", np.ascontiguousarray(flipped), trees.AFFINE @ step)
    case = reader(folder, {})(replace(ROW, image="f0.nii.gz", labels="turned.nii.gz"))
    assert case.labels is not None
    np.testing.assert_array_equal(case.labels[0], ours(0))


def test_a_header_that_differs_over_the_same_grid_warns_and_is_accepted(folder: Path) -> None:
    nudged = trees.AFFINE.copy()
    nudged[0, 3] += 0.4  # mm, a third of a voxel
    trees.save(folder / "nudged.nii.gz", trees.heart(), nudged)
    placed = trees.AFFINE.copy()
    placed[:3, 3] = [90, -70, 30]
    trees.save(folder / "placed.nii.gz", trees.grey(trees.heart(), 0), placed)
    lost = nib.Nifti1Image(trees.heart(), None)
    lost.header.set_zooms((1.3, 1.5, 8.0))
    nib.save(lost, folder / "lost.nii.gz")
    for image, labels in (("f0.nii.gz", "nudged.nii.gz"), ("placed.nii.gz", "lost.nii.gz")):
        with pytest.warns(GeometryWarning, match=r"header differs from that of .*, but the grid is the same"):
            case = reader(folder, {})(replace(ROW, image=image, labels=labels))
        assert case.labels is not None
        np.testing.assert_array_equal(case.labels[0], ours(0))


def test_a_grid_that_differs_is_refused_with_both_grids_and_the_remedy(folder: Path) -> None:
    shifted = trees.AFFINE.copy()
    shifted[0, 3] += 13.0
    trees.save(folder / "shifted.nii.gz", trees.heart(), shifted)
    trees.save(folder / "small.nii.gz", trees.heart()[:-1])
    for name, words in {
        "shifted.nii.gz": r"shifted\.nii\.gz: the grid differs .* from \(43\.0, -20\.0, 10\.0\) .* 10\.0 voxels off",
        "small.nii.gz": r"23 x 22 x 4 voxels .* against 24 x 22 x 4 .* copy the image's header .* nearest neighbour",
    }.items():
        with pytest.raises(FileError, match=words):
            reader(folder, {})(replace(ROW, image="f0.nii.gz", labels=name))
    with pytest.raises(FileError, match="the grid differs"):
        reader(folder, {})(replace(ROW, image="f0.nii.gz;shifted.nii.gz"))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            {"labels": "g0.nii.gz"},
            FileError,
            "has 1 frames and the image cine.nii.gz has 3; say which frames",
        ),
        ({"labels": "3=g0.nii.gz"}, CaseError, "frame 3, but the image has 3 frames, numbered from 0"),
        ({"labels": "x=g0.nii.gz"}, CohortError, "names frame 'x', which is no number"),
        ({"labels": "0=gone.nii.gz"}, FileError, r"gone.nii.gz: there is no such file; correct the path"),
        (
            {"labels": "0=f0.nii.gz"},
            FileError,
            "f0.nii.gz: label values .* mean nothing in convention 'mnms'",
        ),
        (
            {"image": "f0.nii.gz;cine.nii.gz"},
            FileError,
            "has 3 frames, but files joined by `;` must be single",
        ),
        (
            {"image": "f0.nii.gz;f1.nii.gz", "labels": "0=gt.nii.gz"},
            FileError,
            "or one of 2 frames like the image",
        ),
        ({"image": ";"}, CaseError, "names no image file"),
    ],
)
def test_rows_that_contradict_their_files_are_refused(
    folder: Path, change: dict[str, str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        reader(folder, {})(replace(ROW, **change))


def test_predictions_come_back_as_they_were_and_only_onto_their_own_scan(folder: Path) -> None:
    case = reader(folder, {})(ROW)
    labels = np.stack([ours(t) for t in range(3)])
    write_labels(folder / "p.nii.gz", labels, folder / "cine.nii.gz")
    np.testing.assert_array_equal(read_labels(folder / "p.nii.gz", case), labels)
    with pytest.raises(
        FileError, match=r"has shape \(3, 4, 22, 24\) .* has \(1, 4, 22, 24\); predict that scan again"
    ):
        read_labels(folder / "p.nii.gz", reader(folder, {})(replace(ROW, image="f0.nii.gz")))
    away = replace(case, affine=case.affine + np.array([[0, 0, 0, 9.0]] + [[0] * 4] * 3))
    with pytest.raises(FileError, match="the grid differs"):
        read_labels(folder / "p.nii.gz", away)
    with pytest.raises(FileError, match="mean nothing in convention 'crossbeat'"):
        read_labels(folder / "f0.nii.gz")


def test_reading_a_prediction_of_a_quirky_scan_says_nothing_again(folder: Path) -> None:
    image = nib.Nifti1Image(trees.grey(trees.heart(), 0), np.diag([-1.0, -1.0, 1.0, 1.0]))
    image.header["pixdim"][1:4] = [1.64, 1.64, 10]
    nib.save(image, folder / "quirk.nii.gz")
    with pytest.warns(GeometryWarning, match="pixdim is used"):
        case = reader(folder, {})(replace(ROW, image="quirk.nii.gz"))
    write_labels(folder / "p.nii.gz", ours(0)[None], folder / "quirk.nii.gz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_labels(folder / "p.nii.gz", case)[0], ours(0))
    assert CONVENTIONS["crossbeat"].values[1] == LV
