"""The page of a study says what its records say: every arm in every table, failures by name, nothing loaded."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crossbeat.cohort import Cohort
from crossbeat.errors import FileError
from crossbeat.report import StudyView, write_study_report
from crossbeat.report.study_charts import LONGEST_NAME, looks, short
from crossbeat.report.study_page import make_study_page, printed_values
from crossbeat.report.study_slices import patient_views, why_no_pictures, worst_median_best
from crossbeat.report.study_tables import (
    differing_settings,
    paired_values,
    patient_values,
    read_league,
    seed_means,
)
from crossbeat.report.wording import p_value, signed

VOID = {"meta", "link", "br", "wbr"}
LONG = "propagation_of_labels_with_style_transfer_and_boundary_loss"
FAILED = "random_contrast"


def _load(name: str) -> Any:
    file = Path(__file__).parents[1] / "fixtures" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fabricated = _load("fabricated_study")


class Page(HTMLParser):
    """Text, tables and attributes of a page; refuses unclosed elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text, self._name = "", ""
        self.feed(html)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if dict(attrs).get("role") == "region":
            self._name = str(dict(attrs)["aria-label"])
            assert self._name not in self.tables, f"two regions are called {self._name!r}"
            self.tables[self._name] = []
        if tag == "tr":
            self.tables[self._name].append([])
        if tag in ("td", "th"):
            self.tables[self._name][-1].append("")
        if tag == "br":
            self._add(" ")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self._add(data)

    def _add(self, data: str) -> None:
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.tables[self._name][-1][-1] += data

    def line(self, table: str, arm: str) -> list[str]:
        """The cells of an arm in a table, without those of its head."""
        found = [[" ".join(cell.split()) for cell in line] for line in self.tables[table]]
        return next(line[1:] for line in found if line and line[0].split(" ")[0] == arm)


