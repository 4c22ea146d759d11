"""Every layout: a tiny tree as published → rows → csv → cases with the right anatomy, nothing lost in silence."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import trees

from crossbeat import data
from crossbeat.cohort import Cohort, read_cohort, write_cohort
from crossbeat.errors import FileError, SettingsError
from crossbeat.labels import CONVENTIONS, UNKNOWN, Structure, surrounded_fraction

LV, MYO, RV, SCAR, EDEMA = Structure.LV, Structure.MYO, Structure.RV, Structure.SCAR, Structure.EDEMA
OPTIONS = {
    "files": {"images": "{subject}/*.nii.gz", "labels": "{subject}/{stem}_mask.nii.gz", "sequence": "t2"}
}
REAL = Path(os.environ.get("CROSSBEAT_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the scans are not in {REAL}; set CROSSBEAT_DATA")


def indexed(layout: str, tmp_path: Path) -> tuple[Cohort, tuple[str, ...]]:
    """A tiny tree of the layout, indexed, written as csv and read again."""
    root = tmp_path / ("Dataset027_ACDC" if layout == "nnunet" else "download")
    root.mkdir()
    trees.LAYOUTS[layout](root)
    cohort, remarks = data.index(layout, root, tmp_path / "out", **OPTIONS.get(layout, {}))
    write_cohort(cohort, tmp_path / "out" / "cohort.csv")
    again = read_cohort(tmp_path / "out" / "cohort.csv", data.reader)
    assert again.rows == cohort.rows
    return again, remarks


@pytest.fixture(params=sorted(data.LAYOUTS))
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_layout_states_licence_source_and_a_known_convention(layout: str) -> None:
    facts = data.LAYOUTS[layout]
    assert facts.name == layout
    assert all((facts.title, facts.licence, facts.source))
    assert facts.convention in {"", *CONVENTIONS}


@pytest.mark.slow
def test_every_row_reads_and_shows_a_heart(layout: str, tmp_path: Path) -> None:
    cohort, _ = indexed(layout, tmp_path)
    labelled = 0
    for row in cohort:
        case = cohort.read(row)
        assert (case.id, case.subject) == (row.scan, row.subject)
        for t in case.labelled_frames:
            assert case.labels is not None
            inside = case.labels[t][(case.labels[t] != UNKNOWN).any(axis=(1, 2))]
            assert (inside == LV).any()
            if MYO in case.drawn[t]:
                assert surrounded_fraction(inside, LV) == 1.0
                labelled += 1
    assert labelled or layout == "dicom"


def test_check_finds_no_fault_in_a_whole_download(layout: str, tmp_path: Path) -> None:
    cohort, _ = indexed(layout, tmp_path)
    problems = data.check(cohort, tmp_path / "out")
    assert [str(p) for p in problems if p.severity != "note"] == []


def test_a_folder_of_something_else_is_refused(layout: str, tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "beach.txt").write_text("sun")
    with pytest.raises(FileError, match=r"holds no|no NIfTI|holds nothing"):
        data.index(layout, tmp_path / "holiday", tmp_path)


def test_acdc_frames_count_from_zero_and_single_frames_stand_for_the_cine(tmp_path: Path) -> None:
    cohort, remarks = indexed("acdc", tmp_path)
    cine, frames = cohort.row("patient001"), cohort.row("patient101")
    assert (cine.ed_frame, cine.es_frame, cine.group, cine.split) == (0, 2, "DCM", "train")
    assert (frames.ed_frame, frames.es_frame, frames.group, frames.split) == (0, 1, "NOR", "test")
    assert cine.further == {"height_cm": "184.0", "weight_kg": "95.0"}
    case = cohort.read(cine)
    assert case.labelled_frames == [0, 2]
    assert case.labels is not None
    assert (case.labels[1] == UNKNOWN).all()
    assert (case.labels[2] == LV).sum() < (case.labels[0] == LV).sum()
    assert cohort.read(frames).image.shape == (2, 4, 22, 24)
    assert remarks == ()


def test_acdc_copies_with_a_stand_in_spacing_are_marked_by_name(tmp_path: Path) -> None:
    trees.acdc(tmp_path / "download")
    cfg = tmp_path / "download" / "training" / "patient001" / "Info.cfg"
    cfg.write_text("ED: 1\nES: 3\nGroup: DCM\nNbFrame: 3\n")
    _, remarks = data.index("acdc", tmp_path / "download", tmp_path)
    assert any("1 patients (patient001 …): Info.cfg lacks Height" in r for r in remarks)
    cohort, remarks = data.index("acdc", tmp_path / "download", tmp_path, nominal_spacing="1.3x1.5x8")
    assert [r.spacing_source for r in cohort] == ["nominal", "nominal"]
    assert any("2 of 2 scans have the stand-in spacing" in r for r in remarks)
    cohort, _ = data.index("acdc", tmp_path / "download", tmp_path, nominal_spacing="1.5x1.5x10")
    assert [r.spacing_source for r in cohort] == ["header", "header"]
    with pytest.raises(SettingsError, match="write x, y and z in mm"):
        data.index("acdc", tmp_path / "download", tmp_path, nominal_spacing="1.5")


def test_acdc_info_without_frames_is_refused(tmp_path: Path) -> None:
    trees.acdc(tmp_path)
    (tmp_path / "training" / "patient001" / "Info.cfg").write_text("ED: one\n")
    with pytest.raises(FileError, match=r"Info\.cfg: ED is 'one'; it must be a frame number from 1"):
        data.index("acdc", tmp_path, tmp_path)


def test_mnms_uses_its_table_and_never_the_labels_in_unlabeled(tmp_path: Path) -> None:
    cohort, _ = indexed("mnms", tmp_path)
    by_code = {row.scan: row for row in cohort}
    assert {c: r.split for c, r in by_code.items()} == {
        "A0S9V9": "train",
        "B1C2D3": "train",
        "G7H8I9": "test",
    }
    assert by_code["B1C2D3"].labels == ""
    row = by_code["A0S9V9"]
    assert (row.vendor, row.centre, row.group, row.ed_frame, row.es_frame) == ("Siemens", "1", "HCM", 0, 2)
    assert row.further["vendor_letter"] == "A"
    case = cohort.read(row)
    assert case.labelled_frames == [0, 2]
    assert case.labels is not None
    assert (case.labels[1] == UNKNOWN).all()


def test_mnms_lists_what_the_table_and_the_folders_do_not_share(tmp_path: Path) -> None:
    trees.mnms(tmp_path)
    trees.save(tmp_path / "Testing" / "ZZZ" / "ZZZ_sa.nii.gz", trees.grey(trees.heart(), 1))
    table = next(tmp_path.glob("*.csv"))
    table.write_text(table.read_text() + "9,Q0Q0Q0,GE,C,4,0,1,1,NOR,F,1,1\n")
    _, remarks = data.index("mnms", tmp_path, tmp_path)
    assert any("ZZZ is not in the csv" in r for r in remarks)
    assert any("Q0Q0Q0: in the csv, but no Q0Q0Q0_sa.nii.gz" in r for r in remarks)
    table.unlink()
    with pytest.raises(FileError, match="no csv with a column 'External code'"):
        data.index("mnms", tmp_path, tmp_path)


def test_mscmrseg_tests_on_lge_and_lists_strays(tmp_path: Path) -> None:
    trees.mscmrseg(tmp_path)
    trees.save(tmp_path / "notes.nii.gz", trees.heart())
    cohort, remarks = data.index("mscmrseg", tmp_path, tmp_path)
    assert {r.scan: (r.sequence, r.split, bool(r.labels)) for r in cohort} == {
        "patient1_C0": ("bssfp", "train", True),
        "patient1_T2": ("t2", "train", True),
        "patient1_LGE": ("lge", "validation", True),
        "patient6_C0": ("bssfp", "train", True),
        "patient6_T2": ("t2", "train", True),
        "patient6_LGE": ("lge", "test", False),
    }
    assert remarks == ("notes.nii.gz: matches nothing, left out",)


def test_myops_shares_one_label_file_with_its_lesions(tmp_path: Path) -> None:
    cohort, _ = indexed("myops", tmp_path)
    assert {r.sequence for r in cohort.where(split="train")} == {"bssfp", "lge", "t2"}
    assert len({r.labels for r in cohort.where(split="train")}) == 1
    assert not any(r.labels for r in cohort.where(split="test"))
    labels = cohort.read(cohort.where(split="train", sequence="lge").rows[0]).labels
    assert labels is not None
    assert {*np.unique(labels).tolist()} == {0, LV, MYO, RV, SCAR, EDEMA}


def test_emidec_knows_groups_and_that_nobody_drew_the_rv(tmp_path: Path) -> None:
    cohort, _ = indexed("emidec", tmp_path)
    assert {r.scan: (r.group, r.split) for r in cohort} == {
        "Case_020": ("", "test"),
        "Case_N006": ("normal", "train"),
        "Case_P012": ("infarct", "train"),
    }
    case = cohort.read(cohort.row("Case_P012"))
    assert case.drawn[0] == {LV, MYO, SCAR}
    assert case.labels is not None
    assert (case.labels == SCAR).sum() > 0


def test_files_takes_columns_from_the_pattern_and_lists_the_rest(tmp_path: Path) -> None:
    trees.files(tmp_path)
    trees.save(tmp_path / "stray.nii.gz", trees.heart())
    cohort, remarks = data.index("files", tmp_path, tmp_path, **OPTIONS["files"])
    assert [(r.subject, r.scan, r.sequence, bool(r.labels)) for r in cohort] == [
        ("anna", "anna_sax", "t2", True),
        ("bert", "bert_sax", "t2", False),
    ]
    assert remarks == (
        "bert/sax.nii.gz: no labels, bert/sax_mask.nii.gz is not there",
        "stray.nii.gz: matches nothing, left out",
    )


def test_files_refuses_bad_patterns_in_words(tmp_path: Path) -> None:
    trees.files(tmp_path)
    with pytest.raises(
        FileError, match=r"no NIfTI file matches the image pattern '\*\.nii'; 3 files are there"
    ):
        data.index("files", tmp_path, tmp_path, images="*.nii")
    with pytest.raises(FileError, match="would both be scan 'sax'"):
        data.index("files", tmp_path, tmp_path, images="*/sax.nii.gz")
    with pytest.raises(
        SettingsError, match=r"label pattern .* is not known; use \{subject\}, \{stem\}, \{parent\}"
    ):
        data.index("files", tmp_path, tmp_path, images="{subject}/sax.nii.gz", labels="{who}.nii.gz")
    with pytest.raises(SettingsError, match=r"\{ed_frame\} is no column"):
        data.index("files", tmp_path, tmp_path, images="{ed_frame}/sax.nii.gz")


def test_files_without_a_pattern_are_listed_with_an_example_that_works(tmp_path: Path) -> None:
    trees.files(tmp_path / "by_patient")
    for n in range(3):
        trees.save(tmp_path / "by_kind" / "images" / f"p{n}.nii.gz", trees.grey(trees.heart(), n))
        trees.save(tmp_path / "by_kind" / "labels" / f"p{n}.nii.gz", trees.heart())
    for name, shown, scans in (
        ("by_patient", "3 NIfTI files are there (anna/sax.nii.gz, anna/sax_mask.nii.gz, bert/sax.nii.gz)", 2),
        ("by_kind", "6 NIfTI files are there (images/p0.nii.gz, images/p1.nii.gz, images/p2.nii.gz, lab", 3),
    ):
        root = tmp_path / name
        with pytest.raises(SettingsError, match="needs --images, lest masks be taken for scans") as refused:
            data.index("files", root, root)
        assert shown in str(refused.value)
        example = str(refused.value).partition("--images '")[2].partition("'")[0]
        assert len(data.index("files", root, root, images=example)[0]) == scans


def test_the_example_has_the_suffix_that_the_files_have(tmp_path: Path) -> None:
    for n in range(3):
        trees.save(tmp_path / "images" / f"p{n}.nii", trees.grey(trees.heart(), n))
        trees.save(tmp_path / "labels" / f"p{n}.nii", trees.heart())
    with pytest.raises(SettingsError, match=r"--images 'images/\*\.nii'.*--labels '\{parent\}/seg\.nii'"):
        data.index("files", tmp_path, tmp_path)
    assert len(data.index("files", tmp_path, tmp_path, images="images/*.nii")[0]) == 3


def test_for_one_flat_folder_the_example_takes_no_mask(tmp_path: Path) -> None:
    for n in range(2):
        trees.save(tmp_path / "deep" / f"p{n}.nii", trees.grey(trees.heart(), n))
        trees.save(tmp_path / "deep" / f"p{n}_gt.nii", trees.heart())
    with pytest.raises(
        SettingsError, match=r"'\*\.nii' would take masks too: name what only scans have"
    ) as refused:
        data.index("files", tmp_path, tmp_path)
    assert "--images 'deep/{subject}_image.nii'" in str(refused.value)
    assert "--labels 'deep/{subject}_mask.nii'" in str(refused.value)


@pytest.mark.parametrize("layout", sorted(data.LAYOUTS))
def test_every_layout_names_a_folder_that_is_not_there(layout: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="nowhere: there is no such folder"):
        data.index(layout, tmp_path / "nowhere", tmp_path)


def test_unknown_layouts_and_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="layout 'acdcc' does not exist; did you mean 'acdc'"):
        data.index("acdcc", tmp_path, tmp_path)
    with pytest.raises(SettingsError, match="layout 'acdc' has no option 'images'; it takes none"):
        data.index("acdc", tmp_path, tmp_path, images="*")


def test_a_name_that_would_break_the_csv_is_refused(tmp_path: Path) -> None:
    trees.save(tmp_path / "a;b.nii.gz", trees.heart())
    with pytest.raises(FileError, match=r"which separate files in a cohort\.csv; rename it"):
        data.index("files", tmp_path, tmp_path, images="*")


@real
@pytest.mark.real
def test_real_acdc_has_its_lv_inside_the_myocardium_and_39_nominal_spacings(tmp_path: Path) -> None:
    cohort, _ = data.index("acdc", REAL / "acdc", tmp_path, nominal_spacing="1.5x1.5x10")
    assert len(cohort) == 41
    true = {r.scan for r in cohort if r.spacing_source == "header"}
    assert true == {"patient001", "patient101"}
    for row in [r for r in cohort if r.scan.endswith("1") and r.scan != "patient101"]:
        case = cohort.read(row)
        assert case.labels is not None
        assert case.labelled_frames == [0, 1]
        assert all(surrounded_fraction(case.labels[t], LV) > 0.98 for t in (0, 1))
        rv_x, lv_x = (np.argwhere(case.labels[0] == s)[:, 2].mean() for s in (RV, LV))
        assert rv_x < lv_x


@real
@pytest.mark.real
def test_real_scd_becomes_cine_with_walls_at_ed_and_the_cavity_at_es(tmp_path: Path) -> None:
    cohort, remarks = data.index("scd", REAL / "scd", tmp_path)
    assert remarks == ()
    assert [(r.ed_frame, r.es_frame, r.structures) for r in cohort] == [
        (18, 7, "7=LV;18=LV,MYO"),
        (19, 6, "6=LV;19=LV,MYO"),
    ]
    case = cohort.read(cohort.row("SC-HF-I-1"))
    assert case.image.shape == (20, 12, 256, 256)
    assert case.spacing_mm == pytest.approx((10.0, 1.367, 1.367), abs=1e-2)
    assert case.labels is not None
    drawn = case.labels[18][(case.labels[18] != UNKNOWN).any(axis=(1, 2))]
    assert len(drawn) == 9
    assert surrounded_fraction(drawn, LV) > 0.98
    # the data's own page: EDV 245 ± 86 ml, ESV 174 ± 91 ml in heart failure with infarction
    millilitres = (case.labels == LV).sum(axis=(1, 2, 3)) * np.prod(case.spacing_mm) / 1000
    assert 150 < millilitres[18] < 350
    assert 60 < millilitres[7] < millilitres[18]
