"""A stage in, its trained and chosen weights out: the one Lightning Trainer, configured here and nowhere else."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import Strategy

from crossbeat.devices import keep_freed_memory
from crossbeat.errors import RunError, SettingsError
from crossbeat.training import checkpoints
from crossbeat.training.checkpoints import TensorFiles
from crossbeat.training.distributed import SameStepStrategy
from crossbeat.training.events import read_events
from crossbeat.training.rounds import Rounds, best_file
from crossbeat.training.run import Estimate, Run, peak_memory_mb, seed_torch
from crossbeat.training.stage import Stage
from crossbeat.training.stopping import Stopping

Select = Literal["last", "source", "target"]
_WATCHED: Final[dict[Select, str | None]] = {"last": None, "source": "dice_source", "target": "dice_target"}
FURTHER: Final = "forward_with_"
"""How methods of a network begin that stages call in place of the network itself; they are compiled as it is."""


@dataclass(frozen=True)
class Chosen:
    """Which round's weights a stage ended with. `value` is what the choice looked at; None for the last."""

    rule: Select
    round: int
    value: float | None


def fit(stage: Stage, *, rounds: int, steps_per_round: int, select: Select = "last") -> Chosen:
    """Train a stage, from where it stopped if the run is resumed, and leave it with the chosen weights.

    `last` are the weights after the last round (their averages where EMA is on), `source` and `target` those of
    the round with the highest `dice_source` or `dice_target` in `Stage.validate` (the earlier of equals). A
    stage that was finished before is not trained again; its weights are read. Afterwards the stage is on
    the run's device and torch is seeded, so that what follows is the same whether the stage was resumed or not.

    SIGTERM and Ctrl-C end the process after the step at hand, with exit code 143 and 130; the round at hand is
    lost. In a dry run (`Run.estimates`) nothing is trained. Raises `RunError` where the loss is not finite,
    no round had a number to choose by, or an earlier stage of the run has the same name.
    """
    _check(stage, rounds, steps_per_round, select)
    stage.run.claim_stage(stage.name)
    if stage.run.estimates is not None:
        stage.run.estimates[stage.name] = dry_run(stage, rounds=rounds, steps_per_round=steps_per_round)
        return Chosen("last", 0, None)
    folder = stage.run.stage_folder(stage.name)
    last = folder / "checkpoints" / "last.ckpt"
    done = checkpoints.rounds_done(last) if stage.run.resume else 0
    if done > rounds:
        raise RunError(f"{folder}: has {done} rounds already, {rounds} are asked for; choose another folder")
    if done < rounds:
        stage.steps_per_round = steps_per_round
        _train(stage, Rounds(stage.run, stage.name, rounds, done, _WATCHED[select]), last)
    chosen = _load(stage, select, last)
    stage.run.record(
        "stage finished", stage=stage.name, select=select, round=chosen.round, value=chosen.value
    )
    stage.to(stage.run.torch_device)
    seed_torch(stage.run.seed, stage.name, "afterwards")
    return chosen


