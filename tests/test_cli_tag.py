"""`crossbeat tag` as its function: the paper's tags, tags that fade and move, and what is refused."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from scipy import ndimage

from crossbeat.case import Case, Domain
from crossbeat.cli.tag_pretraining import tag
from crossbeat.cli.tagged import _look
from crossbeat.cohort import Cohort, read_cohort, read_conventions
from crossbeat.data import check, reader
from crossbeat.data.nifti import read_volume, write_displacement, write_volume
from crossbeat.errors import CohortError, RunError, SettingsError
from crossbeat.labels import TRAINED, Structure
from crossbeat.synthetic.tagging import modulation

FRAMES = 4
AFFINE = np.diag([-2.0, -2.5, 8.0, 1.0])
GREY = np.array([40, 250, 90, 240], np.float32)


def heart(frames: int = FRAMES) -> np.ndarray:
    """Labels (t, z, y, x) of a ring around a cavity, beside a crescent; every frame the same."""
    y, x = np.mgrid[:40, :44].astype(float)
    labels = np.zeros((frames, 2, 40, 44), np.uint8)
    labels[..., np.hypot((y - 20) * 2.5, (x - 14) * 2.0) < 20] = Structure.RV
    labels[..., np.hypot((y - 20) * 2.5, (x - 25) * 2.0) < 22] = Structure.MYO
    labels[..., np.hypot((y - 20) * 2.5, (x - 25) * 2.0) < 13] = Structure.LV
    return labels


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """`anna`, all frames labelled; `bert`, in files of a frame each, ED labelled by a convention of his own."""
    folder = tmp_path / "data"
    write_volume(folder / "anna.nii.gz", GREY[heart()], AFFINE, frame_interval_ms=50.0)
    write_volume(folder / "anna_labels.nii.gz", heart(), AFFINE)
    for t in range(FRAMES):
        write_volume(folder / f"bert_{t}.nii.gz", GREY[heart()[t : t + 1]], AFFINE)
    write_volume(folder / "bert_labels.nii.gz", heart()[:1] * 10, AFFINE)
    (folder / "conventions.yaml").write_text("tens: {0: background, 10: LV, 20: MYO, 30: RV}\n")
    frames = ";".join(f"bert_{t}.nii.gz" for t in range(FRAMES))
    write_csv(
        folder / "cohort.csv",
        "anna,anna,bssfp,A,anna.nii.gz,anna_labels.nii.gz,crossbeat,0,2,train,mine",
        f"bert,bert,bssfp,B,{frames},1=bert_labels.nii.gz,tens,1,,test,",
        "anna,anna_lge,lge,A,bert_0.nii.gz,,,,,,",
        "carl,late,t2,A,anna.nii.gz,,,4,,,",  # its frames are counted from 1
    )
    return folder


def write_csv(path: Path, *lines: str) -> None:
    head = "subject,scan,sequence,vendor,image,labels,convention,ed_frame,es_frame,split,note"
    path.write_text("\n".join([head, *lines, ""]))


def cohort_of(out: Path) -> Cohort:
    return read_cohort(out / "cohort.csv", reader)


def lines_of(out: Path) -> dict[str, dict[str, str]]:
    with (out / "tags.csv").open(encoding="utf-8", newline="") as text:
        return {line["scan"]: line for line in csv.DictReader(text)}


def image_of(out: Path, scan: str) -> np.ndarray:
    """In units of the peak."""
    return read_volume(out / "images" / f"{scan}_tagged.nii.gz").array / 4095


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def grid(spacing: float, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The paper's two diagonals at these places, in the unit of the spacing."""
    product = np.ones(np.broadcast(y, x).shape)
    for along in (x + y, x - y):
        theta = torch.from_numpy(2 * math.pi * along / (spacing * math.sqrt(2)))
        product *= modulation(theta[None], torch.tensor([70.0], dtype=torch.float64))[0].numpy()
    return product


