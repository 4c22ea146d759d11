"""The commands as a user runs them: what they write, what they say last, and how they refuse."""

import csv
import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import typer

from crossbeat import __version__
from crossbeat.case import Case, Domain
from crossbeat.cli import app, main, method_command, offer_method_commands
from crossbeat.data import LAYOUTS
from crossbeat.data.nifti import read_volume
from crossbeat.errors import CrossbeatError
from crossbeat.methods import METHODS, Method
from crossbeat.prediction import predict_case
from crossbeat.prepare.volumes import Preparation
from crossbeat.segmenter import NetworkSpec, Segmenter, load_segmenter

SCRIPT = Path(sys.executable).with_name("crossbeat")
SMALL = [
    "network=dilated_resunet", "network_arguments={width: 4}", "image_size=64", "spacing_mm=3",
    "augmentation=light", "batch_size=4", "steps=4", "steps_per_round=2",
]  # fmt: skip
CPU = ("--device", "cpu")


@dataclass(frozen=True)
class Told:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def next(self) -> str:
        """The command that its last line advises."""
        last = self.out.splitlines()[-1]
        assert last.startswith("next: "), last
        return last.removeprefix("next: ")


Command = Callable[..., Told]


@pytest.fixture
def crossbeat(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command in this process."""

    def run(*words: object) -> Told:
        code = 0
        monkeypatch.setattr(sys, "argv", ["/usr/bin/crossbeat", *(str(word) for word in words)])
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Told(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def trees() -> ModuleType:
    """Tiny folders in the public layouts, and DICOM series."""
    sys.path.insert(0, str(Path(__file__).parent / "data"))
    return importlib.import_module("trees")


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a phantom cohort of two subjects; its name has a space."""
    folder = tmp_path_factory.mktemp("made") / "two hearts"
    with pytest.raises(SystemExit) as end:
        main(["phantom", str(folder), "--subjects", "2", "--sequences", "bssfp", "--jobs", "1"])
    assert not end.value.code
    return folder


@pytest.fixture(scope="module")
def scan(phantom: Path) -> Path:
    return phantom / "images" / "phantom001_bssfp.nii.gz"


def save_untrained(run: Path, seed: int) -> Path:
    """A run folder with a segmenter of random weights: it draws nonsense, but always the same."""
    torch.manual_seed(seed)
    spec = NetworkSpec(name="dilated_resunet", size=64, arguments={"width": 4})
    network = spec.build().eval()
    Segmenter(network, spec, Preparation(size=64, spacing_mm=3.0, centre="image")).save(run / "segmenter")
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained(tmp_path_factory.mktemp("run"), 3)


@pytest.fixture(scope="module")
def other_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained(tmp_path_factory.mktemp("other"), 5)


def train_words(cohort_csv: Path, out: Path) -> list[str]:
    changes = [word for change in SMALL for word in ("--set", change)]
    return ["train", "supervised", str(cohort_csv), "-o", str(out), *CPU, *changes]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def case_of(path: Path) -> Case:
    volume = read_volume(path)
    return Case("scan", "scan", volume.array, volume.affine, Domain("bssfp"))


def label_map(path: Path) -> np.ndarray:
    return read_volume(path).array.astype(np.uint8)


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its arguments and options, those that methods bring along too."""
    own = {name: method for method in METHODS.values() for name in method.commands}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        yield name, typer.main.get_command(method_command(own[name], name)) if name in own else command


# The road of the data


@pytest.mark.slow
def test_the_whole_road_from_a_phantom_to_its_report(
    phantom: Path, tmp_path: Path, crossbeat: Command
) -> None:
    cohort_csv, out = phantom / "cohort.csv", tmp_path / "run"
    assert shlex.split(crossbeat("check", cohort_csv).next)[:3] == ["crossbeat", "train", "supervised"]
    step = crossbeat(*train_words(cohort_csv, out))
    told = []
    while step.next.startswith("crossbeat"):  # each command names the next, ready for a shell
        told.append(step.next)
        step = crossbeat(*shlex.split(step.next)[1:])
        assert step.code == 0, step.err
        if "evaluate" in told[-1]:
            assert crossbeat("measure", out).code == 0
    assert [shlex.split(line)[1] for line in told] == ["predict", "evaluate", "report"]
    scans = {"phantom001_bssfp", "phantom002_bssfp"}
    for table in ("scores.csv", "indices.csv", "volumes.csv", "agreement.csv"):
        assert {line["scan"] for line in read_csv(out / table)} == scans, table
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in scans)
    facts = json.loads((out / "run.json").read_text())
    assert facts["finished"]
    assert facts["method"] == "supervised"
    assert shlex.split(facts["command"]) == ["crossbeat", *(str(w) for w in train_words(cohort_csv, out))]
    dices = [line for line in read_csv(out / "scores.csv") if line["metric"] == "dice"]
    assert {line["structure"] for line in dices} >= {"LV", "MYO", "RV"}


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(phantom: Path, tmp_path: Path, crossbeat: Command) -> None:
    words = train_words(phantom / "cohort.csv", tmp_path / "run")
    assert crossbeat(*words).code == 0
    kept = {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for pattern in ("stages/**/*.ckpt", "stages/**/metrics.csv")
        for path in (tmp_path / "run").glob(pattern)
    }
    assert len(kept) >= 2
    weights = (tmp_path / "run" / "segmenter" / "weights.safetensors").read_bytes()
    assert crossbeat(*words, "--resume").code == 0
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in kept} == kept
    assert (tmp_path / "run" / "segmenter" / "weights.safetensors").read_bytes() == weights
    again = crossbeat(*words)
    assert again.code == 2
    assert "already holds files; add --resume" in again.err


@pytest.mark.slow
def test_a_dry_run_tells_scans_and_cost_and_writes_nothing(
    phantom: Path, tmp_path: Path, crossbeat: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = crossbeat(*train_words(phantom / "cohort.csv", tmp_path / "run"), "--dry-run")
    assert told.code == 0
    assert "source: 2 scans of 2 subjects" in told.out
    assert re.search(r"segmentation\s+│\s+4\s+│\s+[\d,]+\s+│\s+\d+ MiB\s+│\s+\d+ s", told.out)
    assert "--dry-run" in told.next
    assert not list(tmp_path.iterdir())


def test_a_public_layout_is_indexed_split_and_checked(
    trees: ModuleType, tmp_path: Path, crossbeat: Command
) -> None:
    trees.acdc(tmp_path / "acdc")
    cohort_csv = tmp_path / "cohort.csv"
    listed = crossbeat("index", tmp_path / "acdc", "--layout", "acdc", "-o", cohort_csv)
    assert (listed.code, shlex.split(listed.next)) == (0, ["crossbeat", "check", str(cohort_csv)])
    assert [line["split"] for line in read_csv(cohort_csv)] == ["train", "test"]
    checked = crossbeat("check", cohort_csv)
    assert checked.code == 0, checked.out
    assert "2 scans, 0 errors" in checked.out
    assert checked.next.startswith("crossbeat train supervised")
    again = ["index", tmp_path / "acdc", "--layout", "acdc", "-o", cohort_csv, "--test", 1]
    before = cohort_csv.read_bytes()
    in_the_way = crossbeat(*again)
    assert in_the_way.code == 2
    assert "cohort.csv: is there already, perhaps with splits and columns of yours" in in_the_way.err
    assert "or add --overwrite" in in_the_way.err
    assert cohort_csv.read_bytes() == before
    vain = crossbeat(*again[:-2], "--overwrite", "--resplit")
    assert vain.code == 2
    assert "--resplit does nothing beside an index without --test and --validation" in vain.err
    again.append("--overwrite")
    refused = crossbeat(*again)
    assert refused.code == 2
    assert "has a test split of 1 subjects already" in refused.err
    assert crossbeat(*again, "--resplit").code == 0
    assert sorted(line["split"] for line in read_csv(cohort_csv)) == ["test", "train"]


@pytest.mark.slow
def test_a_phantom_is_found_again_and_no_other_is_put_over_it(tmp_path: Path, crossbeat: Command) -> None:
    words = ["phantom", tmp_path, "--subjects", 2, "--sequences", "t2", "--jobs", 1, "--test", 1]
    made = crossbeat(*words)
    assert made.code == 0, made.err
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = crossbeat(*words, "--jobs", 2)
    assert (again.code, again.next) == (0, made.next)
    assert f"found as made before: {tmp_path}" in again.out
    other = crossbeat(*words, "--seed", 3, "--sequences", "lge")
    assert other.code == 2
    assert "holds another phantom (sequences t2, now lge, seed 0, now 3)" in other.err
    assert "choose another folder, or add --overwrite" in other.err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
    assert crossbeat(*words, "--seed", 3, "--overwrite").code == 0
    assert all(line["source"].endswith("seed 3") for line in read_csv(tmp_path / "cohort.csv"))
    (tmp_path / "phantom.json").unlink()
    foreign = crossbeat(*words, "--seed", 3)
    assert foreign.code == 2
    assert "holds a cohort.csv that no phantom of ours left there" in foreign.err


def test_check_names_every_error_and_exits_with_1(
    trees: ModuleType, tmp_path: Path, crossbeat: Command
) -> None:
    trees.files(tmp_path)
    words = ("--layout", "files", "--images", "{subject}/sax.nii.gz", "--labels", "{parent}/sax_mask.nii.gz")
    listed = crossbeat("index", tmp_path, *words, "-o", tmp_path / "c.csv")
    assert "bert/sax_mask.nii.gz is not there" in listed.err
    trees.save(tmp_path / "anna" / "sax_mask.nii.gz", trees.heart() + 40)
    (tmp_path / "bert" / "sax.nii.gz").unlink()
    checked = crossbeat("check", tmp_path / "c.csv")
    assert checked.code == 1
    assert "2 scans, 2 errors" in checked.out
    assert "sax_mask" in checked.out
    assert "there is no such file" in checked.out


# Prediction: any input, onto its own grid


@pytest.mark.slow
def test_a_cohort_is_predicted_and_the_answer_is_that_of_the_function(
    phantom: Path, run: Path, scan: Path, tmp_path: Path, crossbeat: Command
) -> None:
    cohort_csv = phantom / "cohort.csv"
    told = crossbeat("predict", run, cohort_csv, "-o", tmp_path / "out", *CPU, "--where", "group=NOR|HCM")
    assert told.code == 0, told.err
    assert "1 of 2 scans: group=NOR|HCM" in told.out
    assert shlex.split(told.next) == [
        *("crossbeat", "evaluate", str(tmp_path / "out"), str(cohort_csv), "--where", "group=NOR|HCM")
    ]
    expected = predict_case([load_segmenter(run / "segmenter")], case_of(scan))
    found = label_map(tmp_path / "out" / "phantom001_bssfp.nii.gz")
    np.testing.assert_array_equal(found, expected)
    assert not (tmp_path / "out" / "phantom002_bssfp.nii.gz").exists()
    about = json.loads((tmp_path / "out" / "phantom001_bssfp.json").read_text())
    assert about["runs"] == [str(run)]
    assert about["labels"]["1"] == "LV"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "options"),
    [
        (("--tta",), {"flips": True}),
        (("--no-largest-component",), {"largest_component": False}),
        (("--ensemble",), {}),
    ],
)
def test_options_of_prediction_do_what_they_say(
    words: tuple[str, ...],
    options: dict[str, bool],
    run: Path,
    other_run: Path,
    scan: Path,
    tmp_path: Path,
    crossbeat: Command,
) -> None:
    ensemble = [other_run] if "--ensemble" in words else []
    assert crossbeat("predict", run, scan, "-o", tmp_path, *CPU, *words, *ensemble).code == 0
    segmenters = [load_segmenter(r / "segmenter") for r in (run, *ensemble)]
    expected = predict_case(segmenters, case_of(scan), **options)
    plain = predict_case(segmenters[:1], case_of(scan))
    found = label_map(tmp_path / "phantom001_bssfp.nii.gz")
    np.testing.assert_array_equal(found, expected)
    assert (found != plain).any()


@pytest.mark.slow
@pytest.mark.parametrize("codes", [("L", "A", "S"), ("P", "I", "R"), ("S", "L", "P")])
def test_a_label_map_lies_on_the_inputs_own_grid_however_it_was_stored(
    codes: tuple[str, str, str], run: Path, scan: Path, tmp_path: Path, crossbeat: Command
) -> None:
    image = nib.load(scan)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes)
    )
    stored = image.as_reoriented(turn)
    nib.save(stored, tmp_path / "turned.nii")
    assert crossbeat("predict", run, tmp_path / "turned.nii", "-o", tmp_path / "out", *CPU).code == 0
    found = nib.load(tmp_path / "out" / "turned.nii.gz")
    assert nib.aff2axcodes(found.affine) == codes
    assert found.shape == stored.shape
    np.testing.assert_array_equal(found.affine, nib.load(tmp_path / "turned.nii").affine)
    assert found.get_data_dtype() == np.uint8
    expected = predict_case([load_segmenter(run / "segmenter")], case_of(scan))
    np.testing.assert_array_equal(label_map(tmp_path / "out" / "turned.nii.gz"), expected)


@pytest.mark.slow
def test_4_d_in_is_4_d_out_frame_by_frame(run: Path, scan: Path, tmp_path: Path, crossbeat: Command) -> None:
    image = nib.load(scan)
    still = np.asarray(image.dataobj)
    cine = nib.Nifti1Image(np.stack([still, still[::-1], still], axis=-1), image.affine)
    cine.header.set_xyzt_units("mm", "msec")
    cine.header["pixdim"][4] = 31.5
    nib.save(cine, tmp_path / "cine.nii.gz")
    assert crossbeat("predict", run, tmp_path / "cine.nii.gz", "-o", tmp_path / "out", *CPU).code == 0
    found = nib.load(tmp_path / "out" / "cine.nii.gz")
    assert found.shape == (*still.shape, 3)
    assert found.header.get_zooms()[3] == pytest.approx(31.5)
    np.testing.assert_array_equal(found.affine, cine.affine)
    labels = np.asarray(found.dataobj)
    np.testing.assert_array_equal(labels[..., 0], labels[..., 2])
    assert (labels[..., 0] != labels[..., 1]).any()
    expected = predict_case([load_segmenter(run / "segmenter")], case_of(scan))
    np.testing.assert_array_equal(label_map(tmp_path / "out" / "cine.nii.gz")[0], expected[0])


@pytest.mark.slow
def test_in_a_folder_a_failing_scan_is_named_and_the_others_are_written(
    run: Path, scan: Path, tmp_path: Path, crossbeat: Command
) -> None:
    folder, out = tmp_path / "scans", tmp_path / "scans" / "labels"
    folder.mkdir()
    for name in ("anna", "bert", "carl"):
        (folder / f"{name}.nii.gz").write_bytes(scan.read_bytes())
    assert crossbeat("predict", run, folder, "-o", out, *CPU).code == 0
    (folder / "bert.nii.gz").write_bytes(scan.read_bytes()[: scan.stat().st_size // 2])
    told = crossbeat("predict", run, folder, "-o", out, *CPU)
    assert told.code == 1
    assert "label maps of 2 of 3 scans" in told.out
    assert len(told.err.strip().splitlines()) == 2  # the plain line of the bar, and the one failure
    assert re.search(r"error: .*bert\.nii\.gz: is damaged or cut short", told.err)
    assert sorted(path.name for path in out.glob("*.nii.gz")) == ["anna.nii.gz", "carl.nii.gz"]
    assert "Traceback" not in told.err


def save_silent(run: Path) -> Path:
    """A run folder with a segmenter that sees background everywhere."""
    spec = NetworkSpec(name="dilated_resunet", size=64, arguments={"width": 4})
    network = spec.build().eval()
    last = [p for p in network.parameters() if len(p) == 4][-1]
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
        last[0] = 9.0  # the bias of the background
    Segmenter(network, spec, Preparation(size=64, spacing_mm=3.0, centre="image")).save(run / "segmenter")
    return run


@pytest.mark.slow
def test_label_maps_without_a_heart_are_counted_and_named(
    phantom: Path, tmp_path: Path, crossbeat: Command
) -> None:
    silent = save_silent(tmp_path / "silent")
    told = crossbeat("predict", silent, phantom / "cohort.csv", *CPU, "--all")
    assert told.code == 0, told.err
    assert "note: 2 of 2 label maps hold no heart: phantom001_bssfp, phantom002_bssfp" in told.err
    measured = crossbeat("measure", silent)
    assert "note: 2 of 2 scans: no heart found: the label map is empty: phantom001_bssfp, p" in measured.err
    remarks = {line["remark"] for line in read_csv(silent / "indices.csv")}
    assert remarks == {"no heart found: the label map is empty"}


def test_scans_of_no_cohort_need_a_folder_of_their_own(
    run: Path, scan: Path, phantom: Path, crossbeat: Command
) -> None:
    for source in (scan, phantom / "images"):
        told = crossbeat("predict", run, source, *CPU)
        assert told.code == 2
        assert "is no cohort.csv, so say where its label maps go, as in `-o segmented`" in told.err
        assert "predictions is for the scans of a cohort" in told.err
    assert not (run / "predictions").exists()


@pytest.mark.slow
def test_dicom_is_predicted_and_its_headers_tell_the_sequence(
    trees: ModuleType, run: Path, tmp_path: Path, crossbeat: Command
) -> None:
    trees.dicom(tmp_path / "study")
    told = crossbeat("predict", run, tmp_path / "study", "-o", tmp_path / "out", *CPU)
    assert told.code == 0, told.err
    assert told.next == f"crossbeat measure {tmp_path / 'out'}"
    rows = read_csv(tmp_path / "out" / "cohort.csv")
    assert [(row["scan"], row["sequence"]) for row in rows] == [
        ("p1_bssfp", "bssfp"), ("p1_lge", "lge"), ("p2_bssfp", "bssfp"),
    ]  # fmt: skip
    assert label_map(tmp_path / "out" / "p1_bssfp.nii.gz").shape[:2] == (4, 3)
    assert label_map(tmp_path / "out" / "p1_lge.nii.gz").shape[:2] == (1, 3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ({"description": "cine 4ch LA"}, "a long-axis view; crossbeat reads short-axis stacks"),
        ({"description": "localizer", "frames": 1}, "a localiser"),
        ({"description": "cine sax", "slices": 1}, "a single slice, where a stack is needed"),
    ],
)
def test_dicom_that_is_no_stack_is_named_as_what_it_is(
    make: dict[str, Any], words: str, trees: ModuleType, run: Path, tmp_path: Path, crossbeat: Command
) -> None:
    trees.cine(tmp_path / "study", **make)
    told = crossbeat("predict", run, tmp_path / "study", "-o", tmp_path / "out", *CPU)
    assert told.code == 2
    assert words in told.err
    assert not (tmp_path / "out").exists()


def test_one_slice_is_drawn_but_gets_no_volumes(
    run: Path, scan: Path, tmp_path: Path, crossbeat: Command
) -> None:
    image = nib.load(scan)
    middle = np.asarray(image.dataobj)[:, :, 4:5, None].repeat(4, axis=3)
    nib.save(nib.Nifti1Image(middle, image.affine), tmp_path / "slice.nii.gz")
    assert crossbeat("predict", run, tmp_path / "slice.nii.gz", "-o", tmp_path / "out", *CPU).code == 0
    told = crossbeat("measure", tmp_path / "out")
    assert told.code == 0
    assert "scan 'slice': one slice, where a stack is needed: no volumes" in told.err
    (line,) = read_csv(tmp_path / "out" / "indices.csv")
    assert {line[column] for column in line if column.endswith(("_ml", "_g", "ef_percent"))} == {"nan"}
    assert line["remark"].startswith("one slice")


@pytest.mark.slow
def test_scans_predicted_one_after_another_are_measured_together_and_none_is_left_out(
    run: Path, phantom: Path, tmp_path: Path, crossbeat: Command
) -> None:
    for scan in ("phantom001_bssfp", "phantom002_bssfp"):
        words = (phantom / "cohort.csv", "-o", tmp_path, *CPU, "--where", f"scan={scan}")
        assert crossbeat("predict", run, *words).code == 0
    assert crossbeat("measure", tmp_path).code == 0
    measured = {line["scan"] for line in read_csv(tmp_path / "indices.csv")}
    assert measured == {"phantom001_bssfp", "phantom002_bssfp"}
    (tmp_path / "phantom002_bssfp.nii.gz").unlink()
    told = crossbeat("measure", tmp_path)
    assert told.code == 2
    assert "1 of its 2 scans have no label map: phantom002_bssfp" in told.err


# Nothing of the user's is written over


@pytest.mark.parametrize("given", ["folder", "file", "csv"])
def test_label_maps_are_never_written_over_the_scans(
    given: str, run: Path, phantom: Path, scan: Path, tmp_path: Path, crossbeat: Command
) -> None:
    (tmp_path / "a.nii.gz").write_bytes(scan.read_bytes())
    (tmp_path / "cohort.csv").write_text("subject,scan,sequence,image\na,a,bssfp,a.nii.gz\n")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    source = {"folder": tmp_path, "file": tmp_path / "a.nii.gz", "csv": tmp_path / "cohort.csv"}[given]
    told = crossbeat("predict", run, source, "-o", tmp_path, *CPU)
    assert told.code == 2
    assert "label maps need a folder of their own" in told.err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_scans_that_a_cohort_names_elsewhere_are_safe_too(
    run: Path, scan: Path, tmp_path: Path, crossbeat: Command
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.nii.gz").write_bytes(scan.read_bytes())
    (tmp_path / "cohort.csv").write_text("subject,scan,sequence,image\na,a,bssfp,images/a.nii.gz\n")
    told = crossbeat("predict", run, tmp_path / "cohort.csv", "-o", tmp_path / "images", *CPU)
    assert told.code == 2
    assert "is a scan or its reference, not a label map of ours" in told.err
    assert (tmp_path / "images" / "a.nii.gz").read_bytes() == scan.read_bytes()


def test_a_training_that_could_not_begin_leaves_no_folder_in_the_way(
    phantom: Path, tmp_path: Path, crossbeat: Command
) -> None:
    bare = tmp_path / "cohort.csv"
    bare.write_text("subject,scan,sequence,image\na,a,bssfp,nowhere.nii.gz\n")
    for changed, words in (("", "no labelled scan to train on"), (",labels\n", "nowhere.nii.gz")):
        if changed:
            bare.write_text("subject,scan,sequence,image,labels\na,a,bssfp,nowhere.nii.gz,l.nii.gz\n")
        told = crossbeat(*train_words(bare, tmp_path / "run"))
        assert (told.code, told.out) == (2, "")
        assert words in told.err
        assert not (tmp_path / "run").exists()


# Refusals: exit code 2, one message, no traceback


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train supervisd {csv} -o {new}", "method 'supervisd' does not exist; did you mean 'supervised'?"),
        ("train supervised {csv} -o {new} --set stepz=3", "no setting 'stepz'; did you mean 'steps'?"),
        ("train supervised {csv} -o {new} --set steps", "--set steps: write key=value"),
        ("train supervised {csv} -o {new} --set 'source={{a'", "is not YAML"),
        (
            "train supervised {csv} -o {new} --set network_arguments.width=4",
            "no dots; write --set 'network_arguments={width: 4}', which replaces all of network_arguments",
        ),
        ("train supervised {csv} -o {new} --recipe {new}.yaml", "there is no such recipe"),
        ("train supervised {new}.csv -o {new}", "cannot be read (No such file or directory)"),
        ("train supervised {csv} -o {folder}", "already holds files; add --resume"),
        ("train supervised {csv} -o {folder} --resume", "no run.json, so it is no run that could be resumed"),
        ("train supervised {csv} -o {new} --device gpu", "--device gpu: must be one of auto, cpu, cuda"),
        ("train supervised {csv} -o {new} --precision 8", "--precision 8: must be one of auto, 32, bf16, 16"),
        ("predict {new} {csv}", "segmenter.json is missing; is this a finished run?"),
        ("predict {run} {csv} -o {new} --device gpu", "device 'gpu' does not exist; it is auto, cpu or cuda"),
        ("predict {run} {csv} -o {new} --where sequence=lge", "no scan of cohort matches sequence=lge"),
        ("predict {run} {csv} -o {new} --where sequenc=lge", "no column 'sequenc'; did you mean 'sequence'?"),
        ("predict {run} {csv} -o {new} --where lge", "write column=value, as in sequence=lge,vendor=A|B"),
        ("predict {run} {new} -o {new}", "does not exist; give a cohort.csv, a NIfTI file, or a folder"),
        ("predict {run} {new}", "new: does not exist; give a cohort.csv, a NIfTI file, or a folder"),
        ("predict {run} {script} -o {new}", "is neither a cohort.csv nor a .nii or .nii.gz file"),
        ("predict {run} {empty} -o {new}", "no DICOM file is there"),
        ("evaluate {run} {csv}", "has no prediction (nor have phantom002_bssfp): 2 of 2 are missing"),
        ("measure {empty}", "holds no label maps with their cohort.csv; `crossbeat predict` makes them"),
        ("report {folder}", "is no run folder (no run.json); `crossbeat train` makes one"),
        ("phantom {new} --sequences t1", "sequence 't1' does not exist; known are bssfp, lge, t2"),
        ("phantom {new} --vendors z", "vendor 'z' does not exist; known are a, b, c, d"),
        ("index {folder} --layout adcd -o {new}.csv", "layout 'adcd' does not exist; did you mean 'acdc'"),
        ("index {new} --layout files -o {new}.csv", "there is no such folder"),
        ("index {folder} --layout acdc -o {new}.csv", "holds nothing of this layout"),
        ("index {folder} --layout acdc --images x -o {new}.csv", "layout 'acdc' has no option 'images'"),
        ("index {new} --layout acdc -o {new}.csv", "new: there is no such folder"),
        ("index {script} --layout acdc -o {new}.csv", "crossbeat: is a file, not a folder"),
        ("index {folder} --layout files -o {new}.csv", "layout 'files' needs --images, lest masks be taken"),
        ("index {folder} --layout files --images '*' --test 9 -o {new}.csv", "leave none of 2 to train"),
        (
            "index {folder} --layout files --images '*' --nominal-spacing 8 -o {new}.csv",
            "write x, y and z in mm",
        ),
    ],
)
def test_a_mistake_is_one_readable_message(
    words: str, message: str, phantom: Path, run: Path, tmp_path: Path, crossbeat: Command
) -> None:
    (tmp_path / "empty").mkdir()
    places = {
        "csv": phantom / "cohort.csv", "run": run, "new": tmp_path / "new", "empty": tmp_path / "empty",
        "folder": phantom / "images", "script": SCRIPT,
    }  # fmt: skip
    quoted = {name: shlex.quote(str(path)) for name, path in places.items()}
    told = crossbeat(*shlex.split(words.format(**quoted)))
    assert told.code == 2
    complaints = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert len(complaints) == 1
    assert message in complaints[0]
    assert "Traceback" not in told.err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"], "nothing is left behind"


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_shows_the_traceback_wherever_it_stands(place: int, tmp_path: Path) -> None:
    words = ["report", str(tmp_path)]
    words.insert(place, "--debug")
    with pytest.raises(CrossbeatError, match=r"no run\.json"):
        main(words)


def test_a_misspelt_command_or_option_is_corrected(crossbeat: Command) -> None:
    command, option = crossbeat("trian"), crossbeat("info", "--jsn")
    assert (command.code, option.code) == (2, 2)
    assert "Did you mean 'train'?" in command.err
    assert "--json" in option.err


# What the program says of itself


def test_info_is_complete_for_people_and_for_machines(crossbeat: Command) -> None:
    facts = json.loads(crossbeat("info", "--json").out)
    assert set(facts["methods"]) == set(METHODS)
    assert set(facts["layouts"]) == set(LAYOUTS)
    assert facts["versions"]["torch"] == torch.__version__
    shown = crossbeat("info").out
    for section, values in facts.items():
        assert section in shown
        assert all(name in shown for name in values)


def test_info_keeps_words_whole_on_a_narrow_terminal(
    crossbeat: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossbeat.console.out._width", 80)
    shown = crossbeat("info").out
    assert max(map(len, shown.splitlines())) <= 80
    told = set(re.split(r"\s+", shown))
    facts = json.loads(crossbeat("info", "--json").out)
    for title, values in facts.items():
        assert title in shown
        for name, text in values.items():
            assert {name, *text.split()} <= told, f"{name}: {text}"


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_setting_of_a_method_is_listed_with_its_default_by_size(name: str, crossbeat: Command) -> None:
    told = crossbeat("settings", name)
    assert told.code == 0
    lines = {line.split("│")[1].strip(): line for line in told.out.splitlines() if line.startswith("│")}
    fields = METHODS[name].settings.model_fields
    assert set(fields) <= set(lines)
    assert all(field.description for field in fields.values())
    assert "methods.md" not in told.out, "users do not have the design notes"


def test_settings_are_shown_as_a_recipe_has_them(crossbeat: Command) -> None:
    told = crossbeat("settings", "supervised").out
    (steps,) = (line for line in told.splitlines() if line.startswith("│ steps "))
    assert [cell.strip() for cell in steps.split("│")[1:-1]] == [
        "steps", "6000", "1000", "600", "updates of the network (≥ 1)"
    ]  # fmt: skip
    text = crossbeat("settings", "weak_transfer", "--profile", "text").out
    assert text != crossbeat("settings", "weak_transfer").out
    assert (
        "profile 'text' does not exist for this method"
        in crossbeat("settings", "supervised", "--profile", "text").err
    )
    assert "did you mean 'supervised'?" in crossbeat("settings", "supervisd").err


def test_the_version_is_that_of_the_package(crossbeat: Command) -> None:
    told = crossbeat("--version")
    assert (told.code, told.out) == (0, f"crossbeat {__version__}\n")


@pytest.mark.parametrize("name", sorted(name for name, _ in commands()))
def test_every_word_of_a_command_has_help(name: str) -> None:
    command = dict(commands())[name]
    assert command.help
    assert command.help.splitlines()[0].endswith((".", "1"))
    silent = [parameter.name for parameter in command.params if not getattr(parameter, "help", "")]
    assert not silent


def test_the_layouts_in_the_help_are_those_there_are() -> None:
    index = dict(commands())["index"]
    (layout,) = (parameter for parameter in index.params if parameter.name == "layout")
    assert sorted(re.split(r", | or ", layout.help)) == sorted(LAYOUTS)


def test_the_methods_in_the_help_are_those_there_are() -> None:
    (method,) = (parameter for parameter in dict(commands())["train"].params if parameter.name == "method")
    assert all(name in method.help for name in METHODS)


def test_a_method_brings_a_command_whose_file_is_imported_when_it_runs(
    tmp_path: Path, crossbeat: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fifth.py").write_text(
        "import typer\n"
        "def tag(scan: str, times: int = 1) -> None:\n"
        '    """Tag a scan."""\n'
        "    print(f'{scan} {times}')\n"
        "    if not times:\n"
        "        raise typer.Exit(1)\n"
    )
    monkeypatch.setattr("crossbeat.cli.__path__", [str(tmp_path)])
    monkeypatch.setattr(
        "crossbeat.cli.METHODS", {"fifth": Method("fifth", "", {"tag": "Tag a scan, and say so."})}
    )
    kept = list(app.registered_commands)
    try:
        offer_method_commands()
        assert "Tag a scan, and say so." in crossbeat("--help").out
        assert "crossbeat.cli.fifth" not in sys.modules
        assert crossbeat("tag", "anna", "--times", 2) == Told(0, "anna 2\n", "")
        assert crossbeat("tag", "anna", "--times=0").code == 1
        refused = crossbeat("tag", "anna", "--tims", 2)
        assert (refused.code, "--times" in refused.err) == (2, True)
        shown = crossbeat("tag", "--help").out
        assert "Usage: crossbeat tag" in shown
        assert "--times" in shown
    finally:
        app.registered_commands[:] = kept
        sys.modules.pop("crossbeat.cli.fifth", None)


@pytest.mark.slow
def test_the_installed_script_answers_and_refuses(tmp_path: Path) -> None:
    def script(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(SCRIPT), *words], capture_output=True, text=True, check=False, cwd=tmp_path
        )

    shown = script("--help")
    assert shown.returncode == 0
    assert all(name in shown.stdout for name, _ in commands())
    assert "--debug" in shown.stdout
    refused = script("check", "nowhere.csv")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines() == [
        "error: nowhere.csv: cannot be read (No such file or directory); `crossbeat index` makes a cohort.csv"
    ]
    seen = script("report", ".", "--debug")
    assert seen.returncode == 1
    assert "Traceback" in seen.stderr
    assert not list(tmp_path.iterdir())
