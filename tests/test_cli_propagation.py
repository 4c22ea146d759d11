"""`crossbeat propagate` as a user runs it, with registrations whose motion is known: none, or a shift."""

import csv
import json
import math
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
import torch

from crossbeat.case import Case
from crossbeat.cli import main
from crossbeat.cohort import Cohort, read_cohort
from crossbeat.data import reader
from crossbeat.data.nifti import read_displacement, read_volume, write_volume
from crossbeat.labels import UNKNOWN, Structure
from crossbeat.methods.propagation import Registrar
from crossbeat.networks.registration import VoxelMorph
from crossbeat.prepare.volumes import Preparation

FRAMES, ED, ES = 5, 0, 2
AFFINE = np.diag([-2.0, -2.5, 8.0, 1.0])
GREY = np.array([60, 250, 90, 240], np.float32)
COLUMNS = [
    *("scan", "subject", "frame", "time_ms", "source", "agreement", "similarity", "regularity"),
    *("smallest_jacobian", "coverage", "confidence", "lv_ml"),
]


class Told(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Told]


@pytest.fixture
def propagate(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `crossbeat propagate`, or another command, in this process, on a CPU."""

    def run(*words: object, command: str = "propagate") -> Told:
        code = 0
        device = ["--device", "cpu"] if command == "propagate" else []
        monkeypatch.setattr(sys, "argv", ["crossbeat", command, *map(str, words), *device])
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Told(code, *capsys.readouterr())

    return run


def heart(frames: int = FRAMES, slices: int = 3) -> np.ndarray:
    """Labels (t, z, y, x) of a ring that contracts, and a crescent beside it."""
    y, x = np.mgrid[:48, :56].astype(float)
    labels = np.zeros((frames, slices, 48, 56), np.uint8)
    for t in range(frames):
        size = 1 - 0.2 * math.sin(math.pi * t / frames) ** 2
        labels[t, :, np.hypot((y - 24) * 2.5, (x - 19) * 2.0) < 20 * size] = Structure.RV
        labels[t, :, np.hypot((y - 24) * 2.5, (x - 30) * 2.0) < 21 * size] = Structure.MYO
        labels[t, :, np.hypot((y - 24) * 2.5, (x - 30) * 2.0) < 13 * size] = Structure.LV
    return labels


def save_run(folder: Path, shift: tuple[float, ...] = (0.0, 0.0)) -> Path:
    """A run whose registration moves everything by `shift`, (y, x) or (z, y, x): pixels of 2.5 mm, and slices."""
    network = VoxelMorph(through_plane=len(shift) == 3)
    with torch.no_grad():
        network.flow.weight.zero_()
        assert network.flow.bias is not None
        network.flow.bias.copy_(torch.tensor(shift))
    preparation = Preparation(size=64, spacing_mm=2.5, scale="unit", per="volume", centre="image")
    Registrar(network, preparation).save(folder / "models" / "registration")
    return folder


@pytest.fixture(scope="module")
def still_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("still"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A cohort of two cines: `anna`, ED and ES labelled; `bert`, 2 slices, his third frame, frames in files."""
    folder = tmp_path / "data"
    labels, two = heart(), heart(slices=2)
    write_volume(folder / "anna.nii.gz", GREY[labels], AFFINE, frame_interval_ms=40.0)
    for t in (ED, ES):
        write_volume(folder / f"anna_{t}.nii.gz", labels[t : t + 1], AFFINE)
    for t in range(FRAMES):
        write_volume(folder / f"bert_{t}.nii.gz", GREY[two[t : t + 1]], AFFINE)
    write_volume(folder / "bert_labels.nii.gz", np.where(two == Structure.RV, 0, two)[2:3], AFFINE)
    frames = ";".join(f"bert_{t}.nii.gz" for t in range(FRAMES))
    write_csv(
        folder / "cohort.csv",
        "anna,anna,bssfp,A,anna.nii.gz,0=anna_0.nii.gz;2=anna_2.nii.gz,,0,2,first",
        f'bert,bert,bssfp,B,{frames},2=bert_labels.nii.gz,"LV,MYO",,,second',
    )
    return folder


def write_csv(path: Path, *lines: str) -> None:
    head = "subject,scan,sequence,vendor,image,labels,structures,ed_frame,es_frame,note"
    path.write_text("\n".join([head, *lines, ""]))


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def cohort_of(path: Path) -> Cohort:
    return read_cohort(path, reader)


def labels_of(case: Case) -> np.ndarray:
    assert case.labels is not None
    return case.labels


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_where_nothing_moves_every_frame_gets_the_labels_of_ed(
    data: Path, still_run: Path, tmp_path: Path, propagate: Command
) -> None:
    out = tmp_path / "out"
    before = files(data)
    told = propagate(still_run, data / "cohort.csv", "-o", out, "--from", "ed")
    assert told.code == 0, told.err
    assert files(data) == before
    assert shlex.split(told.out.splitlines()[-1]) == ["next:", "crossbeat", "check", str(out / "cohort.csv")]
    cohort = cohort_of(out / "cohort.csv")
    anna, bert = (cohort.read(row) for row in cohort)
    for t in range(FRAMES):
        np.testing.assert_array_equal(labels_of(anna)[t], heart()[ED])
        np.testing.assert_array_equal(labels_of(bert)[t] == Structure.LV, heart(slices=2)[2] == Structure.LV)
    assert anna.drawn == (frozenset({Structure.LV, Structure.MYO, Structure.RV}),) * FRAMES
    assert bert.drawn == (frozenset({Structure.LV, Structure.MYO}),) * FRAMES
    np.testing.assert_array_equal(anna.image, GREY[heart()])
    assert nib.load(out / "labels" / "anna.nii.gz").shape == (56, 48, 3, FRAMES)
    about = json.loads((out / "labels" / "anna.json").read_text())
    assert (about["carried_from"], about["run"]) == ([0], str(still_run))
    checked = propagate(out / "cohort.csv", command="check")
    assert (checked.code, "2 scans, 0 errors" in checked.out) == (0, True), checked.out


@pytest.mark.slow
def test_the_new_cohort_keeps_what_the_old_one_said_and_tells_who_drew_what(
    data: Path, still_run: Path, tmp_path: Path, propagate: Command
) -> None:
    assert propagate(still_run, data / "cohort.csv", "-o", tmp_path / "out").code == 0
    rows = read_csv(tmp_path / "out" / "cohort.csv")
    assert [row["structures"] for row in rows] == ["LV,MYO,RV", "LV,MYO"]
    assert [row["carried_from"] for row in rows] == ["0;2", "2"]
    assert [(row["vendor"], row["note"], row["ed_frame"]) for row in rows] == [
        ("A", "first", "0"),
        ("B", "second", ""),
    ]
    assert rows[0]["image"] == "../data/anna.nii.gz"
    assert rows[1]["labels"] == "labels/bert.nii.gz"
    assert rows[0]["convention"] == "crossbeat"


@pytest.mark.slow
def test_scores_against_carried_labels_come_with_a_word(
    data: Path, still_run: Path, tmp_path: Path, propagate: Command
) -> None:
    assert propagate(still_run, data / "cohort.csv", "-o", tmp_path / "out").code == 0
    maps = tmp_path / "out" / "labels"
    scored = propagate(
        maps, tmp_path / "out" / "cohort.csv", "--all", "-o", tmp_path / "scores.csv", command="evaluate"
    )
    assert scored.code == 0, scored.err
    assert re.search(r"note: 2 scans, anna first, have labels that `crossbeat propagate` carried", scored.err)


@pytest.mark.slow
def test_each_frame_has_a_line_with_its_source_confidence_and_volume(
    data: Path, still_run: Path, tmp_path: Path, propagate: Command
) -> None:
    assert propagate(still_run, data / "cohort.csv", "-o", tmp_path / "out").code == 0
    lines = read_csv(tmp_path / "out" / "confidence.csv")
    assert list(lines[0]) == COLUMNS
    assert [(line["scan"], line["frame"]) for line in lines] == [
        (s, str(t)) for s in ("anna", "bert") for t in range(FRAMES)
    ]
    assert [line["source"] for line in lines] == ["0", "0;2", "2", "0;2", "0;2", *["2"] * 5]
    assert [float(line["time_ms"]) for line in lines[:5]] == [0, 40, 80, 120, 160]
    assert all(math.isnan(float(line["time_ms"])) for line in lines[5:])
    voxels = np.count_nonzero(heart()[ED] == Structure.LV)  # of 2 x 2.5 x 8 mm = 0.04 ml
    assert float(lines[0]["lv_ml"]) == pytest.approx(voxels * 0.04)
    cohort = cohort_of(tmp_path / "out" / "cohort.csv")
    counts = np.count_nonzero(labels_of(cohort.read(cohort.rows[0])) == Structure.LV, axis=(1, 2, 3))
    assert [float(line["lv_ml"]) for line in lines[:5]] == pytest.approx(list(counts * 0.04))
    assert [float(line["confidence"]) for line in lines if line["frame"] == line["source"]] == [1, 1, 1]
    carried = [line for line in lines if line["frame"] != line["source"]]
    assert all(0 < float(line["confidence"]) <= 1 for line in carried)
    assert all(float(line["smallest_jacobian"]) == pytest.approx(1) for line in carried)
    assert all(float(line["coverage"]) == 1 for line in carried)
    assert [math.isnan(float(line["agreement"])) for line in carried] == [False] * 3 + [True] * 4


@pytest.mark.slow
def test_a_shift_arrives_in_labels_fields_and_pictures(
    data: Path, tmp_path: Path, propagate: Command
) -> None:
    """4 pixels of 2.5 mm are 4 rows: each frame's voxel lies 10 mm further along y in frame 0."""
    run, out = save_run(tmp_path / "run", shift=(4.0, 0.0)), tmp_path / "out"
    told = propagate(run, data / "cohort.csv", "-o", out, "--from", "ed", "--fields", "--where", "scan=anna")
    assert told.code == 0, told.err
    labels = read_volume(out / "labels" / "anna.nii.gz").array
    np.testing.assert_array_equal(labels[0], heart()[ED])
    for t in range(1, FRAMES):
        np.testing.assert_array_equal(labels[t, :, :-4], heart()[ED][:, 4:])
    field = read_displacement(out / "fields" / "anna.nii.gz")
    assert field.into_frame == 0
    assert field.array.shape == (FRAMES, 3, 3, 48, 56)
    assert not field.array[0].any()
    np.testing.assert_allclose(field.array[1:, 1], 10.0, atol=1e-3)
    assert not field.array[:, [0, 2]].any()
    assert json.loads((out / "fields" / "anna.json").read_text())["unit"] == "mm"
    text = (out / "propagation.html").read_text(encoding="utf-8")
    assert "frame 1 since frame 0" in text
    assert (out / "figures" / "anna.png").read_bytes().startswith(b"\x89PNG")
    assert not (out / "labels" / "bert.nii.gz").exists()


@pytest.mark.slow
def test_what_moves_through_the_slices_is_told_in_mm_too(
    data: Path, tmp_path: Path, propagate: Command
) -> None:
    """Slices lie 8 mm apart, pixels of the registration 2.5 mm; the scan's columns 2 mm, which mm do not see."""
    run, out = save_run(tmp_path / "run", shift=(1.0, 0.0, 2.0)), tmp_path / "out"
    told = propagate(run, data / "cohort.csv", "-o", out, "--fields", "--where", "scan=bert")
    assert told.code == 0, told.err
    field = read_displacement(out / "fields" / "bert.nii.gz")
    assert field.into_frame == 2
    for component, mm in enumerate((8.0, 0.0, 5.0)):
        np.testing.assert_allclose(field.array[0, component], mm, atol=1e-3)
    assert "through the slices too" in (out / "propagation.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_without_fields_none_are_written(
    data: Path, still_run: Path, tmp_path: Path, propagate: Command
) -> None:
    assert propagate(still_run, data / "cohort.csv", "-o", tmp_path / "out").code == 0
    assert sorted(files(tmp_path / "out")) == [
        *("cohort.csv", "confidence.csv", "figures/anna.png", "figures/bert.png", "labels/anna.json"),
        *("labels/anna.nii.gz", "labels/bert.json", "labels/bert.nii.gz", "propagation.html"),
    ]


@pytest.mark.slow
def test_labels_lie_on_the_scans_own_grid_however_it_was_stored(
    data: Path, still_run: Path, tmp_path: Path, propagate: Command
) -> None:
    image = nib.load(data / "anna.nii.gz")
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(("S", "L", "P"))
    )
    nib.save(image.as_reoriented(turn), data / "anna.nii.gz")
    told = propagate(
        still_run, data / "cohort.csv", "-o", tmp_path / "out", "--from", "ed", "--where", "scan=anna"
    )
    assert told.code == 0, told.err
    written = nib.load(tmp_path / "out" / "labels" / "anna.nii.gz")
    assert nib.aff2axcodes(written.affine) == ("S", "L", "P")
    np.testing.assert_array_equal(written.affine, nib.load(data / "anna.nii.gz").affine)
    np.testing.assert_array_equal(
        read_volume(tmp_path / "out" / "labels" / "anna.nii.gz").array[3], heart()[ED]
    )


