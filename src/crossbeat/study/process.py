"""The process of one cell: how an engine starts it, on this computer or on a node of a cluster, and its last words."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import IO, Final

_LAUNCHERS: Final = ("SLURM_", "TORCHELASTIC_", "JSM_", "LSB_")
_RANKS: Final = {"RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"}

STOPPED: Final = "stopped with its study; the same command goes on with it"
_ROUND: Final = re.compile(r"[^:]+: step \d+ of \d+( |$)")  # as training.logs.Bar says it


def start_cell(folder: Path, name: str, threads: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start the training of a cell of the study in a folder; it stops by itself once its starter is gone."""
    parent = str(os.getpid())
    return subprocess.Popen(
        [sys.executable, "-m", "crossbeat.study.cell", str(folder), name, parent],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=_alone(os.environ) | {"OMP_NUM_THREADS": str(threads)},
    )


def problem_of(code: int, log: Path) -> str:
    """'' where a cell's process ended with 0; else its last words, and the code where it had not chosen to end."""
    if code == 0:
        return ""
    words = last_words(log)
    return words if code in (1, 2) else f"{words} (its process ended with {code})"


def note_stop(log: IO[bytes]) -> None:
    """Let the last words of a cell be that it was stopped together with its study, and nothing went wrong."""
    log.write(f"{STOPPED}\n".encode())


def was_stopped(code: int) -> bool:
    """Whether a process was ended from outside: by a signal, or having left its training on SIGTERM or Ctrl-C."""
    return code < 0 or code in (130, 143)


def last_words(log: Path) -> str:
    """The last line that a process wrote, without the word that begins our errors; or where to look.

    How far it had come, which its log says round by round, is no reason for its end.
    """
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not _ROUND.match(line)]
    return lines[-1].removeprefix("error: ") if lines else f"ended without a word; see {log}"


def _alone(environment: os._Environ[str]) -> dict[str, str]:
    """Without the numbers of a launcher: a study within a Slurm job is many trainings, none of them a rank."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(_LAUNCHERS) and name not in _RANKS
    }
