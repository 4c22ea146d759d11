"""What a study knows, as plain records: the page of a study is made from these and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from crossbeat.cohort import Cohort
from crossbeat.report.cases import ReadPrediction


@dataclass(frozen=True)
class ArmView:
    """One way of training that a study compares: what it is, what became of it and what it cost."""

    name: str
    method: str
    summary: str
    """One line: what it is."""
    bound: Literal["lower", "upper", ""]
    settings: Mapping[str, Any]
    """Resolved, of its first finished cell; empty where none finished."""
    cells: int
    finished: int
    problems: tuple[str, ...]
    """What its failed cells said, one text a cell."""
    wall_seconds: float
    """Mean of a cell; nan where none finished."""
    peak_memory_mb: float
    """Largest of its cells; nan where none finished."""
    updates: int
    curves: Mapping[str, pd.DataFrame]
    """Stage → metrics.csv, of its first finished cell."""
    read_prediction: ReadPrediction | None
    """Label map of a tested scan by one seed and by the fold that did not train on it."""
    seed: int | None = None
    """The seed whose label maps `read_prediction` reads; None: the first that scored the scan."""

    @property
    def waiting(self) -> int:
        """Cells that neither finished nor failed."""
        return max(0, self.cells - self.finished - len(self.problems))

    @property
    def failed(self) -> bool:
        """Whether it has no result at all because its cells failed."""
        return bool(self.problems) and not self.finished


@dataclass(frozen=True)
class StudyView:
    """One study: its arms in the order of its file, their scores and statistics, and where these come from."""

    name: str
    title: str
    question: str
    size: str
    path: str
    arms: tuple[ArmView, ...]
    seeds: tuple[int, ...]
    league: pd.DataFrame
    """A row an (arm, structure, metric, unit) over whole volumes."""
    breakdowns: Mapping[str, pd.DataFrame]
    """Column of the cohort, or `phase` or `level` → a row an (arm, value, structure, metric, unit)."""
    scores: pd.DataFrame
    """A row a value of one scan of one cell."""
    side_by_side: pd.DataFrame
    """Printed values beside ours; no rows where nothing was published."""
    recommendation: tuple[str, ...]
    tested: Cohort | None
    """The target scans that were scored, with a reader; None leaves the pictures out."""
    facts: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...]
    """Head and text of what a reader must know first, beyond size, failures and waiting cells (said anyway)."""
    next_command: str
    nominal_scans: int = 0
    """Tested scans whose voxel spacing is a stand-in, so that no mm of them is a measurement."""
    tested_scans: int = 0

    @property
    def nominal(self) -> bool:
        """Whether mm are to be marked."""
        return self.nominal_scans > 0

    @property
    def transductive(self) -> tuple[str, ...]:
        """Arms that saw subjects of the test split in training."""
        return tuple(arm.name for arm in self.arms if arm.settings.get("transductive"))

    @property
    def compared_with(self) -> str:
        """The arm from which the league's differences are; the lower bound where the league does not say."""
        stated = list(self.league["reference"]) if "reference" in self.league else []
        lower = [arm.name for arm in self.arms if arm.bound == "lower"]
        return str((stated or lower or [arm.name for arm in self.arms] or [""])[0])
