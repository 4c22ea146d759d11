"""`crossbeat stylize` as a user runs it, with stylizers that are known: RAIN paints everything 0.25, AdaConv 0.75."""

import csv
import json
import math
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
import torch

from crossbeat.case import Case
from crossbeat.cli import method_command
from crossbeat.cli.style_sources import find_contents, find_styles, load_stylizers
from crossbeat.cli.stylised import Task, stylise_cohort, write_results
from crossbeat.cohort import Cohort, read_cohort
from crossbeat.data import reader
from crossbeat.data.checking import check
from crossbeat.data.nifti import read_volume, write_volume
from crossbeat.errors import CrossbeatError
from crossbeat.labels import Structure
from crossbeat.methods import METHODS
from crossbeat.methods.stylization import Encoder, Settings, Stylizer
from crossbeat.methods.stylization.restyling import prepare
from crossbeat.networks.adaconv import AdaConv
from crossbeat.networks.rain import Rain
from crossbeat.networks.vgg import Vgg
from crossbeat.prepare.volumes import normalise, slices_of, window_of
from crossbeat.segmenter import Segmenter
from crossbeat.statistics.histograms import divergence_nats

RAIN_GREY, ADACONV_GREY = 0.25, 0.75
GREY = {"bssfp": [60, 250, 90, 240], "lge": [50, 160, 20, 150]}
AFFINE = np.diag([-2.0, -2.5, 8.0, 1.0])
SHAPE = (52, 60)
TINY: dict[str, Any] = {
    "source": {"sequence": "bssfp"},
    "target": {"sequence": "lge"},
    "encoder": "random",
    "network_arguments": {"width": 2},
    "image_size": 32,
    "spacing_mm": 3.0,
    "augmentation": "none",
    "style_channels": 8,
}
LV_MYO_RV = (Structure.LV, Structure.MYO, Structure.RV)


class Told(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Told]


