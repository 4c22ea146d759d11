"""Phantom scans as files: geometry, contrast, determinism and refusals."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from crossbeat import geometry
from crossbeat.cohort import read_cohort
from crossbeat.data.nifti import write_volume
from crossbeat.errors import SettingsError
from crossbeat.labels import Structure, looks_swapped
from crossbeat.synthetic import GROUPS, PHANTOM_VERSION, Heart, make_cohort
from crossbeat.synthetic.cohort import Scan, draw_subject, scan_heart, scan_slice
from crossbeat.synthetic.imaging import draw_lattice, draw_session
from crossbeat.synthetic.planning import plan_stack
from crossbeat.synthetic.sampling import Slice
from crossbeat.synthetic.scanners import SCANNERS

LV, MYO, RV, SCAR = Structure.LV, Structure.MYO, Structure.RV, Structure.SCAR


@cache
def subject(index: int, group: str) -> Heart:
    return draw_subject(1, index, group)


@pytest.fixture(scope="module")
def scans() -> dict[str, Scan]:
    heart = draw_subject(0, 3, "MINF")
    return {s: scan_heart(heart, s, "d", subject=3) for s in ("bssfp", "t2", "lge")}


@pytest.mark.slow
def test_sequences_differ_in_grid_as_in_ms_cmrseg(scans: dict[str, Scan]) -> None:
    a = SCANNERS["a"].protocols
    assert [a[s].pixel_mm for s in ("bssfp", "t2", "lge")] == [1.25, 1.35, 0.75]
    for sequence, scan in scans.items():
        protocol = SCANNERS["d"].protocols[sequence]
        spacing = geometry.spacing_mm(scan.affine)
        assert spacing[1:] == pytest.approx((protocol.pixel_mm, protocol.pixel_mm))
        assert protocol.spacing_mm[0] <= spacing[0] <= protocol.spacing_mm[1] + 2
        assert scan.image.shape[2:] == protocol.matrix
    slices = {s: scan.image.shape[1] for s, scan in scans.items()}
    assert slices["t2"] < slices["bssfp"] <= slices["lge"]


@pytest.mark.slow
def test_stacks_run_from_apex_to_base_as_the_readers_turn_them(scans: dict[str, Scan]) -> None:
    for scan in scans.values():
        shape = scan.image.shape[:0:-1]
        turn = geometry.find_turn(scan.affine, (shape[0], shape[1], shape[2]))
        assert turn.axes[0] == 2
        assert not turn.flips[0]
        assert geometry.orthogonality_error(scan.affine) < 1e-9
        assert np.linalg.det(scan.affine[:3, :3]) > 0
        area = (scan.labels[0] > 0).sum(axis=(1, 2))
        assert area[: len(area) // 2].sum() < area[len(area) // 2 :].sum()


@pytest.mark.slow
@pytest.mark.parametrize("vendor", SCANNERS)
@pytest.mark.parametrize("group", GROUPS)
def test_the_cine_stack_covers_both_ventricles_from_base_to_apex(vendor: str, group: str) -> None:
    """RV outflow 12 mm above the mitral plane, and the apex, lie within the slices, gaps counted."""
    lattice = np.zeros((48, 48, 48), np.float32)
    for index in range(4):
        heart, rng = subject(index, group), np.random.default_rng(index)
        session = draw_session(rng, heart, SCANNERS[vendor], "bssfp", lattice)
        cuts, affine = plan_stack(rng, session)
        half = np.linalg.norm(affine[:3, 2]) / 2
        heights = []
        for cut in cuts:  # where the long axis meets the slice
            along = (cut.origin_mm - heart.base_mm) @ cut.normal / (heart.axes_matrix[2] @ cut.normal)
            heights.append(float(along))
        assert heights[-1] - half < -12
        assert heights[0] + half > heart.shape.length_mm - 1
        assert 9 <= len(cuts) <= 12


@pytest.mark.slow
def test_sequences_share_the_patient(scans: dict[str, Scan]) -> None:
    """Diastolic bSSFP labels carried into LGE through the affines lie over the LGE's own."""
    source, target = scans["bssfp"], scans["lge"]
    index = np.stack(np.meshgrid(*map(np.arange, target.labels.shape[1:]), indexing="ij"), axis=-1).astype(
        float
    )
    at = geometry.mm_to_voxel(source.affine, geometry.voxel_to_mm(target.affine, index))
    carried = ndimage.map_coordinates(source.labels[0], np.moveaxis(at, -1, 0), order=0)
    own = target.labels[0]
    for structure, least in ((LV, 0.75), (RV, 0.65)):
        both = ((carried == structure) & (own == structure)).sum()
        assert 2 * both / ((carried == structure).sum() + (own == structure).sum()) > least


@pytest.mark.slow
def test_labels_are_of_the_heart_and_not_swapped(scans: dict[str, Scan]) -> None:
    assert set(np.unique(scans["bssfp"].labels)) == {0, LV, MYO, RV}
    assert set(np.unique(scans["t2"].labels)) == {0, LV, MYO, RV, Structure.EDEMA}
    assert set(np.unique(scans["lge"].labels)) == {0, LV, MYO, RV, SCAR}
    assert not any(looks_swapped(scan.labels) for scan in scans.values())


