"""A run folder on disk → what of it stands, and for each missing piece the command that makes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from crossbeat import evaluation
from crossbeat.cohort import Cohort, read_cohort
from crossbeat.errors import FileError, RunError
from crossbeat.report.tables import nominal_scans
from crossbeat.report.trained import Trained, find_trained


@dataclass(frozen=True)
class Missing:
    """A piece that the report would have shown."""

    what: str
    command: str


@dataclass(frozen=True)
class RunFolder:
    """The files of one run, read; a file that does not stand there is empty here and named in `missing`."""

    path: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    segmenter: Mapping[str, Any] = field(default_factory=dict)
    cohort: Cohort | None = None
    """The run's own cohort.csv: listed, without a reader."""
    scores: pd.DataFrame = field(default_factory=pd.DataFrame)
    indices: pd.DataFrame = field(default_factory=pd.DataFrame)
    volumes: pd.DataFrame = field(default_factory=pd.DataFrame)
    agreement: pd.DataFrame = field(default_factory=pd.DataFrame)
    stages: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """metrics.csv by stage, in the order in which the stages were trained."""
    missing: tuple[Missing, ...] = ()

    @property
    def size(self) -> str:
        """'full', 'bench' or 'demo'; '' where nothing says so."""
        return str(self.settings.get("size") or self.run.get("size") or "")

    @property
    def has_predictions(self) -> bool:
        """Whether label maps lie in the run folder."""
        return any((self.path / "predictions").glob("*.nii.gz"))

    @property
    def trained(self) -> Trained:
        """The scans that the run learnt from."""
        return find_trained(self.run, self.settings, self.cohort)

    @property
    def nominal(self) -> set[str]:
        """Scans of any table whose spacing is a stand-in."""
        tables = (self.scores, self.indices, self.agreement, self.volumes)
        return {scan for table in tables for scan in nominal_scans(table)}

    @property
    def scans(self) -> set[str]:
        """Scans of any table."""
        tables = (self.scores, self.indices, self.agreement, self.volumes)
        return {str(scan) for table in tables if "scan" in table for scan in table["scan"]}

    @property
    def method(self) -> str:
        """Name of the method; '' where nothing says so."""
        return str(self.run.get("method") or self.settings.get("method") or "")


def read_run(path: Path) -> RunFolder:
    """Read what stands in a run folder. No folder, or a file that cannot be parsed, is refused by name."""
    if not path.is_dir():
        raise RunError(f"{path}: no such run folder; `crossbeat train METHOD cohort.csv -o {path}` makes one")
    folder = replace(
        read_training(path),
        segmenter=_read_json(path / "segmenter" / "segmenter.json"),
        scores=read_scores(path / "scores.csv"),
        indices=_if_there(path / "indices.csv", evaluation.read_indices),
        volumes=_if_there(path / "volumes.csv", evaluation.read_volumes),
        agreement=_if_there(path / "agreement.csv", evaluation.read_agreement),
        stages=_read_stages(path / "stages"),
    )
    return replace(folder, missing=tuple(_missing(folder)))


def read_training(path: Path) -> RunFolder:
    """Of a run folder only settings, run.json and cohort.csv: what was trained on what."""
    return RunFolder(
        path,
        settings=_read_yaml(path / "settings.yaml"),
        run=_read_json(path / "run.json"),
        cohort=_listed(path),
    )


def read_scores(path: Path) -> pd.DataFrame:
    """scores.csv with frame and slice as text, '' where a score has none; an empty table if there is no file."""
    if not path.exists():
        return pd.DataFrame()
    return as_text(evaluation.read_scores(path))


def as_text(scores: pd.DataFrame) -> pd.DataFrame:
    """A copy of a scores table in which frame and slice are text, '' where a score has none."""
    whole = {c: scores[c].astype("string").fillna("").astype(object) for c in ("frame", "slice")}
    return scores.assign(**whole)


def _missing(folder: RunFolder) -> list[Missing]:
    path = folder.path
    train = f"crossbeat train {folder.method or 'METHOD'} cohort.csv -o {path}"
    wanted = (
        (folder.settings, "settings.yaml: what was trained, and with which settings", train),
        (folder.run, "run.json: seed, versions, device, wall time, memory", train),
        (folder.cohort, "cohort.csv: the scans it was trained on", train),
        (folder.stages, "stages/*/metrics.csv: the learning curves", train),
        (
            folder.has_predictions,
            "predictions: the label maps",
            f"crossbeat predict {path} cohort.csv",
        ),
        (len(folder.scores), "scores.csv: every score on this page", f"crossbeat evaluate {path} cohort.csv"),
        (
            len(folder.agreement),
            "agreement.csv: clinical indices beside those of the reference",
            f"crossbeat evaluate {path} cohort.csv",
        ),
        (len(folder.indices), "indices.csv: clinical indices", f"crossbeat measure {path}"),
        (len(folder.volumes), "volumes.csv: volume curves", f"crossbeat measure {path}"),
    )
    return [Missing(what, command) for there, what, command in wanted if not there]


def _listed(path: Path) -> Cohort | None:
    return read_cohort(path / "cohort.csv") if (path / "cohort.csv").exists() else None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    except yaml.YAMLError as error:
        raise FileError(path, f"is not YAML ({' '.join(str(error).split())})") from None
    return _table_of(path, found or {})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except json.JSONDecodeError as error:
        raise FileError(path, f"is not JSON ({error})") from None
    return _table_of(path, found)


def _table_of(path: Path, found: object) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise FileError(path, f"must hold names and values, got {type(found).__name__}")
    return {str(key): value for key, value in found.items()}


def _if_there(path: Path, read: Callable[[Path], pd.DataFrame]) -> pd.DataFrame:
    return read(path) if path.exists() else pd.DataFrame()


def _read_stages(folder: Path) -> dict[str, pd.DataFrame]:
    files = [file for file in folder.glob("*/metrics.csv") if file.stat().st_size]
    files.sort(key=lambda file: (file.stat().st_mtime, file.parent.name))
    try:
        tables = {file.parent.name: pd.read_csv(file) for file in files}
    except ValueError as error:
        raise FileError(folder, f"holds a metrics.csv that is no table ({error})") from None
    return {name: table for name, table in tables.items() if len(table)}
