"""Labels of one scan arrive where that heart lies in another."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from crossbeat.case import Case, Domain
from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CaseError, CohortError
from crossbeat.labels import UNKNOWN, Structure
from crossbeat.prepare.correspondence import (
    fuse_labels,
    pair_scans,
    paired_slices,
    pseudo_case,
    pseudo_labels,
)
from crossbeat.prepare.slices import build_bank
from crossbeat.prepare.volumes import Preparation

LV, MYO, RV, SCAR, EDEMA = Structure.LV, Structure.MYO, Structure.RV, Structure.SCAR, Structure.EDEMA


def scan(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    first_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    labels: NDArray[np.uint8] | None = None,
    name: str = "s_bssfp",
) -> Case:
    """A still of (z, y, x) shape and spacing whose first voxel's centre lies at first_mm (z, y, x)."""
    affine = np.diag([*spacing_mm[::-1], 1.0])
    affine[:3, 3] = first_mm[::-1]
    drawn = (frozenset({LV, MYO, RV}),) if labels is not None else ()
    given = None if labels is None else labels.reshape(1, *shape)
    return Case(name, "s", np.zeros((1, *shape), np.float32), affine, Domain("bssfp"), given, drawn)


def by_slice(values: list[int], y: int = 4, x: int = 5) -> NDArray[np.uint8]:
    return np.broadcast_to(np.array(values, np.uint8)[:, None, None], (len(values), y, x)).copy()


def values_by_slice(labels: NDArray[np.uint8]) -> list[int]:
    assert all(len(np.unique(s)) == 1 for s in labels[0])
    return [int(s[0, 0]) for s in labels[0]]


def moved(case: Case, by: NDArray[np.float64]) -> Case:
    return replace(case, affine=by @ case.affine)


def somewhere(seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    found = np.eye(4)
    found[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    found[:3, 3] = rng.uniform(-80, 80, 3)
    return found


def test_equation_1_by_both_roundings() -> None:
    """The worked example of methods.md 1.5: 10 source slices, 15 of the target."""
    assert paired_slices(10, 15, "paper") == [0, 1, 3, 4, 6, 7, 9, 10, 12, 13]
    assert paired_slices(10, 15, "code") == [1, 2, 3, 5, 7, 8, 9, 11, 13, 14]
    assert paired_slices(4, 4, "paper") == paired_slices(4, 4, "code") == [0, 1, 2, 3]
    for rounding in ("paper", "code"):
        fewer = paired_slices(9, 4, rounding)
        assert fewer == sorted(fewer)
        assert set(fewer) <= {0, 1, 2, 3}


def test_by_index_slices_that_no_source_slice_meets_stay_unknown() -> None:
    source = scan((2, 4, 5), (10.0, 2.0, 1.5), labels=by_slice([LV, RV]))
    target = scan((4, 4, 5), (5.0, 2.0, 1.5), first_mm=(300.0, 0.0, 0.0), name="s_lge")  # the header's z lies
    found = pseudo_labels(source, target, correspondence="index", rounding="paper")
    assert values_by_slice(found) == [LV, UNKNOWN, RV, UNKNOWN]
    found = pseudo_labels(source, target, correspondence="index", rounding="code")
    assert values_by_slice(found) == [UNKNOWN, LV, UNKNOWN, RV]


def test_by_index_slices_are_counted_the_same_way_in_both() -> None:
    source = scan((3, 4, 5), (10.0, 2.0, 1.5), labels=by_slice([LV, MYO, RV]))
    target = scan((3, 4, 5), (10.0, 2.0, 1.5), name="s_lge")
    upside_down = target.affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 2], [0, 0, 0, 1.0]])
    found = pseudo_labels(source, replace(target, affine=upside_down), correspondence="index")
    assert values_by_slice(found) == [RV, MYO, LV]


@pytest.mark.parametrize("correspondence", ["index", "physical"])
def test_on_its_own_grid_a_mask_stays_as_it_is(correspondence: str) -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice([0, LV, MYO, RV, UNKNOWN], (3, 7, 6)).astype(np.uint8)
    source = moved(scan((3, 7, 6), (8.0, 1.4, 1.1), labels=labels), somewhere(1))
    target = replace(source, id="s_lge", labels=None, drawn=())
    np.testing.assert_array_equal(pseudo_labels(source, target, correspondence=correspondence)[0], labels)