@pytest.mark.slow
def test_late_enhancement_nulls_myocardium_and_lights_up_the_scar(scans: dict[str, Scan]) -> None:
    lge = scans["lge"]
    inner = {k: ndimage.binary_erosion(lge.labels[0] == k, np.ones((1, 3, 3))) for k in (LV, MYO, SCAR)}
    level = {k: float(np.median(lge.image[0][mask])) for k, mask in inner.items()}
    assert level[MYO] < 0.25 * level[LV]
    assert level[SCAR] > 2.5 * level[MYO]


@pytest.mark.slow
def test_contrast_of_the_bssfp_scan_is_that_of_acdc(scans: dict[str, Scan]) -> None:
    """Mean myocardium over mean LV blood lies between 0.31 and 0.57 in the first patient of each ACDC group."""
    image, labels = scans["bssfp"].image, scans["bssfp"].labels
    ratio = image[labels == MYO].mean() / image[labels == LV].mean()
    assert 0.28 < ratio < 0.57
    assert 0.65 < image[labels == RV].mean() / image[labels == LV].mean() < 1


@pytest.mark.slow
def test_the_volume_of_a_scan_is_the_analytic_one_within_its_grid(scans: dict[str, Scan]) -> None:
    heart, scan = draw_subject(0, 3, "MINF"), scans["bssfp"]
    ml = (scan.labels == LV).sum() * abs(np.linalg.det(scan.affine[:3, :3])) / 1000
    assert ml == pytest.approx(heart.edv_ml, rel=0.12)  # thick slices and breath-holds


@pytest.mark.slow
def test_a_cine_beats() -> None:
    heart = draw_subject(2, 0, "NOR")
    rng = np.random.default_rng(0)
    session = draw_session(rng, heart, SCANNERS["d"], "bssfp", draw_lattice(rng))
    axes = heart.axes_matrix
    right, down = -axes[0] * 1.56, axes[1] * 1.56
    middle = heart.heart_to_mm(np.array([0, 0, 0.5 * heart.shape.length_mm]))
    cut = Slice(middle - (right + down) * 64, right, down, -axes[2], (128, 128), 8.0)
    phases = np.arange(25) / 25
    image, labels = scan_slice(rng, session, cut, phases)
    area = (labels == LV).sum(axis=(1, 2))
    volume = [heart.volumes_ml(float(p)).lv_ml for p in phases]
    assert np.corrcoef(area, volume)[0, 1] > 0.99
    assert area.min() < 0.6 * area[0]
    wall = (labels == MYO).sum(axis=(1, 2))
    assert wall[int(area.argmin())] > 1.05 * wall[0]  # a shorter wall of the same volume is thicker
    still = np.abs(np.diff(image[:, :12, :12], axis=0)).mean()
    moving = np.abs(np.diff(image, axis=0))[:, labels[0] == LV].mean()
    assert moving > 3 * still


@pytest.mark.slow
def test_a_cohort_is_written_and_read_again_and_depends_on_nothing_but_its_seed(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    options: dict[str, Any] = {"sequences": ("t2",), "vendors": ("d", "b"), "write": write_volume, "seed": 5}
    one = make_cohort(
        tmp_path / "one", subjects=6, jobs=1, progress=lambda d, n: heard.append((d, n)), **options
    )
    two = make_cohort(tmp_path / "two", subjects=7, jobs=2, **options)
    assert heard == [(k, 6) for k in range(1, 7)]
    assert len(one) == 6
    assert [r.vendor for r in two.rows] == ["d"] * 5 + ["b"] * 2
    assert [r.group for r in one.rows] == ["NOR", "DCM", "HCM", "MINF", "RV", "NOR"]
    for row, again in zip(one.rows, two.rows, strict=False):
        assert row == again
        for name in (row.image, row.labels):
            first, second = (nib.load(tmp_path / part / name) for part in ("one", "two"))
            np.testing.assert_array_equal(first.get_fdata(), second.get_fdata())
            np.testing.assert_array_equal(first.affine, second.affine)
    assert read_cohort(tmp_path / "one" / "cohort.csv").rows == one.rows
    with (tmp_path / "one" / "truth.csv").open() as text:
        truth = list(csv.DictReader(text))
    assert {line["phantom_version"] for line in truth} == {PHANTOM_VERSION}
    assert float(truth[1]["lv_edv_ml"]) == pytest.approx(draw_subject(5, 1, "DCM").edv_ml, abs=1e-3)


@pytest.mark.slow
def test_seeds_and_subjects_differ() -> None:
    hearts = [draw_subject(0, 0, "NOR"), draw_subject(0, 1, "NOR"), draw_subject(1, 0, "NOR")]
    assert len({h.edv_ml for h in hearts}) == 3
    assert draw_subject(0, 0, "NOR") == hearts[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sequences": ("bsfp",)}, "'bsfp' does not exist; did you mean 'bssfp'"),
        ({"sequences": ()}, "at least one sequence"),
        ({"vendors": ("x",)}, "vendor 'x' does not exist; known are a, b, c, d"),
        ({"vendors": ()}, "at least one vendor"),
        ({"groups": ("NORM",)}, "group 'NORM' does not exist; did you mean 'NOR'"),
        ({"subjects": 0}, "at least one subject"),
    ],
)
def test_impossible_wishes_are_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        make_cohort(tmp_path / "out", write=write_volume, **options)
    assert not (tmp_path / "out").exists()
