"""Cells as processes: the same every time, resumed after a kill, redone only where something changed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from finished_cells import opened, problems, processes_of, same_results

from crossbeat.cohort import Cohort
from crossbeat.errors import CohortError, RunError, SettingsError
from crossbeat.methods.recipe import Recipe
from crossbeat.study.cell import run_cell, state
from crossbeat.study.engine import Cost, compute, estimate, pending, position, told_total
from crossbeat.study.folder import Means, StudyFolder
from crossbeat.study.plan import LOWER, Cell, Study
from crossbeat.study.present import present
from crossbeat.training import Estimate, Run

pytestmark = pytest.mark.slow
Make = Callable[..., Study]


def in_this_process(study: StudyFolder, name: str) -> Path:
    cell = study.find_cell(name)
    run_cell(cell, study, study.means)
    return study.cell(cell)


def finish(study: StudyFolder) -> None:
    for cell in pending(study):
        run_cell(cell, study, study.means)
    assert pending(study) == []


def test_a_cell_is_the_same_every_time_in_a_process_of_its_own_too(
    tmp_path: Path, cohort_csv: Path, small_study: Make
) -> None:
    study = small_study()
    first, second = (opened(tmp_path / name, study, cohort_csv) for name in ("a", "b"))
    here = in_this_process(first, "source_only/seed-0")
    outcomes = compute(second, [second.find_cell("source_only/seed-0")])
    assert problems(outcomes) == {"source_only/seed-0": ""}
    same_results(here, second.cell(second.find_cell("source_only/seed-0")))


def test_a_cell_killed_in_its_training_goes_on_and_ends_as_if_nothing_had_been(
    tmp_path: Path, cohort_csv: Path, small_study: Make
) -> None:
    study = small_study(settings={**small_study().settings, "steps": 150})
    whole, killed = (opened(tmp_path / name, study, cohort_csv) for name in ("whole", "killed"))
    cell = killed.find_cell("source_only/seed-0")
    command = [sys.executable, "-m", "crossbeat.study.cell", str(killed.path), cell.name]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    wait_for(lambda: len(list(killed.cell(cell).glob("stages/*/checkpoints/*"))) > 0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state(cell, killed.cell(cell)) == "begun"
    in_this_process(killed, cell.name)
    same_results(killed.cell(cell), in_this_process(whole, cell.name))
    assert json.loads((killed.cell(cell) / "run.json").read_text())["resumed"]


def test_an_engine_that_is_killed_leaves_no_process_behind_and_a_second_call_completes_the_study(
    tmp_path: Path, cohort_csv: Path, small_study: Make
) -> None:
    study = opened(
        tmp_path / "study", small_study(settings={**small_study().settings, "steps": 150}), cohort_csv
    )
    code = (
        "import sys; from pathlib import Path; from crossbeat.study.folder import StudyFolder\n"
        "from crossbeat.study.engine import compute, pending\n"
        "study = StudyFolder(Path(sys.argv[1])); compute(study, pending(study))"
    )
    engine = subprocess.Popen([sys.executable, "-c", code, str(study.path)])
    first = study.cells[0]
    wait_for(lambda: len(list(study.cell(first).glob("stages/*/checkpoints/*"))) > 0)
    [orphan] = processes_of(study)
    engine.send_signal(signal.SIGKILL)
    engine.wait()
    wait_for(lambda: orphan not in processes_of(study), seconds=30)
    assert state(first, study.cell(first)) == "begun"
    assert set(problems(compute(study, pending(study))).values()) == {""}
    assert pending(study) == []


def test_a_failed_arm_is_named_and_the_others_go_on(
    tmp_path: Path, cohort_csv: Path, small_study: Make
) -> None:
    greedy = {"greedy": {"settings": {"target_labels": "train", "target_labelled": 99}}}
    study = opened(tmp_path / "study", small_study(arms=greedy), cohort_csv)
    told: list[str] = []
    found = problems(
        compute(study, pending(study), jobs=2, told=lambda outcome: told.append(outcome.cell.name))
    )
    assert "99 labelled target subjects wanted, there are 2" in found.pop("greedy/seed-0")
    assert found == {
        "source_only/seed-0": "",
        **{f"target_supervised/seed-0-fold-{i}-of-2": "" for i in (0, 1)},
    }
    assert sorted(told) == sorted([*found, "greedy/seed-0"])
    assert [cell.name for cell in pending(study)] == ["greedy/seed-0"]


def test_only_what_changed_is_redone_and_what_was_there_is_kept_aside(
    tmp_path: Path, cohort_csv: Path, small_study: Make
) -> None:
    arms = {"other": {"settings": {"learning_rate": 0.002}}}
    study = opened(tmp_path / "study", small_study(arms=arms), cohort_csv)
    finish(study)
    before = (study.path / "cells" / LOWER / "seed-0" / "run.json").read_text()
    arms["other"]["settings"]["learning_rate"] = 0.003
    again = opened(tmp_path / "study", small_study(arms=arms), cohort_csv)
    assert [cell.name for cell in pending(again)] == ["other/seed-0"]
    finish(again)
    assert (study.path / "cells" / LOWER / "seed-0" / "run.json").read_text() == before
    [aside] = again.earlier.iterdir()
    assert "learning_rate: 0.002" in (aside / "settings.yaml").read_text()


def test_arms_asked_for_are_computed_alone_and_a_misspelt_one_is_refused(
    tmp_path: Path, cohort_csv: Path, small_study: Make
) -> None:
    study = opened(tmp_path / "study", small_study(), cohort_csv)
    assert [cell.name for cell in pending(study, [LOWER])] == ["source_only/seed-0"]
    with pytest.raises(SettingsError, match="no cell of an arm 'source_onyl'; did you mean 'source_only'"):
        pending(study, ["source_onyl"])


def test_where_a_cell_is_at_work_can_be_told(tmp_path: Path, cohort_csv: Path, small_study: Make) -> None:
    study = opened(tmp_path / "study", small_study(), cohort_csv)
    cell = study.find_cell("source_only/seed-0")
    assert position(study, cell) == "source_only/seed-0"
    in_this_process(study, cell.name)
    assert position(study, cell) == "source_only/seed-0 (segmentation, step 6)"


def test_what_a_study_would_cost_is_told_and_nothing_is_written(
    tmp_path: Path, cohort_csv: Path, small_study: Make
) -> None:
    study = opened(tmp_path / "study", small_study(), cohort_csv)
    costs = estimate(study.cells, study.means)
    assert [cost.told()[:5] for cost in costs] == [
        ["source_only", "segmentation", "1", "1", "6"],
        ["target_supervised", "segmentation", "2", "2", "6"],
    ]
    assert not (study.path / "cells").exists()
    assert not Path("estimate").exists()


def test_the_time_of_a_study_is_that_of_all_its_stages_and_trainings() -> None:
    costs = [
        Cost("a", "warm-up", 4, 1, Estimate(10, 100, 30.0, 5.0)),
        Cost("a", "last", 4, 1, Estimate(10, 100, 30.0, 5.0)),
        Cost("b", "last", 2, 2, Estimate(10, 100, 60.0, 5.0)),
    ]
    assert told_total(costs) == (
        "6 trainings, one after the other about 6 min 00 s; 3 finished, 3 left: about 3 min 00 s"
    )
    assert told_total(costs[2:]) == "2 trainings, one after the other about 2 min 00 s"


class Sharing(Recipe):
    """Of a method whose first stage arms with one key share."""

    key: str

    @property
    def shared_stages(self) -> dict[str, str]:
        return {"encoder": self.key}


def test_a_stage_that_arms_share_is_counted_in_the_first_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Estimate(10, 100, 30.0, 5.0)

    def train(cohort: object, settings: object, run: Run) -> None:
        assert run.estimates is not None
        run.estimates.update(encoder=found, last=found)

    monkeypatch.setattr("crossbeat.study.engine.METHODS", {"m": SimpleNamespace(train=train)})
    cells = [
        Cell(arm, "m", Sharing(key=key), seed, 0, 1, Cohort(()))
        for seed in (0, 1)
        for arm, key in {"a": "same", "b": "same", "c": "other"}.items()
    ]
    costs = [(cost.arm, cost.stage, cost.trainings) for cost in estimate(cells, Means(device="cpu"))]
    assert costs == [
        ("a", "encoder", 2),
        *((arm, "last", 2) for arm in "ab"),
        ("c", "encoder", 2),
        ("c", "last", 2),
    ]


def test_a_folder_of_something_else_is_not_taken(tmp_path: Path, cohort_csv: Path, small_study: Make) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(RunError, match="holds files, but no study"):
        StudyFolder(tmp_path).open(small_study(), cohort_csv, Means())
    with pytest.raises(RunError, match=r"is no study \(no study.yaml\)"):
        assert StudyFolder(tmp_path).cells
    opened(tmp_path / "study", small_study(), cohort_csv)
    with pytest.raises(RunError, match=r"holds the study 'small', not 'other'.*write `name: small` there"):
        opened(tmp_path / "study", small_study(name="other"), cohort_csv)


def test_a_study_that_cannot_be_planned_changes_nothing_that_is_there(
    tmp_path: Path, cohort_csv: Path, small_study: Make
) -> None:
    study = opened(tmp_path / "study", small_study(), cohort_csv)
    before = {file.name: file.read_text() for file in study.path.iterdir()}
    with pytest.raises(CohortError, match="no scan is the study's target"):
        opened(study.path, small_study(target={"sequence": "t2"}), cohort_csv)
    assert {file.name: file.read_text() for file in study.path.iterdir()} == before


def test_two_engines_do_not_compute_one_study(tmp_path: Path, cohort_csv: Path, small_study: Make) -> None:
    study = opened(tmp_path / "study", small_study(), cohort_csv)
    with study.engaged(), pytest.raises(RunError, match="another process computes this study now"):
        compute(study, study.cells)


def test_another_method_under_the_same_settings_is_another_training(
    tmp_path: Path, cohort_csv: Path, small_study: Make
) -> None:
    study = opened(tmp_path / "study", small_study(), cohort_csv)
    cell = study.find_cell("source_only/seed-0")
    folder = in_this_process(study, cell.name)
    assert state(cell, folder) == "done"
    assert state(replace(cell, method="propagation"), folder) == "changed"


def test_a_cell_whose_further_scans_are_not_scored_is_not_done(
    tmp_path: Path, cohort_csv: Path, small_study: Make
) -> None:
    """The study gets `beside` later: the cell is predicted and scored again, and not trained."""
    study = opened(tmp_path / "study", small_study(), cohort_csv)
    folder = in_this_process(study, "source_only/seed-0")
    wider = opened(
        tmp_path / "study", small_study(beside={"sequence": "bssfp", "split": "train"}), cohort_csv
    )
    cell = wider.find_cell("source_only/seed-0")
    assert state(cell, folder) == "trained"
    weights = (folder / "segmenter" / "weights.safetensors").stat().st_mtime_ns
    in_this_process(wider, cell.name)
    assert state(cell, folder) == "done"
    assert (folder / "segmenter" / "weights.safetensors").stat().st_mtime_ns == weights


def test_a_study_goes_on_with_the_device_and_precision_of_its_beginning(
    tmp_path: Path, cohort_csv: Path, small_study: Make
) -> None:
    study = opened(tmp_path / "study", small_study(), cohort_csv)  # cpu, 32
    assert study.as_before(Means("auto", "auto", 3)) == Means("cpu", "32", 3)
    assert study.as_before(Means("cpu", "32")) == Means("cpu", "32")
    with pytest.raises(RunError, match="began with precision 32, and bf16 is asked for"):
        study.as_before(Means("auto", "bf16"))
    (tmp_path / "compiled").mkdir()
    compiled = StudyFolder(tmp_path / "compiled")
    (compiled.path / "plan.json").write_text(
        '{"means": {"device": "cpu", "precision": "32", "compile": true}}'
    )
    assert compiled.as_before(Means()).compile is True
    with pytest.raises(RunError, match="began with --compile; leave --no-compile away"):
        compiled.as_before(Means(compile=False))
    new = StudyFolder(tmp_path / "new")
    assert new.as_before(Means("auto", "bf16")) == Means("auto", "bf16")


def test_other_folds_lie_beside_those_that_were_there(
    tmp_path: Path, cohort_csv: Path, small_study: Make
) -> None:
    names = [
        {c.name for c in opened(tmp_path / "study", small_study(folds=k), cohort_csv).cells} for k in (1, 2)
    ]
    assert names[0] - names[1] == {"target_supervised/seed-0"}
    assert names[1] - names[0] == {f"target_supervised/seed-0-fold-{i}-of-2" for i in (0, 1)}


def wait_for(there: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_tables_of_cells_that_are_no_longer_there_do_not_stay(
    tmp_path: Path, cohort_csv: Path, small_study: Make
) -> None:
    study = opened(tmp_path / "study", small_study(), cohort_csv)
    stale = study.path / "results" / "league.csv"
    stale.parent.mkdir()
    stale.write_text("of earlier cells")
    present(study)
    assert not stale.exists()
    assert (study.path / "study.html").exists()