@pytest.mark.slow
def test_scans_that_cannot_be_carried_are_named_and_the_others_go_on(
    data: Path, still_run: Path, tmp_path: Path, propagate: Command
) -> None:
    (data / "broken.nii.gz").write_bytes((data / "anna.nii.gz").read_bytes()[:200])
    write_volume(data / "short.nii.gz", heart()[:2], AFFINE)
    with (data / "cohort.csv").open("a") as more:
        more.write("carl,still,bssfp,A,anna_0.nii.gz,anna_0.nii.gz,,,,\n")
        more.write("dora,bare,bssfp,A,anna.nii.gz,,,,,\n")
        more.write("emil,broken,bssfp,A,broken.nii.gz,0=anna_0.nii.gz,,,,\n")
        more.write("fred,uneven,bssfp,A,anna.nii.gz,short.nii.gz,,,,\n")
        more.write("gina,a=b,bssfp,A,anna.nii.gz,0=anna_0.nii.gz,,,,\n")
    out = tmp_path / "out"
    told = propagate(still_run, data / "cohort.csv", "-o", out)
    assert told.code == 1
    errors = [line for line in told.err.splitlines() if line.startswith("error: ")]
    for words, error in zip(
        (
            r"scan 'still': has one frame, so there is nothing to carry labels to",
            r"scan 'bare': no frame has labels of LV, MYO or RV to carry",
            r"broken\.nii\.gz: is damaged or cut short",
            r"short\.nii\.gz: has 2 frames and the image anna\.nii\.gz has 5",
            r"a=b\.nii\.gz: has a `;` or `=` in its name",
        ),
        errors,
        strict=True,
    ):
        assert re.search(words, error), error
    assert "labels of 2 of 7 scans" in told.out
    assert told.out.splitlines()[-1].startswith("next: crossbeat check")
    assert [row["scan"] for row in read_csv(out / "cohort.csv")] == ["anna", "bert"]
    assert {line["scan"] for line in read_csv(out / "confidence.csv")} == {"anna", "bert"}
    assert {Path(name).name.split(".")[0] for name in files(out) if "/" in name} == {"anna", "bert"}
    assert "5 scans could not be carried" in (out / "propagation.html").read_text(encoding="utf-8")