def test_scar_and_oedema_arrive_as_myocardium() -> None:
    source = scan((2, 4, 5), (10.0, 2.0, 1.5), labels=by_slice([SCAR, EDEMA]))
    assert values_by_slice(pseudo_labels(source, replace(source, id="s_lge"))) == [MYO, MYO]


def test_half_a_source_slice_away_is_near_and_any_more_is_unknown() -> None:
    source = scan((2, 4, 5), (10.0, 2.0, 1.5), labels=by_slice([LV, RV]))  # at 0 and 10 mm

    def at(z_mm: float) -> int:
        target = scan((2, 4, 5), (4.0, 2.0, 1.5), first_mm=(z_mm, 0, 0), name="s_lge")
        turn = somewhere(5)  # rounding errors of an oblique affine must not decide
        return values_by_slice(pseudo_labels(moved(source, turn), moved(target, turn)))[0]

    assert at(-5.0) == LV
    assert at(4.9) == LV
    assert at(5.1) == RV
    up = scan((2, 4, 5), (-4.0, 2.0, 1.5), first_mm=(15.0, 0, 0), name="s_lge")
    assert values_by_slice(pseudo_labels(source, up)) == [RV, RV]  # 15 and 11 mm
    beyond = scan((3, 4, 5), (10.2, 2.0, 1.5), first_mm=(-5.1, 0, 0), name="s_lge")
    assert values_by_slice(pseudo_labels(source, beyond)) == [UNKNOWN, RV, UNKNOWN]  # -5.1, 5.1, 15.3 mm


def test_the_targets_own_spacing_does_not_widen_what_the_source_has_seen() -> None:
    source = scan((2, 4, 5), (6.0, 2.0, 1.5), labels=by_slice([LV, RV]))
    target = scan((3, 4, 5), (20.0, 2.0, 1.5), first_mm=(-16.0, 0, 0), name="s_lge")  # -16, 4, 24 mm
    assert values_by_slice(pseudo_labels(source, target)) == [UNKNOWN, RV, UNKNOWN]


def test_unlabelled_source_slices_arrive_as_unknown() -> None:
    source = scan((3, 4, 5), (10.0, 2.0, 1.5), labels=by_slice([UNKNOWN, LV, UNKNOWN]))
    target = scan((3, 4, 5), (10.0, 2.0, 1.5), first_mm=(1.0, 0, 0), name="s_lge")
    assert values_by_slice(pseudo_labels(source, target)) == [UNKNOWN, LV, UNKNOWN]


def test_in_plane_a_label_keeps_its_millimetres() -> None:
    labels = np.zeros((1, 10, 12), np.uint8)
    labels[0, 2:5, 4:8] = LV  # rows 4 to 10 mm of pixels' edges (2 mm), columns 12 to 24 mm (3 mm)
    source = scan((1, 10, 12), (8.0, 2.0, 3.0), first_mm=(0, 1.0, 1.5), labels=labels)
    target = scan((1, 40, 60), (8.0, 0.5, 0.6), first_mm=(0, 0.25, 0.3), name="s_lge")
    found = pseudo_labels(source, target)[0, 0] == LV
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    assert (rows[0] * 0.5, (rows[-1] + 1) * 0.5) == (4.0, 10.0)
    assert (columns[0] * 0.6, (columns[-1] + 1) * 0.6) == pytest.approx((12.0, 24.0))


def test_outside_the_sources_field_nobody_looked() -> None:
    source = scan((1, 4, 4), (8.0, 2.0, 2.0), labels=np.full((1, 4, 4), LV, np.uint8))  # edges at -1 and 7 mm
    target = scan((1, 6, 6), (8.0, 2.0, 2.0), first_mm=(0, -2.0, -4.0), name="s_lge")
    found = pseudo_labels(source, target)[0, 0]
    assert (found[1:5, 2:6] == LV).all()
    assert (found == UNKNOWN).sum() == 36 - 16


