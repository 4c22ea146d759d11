"""DICOM series as Siemens, Philips and GE write them become stacks; what is none is refused by name."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import trees
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from crossbeat import data, geometry
from crossbeat.data.dicom import Stack, frame_interval_ms, guess_sequence, read_folder

RAS = np.array([-1.0, -1.0, 1.0])
Change = Callable[[Dataset, int, int], bool | None]


def one(folder: Path) -> Stack:
    stacks, refused = read_folder(folder)
    assert [str(r) for r in refused] == []
    assert len(stacks) == 1
    return stacks[0]


def refusal(folder: Path) -> str:
    stacks, refused = read_folder(folder)
    assert not stacks
    assert len({r.problem for r in refused}) == 1
    return str(refused[0])


def in_patient(z: int, t: int, gap_mm: float = 8.0) -> np.ndarray:
    """RAS mm of the bright pixel that `trees.pixels` puts in row 2 + z, column 3 + t of each image."""
    lps = trees.CORNER + z * gap_mm * trees.NORMAL + (3 + t) * 1.25 * trees.ROW + (2 + z) * 1.5 * trees.COLUMN
    return lps * RAS


def assert_every_image_is_in_its_place(stack: Stack, slices: int = 3, frames: int = 4) -> None:
    assert stack.array.shape[:2] == (frames, slices)
    for t in range(frames):
        for z in range(slices):
            where = np.argwhere(stack.array[t] == 1000 + 100 * z + t)
            assert len(where) == 1
            mm = geometry.voxel_to_mm(stack.affine, where[0].astype(float))
            np.testing.assert_allclose(mm, in_patient(z, t), atol=1e-3)


def shuffled_names(dataset: Dataset, z: int, t: int) -> None:
    """Philips: frame-major instance numbers, trigger times, rescale slope; nothing follows the file order."""
    dataset.Manufacturer = "Philips Medical Systems"
    dataset.InstanceNumber = 100 - (t * 10 + z)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"]


def test_ge_one_series_with_an_odd_uid_reads_without_noise(tmp_path: Path) -> None:
    trees.cine(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stack = one(tmp_path)
    assert_every_image_is_in_its_place(stack)
    assert stack.header.vendor == "GE"
    assert guess_sequence(stack).sequence == "bssfp"
    np.testing.assert_allclose(stack.frame_times_ms, [20, 60, 100, 140])
    assert frame_interval_ms(stack) == pytest.approx(40.0)
    assert geometry.spacing_mm(stack.affine) == pytest.approx((8.0, 1.25, 1.5), abs=1e-3)
    assert stack.notes == ()


def test_philips_frame_major_order_is_sorted_by_place_and_trigger_time(tmp_path: Path) -> None:
    trees.cine(tmp_path, change=shuffled_names)
    stack = one(tmp_path)
    assert_every_image_is_in_its_place(stack)
    assert stack.header.vendor == "Philips"


def test_siemens_one_series_a_slice_becomes_one_stack(tmp_path: Path) -> None:
    def siemens(dataset: Dataset, z: int, t: int) -> None:
        dataset.Manufacturer = "SIEMENS"
        dataset.InstanceNumber = t + 1

    for z in (2, 0, 1):
        trees.cine(
            tmp_path / f"{z}",
            only=[z],
            uid=f"1.3.12.{z}",
            number=10 + z,
            description=f"cine_tf2d_sax_{z}",
            change=siemens,
        )
    stack = one(tmp_path)
    assert_every_image_is_in_its_place(stack)
    assert stack.header.vendor == "Siemens"


def test_a_slice_taken_again_counts_once_and_the_later_wins(tmp_path: Path) -> None:
    for z in range(3):
        trees.cine(tmp_path / f"{z}", only=[z], uid=f"1.3.{z}", number=10 + z, description="cine sax")
    trees.cine(tmp_path / "again", only=[1], uid="1.3.9", number=19, description="cine sax", seed=5)
    stack = one(tmp_path)
    assert_every_image_is_in_its_place(stack)
    assert stack.notes == ("1 slices were taken again in a later series, which is used",)
    again = trees.pixels(1, 0, seed=5)
    assert stack.array[0].sum() == sum(trees.pixels(z, 0).sum() for z in (0, 2)) + again.sum()


def test_without_trigger_times_instance_numbers_order_the_frames_and_it_is_said(tmp_path: Path) -> None:
    def timeless(dataset: Dataset, z: int, t: int) -> None:
        del dataset.TriggerTime

    def zero(dataset: Dataset, z: int, t: int) -> None:
        dataset.TriggerTime = 0

    for name, change, why in (("none", timeless, "missing"), ("zero", zero, "not distinct")):
        trees.cine(tmp_path / name, change=change)
        stack = one(tmp_path / name)
        assert_every_image_is_in_its_place(stack)
        assert stack.frame_times_ms is None
        assert stack.notes == (f"trigger times are {why}: frames stand in order of their instance numbers",)


def test_rescale_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    def scaled(dataset: Dataset, z: int, t: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = 2.5 if z else 1.0, -10

    trees.cine(tmp_path, change=scaled)
    stack = one(tmp_path)
    assert np.isclose(stack.array, 1000 - 10).any()
    assert np.isclose(stack.array, (1100 + 3) * 2.5 - 10).any()


@pytest.mark.parametrize(
    ("words", "sequence"),
    [("PSIR_LGE_sax", "lge"), ("T2 STIR SA", "t2"), ("de_sax late", "lge"), ("ax something", "unknown")],
)
def test_still_stacks_have_one_frame_and_their_sequence(tmp_path: Path, words: str, sequence: str) -> None:
    trees.cine(tmp_path, frames=1, description=words)
    stack = one(tmp_path)
    assert_every_image_is_in_its_place(stack, frames=1)
    assert stack.frame_times_ms is None
    assert guess_sequence(stack).sequence == sequence


def test_enhanced_multi_frame_files_are_read_like_single_images(tmp_path: Path) -> None:
    trees.cine(tmp_path / "single", uid="1.2.3.9")
    singles = [pydicom.dcmread(p) for p in sorted((tmp_path / "single").iterdir())]
    enhanced = _enhanced(singles)
    (tmp_path / "multi").mkdir()
    enhanced.save_as(tmp_path / "multi" / "one.dcm", enforce_file_format=True)
    stack, single = one(tmp_path / "multi"), one(tmp_path / "single")
    assert_every_image_is_in_its_place(single)
    np.testing.assert_array_equal(stack.array, single.array * 2)
    np.testing.assert_allclose(stack.affine, single.affine)
    np.testing.assert_allclose(stack.frame_times_ms, [20, 60, 100, 140])


def _item(**values: object) -> Sequence:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return Sequence([item])


def _enhanced(singles: list[Dataset]) -> Dataset:
    """The same images as one Enhanced MR object, with a rescale slope of 2 in the shared groups."""
    whole = singles[0]
    shared, frames = Dataset(), []
    shared.PixelMeasuresSequence = _item(PixelSpacing=whole.PixelSpacing)
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=whole.ImageOrientationPatient)
    shared.PixelValueTransformationSequence = _item(RescaleSlope=2, RescaleIntercept=0)
    for single in singles:
        frame = Dataset()
        frame.PlanePositionSequence = _item(ImagePositionPatient=single.ImagePositionPatient)
        frame.CardiacSynchronizationSequence = _item(NominalCardiacTriggerDelayTime=float(single.TriggerTime))
        frames.append(frame)
    pixels = b"".join(s.PixelData for s in singles)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "TriggerTime"):
        delattr(whole, name)
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    whole.SeriesInstanceUID = "1.2.3"
    whole.NumberOfFrames = len(singles)
    whole.SharedFunctionalGroupsSequence = Sequence([shared])
    whole.PerFrameFunctionalGroupsSequence = Sequence(frames)
    whole.PixelData = pixels
    return whole


def _rgb(d: Dataset, z: int, t: int) -> None:
    d.SamplesPerPixel, d.PhotometricInterpretation, d.PlanarConfiguration = 3, "RGB", 0
    d.PixelData = d.PixelData * 3


def _localiser(d: Dataset, z: int, t: int) -> None:
    d.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def _mixed(d: Dataset, z: int, t: int) -> None:
    if z == 2:
        d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]


def _uneven(d: Dataset, z: int, t: int) -> bool | None:
    return z != 2


def _missing(d: Dataset, z: int, t: int) -> bool | None:
    return (z, t) != (1, 2)


def _matrix(d: Dataset, z: int, t: int) -> None:
    if z == 1:
        d.PixelSpacing = [2.0, 2.0]


def _phase(d: Dataset, z: int, t: int) -> None:
    if t == 1:
        d.ImageType = ["ORIGINAL", "PRIMARY", "P", "ND"]


def _sliding(d: Dataset, z: int, t: int) -> None:
    d.ImagePositionPatient = [float(v) for v in trees.CORNER + z * (8 * trees.NORMAL + 3 * trees.ROW)]


def _twice(d: Dataset, z: int, t: int) -> None:
    d.TriggerTime, d.InstanceNumber = 20, 1


def _placeless(d: Dataset, z: int, t: int) -> None:
    del d.ImagePositionPatient


def _ct(d: Dataset, z: int, t: int) -> None:
    d.Modality = "CT"


def _garbled(d: Dataset, z: int, t: int) -> None:
    d.PixelData = d.PixelData[:40]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_rgb, r"colour \(RGB\) images"),
        (_localiser, r"a localiser \(scout\); leave it out"),
        (_mixed, "mixed orientations .2 of them"),
        (_uneven, r"non-uniform slice spacing: 16\.00 mm between slices 1 and 2, 8\.00 mm elsewhere"),
        (_missing, r"missing frames: the slice at .* mm has 3 images, others have 4"),
        (_matrix, "different matrix or pixel size"),
        (_phase, r"magnitude and phase images mixed \(M, P\)"),
        (_sliding, r"slices slide in-plane \(by 3\.0 mm\)"),
        (_twice, "same time and number; export each contrast"),
        (_placeless, "says no position; export the original"),
        (_ct, "modality CT is not MR"),
        (_garbled, "cannot be decoded"),
    ],
)
def test_what_is_no_short_axis_stack_is_refused_by_folder_series_and_reason(
    tmp_path: Path, change: Change, words: str
) -> None:
    trees.cine(tmp_path / "s1", slices=5, description="my cine", change=change)
    told = refusal(tmp_path)
    assert told.startswith(f"{tmp_path / 's1'}: series '300 my cine': ")
    assert re.search(words, told)


@pytest.mark.parametrize("words", ["cine 4CH", "tf2d_2ch", "cine_lax", "LVOT", "3-chamber"])
def test_long_axis_views_are_refused(tmp_path: Path, words: str) -> None:
    trees.cine(tmp_path, description=words)
    assert "a long-axis view" in refusal(tmp_path)


def test_one_slice_alone_is_no_stack(tmp_path: Path) -> None:
    trees.cine(tmp_path, only=[1])
    assert "a single slice, where a stack is needed" in refusal(tmp_path)


def test_other_files_are_passed_over_and_a_bad_series_does_not_hide_a_good_one(tmp_path: Path) -> None:
    trees.cine(tmp_path / "good")
    trees.cine(tmp_path / "bad", uid="1.9", change=_localiser)
    (tmp_path / "good" / "DICOMDIR.txt").write_text("notes")
    stacks, refused = read_folder(tmp_path)
    assert (len(stacks), len(refused)) == (1, 1)


def test_a_damaged_dicom_file_is_told_by_name(tmp_path: Path) -> None:
    trees.cine(tmp_path)
    (tmp_path / "torn.dcm").write_bytes(b"\0" * 50)
    stacks, refused = read_folder(tmp_path)
    assert len(stacks) == 1
    assert [str(r) for r in refused] == [
        f"{tmp_path}: series 'torn.dcm': is no readable DICOM file; export it again"
    ]


def test_an_index_of_dicom_writes_nifti_and_keeps_the_source(tmp_path: Path) -> None:
    trees.dicom(tmp_path / "in")
    trees.cine(tmp_path / "in" / "p1" / "scout", uid="1.8", change=_localiser)
    cohort, remarks = data.index("dicom", tmp_path / "in", tmp_path / "out")
    assert [(r.subject, r.scan, r.sequence, r.image) for r in cohort] == [
        ("p1", "p1_bssfp", "bssfp", "nifti/p1_bssfp.nii.gz"),
        ("p1", "p1_lge", "lge", "nifti/p1_lge.nii.gz"),
        ("p2", "p2_bssfp", "bssfp", "nifti/p2_bssfp.nii.gz"),
    ]
    assert cohort.rows[0].source == "../in/p1/cine series 300 cine_sax"
    assert cohort.rows[0].frame_interval_ms == 40.0
    assert len(remarks) == 1
    assert "localiser" in remarks[0]
    stack = one(tmp_path / "in" / "p2")
    case = cohort.read(cohort.row("p2_bssfp"))
    np.testing.assert_array_equal(case.image, stack.array)
    np.testing.assert_allclose(case.affine, stack.affine, atol=1e-4)
