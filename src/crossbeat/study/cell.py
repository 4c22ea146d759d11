"""One cell of a study: an ordinary run folder, trained, predicted and scored; what of it stands already is kept."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
import yaml

from crossbeat.cohort import Cohort
from crossbeat.data.predictions import prediction_reader, prediction_writer
from crossbeat.devices import find_device
from crossbeat.errors import CrossbeatError, RunError, SettingsError
from crossbeat.evaluation import evaluate_cohort, read_scores, write_agreement, write_scores
from crossbeat.methods import METHODS
from crossbeat.prediction import predict_cohort
from crossbeat.report import write_summary
from crossbeat.segmenter import load_segmenter
from crossbeat.study.code import code_hash
from crossbeat.study.folder import Means, StudyFolder, locked
from crossbeat.study.plan import Cell, canonical
from crossbeat.training import Run

State = Literal["new", "changed", "begun", "trained", "done"]


def state(cell: Cell, folder: Path) -> State:
    """How far a cell has come, and whether what lies in its folder is another training than is asked for now."""
    if not (folder / "run.json").exists():
        return "new"
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    if facts.get("method", cell.method) != cell.method:
        return "changed"
    if not _same_settings(cell, folder) or (facts["seed"], facts["cohort_hash"]) != (
        cell.seed,
        cell.cohort.hash(),
    ):
        return "changed"
    if not facts["finished"]:
        return "begun"
    return "done" if _is_scored(cell, folder / "scores.csv") else "trained"


def _is_scored(cell: Cell, scores: Path) -> bool:
    """Whether every scan that the study wants scored is; a study may have got further ones to score beside."""
    if not scores.exists():
        return False
    found = set(pd.read_csv(scores, usecols=["scan"], dtype=str)["scan"])
    return all(row.scan in found for row in cell.scored)


def make_room(cell: Cell, study: StudyFolder) -> Path:
    """The cell's run folder, free for its training; what lay there under other settings is put aside, not lost."""
    folder = study.cell(cell)
    if state(cell, folder) == "changed":
        aside = study.earlier / f"{cell.name.replace('/', '_')}-{time.strftime('%Y%m%d-%H%M%S')}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(aside)
    return folder


def run_cell(cell: Cell, study: StudyFolder, means: Means) -> None:
    """Bring a cell to its scores, from wherever it stopped: train, predict the scans to score, score them.

    Given its seed and the number of threads a cell is the same every time on a CPU. Two processes never work on
    one cell: the second waits. A scan that cannot be predicted raises `RunError`.
    """
    torch.set_num_threads(means.threads)
    with locked(study.lock(cell), wait=True):
        folder = make_room(cell, study)
        now = state(cell, folder)
        if now in ("new", "begun"):
            _train(cell, folder, study, means)
        if now != "done":
            note = Run(folder, device=means.device).record
            note("predicting")
            _predict(cell, folder, means)
            note("scoring")
            _evaluate(cell, folder)
            note("scored")


def at_work(cell: Cell, study: StudyFolder) -> bool:
    """Whether a process works on the cell now."""
    if not study.lock(cell).exists():
        return False
    with locked(study.lock(cell), wait=False) as free:
        return not free


def _train(cell: Cell, folder: Path, study: StudyFolder, means: Means) -> None:
    code = code_hash(cell.method)
    run = Run(
        folder,
        seed=cell.seed,
        device=means.device,
        precision=means.precision,
        compile=means.compile,
        resume=True,
        shared=study.shared / code,
    )
    facts = {"code": code, "threads": means.threads}
    METHODS[cell.method].carry_out(cell.cohort, cell.settings, run, f"crossbeat study: {cell.name}", **facts)


def _predict(cell: Cell, folder: Path, means: Means) -> None:
    shutil.rmtree(folder / "predictions", ignore_errors=True)
    segmenter = load_segmenter(folder / "segmenter", find_device(means.device))
    write = prediction_writer(folder / "predictions", cell.scored, {"runs": [str(folder)], "flips": False})
    failures = predict_cohort([segmenter], cell.scored, write, frames=_scored_frames(cell.scored))
    if failures:
        raise RunError(f"{folder}: {len(failures)} scans could not be segmented; {failures[0].problem}")


def _scored_frames(cohort: Cohort) -> dict[str, list[int]]:
    """The labelled frames of scans whose rows name them: nothing is scored in a cine's other frames."""
    named = {row.scan: [frame for frame in row.label_files if frame is not None] for row in cohort}
    return {scan: frames for scan, frames in named.items() if frames}


def _evaluate(cell: Cell, folder: Path) -> None:
    """scores.csv comes last: where it stands, all the rest does."""
    read = prediction_reader(folder, cell.scored)
    scores, compared = evaluate_cohort(cell.scored, read, units=("mm", "voxel"))
    write_agreement(compared, cell.scored, folder / "agreement.csv")
    temporary = folder / ".scores.csv"
    write_scores(scores, cell.scored, temporary)
    write_summary(read_scores(temporary), folder / "summary.csv")
    temporary.replace(folder / "scores.csv")


def _same_settings(cell: Cell, folder: Path) -> bool:
    """Whether a folder's settings, with today's defaults for what they do not name, are the cell's."""
    try:
        stored = yaml.safe_load((folder / "settings.yaml").read_text(encoding="utf-8"))
        return canonical(type(cell.settings).of(stored)) == canonical(cell.settings)
    except (OSError, yaml.YAMLError, SettingsError, AttributeError):
        return False


def _end_with(parent: int) -> None:
    """Stop as on SIGTERM once the process that started this one is gone."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


def main(folder: str, name: str, parent: str = "") -> None:
    """The process of one cell, as an engine starts it: `python -m crossbeat.study.cell OUT NAME PID`.

    PID is the engine's own, which may be gone by the time that all is imported here.
    """
    starter = int(parent) if parent else os.getppid()
    threading.Thread(target=_end_with, args=(starter,), daemon=True).start()
    study = StudyFolder(Path(folder))
    try:
        run_cell(study.find_cell(name), study, study.means)
    except CrossbeatError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main(*sys.argv[1:])