@pytest.fixture
def stylize(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `crossbeat stylize` in this process, on a CPU."""
    command = method_command(METHODS["stylization"], "stylize")

    def run(*words: object) -> Told:
        code, error = 0, ""
        try:
            command(args=[*map(str, words), "--device", "cpu"], prog_name="crossbeat stylize")
        except CrossbeatError as found:
            code, error = 2, str(found)
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return Told(code, out, err + error)

    return run


def heart(slices: int = 3) -> np.ndarray:
    """Labels (1, z, y, x) of a ring with a cavity, and a crescent beside it; pixels are 2.5 x 2 mm."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    labels = np.zeros((1, slices, *SHAPE), np.uint8)
    beside, distance = (np.hypot((y - 26) * 2.5, (x - at) * 2.0) for at in (23, 34))
    labels[..., beside < 20] = Structure.RV
    labels[..., distance < 21] = Structure.MYO
    labels[..., distance < 13] = Structure.LV
    return labels


def image(sequence: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = heart()
    return (np.asarray(GREY[sequence])[labels] + rng.normal(0, 6, labels.shape)).astype(np.float32)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three patients' bSSFP, labelled, the last one's in the test split; LGE of the first two, one of them labelled."""
    folder = tmp_path / "data"
    write_volume(folder / "labels.nii.gz", heart(), AFFINE)
    lines = []
    for i, split in enumerate(("train", "train", "test")):
        write_volume(folder / f"b{i}.nii.gz", image("bssfp", i), AFFINE)
        lines.append(f"s{i},b{i},bssfp,{split},b{i}.nii.gz,labels.nii.gz,0")
    for i, labels in enumerate(("labels.nii.gz", "")):
        write_volume(folder / f"l{i}.nii.gz", image("lge", 10 + i), AFFINE)
        lines.append(f"s{i},l{i},lge,train,l{i}.nii.gz,{labels},")
    write_csv(folder / "cohort.csv", *lines)
    return folder


def write_csv(path: Path, *lines: str) -> None:
    path.write_text("\n".join(["subject,scan,sequence,split,image,labels,ed_frame", *lines, ""]))


def save_run(folder: Path, kind: str = "rain", segmenter: bool = False, **provenance: Any) -> Path:
    """A run whose stylizer paints one grey, whatever it is shown."""
    torch.manual_seed(0)
    settings = Settings.of({**TINY, "stylizer": kind})
    network: Rain | AdaConv = Rain() if kind == "rain" else settings.build_stylizer()  # type: ignore[assignment]
    with torch.no_grad():
        last = [m for m in network.decoder.modules() if isinstance(m, torch.nn.Conv2d)][-1]
        last.weight.zero_()
        assert last.bias is not None
        last.bias.fill_(RAIN_GREY if kind == "rain" else ADACONV_GREY)
    told = {"settings": settings.model_dump(mode="json"), "styles": ["l0", "l1"], **provenance}
    stylizer = Stylizer(Encoder(Vgg(), "random", settings.preparation), network, provenance=told)
    stylizer.save(folder / "models" / "stylizer")
    if segmenter:
        origin = {"trained_on": {"source": ["b0", "b1"], "target": ["l1"]}}
        Segmenter(settings.spec.build(), settings.spec, settings.preparation, provenance=origin).save(
            folder / "segmenter"
        )
    return folder


@pytest.fixture(scope="module")
def rain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("rain"), segmenter=True)


@pytest.fixture(scope="module")
def adaconv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("adaconv"), "adaconv")


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def page_of(out: Path) -> str:
    return (out / "stylization.html").read_text(encoding="utf-8")


def cohort_of(path: Path) -> Cohort:
    return read_cohort(path, reader)


# --- what is written ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_scans_of_the_source_take_on_the_style_inside_the_crop_and_keep_their_labels(
    data: Path, rain: Path, tmp_path: Path, stylize: Command
) -> None:
    out, before = tmp_path / "out", files(data)
    told = stylize(rain, data / "cohort.csv", "-o", out, "--all")
    assert told.code == 0, told.err
    assert files(data) == before
    assert shlex.split(told.out.splitlines()[-1]) == ["next:", "crossbeat", "check", str(out / "cohort.csv")]
    cohort = cohort_of(out / "cohort.csv")
    assert [row.scan for row in cohort] == ["b0_rain", "b1_rain", "b2_rain"]
    preparation = Settings.of(TINY).preparation
    for row in cohort:
        case, content = cohort.read(row), cohort_of(data / "cohort.csv")
        was = content.read(content.row(row.further["stylised_from"]))
        np.testing.assert_array_equal(case.labels, was.labels)
        np.testing.assert_allclose(case.affine, was.affine)
        window = window_of(was, preparation)  # 96 mm of it are the crop, 19 rows and 23 columns each way
        y, x = (round(c) for c in window.centre)
        np.testing.assert_allclose(case.image[..., y - 17 : y + 18, x - 21 : x + 22], RAIN_GREY, atol=1e-6)
        rim = np.ones(SHAPE, bool)
        rim[max(y - 21, 0) : y + 22, max(x - 26, 0) : x + 27] = False
        assert rim.any()
        np.testing.assert_allclose(
            case.image[..., rim], prepare(was, preparation).plain()[..., rim], atol=1e-6
        )
    assert not [str(problem) for problem in check(cohort, out) if problem.severity == "error"]


@pytest.mark.slow
def test_nobody_takes_them_for_real_scans(data: Path, rain: Path, tmp_path: Path, stylize: Command) -> None:
    assert stylize(rain, data / "cohort.csv", "-o", tmp_path / "out", "--all").code == 0
    cohort = cohort_of(tmp_path / "out" / "cohort.csv")
    assert not len(cohort.where(sequence="lge"))
    assert not len(cohort.where(sequence="bssfp"))
    for row, (subject, split) in zip(cohort, [("s0", "train"), ("s1", "train"), ("s2", "test")], strict=True):
        assert (row.sequence, row.subject, row.split, row.ed_frame) == ("bssfp_as_lge", subject, split, 0)
        assert re.fullmatch("l1 frame 0 slice [012]", row.further["stylised_as"])
        assert (row.further["stylised_from"], row.further["stylizer"]) == (row.scan[:2], "rain centre")
        assert row.labels == "../data/labels.nii.gz"
        about = json.loads((tmp_path / "out" / "images" / f"{row.scan}.json").read_text())
        assert (about["image"], about["style_scan"], about["run"]) == (
            [f"{row.scan[:2]}.nii.gz"],
            "l1",
            str(rain),
        )
    header = nib.load(tmp_path / "out" / "images" / "b0_rain.nii.gz").header
    assert b"not measured" in header["descrip"].item()


@pytest.mark.slow
def test_images_lie_on_the_axes_on_which_the_scan_was_stored(
    data: Path, rain: Path, tmp_path: Path, stylize: Command
) -> None:
    stored = nib.load(data / "b2.nii.gz")
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(stored.affine), nib.orientations.axcodes2ornt(("S", "L", "P"))
    )
    straight = tmp_path / "straight"
    assert stylize(rain, data / "cohort.csv", "-o", straight).code == 0
    nib.save(stored.as_reoriented(turn), data / "b2.nii.gz")
    assert stylize(rain, data / "cohort.csv", "-o", tmp_path / "out").code == 0
    written = nib.load(tmp_path / "out" / "images" / "b2_rain.nii.gz")
    assert nib.aff2axcodes(written.affine) == ("S", "L", "P")
    np.testing.assert_array_equal(written.affine, nib.load(data / "b2.nii.gz").affine)
    first, second = (read_volume(d / "images" / "b2_rain.nii.gz").array for d in (straight, tmp_path / "out"))
    np.testing.assert_allclose(first, second, atol=1e-6)
    cohort = cohort_of(tmp_path / "out" / "cohort.csv")
    np.testing.assert_array_equal(cohort.read(cohort.rows[0]).labels, heart())


@pytest.mark.slow
def test_without_a_filter_the_test_split_of_the_source_is_restyled(
    data: Path, rain: Path, tmp_path: Path, stylize: Command
) -> None:
    told = stylize(rain, data / "cohort.csv", "-o", tmp_path / "one")
    assert "1 of 3 scans: split=test" in told.out
    assert [row["scan"] for row in read_csv(tmp_path / "one" / "cohort.csv")] == ["b2_rain"]
    told = stylize(rain, data / "cohort.csv", "-o", tmp_path / "other", "--where", "scan=l0|b0,split=train")
    assert told.code == 0, told.err
    rows = read_csv(tmp_path / "other" / "cohort.csv")
    assert [(row["scan"], row["sequence"]) for row in rows] == [
        ("b0_rain", "bssfp_as_lge"),
        ("l0_rain", "lge_as_lge"),
    ]


def test_a_run_that_found_its_stylizer_keeps_its_own_settings(rain: Path, tmp_path: Path) -> None:
    """stylizer.json tells those of the arm that learnt it."""
    shutil.copytree(rain / "models" / "stylizer", tmp_path / "models" / "stylizer")
    theirs = load_stylizers([tmp_path], torch.device("cpu"))[0].settings
    (tmp_path / "settings.yaml").write_text(f"epsilon_rounds: {theirs.uses + 4}\n")
    assert load_stylizers([tmp_path], torch.device("cpu"))[0].settings.uses == theirs.uses + 4


# --- whose styles ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_styles_are_those_that_the_run_saw_or_those_that_are_named(
    data: Path, rain: Path, adaconv: Path, tmp_path: Path
) -> None:
    cohort = cohort_of(data / "cohort.csv")
    (first,), (second,) = (load_stylizers([run], torch.device("cpu")) for run in (rain, adaconv))
    seen = {
        word: {place.scan for place in find_styles(word, cohort, [run]).places}
        for word, run in (("target", first), ("sequence=lge", first), ("scan=b1|l0", second))
    }
    assert seen == {"target": {"l1"}, "sequence=lge": {"l0", "l1"}, "scan=b1|l0": {"b1", "l0"}}
    assert {p.scan for p in find_styles("target", cohort, [second]).places} == {"l0", "l1"}, (
        "no segmenter tells"
    )


@pytest.mark.slow
def test_a_scans_style_is_drawn_by_seed_and_its_own_name_alone(
    data: Path, rain: Path, tmp_path: Path, stylize: Command
) -> None:
    words = (rain, data / "cohort.csv", "--style", "sequence=lge")
    drawn = {}
    for name, more in (
        ("all", ["--all"]),
        ("one", ["--where", "scan=b1,split=train"]),
        ("other", ["--all", "--seed", "1"]),
    ):
        assert stylize(*words, "-o", tmp_path / name, *more).code == 0
        drawn[name] = {
            row["stylised_from"]: row["stylised_as"] for row in read_csv(tmp_path / name / "cohort.csv")
        }
    assert drawn["one"] == {"b1": drawn["all"]["b1"]}
    assert drawn["other"] != drawn["all"]
    lines = read_csv(tmp_path / "all" / "styles.csv")
    assert [f"{x['style_scan']} frame {x['style_frame']} slice {x['style_slice']}" for x in lines] == list(
        drawn["all"].values()
    )


@pytest.mark.slow
def test_a_style_may_be_one_file_of_another_size_and_spacing(
    data: Path, rain: Path, tmp_path: Path, stylize: Command
) -> None:
    rng = np.random.default_rng(5)
    write_volume(
        tmp_path / "Own.nii.gz", rng.random((1, 2, 19, 90)).astype(np.float32), np.diag([1.1, 3, 12, 1])
    )
    told = stylize(rain, data / "cohort.csv", "-o", tmp_path / "out", "--style", tmp_path / "Own.nii.gz")
    assert told.code == 0, told.err
    (row,) = read_csv(tmp_path / "out" / "cohort.csv")
    assert row["sequence"] == "bssfp_as_own"
    assert row["stylised_as"].startswith("Own frame 0 slice ")


@pytest.mark.slow
def test_of_a_style_cine_the_frame_is_told_in_its_own_counting(
    data: Path, rain: Path, tmp_path: Path, stylize: Command
) -> None:
    cine = np.concatenate([image("lge", t) for t in range(6)])
    write_volume(data / "l1.nii.gz", cine, AFFINE)
    text = (data / "cohort.csv").read_text().replace("l1.nii.gz,,", "l1.nii.gz,,4")
    (data / "cohort.csv").write_text(text)
    assert stylize(rain, data / "cohort.csv", "-o", tmp_path / "out").code == 0
    assert read_csv(tmp_path / "out" / "styles.csv")[0]["style_frame"] == "4"


# --- several stylizers, several styles ---------------------------------------------------------------


@pytest.mark.slow
def test_stylizers_stand_side_by_side_in_the_same_style(
    data: Path, rain: Path, adaconv: Path, tmp_path: Path, stylize: Command
) -> None:
    out = tmp_path / "out"
    told = stylize(rain, data / "cohort.csv", "-o", out, "--beside", adaconv, "--beside", rain)
    assert told.code == 0, told.err
    rows = read_csv(out / "cohort.csv")
    assert [row["scan"] for row in rows] == ["b2_rain", "b2_adaconv", "b2_rain-2"]
    assert len({row["stylised_as"] for row in rows}) == 1
    assert [row["stylizer"] for row in rows] == ["rain centre", "adaconv descriptor", "rain-2 centre"]
    middle = {row["scan"]: read_volume(out / row["image"]).array[0, 1, 26, 28] for row in rows}
    assert middle == pytest.approx({"b2_rain": 0.25, "b2_adaconv": 0.75, "b2_rain-2": 0.25})
    text = page_of(out)
    assert all(f"<strong>{name}</strong>" in text for name in ("RAIN", "AdaConv", "RAIN 2"))
    assert "RAIN, along ε." in text
    assert "AdaConv, along ε." not in text, "its styles have no code"


@pytest.mark.slow
def test_explored_styles_are_written_beside_where_styles_have_a_code(
    data: Path, rain: Path, adaconv: Path, tmp_path: Path, stylize: Command
) -> None:
    out = tmp_path / "out"
    assert stylize(rain, data / "cohort.csv", "-o", out, "--codes", 2, "--beside", adaconv).code == 0
    lines = read_csv(out / "styles.csv")
    assert [(x["scan"], x["code"]) for x in lines] == [
        ("b2_rain", "centre"), ("b2_rain_code1", "drawn 1"), ("b2_rain_code2", "drawn 2"), ("b2_adaconv", "descriptor"),
    ]  # fmt: skip
    assert {p.name for p in (out / "images").glob("*.nii.gz")} == {f"{x['scan']}.nii.gz" for x in lines}
    assert {x["stylised_from"] for x in read_csv(out / "structure.csv")} == {"b2"}
    told = stylize(adaconv, data / "cohort.csv", "-o", tmp_path / "none", "--codes", 1)
    assert (told.code, "--codes 1: styles of" in told.err, "have no code to draw from" in told.err) == (
        2,
        True,
        True,
    )
    assert not (tmp_path / "none").exists()


# --- what is said of them ----------------------------------------------------------------------------


@pytest.mark.slow
def test_divergences_are_those_of_the_voxels_before_and_after(
    data: Path, rain: Path, tmp_path: Path, stylize: Command
) -> None:
    """All that is painted falls in bin 16 of 64; the content's wall is counted on the stylizer's own pixels."""
    assert stylize(rain, data / "cohort.csv", "-o", tmp_path / "out", "--style", "scan=l0").code == 0
    (line,) = read_csv(tmp_path / "out" / "styles.csv")
    cohort, preparation = cohort_of(data / "cohort.csv"), Settings.of(TINY).preparation

    def counts(scan: str, centred: bool) -> np.ndarray:
        case = cohort.read(cohort.row(scan))
        given = preparation if centred else preparation.model_copy(update={"centre": "image"})
        window = window_of(case, given)
        fields = normalise(window.cut(slices_of(case.image)), window, given)[:, 0, 8:40, 8:40].numpy()
        walls = window.cut_labels(torch.from_numpy(heart()[0]))[:, 8:40, 8:40].numpy() == Structure.MYO
        return np.histogram(fields[walls], 64, (0, 1))[0]

    content, style = counts("b2", True), counts("l0", False)
    painted = np.zeros(64, np.int64)
    painted[16] = content.sum()
    assert float(line["myocardium_from_content"]) == pytest.approx(
        divergence_nats(painted, content), rel=1e-3
    )
    assert float(line["myocardium_from_style"]) == pytest.approx(divergence_nats(painted, style), rel=1e-3)


@pytest.mark.slow
def test_a_style_that_nobody_labelled_has_no_histogram_of_its_heart(
    data: Path, rain: Path, tmp_path: Path, stylize: Command
) -> None:
    assert stylize(rain, data / "cohort.csv", "-o", tmp_path / "out", "--style", "scan=l1").code == 0
    (line,) = read_csv(tmp_path / "out" / "styles.csv")
    assert line["myocardium_from_style"] == line["heart_from_style"] == "nan"
    assert all(float(line[f"{r}_from_content"]) > 0 for r in ("myocardium", "heart", "crop"))
    assert float(line["crop_from_style"]) > 0


@pytest.mark.slow
def test_one_grey_keeps_no_edge(data: Path, rain: Path, tmp_path: Path, stylize: Command) -> None:
    assert stylize(rain, data / "cohort.csv", "-o", tmp_path / "out").code == 0
    (line,) = read_csv(tmp_path / "out" / "structure.csv")
    assert (line["metric"], line["structure"], line["segmenter"]) == ("edge_correlation", "", "")
    assert (float(line["content"]), float(line["stylised"])) == (1, pytest.approx(0, abs=1e-6))
    assert float(line["difference"]) == pytest.approx(-1, abs=1e-6)


class Judge(Segmenter):
    """Sees the whole heart in measured scans, and its upper half where all is of one grey."""

    def predict(self, case: Case) -> np.ndarray:
        assert case.labels is not None
        labels = case.labels.copy()
        if float(case.image.std()) < 1e-3:
            labels[..., lower_half(labels), :] = 0
        return labels


def lower_half(labels: np.ndarray) -> slice:
    """Rows from the middle of the heart's own on."""
    rows = np.flatnonzero(labels.any(axis=(0, 1, 3)))
    return slice(int(rows[len(rows) // 2]), None)


@pytest.mark.slow
def test_the_structure_check_is_the_dice_before_and_after_of_labelled_frames(
    data: Path, rain: Path, tmp_path: Path
) -> None:
    frames = np.concatenate([image("bssfp", t) for t in range(3)])
    write_volume(data / "b2.nii.gz", frames, AFFINE)
    text = (
        (data / "cohort.csv").read_text().replace("b2.nii.gz,labels.nii.gz,0", "b2.nii.gz,2=labels.nii.gz,2")
    )
    (data / "cohort.csv").write_text(text)
    cohort = cohort_of(data / "cohort.csv")
    runs = load_stylizers([rain], torch.device("cpu"))
    own = runs[0].segmenter
    assert own is not None
    judge = Judge(own.network, own.spec, own.preparation)
    task = Task(runs, find_styles("target", cohort, runs), (Path("judge"), judge), 0, 0, tmp_path / "out")
    (found,), failures = stylise_cohort(find_contents(cohort, runs[0], "", False), task)
    assert not failures
    lines = {x.structure: x for x in found.structures if x.metric == "dice"}
    assert list(lines) == ["LV", "MYO", "RV", "mean"]
    expected = []
    for s in LV_MYO_RV:
        upper = heart().copy()
        upper[..., lower_half(upper), :] = 0
        whole, half = int((heart() == s).sum()), int((upper == s).sum())
        expected.append(2 * half / (whole + half))
        assert lines[s.name].stylised == pytest.approx(expected[-1])
    assert lines["mean"].stylised == pytest.approx(np.mean(expected))
    assert all((x.content, x.frame, x.phase, x.segmenter) == (1, "2", "ED", "judge") for x in lines.values())
    assert lines["LV"].difference == pytest.approx(expected[0] - 1)


class Blind(Segmenter):
    """Sees no heart anywhere."""

    def predict(self, case: Case) -> np.ndarray:
        return np.zeros(case.image.shape, np.uint8)


@pytest.mark.slow
def test_a_segmenter_that_finds_nothing_before_tells_nothing_after(
    data: Path, rain: Path, tmp_path: Path
) -> None:
    cohort = cohort_of(data / "cohort.csv")
    runs = load_stylizers([rain], torch.device("cpu"))
    own = runs[0].segmenter
    assert own is not None
    contents, styles = find_contents(cohort, runs[0], "", False), find_styles("target", cohort, runs)
    for kind, out in ((Blind, tmp_path / "blind"), (Judge, tmp_path / "judge")):
        judge = kind(own.network, own.spec, own.preparation)
        task = Task(runs, styles, (Path("judge"), judge), 0, 0, out)
        found, _ = stylise_cohort(contents, task)
        write_results(found, [], contents, task)
        assert ("finds nothing in the contents themselves" in page_of(out)) == (kind is Blind)
        assert "hardly show their contents: edge correlation 0.00" in page_of(
            out
        )  # one grey, whatever is shown
        shown = replace(found[0], structures=[replace(x, stylised=0.9) for x in found[0].structures])
        write_results([shown], [], contents, task)
        assert "hardly show their contents" not in page_of(out)


@pytest.mark.slow
def test_the_structure_check_says_where_its_segmenter_knew_the_scans(
    data: Path, rain: Path, tmp_path: Path, stylize: Command
) -> None:
    words = (rain, data / "cohort.csv", "--segmenter", rain)
    assert stylize(*words, "-o", tmp_path / "new").code == 0
    assert "check learnt from" not in page_of(tmp_path / "new")
    told = stylize(*words, "-o", tmp_path / "known", "--all")
    assert told.code == 0, told.err
    assert "The segmenter of the structure check learnt from 2 of these 3 scans" in page_of(
        tmp_path / "known"
    )
    lines = read_csv(tmp_path / "known" / "structure.csv")
    assert {x["segmenter"] for x in lines if x["metric"] == "dice"} == {str(rain)}
    assert all(0 <= float(x["stylised"]) <= 1 or math.isnan(float(x["stylised"])) for x in lines)
    assert "Dice of a segmenter of source images" in page_of(tmp_path / "known")


@pytest.mark.slow
def test_the_page_shows_contours_predictions_and_the_code(
    data: Path, rain: Path, tmp_path: Path, stylize: Command
) -> None:
    assert stylize(rain, data / "cohort.csv", "-o", tmp_path / "out", "--style", "scan=l0").code == 0
    text = page_of(tmp_path / "out")
    for words in (
        "As they are.",
        "Drawn contours.",
        "Predictions.",
        "RAIN, along ε.",
        "RAIN, uphill.",
        "ψ − 3 ξ",
    ):
        assert words in text, words
    assert len(re.findall("<strong>[0-9] steps?</strong> loss [0-9.]+", text)) == 6
    assert text.count('<figure class="drawn">') == 2, "training makes two ascents of three uses"
    assert "http://" not in text
    assert "https://" not in text


@pytest.mark.slow
def test_scans_without_labels_are_restyled_and_shown_without_contours(
    data: Path, adaconv: Path, rain: Path, tmp_path: Path, stylize: Command
) -> None:
    text = (data / "cohort.csv").read_text().replace("labels.nii.gz", "")
    (data / "cohort.csv").write_text(text)
    told = stylize(
        rain, data / "cohort.csv", "-o", tmp_path / "out", "--segmenter", rain, "--beside", adaconv
    )
    assert told.code == 0, told.err
    text = page_of(tmp_path / "out")
    assert "Nobody labelled it: no contours" in text
    assert "Drawn contours." not in text
    assert "RAIN, along ε." in text
    assert "uphill" not in text.split("</main>")[0].split('id="intensities"')[0]
    assert {x["metric"] for x in read_csv(tmp_path / "out" / "structure.csv")} == {"edge_correlation"}
    assert "Crop, RAIN" in text, "histograms of the whole crop where nobody drew a heart"
    (row, _) = read_csv(tmp_path / "out" / "cohort.csv")
    assert row["labels"] == ""


# --- what goes wrong ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_scans_that_fail_are_named_and_the_others_go_on(
    data: Path, rain: Path, tmp_path: Path, stylize: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "b0.nii.gz").write_bytes((data / "b0.nii.gz").read_bytes()[:200])
    out = tmp_path / "out"
    told = stylize(rain, data / "cohort.csv", "-o", out, "--all")
    assert told.code == 1
    assert re.search(r"error: .*b0\.nii\.gz: is no readable NIfTI file", told.err)
    assert "2 of 3 scans" in told.out
    assert [row["scan"] for row in read_csv(out / "cohort.csv")] == ["b1_rain", "b2_rain"]
    assert "1 scan could not be restyled" in page_of(out)
    monkeypatch.setattr("crossbeat.cli.stylised.edge_correlation", lambda *given: 1 / 0)
    told = stylize(rain, data / "cohort.csv", "-o", tmp_path / "none")
    assert (told.code, told.out.count("\n")) == (1, 1)
    assert "scan 'b2': ZeroDivisionError" in told.err
    assert not files(tmp_path / "none")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{none} {csv}", "there is no such folder; give a run of `crossbeat train stylization`"),
        ("{csv} {rain}", "cohort.csv: is a file; the folder of a run comes first, the cohort second"),
        ("{rain} {csv} --beside {here}", "is no folder of a run; give"),
        ("{broken} {csv}", "its run.json is broken (Expecting value"),
        ("{other_run} {csv}", "has no stylizer, as a run of supervised; give"),
        (
            "{stopped} {csv}",
            "stopped before it had its stylizer; go on with the same `crossbeat train stylization ",
        ),
        ("{rain} {none}", "cannot be read"),
        ("{rain} {csv} --style sequence=t2", "no scan is sequence=t2; --style needs scans"),
        ("{rain} {csv} --style lge", "--style lge: is no file; say target, a filter such as sequence=lge"),
        ("{rain} {csv} --style {flat}", "none of 3 style slices shows anything but one grey"),
        ("{rain} {csv} --where vendor=C", "no scan of cohort matches vendor=C,split=test; vendor is "),
        (
            "{rain} {csv} --where scan=b0",
            "no scan of cohort matches scan=b0,split=test; --all takes every split (1)",
        ),
        ("{rain} {csv} --segmenter {none}", "segmenter.json is missing"),
        ("{rain} {other}", "none of its 1 style scans, 'l1' first, is in other"),
        ("{rain} {lge} --style sequence=lge", "no scan is of the run's source"),
    ],
)
def test_a_mistake_is_one_readable_message(
    words: str, message: str, data: Path, rain: Path, tmp_path: Path, stylize: Command
) -> None:
    write_volume(tmp_path / "flat.nii.gz", np.full((1, 3, 20, 20), 7, np.float32), AFFINE)
    text = (data / "cohort.csv").read_text().splitlines()
    (data / "other.csv").write_text("\n".join(text[:4]) + "\n")
    (data / "lge.csv").write_text("\n".join([text[0], *text[4:]]) + "\n")
    places = {
        "none": tmp_path / "nothing", "csv": data / "cohort.csv", "rain": rain, "flat": tmp_path / "flat.nii.gz",
        "other": data / "other.csv", "lge": data / "lge.csv", "here": data,
        "other_run": tmp_path / "other_run", "stopped": tmp_path / "stopped", "broken": tmp_path / "broken",
    }  # fmt: skip
    for name, method in (("other_run", "supervised"), ("stopped", "stylization")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"method": method}))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("")
    (tmp_path / "stopped" / "stages" / "encoder").mkdir(parents=True)
    told = stylize(*words.format(**places).split(), "-o", tmp_path / "new")
    assert told.code == 2
    assert message in told.err
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_what_is_there_is_replaced_on_request_alone_and_nothing_stale_stays(
    data: Path, rain: Path, tmp_path: Path, stylize: Command
) -> None:
    out = tmp_path / "out"
    words = (rain, data / "cohort.csv", "-o", out)
    assert stylize(*words, "--all", "--codes", 1).code == 0
    (out / "notes.txt").write_text("mine")
    before = files(out)
    told = stylize(*words)
    assert told.code == 2
    assert "out: already holds files; choose another folder with -o, or add --overwrite" in told.err
    assert files(out) == before
    assert stylize(*words, "--overwrite").code == 0
    assert sorted(files(out)) == [
        *("cohort.csv", "images/b2_rain.json", "images/b2_rain.nii.gz", "notes.txt"),
        *("structure.csv", "styles.csv", "stylization.html"),
    ]


