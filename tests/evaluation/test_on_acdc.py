"""Expert masks of ACDC patients: indices must put every patient into the group that physicians put them in."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crossbeat.cohort import Cohort
from crossbeat.data.acdc import index_acdc
from crossbeat.data.reading import reader
from crossbeat.evaluation import Measurement, compare_indices, measure_cohort, score_cohort
from crossbeat.metrics import slice_levels

ROOT = Path(__file__).parents[2]
ACDC = Path(os.environ.get("CROSSBEAT_DATA", ROOT.parent / "shared" / "data")) / "acdc" / "training"

pytestmark = [
    pytest.mark.real,
    # patient101 says two things about its spacing; its reader warns, and is tested for it
    pytest.mark.filterwarnings("ignore::crossbeat.errors.GeometryWarning"),
    pytest.mark.skipif(not ACDC.is_dir(), reason=f"no ACDC scans at {ACDC}"),
]


@pytest.fixture(scope="module")
def acdc() -> Cohort:
    rows = index_acdc(ACDC, ACDC).rows
    read = reader(ACDC, {})
    cases = {row.scan: read(row) for row in rows}
    return Cohort(rows, lambda row: cases[row.scan], "acdc")


@pytest.fixture(scope="module")
def measured(acdc: Cohort) -> dict[str, Measurement]:
    return {m.scan: m for m in measure_cohort(acdc, lambda row: acdc.read(row).labels)}


def of_group(acdc: Cohort, measured: dict[str, Measurement], group: str) -> Iterator[Measurement]:
    return (measured[row.scan] for row in acdc.where(group=group))


def test_groups_have_the_ejection_fractions_that_define_them(
    acdc: Cohort, measured: dict[str, Measurement]
) -> None:
    """Bernard 2018: DCM and MINF below 40 %, NOR above 50, HCM normal; one MINF patient has 42 % here.

    A ratio of volumes does not need the true spacing, which these copies lost.
    """
    ef = {
        g: np.array([m.indices.lv_ef_percent for m in of_group(acdc, measured, g)])
        for g in ("DCM", "MINF", "NOR", "HCM")
    }
    assert (ef["DCM"] < 40).all()
    assert np.sort(ef["MINF"])[-2] < 40
    assert (ef["NOR"] > 50).all()
    assert (ef["HCM"] > 49).all()


def test_hypertrophic_walls_are_the_thickest_and_every_wall_thickens_in_systole(
    acdc: Cohort, measured: dict[str, Measurement]
) -> None:
    thick = {
        g: np.median([m.indices.wall_thickness_ed_max_mm for m in of_group(acdc, measured, g)])
        for g in ("HCM", "NOR")
    }
    assert 5 < thick["NOR"] < 12 < 15 < thick["HCM"] < 25
    for m in of_group(acdc, measured, "NOR"):
        assert m.indices.wall_thickness_es_mm > 1.3 * m.indices.wall_thickness_ed_mm


def test_the_volume_curve_finds_the_frames_that_the_experts_named(acdc: Cohort) -> None:
    rows = tuple(replace(row, ed_frame=None, es_frame=None) for row in acdc)
    unnamed = Cohort(rows, acdc.read)
    for m, row in zip(measure_cohort(unnamed, lambda row: acdc.read(row).labels), acdc, strict=True):
        assert (m.indices.ed_frame, m.indices.es_frame) == (row.ed_frame, row.es_frame)


def test_every_heart_has_its_base_at_the_same_end(acdc: Cohort) -> None:
    """All stacks lie the same way on our axes, so the level found from areas must agree between patients."""
    ends = set()
    for case in acdc.cases():
        levels = [level for level in slice_levels(case.labels[0] > 0) if level != "outside"]
        ends.add((levels[0], levels[-1]))
    assert len(ends) == 1


def test_experts_agree_with_themselves_and_a_shift_is_seen(acdc: Cohort) -> None:
    first = Cohort(acdc.rows[:2], acdc.read)
    same = score_cohort(first, lambda row: acdc.read(row).labels)
    assert {s.value for s in same if s.metric == "dice" and s.status == "ok"} == {1.0}
    shifted = score_cohort(first, lambda row: np.roll(acdc.read(row).labels, 2, axis=3), units=("voxel",))
    worst = [s.value for s in shifted if s.metric == "hd" and s.structure == "LV"]
    assert all(1 <= value <= 2 for value in worst)
    pairs = [c for c in compare_indices(first, lambda row: acdc.read(row).labels) if c.index == "lv_mass_g"]
    assert all(c.predicted == c.reference > 50 for c in pairs)
