"""Files of every orientation give one array, and predictions go back onto the file's own grid."""

from __future__ import annotations

import gzip
import json
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from crossbeat import geometry
from crossbeat.data.nifti import (
    read_displacement,
    read_info,
    read_volume,
    sidecar,
    write_displacement,
    write_labels,
    write_volume,
)
from crossbeat.errors import FileError, GeometryWarning

ORIENTATIONS = [(p, f) for p in permutations(range(3)) for f in product((1, -1), repeat=3)]


def oblique_sax() -> np.ndarray:
    """Affine of a short-axis stack, (1.3, 1.5, 8) mm in (x, y, z), slices along the heart's long axis."""
    z = np.array([-0.60, -0.55, 0.58])
    z /= np.linalg.norm(z)
    x = np.cross([0.2, 0.9, 0.4], z)
    x /= np.linalg.norm(x)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([x, np.cross(z, x), z], 1) * [1.3, 1.5, 8.0]
    affine[:3, 3] = [12.0, -34.0, 56.0]
    return affine


def stored(
    array: np.ndarray, affine: np.ndarray, axes: tuple[int, ...], signs: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The same (i, j, k) voxels with permuted and flipped axes, and the affine that says so."""
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for new, (old, sign) in enumerate(zip(axes, signs, strict=True)):
        step[old, new] = sign
        step[old, 3] = array.shape[old] - 1 if sign < 0 else 0
    moved = array.transpose(*axes, *range(3, array.ndim))
    return moved[tuple(slice(None, None, s) for s in signs)], affine @ step


def save(path: Path, array: np.ndarray, affine: np.ndarray, q: int = 1, s: int = 1) -> Path:
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=s)
    image.set_qform(affine, code=q)
    nib.save(image, path)
    return path


@pytest.fixture(scope="module", params=["upright", "oblique"])
def scan(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    affine = np.diag([-1.3, -1.5, 8.0, 1.0]) if request.param == "upright" else oblique_sax()
    return np.random.default_rng(0).integers(0, 900, (7, 6, 4, 3)).astype(np.int16), affine


@pytest.mark.slow
@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_any_orientation_reads_the_same_and_writes_back_onto_itself(
    tmp_path: Path, scan: tuple[np.ndarray, np.ndarray], axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    voxels, affine = scan
    wanted = read_volume(save(tmp_path / "a.nii", voxels, affine))
    moved, moved_affine = stored(voxels, affine, axes, signs)
    file = save(tmp_path / "b.nii", moved, moved_affine)
    volume = read_volume(file)
    np.testing.assert_array_equal(volume.array, wanted.array)
    np.testing.assert_allclose(volume.affine, wanted.affine, atol=1e-4)

    labels = (volume.array.astype(int) % 4).astype(np.uint8)
    write_labels(tmp_path / "p.nii", labels, file)
    back = nib.load(tmp_path / "p.nii")
    np.testing.assert_array_equal(np.asarray(back.dataobj), moved % 4)
    np.testing.assert_array_equal(back.affine, nib.load(file).affine)
    np.testing.assert_array_equal(read_volume(tmp_path / "p.nii").array, labels)


def test_a_marked_voxel_stays_where_it_is_in_the_patient(tmp_path: Path) -> None:
    voxels = np.zeros((7, 6, 4), np.float32)
    voxels[5, 1, 3] = 1
    affine = oblique_sax()
    volume = read_volume(save(tmp_path / "a.nii", voxels, affine))
    where = np.argwhere(volume.array[0] == 1)[0].astype(float)
    np.testing.assert_allclose(
        geometry.voxel_to_mm(volume.affine, where), (affine @ [5, 1, 3, 1])[:3], atol=1e-4
    )


@pytest.mark.parametrize("still", [True, False])
def test_label_maps_keep_the_header_of_their_image(tmp_path: Path, still: bool) -> None:
    voxels = np.zeros((7, 6, 4) if still else (7, 6, 4, 3), np.int16)
    image = nib.Nifti1Image(voxels, None)
    image.header["pixdim"][:5] = [-1, 1.3, 1.5, 8, 31]
    image.set_qform(oblique_sax(), code=2)
    image.set_sform(np.diag([-1.3, -1.5, 8.0, 1.0]), code=4)
    image.header.set_slope_inter(2.0, 7.0)
    image.header.set_xyzt_units("mm", "msec")
    nib.save(image, tmp_path / "a.nii.gz")
    before = nib.load(tmp_path / "a.nii.gz").header
    labels = np.ones(read_volume(tmp_path / "a.nii.gz").array.shape, np.uint8)
    write_labels(tmp_path / "out" / "p.nii.gz", labels, tmp_path / "a.nii.gz", {"run": "r1"})
    written = nib.load(tmp_path / "out" / "p.nii.gz")
    for field in (
        "dim",
        "pixdim",
        "qform_code",
        "sform_code",
        "quatern_b",
        "qoffset_x",
        "srow_x",
        "xyzt_units",
    ):
        np.testing.assert_array_equal(written.header[field], before[field], err_msg=field)
    assert written.get_data_dtype() == np.uint8
    assert (np.asarray(written.dataobj) == 1).all()
    assert bytes(written.header["descrip"].item()).decode() == "crossbeat labels 1=LV 2=MYO 3=RV"
    named = json.loads(sidecar(tmp_path / "out" / "p.nii.gz").read_text())
    assert named["labels"]["2"] == "MYO"
    assert named["image"] == ["a.nii.gz"]
    assert named["run"] == "r1"
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"p.nii.gz", "p.json"}


def test_frames_in_files_of_their_own_give_one_label_file_with_time(tmp_path: Path) -> None:
    files = [save(tmp_path / f"f{t}.nii", np.zeros((7, 6, 4), np.int16), oblique_sax()) for t in range(2)]
    shape = read_volume(files[0]).array.shape[1:]
    labels = np.random.default_rng(1).integers(0, 4, (2, *shape)).astype(np.uint8)
    write_labels(tmp_path / "p.nii.gz", labels, files)
    assert nib.load(tmp_path / "p.nii.gz").shape == (7, 6, 4, 2)
    np.testing.assert_array_equal(read_volume(tmp_path / "p.nii.gz").array, labels)
    with pytest.raises(ValueError, match="labels must be uint8 of shape"):
        write_labels(tmp_path / "q.nii.gz", labels[:1], files)


def test_volumes_written_here_read_back_with_their_frame_interval(tmp_path: Path) -> None:
    array = np.random.default_rng(2).normal(size=(3, 4, 6, 7)).astype(np.float32)
    affine = geometry.find_turn(oblique_sax(), (7, 6, 4)).affine(oblique_sax(), (7, 6, 4))
    write_volume(tmp_path / "v.nii.gz", array, affine, frame_interval_ms=37.5, description="phantom 1")
    volume = read_volume(tmp_path / "v.nii.gz")
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    assert volume.info.frame_interval_ms == pytest.approx(37.5)
    write_volume(tmp_path / "s.nii.gz", array[:1], affine)
    assert nib.load(tmp_path / "s.nii.gz").shape == (7, 6, 4)


@pytest.mark.slow
@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_a_displacement_points_to_the_same_place_in_the_patient_however_the_scan_is_stored(
    tmp_path: Path, scan: tuple[np.ndarray, np.ndarray], axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    """Pixels of 1.3 x 1.5 x 8 mm: a displacement in voxels, or on the wrong axis, would end elsewhere."""
    file = save(tmp_path / "a.nii", *stored(*scan, axes, signs))
    volume = read_volume(file)
    t, *grid = volume.array.shape
    field = np.random.default_rng(3).normal(0, 6, (t, 3, *grid)).astype(np.float32)
    write_displacement(tmp_path / "u.nii.gz", field, 2, file)

    back = read_displacement(tmp_path / "u.nii.gz")
    np.testing.assert_array_equal(back.array, field)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-5)
    assert back.into_frame == 2

    raw = nib.load(tmp_path / "u.nii.gz")
    values, frame = np.asarray(raw.dataobj), 1
    directions = raw.affine[:3, :3] / np.linalg.norm(raw.affine[:3, :3], axis=0)
    ours = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    for ijk in ((0, 0, 0), (1, 2, 3), tuple(n - 1 for n in raw.shape[:3])):
        place = raw.affine[:3] @ [*ijk, 1]
        zyx = np.rint(geometry.mm_to_voxel(volume.affine, place)).astype(int)
        wanted = ours @ field[(frame, slice(None), *zyx)][::-1]
        np.testing.assert_allclose(directions @ values[(*ijk, frame)], wanted, atol=1e-4)


def test_a_displacement_says_what_it_is_and_that_of_another_program_is_refused(tmp_path: Path) -> None:
    files = [save(tmp_path / f"f{t}.nii", np.zeros((7, 6, 4), np.int16), oblique_sax()) for t in range(2)]
    field = np.zeros((2, 3, *read_volume(files[0]).array.shape[1:]), np.float32)
    write_displacement(tmp_path / "u.nii.gz", field, 1, files, {"run": "r1"})
    raw = nib.load(tmp_path / "u.nii.gz")
    assert raw.shape == (7, 6, 4, 2, 3)
    assert raw.get_data_dtype() == np.float32
    assert raw.header.get_intent()[0] == "displacement vector"
    about = json.loads(sidecar(tmp_path / "u.nii.gz").read_text())
    assert (about["unit"], about["into_frame"], about["run"]) == ("mm", 1, "r1")
    with pytest.raises(ValueError, match=r"must be float32 of shape \(2, 3, .* to lie on .*f0\.nii"):
        write_displacement(tmp_path / "v.nii.gz", field[:1], 1, files)
    raw.header["intent_name"] = b"ants"
    nib.save(raw, tmp_path / "ants.nii.gz")
    with pytest.raises(
        FileError, match=r"ants\.nii\.gz: is no displacement of ours.* give one of `propagate`"
    ):
        read_displacement(tmp_path / "ants.nii.gz")
    with pytest.raises(FileError, match=r"has shape \(7, 6, 4\), a displacement is \(i, j, k, frames, 3\)"):
        read_displacement(files[0])


def test_a_slightly_skewed_affine_becomes_right_angled_with_a_warning(tmp_path: Path) -> None:
    affine = np.diag([-1.3, -1.5, 8.0, 1.0])
    affine[0, 1] = 1.5 * 0.02  # the y axis leans 1.1 degrees towards x
    file = save(tmp_path / "skew.nii", np.zeros((7, 6, 4), np.int16), affine, q=0)
    with pytest.warns(GeometryWarning, match=r"skew\.nii: axes are not at right angles \(cosine 0\.0200\)"):
        volume = read_volume(file)
    assert geometry.orthogonality_error(volume.affine) < 1e-12
    assert geometry.spacing_mm(volume.affine) == pytest.approx((8.0, 1.5003, 1.3), abs=1e-4)
    write_labels(tmp_path / "p.nii", np.ones(volume.array.shape, np.uint8), file)
    np.testing.assert_allclose(nib.load(tmp_path / "p.nii").affine, affine, atol=1e-6)


def test_a_strongly_skewed_affine_is_refused(tmp_path: Path) -> None:
    affine = np.diag([-1.3, -1.5, 8.0, 1.0])
    affine[0, 1] = 0.3
    file = save(tmp_path / "skew.nii", np.zeros((7, 6, 4), np.int16), affine, q=0)
    with pytest.raises(FileError, match=r"skewed axes .* resample the scan"):
        read_volume(file)


def test_unit_affine_beside_a_true_pixdim_takes_the_pixdim(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((7, 6, 4), np.int16), np.diag([-1.0, -1.0, 1.0, 1.0]))
    image.header["pixdim"][1:4] = [1.64, 1.62, 10]
    nib.save(image, tmp_path / "patient101.nii.gz")
    with pytest.warns(GeometryWarning, match=r"patient101.*1\.64 x 1\.62 x 10 mm; pixdim is used"):
        volume = read_volume(tmp_path / "patient101.nii.gz")
    assert geometry.spacing_mm(volume.affine) == pytest.approx((10, 1.62, 1.64), rel=1e-6)


def test_elsewhere_the_affine_wins_over_pixdim(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((7, 6, 4), np.int16), np.diag([-1.3, -1.5, 8.0, 1.0]))
    image.header["pixdim"][1:4] = [1, 1, 1]
    nib.save(image, tmp_path / "a.nii")
    assert geometry.spacing_mm(read_info(tmp_path / "a.nii").affine) == pytest.approx((8.0, 1.5, 1.3))


def test_metres_and_microns_become_mm(tmp_path: Path) -> None:
    for unit, factor in (("meter", 1e-3), ("micron", 1e3)):
        affine = np.diag([-1.3 * factor, -1.5 * factor, 8.0 * factor, 1.0])
        image = nib.Nifti1Image(np.zeros((7, 6, 4), np.int16), affine)
        image.header.set_xyzt_units(unit, "sec")
        nib.save(image, tmp_path / "a.nii")
        assert geometry.spacing_mm(read_info(tmp_path / "a.nii").affine) == pytest.approx(
            (8.0, 1.5, 1.3), rel=1e-4
        )


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((7, 6), np.int16), "has 2 dimensions .* give a stack"),
        (np.zeros((7, 6, 4, 2, 2), np.int16), "has 5 dimensions"),
        (np.zeros((7, 6, 4), np.complex64), "complex.* export grey values"),
        (np.zeros((7, 6, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]), r"colour \(RGB\)"),
        (np.zeros((7, 6, 0), np.int16), "has no voxels"),
    ],
)
def test_what_is_no_grey_stack_is_refused(tmp_path: Path, array: np.ndarray, words: str) -> None:
    nib.save(nib.Nifti1Image(array, np.diag([1.3, 1.5, 8.0, 1.0])), tmp_path / "a.nii.gz")
    with pytest.raises(FileError, match=words):
        read_volume(tmp_path / "a.nii.gz")


def test_broken_files_are_refused_by_name(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).integers(0, 900, (40, 40, 8)).astype(np.int16)
    save(tmp_path / "whole.nii.gz", whole, np.eye(4))
    data = (tmp_path / "whole.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(data[: len(data) // 2])
    (tmp_path / "short.nii").write_bytes(gzip.decompress(data)[:2000])
    (tmp_path / "stub.nii.gz").write_bytes(data[:40])
    (tmp_path / "text.nii.gz").write_text("hello")
    (tmp_path / "empty.nii.gz").touch()
    for name, words in {
        "cut.nii.gz": "damaged or cut short",
        "short.nii": "damaged or cut short",
        "stub.nii.gz": "no readable NIfTI",
        "text.nii.gz": "no readable NIfTI",
        "empty.nii.gz": "is an empty file",
        "gone.nii.gz": "no such file",
    }.items():
        with pytest.raises(FileError, match=words) as error:
            read_volume(tmp_path / name)
        assert name in str(error.value)


def test_a_singular_affine_is_refused(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((7, 6, 4), np.int16), np.eye(4))
    image.header["sform_code"], image.header["qform_code"] = 1, 0
    image.header["srow_z"] = 0
    nib.save(nib.Nifti1Image(np.zeros((7, 6, 4), np.int16), None, image.header), tmp_path / "a.nii")
    with pytest.raises(FileError, match="singular affine"):
        read_volume(tmp_path / "a.nii")


def test_an_unwritable_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="let it end in"):
        write_volume(tmp_path / "a.img", np.zeros((1, 2, 2, 2), np.float32), np.eye(4))