@pytest.mark.slow
def test_scans_and_given_files_are_never_written_over(
    data: Path, rain: Path, tmp_path: Path, stylize: Command
) -> None:
    csv_file = data / "cohort.csv"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "cohort.csv").write_text("subject,scan,sequence,image\n")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "run.json").write_text("{}")
    (tmp_path / "out" / "images").mkdir(parents=True)
    style = tmp_path / "out" / "images" / "b2_rain.nii.gz"
    style.write_bytes((data / "l0.nii.gz").read_bytes())
    before = files(tmp_path)
    for out, more, words in (
        (data, [], "stylised scans need a folder of their own"),
        (tmp_path / "runs", [], "holds a run or the scans"),
        (tmp_path / "elsewhere", [], "holds a cohort.csv that no stylization left there"),
        (csv_file, [], "cohort.csv: is a file"),
        (tmp_path / "out", ["--style", style], "b2_rain.nii.gz: was given, and would be written over"),
    ):
        told = stylize(rain, csv_file, "-o", out, "--overwrite", *more)
        assert told.code == 2
        assert words in told.err
        assert files(tmp_path) == before


def test_a_run_that_says_nothing_of_its_training_is_refused(
    data: Path, tmp_path: Path, stylize: Command
) -> None:
    run = save_run(tmp_path / "run")
    told = json.loads((run / "models" / "stylizer" / "stylizer.json").read_text())
    del told["provenance"]["settings"]
    (run / "models" / "stylizer" / "stylizer.json").write_text(json.dumps(told))
    assert "does not say how it was trained" in stylize(run, data / "cohort.csv", "-o", tmp_path / "out").err


@pytest.mark.slow
def test_a_stylised_cohort_can_be_restyled_again(
    data: Path, rain: Path, tmp_path: Path, stylize: Command
) -> None:
    """It is a cohort like any other; what it was made from is told anew."""
    assert stylize(rain, data / "cohort.csv", "-o", tmp_path / "one").code == 0
    again = ("--where", "sequence=bssfp_as_lge", "--style", data / "l0.nii.gz")
    told = stylize(rain, tmp_path / "one" / "cohort.csv", "-o", tmp_path / "two", *again)
    assert told.code == 0, told.err
    (row,) = read_csv(tmp_path / "two" / "cohort.csv")
    assert (row["scan"], row["stylised_from"]) == ("b2_rain_rain", "b2_rain")
    cohort = cohort_of(tmp_path / "two" / "cohort.csv")
    labels = replace(cohort.read(cohort.rows[0])).labels
    np.testing.assert_array_equal(labels, heart())