def test_where_the_scanner_stood_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    source = scan((4, 12, 10), (9.0, 2.0, 1.3), labels=rng.choice([0, 1, 2, 3], (4, 12, 10)).astype(np.uint8))
    target = scan((7, 20, 16), (5.3, 1.1, 0.9), first_mm=(1.0, 2.2, 0.7), name="s_lge")
    for correspondence in ("index", "physical"):
        upright = pseudo_labels(source, target, correspondence=correspondence)
        oblique = pseudo_labels(
            moved(source, somewhere(7)), moved(target, somewhere(7)), correspondence=correspondence
        )
        np.testing.assert_array_equal(oblique, upright)


def test_a_scan_stored_the_other_way_round_gets_the_same_mask_the_other_way_round() -> None:
    rng = np.random.default_rng(4)
    source = scan((4, 12, 10), (9.0, 2.0, 1.3), labels=rng.choice([0, 1, 2, 3], (4, 12, 10)).astype(np.uint8))
    target = scan((7, 20, 16), (5.3, 1.1, 0.9), first_mm=(1.0, 2.2, 0.7), name="s_lge")
    straight = pseudo_labels(source, target)
    z, y, x = target.image.shape[1:]
    for axis, (column, n) in enumerate([(2, z), (1, y), (0, x)], start=1):
        flip = np.eye(4)
        flip[column, column], flip[column, 3] = -1, n - 1
        found = pseudo_labels(source, replace(target, affine=target.affine @ flip))
        np.testing.assert_array_equal(np.flip(found, axis), straight)


def test_stacks_at_any_angle_agree_with_a_slow_second_way() -> None:
    """Voxel by voxel: the nearest slice by distance to its plane, then bilinear shares of the four pixels."""
    rng = np.random.default_rng(5)
    source = moved(
        scan((4, 9, 8), (6.0, 2.0, 1.5), labels=rng.choice([0, 1, 2, 3], (4, 9, 8)).astype(np.uint8)),
        somewhere(2),
    )
    tilt = np.eye(4)
    tilt[:3, :3] = Rotation.from_euler("xyz", [25, -40, 60], degrees=True).as_matrix()
    tilt[:3, 3] = source.affine[:3, :3] @ [3.5, 4, 1.5] + source.affine[:3, 3]
    target = replace(scan((3, 8, 9), (5.0, 1.7, 1.2), name="s_lge"))
    tilt[:3, 3] -= tilt[:3, :3] @ target.affine[:3, :3] @ [4, 3.5, 1]
    target = moved(target, tilt)
    found = pseudo_labels(source, target)[0]
    assert {0, 1, 2, 3, UNKNOWN} == set(np.unique(found).tolist())
    for place in np.ndindex(*found.shape):
        assert found[place] == slowly(source, target.affine @ [*place[::-1], 1.0]), place


