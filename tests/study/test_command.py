"""`crossbeat study` as a user runs it: what it writes, what it says, how it refuses."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from crossbeat.cli import main
from crossbeat.study.folder import StudyFolder
from crossbeat.study.plan import Study
from crossbeat.study.present import NO_TABLE, present
from crossbeat.study.process import STOPPED
from crossbeat.study.results import read_table

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs a command in this process: exit code, stdout, stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        code = 0
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            code = int(end.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture
def study_yaml(tmp_path: Path, small_study: Callable[..., Study]) -> Callable[..., Path]:
    """Writes a study file of the bounds and what else is asked for."""

    def write(name: str = "small", **changes: Any) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(small_study(name=name, **changes).model_dump(mode="json")))
        return path

    return write


@pytest.mark.slow
def test_a_study_ends_in_a_page_its_tables_and_evidence_that_can_be_kept(
    say: Say, study_yaml: Callable[..., Path], cohort_csv: Path, tmp_path: Path
) -> None:
    out, kept = tmp_path / "out", tmp_path / "results"
    greedy = {"greedy": {"settings": {"target_labels": "train", "target_labelled": 99}}}
    words = ["study", study_yaml(arms=greedy), cohort_csv, "-o", out]
    code, told, complaints = say(*words, "--jobs", 2, "--device", "cpu")
    assert code == 1
    assert re.search(
        r"^source_only/seed-0: finished; Dice LV \d\.\d{3}, MYO \d.*, RV \d", complaints, re.MULTILINE
    )
    assert re.search(r"error: greedy/seed-0: .*99 labelled target subjects wanted, there are 2", complaints)
    assert told.splitlines()[-1] == f"next: open {out / 'study.html'} in a browser"
    page = (out / "study.html").read_text()
    for name in ("source_only", "target_supervised", "greedy"):
        assert name in page
    league = read_table(out / "results" / "league.csv")
    assert set(league["arm"]) == {"source_only", "target_supervised"}
    assert json.loads((out / "results" / "league.json").read_text())["league"]
    cells = pd.read_csv(out / "cells.csv")
    assert cells[["arm", "seed", "fold"]].values.tolist() == [
        ["source_only", 0, 0], ["target_supervised", 0, 0], ["target_supervised", 0, 1]
    ]  # fmt: skip
    assert (cells["size"] == "demo").all()
    assert (cells["wall_seconds"] > 0).all()

    code, told, _ = say("study", "--results", kept, "--add", out)
    assert code == 0
    assert "3 cells of 2 arms" in told
    assert read_table(kept / "league.csv").equals(league)
    code, told, _ = say("study", "--results", kept)
    assert (code, "3 cells of 2 arms" in told) == (0, True)

    code, told, _ = say("report", out)
    assert (code, f"page: {out / 'study.html'}" in told) == (0, True)
    commands = re.findall(r"<pre>(crossbeat study [^<]*)</pre>", page)
    assert shlex.split(commands[0])[-3:] == [str(cohort_csv), "-o", str(out)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study"], "say which study and where"),
        (["study", "nothing.yaml", "-o", "OUT"], "there is no such study"),
        (
            ["study", "FILE", "CSV", "-o", "OUT", "--set", "seads=[1]"],
            "no setting 'seads'; did you mean 'seeds'",
        ),
        (
            ["study", "FILE", "CSV", "-o", "OUT", "--set", "target={sequence: t2}"],
            "no scan is the study's target",
        ),
        (
            ["study", "FILE", "CSV", "-o", "OUT", "--set", "phantom.test=4"],
            "no dots; write --set 'phantom={test: 4}', which replaces all of phantom, or change the file",
        ),
        (
            ["study", "FILE", "CSV", "-o", "OUT", "--engine", "spark"],
            "--engine spark: must be one of local, ray",
        ),
        (["study", "FILE", "CSV", "-o", "OUT", "--arms", "source_onyl"], "did you mean 'source_only'"),
        (["study", "FILE", "none.csv", "-o", "OUT"], "none.csv: cannot be read"),
        (["study", "--results", "OUT"], "cells.csv: does not exist"),
        (["study", "FILE", "--results", "OUT"], "STUDY.YAML does nothing beside --results"),
        (["study", "FILE", "CSV", "-o", "OUT", "--add", "OUT"], "--add does nothing beside a study file"),
        (
            ["study", "FILE", "CSV", "-o", "OUT", "--address", "x"],
            "--address does nothing beside --engine local",
        ),
        (["study", "--results", "OUT", "--add", "none"], "none: is no study"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    say: Say,
    study_yaml: Callable[..., Path],
    cohort_csv: Path,
    tmp_path: Path,
    words: list[str],
    message: str,
) -> None:
    places = {"FILE": study_yaml(), "CSV": cohort_csv, "OUT": tmp_path / "out"}
    code, _, complaint = say(*(places.get(word, word) for word in words))
    assert code == 2
    assert message in complaint.replace("\n", " ")
    assert "Traceback" not in complaint


@pytest.mark.slow
def test_a_misspelt_method_or_setting_of_an_arm_is_refused_before_anything_is_made(
    say: Say, cohort_csv: Path, tmp_path: Path
) -> None:
    path, out = tmp_path / "s.yaml", tmp_path / "out"
    across = "source: {sequence: bssfp}\ntarget: {sequence: lge}\nfolds: 2\nsize: demo\n"
    path.write_text(across + "arms: {a: {method: supervized}}\n")
    code, _, complaint = say("study", path, cohort_csv, "-o", out)
    assert (code, f"{path}: arms.a.method: " in complaint) == (2, True)
    assert "did you mean 'supervised'" in complaint
    path.write_text(across + "arms: {a: {settings: {augmentatoin: none}}}\n")
    code, _, complaint = say("study", path, cohort_csv, "-o", out)
    assert (code, f"{path}: arm a: no setting 'augmentatoin'; did you mean" in complaint) == (2, True)
    code, _, complaint = say("study", path, cohort_csv, "-o", out, "--dry-run")
    assert (code, f"{path}: arm a: no setting 'augmentatoin'; did you mean" in complaint) == (2, True)
    code, _, complaint = say("study", path, "-o", out)
    assert (code, f"{path}: arm a: no setting 'augmentatoin'; did you mean" in complaint) == (2, True)
    assert "making phantoms" not in complaint
    assert not (out / "cells").exists()
    assert not (out / "phantom").exists()


@pytest.mark.slow
def test_a_study_that_is_stopped_says_what_stays_and_has_not_failed(
    study_yaml: Callable[..., Path], small_study: Callable[..., Study], cohort_csv: Path, tmp_path: Path
) -> None:
    """SIGTERM in the first cell: its page tells of no failure, and of no table."""
    long = small_study().settings | {"steps": 4000, "steps_per_round": 4000}
    path, out = study_yaml(settings=long), tmp_path / "out"
    words = ["study", str(path), str(cohort_csv), "-o", str(out)]
    command = [sys.executable, "-c", "from crossbeat.cli import main; main()", *words]
    engine = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log = out / "logs" / "source_only_seed-0.log"
    begun = out / "cells" / "source_only" / "seed-0" / "stages"
    for _ in range(3000):
        if begun.exists():
            break
        time.sleep(0.1)
    engine.send_signal(signal.SIGTERM)
    _, told = engine.communicate(timeout=60)
    assert engine.returncode == 143
    assert "stopped; finished rounds and cells are kept, and the same command goes on" in " ".join(
        told.split()
    )
    assert log.read_text().splitlines()[-1] == STOPPED
    opened = StudyFolder(out)
    shown = present(opened)
    assert "failed" not in Path(shown.page).read_text().partition("No cell failed.")[0].partition("<body")[2]
    assert shown.sentences == (NO_TABLE,)


@pytest.mark.slow
def test_a_dry_run_tells_the_cost_of_each_arm_and_trains_nothing(
    say: Say, study_yaml: Callable[..., Path], cohort_csv: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["study", study_yaml(), cohort_csv, "-o", out, "--dry-run", "--device", "cpu"]
    code, told, _ = say(*words)
    assert code == 0
    assert re.search(r"target_supervised\s.*segmentation\s.*2\s.*2\s.*6", told)
    assert re.search(r"^3 trainings, one after the other about \S+ s; predicting and", told, re.MULTILINE)
    assert not out.exists()
    say(*words[:5], "--device", "cpu", "--arms", "source_only")
    code, told, _ = say(*words)
    assert code == 0
    assert re.search(r"source_only\s.*segmentation\s.*1\s.*0\s.*6", told)
    assert re.search(r"^3 trainings, .*; 1 finished, 2 left: about \S+ s; predicting", told, re.MULTILINE)
