"""The folder of a study on disk: its plan, its cells, their logs, what was put aside."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from crossbeat.cohort import Cohort, read_cohort
from crossbeat.data import reader
from crossbeat.errors import RunError, did_you_mean
from crossbeat.evaluation.parallel import cores
from crossbeat.report.writing import write_whole
from crossbeat.study.plan import Cell, Study, plan

PHANTOM: Final = "phantom"
"""Folder of the synthetic cohort, where the study made one."""


Precision = Literal["auto", "32", "bf16", "16"]


@dataclass(frozen=True)
class Means:
    """What a cell computes with; it changes how long a cell takes, and hardly what comes out."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "auto"
    """Settled when the study is opened, so that it is the same on all nodes of a cluster."""
    threads: int = 1
    """Of a cell on the CPU. The last digits of a result depend on it, so it is the same for all cells."""
    compile: bool | None = None
    """As `Run.compile`; the last digits depend on it too."""


@dataclass(frozen=True)
class StudyFolder:
    """`study.yaml`, `plan.json`, `cells/<arm>/seed-<s>`, `shared/`, `logs/`, `earlier/`; then results and page."""

    path: Path

    @property
    def earlier(self) -> Path:
        """Where run folders go whose settings the study no longer has."""
        return self.path / "earlier"

    @property
    def shared(self) -> Path:
        """Where cells leave what others would learn alike, by the code that learnt it."""
        return self.path / "shared"

    def cell(self, cell: Cell) -> Path:
        """The run folder of a cell."""
        return self.path / "cells" / cell.name

    def log(self, cell: Cell) -> Path:
        """What the cell's process said."""
        return self.path / "logs" / f"{cell.name.replace('/', '_')}.log"

    def lock(self, cell: Cell) -> Path:
        """Held by the process that works on the cell."""
        return self.path / "locks" / cell.name.replace("/", "_")

    def refuse_foreign(self, study: Study) -> None:
        """Raise `RunError` where the folder holds something else, or a study of another name."""
        if not self.path.exists():
            return
        if not (self.path / "study.yaml").exists():
            if {file.name for file in self.path.iterdir()} - {PHANTOM}:
                raise RunError(f"{self.path}: holds files, but no study; choose another folder with -o")
        elif (there := StudyFolder(self.path).study.name) != study.name:
            raise RunError(
                f"{self.path}: holds the study {there!r}, not {study.name!r}. A study goes by `name:` in its file, "
                f"else by the file's own name: write `name: {there}` there to go on with it, or choose another "
                "folder with -o"
            )

    def open(self, study: Study, cohort_csv: Path, means: Means) -> StudyFolder:
        """Write down what is to be computed, on which cohort and with what; the folder as it stands then.

        A study that cannot be planned on the cohort is refused before anything is written. Cells whose settings stay
        the same stand as they are.
        """
        self.refuse_foreign(study)
        plan(study, read_cohort(cohort_csv, reader))
        self.path.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        facts = {"cohort": os.path.relpath(cohort_csv.resolve(), self.path.resolve()), "means": asdict(means)}
        write_whole(self.path / "study.yaml", text)
        write_whole(self.path / "plan.json", json.dumps(facts, indent=2) + "\n")
        return StudyFolder(self.path)

    @contextmanager
    def engaged(self) -> Iterator[None]:
        """Hold the folder for one engine; `RunError` where another computes there now."""
        with locked(self.path / "locks" / "engine", wait=False) as free:
            if not free:
                raise RunError(
                    f"{self.path}: another process computes this study now; wait for it, or stop it"
                )
            yield

    @property
    def there(self) -> bool:
        """Whether a study was opened here."""
        return (self.path / "plan.json").exists()

    @cached_property
    def study(self) -> Study:
        """The study of the folder, its recipes and bounds written out."""
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

    def threads(self, jobs: int, *, shared: bool = True) -> int:
        """Threads of a cell that nobody set: those the study began with, else the cores shared out, or one."""
        if self.there:
            return self.means.threads
        return max(1, cores() // jobs) if shared else 1

    def as_before(self, wished: Means) -> Means:
        """The means wished for, with those of the study's beginning where none are said: device, precision, compiling.

        Others than those raise `RunError`: cells of two precisions make no common table.
        """
        if not self.there:
            return wished
        began = self.means
        for name in ("device", "precision"):
            asked, had = getattr(wished, name), getattr(began, name)
            if "auto" not in (asked, had) and asked != had:
                raise RunError(
                    f"{self.path}: began with {name} {had}, and {asked} is asked for; leave --{name} away, or take "
                    "another folder"
                )
        if None not in (wished.compile, began.compile) and wished.compile != began.compile:
            had, other = ("--compile", "--no-compile") if began.compile else ("--no-compile", "--compile")
            raise RunError(f"{self.path}: began with {had}; leave {other} away, or take another folder")
        return replace(
            wished,
            compile=began.compile if wished.compile is None else wished.compile,
            device=began.device if wished.device == "auto" else wished.device,
            precision=began.precision if wished.precision == "auto" else wished.precision,
        )

    @property
    def command(self) -> str:
        """What goes on with the study where it stopped."""
        words = ["crossbeat", "study", str(self.path / "study.yaml")]
        cohort_csv = Path(os.path.normpath(self.path / str(self._plan["cohort"])))
        own = cohort_csv == self.path / PHANTOM / "cohort.csv"
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


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock file; whether it could be had, where one does not `wait`.

    Where the system has no such locks (Windows) it always can: there a study is for one engine at a time to keep.
    """
    try:
        import fcntl
    except ImportError:
        yield True
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
