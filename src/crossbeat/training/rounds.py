"""What happens around a stage's steps: logs within a round; measuring, schedules, choice, checkpoint at its end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch.optim.lr_scheduler import ReduceLROnPlateau

from crossbeat.errors import RunError, SettingsError
from crossbeat.training import checkpoints
from crossbeat.training.distributed import share_numbers, share_state, together
from crossbeat.training.logs import Bar, Logs, Window
from crossbeat.training.run import Run, seed_torch
from crossbeat.training.schedules import Plateau
from crossbeat.training.stage import Stage

_NOTE_WIDTH: Final = 60
_NOTHING: Final = 0.01
"""Dice below which a structure counts as not learnt at all."""


class Rounds(Callback):
    """Lightning's hooks, in the order of a round. `watched` is the number by which the best round is chosen."""

    def __init__(self, run: Run, name: str, rounds: int, done: int, watched: str | None) -> None:
        self.run = run
        self.folder = run.stage_folder(name)
        self.rounds = rounds
        self.done = done
        self.watched = watched
        self.best: dict[str, float] = {}
        self._window = Window()
        self._logs: Logs | None = None
        self._bar: Bar | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Two processes that take themselves for the first would both write, and train on the same share."""
        ours, theirs = (self.run.rank, self.run.world_size), (trainer.global_rank, trainer.world_size)
        if ours != theirs:
            raise RunError(
                f"{self.run.folder}: this process is number {ours[0]} of {ours[1]} by --devices and --nodes, but "
                f"number {theirs[0]} of {theirs[1]} by its launcher; ask for as many tasks as devices, or start "
                "crossbeat without a launcher"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stage = _stage(pl_module)
        if self.run.writes:
            steps = stage.steps_per_round
            self._logs = Logs(self.folder, self.done, steps)
            self._bar = Bar(stage.name, self.done * steps, self.rounds * steps, shown=self.run.progress)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stage = _stage(pl_module)
        self._window.add(outputs)
        step = self.done * stage.steps_per_round + batch_idx + 1
        in_round = batch_idx + 1
        note = None
        if in_round % self.run.log_every == 0 and in_round < stage.steps_per_round:
            numbers = self._read(stage, step)
            self._write(step, numbers)
            note = _note(numbers)
        if self._bar:
            self._bar.show(step, note=note)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stage = _stage(pl_module)
        step = (self.done + 1) * stage.steps_per_round
        numbers = self._read(stage, step) | _learning_rates(trainer)
        measured = self._measure(trainer, stage)
        twice = sorted(numbers.keys() & measured.keys())
        if twice:
            raise SettingsError(f"stage {stage.name}: update and validate both give {twice[0]!r}; rename one")
        self._write(step, numbers | measured)
        self._lower_at_plateaus(trainer, stage, measured)
        self.done += 1
        self._tell_what_was_not_learnt(stage, measured)
        self._choose(stage, measured)
        trainer.save_checkpoint(self.folder / "checkpoints" / "last.ckpt")
        self._remove_worse()
        self.run.note_progress()
        if self._bar:
            self._bar.end_round(step, _note(numbers | measured))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint |= {"rounds_done": self.done, "best": self.best}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.best = checkpoint["best"]

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._close()

    def _close(self) -> None:
        for thing in (self._logs, self._bar):
            if thing:
                thing.close()

    def _read(self, stage: Stage, step: int) -> dict[str, float]:
        numbers = self._window.read()
        for name, value in numbers.items():
            if name.startswith("loss") and not math.isfinite(value):
                raise RunError(
                    f"stage {stage.name}: {name} is {value} after {step} steps; "
                    "lower the learning rate, clip gradients, or train with --precision 32"
                )
        return numbers

    def _write(self, step: int, numbers: Mapping[str, float]) -> None:
        if self._logs:
            self._logs.write(step, self.done + 1, numbers)

    def _measure(self, trainer: pl.Trainer, stage: Stage) -> dict[str, float]:
        if together():
            share_state([*stage.kept_buffers(), *stage.averages()])
        seed_torch(self.run.seed, stage.name, "validation", self.done)
        with stage.measuring(), trainer.precision_plugin.val_step_context():
            return share_numbers({name: float(value) for name, value in stage.validate().items()})

    def _lower_at_plateaus(self, trainer: pl.Trainer, stage: Stage, measured: Mapping[str, float]) -> None:
        for config in trainer.lr_scheduler_configs:
            schedule = config.scheduler
            if not isinstance(schedule, ReduceLROnPlateau):
                continue
            watch = schedule.watch if isinstance(schedule, Plateau) else "loss_validation"
            schedule.step(self._wanted(stage, measured, watch, "a plateau schedule"))

    def _choose(self, stage: Stage, measured: Mapping[str, float]) -> None:
        """Keep this round's weights if they are the best so far; a value that is no number never is."""
        if self.watched is None:
            return
        value = self._wanted(stage, measured, self.watched, "select")
        if value > self.best.get("value", -math.inf):
            self.best = {"round": self.done, "value": value}
            if self.run.writes:
                checkpoints.save(stage.chosen_state(), best_file(self.folder, self.done))

    def _tell_what_was_not_learnt(self, stage: Stage, measured: Mapping[str, float]) -> None:
        """At the end of a stage: a structure may be given up early in a training that looks well otherwise."""
        lost = [name for name in stage.must_learn() if measured.get(name, math.nan) < _NOTHING]
        if (
            lost and self.done == self.rounds and self.watched is None
        ):  # else another round's weights may stay
            self.run.note(
                f"stage {stage.name}: ends with {' and '.join(lost)} below {_NOTHING:g} on validation scans: "
                "not learnt; try another --seed, other initial weights, or a longer training"
            )

    def _wanted(self, stage: Stage, measured: Mapping[str, float], name: str, who: str) -> float:
        if name not in measured:
            raise SettingsError(
                f"stage {stage.name}: {who} looks at {name}, but validate gives "
                f"{', '.join(measured) or 'nothing'}; are there validation scans with labels?"
            )
        return measured[name]

    def _remove_worse(self) -> None:
        """Only after last.ckpt names the new best: a process killed in between still finds the old one."""
        if self.run.writes and self.best:
            keep = best_file(self.folder, int(self.best["round"]))
            for path in keep.parent.glob("round-*.ckpt"):
                if path != keep:
                    path.unlink()


def best_file(folder: Path, round_number: int) -> Path:
    """Where the weights of a chosen round lie."""
    return folder / "checkpoints" / f"round-{round_number:05d}.ckpt"


def _stage(module: pl.LightningModule) -> Stage:
    assert isinstance(module, Stage)
    return module


def _learning_rates(trainer: pl.Trainer) -> dict[str, float]:
    """Of each optimizer's first group; numbered where there are several optimizers."""
    rates = [float(optimizer.param_groups[0]["lr"]) for optimizer in trainer.optimizers]
    return {f"learning_rate_{i}" if len(rates) > 1 else "learning_rate": r for i, r in enumerate(rates)}


def _note(numbers: Mapping[str, float]) -> str:
    """The loss, overlaps, then parts of the loss, as many as a line takes, for the end of the progress bar."""
    names = [name for start in ("loss ", "dice", "loss_") for name in numbers if f"{name} ".startswith(start)]
    note = ""
    for name in names:
        longer = "  ".join(word for word in (note, f"{name} {numbers[name]:.3f}") if word)
        if len(longer) > _NOTE_WIDTH:
            break
        note = longer
    return note
