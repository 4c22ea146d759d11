"""Finished cells as two csv files: whole, mergeable, never mixed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crossbeat.errors import FileError, RunError
from crossbeat.evaluation import read_scores
from crossbeat.study import code
from crossbeat.study.cell import run_cell
from crossbeat.study.evidence import Evidence, collect, merge, read_evidence, refuse_mixture, write_evidence
from crossbeat.study.folder import Means, StudyFolder
from crossbeat.study.plan import LOWER, UPPER, Study


def evidence(study: Study, seed: int, **changes: Any) -> Evidence:
    """One cell of each bound, made by hand: what a merge looks at."""
    cell = {
        "study": study.name, "method": "supervised", "seed": seed, "fold": 0, "folds": 1, "size": "demo",
        "settings": '{"steps":6}', "cohort": "abc", "phantom": "1", "code": "c0", "commit": "d0", "device": "cpu",
        "precision": "32-true", "threads": 1, "updates": 6, "wall_seconds": 1.5, "peak_memory_mb": 300.0,
        "finished": "2026-11-20",
    }  # fmt: skip
    cells = pd.DataFrame([{"arm": arm} | cell | changes for arm in (LOWER, UPPER)])
    score = {
        "seed": seed, "fold": 0, "subject": "p1", "scan": "p1_lge", "phase": "", "level": "", "structure": "LV",
        "metric": "dice", "unit": "", "value": 0.5 + seed / 10, "status": "ok", "vendor": "a", "centre": "", "group": "",
    }  # fmt: skip
    return Evidence(study, cells, pd.DataFrame([{"arm": arm} | score for arm in (LOWER, UPPER)]))


def test_evidence_grows_by_seeds_and_a_cell_that_both_have_is_the_later_ones(
    small_study: Callable[..., Study],
) -> None:
    study = small_study()
    grown = merge(evidence(study, 0), evidence(study, 1))
    assert grown.cells[["arm", "seed"]].values.tolist() == [[LOWER, 0], [LOWER, 1], [UPPER, 0], [UPPER, 1]]
    again = merge(grown, evidence(study, 1, code="c1"))
    assert len(again.cells) == 4
    assert again.cells.loc[again.cells["seed"] == 1, "code"].tolist() == ["c1", "c1"]
    assert len(again.scores) == 4
    assert [head for head, _ in again.remarks] == ["Cells come from different states of the code"]
    assert not grown.remarks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phantom": "2"}, r"cells of different phantom \(1, 2\)"),
        ({"cohort": "xyz"}, r"cells of different cohort \(abc, xyz\)"),
        ({"size": "bench"}, r"cells of different size \(bench, demo\)"),
        ({"settings": '{"steps":8}'}, r"arm source_only has cells of different settings: steps \(6, 8\)"),
        ({"folds": 2}, "arm source_only has cells of different folds"),
    ],
)
def test_cells_of_different_settings_are_never_mixed(
    small_study: Callable[..., Study], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        merge(evidence(small_study(), 0), evidence(small_study(), 1, **changes))


def test_what_is_written_is_read_again(tmp_path: Path, small_study: Callable[..., Study]) -> None:
    made = merge(evidence(small_study(), 0), evidence(small_study(), 1))
    write_evidence(made, tmp_path)
    found = read_evidence(tmp_path)
    assert found.study == made.study
    pd.testing.assert_frame_equal(found.cells[made.cells.columns], made.cells, check_dtype=False)
    pd.testing.assert_frame_equal(found.scores[made.scores.columns], made.scores, check_dtype=False)


def test_a_table_that_lacks_something_is_refused_by_name(
    tmp_path: Path, small_study: Callable[..., Study]
) -> None:
    with pytest.raises(FileError, match=r"cells.csv: does not exist; .*--add OUT"):
        read_evidence(tmp_path)
    made = evidence(small_study(), 0)
    write_evidence(replace(made, scores=made.scores.drop(columns="value")), tmp_path)
    with pytest.raises(FileError, match=r"scores.csv: lacks the column 'value'"):
        read_evidence(tmp_path)
    write_evidence(replace(made, cells=made.cells.assign(seed="one")), tmp_path)
    with pytest.raises(FileError, match=r"cells.csv: column 'seed' holds what is no number"):
        read_evidence(tmp_path)


def test_mixed_files_are_refused_when_read(tmp_path: Path, small_study: Callable[..., Study]) -> None:
    made = evidence(small_study(), 0)
    write_evidence(
        replace(made, cells=pd.concat([made.cells, made.cells.assign(seed=1, phantom="")])), tmp_path
    )
    with pytest.raises(RunError, match=r"cells of different phantom \(none, 1\)"):
        read_evidence(tmp_path)
    assert refuse_mixture(made.cells, "alone") is None


def test_the_code_hash_is_blind_to_words_and_sees_statements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert code.code_hash("supervised") == code.code_hash("supervised")
    plain = code._bare("def f(x):\n    return x + 1\n")
    worded = code._bare('"""Words."""\n\n# more\ndef f(x):\n    """Says."""\n    return (x + 1)  # why\n')
    assert worded == plain
    assert code._bare("def f(x):\n    return x + 2\n") != plain


@pytest.mark.slow
def test_the_evidence_of_a_study_holds_every_tested_patient_once_a_seed(
    tmp_path: Path, cohort_csv: Path, small_study: Callable[..., Study]
) -> None:
    study = StudyFolder(tmp_path / "out").claim(small_study())
    study.open(cohort_csv, Means("cpu", "32"))
    assert collect(study).cells.empty
    for cell in study.cells:
        run_cell(cell, study, study.means)
    found = collect(study)
    assert found.cells[["arm", "fold", "folds", "updates"]].values.tolist() == [
        [LOWER, 0, 1, 6], [UPPER, 0, 2, 6], [UPPER, 1, 2, 6]
    ]  # fmt: skip
    assert (found.cells["code"] == code.code_hash("supervised")).all()
    dice = found.scores.query("metric == 'dice' and level == '' and structure == 'LV'")
    for arm in (LOWER, UPPER):
        assert sorted(dice[dice["arm"] == arm]["subject"]) == ["s92", "s93"]
    whole = read_scores(study.cell(study.cells[0]) / "scores.csv")
    mine = found.scores[found.scores["arm"] == LOWER]
    slices = whole[(whole["metric"] == "dice") & (whole["structure"] == "MYO") & whole["slice"].notna()]
    for level, rows in slices[slices["subject"] == "s92"].groupby("level"):
        kept = mine.query("subject == 's92' and structure == 'MYO' and metric == 'dice' and level == @level")
        assert kept["value"].item() == pytest.approx(np.nanmean(rows["value"].to_numpy(float)))
