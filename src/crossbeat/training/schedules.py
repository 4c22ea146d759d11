"""An optimizer in, the course of its learning rate out.

A schedule counts the steps of its own optimizer: `Stage.descend` moves it on after each. So `steps` is the
number of updates which that optimizer makes in the whole stage, rounds times steps a round for most.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau


def constant(optimizer: Optimizer, *, warmup_steps: int = 0) -> LambdaLR:
    """The optimizer's own learning rate throughout, reached linearly over the warm-up."""
    return _schedule(optimizer, lambda _: 1.0, warmup_steps)


def cosine(optimizer: Optimizer, steps: int, *, warmup_steps: int = 0, floor: float = 0.0) -> LambdaLR:
    """From the optimizer's learning rate down to `floor` times it along half a cosine (Loshchilov 2017, eq. 5).

    At the first step after the warm-up the factor is 1, after `steps` it is `floor` and stays there.
    """
    return _schedule(
        optimizer,
        lambda s: floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * _part(s, steps, warmup_steps))),
        warmup_steps,
    )


def polynomial(optimizer: Optimizer, steps: int, *, power: float = 0.9, warmup_steps: int = 0) -> LambdaLR:
    """From the optimizer's learning rate down to zero as (1 - part done) to the `power` (Chen 2018, DeepLab)."""
    return _schedule(optimizer, lambda s: (1 - _part(s, steps, warmup_steps)) ** power, warmup_steps)


def one_cycle(optimizer: Optimizer, steps: int, *, rising: float = 0.3) -> OneCycleLR:
    """Up to the optimizer's learning rate over the `rising` part of the steps, then down to nearly zero.

    Smith 2018 as torch has it: starts at 1/25 of the highest rate, and momentum (or beta 1) goes the other
    way, from 0.95 to 0.85 and back. It ends at 1/10,000 of where it started; there are no more than `steps`.
    """
    highest = [float(group["lr"]) for group in optimizer.param_groups]
    return OneCycleLR(optimizer, max_lr=highest, total_steps=steps + 1, pct_start=rising)


class Plateau(ReduceLROnPlateau):
    """Lowers the learning rate when a number that `Stage.validate` gives stops getting better."""

    def __init__(self, optimizer: Optimizer, watch: str, *, factor: float, patience: int) -> None:
        rising = watch.startswith(("dice", "jaccard"))
        super().__init__(optimizer, mode="max" if rising else "min", factor=factor, patience=patience)
        self.watch = watch


def plateau(
    optimizer: Optimizer, watch: str = "loss_validation", *, factor: float = 0.1, patience: int = 10
) -> Plateau:
    """Multiply the learning rate by `factor` after more than `patience` rounds without a better `watch`.

    Overlaps (names that start with dice or jaccard) should rise, all else fall. A better value is better by
    one part in ten thousand, as in torch; a round in which the value is not a number counts as no better.
    """
    return Plateau(optimizer, watch, factor=factor, patience=patience)


def _schedule(optimizer: Optimizer, factor: Callable[[int], float], warmup_steps: int) -> LambdaLR:
    def warmed(step: int) -> float:
        return (step + 1) / (warmup_steps + 1) if step < warmup_steps else factor(step)

    return LambdaLR(optimizer, warmed)


def _part(step: int, steps: int, warmup_steps: int) -> float:
    """Part of the steps after the warm-up that is done, 0 to 1."""
    return min(max(step - warmup_steps, 0) / max(steps - warmup_steps, 1), 1.0)