def dry_run(stage: Stage, *, rounds: int, steps_per_round: int, steps: int = 3) -> Estimate:
    """Time a few real steps and one validation on one device; then all is as before, and no file is written.

    The first step, which warms up, is not counted where there are more. `peak_memory_mb` is what
    the device held at most, or on a CPU the whole process. With several devices this is one rank's part.
    """
    _check(stage, rounds, steps_per_round, "last")
    state = {name: tensor.detach().clone() for name, tensor in stage.state_dict().items()}
    timer = _Timer()
    stage.steps_per_round = steps_per_round
    devices = [torch.cuda.current_device()] if stage.run.accelerator == "cuda" else []
    with torch.random.fork_rng(devices), _quiet(), _global_settings():
        trainer = _trainer(stage.run, 1, [timer], alone=True)
        trainer.fit(stage, range(max(steps, 1)))
    stage.load_state_dict(state)
    stage.forget_averages()
    stage.to(stage.run.torch_device)
    counted = timer.step_seconds[1:] or timer.step_seconds
    step_seconds = sorted(counted)[len(counted) // 2]
    peaks = peak_memory_mb(stage.run.accelerator)
    return Estimate(
        updates=rounds * steps_per_round,
        parameters=sum(p.numel() for p in stage.parameters() if p.requires_grad),
        seconds=rounds * (steps_per_round * step_seconds + timer.validation_seconds),
        peak_memory_mb=peaks.get("peak_cuda_memory_mb", peaks["peak_memory_mb"]),
    )


def _check(stage: Stage, rounds: int, steps_per_round: int, select: Select) -> None:
    if rounds < 1 or steps_per_round < 1:
        raise SettingsError(
            f"stage {stage.name}: needs at least one round of one step, got {rounds} of {steps_per_round}"
        )
    if select not in _WATCHED:
        raise SettingsError(f"stage {stage.name}: select must be last, source or target, got {select!r}")
    if select != "last" and type(stage).validate is Stage.validate:
        raise SettingsError(
            f"stage {stage.name}: select: {select} needs validation scans with labels; use select: last"
        )


def _train(stage: Stage, watcher: Rounds, last: Path) -> None:
    run, done = stage.run, watcher.done
    stage.forget_averages()
    compiled = run.compiles(watcher.rounds * stage.steps_per_round)
    if done and _was_compiled(run, stage.name) == (not compiled):
        run.note(
            f"stage {stage.name}: goes on {'' if compiled else 'not '}compiled, and was not so before; the result "
            "differs in rounding from that of a run in one go"
        )
    event = "stage resumed" if done else "stage started"
    run.record(event, stage=stage.name, rounds_done=done, compiled=compiled)
    if run.world_size > 1 and stage.has_batch_norm():
        run.note(
            f"stage {stage.name}: BatchNorm sees 1/{run.world_size} of each batch: results differ from one device"
        )
    stopping = Stopping(run)
    with _quiet(), _global_settings(), stopping.as_exit(), _compiled(stage, compiled):
        trainer = _trainer(run, watcher.rounds, [watcher, stopping])
        trainer.fit(stage, range(stage.steps_per_round), ckpt_path=last if done else None)
        run.wait()


def _was_compiled(run: Run, name: str) -> bool | None:
    """Whether the stage was compiled when it was at work before; None where no log tells."""
    events = read_events(run.folder)
    found = [event["compiled"] for event in events if event.get("stage") == name and "compiled" in event]
    return found[-1] if found else None


def _trainer(run: Run, rounds: int, callbacks: list[Callback], *, alone: bool = False) -> pl.Trainer:
    keep_freed_memory()
    together = run.world_size > 1 and not alone
    strategy: Strategy | str = SameStepStrategy() if together else "auto"
    plugins: list[Any] = [TensorFiles()] if together else [TensorFiles(), LightningEnvironment()]
    trainer = pl.Trainer(
        accelerator="cpu" if run.accelerator == "cpu" else "gpu",
        strategy=strategy,
        devices=run.devices if together else 1,
        num_nodes=run.nodes if together else 1,
        precision=run.lightning_precision,
        plugins=plugins,
        callbacks=callbacks,
        max_epochs=rounds,
        benchmark=not run.deterministic,
        deterministic=run.deterministic,
        default_root_dir=run.folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # Lightning tells the ranks at every step whether one was asked to stop, and so waits for the device;
    # `Stopping` ends all of them by their own signals.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]
    return trainer


def _nothing() -> None:
    pass


def _load(stage: Stage, select: Select, last: Path) -> Chosen:
    """Give the stage the chosen weights, from the files: the same way for a stage finished now or earlier."""
    state = checkpoints.load(last)
    if select == "last":
        stage.load_state_dict({**state["state_dict"], **state["averages"]})
        return Chosen(select, state["rounds_done"], None)
    if not state["best"]:
        raise RunError(
            f"stage {stage.name}: {_WATCHED[select]} was not a number in any round; "
            "check the validation scans, or use select: last"
        )
    chosen = Chosen(select, int(state["best"]["round"]), float(state["best"]["value"]))
    stage.load_state_dict(checkpoints.load(best_file(last.parents[1], chosen.round)))
    return chosen


@contextmanager
def _compiled(stage: Stage, wanted: bool) -> Iterator[None]:
    """Have the stage's networks compiled within; afterwards they are as those of a stage that was only read."""
    if not wanted:
        yield
        return
    # Where the choice is ours a network that cannot be compiled, or a machine without a compiler, is no reason to stop.
    import torch._dynamo

    networks = list(stage.networks())
    further = [
        (network, name) for network in networks for name in dir(type(network)) if name.startswith(FURTHER)
    ]
    for network in networks:
        network.compile()
    for network, name in further:
        setattr(network, name, torch.compile(getattr(network, name)))
    try:
        with torch._dynamo.config.patch(suppress_errors=stage.run.compile is None):
            yield
    finally:
        for network in networks:
            network._compiled_call_impl = None
        for network, name in further:
            delattr(network, name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's talk to itself (devices found, tips, advice); our own warnings pass."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Lightning 2.6 makes a LeafSpec, which torch 2.13 has deprecated.
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            # Advice about workers, and about networks in eval mode (frozen ones are so on purpose).
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            # float16 skips its first updates until the scale fits; the schedule moves on by design.
            warnings.filterwarnings("ignore", message=".*before `optimizer.step", category=UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _global_settings() -> Iterator[None]:
    """Put torch's process-wide switches, which the Trainer sets, back as they were."""
    cudnn = torch.backends.cudnn
    before = (torch.are_deterministic_algorithms_enabled(), cudnn.benchmark, cudnn.deterministic)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.benchmark, cudnn.deterministic = before[1:]


class _Timer(Callback):
    """Measures steps, and one validation, with the device idle at both ends."""

    def __init__(self) -> None:
        self.step_seconds: list[float] = []
        self.validation_seconds = 0.0
        self._began = 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._began = _now(pl_module.device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.step_seconds.append(_now(pl_module.device) - self._began)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Stage)
        began = _now(pl_module.device)
        with pl_module.measuring(), trainer.precision_plugin.val_step_context():
            pl_module.validate()
        self.validation_seconds = _now(pl_module.device) - began


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