def test_the_default_is_the_papers_square_root_times_two_sets_of_lines(data: Path, tmp_path: Path) -> None:
    out, before = tmp_path / "out", files(data)
    tag(data / "cohort.csv", out)
    assert files(data) == before
    y, x = np.arange(40)[:, None] * 2.5, np.arange(44)[None, :] * 2.0
    expected = np.sqrt(GREY[heart()] / 250) * grid(7.14, y, x)
    for scan in ("anna", "bert"):
        np.testing.assert_allclose(image_of(out, scan), expected, atol=2 / 4095)
    assert sorted(p for p in files(out)) == [
        *("cohort.csv", "conventions.yaml", "examples.png"),
        *("images/anna_tagged.nii.gz", "images/bert_tagged.nii.gz", "tags.csv"),
    ]
    assert (out / "examples.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_has_what_was_drawn_in_the_frames_that_were() -> None:
    """Of six frames ED and ES are drawn: they are shown with contours, and the last of the cycle without."""
    labels = heart(6)
    drawn = tuple(frozenset(TRAINED) if t in (0, 2) else frozenset() for t in range(6))
    case = Case("s", "s", labels.astype(np.float32), AFFINE, Domain("bssfp"), labels, drawn)
    look = _look(case, case.image, "s", laid=0)
    assert look.frames == (0, 2, 5)
    assert [set(np.unique(frame)) > {0} for frame in look.labels] == [True, True, False]
    np.testing.assert_array_equal(look.labels[1], look.cine[1])
    every = _look(replace(case, drawn=(drawn[0],) * 6), case.image, "s", laid=1)
    assert every.frames == (1, 3, 0)
    np.testing.assert_array_equal(every.labels, every.cine)


@pytest.mark.slow
def test_the_new_cohort_carries_labels_splits_and_where_each_scan_is_from(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tag(data / "cohort.csv", out)
    cohort = cohort_of(out)
    told = [(row.scan, row.subject, row.sequence, row.split, row.value("simulated_from")) for row in cohort]
    assert told == [
        ("anna_tagged", "anna", "tagged", "train", "anna"),
        ("bert_tagged", "bert", "tagged", "test", "bert"),
    ]
    assert [row.value("tag_spacing") for row in cohort] == ["7.14 mm"] * 2
    assert cohort.rows[0].value("note") == "mine"
    anna, bert = cohort.cases()
    assert anna.labels is not None
    np.testing.assert_array_equal(anna.labels, heart())
    assert anna.frame_times_ms is not None
    assert anna.frame_times_ms.tolist() == [0, 50, 100, 150]
    assert bert.labelled_frames == [1]
    assert bert.labels is not None
    np.testing.assert_array_equal(bert.labels[1], heart()[0])
    for row in cohort:  # apart: their voxels are the same
        found = check(cohort.where(scan=row.scan), out, read_conventions(out))
        assert not [problem for problem in found if problem.severity == "error"]


@pytest.mark.slow
def test_the_scans_that_there_were_can_be_listed_beside_the_new_ones(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tag(data / "cohort.csv", out, with_originals=True)
    cohort = cohort_of(out)
    assert [(row.scan, row.value("simulated_from")) for row in cohort] == [
        *(("anna", ""), ("bert", ""), ("anna_lge", ""), ("late", "")),
        *(("anna_tagged", "anna"), ("bert_tagged", "bert")),
    ]
    np.testing.assert_array_equal(cohort.read(cohort.row("anna")).image, GREY[heart()])
    assert [row.scan for row in cohort.where(simulated_from="").where(sequence="bssfp")] == ["anna", "bert"]
    with pytest.raises(
        CohortError, match="has a scan 'anna_tagged' already; give another --suffix, leave --wit"
    ):
        tag(out / "cohort.csv", tmp_path / "more", with_originals=True)
    assert not (tmp_path / "more").exists()
    tag(out / "cohort.csv", tmp_path / "more", with_originals=True, fade=True, suffix="fading")
    more = cohort_of(tmp_path / "more")
    assert [row.scan for row in more.where(tag_set="fading")] == ["anna_fading", "bert_fading"]
    assert [row.scan for row in more.where(tag_set="tagged")] == ["anna_tagged", "bert_tagged"]
    with pytest.raises(SettingsError, match="--suffix a/b: becomes part of a file's name"):
        tag(data / "cohort.csv", tmp_path / "bad", suffix="a/b")


@pytest.mark.slow
def test_pixels_are_each_scans_own(data: Path, tmp_path: Path) -> None:
    tag(data / "cohort.csv", tmp_path / "out", spacing_px=6.0, contrast="none")
    expected = GREY[heart()] / 250 * grid(6.0, np.arange(40.0)[:, None], np.arange(44.0)[None, :])
    np.testing.assert_allclose(image_of(tmp_path / "out", "anna"), expected, atol=2 / 4095)
    assert lines_of(tmp_path / "out")["anna_tagged"]["unit"] == "px"


def test_tagged_scans_are_not_tagged_again(data: Path, tmp_path: Path) -> None:
    tag(data / "cohort.csv", tmp_path / "once", with_originals=True)
    with pytest.raises(
        SettingsError, match="2 of the scans chosen in cohort are tagged already, 'anna_tagged' fi"
    ):
        tag(tmp_path / "once" / "cohort.csv", tmp_path / "twice", where="sequence=tagged|bssfp")
    assert not (tmp_path / "twice").exists()


@pytest.mark.slow
def test_without_inflow_blood_fades_like_the_wall(data: Path, tmp_path: Path) -> None:
    for name, more in (("still", {"inflow": False}), ("flowing", {})):
        tag(data / "cohort.csv", tmp_path / name, where="scan=anna", fade=True, contrast="none", **more)
    still, flowing = (image_of(tmp_path / name, "anna") for name in ("still", "flowing"))
    inside = ndimage.binary_erosion(heart()[0] == Structure.LV, np.ones((1, 3, 3)))
    assert flowing[2][inside].std() < 0.2 * still[2][inside].std()
    line = lines_of(tmp_path / "still")["anna_tagged"]
    assert line["blood_t1_ms"] == line["t1_ms"]


@pytest.mark.slow
def test_lines_fade_from_end_diastole_on_and_go_from_the_blood_where_it_is_known(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    tag(data / "cohort.csv", out, fade=True, contrast="none")
    said = capsys.readouterr().err  # of bert
    assert "scans that do not say how far apart their frames are: 1" in said
    assert (
        "scans of which not all frames are labelled: 1; blood fades there as the wall does; where some"
        in said
    )
    anna, bert = (image_of(out, scan) for scan in ("anna", "bert"))
    wall, blood = heart()[0] == Structure.MYO, heart()[0] == Structure.LV
    assert (np.diff([frame[wall].std() for frame in anna]) < 0).all()
    assert np.diff([frame[wall].std() for frame in np.roll(bert, -1, axis=0)]).max() < 0  # his ED is frame 1
    beside = np.ones((1, 3, 3))  # where blood ends, lines are a mixture of both
    wall &= ~ndimage.binary_dilation(np.isin(heart()[0], (Structure.LV, Structure.RV)), beside)
    inside = ndimage.binary_erosion(blood, beside)
    assert min(wall.sum(), inside.sum()) > 20
    assert anna[2][inside].std() < 0.2 * anna[0][inside].std()
    assert bert[3][blood].std() > 0.4 * bert[1][blood].std()  # labelled in one frame: all has the wall's T1
    line = lines_of(out)
    # by hand: S + (F - S) q^n of the wall, at its brightest voxel, with what was drawn
    t1, tr, flip = (float(line["anna_tagged"][c]) for c in ("t1_ms", "tr_ms", "imaging_flip_deg"))
    assert tr == 50
    e, c = math.exp(-tr / t1), math.cos(math.radians(flip))
    steady = (1 - e) / (1 - e * c)
    left = anna[0][wall] / (90 / 250)
    np.testing.assert_allclose(anna[3][wall] / (90 / 250), steady + (left - steady) * (e * c) ** 3, atol=3e-3)
    assert line["bert_tagged"]["tr_ms"] == "40"
    assert line["bert_tagged"]["blood_t1_ms"] == ""


@pytest.mark.slow
@pytest.mark.parametrize("unit", [{"spacing_mm": 9.0}, {"spacing_px": 4.0}])
def test_lines_move_with_what_a_displacement_says(data: Path, tmp_path: Path, unit: dict[str, float]) -> None:
    """Tissue of frame 3 lay 2 rows (5 mm) below and 3 columns (6 mm) to the left in frame 2, when lines were laid."""
    field = np.zeros((FRAMES, 3, 2, 40, 44), np.float32)
    field[3] = np.array([1.0, 5.0, -6.0])[:, None, None, None]
    write_displacement(tmp_path / "moves" / "fields" / "anna.nii.gz", field, 2, data / "anna.nii.gz")
    out = tmp_path / "out"
    options: dict[str, Any] = {"contrast": "none", "phase": "random", "where": "scan=anna", **unit}
    tag(data / "cohort.csv", out, fields=tmp_path / "moves", **options)
    lines = image_of(out, "anna") / (GREY[heart()] / 250)
    np.testing.assert_allclose(lines[3, :, :-2, 3:], lines[2, :, 2:, :-3], atol=0.01)
    np.testing.assert_allclose(lines[0], lines[2], atol=0.01)
    assert lines_of(out)["anna_tagged"]["laid_in_frame"] == "2"
    tag(data / "cohort.csv", tmp_path / "again", fields=tmp_path / "moves" / "fields", **options)
    np.testing.assert_array_equal(image_of(tmp_path / "again", "anna"), image_of(out, "anna"))


@pytest.mark.slow
def test_each_scan_is_tagged_as_it_would_be_alone_and_by_its_seed(data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "vary": 0.2,
        "turn_deg": 20.0,
        "phase": "random",
        "noise_sd": 0.1,
        "low_pass": 0.9,
    }
    for name, more in (("both", {}), ("alone", {"where": "scan=bert"}), ("other", {"seed": 1})):
        tag(data / "cohort.csv", tmp_path / name, **options, **more)
    both = image_of(tmp_path / "both", "bert")
    np.testing.assert_array_equal(image_of(tmp_path / "alone", "bert"), both)
    assert np.abs(image_of(tmp_path / "other", "bert") - both).mean() > 0.02
    lines = lines_of(tmp_path / "both")
    assert lines["anna_tagged"]["across_deg"] != lines["bert_tagged"]["across_deg"]
    for line in lines.values():
        assert 7.14 * 0.8 <= float(line["spacing"]) <= 7.14 * 1.2
        assert abs(float(line["across_deg"].split(";")[0]) - 45) <= 20


@pytest.mark.slow
def test_a_threshold_does_not_come_and_go_with_the_labels(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tag(data / "cohort.csv", tmp_path / "out", contrast="power0.4_myo", seed=3)
    assert "labelled: 1; the contrast is that of the power alone; where some frame" in capsys.readouterr().err
    quantiles = {scan: line["quantile"] for scan, line in lines_of(tmp_path / "out").items()}
    assert quantiles["anna_tagged"]
    assert not quantiles["bert_tagged"]
    bert = image_of(tmp_path / "out", "bert")
    for t in range(1, FRAMES):
        np.testing.assert_array_equal(bert[t], bert[0])
    y, x = np.arange(40)[:, None] * 2.5, np.arange(44)[None, :] * 2.0
    np.testing.assert_allclose(
        bert[0, 0], (GREY[heart()[0, 0]] / 250) ** 0.4 * grid(7.14, y, x), atol=2 / 4095
    )
    assert (
        np.abs(image_of(tmp_path / "out", "anna") - bert).max() > 0.05
    )  # a line below the wall's grey value


@pytest.mark.slow
def test_images_can_have_the_mean_of_the_authors(data: Path, tmp_path: Path) -> None:
    tag(data / "cohort.csv", tmp_path / "out", standardise=True)
    image = image_of(tmp_path / "out", "anna")
    np.testing.assert_allclose(image.mean((2, 3)), 0.7507, atol=2e-3)
    np.testing.assert_allclose(image.std((2, 3)), 0.1810, atol=2e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inflow": False}, "--no-inflow says how lines fade, and they do not"),
        ({"spacing_mm": 7.0, "spacing_px": 5.0}, "--spacing-mm and --spacing-px say the same thing"),
        ({"contrast": "cubic"}, "--contrast cubic: must be one of sqrt, power0.4_myo, none"),
        ({"flip_deg": 0.0}, "flip angle within"),
        ({"fields": Path("nowhere")}, "--fields nowhere: there is no such folder; `crossbeat propagate"),
        ({"noise_sd": -0.1}, "noise_sd must be a range from low to high, got 0 to -0.1"),
        ({"where": "vendor=C"}, "no scan of cohort matches vendor=C; choose others with --where"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_a_folder_is_made(
    data: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        tag(data / "cohort.csv", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"spacing_mm": 4.9},
            "scan 'anna': tags 4.9 apart on pixels of 2.5: .* keep the closest 5 apart or more",
        ),
        ({"spacing_px": 1.9}, "scan 'anna': tags 1.9 apart on pixels of 1:"),
        (
            {"fields": Path(__file__).parent},
            r"scan 'anna': has no displacement \S*tests/anna\.nii\.gz; write it with",
        ),
        (
            {"spacing_mm": 7.0, "vary": 0.5},
            r"tags 3.5 apart \(3.5 to 10.5, as it is varied\) on pixels of 2.5",
        ),
        ({"fade": True, "where": "scan=anna_lge"}, "scan 'anna_lge': has one frame, so nothing fades"),
        (
            {"where": "scan=late"},
            "scan 'late': ed_frame is 4, but the scan has 4 frames; frames count from 0",
        ),
    ],
)
def test_scans_that_cannot_be_tagged_are_named_and_leave_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(typer.Exit) as end:
        tag(data / "cohort.csv", tmp_path / "out", **options)
    assert end.value.exit_code == 1
    found = " ".join(capsys.readouterr().err.split())
    assert re.search(words, found), found
    assert not (tmp_path / "out").exists()


def test_the_others_go_on_and_a_field_of_another_grid_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    field = np.zeros((FRAMES, 3, 2, 40, 44), np.float32)
    write_displacement(tmp_path / "moves" / "anna.nii.gz", field, 0, data / "anna.nii.gz")
    write_displacement(tmp_path / "moves" / "bert.nii.gz", field[:1], 0, data / "bert_0.nii.gz")
    with pytest.raises(typer.Exit):
        tag(data / "cohort.csv", tmp_path / "out", fields=tmp_path / "moves")
    told = capsys.readouterr()
    assert "scan 'bert': the displacement" in told.err
    assert "lies on another grid" in " ".join(told.err.split())
    assert "1 of 2 scans tagged" in told.out
    assert [row.scan for row in cohort_of(tmp_path / "out")] == ["anna_tagged"]


@pytest.mark.slow
def test_nothing_of_anybody_is_written_over(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tag(data / "cohort.csv", out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(
        RunError, match="already holds files; choose another folder with -o, or add --overwrite"
    ):
        tag(data / "cohort.csv", out)
    tag(data / "cohort.csv", out, where="scan=bert", overwrite=True)
    assert sorted(p for p in files(out) if not p.endswith(("png", "yaml"))) == [
        *("cohort.csv", "images/bert_tagged.nii.gz", "notes.txt", "tags.csv")
    ]
    before = files(data)
    with pytest.raises(RunError, match="tagged scans need a folder of their own"):
        tag(data / "cohort.csv", data, overwrite=True)
    assert files(data) == before
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "cohort.csv").write_text("subject,scan,sequence,image\n")
    with pytest.raises(RunError, match=r"holds a cohort\.csv that no tagging left there"):
        tag(data / "cohort.csv", tmp_path / "elsewhere", overwrite=True)
