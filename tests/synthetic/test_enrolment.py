"""Who is in a cohort, which slices of them, and who is held out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossbeat.cli.scans import phantom
from crossbeat.cohort import Cohort, Row, read_cohort
from crossbeat.data import reader
from crossbeat.data.nifti import read_displacement, write_displacement, write_volume
from crossbeat.errors import SettingsError
from crossbeat.labels import Structure
from crossbeat.synthetic import GROUPS, Hearts, made, make_once
from crossbeat.synthetic.cohort import draw_subject
from crossbeat.synthetic.enrolment import SITE, enrol
from crossbeat.synthetic.imaging import draw_lattice, draw_session
from crossbeat.synthetic.planning import middle_of_stack, plan_stack
from crossbeat.synthetic.scanners import SCANNERS

HEARTS = Hearts(95, ["bssfp", "tagged"], ["a", "b", "c"], True, 10, 0, split="dhaene2023", site=50)


def make(folder: Path, hearts: Hearts, **options: Any) -> Cohort:
    make_once(folder, hearts, write=write_volume, remedy="go elsewhere", jobs=1, **options)
    return read_cohort(folder / "cohort.csv", reader)


def unscanned(folder: Path, **asked: Any) -> Cohort:
    """The rows of a cohort that nobody scanned."""
    wanted = {name: asked[name] for name in ("slices", "site")}
    people = enrol(asked["subjects"], asked["sequences"], asked["vendors"], **wanted)
    rows = (
        Row(f"s{i}", f"s{i}_{s}", s, "none", person.vendor, person.centre, person.group, labels="some.nii.gz")
        for i, person in enumerate(people)
        for s in person.sequences
    )
    return Cohort(tuple(rows), folder=folder)


def test_without_a_site_people_are_as_they_were() -> None:
    people = enrol(12, ["bssfp", "tagged"], ["a", "b"], slices=2)
    assert [p.group for p in people] == [*GROUPS, *GROUPS, "NOR", "DCM"]
    assert [p.vendor for p in people] == ["a"] * 5 + ["b"] * 5 + ["a"] * 2
    assert {(p.centre, p.sequences, p.slices) for p in people} == {("phantom", ("bssfp", "tagged"), 2)}


def test_the_site_has_twenty_controls_thirty_patients_and_a_scanner_of_its_own() -> None:
    people = enrol(95, ["bssfp", "tagged"], ["a", "b", "c"], slices=3, site=50)
    boys = [p for p in people if p.centre == SITE]
    assert people[45:] == boys
    assert [[p.group for p in boys].count(g) for g in ("BOY", "DMD")] == [20, 30]
    assert {(p.vendor, p.sequences, p.slices) for p in boys} == {("c", ("bssfp", "tagged"), 1)}
    assert {(p.vendor, p.sequences, p.slices) for p in people[:45]} == {(v, ("bssfp",), 3) for v in "ab"}
    assert {p.group for p in people[:45]} == set(GROUPS)
    assert {p.vendor for p in enrol(10, ["bssfp", "tagged"], ["d"], site=5)} == {"d"}


def test_the_split_of_dhaene_tests_five_and_five_and_hides_the_sites_cine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """methods.md 4.6; the labelled cine is that of others (4.5)."""
    monkeypatch.setattr(made, "make_cohort", unscanned)
    cohort = make(tmp_path, HEARTS)
    tagged = cohort.where(sequence="tagged")
    assert len(tagged) == len(tagged.labelled()) == 50
    for group in ("BOY", "DMD"):
        assert len(tagged.where(split="test", group=group)) == 5
    watched = tagged.where(split="validation")
    assert [len(watched.where(group=group)) for group in ("BOY", "DMD")] == [4, 6]
    cine = cohort.where(sequence="bssfp")
    own = cine.where(centre=SITE)
    assert len(own) == 50
    assert not len(own.labelled())
    assert [row.split for row in own] == [row.split for row in tagged]
    others = cine.where(centre="phantom")
    assert len(others.labelled()) == 45
    assert {row.split for row in others} == {"train"}
    assert not set(others.subjects) & set(tagged.subjects)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"site": 0}, "split dhaene2023 needs a site that tags; say how many .* site: 50 of 95"),
        ({"split": "subjects"}, "a site that tags goes with split dhaene2023, got subjects"),
        ({"site": 95}, "and others beside it, got 95 of 95 subjects"),
        (
            {"cine": False, "sequences": ["bssfp"], "site": 0, "split": "subjects", "fields": True},
            "a still has no motion to write",
        ),
        ({"sequences": ["bssfp"]}, "needs `tagged` among the sequences"),
        ({"sequences": ["tagged"]}, "others need scans too; add bssfp"),
    ],
)
def test_sites_that_cannot_be_are_refused(tmp_path: Path, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        make(tmp_path / "new", replace(HEARTS, **asked))
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sequence", "vendor", "count"), [("bssfp", "a", 1), ("bssfp", "d", 3), ("tagged", "b", 2)]
)
def test_the_middle_of_a_stack_is_its_slices_about_mid_ventricle(
    sequence: str, vendor: str, count: int
) -> None:
    heart, rng = draw_subject(0, 0, "NOR"), np.random.default_rng(4)
    session = draw_session(rng, heart, SCANNERS[vendor], sequence, draw_lattice(rng))
    cuts, affine = plan_stack(rng, session)
    some, moved = middle_of_stack(cuts, affine, heart, count)
    first = next(k for k, cut in enumerate(cuts) if cut is some[0])
    assert [id(cut) for cut in some] == [id(cut) for cut in cuts[first : first + count]]
    np.testing.assert_allclose(moved @ [0, 0, 0, 1], affine @ [0, 0, first, 1])
    np.testing.assert_array_equal(moved[:3, :3], affine[:3, :3])
    along = [
        float((cut.origin_mm - heart.base_mm) @ cut.normal / (heart.axes_matrix[2] @ cut.normal))
        for cut in some
    ]
    half = float(np.linalg.norm(affine[:3, 2])) * (count + 1) / 2
    assert abs(np.mean(along) - 0.45 * heart.shape.length_mm) < half
    for all_of_it in (0, len(cuts), 99):
        assert middle_of_stack(cuts, affine, heart, all_of_it)[0] is cuts


@pytest.mark.slow
def test_one_slice_cines_are_written_with_their_motion_and_read_again(tmp_path: Path) -> None:
    hearts = replace(HEARTS, subjects=3, site=2, vendors=["d"], test=0, frames=3, fields=True, slices=2)
    cohort = make(tmp_path, hearts, write_field=write_displacement)
    assert [(row.scan, row.centre) for row in cohort] == [
        ("phantom001_bssfp", "phantom"),
        *((f"phantom00{k}_{s}", SITE) for k in (2, 3) for s in ("bssfp", "tagged")),
    ]
    assert [cohort.read(row).image.shape[:2] for row in cohort] == [(3, 2)] + [(3, 1)] * 4
    tagged = cohort.read(cohort.row("phantom003_tagged"))
    assert tagged.drawn == (frozenset({Structure.LV, Structure.MYO, Structure.RV}),) * 3
    assert cohort.read(cohort.row("phantom003_bssfp")).labels is None
    for row in cohort:
        field = read_displacement(tmp_path / "fields" / f"{row.scan}.nii.gz")
        case = cohort.read(row)
        assert field.array.shape == (3, 3, *case.image.shape[1:])
        np.testing.assert_allclose(field.affine, case.affine, atol=1e-4)
        assert np.abs(field.array[0]).max() < 1e-3
        assert 3 < np.abs(field.array[1]).max() < 25
    without = make(tmp_path / "without", replace(hearts, fields=False, subjects=3))
    assert not (tmp_path / "without" / "fields").exists()
    np.testing.assert_array_equal(without.read(without.row("phantom003_tagged")).image, tagged.image)


@pytest.mark.slow
def test_the_command_makes_tagged_slices_with_their_motion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phantom(tmp_path, subjects=1, sequences="tagged", vendors="d", slices=1, fields=True, test=0)
    assert "1 scans of 1 subjects" in capsys.readouterr().out
    [row] = read_cohort(tmp_path / "cohort.csv", reader)
    [case] = read_cohort(tmp_path / "cohort.csv", reader).cases()
    assert (row.sequence, row.structures, case.image.shape[:2]) == ("tagged", "LV,MYO,RV", (25, 1))
    assert case.labelled_frames == list(range(25))
    assert read_displacement(tmp_path / "fields" / f"{row.scan}.nii.gz").array.shape[:3] == (25, 3, 1)