def test_where_no_scan_could_be_carried_nothing_is_left(
    data: Path, still_run: Path, tmp_path: Path, propagate: Command
) -> None:
    write_csv(data / "cohort.csv", "carl,still,bssfp,A,anna_0.nii.gz,anna_0.nii.gz,,,,")
    told = propagate(still_run, data / "cohort.csv", "-o", tmp_path / "out")
    assert (told.code, told.out) == (1, "")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_test_split_is_carried_unless_all_are_asked_for(
    data: Path, still_run: Path, tmp_path: Path, propagate: Command
) -> None:
    text = (data / "cohort.csv").read_text().splitlines()
    split = ["split", "train", "test"]
    (data / "cohort.csv").write_text("\n".join(f"{a},{b}" for a, b in zip(text, split, strict=True)) + "\n")
    assert "1 of 2 scans: split=test" in propagate(still_run, data / "cohort.csv", "-o", tmp_path / "one").out
    assert [row["scan"] for row in read_csv(tmp_path / "one" / "cohort.csv")] == ["bert"]
    assert propagate(still_run, data / "cohort.csv", "-o", tmp_path / "both", "--all").code == 0
    assert [row["split"] for row in read_csv(tmp_path / "both" / "cohort.csv")] == ["train", "test"]


@pytest.mark.slow
def test_what_is_there_is_replaced_on_request_alone_and_nothing_stale_stays(
    data: Path, still_run: Path, tmp_path: Path, propagate: Command
) -> None:
    out = tmp_path / "out"
    words = (still_run, data / "cohort.csv", "-o", out)
    assert propagate(*words, "--fields").code == 0
    (out / "notes.txt").write_text("mine")
    before = files(out)
    told = propagate(*words)
    assert told.code == 2
    assert "out: already holds files; choose another folder with -o, or add --overwrite" in told.err
    assert files(out) == before
    assert propagate(*words, "--overwrite", "--where", "scan=bert").code == 0
    assert sorted(files(out)) == [
        *("cohort.csv", "confidence.csv", "figures/bert.png", "labels/bert.json", "labels/bert.nii.gz"),
        *("notes.txt", "propagation.html"),
    ]