def tilted(case: Case, degrees: float) -> Case:
    """The case turned about the x axis through the middle of its slices."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("x", degrees, degrees=True).as_matrix()
    middle = case.affine @ [*(np.array(case.image.shape[:0:-1]) - 1) / 2, 1.0]
    turn[:3, 3] = middle[:3] - turn[:3, :3] @ middle[:3]
    return moved(case, turn)


def test_stacks_cut_nearly_alike_match_whole_slices_and_others_voxels() -> None:
    """A slice halfway between two of the source: tilted, one side of it is nearer to the one, one to the other."""
    source = scan((4, 20, 6), (10.0, 4.0, 4.0), labels=by_slice([LV, LV, RV, RV], 20, 6))
    target = scan((3, 20, 6), (10.0, 4.0, 4.0), first_mm=(5.5, 0, 0), name="s_lge")
    assert values_by_slice(pseudo_labels(source, tilted(target, 5)))[1] == RV
    found = pseudo_labels(source, tilted(target, 12))[0, 1]
    assert set(np.unique(found).tolist()) == {LV, RV}
    assert len(np.unique(found[0])) == 1, "the seam runs along the axis of the turn"


def slowly(source: Case, point: NDArray[np.float64]) -> int:
    assert source.labels is not None
    axes, origin = source.affine[:3, :3], source.affine[:3, 3]
    directions = axes / np.linalg.norm(axes, axis=0)
    distances = [abs((point[:3] - origin - k * axes[:, 2]) @ directions[:, 2]) for k in range(4)]
    if min(distances) > 3.0:  # half of 6 mm
        return UNKNOWN
    x, y = (point[:3] - origin) @ directions[:, :2] / [1.5, 2.0]
    if not (-0.5 <= x <= 7.5 and -0.5 <= y <= 8.5):
        return UNKNOWN
    shares = np.zeros(4)
    for i in range(9):
        for j in range(8):
            weight = max(0, 1 - abs(min(max(y, 0), 8) - i)) * max(0, 1 - abs(min(max(x, 0), 7) - j))
            shares[source.labels[0, int(np.argmin(distances)), i, j]] += weight
    return int(shares.argmax())


def test_of_several_frames_the_first_labelled_or_the_wanted_one_is_taken() -> None:
    still = scan((2, 4, 5), (10.0, 2.0, 1.5))
    labels = np.full((3, 2, 4, 5), UNKNOWN, np.uint8)
    labels[1], labels[2] = LV, RV
    drawn = (frozenset[Structure](), frozenset({LV, MYO}), frozenset({LV, MYO, RV}))
    cine = replace(still, image=np.zeros((3, 2, 4, 5), np.float32), labels=labels, drawn=drawn)
    target = replace(still, id="s_lge")
    assert values_by_slice(pseudo_labels(cine, target)) == [LV, LV]
    assert values_by_slice(pseudo_labels(cine, target, frame=2)) == [RV, RV]
    assert pseudo_case(cine, target).drawn == (frozenset({LV, MYO}),)
    with pytest.raises(CaseError, match=r"'s_bssfp': frame 0 has no labels.*labelled are \[1, 2\]"):
        pseudo_labels(cine, target, frame=0)
    many = replace(target, image=np.zeros((2, 2, 4, 5), np.float32), drawn=())
    found = pseudo_labels(cine, many, target_frame=1)
    assert (found[0] == UNKNOWN).all()
    assert (found[1] == LV).all()


def test_the_targets_own_labels_are_never_read() -> None:
    source = scan((2, 4, 5), (10.0, 2.0, 1.5), labels=by_slice([LV, MYO]))
    secret = scan((2, 4, 5), (10.0, 2.0, 1.5), labels=by_slice([RV, RV]), name="s_lge")
    assert values_by_slice(pseudo_labels(source, secret)) == [LV, MYO]
    assert values_by_slice(np.asarray(pseudo_case(source, secret).labels)) == [LV, MYO]


def test_a_target_with_pseudo_labels_trains_like_any_other_scan() -> None:
    source = scan((2, 20, 20), (10.0, 2.0, 1.5), labels=by_slice([LV, MYO], 20, 20))
    source = replace(source, drawn=(frozenset({LV, MYO}),))
    target = scan((4, 20, 20), (6.0, 2.0, 1.5), name="s_lge")  # 0, 6, 12, 18 mm: the last lies beyond 15
    cohort = Cohort((Row("s", "s_lge", "lge", "-"),), lambda row: pseudo_case(source, target))
    bank = build_bank(cohort, Preparation(size=16, spacing_mm=2.0), annotated_only=True)
    assert [s.z for s in bank.table] == [0, 1, 2]
    assert bank.drawn.tolist() == [[True, True, True, False]] * 3


def test_fusing_keeps_what_sources_agree_on() -> None:
    first = np.array([1, 1, 1, UNKNOWN, 0], np.uint8).reshape(1, 1, 1, 5)
    second = np.array([1, 2, UNKNOWN, UNKNOWN, 0], np.uint8).reshape(1, 1, 1, 5)
    third = np.array([2, 2, 3, UNKNOWN, 0], np.uint8).reshape(1, 1, 1, 5)
    assert fuse_labels([first, second], "majority").ravel().tolist() == [1, UNKNOWN, 1, UNKNOWN, 0]
    assert fuse_labels([first, second], "intersection").ravel().tolist() == [1, UNKNOWN, UNKNOWN, UNKNOWN, 0]
    assert fuse_labels([first, second, third], "majority").ravel().tolist() == [1, 2, UNKNOWN, UNKNOWN, 0]
    with pytest.raises(ValueError, match="of one shape"):
        fuse_labels([first, second[..., :3]], "majority")


def test_scans_are_paired_by_subject_and_bssfp_and_t2_both_count() -> None:
    def row(subject: str, sequence: str, labels: str = "-") -> Row:
        return Row(subject, f"{subject}_{sequence}", sequence, "-", labels=labels)

    sources = Cohort((row("a", "bssfp"), row("a", "t2"), row("b", "bssfp", labels=""), row("c", "t2")))
    targets = Cohort((row("c", "lge"), row("a", "lge"), row("b", "lge")), name="mine")
    pairs = [(s.scan, t.scan) for s, t in pair_scans(sources, targets)]
    assert pairs == [("c_t2", "c_lge"), ("a_bssfp", "a_lge"), ("a_t2", "a_lge")]
    with pytest.raises(CohortError, match=r"mine: none of 1 subjects .* labelled source scan .*same subject"):
        pair_scans(sources, targets.where(subject="b"))


def test_what_cannot_be_carried_is_refused() -> None:
    source = scan((2, 4, 5), (10.0, 2.0, 1.5), labels=by_slice([LV, MYO]))
    target = scan((2, 4, 5), (10.0, 2.0, 1.5), name="s_lge")
    with pytest.raises(CaseError, match="'s_lge': is of subject 'other', and 's_bssfp' of 's'"):
        pseudo_labels(source, replace(target, subject="other"))
    with pytest.raises(CaseError, match="'s_bssfp': has no labels to carry"):
        pseudo_labels(replace(source, labels=None, drawn=()), target)
    with pytest.raises(CaseError, match="'s_bssfp': nothing of the heart is labelled"):
        pseudo_labels(replace(source, labels=np.zeros_like(source.image, np.uint8)), target)
    far = scan((2, 4, 5), (10.0, 2.0, 1.5), first_mm=(90.0, 0, 0), name="s_lge")
    with pytest.raises(
        CaseError, match=r"that scan lies from 0 to 10 mm and this one from 90 to 100 mm.*'index'"
    ):
        pseudo_labels(source, far)
    across = replace(target, affine=target.affine[[2, 0, 1, 3]] @ np.diag([1.0, 1, 1, 1]))
    for correspondence in ("index", "registered"):
        with pytest.raises(CaseError, match=r"is cut at 90 degrees to 's_bssfp'.*take 'physical'"):
            pseudo_labels(source, across, correspondence=correspondence)


def breathing(case: Case, shifts_px: list[tuple[int, int]], name: str) -> Case:
    """The case as if the patient lay elsewhere in each slice."""
    assert case.labels is not None
    image, labels = case.image.copy(), case.labels.copy()
    for z, shift in enumerate(shifts_px):
        image[:, z] = np.roll(case.image[:, z], shift, (1, 2))
        labels[:, z] = np.roll(case.labels[:, z], shift, (1, 2))
    return replace(case, id=name, image=image, labels=labels)


def overlap(found: NDArray[np.uint8], truth: NDArray[np.uint8], structure: Structure) -> float:
    a, b = found == structure, truth == structure
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.slow
def test_registered_masks_follow_the_breath(hearts: Callable[..., Cohort]) -> None:
    cohort = hearts(bssfp=1, lge=0)
    source = cohort.read(cohort.rows[0])
    still = cohort.read(replace(cohort.rows[0], scan="s0_lge", sequence="lge"))
    target = breathing(still, [(2, -1), (0, 0), (-1, 3)], "s0_lge")  # up to 6 mm
    assert target.labels is not None
    physical = pseudo_labels(source, target)
    registered = pseudo_labels(source, target, correspondence="registered")
    for structure in (LV, MYO, RV):
        before, after = (overlap(m, target.labels, structure) for m in (physical, registered))
        assert after > max(0.9, before + 0.05), structure


@pytest.mark.slow
def test_registered_equals_physical_where_the_image_tells_nothing(hearts: Callable[..., Cohort]) -> None:
    cohort = hearts(bssfp=1, lge=0)
    source = cohort.read(cohort.rows[0])
    blank = replace(source, id="s0_lge", image=np.zeros_like(source.image), labels=None, drawn=())
    shifted = blank.affine.copy()
    shifted[:3, 3] += [3.0, -2.0, 1.0]
    blank = replace(blank, affine=shifted)
    physical = pseudo_labels(source, blank)
    np.testing.assert_array_equal(pseudo_labels(source, blank, correspondence="registered"), physical)
