"""The page says what the files say: numbers by hand, every failure by name, nominal marked, nothing loaded."""

from __future__ import annotations

import csv
import json
import re
import statistics as by_hand
from collections import Counter, defaultdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossbeat import evaluation
from crossbeat.cohort import Cohort
from crossbeat.errors import FileError, RunError
from crossbeat.report import headline, write_report

FakeRun = Any
"""What conftest makes: the folder, its cohort, its predictions."""

LOST = ("patient103", 5)
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """The text of the page, its tables as lists of cells, and every attribute; refuses unclosed elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.captions: list[str] = []
        self.text = ""
        self.feed(html)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "table":
            self.tables.append([])
        if tag == "caption":
            self.captions.append("")
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"
        self.text += " " * (tag in ("dt", "dd", "li", "h1", "title"))

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data
        if "caption" in self.open:
            self.captions[-1] += data

    def table(self, *head: str) -> list[list[str]]:
        """Body of the first table whose first line begins with these cells."""
        for table in self.tables:
            if tuple(cell.strip() for cell in table[0][: len(head)]) == head:
                return [[" ".join(cell.split()) for cell in line] for line in table[1:]]
        raise AssertionError(f"no table begins with {head}")


@pytest.fixture(scope="session")
def page(made: FakeRun) -> Page:
    return read(write_report(made.path, made.cohort, made.read_prediction))


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def patient_means(made: FakeRun, structure: str, metric: str) -> list[float]:
    values = defaultdict(list)
    for row in made.scores():
        if row["slice"] == "" and (row["structure"], row["metric"]) == (structure, metric):
            values[row["subject"]].append(float(row["value"]))
    return [by_hand.mean(v) for v in values.values()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("structure", "name"), [("LV", "LV cavity"), ("MYO", "Myocardium"), ("RV", "RV cavity")]
)
def test_the_headline_is_the_mean_over_patients_computed_by_hand(
    made: FakeRun, page: Page, structure: str, name: str
) -> None:
    lines = page.table("Structure", "Metric", "Mean ± SD")
    start = next(i for i, line in enumerate(lines) if line[0] == name)
    dice, hd95 = patient_means(made, structure, "dice"), patient_means(made, structure, "hd95")
    assert lines[start][2] == f"{by_hand.mean(dice):.3f} ± {by_hand.stdev(dice):.3f}"
    assert lines[start][3] == f"{by_hand.median(dice):.3f}"
    assert lines[start + 1][1] == f"{by_hand.mean(hd95):.2f} ± {by_hand.stdev(hd95):.2f}†"
    assert lines[start + 1][2] == f"{by_hand.median(hd95):.2f}†"


def test_undefined_and_missed_stand_beside_the_mean(page: Page) -> None:
    lines = page.table("Structure", "Metric", "Mean ± SD")
    rv = next(line for line in lines if line[0] == "RV cavity")
    assert rv[5:] == ["10", "0", "1"]
    assert next(line for line in lines if line[0] == "LV cavity")[5:] == ["10", "0", "0"]


def test_the_breakdown_by_phase_counts_the_miss_where_it_happened(made: FakeRun, page: Page) -> None:
    ed, es = page.table("Phase", "Patients")[1:]
    lv = [float(r["value"]) for r in made.scores()
          if (r["slice"], r["phase"], r["structure"], r["metric"]) == ("", "ED", "LV", "dice")]  # fmt: skip
    assert ed[2] == f"{by_hand.mean(lv):.3f} ± {by_hand.stdev(lv):.3f}"
    assert "missed" not in ed[4]
    assert es[4].endswith(" 1 missed")
    assert any("beneath, how many volumes are undefined or missed" in c for c in page.captions)
    assert any("beneath, how many slices are undefined or missed" in c for c in page.captions)


def test_every_missed_structure_is_named_with_frame_and_phase(page: Page) -> None:
    assert page.table("Scan", "Frame", "Phase", "Structure") == [[LOST[0], "5", "ES", "RV cavity"]]
    text = " ".join(page.text.split())
    assert f"1 structure missed in 1 scan: {LOST[0]} (RV at ES)." in text


def test_misses_in_single_slices_are_told_from_those_of_whole_volumes(made: FakeRun, page: Page) -> None:
    slices = [r for r in made.scores()
              if r["slice"] and r["metric"] == "dice" and r["status"] == "missed"]  # fmt: skip
    by_level = Counter(r["level"] for r in slices)
    assert set(by_level) == {"base", "mid", "apex"}
    text = " ".join(page.text.split())
    assert (
        f"In single slices a structure stands in only one of the two masks {len(slices)} times, those of the missed "
        f"volumes included: {by_level['base']} at the base, {by_level['mid']} at mid-ventricle, "
        f"{by_level['apex']} at the apex."
    ) in text
    assert sum(int(line[2]) for line in page.table("Scan", "Structure", "Slices")) == len(slices)


@pytest.mark.slow
def test_a_run_that_missed_no_volume_says_so_beside_its_single_slices(run: FakeRun) -> None:
    rows = [r for r in run.scores() if r["slice"] or r["scan"] != LOST[0]]
    write(run.path / "scores.csv", rows)
    text = " ".join(read(write_report(run.path, None, run.read_prediction)).text.split())
    assert "No structure was missed in a whole volume (a scan at one frame)." in text
    assert "times, though both have it in other slices of the volume:" in text


@pytest.mark.slow
def test_a_hundred_misses_are_all_named(run: FakeRun) -> None:
    rows = run.scores()
    for row in rows:
        if row["metric"] == "dice" and row["structure"] != "mean" and row["slice"] == "":
            row |= {"value": "0.0", "status": "missed"}
    write(run.path / "scores.csv", rows)
    page = read(write_report(run.path, None, run.read_prediction))
    lines = page.table("Scan", "Frame", "Phase", "Structure")
    text = " ".join(page.text.split())
    assert "60 structures missed in 10 scans: patient101 (LV at ED, MYO at ED, RV at ED, LV at ES" in text
    assert "RV at ES) and 2 further scans, listed under Failures." in text
    expected = {
        (r.scan, frame, s)
        for r in run.cohort
        for frame in "05"
        for s in ("LV cavity", "Myocardium", "RV cavity")
    }
    assert {(line[0], line[1], line[3]) for line in lines} == expected


def test_a_nominal_mark_stands_beside_every_mm_and_ml(page: Page) -> None:
    assert "mm and ml are nominal: the voxel spacing of 9 of 10 scans" in " ".join(page.text.split())
    for line in page.table("Structure", "Metric", "Mean ± SD"):
        cells = line[-7:]
        if "mm" in cells[0]:
            assert all(cell.endswith("†") for cell in cells[:4]), line
        else:
            assert "†" not in "".join(line)
    indices = page.table("Scan", "ED frame", "ES frame")
    header = next(t for t in page.tables if t[0][:2] == ["Scan", "ED frame"])[0]
    for line in indices[:-1]:
        for name, cell in zip(header[3:], line[3:], strict=True):
            nominal = line[0] != "patient101" and not name.startswith(("LV EF", "RV EF")) and cell != "–"
            assert cell.endswith("†") == nominal, (name, line)
    charts = [
        value for _, name, value in page.attributes if name == "aria-label" and value.startswith("Box plot")
    ]
    assert ["nominal" in chart for chart in charts] == [False, True, True]


@pytest.mark.slow
def test_without_nominal_spacing_there_is_no_mark(measured_run: FakeRun) -> None:
    assert "†" not in read(write_report(measured_run.path, None, measured_run.read_prediction)).text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "words"), [("demo", "Demonstration size, not a result."), ("bench", "Bench size, not a result.")]
)
def test_a_small_size_is_said_before_the_first_number(run: FakeRun, size: str, words: str) -> None:
    settings = run.path / "settings.yaml"
    settings.write_text(settings.read_text().replace("size: demo", f"size: {size}"))
    text = read(write_report(run.path, None, run.read_prediction)).text
    assert 0 < text.index(words) < text.index("Dice,")


@pytest.mark.slow
def test_a_full_size_has_no_such_banner(run: FakeRun) -> None:
    settings = run.path / "settings.yaml"
    settings.write_text(settings.read_text().replace("size: demo", "size: full"))
    assert "not a result" not in read(write_report(run.path, None, run.read_prediction)).text


def test_indices_are_those_of_the_file(made: FakeRun, page: Page) -> None:
    lines = {line[0]: line for line in page.table("Scan", "ED frame", "ES frame")}
    assert lines["patient104"][1:3] == ["0 given", "5 given"]
    edv, esv = made.lv_volumes_ml("patient104")
    assert lines["patient104"][3:5] == [f"{edv:.1f}†", f"{esv:.1f}†"]
    assert lines["patient104"][6] == f"{100 * (edv - esv) / edv:.1f}"
    assert "–" in lines[LOST[0]], "an RV that was not found has no volume"


def test_agreement_is_bias_and_limits_computed_by_hand_with_their_intervals(
    made: FakeRun, page: Page
) -> None:
    rows = list(csv.DictReader((made.path / "agreement.csv").read_text().splitlines()))
    differences = [float(r["predicted"]) - float(r["reference"]) for r in rows if r["index"] == "lv_edv_ml"]
    bias, sd = by_hand.mean(differences), by_hand.stdev(differences)
    half = 2.262157 * sd / 10**0.5  # t(9)
    wide = 2.262157 * sd * (1 / 10 + 1.959964**2 / 18) ** 0.5
    line = next(x for x in page.table("Index", "Patients", "Scans") if x[0] == "LV EDV, ml†")
    assert line[1:5] == ["10", "10", "0", "0"]
    expected = [
        re.sub(r"[+−]0\.0\b", "0.0", f"{v:+.1f} ({v - w:+.1f} to {v + w:+.1f})†".replace("-", "−"))
        for v, w in ((bias, half), (bias - 1.959964 * sd, wide), (bias + 1.959964 * sd, wide))
    ]
    assert line[5:] == expected


def test_a_missed_ventricle_is_counted_beside_the_bias_and_in_the_totals(page: Page) -> None:
    line = next(x for x in page.table("Index", "Patients", "Scans") if x[0] == "RV ESV, ml†")
    assert line[1:5] == ["9", "9", "1", "0"]
    indices = page.table("Scan", "ED frame", "ES frame")
    head = next(t for t in page.tables if t[0][:2] == ["Scan", "ED frame"])[0]
    rv_esv = next(i for i, name in enumerate(head) if name.startswith("RV ESV"))
    assert indices[-1][0] == "Scans without"
    assert indices[-1][rv_esv] == "1"
    assert indices[-1][3] == "0"


@pytest.mark.slow
def test_agreement_is_shown_without_indices_and_two_scans_of_a_patient_are_one(whole_run: FakeRun) -> None:
    (whole_run.path / "indices.csv").unlink()
    (whole_run.path / "volumes.csv").unlink()
    rows = list(csv.DictReader((whole_run.path / "agreement.csv").read_text().splitlines()))
    for row in rows:
        row["subject"] = "patient101" if row["scan"] == "patient102" else row["subject"]
    write(whole_run.path / "agreement.csv", rows)
    page = read(write_report(whole_run.path, None, whole_run.read_prediction))
    line = next(x for x in page.table("Index", "Patients", "Scans") if x[0] == "LV EDV, ml†")
    assert line[1:3] == ["9", "10"]


@pytest.mark.slow
def test_clinical_indices_are_parted_by_domain_and_split_as_dice_is(whole_run: FakeRun) -> None:
    """Four LGE scans are the target, one of them no test; the others, cine, are the source."""
    for name in ("scores.csv", "indices.csv", "agreement.csv"):
        rows = list(csv.DictReader((whole_run.path / name).read_text().splitlines()))
        for row in rows:
            row["sequence"] = "lge" if row["scan"] < "patient105" else "bssfp"
            row["split"] = "validation" if row["scan"] == "patient104" else "test"
        write(whole_run.path / name, rows)
    (whole_run.path / "settings.yaml").write_text("target: {sequence: [lge]}\nsource: {}\n")
    page = read(write_report(whole_run.path, None, whole_run.read_prediction))
    tables = [t for t in page.tables if t[0][:3] == ["Index", "Patients", "Scans"]]
    assert [t[1][1] for t in tables] == ["3", "6"]
    by_scan = [t for t in page.tables if t[0][:2] == ["Scan", "ED frame"]]
    assert [len(t) - 4 for t in by_scan] == [3, 6]
    assert page.text.index("On the target, LGE") < page.text.index("On the source, cine bSSFP")
    assert (
        "3 patients, 3 scans of the test split; 1 scan of other splits in the files, not here." in page.text
    )
    labels = [v for _, name, v in page.attributes if name == "aria-label" and v.startswith("Bland")]
    assert len(labels) == 6


def trained_on(run: FakeRun, **parts: list[str]) -> None:
    file = run.path / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"trained_on": parts | {"scans": 7}}))


@pytest.mark.slow
def test_scores_on_training_scans_are_called_no_test_and_have_no_interval(run: FakeRun) -> None:
    trained_on(run, source=["patient104", "patient105"], labelled_target=[], target=["patient001"])
    page = read(write_report(run.path, None, run.read_prediction))
    text = " ".join(page.text.split())
    assert "2 of 10 scored scans were trained on: not a test." in text
    assert text.index("2 of 10 scored scans") < text.index("Dice,")
    assert {line[-4] for line in page.table("Structure", "Metric")} == {"none: trained on"}
    assert "no interval: trained on these scans" in text
    head, lines = headline(evaluation.read_scores(run.path / "scores.csv"), run.path)
    assert {line[head.index("95 % interval")] for line in lines} == {"none: trained on"}


def test_a_folder_of_label_maps_was_not_trained_on_the_scans_it_lists(run: FakeRun) -> None:
    rows = list(csv.DictReader((run.path / "cohort.csv").read_text().splitlines()))
    write(run.path / "cohort.csv", [row | {"split": ""} for row in rows])
    (run.path / "run.json").unlink()
    (run.path / "indices.csv").write_text("spoilt")
    head, lines = headline(evaluation.read_scores(run.path / "scores.csv"), run.path)
    assert " to " in lines[0][head.index("95 % interval")]


@pytest.mark.slow
def test_a_cohort_without_splits_was_trained_on_whole(run: FakeRun) -> None:
    """As an old run.json says nothing, the cohort does: rows of split train or of none trained."""
    for name in ("cohort.csv", "scores.csv"):
        rows = list(csv.DictReader((run.path / name).read_text().splitlines()))
        write(run.path / name, [row | {"split": ""} for row in rows])
    text = " ".join(read(write_report(run.path, None, run.read_prediction)).text.split())
    assert "10 of 10 scored scans were trained on: not a test." in text
    assert "its run.json does not say" in text


@pytest.mark.slow
def test_other_scans_of_a_trained_patient_are_no_test_unless_transductive(run: FakeRun) -> None:
    rows = list(csv.DictReader((run.path / "cohort.csv").read_text().splitlines()))
    rows[0]["subject"] = "patient104"
    write(run.path / "cohort.csv", rows)
    trained_on(run, source=[rows[0]["scan"]], target=["patient106"], labelled_target=[])
    text = " ".join(read(write_report(run.path, None, run.read_prediction)).text.split())
    assert "1 of 10 scored scans were trained on: not a test." in text
    assert "A further 1 scored scan of patients of whom other scans were trained on." in text
    trained_on(run, source=[rows[0]["scan"]])
    text = " ".join(read(write_report(run.path, None, run.read_prediction)).text.split())
    assert (
        "1 scored scan of patients of whom other scans were trained on: not a test on unseen patients."
        in text
    )
    settings = run.path / "settings.yaml"
    settings.write_text(settings.read_text().replace("transductive: false", "transductive: true"))
    trained_on(run, source=[rows[0]["scan"]], target=["patient106"], labelled_target=[])
    text = " ".join(read(write_report(run.path, None, run.read_prediction)).text.split())
    assert "Transductive:" in text
    assert "not a test." not in text


def test_a_true_test_split_has_no_such_banner(page: Page) -> None:
    assert "trained on:" not in page.text


@pytest.mark.slow
def test_what_it_was_trained_on_is_what_run_json_states(run: FakeRun) -> None:
    (run.path / "settings.yaml").write_text(
        "target: {vendor: [Philips]}\nsource: {vendor: [Siemens]}\ntarget_labels: train\ntarget_labelled: 1\n"
    )
    rows = list(csv.DictReader((run.path / "cohort.csv").read_text().splitlines()))
    philips = [r["scan"] for r in rows if r["vendor"] == "Philips"][:4]
    siemens = [r["scan"] for r in rows if r["vendor"] == "Siemens"][:5]
    trained_on(run, source=siemens, target=philips, labelled_target=philips[:1])
    text = " ".join(read(write_report(run.path, None, run.read_prediction)).text.split())
    assert (
        "Trained on 5 subjects (source cine bSSFP, 5 scans, labelled, vendor Siemens); 1 subject (target cine bSSFP, "
        "1 scan, labelled, vendor Philips); 3 subjects (target cine bSSFP, 3 scans, labels hidden, vendor Philips)."
    ) in text
    trained_on(run)
    file = run.path / "run.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "trained_on"}))
    text = " ".join(read(write_report(run.path, None, run.read_prediction)).text.split())
    assert "labels as set: target_labels train, target_labelled 1" in text


@pytest.mark.slow
def test_a_nominal_scan_counts_in_whichever_table_it_stands(measured_run: FakeRun) -> None:
    for name in ("indices.csv", "volumes.csv", "agreement.csv"):
        rows = list(csv.DictReader((measured_run.path / name).read_text().splitlines()))
        for row in rows:
            if name == "volumes.csv" and row["scan"] == "patient102":
                row["spacing_source"] = "nominal"
        write(measured_run.path / name, rows)
    page = read(write_report(measured_run.path, None, measured_run.read_prediction))
    text = " ".join(page.text.split())
    assert "the voxel spacing of 1 of 2 scans is a stand-in" in text
    assert "a wrong one changes what it predicts" in text
    lines = {line[0]: line for line in page.table("Scan", "ED frame", "ES frame")}
    assert lines["patient102"][3].endswith("†")
    assert "†" not in "".join(lines["patient101"])


@pytest.mark.slow
def test_few_patients_have_no_interval_and_the_page_says_so(measured_run: FakeRun) -> None:
    page = read(write_report(measured_run.path, None, measured_run.read_prediction))
    assert {line[-4] for line in page.table("Structure", "Metric")} == {"too few patients"}
    assert "too few patients for an interval" in " ".join(page.text.split())


@pytest.mark.slow
def test_frames_that_were_found_are_told_from_those_given(run: FakeRun) -> None:
    rows = list(csv.DictReader((run.path / "indices.csv").read_text().splitlines()))
    rows[1] |= {"es_frame_from": "found"}
    write(run.path / "indices.csv", rows)
    lines = read(write_report(run.path, None, run.read_prediction)).table("Scan", "ED frame", "ES frame")
    assert lines[1][1:3] == ["0 given", "5 found"]


@pytest.mark.slow
def test_a_mean_of_fewer_structures_stands_apart_under_their_names(run: FakeRun) -> None:
    rows = [r for r in run.scores() if not (r["scan"] == "patient101" and r["structure"] == "RV")]
    for row in rows:
        if row["scan"] == "patient101" and row["structure"] == "mean":
            row["structure"] = "mean LV MYO"
    write(run.path / "scores.csv", rows)
    page = read(write_report(run.path, None, run.read_prediction))
    lines = page.table("Structure", "Metric")
    of = {line[0]: line for line in lines if line[0].startswith("Mean")}
    assert {name: line[5] for name, line in of.items()} == {
        "Mean of LV, MYO, RV": "9",
        "Mean of LV, MYO": "1",
    }
    assert page.text.index("Dice, Mean of LV, MYO, RV") < page.text.index("Dice, LV cavity")
    assert page.table("Scan", "Frame", "Phase", "Structure") == [[LOST[0], "5", "ES", "RV cavity"]]


def test_the_scans_predicted_are_described_beside_the_cohort_of_the_run(made: FakeRun, page: Page) -> None:
    first, second = (t for t in page.tables if t[0][:2] == ["Split", "Role"])
    assert [line[4] for line in second[1:]] == ["10"]
    assert sum(int(line[4]) for line in first[1:]) == 40
    labels = [v for _, name, v in page.attributes if name == "aria-label"]
    assert labels.index("Cohort of the run") < labels.index("Scans predicted")


def test_the_page_loads_nothing(made: FakeRun, page: Page) -> None:
    loaded = {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}
    for tag, name, value in page.attributes:
        if name in loaded:
            assert value.startswith(("#", "data:")), f"<{tag} {name}={value[:60]}>"
    html = (made.path / "report.html").read_text()
    assert not re.search(r"url\((?!['\"]?#)", html)
    assert "@import" not in html
    assert "<script" not in html
    assert len(html) < 4_000_000


def test_links_within_the_page_lead_somewhere_and_ids_are_unique(page: Page) -> None:
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    links = [v[1:] for _, name, v in page.attributes if name in ("href", "xlink:href") and v.startswith("#")]
    assert links
    assert set(links) <= set(ids)


def test_pictures_and_charts_have_words_for_those_who_cannot_see_them(page: Page) -> None:
    roles = sum((tag, name, value) == ("svg", "role", "img") for tag, name, value in page.attributes)
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == roles == 18 + 3 + 3 + 10 + 2
    assert any("patient103, ES, base, slice" in label for label in labels)


def test_worst_median_and_best_are_those_of_the_scores(made: FakeRun, page: Page) -> None:
    means = defaultdict(list)
    for row in made.scores():
        if (row["structure"], row["metric"], row["slice"]) == ("mean", "dice", ""):
            means[row["scan"]].append(float(row["value"]))
    ranked = sorted(means, key=lambda scan: by_hand.mean(means[scan]))
    for place, scan in (("Worst", ranked[0]), ("Median", ranked[5]), ("Best", ranked[-1])):
        assert f"{place}: {scan}" in page.text
        assert f"Mean Dice {by_hand.mean(means[scan]):.3f}" in page.text


@pytest.mark.slow
def test_names_are_escaped(whole_run: FakeRun) -> None:
    nasty = '<img src="http://x.test/a" onerror="alert(1)">'
    for name in ("scores.csv", "indices.csv", "volumes.csv", "agreement.csv"):
        rows = list(csv.DictReader((whole_run.path / name).read_text().splitlines()))
        for row in rows:
            row["scan"] = nasty if row["scan"] == LOST[0] else row["scan"]
            row["subject"] = nasty if row.get("subject") == LOST[0] else row.get("subject", "")
        write(whole_run.path / name, rows)
    page = read(write_report(whole_run.path, whole_run.cohort, whole_run.read_prediction, title=nasty))
    assert nasty in page.text, "the name is shown as it is"
    assert not [a for a in page.attributes if a[0] == "img" or a[1] == "onerror"]
    assert "Not drawn" in page.text, "the cohort has no such scan"


def test_scores_without_a_line_are_said_to_be_missing(run: FakeRun) -> None:
    scores = run.path / "scores.csv"
    scores.write_text(scores.read_text().splitlines()[0] + "\n")
    page = read(write_report(run.path, run.cohort, run.read_prediction))
    assert "Not scored yet" in page.text
    assert f"crossbeat evaluate {run.path} cohort.csv" in page.text


def test_an_empty_folder_gives_a_page_that_names_every_piece_and_its_command(tmp_path: Path) -> None:
    page = read(write_report(tmp_path, None, lambda row: None))
    for word in (
        "settings.yaml",
        "run.json",
        "cohort.csv",
        "metrics.csv",
        "predictions",
        "scores.csv",
        "indices.csv",
    ):
        assert f"{word}:" in page.text
    for command in ("train", "predict", "evaluate", "measure"):
        assert f"crossbeat {command} " in page.text


def test_no_folder_and_spoilt_files_are_refused_by_name(run: FakeRun, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run folder; `crossbeat train"):
        write_report(tmp_path / "nowhere", None, run.read_prediction)
    (run.path / "run.json").write_text("{")
    with pytest.raises(FileError, match=r"run\.json: is not JSON"):
        write_report(run.path, None, run.read_prediction)


@pytest.mark.slow
def test_training_scans_do_not_enter_the_headline(run: FakeRun) -> None:
    rows = run.scores()
    for row in rows:
        if row["scan"] != "patient104":
            row |= {"split": "train", "value": "0.999"}
    write(run.path / "scores.csv", rows)
    page = read(write_report(run.path, None, run.read_prediction))
    lines = page.table("Structure", "Metric", "Mean ± SD")
    assert lines[0][5] == "1", "one patient of the test split"
    assert "1 patient, 1 scan of the test split" in page.text
    test, train = page.table("Split", "Patients")[1:]
    assert (test[0], train[0], train[1]) == ("test", "train", "9")
    assert train[2].startswith("0.999")
    assert re.fullmatch(r"0\.\d{3}", test[2]), "one patient has no SD"
    assert " ± " not in lines[0][2]
    assert " ± " in train[2]


@pytest.mark.slow
def test_target_and_source_are_scored_apart_target_first(run: FakeRun) -> None:
    rows = run.scores()
    for row in rows:
        row["sequence"] = "lge" if row["scan"] < "patient105" else "bssfp"
    write(run.path / "scores.csv", rows)
    (run.path / "settings.yaml").write_text("target: {sequence: [lge]}\nsource: {}\ntransductive: true\n")
    page = read(write_report(run.path, None, run.read_prediction))
    text = page.text
    assert text.index("Result on the target, LGE") < text.index("Result on the source, cine bSSFP")
    assert "Supervised to LGE" in text
    assert "Transductive:" in text
    assert page.table("Structure", "Metric")[0][5] == "4"


@pytest.mark.slow
def test_voxel_distances_are_not_mixed_with_mm(made: FakeRun, run: FakeRun, page: Page) -> None:
    rows = run.scores()
    rows += [row | {"unit": "voxel", "value": "1e6"} for row in rows if row["unit"] == "mm"]
    write(run.path / "scores.csv", rows)
    both = read(write_report(run.path, None, run.read_prediction))
    assert both.table("Structure", "Metric") == page.table("Structure", "Metric")


@pytest.mark.slow
def test_what_nobody_looked_at_is_counted(run: FakeRun) -> None:
    rows = run.scores()
    count = rows[0] | {"structure": "", "unit": "count", "status": "ok"}
    rows += [
        count | {"metric": "unlabelled_frames", "value": "10.0"},
        count | {"metric": "unknown_voxels", "value": "7"},
    ]
    write(run.path / "scores.csv", rows)
    text = " ".join(read(write_report(run.path, None, run.read_prediction)).text.split())
    assert "because nobody labelled them: 10 whole frames, and 7 voxels of labelled frames" in text


@pytest.mark.slow
def test_a_scan_that_cannot_be_drawn_says_why(run: FakeRun) -> None:
    text = read(write_report(run.path, run.cohort, lambda row: None)).text
    assert text.count("Not drawn: it has no prediction file.") == 3
    wrong = read(write_report(run.path, run.cohort, lambda row: np.zeros((1, 2, 3, 4), np.uint8))).text
    assert "prediction has shape (1, 2, 3, 4)" in wrong
    assert "Not drawn: scan 'patient103': this cohort was made without a reader" in read(
        write_report(run.path, Cohort(run.cohort.rows), run.read_prediction)
    ).text.replace("\n", " ")


def test_learning_curves_part_losses_from_dice_and_leave_out_the_rest(page: Page) -> None:
    labels = [value for _, name, value in page.attributes if name == "aria-label"]
    assert "Losses over training: loss, cross_entropy, dice_loss" in labels
    assert "Dice on validation scans over training: dice_source" in labels


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "crossbeat train supervised a.csv -o 'my run'",
            "crossbeat train supervised a.csv -o 'my run' --resume",
        ),
        ("crossbeat train supervised a.csv --resume -o r", "crossbeat train supervised a.csv --resume -o r"),
        ("crossbeat demo -o d", "crossbeat demo -o d"),
        ("crossbeat train supervised", "crossbeat train supervised … --resume"),
    ],
)
def test_an_unfinished_run_says_with_which_command_it_goes_on(run: FakeRun, command: str, said: str) -> None:
    file = run.path / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"command": command, "finished": None}))
    text = " ".join(read(write_report(run.path, None, run.read_prediction)).text.split())
    assert f"Training was not finished: {said} goes on with it." in text
    assert f"Command {command} " in text


@pytest.mark.slow
def test_a_cohort_is_called_predicted_only_once_label_maps_are_there(run: FakeRun) -> None:
    def text() -> str:
        return " ".join(read(write_report(run.path, run.cohort, lambda row: None)).text.split())

    assert f"Cohort predicted acdc, 10 scans, hash {run.cohort.hash()}" in text()
    for file in (run.path / "predictions").iterdir():
        file.unlink()
    assert "Cohort predicted" not in text()
    assert f"Cohort given, not predicted yet acdc, 10 scans, hash {run.cohort.hash()}" in text()


@pytest.mark.slow
def test_a_difference_that_rounds_to_nought_has_no_sign(whole_run: FakeRun) -> None:
    rows = list(csv.DictReader((whole_run.path / "agreement.csv").read_text().splitlines()))
    for i, row in enumerate(rows):
        row |= {"predicted": str(50 - 0.01 * (i % 2)), "reference": "50"}
    write(whole_run.path / "agreement.csv", rows)
    page = read(write_report(whole_run.path, None, whole_run.read_prediction))
    assert page.table("Index", "Patients", "Scans")[0][5] == "0.0 (0.0 to 0.0)†"
    assert not re.search(r"[+−]0\.0(?!\d)", page.text)


def test_provenance_is_complete(made: FakeRun, page: Page) -> None:
    text = " ".join(page.text.split())
    for words in ("Seed 7", "4 min 47 s", "6.2 GB", "NVIDIA H200", "52b42da", "torch 2.13.0", "name unet",
                  f"hash {made.cohort.hash()}", "papillary muscles in the LV cavity", "One empty: missed"):  # fmt: skip
        assert words in text
    assert f"crossbeat view {made.path}" in text


@pytest.mark.slow
def test_figures_for_a_paper_are_written_and_the_page_is_the_same_twice(whole_run: FakeRun) -> None:
    first = write_report(whole_run.path, whole_run.cohort, whole_run.read_prediction).read_bytes()
    names = {file.name for file in (whole_run.path / "figures").iterdir()}
    assert {"dice-result.svg", "learning-segmentation-losses.svg", "volumes-0.svg"} <= names
    assert "var(--" not in (whole_run.path / "figures" / "dice-result.svg").read_text()
    assert write_report(whole_run.path, whole_run.cohort, whole_run.read_prediction).read_bytes() == first
    assert not list(whole_run.path.glob(".report*")), "no half-written page is left"


def test_the_terminal_shows_the_same_numbers(made: FakeRun, page: Page) -> None:
    head, lines = headline(evaluation.read_scores(made.path / "scores.csv"))
    assert len(head) == len(lines[0])
    shown = page.table("Structure", "Metric")
    assert [line[1] for line in lines] == ["LV cavity", "Myocardium", "RV cavity", "Mean of LV, MYO, RV"]
    assert lines[0][2] == shown[0][2]
    assert lines[2][-1] == "1"
    assert "(nominal)" in lines[0][4]
    assert headline(evaluation.read_scores(made.path / "scores.csv").iloc[:0])[1] == []


def write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
