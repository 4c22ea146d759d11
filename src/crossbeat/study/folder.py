"""The folder of a study on disk: its plan, its cells, their logs, what was put aside."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from crossbeat.cohort import Cohort, read_cohort
from crossbeat.data import reader
from crossbeat.errors import RunError, did_you_mean
from crossbeat.study.plan import Cell, Study, plan


@dataclass(frozen=True)
class Means:
    """What a cell computes with; it changes how long a cell takes, and hardly what comes out."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    threads: int = 1
    """Of a cell on the CPU. The last digits of a result depend on it, so it is the same for all cells."""


@dataclass(frozen=True)
class StudyFolder:
    """`study.yaml`, `plan.json`, `cells/<arm>/seed-<s>`, `logs/`, `earlier/`; then the results and the page."""

    path: Path

    @property
    def earlier(self) -> Path:
        """Where run folders go whose settings the study no longer has."""
        return self.path / "earlier"

    def cell(self, cell: Cell) -> Path:
        """The run folder of a cell."""
        return self.path / "cells" / cell.name

    def log(self, cell: Cell) -> Path:
        """What the cell's process said."""
        return self.path / "logs" / f"{cell.name.replace('/', '_')}.log"

    def lock(self, cell: Cell) -> Path:
        """Held by the process that works on the cell."""
        return self.path / "locks" / cell.name.replace("/", "_")

    def claim(self, study: Study) -> StudyFolder:
        """Take the folder for a study and write the study down; what is computed there already stays.

        A folder that holds something else raises `RunError`.
        """
        if self.path.exists() and any(self.path.iterdir()) and not (self.path / "study.yaml").exists():
            raise RunError(f"{self.path}: holds files, but no study; choose another folder with -o")
        self.path.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        _write(self.path / "study.yaml", text)
        return self

    def open(self, cohort_csv: Path, means: Means) -> None:
        """Say what it runs on and with, over what an earlier call said; a plan that cannot be made is refused now.

        Cells whose settings stay the same stand as they are.
        """
        facts = {"cohort": os.path.relpath(cohort_csv.resolve(), self.path.resolve()), "means": asdict(means)}
        _write(self.path / "plan.json", json.dumps(facts, indent=2) + "\n")
        assert self.cells

    @property
    def there(self) -> bool:
        """Whether a study was opened here."""
        return (self.path / "plan.json").exists()

    @cached_property
    def study(self) -> Study:
        """The study that claimed the folder, its recipes and bounds written out."""
        if not (self.path / "study.yaml").exists():
            raise RunError(
                f"{self.path}: is no study (no study.yaml); `crossbeat study STUDY.yaml -o OUT` makes one"
            )
        return Study.load(self.path / "study.yaml")

    @cached_property
    def cohort(self) -> Cohort:
        """The cohort that it was opened with, and the reader of its files."""
        return read_cohort(self.path / str(self._plan["cohort"]), reader)

    @property
    def means(self) -> Means:
        return Means(**self._plan["means"])

    @property
    def command(self) -> str:
        """What goes on with the study where it stopped."""
        words = ["crossbeat", "study", str(self.path / "study.yaml")]
        cohort_csv = Path(os.path.normpath(self.path / str(self._plan["cohort"])))
        own = cohort_csv == self.path / "phantom" / "cohort.csv"
        return shlex.join([*words, *([] if own else [str(cohort_csv)]), "-o", str(self.path)])

    @cached_property
    def cells(self) -> list[Cell]:
        """All cells of the plan, finished or not."""
        return plan(self.study, self.cohort)

    def find_cell(self, name: str) -> Cell:
        """A cell by its name, else a `RunError`."""
        for cell in self.cells:
            if cell.name == name:
                return cell
        raise RunError(
            f"{self.path}: has no cell {name!r}; {did_you_mean(name, [c.name for c in self.cells])}"
        )

    @cached_property
    def _plan(self) -> dict[str, Any]:
        if not self.there:
            raise RunError(
                f"{self.path}: is no study (no plan.json); `crossbeat study STUDY.yaml -o {self.path}`"
            )
        found: dict[str, Any] = json.loads((self.path / "plan.json").read_text(encoding="utf-8"))
        return found


def shared_threads(jobs: int) -> int:
    """Threads of a cell where so many work at once: the cores of this computer, shared out."""
    return max(1, (os.cpu_count() or 1) // jobs)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
