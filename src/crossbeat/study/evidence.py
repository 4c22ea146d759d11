"""Finished cells ⇄ cells.csv and scores.csv.gz: small enough to commit, whole enough to do all statistics again."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import yaml

from crossbeat.errors import FileError, RunError, SettingsError
from crossbeat.evaluation import read_scores
from crossbeat.methods import METHODS
from crossbeat.report.writing import write_whole
from crossbeat.study.cell import state
from crossbeat.study.folder import StudyFolder
from crossbeat.study.plan import UPPER, Cell, Study, canonical, phantom_version

CELL_COLUMNS: Final = (
    *("study", "arm", "method", "seed", "fold", "folds", "size", "settings", "cohort", "phantom", "code"),
    *("commit", "device", "precision", "threads", "updates", "wall_seconds", "peak_memory_mb", "finished"),
    *("tested", "nominal"),
)
"""`tested` counts the scans that the cell was scored on, `nominal` those of them whose spacing is a stand-in."""
SCORE_COLUMNS: Final = (
    *("arm", "seed", "fold", "subject", "scan", "phase", "level", "structure", "metric", "unit", "value"),
    *("status", "vendor", "centre", "group", "part"),
)
"""`part` is `target`, or `beside` for what is scored beside it and not ranked."""
SCORES: Final = "scores.csv.gz"
"""Of cines there are half a million bytes an arm; as .gz a tenth, which pandas and R read as they read a .csv."""
DIGITS: Final = "%.7g"
TARGET: Final = "target"
KEPT_METRICS: Final = ("dice", "jaccard", "hd", "hd95", "assd")
"""Of whole volumes. Of slices only Dice is kept, as the mean over those of a level."""

_WHOLE: Final = ("seed", "fold", "folds", "threads", "updates", "tested", "nominal")
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
        by_method = self.cells.groupby("method")["code"]
        if (by_method.nunique() > 1).any():  # the code of two methods always differs
            mixed = [f"{method}: {', '.join(map(str, sorted(set(codes))))}" for method, codes in by_method]
            found.append(("Cells of one method come from different states of the code", "; ".join(mixed)))
        for column, head in _SHOULD_AGREE.items():
            arms = self.cells.groupby(self.cells[column].astype(str))["arm"].unique()
            if len(arms) > 1:
                by = "; ".join(
                    f"{value or 'not recorded'}: {', '.join(names)}" for value, names in arms.items()
                )
                found.append((head, by))
        return found


_SHOULD_AGREE: Final = {
    "threads": "Cells were computed with different numbers of threads",
    "precision": "Cells were computed in different precision",
    "device": "Cells come from different devices",
}


def collect(study: StudyFolder, done: Sequence[Cell] | None = None) -> Evidence:
    """The evidence of the finished cells of a study, which are looked for unless given; it may be unfinished."""
    if done is None:
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
    """Write study.yaml, scores.csv.gz and cells.csv, each whole or not at all; the same evidence as the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    described = yaml.safe_dump(evidence.study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_whole(folder / "study.yaml", described)
    scores = evidence.scores.to_csv(index=False, float_format=DIGITS, lineterminator="\n")
    write_whole(folder / SCORES, gzip.compress(scores.encode(), mtime=0))
    write_whole(folder / "cells.csv", evidence.cells.to_csv(index=False, lineterminator="\n"))


def read_evidence(folder: Path) -> Evidence:
    """Read what `write_evidence` wrote. A missing file raises `FileError`, a mixture of settings `RunError`."""
    if not (folder / "cells.csv").exists():
        raise FileError(
            folder / "cells.csv", "does not exist; `crossbeat study --results FOLDER --add OUT` makes it"
        )
    cells = _read(folder / "cells.csv", CELL_COLUMNS)
    cells["settings"] = [_of_today(*pair) for pair in zip(cells["method"], cells["settings"], strict=True)]
    refuse_mixture(cells, str(folder))
    scores = _read(folder / SCORES, tuple(column for column in SCORE_COLUMNS if column != "part"))
    if "part" not in scores:  # of before anything was scored beside the target
        scores["part"] = TARGET
    return Evidence(Study.load(folder / "study.yaml"), cells, scores)


def merge(earlier: Evidence, later: Evidence) -> Evidence:
    """Both together; of a cell that both have the one that finished last. A mixture raises `RunError`.

    Arms and seeds are those of both study files; what else they say is the later one's.
    """
    both = (earlier, later)
    cells = pd.concat([each.cells.assign(told=i) for i, each in enumerate(both)], ignore_index=True)
    refuse_mixture(cells, later.study.name)
    newest = cells.sort_values(["finished", "told"], kind="stable").drop_duplicates(_KEY, keep="last")
    scores = pd.concat([each.scores.assign(told=i) for i, each in enumerate(both)], ignore_index=True)
    scores = scores.merge(newest[[*_KEY, "told"]], on=[*_KEY, "told"])
    study = _together(earlier.study, later.study)
    refuse_unequal(study, newest)
    order = {name: i for i, name in enumerate(study.arms)}

    def in_order(table: pd.DataFrame) -> pd.DataFrame:
        """By arm as the study file has them, then by seed and fold."""
        ranked = table.assign(arm=table["arm"].map(order)).sort_values(_KEY, kind="stable")
        return table.loc[ranked.index].drop(columns="told").reset_index(drop=True)

    return Evidence(study, in_order(newest), in_order(scores))


def refuse_unequal(study: Study, cells: pd.DataFrame) -> None:
    """`RunError` where a study holds its arms to equal updates, and some cells have others."""
    counts = cells.groupby("arm", sort=False)["updates"].first()
    if study.equal_updates and counts.nunique() > 1:
        told = ", ".join(f"{arm} {count}" for arm, count in counts.items())
        raise RunError(f"{study.name}: arms of unequal updates ({told}); keep them in folders of their own")


def _together(earlier: Study, later: Study) -> Study:
    """The later study file with the arms and seeds of both, the upper bound last; of one target, else `RunError`."""
    if earlier.target != later.target:
        raise RunError(
            f"{later.name}: its target is {later.target}, of the kept evidence {earlier.target}; keep them apart"
        )
    arms = {**earlier.arms, **later.arms}
    arms = {name: arm for name, arm in arms.items() if name != UPPER} | {UPPER: arms[UPPER]}
    seeds = sorted({*earlier.seeds, *later.seeds})
    return later.model_copy(update={"arms": arms, "seeds": seeds})


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


def _of_today(method: str, settings: str) -> str:
    """A cell's settings with today's defaults for what its method could not say then."""
    try:
        return canonical(METHODS[method].settings.of(json.loads(settings)))
    except (KeyError, SettingsError):
        return settings


def _facts(cell: Cell, folder: Path) -> dict[str, Any]:
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    states = dict.fromkeys(
        (state.get("git_commit") or "")[:12] + ("+" if state.get("git_changed") else "")
        for state in (run, *run.get("resumed", ()))
    )
    return {
        "arm": cell.arm,
        "method": cell.method,
        "seed": cell.seed,
        "fold": cell.fold,
        "folds": cell.folds,
        "size": cell.settings.size,
        "settings": canonical(cell.settings),
        "code": run.get("code", ""),
        "commit": " ".join(states),  # of several where it was resumed under another
        "device": run["device"],
        "precision": run["precision"],
        "threads": run.get("threads", 1),
        "updates": cell.settings.segmenter_updates,
        "wall_seconds": run["wall_seconds"],
        "peak_memory_mb": run.get("peak_memory_mb", float("nan")),
        "finished": run["finished"],
        "tested": len(cell.tested),
        "nominal": len(cell.tested.where(spacing_source="nominal")),
    }


def _scores(cell: Cell, path: Path) -> pd.DataFrame:
    table = read_scores(path)
    tested = {row.scan for row in cell.tested}
    part = [TARGET if scan in tested else "beside" for scan in table["scan"]]
    table = table.assign(part=part)
    volumes = table[table["slice"].isna() & table["metric"].isin(KEPT_METRICS)]
    slices = table[table["slice"].notna() & (table["metric"] == "dice")]
    keys = [c for c in SCORE_COLUMNS if c in table and c not in ("value", "status")]
    levels = slices.groupby(keys, sort=False, as_index=False).agg(
        value=("value", "mean"), status=("status", _worst)
    )
    both = pd.concat([volumes.assign(level=""), levels], ignore_index=True)
    both["value"] = [
        float(DIGITS % value) for value in both["value"]
    ]  # as they are kept: tables of both are the same
    return both.assign(arm=cell.arm, seed=cell.seed, fold=cell.fold)[list(SCORE_COLUMNS)]


def _worst(status: pd.Series[str]) -> str:
    there = set(status)
    return "missed" if "missed" in there else "ok" if "ok" in there else "undefined"


def _read(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise FileError(path, f"is not a csv table ({error})") from None
    absent = [column for column in columns if column not in table]
    if absent:
        raise FileError(path, f"lacks the column {absent[0]!r}; `crossbeat study` writes it")
    try:
        for column in table:
            if column in _WHOLE:
                table[column] = table[column].astype(int)
            elif column in _NUMBERS:
                table[column] = [float(text) if text else math.nan for text in table[column]]
    except ValueError as error:
        raise FileError(path, f"column {column!r} holds what is no number ({error})") from None
    return table
