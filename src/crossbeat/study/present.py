"""A study's cells → its tables, its recommendation and its page."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crossbeat.cohort import Cohort, Row
from crossbeat.data.predictions import prediction_reader
from crossbeat.report import ArmView, StudyView, write_study_report
from crossbeat.report.banners import SIZES
from crossbeat.report.study_tables import without_overlap
from crossbeat.study.cell import at_work, state
from crossbeat.study.evidence import TARGET, Evidence, collect, merge, read_evidence, write_evidence
from crossbeat.study.folder import StudyFolder
from crossbeat.study.league import Recommendation, breakdown, caveat, league, recommend, side_by_side
from crossbeat.study.plan import LOWER, UPPER, Cell
from crossbeat.study.process import STOPPED, last_words
from crossbeat.study.results import write_results

BY = ("part", "phase", "group", "vendor", "centre", "level")
NOMINAL = "†"
"""Beside millimetres of scans whose spacing is a stand-in."""
ZEROS = "Dice 0: how many values of single structures are 0: missed, or found without any overlap"


@dataclass(frozen=True)
class Result:
    """What a study has come to so far."""

    evidence: Evidence

    @cached_property
    def league(self) -> pd.DataFrame:
        """A row an arm, structure and metric."""
        return league(self.ranked, reference=self.evidence.study.reference)

    @cached_property
    def ranked(self) -> pd.DataFrame:
        """The scores of the target, by which arms are ranked."""
        scores = self.evidence.scores
        return scores[scores["part"] == TARGET]

    @cached_property
    def breakdowns(self) -> dict[str, pd.DataFrame]:
        """The same by part, phase, group and so on, of what was scored beside the target too."""
        scores = self.evidence.scores
        return {by: breakdown(scores, by) for by in BY if scores[by].nunique() > 1}

    @cached_property
    def side_by_side(self) -> pd.DataFrame:
        """Printed values beside ours."""
        return side_by_side(self.league, self.ranked, self.evidence.study.published)

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """What to take, in words: of the arms without a target label and of those with some, each among its like.

        What the study's size takes away from it comes first.
        """
        first = caveat(self.evidence.study.size)
        return (*([first] if first else []), *self._advised())

    def _advised(self) -> tuple[str, ...]:
        budgets = {
            "Without a target label": [arm for arm in self._between if not self._sees_labels(arm)],
            "With target labels": [arm for arm in self._between if self._sees_labels(arm)],
        }
        told = {budget: self._advice(arms).sentences for budget, arms in budgets.items() if arms}
        if len(told) < 2:
            return next(iter(told.values()), self._advice([]).sentences)
        said = [
            f"{budget}: {sentence}" if i == 0 else sentence
            for budget, sentences in told.items()
            for i, sentence in enumerate(sentences)
        ]
        return tuple(sentence for i, sentence in enumerate(said) if sentence not in said[i + 1 :])

    @property
    def complete(self) -> bool:
        """Whether both bounds and the arm that the others are tested against have a finished cell."""
        return {LOWER, UPPER, self.evidence.study.reference} <= set(self.evidence.cells["arm"])

    @property
    def _between(self) -> list[str]:
        return [arm for arm in self.evidence.study.arms if arm not in (LOWER, UPPER)]

    def _advice(self, between: Sequence[str]) -> Recommendation:
        """Among these arms and the bounds; by Dice, the only metric that advice is given by."""
        study, scores = self.evidence.study, self.ranked[self.ranked["metric"] == "dice"]
        arms = [LOWER, *between, UPPER]
        reference = study.reference if study.reference in arms else LOWER
        found = league(scores[scores["arm"].isin(arms)], reference=reference)
        if reference == study.reference:  # corrected for all arms, as in the table
            keys = ["arm", "structure", "metric", "unit"]
            whole = self.league.set_index(keys)["p_holm"]
            found["p_holm"] = whole.reindex(pd.MultiIndex.from_frame(found[keys])).to_numpy()
        return recommend(found, arms)

    def _sees_labels(self, arm: str) -> bool:
        return self.evidence.study.recipe(arm).target_labels == "train"


@dataclass(frozen=True)
class Shown:
    """The page of a study, and what of it fits a terminal."""

    page: Path
    title: str
    """Of the table; it says so where the study's size makes it no result."""
    head: list[str]
    rows: list[list[str]]
    sentences: tuple[str, ...]


