"""Finished cells as two csv files: whole, mergeable, never mixed."""

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import crossbeat
from crossbeat.errors import FileError, RunError
from crossbeat.evaluation import read_scores
from crossbeat.methods import METHODS
from crossbeat.study import code
from crossbeat.study.cell import run_cell
from crossbeat.study.evidence import Evidence, collect, merge, read_evidence, refuse_mixture, write_evidence
from crossbeat.study.folder import Means, StudyFolder
from crossbeat.study.plan import LOWER, UPPER, Study, canonical

ROOT = Path(__file__).parents[2]


def evidence(study: Study, seed: int, **changes: Any) -> Evidence:
    """One cell of each bound, made by hand: what a merge looks at."""
    cell = {
        "study": study.name, "method": "supervised", "seed": seed, "fold": 0, "folds": 1, "size": "demo",
        "settings": '{"steps":6}', "cohort": "abc", "phantom": "1", "code": "c0", "commit": "d0", "device": "cpu",
        "precision": "32-true", "threads": 1, "updates": 6, "wall_seconds": 1.5, "peak_memory_mb": 300.0,
        "finished": f"2026-11-2{seed}", "tested": 1, "nominal": 0,
    }  # fmt: skip
    cells = pd.DataFrame([{"arm": arm} | cell | changes for arm in (LOWER, UPPER)])
    score = {
        "seed": seed, "fold": 0, "subject": "p1", "scan": "p1_lge", "phase": "", "level": "", "structure": "LV",
        "metric": "dice", "unit": "", "value": 0.5 + seed / 10, "status": "ok",
        "vendor": "a", "centre": "", "group": "", "part": "target",
    }  # fmt: skip
    return Evidence(study, cells, pd.DataFrame([{"arm": arm} | score for arm in (LOWER, UPPER)]))


def test_evidence_grows_by_seeds_and_a_cell_that_both_have_is_the_later_ones(
    small_study: Callable[..., Study],
) -> None:
    study = small_study()
    grown = merge(evidence(study, 0), evidence(study, 1))
    assert grown.cells[["arm", "seed"]].values.tolist() == [[LOWER, 0], [LOWER, 1], [UPPER, 0], [UPPER, 1]]
    again = merge(evidence(study, 1, code="c1", finished="2026-11-29"), grown)
    assert len(again.cells) == 4
    assert again.cells.loc[again.cells["seed"] == 1, "code"].tolist() == ["c1", "c1"]
    assert len(again.scores) == 4
    assert [head for head, _ in again.remarks] == [
        "Cells of one method come from different states of the code"
    ]
    assert not grown.remarks
    assert grown.scores["part"].tolist() == ["target"] * 4


def test_two_methods_of_one_state_of_the_code_are_no_mixture(small_study: Callable[..., Study]) -> None:
    made = evidence(small_study(), 0)
    made.cells.loc[1, ["method", "code"]] = ["weak_transfer", "c9"]
    assert not made.remarks


def test_what_is_undefined_is_read_back_undefined(small_study: Callable[..., Study], tmp_path: Path) -> None:
    made = evidence(small_study(), 0)
    nothing = made.scores.assign(structure="RV", value=math.nan, status="undefined", part="beside")
    both = Evidence(made.study, made.cells, pd.concat([made.scores, nothing], ignore_index=True))
    write_evidence(both, tmp_path)
    found = read_evidence(tmp_path).scores
    assert found["value"].isna().tolist() == [False, False, True, True]
    assert found["value"].dtype == np.float64
    assert found["part"].tolist() == ["target", "target", "beside", "beside"]


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
    settings = canonical(small_study().recipe(LOWER))
    made = merge(*(evidence(small_study(), seed, settings=settings) for seed in (0, 1)))
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
    with pytest.raises(FileError, match=r"scores.csv.gz: lacks the column 'value'"):
        read_evidence(tmp_path)
    write_evidence(replace(made, cells=made.cells.assign(seed="one")), tmp_path)
    with pytest.raises(FileError, match=r"cells.csv: column 'seed' holds what is no number"):
        read_evidence(tmp_path)


def test_kept_scores_that_are_cut_or_damaged_are_refused_by_name(
    tmp_path: Path, small_study: Callable[..., Study]
) -> None:
    write_evidence(evidence(small_study(), 0), tmp_path)
    scores = tmp_path / "scores.csv.gz"
    whole = scores.read_bytes()
    write_evidence(evidence(small_study(), 0), tmp_path)
    assert scores.read_bytes() == whole, "the same evidence makes the same bytes"
    for broken in (whole[:-20], b"arm,seed", whole[:20] + bytes(8) + whole[28:]):
        scores.write_bytes(broken)
        with pytest.raises(FileError, match=r"scores.csv.gz: is not a csv table"):
            read_evidence(tmp_path)


