"""Finished cells ⇄ cells.csv and scores.csv: small enough to commit, whole enough to do all statistics again."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import yaml

from crossbeat.errors import FileError, RunError
from crossbeat.evaluation import read_scores
from crossbeat.study.cell import state
from crossbeat.study.folder import StudyFolder
from crossbeat.study.plan import Cell, Study, canonical, phantom_version

CELL_COLUMNS: Final = (
    *(
        "study",
        "arm",
        "method",
        "seed",
        "fold",
        "folds",
        "size",
        "settings",
        "cohort",
        "phantom",
        "code",
        "commit",
    ),
    *("device", "precision", "threads", "updates", "wall_seconds", "peak_memory_mb", "finished"),
)
SCORE_COLUMNS: Final = (
    *("arm", "seed", "fold", "subject", "scan", "phase", "level", "structure", "metric", "unit", "value"),
    *("status", "vendor", "centre", "group"),
)
KEPT_METRICS: Final = ("dice", "hd", "hd95", "assd")
"""Of whole volumes. Of slices only Dice is kept, as the mean over those of a level."""

_WHOLE: Final = ("seed", "fold", "folds", "threads", "updates")
_NUMBERS: Final = ("wall_seconds", "peak_memory_mb", "value")
_KEY: Final = ["arm", "seed", "fold"]


@dataclass(frozen=True)
class Evidence:
    """The finished cells of a study, a row each, and what they scored, a row a value."""

    study: Study
    cells: pd.DataFrame
    scores: pd.DataFrame

    @property
    def remarks(self) -> list[tuple[str, str]]:
        """What a reader must know of how these cells came about: (head, text)."""
        found = []
        for column, head in _SHOULD_AGREE.items():
            arms = self.cells.groupby(self.cells[column].astype(str))["arm"].unique()
            if len(arms) > 1:
                by = "; ".join(
                    f"{value or 'not recorded'}: {', '.join(names)}" for value, names in arms.items()
                )
                found.append((head, by))
        return found


_SHOULD_AGREE: Final = {
    "code": "Cells come from different states of the code",
    "precision": "Cells were computed in different precision",
    "device": "Cells come from different devices",
}


def collect(study: StudyFolder) -> Evidence:
    """The evidence of all finished cells of a study; an unfinished study gives what it has."""
    done = [cell for cell in study.cells if state(cell, study.cell(cell)) == "done"]
    base = {
        "study": study.study.name,
        "cohort": study.cohort.hash(),
        "phantom": phantom_version(study.cohort),
    }
    cells = pd.DataFrame([base | _facts(cell, study.cell(cell)) for cell in done], columns=list(CELL_COLUMNS))
    scores = [_scores(cell, study.cell(cell) / "scores.csv") for cell in done]
    empty = pd.DataFrame(columns=list(SCORE_COLUMNS))
    return Evidence(study.study, cells, pd.concat(scores, ignore_index=True) if scores else empty)


def write_evidence(evidence: Evidence, folder: Path) -> None:
    """Write study.yaml, scores.csv and cells.csv, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    described = yaml.safe_dump(evidence.study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    _write(folder / "study.yaml", described)
    _write(
        folder / "scores.csv", evidence.scores.to_csv(index=False, float_format="%.7g", lineterminator="\n")
    )
    _write(folder / "cells.csv", evidence.cells.to_csv(index=False, lineterminator="\n"))


def read_evidence(folder: Path) -> Evidence:
    """Read what `write_evidence` wrote. A missing file raises `FileError`, a mixture of settings `RunError`."""
    if not (folder / "cells.csv").exists():
        raise FileError(
            folder / "cells.csv", "does not exist; `crossbeat study --results FOLDER --add OUT` makes it"
        )
    found = Evidence(
        Study.load(folder / "study.yaml"),
        _read(folder / "cells.csv", CELL_COLUMNS),
        _read(folder / "scores.csv", SCORE_COLUMNS),
    )
    refuse_mixture(found.cells, str(folder))
    return found


def merge(earlier: Evidence, later: Evidence) -> Evidence:
    """Both together; a cell that both have is the later one's. A mixture raises `RunError`.

    The study file is the later one's: it may have gained arms and seeds.
    """
    again = {tuple(row) for row in later.cells[_KEY].itertuples(index=False)}

    def kept(table: pd.DataFrame) -> pd.DataFrame:
        return table[[tuple(row) not in again for row in table[_KEY].itertuples(index=False)]]

    cells = pd.concat([kept(earlier.cells), later.cells], ignore_index=True)
    scores = pd.concat([kept(earlier.scores), later.scores], ignore_index=True)
    refuse_mixture(cells, later.study.name)
    order = {name: i for i, name in enumerate(later.study.arms)}

    def in_order(table: pd.DataFrame) -> pd.DataFrame:
        """By arm as the study file has them, then by seed and fold."""
        ranked = table.assign(arm=table["arm"].map(lambda name: order.get(name, len(order))))
        return table.loc[ranked.sort_values(_KEY, kind="stable").index].reset_index(drop=True)

    return Evidence(later.study, in_order(cells), in_order(scores))


def refuse_mixture(cells: pd.DataFrame, name: str) -> None:
    """One phantom version, one cohort, one size, and for each arm one set of settings; else `RunError`."""
    for column in ("phantom", "cohort", "size"):
        values = sorted(set(cells[column].astype(str)))
        if len(values) > 1:
            raise RunError(
                f"{name}: cells of different {column} ({', '.join(v or 'none' for v in values)}) make no common "
                "table; keep each in a folder of its own"
            )
    for arm, rows in cells.groupby("arm", sort=False):
        for column in ("method", "folds"):
            if rows[column].nunique() > 1:
                raise RunError(f"{name}: arm {arm} has cells of different {column}; keep them apart")
        if rows["settings"].nunique() > 1:
            first, other = (json.loads(text) for text in rows["settings"].unique()[:2])
            differing = [k for k in dict.fromkeys([*first, *other]) if first.get(k) != other.get(k)]
            said = ", ".join(f"{k} ({first.get(k)}, {other.get(k)})" for k in differing[:3])
            raise RunError(
                f"{name}: arm {arm} has cells of different settings: {said}; give one of them another name"
            )


def _facts(cell: Cell, folder: Path) -> dict[str, Any]:
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    changed = "+" if run.get("git_changed") else ""
    return {
        "arm": cell.arm,
        "method": cell.method,
        "seed": cell.seed,
        "fold": cell.fold,
        "folds": cell.folds,
        "size": cell.settings.size,
        "settings": canonical(cell.settings),
        "code": run.get("code", ""),
        "commit": (run.get("git_commit") or "")[:12] + changed,
        "device": run["device"],
        "precision": run["precision"],
        "threads": run.get("threads", 1),
        "updates": cell.settings.segmenter_updates,
        "wall_seconds": run["wall_seconds"],
        "peak_memory_mb": run.get("peak_memory_mb", float("nan")),
        "finished": run["finished"],
    }


def _scores(cell: Cell, path: Path) -> pd.DataFrame:
    table = read_scores(path)
    volumes = table[table["slice"].isna() & table["metric"].isin(KEPT_METRICS)]
    slices = table[table["slice"].notna() & (table["metric"] == "dice")]
    keys = [c for c in SCORE_COLUMNS if c in table and c not in ("value", "status")]
    levels = slices.groupby(keys, sort=False, as_index=False).agg(
        value=("value", "mean"), status=("status", _worst)
    )
    both = pd.concat([volumes.assign(level=""), levels], ignore_index=True)
    return both.assign(arm=cell.arm, seed=cell.seed, fold=cell.fold)[list(SCORE_COLUMNS)]


def _worst(status: pd.Series[str]) -> str:
    there = set(status)
    return "missed" if "missed" in there else "ok" if "ok" in there else "undefined"


def _read(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (ValueError, OSError) as error:
        raise FileError(path, f"is not a csv table ({error})") from None
    absent = [column for column in columns if column not in table]
    if absent:
        raise FileError(path, f"lacks the column {absent[0]!r}; `crossbeat study` writes it")
    try:
        for column in table:
            if column in _WHOLE:
                table[column] = table[column].astype(int)
            elif column in _NUMBERS:
                table[column] = pd.to_numeric(table[column].replace("", "nan"))
    except ValueError as error:
        raise FileError(path, f"column {column!r} holds what is no number ({error})") from None
    return table


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
