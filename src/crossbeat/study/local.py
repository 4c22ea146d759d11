"""Cells on this computer: each a process of its own, one by one or `jobs` at once."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from crossbeat.study.folder import StudyFolder
from crossbeat.study.plan import Cell
from crossbeat.study.process import note_stop, problem_of, start_cell, was_stopped


@dataclass(frozen=True)
class Outcome:
    """What became of a cell."""

    cell: Cell
    problem: str = ""
    """'' where it is finished; else the last words of its process."""


Told = Callable[[Outcome], None]


@dataclass(frozen=True)
class _Working:
    cell: Cell
    process: subprocess.Popen[bytes]
    log: IO[bytes]


def run_locally(
    study: StudyFolder,
    cells: Sequence[Cell],
    *,
    jobs: int = 1,
    told: Told = lambda outcome: None,
    watch: Callable[[Sequence[Cell]], None] = lambda cells: None,
) -> list[Outcome]:
    """Compute cells in processes of their own; one that fails is named in the answer, and the rest go on.

    `told` hears of each cell that ended, `watch` twice a second which are at work. When this ends early, by
    Ctrl-C or otherwise, the processes are asked to stop and lose a round at most.
    """
    waiting, working, done = list(cells), list[_Working](), list[Outcome]()
    try:
        while waiting or working:
            while waiting and len(working) < jobs:
                working.append(_start(study, waiting.pop(0)))
            for one in [w for w in working if w.process.poll() is not None]:
                working.remove(one)
                done.append(_end(study, one))
                told(done[-1])
            watch([one.cell for one in working])
            time.sleep(0.5 if working else 0)
    finally:
        for one in working:
            one.process.terminate()
        for one in working:
            if was_stopped(one.process.wait()):
                note_stop(one.log)
            one.log.close()
    return done


def _start(study: StudyFolder, cell: Cell) -> _Working:
    path = study.log(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.open("wb")
    process = start_cell(study.path.resolve(), cell.name, study.means.threads, log)
    return _Working(cell, process, log)


def _end(study: StudyFolder, one: _Working) -> Outcome:
    one.log.close()
    return Outcome(one.cell, problem_of(one.process.returncode, study.log(one.cell)))