def test_mixed_files_are_refused_when_read(tmp_path: Path, small_study: Callable[..., Study]) -> None:
    made = evidence(small_study(), 0)
    write_evidence(
        replace(made, cells=pd.concat([made.cells, made.cells.assign(seed=1, phantom="")])), tmp_path
    )
    with pytest.raises(RunError, match=r"cells of different phantom \(none, 1\)"):
        read_evidence(tmp_path)
    assert refuse_mixture(made.cells, "alone") is None


def test_arms_and_seeds_of_both_study_files_are_kept(small_study: Callable[..., Study]) -> None:
    first = small_study(seeds=[0], arms={"gone": {"settings": {"learning_rate": 0.002}}})
    mine = evidence(first, 0)
    mine = replace(mine, cells=pd.concat([mine.cells, mine.cells[:1].assign(arm="gone")], ignore_index=True))
    grown = merge(mine, evidence(small_study(seeds=[1]), 1))
    assert list(grown.study.arms) == [LOWER, "gone", UPPER]
    assert grown.study.seeds == [0, 1]
    assert grown.cells["arm"].tolist() == [LOWER, LOWER, "gone", UPPER, UPPER]


def test_settings_that_a_method_got_since_have_their_defaults_in_earlier_evidence(
    tmp_path: Path, small_study: Callable[..., Study]
) -> None:
    whole = canonical(small_study().recipe(LOWER))
    fewer = json.loads(whole)
    assert fewer.pop("weight_decay") == 0.01
    write_evidence(evidence(small_study(), 0, settings=json.dumps(fewer)), tmp_path)
    assert set(read_evidence(tmp_path).cells["settings"]) == {whole}


@pytest.mark.parametrize("method", METHODS)
def test_the_code_hash_sees_every_module_that_a_cell_runs_through(method: str) -> None:
    """What the method, prediction and evaluation import, and what those import, is in the hash."""
    root = Path(crossbeat.__file__).parent
    own = root / "methods" / method
    own = own if own.is_dir() else own.with_suffix(".py")
    rooms = [root / room for room in code._ROOMS] + [own]
    blameless = {"errors.py", "__init__.py", "methods/__init__.py"}
    hearts = {
        file for file in (root / "synthetic").rglob("*.py") if file.name != "tagging.py"
    }  # PHANTOM_VERSION
    seen, waiting = set[Path](), [own, root / "prediction.py", root / "evaluation"]
    while waiting:
        place = waiting.pop()
        for file in [place] if place.suffix else place.rglob("*.py"):
            if file in seen | hearts or str(file.relative_to(root)) in blameless:
                continue
            seen.add(file)
            assert any(file == room or room in file.parents for room in rooms), f"{file} is not in the hash"
            for name in re.findall(r"^(?:from|import) crossbeat\.([\w.]+)", file.read_text(), re.MULTILINE):
                module = root / name.replace(".", "/")
                waiting.append(module if module.is_dir() else module.with_suffix(".py"))
    assert len(seen) > 40


def test_evidence_of_another_target_or_of_unequal_updates_is_refused(
    small_study: Callable[..., Study],
) -> None:
    kept = evidence(small_study(), 0)
    other = small_study(target={"sequence": "t2"})
    with pytest.raises(RunError, match=r"its target is .*t2.*, of the kept evidence .*lge"):
        merge(kept, evidence(other, 1))
    longer = evidence(small_study(), 1)
    longer.cells.loc[longer.cells["arm"] == UPPER, "updates"] = 5000
    with pytest.raises(RunError, match=rf"arms of unequal updates \(.*{UPPER} 5000"):
        merge(longer, longer)
    free = small_study(equal_updates=False)
    assert len(merge(replace(longer, study=free), replace(longer, study=free)).cells) == len(longer.cells)


@pytest.mark.slow
def test_the_code_hash_is_blind_to_words_and_sees_statements(tmp_path: Path) -> None:
    copied = shutil.copytree(Path(crossbeat.__file__).parent, tmp_path / "crossbeat")
    before = code.code_hash("supervised", copied)
    assert before == code.code_hash("supervised")
    for name, changes in (("viewer/server.py", False), ("losses/segmentation.py", True)):
        with (copied / name).open("a") as file:
            file.write("\nx = 1\n")
        assert (code.code_hash("supervised", copied) != before) == changes
    plain = code._bare("def f(x):\n    return x + 1\n")
    worded = code._bare('"""Words."""\n\n# more\ndef f(x):\n    """Says."""\n    return (x + 1)  # why\n')
    assert worded == plain
    assert code._bare("def f(x):\n    return x + 2\n") != plain


@pytest.mark.slow
def test_the_evidence_of_a_study_holds_every_tested_patient_once_a_seed(
    tmp_path: Path, cohort_csv: Path, small_study: Callable[..., Study]
) -> None:
    study = StudyFolder(tmp_path / "out").open(small_study(), cohort_csv, Means("cpu", "32"))
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
        assert level in ("base", "mid", "apex", "outside")
        assert kept["value"].item() == pytest.approx(np.nanmean(rows["value"].to_numpy(float)))