def present(study: StudyFolder) -> Shown:
    """Write cells.csv and scores.csv.gz, the tables in `results/`, and the page of a study.

    An unfinished study is presented as far as it has come, and the page names what is missing.
    """
    done = [cell for cell in study.cells if state(cell, study.cell(cell)) == "done"]
    result = Result(collect(study, done))
    write_evidence(result.evidence, study.path)
    shutil.rmtree(study.path / "results", ignore_errors=True)  # of other cells, perhaps
    if result.complete:
        write_results(result.league, result.breakdowns, study.path / "results")
    arms = _arms_of(study, result.evidence, {cell.name for cell in done})
    return _show(
        _view(result, study.path, arms, _tested(study), _next(study, complete=len(done) == len(study.cells)))
    )


def present_evidence(evidence: Evidence, folder: Path) -> Shown:
    """The same from committed evidence alone: no pictures and no learning curves."""
    result = Result(evidence)
    if result.complete:
        write_results(result.league, result.breakdowns, folder)
    arms = tuple(
        _arm(evidence, str(name), finished=len(rows), cells=len(rows))
        for name, rows in evidence.cells.groupby("arm", sort=False)
    )
    return _show(_view(result, folder, arms, None))


def grow(folder: Path, studies: Sequence[Path]) -> Evidence:
    """The evidence of a folder with the finished cells of studies put into it; a mixture raises `RunError`."""
    found = read_evidence(folder) if (folder / "cells.csv").exists() or not studies else None
    for path in studies:
        new = collect(StudyFolder(path))
        found = merge(found, new) if found else new
    assert found
    if studies:
        write_evidence(found, folder)
    return found


NO_TABLE: Final = (
    "no table yet: both bounds and the arm that the others are tested against need a finished cell first"
)


def _show(view: StudyView) -> Shown:
    page = write_study_report(view, Path(view.path))
    head = [
        "Arm",
        "Dice LV",
        "MYO",
        "RV",
        "mean",
        "95 % interval",
        "gap closed",
        "HD95 mean",
        "Dice 0",
        "seeds",
    ]
    nominal = view.nominal_scans > 0
    apart = without_overlap(view.scores)
    rows = [
        _line(arm.name, view.league, apart.get(arm.name, 0), nominal=nominal)
        for arm in view.arms
        if len(view.league) and arm.finished
    ]
    remarks = [ZEROS] if any(row[8] != "0" for row in rows) else []
    remarks += (
        [f"{NOMINAL} nominal: the spacing of {view.nominal_scans} scans is a stand-in"] if nominal else []
    )
    size = SIZES[view.size][1].rstrip(".").lower() if view.size in SIZES else ""
    return Shown(
        page,
        f"{view.title} ({size})" if size else view.title,
        head,
        rows,
        (*view.recommendation, *remarks) if len(view.league) else (NO_TABLE,),
    )


def _line(arm: str, table: pd.DataFrame, apart: int, *, nominal: bool) -> list[str]:
    rows = table[table["arm"] == arm].set_index(["structure", "metric", "unit"])
    single = [key for key in rows.index if key[1] == "dice" and not key[0].startswith("mean")]

    def told(key: tuple[str, str, str], column: str, form: str = "{:.3f}") -> str:
        found = rows[column].get(key)
        return form.format(found) if found is not None and np.isfinite(found) else "–"

    mean = ("mean", "dice", "")
    low, high = told(mean, "low"), told(mean, "high")
    return [
        arm,
        *(told((structure, "dice", ""), "mean") for structure in ("LV", "MYO", "RV", "mean")),
        f"{low} to {high}" if low != "–" else "–",
        told(mean, "gap_closed", "{:.0%}"),
        told(("mean", "hd95", "mm"), "mean", "{:.1f} mm" + (NOMINAL if nominal else "")),
        str(int(rows.loc[single, "missed"].sum()) + apart),
        told(mean, "n_seeds", "{:.0f}"),
    ]


def _view(
    result: Result,
    path: Path,
    arms: tuple[ArmView, ...],
    tested: Cohort | None,
    next_command: str = "",
) -> StudyView:
    evidence, study = result.evidence, result.evidence.study
    whole = result.complete
    nothing = pd.DataFrame()
    return StudyView(
        name=study.name,
        title=study.title or study.name.replace("_", " "),
        question=study.question,
        size=study.size,
        path=str(path),
        arms=arms,
        seeds=tuple(sorted(set(evidence.cells["seed"]))),
        league=result.league if whole else nothing,
        breakdowns=result.breakdowns if whole else {},
        scores=result.ranked,
        side_by_side=result.side_by_side if whole and study.published else nothing,
        recommendation=result.sentences if whole else (),
        tested=tested,
        facts=tuple(_facts(evidence)),
        notes=tuple(evidence.remarks),
        next_command=next_command,
        **_counted(evidence.cells),
    )


