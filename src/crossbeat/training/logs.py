"""Scalars of a stage in, metrics.csv and TensorBoard out; and the progress bar."""

from __future__ import annotations

import csv
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from crossbeat.training.distributed import together

_SECONDS_BETWEEN_REDRAWS: Final = 0.2  # finer than an eye follows, coarse enough to cost nothing


class Window:
    """Running means of scalars that stay on the device until someone reads them."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, scalars: Mapping[str, Tensor]) -> None:
        """Take in the scalars of one step; nothing waits for the device."""
        for name, value in scalars.items():
            value = value.detach().float().reshape(())
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """Mean of each scalar since the last reading, over all ranks, and begin anew; one wait for the device."""
        if not self._sums:
            return {}
        means = torch.stack([total / self._counts[name] for name, total in self._sums.items()])
        if together():
            torch.distributed.all_reduce(means)
            means /= torch.distributed.get_world_size()
        numbers = dict(zip(self._sums, means.tolist(), strict=True))
        self._sums, self._counts = {}, {}
        return numbers


class MetricsFile:
    """metrics.csv: a row is `step` (updates done), `round` (rounds begun), then every scalar; absent ones empty.

    Begun at `rounds_done`: rows of later rounds, left by a process that was killed, are dropped, since those
    rounds are trained again.
    """

    def __init__(self, path: Path, rounds_done: int) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._columns, rows = _read(path) if path.exists() and rounds_done else (["step", "round"], [])
        self._rewrite([row for row in rows if int(row["round"]) <= rounds_done])

    def write(self, step: int, round_number: int, scalars: Mapping[str, float]) -> None:
        """Append a row; a scalar seen for the first time adds a column."""
        row = {"step": str(step), "round": str(round_number)} | {k: f"{v:.8g}" for k, v in scalars.items()}
        new = [name for name in row if name not in self._columns]
        if new:
            _, rows = _read(self.path)
            self._columns += new
            self._rewrite([*rows, row])
            return
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        temporary = self.path.with_name(f".{self.path.name}")
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self._columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(self.path)


class Logs:
    """Everything a stage's first process writes while training: csv, TensorBoard, progress bar."""

    def __init__(self, folder: Path, rounds_done: int, steps_per_round: int) -> None:
        self._file = MetricsFile(folder / "metrics.csv", rounds_done)
        # Events of rounds that will be trained again are hidden from here on.
        purge = rounds_done * steps_per_round + 1 if rounds_done else None
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)

    def write(self, step: int, round_number: int, scalars: Mapping[str, float]) -> None:
        """One row of numbers, to both."""
        self._file.write(step, round_number, scalars)
        for name, value in scalars.items():
            if math.isfinite(value):
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._board.close()


class Bar:
    """One line with what is done, how long it took and will take; where no terminal is, a plain line a round.

    `console.bar` is the commands' own: the two cannot be one, because by law 1 of the house a training knows no
    console and the console knows no room. This one also goes on from a resumed step and shows losses.
    """

    def __init__(self, title: str, done: int, total: int, *, shown: bool) -> None:
        console = Console(stderr=True)
        terminal = console.is_terminal and sys.stderr.isatty()
        self._plain = shown and not terminal
        self._title, self._total, self._began, self._from = title, total, time.monotonic(), done
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not (shown and terminal),
            refresh_per_second=4,
        )
        self._task = self._progress.add_task(title, total=total, completed=done, note="")
        self._drawn = 0.0
        self._progress.start()

    def show(self, done: int, *, note: str | None = None) -> None:
        """Redraw, if the last drawing is not too fresh or there is something to say."""
        now = time.monotonic()
        if note is None and now - self._drawn < _SECONDS_BETWEEN_REDRAWS:
            return
        self._drawn = now
        if note is None:
            self._progress.update(self._task, completed=done)
        else:
            self._progress.update(self._task, completed=done, note=note)

    def end_round(self, done: int, note: str) -> None:
        """Redraw, or say it in a line of its own, so that a log shows life: what is done, its numbers, what is left."""
        self.show(done, note=note)
        if self._plain:
            each = (time.monotonic() - self._began) / max(done - self._from, 1)
            seconds = each * (self._total - done)
            left = f"{seconds:.0f} s left" if seconds < 120 else f"{seconds / 60:.0f} min left"
            words = [
                f"{self._title}: step {done} of {self._total}",
                note,
                left if done < self._total else "done",
            ]
            print("  ".join(word for word in words if word), file=sys.stderr, flush=True)

    def close(self) -> None:
        self._progress.stop()


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = [dict(row) for row in reader if row.get("round")]
        return list(reader.fieldnames or ["step", "round"]), rows