def test_scans_and_their_labels_are_never_written_over(
    data: Path, still_run: Path, tmp_path: Path, propagate: Command
) -> None:
    (data / "labels").mkdir()
    (data / "anna_0.nii.gz").rename(data / "labels" / "anna.nii.gz")
    text = (data / "cohort.csv").read_text().replace("anna_0.nii.gz", "labels/anna.nii.gz")
    (data / "cohort.csv").write_text(text)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "cohort.csv").write_text("subject,scan,sequence,image\n")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "run.json").write_text("{}")
    beside = tmp_path / "beside.csv"
    beside.write_text(re.sub(r"(?<=[,;=])((?:labels/)?(?:anna|bert)\w*\.nii)", r"data/\1", text))
    before = files(tmp_path)
    for csv_file, out, words in (
        (data / "cohort.csv", data, "carried labels need a folder of their own"),
        (data / "cohort.csv", tmp_path / "runs", "holds a run or the scans"),
        (data / "cohort.csv", tmp_path / "elsewhere", "holds a cohort.csv that no propagation left there"),
        (data / "cohort.csv", data / "cohort.csv", "cohort.csv: is a file"),
    ):
        told = propagate(still_run, csv_file, "-o", out, "--overwrite")
        assert told.code == 2
        assert words in told.err
        assert files(tmp_path) == before
    (data / "cohort.csv").unlink()
    told = propagate(still_run, beside, "-o", data, "--overwrite")
    assert told.code == 2
    assert "labels/anna.nii.gz: is a scan or its labels, and would be written over" in told.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{none} {csv} -o {new}", "has no models/registration; give a run of `crossbeat train propagation`"),
        ("{broken} {csv} -o {new}", "weights.safetensors is missing"),
        ("{run} {csv} -o {new} --from es", "--from es: must be one of ed, ed_es"),
        ("{run} {none} -o {new}", "cannot be read"),
        ("{run} {csv} -o {new} --where vendor=C", "no scan of cohort matches vendor=C"),
    ],
)
def test_a_mistake_is_one_readable_message(
    words: str, message: str, data: Path, still_run: Path, tmp_path: Path, propagate: Command
) -> None:
    broken = save_run(tmp_path / "broken")
    (broken / "models" / "registration" / "weights.safetensors").unlink()
    places = {"none": tmp_path / "none", "csv": data / "cohort.csv", "run": still_run, "broken": broken}
    told = propagate(*words.format(**places, new=tmp_path / "new").split())
    assert (told.code, told.out) == (2, "")
    complaints = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert len(complaints) == 1
    assert message in complaints[0]
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_slices_that_nobody_looked_at_stay_so(
    data: Path, still_run: Path, tmp_path: Path, propagate: Command
) -> None:
    labels = heart()[:1]
    labels[0, 2] = UNKNOWN
    write_volume(data / "anna_0.nii.gz", labels, AFFINE)
    assert propagate(still_run, data / "cohort.csv", "-o", tmp_path / "out", "--from", "ed").code == 0
    found = read_volume(tmp_path / "out" / "labels" / "anna.nii.gz").array
    assert (found[:, 2] == UNKNOWN).all()
    assert (found[:, :2] != UNKNOWN).all()
    assert "Nobody looked at 1 slice" in (tmp_path / "out" / "propagation.html").read_text(encoding="utf-8")
