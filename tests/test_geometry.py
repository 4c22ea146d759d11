from itertools import permutations, product

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from crossbeat import geometry

ANATOMY = np.arange(5 * 6 * 7, dtype=float).reshape(5, 6, 7)
ANGLES = {"upright": (0, 0, 0), "short axis": (50, -35, 20), "steep short axis": (-70, 35, 120)}


def stored_in_all_orientations(affine: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same volume in the 48 ways to order and mirror its axes, each with its own affine."""
    ways = []
    for order, mirrored in product(permutations(range(3)), product((False, True), repeat=3)):
        volume, step = ANATOMY.transpose(order), np.eye(4)[:, [*order, 3]]
        for axis, flip in enumerate(mirrored):
            if flip:
                step[:3, 3] += step[:3, axis] * (volume.shape[axis] - 1)
                step[:3, axis] *= -1
        volume = volume[tuple(slice(None, None, -1) if f else slice(None) for f in mirrored)]
        ways.append((volume, affine @ step))
    return ways


@pytest.mark.parametrize("angles", ANGLES.values(), ids=ANGLES)
def test_one_scan_stored_in_48_ways_gives_one_array(angles: tuple[int, int, int]) -> None:
    affine = np.diag([1.2, 1.4, 9.0, 1.0])
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ affine[:3, :3]
    affine[:3, 3] = [10, -4, 3]
    ways = stored_in_all_orientations(affine)
    assert len({a.tobytes() for _, a in ways}) == 48
    turns = [geometry.find_turn(a, v.shape) for v, a in ways]
    arrays = [t.apply(v) for t, (v, _) in zip(turns, ways, strict=True)]
    affines = [t.affine(a, v.shape) for t, (v, a) in zip(turns, ways, strict=True)]
    for array, ours, turn, (volume, _) in zip(arrays, affines, turns, ways, strict=True):
        np.testing.assert_array_equal(array, arrays[0])
        np.testing.assert_allclose(ours, affines[0], atol=1e-12)
        np.testing.assert_array_equal(turn.undo(array), volume)
        assert geometry.spacing_mm(ours)[0] == pytest.approx(9.0)


def test_the_turn_keeps_every_voxel_where_it_lies_in_the_patient() -> None:
    volume, affine = stored_in_all_orientations(np.diag([1.2, 1.4, 9.0, 1.0]))[17]
    turn = geometry.find_turn(affine, volume.shape)
    ours = turn.apply(volume)
    value = volume[2, 3, 4]
    in_file = affine @ [2, 3, 4, 1]
    z, y, x = np.argwhere(ours == value)[0]
    np.testing.assert_allclose(turn.affine(affine, volume.shape) @ [x, y, z, 1], in_file)


def test_an_ordinary_file_is_not_mirrored() -> None:
    turn = geometry.find_turn(np.diag([-1.5, -1.5, 10.0, 1.0]), (240, 256, 10))  # LPS, as most MR is stored
    assert turn == geometry.Turn((2, 1, 0), (False, False, False))


def test_the_slice_axis_is_the_one_whose_spacing_differs() -> None:
    assert geometry.find_turn(np.diag([8.0, 1.5, 1.5, 1.0]), (12, 200, 200)).axes[0] == 0
    assert geometry.find_turn(np.diag([1.0, 1.5, 1.5, 1.0]), (300, 200, 200)).axes[0] == 0
    assert geometry.find_turn(np.diag([1.0, 1.0, 1.0, 1.0]), (200, 30, 200)).axes[0] == 1


def test_voxels_and_millimetres_convert_both_ways() -> None:
    affine = np.diag([2.0, 3.0, 10.0, 1.0])
    affine[:3, 3] = [1, 1, 1]
    np.testing.assert_allclose(geometry.voxel_to_mm(affine, np.array([1.0, 2.0, 3.0])), [7, 7, 11])
    points = np.array([[0.5, 2.0, 3.0], [4.0, 0.0, 1.0]])
    np.testing.assert_allclose(geometry.mm_to_voxel(affine, geometry.voxel_to_mm(affine, points)), points)


def test_slice_positions_grow_along_the_normal_whatever_the_handedness() -> None:
    left_handed = np.diag([-1.0, 1.0, 8.0, 1.0])
    np.testing.assert_allclose(geometry.slice_positions_mm(left_handed, 3), [0, 8, 16])


def test_a_sheared_affine_is_measured_and_repaired_to_the_nearest_rotation() -> None:
    affine = np.diag([1.25, 1.25, 8.0, 1.0])
    affine[0, 1] = 0.0125  # one hundredth of a pixel a row
    assert geometry.orthogonality_error(affine) == pytest.approx(0.01, rel=1e-3)
    repaired = geometry.nearest_rotation(affine)
    assert geometry.orthogonality_error(repaired) < 1e-12
    np.testing.assert_allclose(geometry.column_lengths(repaired), geometry.column_lengths(affine))
    np.testing.assert_allclose(repaired[:3, :3], affine[:3, :3], atol=0.01)
