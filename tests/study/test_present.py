"""What a study says at its end: who is recommended among whom, what fits a terminal, what an evidence page holds."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crossbeat.report.wording import p_value
from crossbeat.study.evidence import CELL_COLUMNS, SCORE_COLUMNS, Evidence, read_evidence
from crossbeat.study.plan import LOWER, UPPER, Study, canonical
from crossbeat.study.present import Result, present_evidence

LABELS = {"target_labels": "train", "target_labelled": 2}


def evidence(study: Study, means: dict[str, float]) -> Evidence:
    """Twelve patients, one seed, one cell an arm; made up, with the means given."""
    rng = np.random.default_rng(1)
    patients = rng.normal(0, 0.03, 12)
    cell: dict[str, Any] = dict.fromkeys(CELL_COLUMNS, "") | {
        "study": study.name, "method": "supervised", "seed": 0, "fold": 0, "folds": 1, "size": study.size,
        "threads": 1, "updates": 6, "wall_seconds": 60.0, "peak_memory_mb": 300.0, "tested": 12, "nominal": 0,
    }  # fmt: skip
    cells = [cell | {"arm": arm, "settings": canonical(study.recipe(arm))} for arm in means]
    score: dict[str, Any] = dict.fromkeys(SCORE_COLUMNS, "") | {
        "seed": 0,
        "fold": 0,
        "metric": "dice",
        "status": "ok",
        "part": "target",
    }
    scores = [
        score | {"arm": arm, "subject": f"p{i}", "scan": f"p{i}", "structure": structure, "value": value}
        for arm, mean in means.items()
        for structure in ("LV", "MYO", "RV", "mean")
        for i, value in enumerate(mean + patients + rng.normal(0, 0.005, 12))
    ]
    return Evidence(study, pd.DataFrame(cells), pd.DataFrame(scores))


@pytest.mark.slow
def test_arms_are_recommended_among_those_that_see_as_many_target_labels(
    small_study: Callable[..., Study],
) -> None:
    contrast = {"augmentation": "none"}
    arms = {
        "free": {"settings": contrast},
        "few": {"settings": LABELS},
        "few_more": {"settings": LABELS | contrast},
    }
    means = {LOWER: 0.5, "free": 0.6, "few": 0.75, "few_more": 0.7, UPPER: 0.8}
    said = Result(evidence(small_study(arms=arms), means)).sentences
    [free] = [s for s in said if s.startswith("Without a target label: ")]
    [few] = [s for s in said if s.startswith("With target labels: ")]
    assert "free has the best mean Dice" in free
    assert "few has the best mean Dice" in few


@pytest.mark.slow
def test_a_single_budget_needs_no_heading(small_study: Callable[..., Study]) -> None:
    arms = {"free": {"settings": {"augmentation": "none"}}}
    said = Result(evidence(small_study(arms=arms), {LOWER: 0.5, "free": 0.6, UPPER: 0.8})).sentences
    assert said[1].startswith("free has the best mean Dice")
    bounds = Result(evidence(small_study(), {LOWER: 0.5, UPPER: 0.8})).sentences
    assert bounds[1].startswith("Only the bounds can be shown")


@pytest.mark.slow
def test_what_a_small_size_takes_away_is_said_before_any_verdict(
    small_study: Callable[..., Study], tmp_path: Path
) -> None:
    made = evidence(small_study(title="Two arms"), {LOWER: 0.5, UPPER: 0.8})
    shown = present_evidence(made, tmp_path)
    assert shown.title == "Two arms (demonstration size, not a result)"
    assert shown.sentences[0].startswith("Demonstration size: ")
    page = shown.page.read_text()
    assert page.index("demonstration size, not a result") < page.index("<h1>")
    full = Evidence(made.study.model_copy(update={"size": "full"}), made.cells, made.scores)
    shown = present_evidence(full, tmp_path)
    assert shown.title == "Two arms"
    assert "size" not in shown.sentences[0]


@pytest.mark.slow
def test_nobody_is_called_the_highest_where_no_method_found_the_heart(
    small_study: Callable[..., Study], tmp_path: Path
) -> None:
    arms = {
        "a": {"settings": {"augmentation": "none"}},
        "b": {"settings": {"augmentation": "light", "batch_size": 3}},
    }
    made = evidence(small_study(arms=arms), {LOWER: 0.5, "a": 0.0, "b": 0.0, UPPER: 0.8})
    lost = made.scores["arm"].isin(["a", "b"])
    made.scores.loc[lost, "value"] = made.scores.loc[lost, "value"].abs() / 100
    shown = present_evidence(made, tmp_path)
    assert "No method found the heart" in " ".join(shown.sentences)
    page = shown.page.read_text()
    assert "Highest of" not in page
    assert "the best" not in page


@pytest.mark.slow
def test_evidence_alone_gives_a_page_and_the_lines_for_a_terminal(
    small_study: Callable[..., Study], tmp_path: Path
) -> None:
    shown = present_evidence(evidence(small_study(), {LOWER: 0.5, UPPER: 0.8}), tmp_path)
    assert shown.page.exists()
    assert [row[0] for row in shown.rows] == [LOWER, UPPER]
    lower = dict(zip(shown.head, shown.rows[0], strict=True))
    assert float(lower["mean"]) == pytest.approx(0.5, abs=0.02)
    assert lower["gap closed"] == "0%"
    assert lower["HD95 mean"] == "–"
    assert (tmp_path / "league.csv").exists()


@pytest.mark.slow
def test_what_was_found_in_the_wrong_place_is_counted_beside_what_was_missed(
    small_study: Callable[..., Study], tmp_path: Path
) -> None:
    made = evidence(small_study(), {LOWER: 0.5, UPPER: 0.8})
    shown = present_evidence(made, tmp_path / "good")
    assert {row[8] for row in shown.rows} == {"0"}
    assert not any("Dice 0" in sentence for sentence in shown.sentences)
    scores, lower = made.scores, made.scores["arm"] == LOWER
    scores.loc[lower & (scores["structure"] == "RV") & scores["subject"].isin(["p1", "p2"]), "value"] = 0.0
    scores.loc[lower & (scores["structure"] == "LV") & (scores["subject"] == "p1"), ["value", "status"]] = (
        0.0,
        "missed",
    )
    shown = present_evidence(made, tmp_path / "bad")
    assert [dict(zip(shown.head, row, strict=True))["Dice 0"] for row in shown.rows] == ["3", "0"]
    assert "missed, or found without any overlap" in shown.sentences[-1]
    page = shown.page.read_text()
    assert page.count("+ 2 apart") == page.count(" apart</span>") == 1


@pytest.mark.slow
def test_evidence_without_a_bound_gives_a_page_and_no_league(
    small_study: Callable[..., Study], tmp_path: Path
) -> None:
    shown = present_evidence(evidence(small_study(), {LOWER: 0.5}), tmp_path)
    assert shown.page.exists()
    assert shown.rows == []
    assert not (tmp_path / "league.csv").exists()


@pytest.mark.slow
def test_scans_with_a_stand_in_spacing_are_counted_once_not_once_an_arm(
    small_study: Callable[..., Study], tmp_path: Path
) -> None:
    made = evidence(small_study(), {LOWER: 0.5, UPPER: 0.8})
    far = made.scores.assign(metric="hd95", unit="mm", value=7.0)
    made = Evidence(made.study, made.cells, pd.concat([made.scores, far], ignore_index=True))
    halves = made.cells[made.cells["arm"] == UPPER].assign(tested=6, nominal=5)
    folds = pd.concat([halves, halves.assign(fold=1, nominal=4)])
    cells = pd.concat([made.cells[made.cells["arm"] == LOWER].assign(nominal=9), folds], ignore_index=True)
    shown = present_evidence(Evidence(made.study, cells, made.scores), tmp_path)
    assert "9 of 12 scans" in shown.page.read_text()
    assert {row[7] for row in shown.rows} == {"7.0 mm†"}, "the terminal marks them as the page does"
    assert shown.sentences[-1] == "† nominal: the spacing of 9 scans is a stand-in"
    honest = present_evidence(made, tmp_path / "true")
    assert "stand-in" not in honest.page.read_text()
    assert not any("†" in cell for row in honest.rows for cell in row)


def test_what_is_scored_beside_the_target_is_broken_down_and_never_ranked(
    small_study: Callable[..., Study],
) -> None:
    made = evidence(small_study(), {LOWER: 0.5, UPPER: 0.8})
    seen = made.scores.assign(part="beside", value=0.9, subject="q" + made.scores["subject"])
    both = Result(Evidence(made.study, made.cells, pd.concat([made.scores, seen], ignore_index=True)))
    pd.testing.assert_frame_equal(both.league, Result(made).league)
    by_part = both.breakdowns["part"].query("structure == 'LV' and arm == @LOWER").set_index("value")["mean"]
    assert by_part["beside"] == pytest.approx(0.9)
    assert by_part["target"] == pytest.approx(
        Result(made).league.query("structure == 'LV' and arm == @LOWER")["mean"].item()
    )
    assert "part" not in Result(made).breakdowns


@pytest.mark.slow
def test_the_recommendation_says_the_p_of_the_table(small_study: Callable[..., Study]) -> None:
    """Corrected for every arm of the study, not for those of one budget alone."""
    arms = {
        "free": {"settings": {"augmentation": "none"}},
        **{f"few{k}": {"settings": LABELS} for k in range(4)},
    }
    means = {LOWER: 0.5, "free": 0.503, "few0": 0.7, "few1": 0.71, "few2": 0.72, "few3": 0.73, UPPER: 0.8}
    result = Result(evidence(small_study(arms=arms), means))
    table = result.league.set_index(["arm", "structure", "metric", "unit"])["p_holm"]
    for arm in ("free", "few3"):
        [said] = re.findall(
            rf"{arm} has the best mean Dice.*?Holm's p (?:= )?(\S+?)\.? ", " ".join(result.sentences) + " "
        )
        assert said == p_value(table[arm, "mean", "dice", ""]).removeprefix("= ")


KEPT = sorted(path.parent for path in (Path(__file__).parents[2] / "docs" / "results").glob("*/cells.csv"))


@pytest.mark.slow
@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_kept_evidence_makes_a_page_and_the_tables_that_are_kept_beside_it(
    folder: Path, tmp_path: Path
) -> None:
    """What a page of docs shows comes out of `crossbeat study --results` again; no verdict without the bounds."""
    here = tmp_path / folder.name
    shutil.copytree(folder, here)
    evidence = read_evidence(here)
    shown = present_evidence(evidence, here)
    assert shown.page.stat().st_size > 10_000
    whole = {LOWER, UPPER, evidence.study.reference} <= set(evidence.cells["arm"])
    assert shown.sentences
    assert any("no table yet" in sentence for sentence in shown.sentences) != whole
    assert (folder / "league.csv").exists() == whole
    if whole:
        ours, kept = (pd.read_csv(of / "league.csv") for of in (here, folder))
        pd.testing.assert_frame_equal(ours, kept, rtol=1e-6)