def _next(study: StudyFolder, *, complete: bool) -> str:
    """What to run after reading: what is missing, else the viewer on the first cell."""
    return shlex.join(["crossbeat", "view", str(study.cell(study.cells[0]))]) if complete else study.command


def _counted(cells: pd.DataFrame) -> dict[str, int]:
    """How many scans were tested, and how many of them have a stand-in spacing: of the arm and seed with most."""
    of_seed = cells.groupby(["arm", "seed"])[["tested", "nominal"]].sum()
    most = of_seed.max().fillna(0).astype(int)
    return {"tested_scans": int(most["tested"]), "nominal_scans": int(most["nominal"])}


def _facts(evidence: Evidence) -> list[tuple[str, str]]:
    cells = evidence.cells
    names = {
        "phantom": "Phantom version", "cohort": "Cohort", "code": "Code", "commit": "Commit", "device": "Device",
        "precision": "Precision", "threads": "Threads a cell",
    }  # fmt: skip
    told = [(name, ", ".join(sorted({str(v) for v in cells[c]} - {""}))) for c, name in names.items()]
    hours = cells["wall_seconds"].sum() / 3600
    return [(k, v) for k, v in told if v] + [("Training time of all cells", f"{hours:.2f} h")]


def _arms_of(study: StudyFolder, evidence: Evidence, finished: Set[str]) -> tuple[ArmView, ...]:
    views = []
    left_out = study.study.left_out(study.cohort)
    for name in study.study.arms:
        cells = [cell for cell in study.cells if cell.arm == name]
        done = [cell for cell in cells if cell.name in finished]
        problems = [
            f"{cell.name}: {last_words(study.log(cell))}"
            for cell in cells
            if cell.name not in finished and study.log(cell).exists() and not _goes_on(cell, study)
        ]
        problems += [f"left out: {left_out[name]}"] if name in left_out else []
        views.append(
            _arm(
                evidence,
                name,
                cells=len(cells),
                finished=len(done),
                problems=problems,
                curves=_curves(study.cell(done[0])) if done else {},
                read=_reader(study, [cell for cell in done if cell.seed == done[0].seed]),
                seed=done[0].seed if done else None,
            )
        )
    return tuple(views)


def _goes_on(cell: Cell, study: StudyFolder) -> bool:
    """Whether a cell without scores is at work, or was stopped with its study, and so has not failed."""
    words = last_words(study.log(cell))
    return words == STOPPED or "stopped by SIG" in words or at_work(cell, study)


def _arm(
    evidence: Evidence,
    name: str,
    *,
    cells: int,
    finished: int,
    problems: Sequence[str] = (),
    curves: Mapping[str, pd.DataFrame] | None = None,
    read: Any = None,
    seed: int | None = None,
) -> ArmView:
    rows = evidence.cells[evidence.cells["arm"] == name]
    spec = evidence.study.arms[name]
    bound: Literal["lower", "upper", ""] = "lower" if name == LOWER else "upper" if name == UPPER else ""
    return ArmView(
        name=name,
        method=spec.method,
        summary=spec.about,
        bound=bound,
        settings=json.loads(rows["settings"].iloc[0]) if len(rows) else spec.settings,
        cells=cells,
        finished=finished,
        problems=tuple(problems),
        wall_seconds=float(rows["wall_seconds"].mean()) if len(rows) else float("nan"),
        peak_memory_mb=float(rows["peak_memory_mb"].max()) if len(rows) else float("nan"),
        updates=int(rows["updates"].iloc[0]) if len(rows) else 0,
        curves=curves or {},
        read_prediction=read,
        seed=seed,
    )


def _curves(folder: Path) -> dict[str, pd.DataFrame]:
    """metrics.csv of the stages of a run, in the order in which they were trained."""
    files = sorted(folder.glob("stages/*/metrics.csv"), key=lambda file: file.stat().st_mtime)
    return {file.parent.name: pd.read_csv(file) for file in files if file.stat().st_size}


def _reader(study: StudyFolder, done: Sequence[Cell]) -> Any:
    """Reads a scan's label map from the cell of one seed that tested it."""
    of_scan = {row.scan: cell for cell in done for row in cell.tested}
    readers = {cell.name: prediction_reader(study.cell(cell), cell.tested) for cell in of_scan.values()}

    def read(row: Row) -> NDArray[np.uint8] | None:
        cell = of_scan.get(row.scan)
        return readers[cell.name](row) if cell else None

    return read if done else None


def _tested(study: StudyFolder) -> Cohort:
    scans = {row.scan for cell in study.cells for row in cell.tested}
    return study.cohort.only(lambda row: row.scan in scans)
