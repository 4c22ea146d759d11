"""SIGTERM and Ctrl-C: end after the step at hand, say how to go on, take the other processes along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from crossbeat.training.distributed import together
from crossbeat.training.run import Run

_PATIENCE_SECONDS: Final = 3.0  # Lightning kills the first process 5 s after it lost another


class Stopping(Callback):
    """Turns the two signals into an exit between two steps, with code 143 or 130 (128 + the signal's number)."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.received: int | None = None

    @contextmanager
    def as_exit(self) -> Iterator[None]:
        """Around the training: whatever a stopped process runs into on its way out is still that exit."""
        before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
            self._stop_if_asked()  # after the last step, where nothing else would look
        except BaseException:
            if self.received is None:
                raise
            self._say_goodbye(self.received)
            raise SystemExit(128 + self.received) from None
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in before.items():
                    signal.signal(number, handler)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over from Lightning, whose handler talks to other ranks in the middle of what they do.

        Not earlier: Lightning 2.6 puts its own in place after `on_fit_start`, and calls ours from it.
        """
        _children.extend(getattr(trainer.strategy.launcher, "procs", []))
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._receive)
            signal.signal(signal.SIGINT, self._receive)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.is_last_batch:
            self._stop_if_asked()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.received is not None:
            raise SystemExit(128 + self.received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received is not None:
            raise KeyboardInterrupt  # asked twice: at once
        self.received = number
        for child in _children:
            child.send_signal(signal.SIGTERM)
        if together():
            # A rank that waits for one that has left would wait for ever; nothing is lost by leaving.
            leave = threading.Timer(_PATIENCE_SECONDS, os._exit, (128 + number,))
            leave.daemon = True
            leave.start()

    def _say_goodbye(self, number: int) -> None:
        if self.run.writes:
            name = signal.Signals(number).name
            self.run.record("stopped", signal=name)
            self.run.note_progress()
            print(f"{self.run.folder}: stopped by {name}; add --resume to go on from the last finished round",
                  file=sys.stderr, flush=True)  # fmt: skip


_children: list[subprocess.Popen[bytes]] = []
"""The processes that Lightning started for the other devices: by the first stage, for all that follow."""