def written(view: StudyView, out: Path) -> Page:
    return Page(write_study_report(view, out).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def view() -> StudyView:
    """Five arms, two seeds, nine patients; one arm failed, one has a long name."""
    found: StudyView = fabricated.fabricate(arms=5, seeds=(0, 1), patients=9, failed=(FAILED,))
    return found


@pytest.fixture(scope="module")
def page(view: StudyView, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return written(view, tmp_path_factory.mktemp("study"))


@pytest.mark.slow
def test_the_size_is_said_at_the_head_and_a_full_study_has_no_such_banner(
    view: StudyView, page: Page
) -> None:
    assert "Demonstration size, not a result." in page.text
    for size, said in (("bench", "Bench size, not a result."), ("full", "")):
        heads = [banner.head for banner in make_study_page(replace(_empty(view), size=size)).banners]
        assert (said in heads) == bool(said)
        assert "Demonstration size, not a result." not in heads


@pytest.mark.slow
def test_a_failed_arm_is_named_at_the_head_and_what_it_said_below(page: Page) -> None:
    assert f"2 cells failed: {FAILED} (2 of 2 cells)" in page.text
    assert f"cell {FAILED}, seed 1: MemoryError: 12 GB asked for" in page.text


@pytest.mark.slow
def test_every_arm_stands_in_every_table_the_failed_one_with_dashes(view: StudyView, page: Page) -> None:
    names = {name for name in page.tables if not name.startswith(("Setting", "Published"))}
    assert len(names) > 8
    for table in names:
        for arm in view.arms:
            assert page.line(table, arm.name), f"{arm.name} is not in {table}"
    assert set(page.line("League", FAILED)) == {"–"}
    assert "failed" in " ".join(" ".join(line) for line in page.tables["League"])


def test_the_league_prints_what_the_statistics_say(view: StudyView, page: Page) -> None:
    line = page.line("League", "weak_transfer")
    found = view.league.set_index(["arm", "structure", "metric"]).loc["weak_transfer"]
    mean, hd95 = found.loc[("mean", "dice")], found.loc[("mean", "hd95")]
    assert line[0] == f"{found.loc[('LV', 'dice'), 'mean']:.3f} ± {found.loc[('LV', 'dice'), 'sd']:.3f}"
    assert line[3] == f"{mean['mean']:.3f} ± {mean['sd']:.3f} {mean['low']:.3f} to {mean['high']:.3f}"
    assert line[4] == f"{hd95['mean']:.2f} ± {hd95['sd']:.2f}"
    assert line[5].startswith(f"{mean['gap_closed']:.0%}".replace("%", " %"))
    assert line[6:] == ["9 × 2", "0", "0"]


def test_differences_are_from_the_reference_with_the_corrected_p(view: StudyView, page: Page) -> None:
    table = "Differences from source_only"
    assert page.line(table, "source_only")[0] == "the reference"
    row = view.league.query("arm == 'weak_transfer' and structure == 'MYO' and metric == 'dice'").iloc[0]
    difference, p = page.line(table, "weak_transfer")[2:4]
    assert difference == (
        f"+{row['difference']:.3f} +{row['difference_low']:.3f} to +{row['difference_high']:.3f}"
    )
    assert p == p_value(row["p_holm"])


def test_missed_structures_are_counted_over_single_structures(view: StudyView) -> None:
    league = read_league(view.league, view.scores)
    rows = view.scores.query(
        "arm == 'source_only' and metric == 'dice' and level == '' and structure != 'mean'"
    )
    assert league.counted("source_only", "missed") == (rows["status"] == "missed").sum() > 0


def test_a_patient_is_averaged_over_frames_first_and_seeds_second() -> None:
    scores = pd.DataFrame(
        [
            {"arm": "a", "seed": s, "subject": "p", "scan": "p", "level": "", "structure": "LV", "metric": "dice",
             "unit": "", "value": v, "status": "missed" if v == 0 else "ok"}
            for s, v in ((0, 0.5), (0, 0.7), (1, 0.0))
        ]
    )  # fmt: skip
    # seed 0: (0.5 + 0.7) / 2 = 0.6; seed 1: 0; the patient: 0.3, although the mean of all three is 0.4
    assert patient_values(scores, "LV", "dice", "") == {"a": {"p": (pytest.approx(0.3), True)}}
    assert seed_means(scores, "LV", "dice", "") == {"a": {0: pytest.approx(0.6), 1: pytest.approx(0.0)}}


@pytest.mark.slow
def test_charts_hold_every_arm_every_patient_and_the_bounds(view: StudyView) -> None:
    page = make_study_page(view)
    titles = [re.findall(r"<title>(.*?)</title>", chart.svg) for chart in page.league_charts]
    assert [len(t) for t in titles] == [4, 2, 4, 4, 4, 4]  # the gap chart has no bounds; one arm failed
    assert page.league_charts[0].svg.count(">failed<") == 1
    assert [chart.name for chart in page.paired] == [
        "paired-2-weak-transfer", "paired-3-propagation-of-labels-with-style-transfe", "paired-4-target-supervised"
    ]  # fmt: skip
    for chart in page.paired:
        assert len(re.findall(r"<title>patient\d+: 0\.\d{3} → 0\.\d{3}</title>", chart.svg)) == 9
    assert [len(re.findall("<title>", chart.svg)) for chart in page.boxes] == [9 * 4] * 5
    assert any(f"<title>{LONG}: " in chart.svg for chart in page.league_charts)
    (_, curves) = page.curves[0]
    assert [chart.svg.count(f">{short(LONG)}<") for chart in curves] == [1, 1]


@pytest.mark.slow
def test_the_paired_plot_counts_who_fares_better_by_hand(view: StudyView) -> None:
    values = patient_values(view.scores, "mean", "dice", "")
    higher = sum(values["weak_transfer"][p][0] > values["source_only"][p][0] for p in values["source_only"])
    assert f"{higher} of 9 higher" in make_study_page(view).paired[0].svg


def test_names_are_cut_in_the_middle_and_looks_differ_between_twelve_arms() -> None:
    assert short("stylization") == "stylization"
    assert len(short(LONG)) == LONGEST_NAME
    assert short(LONG).startswith("propagation")
    assert short(LONG).endswith("dary_loss")
    twelve = looks(fabricated.fabricate(finished=False).arms)
    assert len({(look.colour, str(look.dashes)) for look in twelve.values()}) == 12


def test_only_settings_that_differ_are_listed(view: StudyView, page: Page) -> None:
    found = differing_settings(view.arms)
    assert [key for key, _ in found.differing] == ["method", "contrast", "target_labels"]
    assert found.differing[2][1] == ["none", "none", "none", "train"]
    assert found.own == [("transfer_weight", [None, "0.1", None, None])]
    assert found.same == 4  # steps, learning_rate, size, target.sequence
    assert found.unknown == [FAILED]
    lines = page.tables["Settings that differ"]
    assert [line[0] for line in lines] == ["Setting", "method", "contrast", "target_labels"]
    assert lines[0][1:] == [arm.name for arm in view.arms]
    assert lines[1][2] == "not known"


def test_names_from_outside_are_escaped(view: StudyView, tmp_path: Path) -> None:
    nasty = '<img src="http://x.test/a" onerror="alert(1)">'
    arms = (
        *(replace(a, summary=nasty, problems=(nasty,)) for a in view.arms[:4]),
        replace(view.arms[4], name=nasty),
    )
    bad = replace(
        view, title=nasty, question=nasty, arms=arms, facts=((nasty, nasty),), notes=((nasty, nasty),),
        recommendation=(nasty,), next_command=nasty, league=view.league.replace("target_supervised", nasty),
        scores=view.scores.replace("target_supervised", nasty), breakdowns={},
    )  # fmt: skip
    found = written(bad, tmp_path)
    assert "img" not in {tag for tag, _, _ in found.attributes}
    assert not [value for _, name, value in found.attributes if name.startswith("on")]
    assert found.text.count(nasty) >= 10


@pytest.mark.slow
def test_the_page_loads_nothing_and_its_ids_are_sound(
    view: StudyView, hearts: Callable[..., Cohort], tmp_path: Path
) -> None:
    found = written(_with_pictures(view, hearts(0, 3)), tmp_path)
    links = [v for _, n, v in found.attributes if n in ("src", "href", "xlink:href")]
    assert all(link.startswith(("#", "data:")) for link in links)
    text = (tmp_path / "study.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    ids = [value for _, name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[A-Za-z][\w.-]*", name) for name in ids)
    pointed = [link[1:] for link in links if link.startswith("#")]
    pointed += re.findall(r"url\(#([^)]+)\)", text)
    assert set(pointed) <= set(ids)


@pytest.mark.slow
def test_charts_are_written_as_files_of_their_own(view: StudyView, tmp_path: Path) -> None:
    written(view, tmp_path)
    files = {file.name for file in (tmp_path / "figures").iterdir()}
    assert {
        "league-dice-mean.svg",
        "league-gap.svg",
        "paired-2-weak-transfer.svg",
        "boxes-hd95-mean.svg",
    } <= files
    assert all("var(--" not in file.read_text() for file in (tmp_path / "figures").iterdir())


def test_worst_median_and_best_are_of_the_tested_patients_by_hand(
    view: StudyView, hearts: Callable[..., Cohort]
) -> None:
    pictured = _with_pictures(view, hearts(0, 3))
    rows = pictured.scores.query("level == '' and structure == 'mean' and metric == 'dice'")
    means = rows.groupby(["arm", "subject"])["value"].mean().groupby("subject").mean()
    ranked = list(means[["s90", "s91", "s92"]].sort_values().index)
    assert [(p, s) for p, s, _ in worst_median_best(pictured, "mean")] == list(
        zip(("Worst", "Median", "Best"), ranked, strict=True)
    )


@pytest.mark.slow
def test_every_arm_segments_the_same_slices_beside_the_reference(
    view: StudyView, hearts: Callable[..., Cohort]
) -> None:
    patients = patient_views(_with_pictures(view, hearts(0, 3)), "mean")
    assert [p.place for p in patients] == ["Worst", "Median", "Best"]
    for patient in patients:
        assert [c.arm for c in patient.columns] == ["Reference", *(arm.name for arm in view.arms)]
        alone, *arms = patient.columns
        assert [svg.count("<image ") for svg in alone.slices] == [1, 1, 1]
        assert not any('class="predicted"' in svg for svg in alone.slices)
        for column in arms:
            if column.arm == FAILED:
                assert (column.slices, column.note) == ([], "failed")
                continue
            assert all(svg.count("<use ") == 2 and "<image" not in svg for svg in column.slices)
            assert sum('class="predicted"' in svg for svg in column.slices) == 3
            assert re.fullmatch(r"Dice 0\.\d{3}", column.dice)


@pytest.mark.slow
def test_a_prediction_that_cannot_be_read_or_fits_not_is_named(
    view: StudyView, hearts: Callable[..., Cohort]
) -> None:
    def broken(row: Any) -> Any:
        raise FileError(Path("p.nii.gz"), "is cut short")

    pictured = _with_pictures(view, hearts(0, 3))
    arms = list(pictured.arms)
    arms[0] = replace(arms[0], read_prediction=broken)
    arms[2] = replace(arms[2], read_prediction=lambda row: np.zeros((1, 3, 4, 4), np.uint8))
    arms[3] = replace(arms[3], read_prediction=lambda row: None)
    columns = patient_views(replace(pictured, arms=tuple(arms)), "mean")[0].columns
    notes = {column.arm: column.note for column in columns}
    assert "is cut short" in notes["source_only"]
    assert notes["weak_transfer"] == "has shape (1, 3, 4, 4), the scan (1, 3, 48, 56)"
    assert notes[LONG] == "no prediction"


@pytest.mark.slow
def test_an_arm_that_draws_beyond_the_picture_says_so(view: StudyView, hearts: Callable[..., Cohort]) -> None:
    def everywhere(row: Any) -> Any:
        return np.ones((1, 3, 48, 56), np.uint8)

    pictured = _with_pictures(view, hearts(0, 3))
    arms = (replace(pictured.arms[0], read_prediction=everywhere), *pictured.arms[1:])
    _, source, _, other, *_ = patient_views(replace(pictured, arms=arms), "mean")[0].columns
    # 3 slices of 48 x 56 pixels are 120 x 112 mm; the picture is a square of 80 mm and more around the heart
    assert 'viewBox="0 0 112.0 120.0"' not in source.slices[0]
    assert (source.note, other.note) == ("draws beyond this cut-out too", "")


def test_printed_values_stand_beside_ours_as_mean_and_sd(view: StudyView) -> None:
    head, one, other = printed_values(view.side_by_side)
    assert head[3:6] == ["Printed", "Ours, counted alike", "Ours − printed"]
    assert one == [
        "Table 1", FAILED, "Dice: LV cavity, over patients", "0.860 ± 0.030", "0.711 ± 0.040 (15 patients)", "−0.149",
        "0.711 ± 0.040 (15 patients, 3 seeds)", "n = 2 of an invented paper",
    ]  # fmt: skip
    assert other[2:] == [
        "HD95, mm: Myocardium, over frames", "7.10", "–", "–", "–", "the arm has no scores yet"
    ]  # fmt: skip
    assert printed_values(pd.DataFrame()) == []


def test_a_study_of_which_nothing_has_finished_still_has_a_page(tmp_path: Path) -> None:
    found = written(fabricated.fabricate(arms=3, seeds=(0,), finished=False), tmp_path)
    assert "No cell has finished yet" in found.text
    assert "5 cells not run yet." in found.text  # one each, and three folds of the upper bound
    assert list(found.tables) == ["Arms"]


@pytest.mark.slow
def test_scores_without_a_league_are_drawn_and_the_page_says_what_it_waits_for(view: StudyView) -> None:
    found = make_study_page(replace(view, league=pd.DataFrame(), breakdowns={}))
    assert "both bounds" in found.why_none
    assert found.league_charts == []
    assert len(found.boxes) == 4  # Dice; the unit of distances is the league's to say


@pytest.mark.slow
def test_two_arms_one_seed_few_patients(tmp_path: Path) -> None:
    few = fabricated.fabricate(arms=2, seeds=(0,), patients=4)
    blank = few.league.assign(low=np.nan, high=np.nan, gap_low=np.nan, gap_high=np.nan)
    found = written(replace(few, league=blank), tmp_path)
    assert "too few patients for an interval" in found.text
    assert "nan" not in re.sub(r"[a-z_]*nan[a-z_]+", "", found.text)
    assert "each seed" not in found.text
    assert "Not drawn: the scans were not at hand" in found.text


@pytest.mark.slow
def test_the_page_takes_what_the_league_of_a_study_gives(view: StudyView, tmp_path: Path) -> None:
    from crossbeat.study.league import breakdown, league
    from crossbeat.study.published import Published, side_by_side

    table = league(view.scores, reference="weak_transfer", draws=200)
    printed = Published(
        where="Table 2", arm="weak_transfer", structure="LV", metric="dice", value=0.8, sd=0.05, over="frames"
    )  # fmt: skip
    real = replace(
        view, league=table, breakdowns={by: breakdown(view.scores, by) for by in ("vendor", "level")},
        side_by_side=side_by_side(table, view.scores, [printed]),
    )  # fmt: skip
    found = written(real, tmp_path)
    assert real.compared_with == "weak_transfer"
    line = found.line("Differences from weak_transfer", "weak_transfer")
    mean = table.query("structure == 'mean' and metric == 'dice'").set_index("arm")
    assert line[0] == "the reference"
    assert line[1].startswith(signed(mean.loc["weak_transfer", "to_best"], ""))
    assert found.line("Differences from weak_transfer", LONG)[-1] == "the best"
    assert found.line("By vendor, Mean of LV, MYO, RV", "weak_transfer")[0].count(" ± ") == 1
    ours = [" ".join(cell.split()) for cell in found.tables["Published values"][1]]
    assert ours[3:5] == ["0.800 ± 0.050", ours[4]]
    assert ours[4].endswith("(36 frames)")  # 9 patients, 2 frames, 2 seeds


def test_many_notes_are_folded_into_one(view: StudyView) -> None:
    notes = tuple((f"cell {i}", "is not finished") for i in range(30))
    found = make_study_page(replace(_empty(view), notes=notes))
    assert found.folded == notes
    assert not any(banner.head.startswith("cell") for banner in found.banners)


@pytest.mark.slow
def test_nominal_spacing_is_said_at_the_head_and_marks_every_mm(view: StudyView, tmp_path: Path) -> None:
    nominal = replace(view, nominal_scans=3, tested_scans=9, side_by_side=view.side_by_side.assign(unit="mm"))
    found = written(nominal, tmp_path)
    assert "mm and ml are nominal: the voxel spacing of 3 of 9 scans is a stand-in" in found.text
    cells = [cell for table in found.tables.values() for line in table for cell in line]
    assert sum("mm†" in cell for cell in cells) > 8
    assert not [cell for cell in cells if re.search(r"\bmm\b(?!†)", cell)]
    charts = [value for _, name, value in found.attributes if name == "aria-label" and "HD95, mm" in value]
    assert len(charts) == 2
    assert all("HD95, mm† (nominal): " in label for label in charts)
    assert ("div", "id", "nominal") in found.attributes


def test_measured_spacing_has_no_mark(page: Page) -> None:
    assert "†" not in page.text
    assert "nominal" not in page.text


def test_a_transductive_split_is_said_and_its_arms_named_where_others_are_not(view: StudyView) -> None:
    def heads(told: list[bool]) -> list[str]:
        arms = tuple(
            replace(a, settings={"transductive": t}) for a, t in zip(_empty(view).arms, told, strict=True)
        )
        return [banner.head for banner in make_study_page(replace(_empty(view), arms=arms)).banners]

    assert "Transductive:" in heads([True, True])
    assert "Transductive (target_supervised):" in heads([False, True])
    assert not any(head.startswith("Transductive") for head in heads([False, False]))


def test_a_patients_pair_runs_over_the_frames_and_seeds_that_both_arms_have() -> None:
    def row(arm: str, seed: int, phase: str, value: float) -> dict[str, Any]:
        return {"arm": arm, "seed": seed, "subject": "p", "scan": "p", "phase": phase, "level": "", "structure": "LV",
                "metric": "dice", "unit": "", "value": value, "status": "ok"}  # fmt: skip

    scores = pd.DataFrame(
        [row("a", 0, "ED", 0.8), row("a", 0, "ES", 0.4), row("b", 0, "ED", 0.6), row("b", 0, "ES", np.nan),
         row("b", 1, "ED", 0.1)]
    )  # fmt: skip
    # ES has no value by b and seed 1 was never run by a, so that ED of seed 0 is left, although a's mean is 0.6
    assert paired_values(scores, "LV", "dice", "", "a", "b") == {"p": (0.6, 0.8)}
    assert paired_values(scores, "LV", "dice", "", "c", "b") == {}


@pytest.mark.slow
def test_the_paired_charts_agree_with_the_difference_of_the_league(view: StudyView) -> None:
    from crossbeat.study.league import league

    lost = (view.scores["arm"] == "weak_transfer") & (view.scores["phase"] == "ES")
    lost &= view.scores["subject"] == "patient003"
    scores = view.scores.assign(value=view.scores["value"].mask(lost))
    table = league(scores, reference="source_only", draws=50).set_index(["arm", "structure", "metric"])
    pairs = paired_values(scores, "mean", "dice", "", "weak_transfer", "source_only")
    expected = table.loc[("weak_transfer", "mean", "dice"), "difference"]
    assert np.mean([one - other for other, one in pairs.values()]) == pytest.approx(expected, abs=1e-12)
    plain = patient_values(scores, "mean", "dice", "")
    means = [plain["weak_transfer"][p][0] - plain["source_only"][p][0] for p in pairs]
    assert np.mean(means) != pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_the_dice_beside_a_picture_is_of_the_seed_whose_prediction_it_shows(
    view: StudyView, hearts: Callable[..., Cohort]
) -> None:
    pictured = _with_pictures(view, hearts(0, 3))
    arms = (replace(pictured.arms[0], seed=1), *pictured.arms[1:])
    patient = patient_views(replace(pictured, arms=arms), "mean")[0]
    notes = {column.arm: column.note for column in patient.columns}
    assert (notes["source_only"], notes["weak_transfer"]) == ("seed 1", "")
    assert "Predictions of seed 0 where no other is named." in patient.sentence
    rows = pictured.scores.query("level == '' and structure == 'mean' and metric == 'dice' and seed == 1")
    mine = rows[(rows["arm"] == "source_only") & (rows["scan"] == patient.scan)]
    shown = next(column.dice for column in patient.columns if column.arm == "source_only")
    phase = [float(mine[mine["phase"] == p]["value"].mean()) for p in ("ED", "ES")]
    assert shown in {f"Dice {value:.3f}" for value in (*phase, float(np.mean(phase)))}


@pytest.mark.slow
def test_an_arm_whose_first_seed_failed_shows_the_dice_of_the_next(
    view: StudyView, hearts: Callable[..., Cohort]
) -> None:
    pictured = _with_pictures(view, hearts(0, 3))
    gone = (pictured.scores["arm"] == "source_only") & (pictured.scores["seed"] == 0)
    columns = patient_views(replace(pictured, scores=pictured.scores[~gone]), "mean")[0].columns
    (source,) = [column for column in columns if column.arm == "source_only"]
    assert source.note == "seed 1"
    assert source.dice.startswith("Dice 0.")


@pytest.mark.slow
def test_the_page_says_why_there_are_no_pictures(view: StudyView, hearts: Callable[..., Cohort]) -> None:
    assert "not at hand" in why_no_pictures(view, "mean")
    strangers = replace(view, tested=hearts(0, 3))
    assert why_no_pictures(strangers, "mean") == "none of the scans at hand has a Dice"
    pictured = _with_pictures(view, hearts(0, 3))
    known = pictured.scores["subject"].isin(["s90", "s91", "s92"]) & (pictured.scores["arm"] == "source_only")
    apart = replace(pictured, scores=pictured.scores[~known])
    assert patient_views(apart, "mean") == []
    assert "no tested patient has a Dice by every arm" in why_no_pictures(apart, "mean")


def test_charts_of_an_earlier_page_are_removed_and_other_files_are_not(
    view: StudyView, tmp_path: Path
) -> None:
    folder = tmp_path / "figures"
    folder.mkdir()
    for name in (
        "paired-7-an-arm-of-old.svg",
        "learning-old-loss.svg",
        "mine.svg",
        "paired-notes.txt",
        "boxes.svg",
    ):
        (folder / name).write_text("old")
    write_study_report(replace(_empty(view), scores=pd.DataFrame()), tmp_path)
    assert {file.name for file in folder.iterdir()} == {"mine.svg", "paired-notes.txt", "boxes.svg"}


def test_one_differs_and_two_differ(view: StudyView, tmp_path: Path) -> None:
    arms = tuple(
        replace(a, settings={"steps": 10 + i, "size": "demo"}, finished=1)
        for i, a in enumerate(_empty(view).arms)
    )
    text = " ".join(written(replace(_empty(view), arms=arms), tmp_path).text.split())
    assert "1 of the settings that all arms have differs; 1 is the same in all and not listed." in text


@pytest.mark.slow
def test_the_best_arm_is_not_said_to_lie_between_the_bounds(view: StudyView, tmp_path: Path) -> None:
    ranked = view.league.assign(
        rank=view.league["arm"].map({"weak_transfer": 1, LONG: 2}).fillna(0).astype(int)
    )
    behind = replace(
        view, league=ranked.assign(to_best=np.where(ranked["rank"] == 2, -0.02, np.nan)), breakdowns={}
    )
    text = written(behind, tmp_path).text
    assert "against weak_transfer, the best of the other arms." in text
    assert "between the bounds" not in text


def _empty(view: StudyView) -> StudyView:
    """Without anything that takes time to draw."""
    nothing = pd.DataFrame()
    return replace(
        view,
        league=nothing,
        scores=nothing,
        breakdowns={},
        arms=fabricated.fabricate(arms=2, finished=False).arms,
    )


def _with_pictures(view: StudyView, tested: Cohort) -> StudyView:
    pictured: StudyView = fabricated.fabricate(
        arms=5, seeds=(0, 1), patients=9, failed=(FAILED,), tested=tested
    )
    return pictured


@pytest.mark.slow
def test_a_table_that_goes_on_sideways_shows_it(view: StudyView) -> None:
    style = make_study_page(view).css
    assert re.search(r"\.table \{[^}]*no-repeat local,[^}]*no-repeat scroll,", style), (
        "a shadow where more is hidden"
    )
    narrow = style[style.rindex("@media (max-width: 34rem)") :]
    assert "goes on sideways" in narrow[: narrow.index("@media print")]
