"""One stage of a method in Lightning's hands: the paper's step goes in, everything around it is here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from crossbeat.errors import SettingsError
from crossbeat.training.distributed import average_gradients, together
from crossbeat.training.run import Run, seed_torch


class Stage(pl.LightningModule):
    """The part of a training that repeats one step: the subclass writes `update`, the paper's step.

    A subclass keeps its networks as attributes, gives its optimizers and schedules in `configure_optimizers`
    as Lightning wants them (`return [optimizer], [cosine(optimizer, steps)]`), and may measure in `validate`.
    Everything it must remember between steps is a tensor: parameters, optimizer state, or
    `register_buffer` (a replay buffer); what is only read (slices, a frozen VGG) is better kept out of the
    checkpoints, in a tuple or a non-persistent buffer.

    With N devices each sees 1/N of the batch, and gradients are means: as on one device to rounding, except that
    BatchNorm normalises by its own share only. Such a stage differs from one device, and `fit` says so.
    """

    def __init__(
        self, run: Run, name: str, *, clip_norm: float | None = None, ema_decay: float | None = None
    ) -> None:
        super().__init__()
        if not re.fullmatch(r"[\w-]+", name):
            raise SettingsError(f"stage {name!r}: a stage's name is a folder; use letters, digits, _ and -")
        if ema_decay is not None and not 0 <= ema_decay < 1:
            raise SettingsError(f"stage {name}: ema_decay must be in [0, 1), got {ema_decay}")
        self.automatic_optimization = False
        self.run = run
        self.name = name
        self.clip_norm = clip_norm
        self.ema_decay = ema_decay
        self.steps_per_round = 0
        self._averages: dict[str, Tensor] = {}
        self._followed: dict[str, Tensor] = {}
        self._clipping: tuple[float | None, float | None] = (None, None)

    def update(self, step: int) -> dict[str, Tensor]:
        """The paper's step: take the batch of `step`, descend, return detached scalars to log.

        torch is freshly seeded from (seed, stage, step), alike on every rank. The names returned may differ
        from step to step, but not between ranks. A scalar named loss… that is not finite ends the training.
        """
        raise NotImplementedError(f"stage {self.name}: write `update`, the paper's step")

    def validate(self) -> dict[str, float]:
        """Numbers measured at a round's end, in eval mode, without gradients, under averaged weights.

        `select` looks at `dice_source` and `dice_target`, plateau schedules at the name they watch
        (`loss_validation`). With several processes those of the first are used by all.
        """
        return {}

    def must_learn(self) -> Sequence[str]:
        """Names of `validate` that are far above 0 once anything is learnt, as Dice by structure on learnt labels.

        `fit` says at the end of the stage which of them are not.
        """
        return ()

    def averaged(self) -> Sequence[nn.Module]:
        """The networks whose weights EMA averages: all of the stage's, unless a subclass names some.

        Buffers of the stage itself, such as a replay buffer, are never averaged.
        """
        return list(self.networks())

    def networks(self) -> Iterator[nn.Module]:
        """The networks that the stage holds as attributes, those in a ModuleList or ModuleDict one by one."""
        for child in self.children():
            if isinstance(child, nn.ModuleList):
                yield from child
            elif isinstance(child, nn.ModuleDict):
                yield from child.values()
            else:
                yield child

    def has_batch_norm(self) -> bool:
        """Whether a network normalises by the batch it is given: one in training mode, or without running means."""
        return any(
            isinstance(m, _BatchNorm)
            and not isinstance(m, nn.SyncBatchNorm)
            and (m.training or not m.track_running_stats)
            for m in self.modules()
        )

    def share(self, global_indices: Tensor) -> Tensor:
        """This rank's part of the global batch: its first dimension cut into as many equal runs as ranks.

        Raises `SettingsError` where the batch does not divide, because ranks with unequal parts
        would weigh samples unequally.
        """
        count, ranks = len(global_indices), self.run.world_size
        if count % ranks:
            raise SettingsError(
                f"stage {self.name}: a batch of {count} cannot be shared by {ranks} devices; "
                f"choose a batch size that {ranks} divides, or another --devices"
            )
        part = count // ranks
        return global_indices[self.run.rank * part : (self.run.rank + 1) * part]

    def descend(
        self,
        loss: Tensor,
        optimizer: Optimizer | LightningOptimizer | int = 0,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        retain_graph: bool = False,
    ) -> None:
        """One update by one optimizer (or the optimizer of that number), then its step-wise schedules.

        Only this optimizer's parameters receive gradients: a generator's loss leaves the discriminator alone.
        With several processes gradients are means over ranks. The whole gradient is cut to length
        `clip_norm` (the stage's unless given), or each entry to ± `clip_value`. Under `torch.float16` an update
        with an overflow is skipped.
        """
        chosen = self._wrapped(optimizer)
        parameters = [p for group in chosen.param_groups for p in group["params"] if p.requires_grad]
        chosen.zero_grad()
        self.manual_backward(loss, inputs=parameters, retain_graph=retain_graph)
        if together():
            average_gradients(parameters)
        self._clipping = (self.clip_norm if clip_norm is None else clip_norm, clip_value)
        chosen.step()
        for config in self.trainer.lr_scheduler_configs:
            schedule = config.scheduler
            if schedule.optimizer is chosen.optimizer and not isinstance(schedule, ReduceLROnPlateau):
                schedule.step()

    def training_step(self, batch: int, batch_idx: int) -> dict[str, Tensor]:
        """Lightning's door to `update`."""
        step = self.current_epoch * self.steps_per_round + batch_idx
        seed_torch(self.run.seed, self.name, step)
        scalars = self.update(step)
        self._average(step)
        return scalars

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip here, where float16 gradients have their true scale again."""
        norm, value = self._clipping
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if value is not None:
            nn.utils.clip_grad_value_(parameters, value)
        elif norm is not None:
            nn.utils.clip_grad_norm_(parameters, norm)

    def on_fit_start(self) -> None:
        """Begin the averages with the weights as they are, or bring the resumed ones to the device."""
        if self.ema_decay is None:
            return
        self._followed = self._find_averaged()
        begun = self._averages or self._followed
        self._averages = {n: begun[n].detach().to(t.device, copy=True) for n, t in self._followed.items()}

    def on_fit_end(self) -> None:
        """Let go of tensors that Lightning is about to move away from the device."""
        self._followed = {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["averages"] = self._averages

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._averages = checkpoint["averages"]

    def chosen_state(self) -> dict[str, Tensor]:
        """The stage's state with averages in place of the weights they average; the same where EMA is off."""
        return {**self.state_dict(), **self._averages}

    def kept_buffers(self) -> list[Tensor]:
        """Buffers that checkpoints keep: BatchNorm statistics, replay buffers."""
        saved = self.state_dict()
        return [buffer for name, buffer in self.named_buffers() if name in saved]

    def averages(self) -> list[Tensor]:
        """The averaged weights; none where EMA is off or training has not begun."""
        return list(self._averages.values())

    def forget_averages(self) -> None:
        """Before a new training: it begins its own averages."""
        self._averages, self._followed = {}, {}

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Averaged weights, eval mode, no gradients; afterwards all is as before."""
        training = {module: module.training for module in self.modules()}
        kept = {name: tensor.detach().clone() for name, tensor in self._followed.items()}
        self.eval()
        try:
            with torch.no_grad():
                for name, tensor in self._followed.items():
                    tensor.copy_(self._averages[name])
                yield
        finally:
            with torch.no_grad():
                for name, tensor in self._followed.items():
                    tensor.copy_(kept[name])
            for module, mode in training.items():
                module.training = mode

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """Move the averages towards the weights; early on faster, so that they forget the initial ones.

        The decay is min(decay, (1 + step) / (10 + step)), as TensorFlow's ExponentialMovingAverage.
        """
        if self.ema_decay is not None and self._followed:
            decay = min(self.ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self._averages.values()), list(self._followed.values()), 1 - decay)

    def _find_averaged(self) -> dict[str, Tensor]:
        wanted = {id(t) for m in self.averaged() for t in [*m.parameters(), *m.buffers()]}
        saved = self.state_dict(keep_vars=True)
        return {n: t for n, t in saved.items() if id(t) in wanted and t.is_floating_point()}

    def _wrapped(self, optimizer: Optimizer | LightningOptimizer | int) -> LightningOptimizer:
        """Lightning's handle of an optimizer, which knows about precision."""
        found = self.optimizers()
        wrapped = found if isinstance(found, list) else [found]
        if isinstance(optimizer, int):
            return wrapped[optimizer]
        for candidate in wrapped:
            assert isinstance(candidate, LightningOptimizer)
            if candidate is optimizer or candidate.optimizer is optimizer:
                return candidate
        raise SettingsError(
            f"stage {self.name}: descend got an optimizer that configure_optimizers did not return"
        )
