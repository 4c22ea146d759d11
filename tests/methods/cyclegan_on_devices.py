"""A small CycleGAN on toy slices, and a script `FOLDER DEVICES` that trains it on so many processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossbeat.cohort import Cohort
from crossbeat.methods.tag_pretraining.cyclegan import CycleGan, CycleGanStage
from crossbeat.prepare.slices import Slice, SliceBank
from crossbeat.prepare.volumes import Preparation
from crossbeat.training import Run, fit, seed_torch

SIDE = 32
SMALL: dict[str, Any] = {"width": 2, "blocks": 1, "steps": 4, "steps_per_round": 2, "batch": 2, "replay": 3}


def discs(count: int, seed: int) -> Tensor:
    """(n, 1, y, x) bright discs, 1, on dark, -1, near the middle of a field."""
    generator = torch.Generator().manual_seed(seed)
    field = Preparation(size=SIDE).field
    along = torch.arange(field) - (field - 1) / 2
    images = []
    for _ in range(count):
        row, column = (4 * torch.randn(2, generator=generator)).tolist()
        radius = 4 + 6 * float(torch.rand((), generator=generator))
        distance = torch.hypot(along[:, None] - row, along - column)
        images.append(((radius - distance) / 2).clamp(-1, 1))
    return torch.stack(images)[:, None]


def bank_of(images: Tensor, **prepared: Any) -> SliceBank:
    """Slices that nobody labelled, from a patient each."""
    n, _, y, x = images.shape
    return SliceBank(
        images,
        torch.full((n, y, x), 255, dtype=torch.uint8),
        torch.zeros(n, 4, dtype=torch.bool),
        tuple(Slice(f"s{i}", f"s{i}", "bssfp", 0, 0, 0.0) for i in range(n)),
        Preparation(**{"size": SIDE, "scale": "symmetric", **prepared}),
    )


def dimmed(images: Tensor) -> Tensor:
    """How the target's domain shows the same: half as bright."""
    return images / 2 - 0.5


def domains(count: int = 12) -> tuple[SliceBank, SliceBank]:
    """Bright discs, and other discs that are half as bright."""
    return bank_of(discs(count, 0)), bank_of(dimmed(discs(count, 1)))


def quiet_run(folder: Path, seed: int = 0, **other: Any) -> Run:
    run = Run(folder, **{"seed": seed, "device": "cpu", "precision": "32", "progress": False, **other})
    run.open({}, Cohort(()), "test")
    return run


def main() -> None:
    folder, devices = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    run = quiet_run(folder, devices=devices)
    seed_torch(0, "networks")
    stage = CycleGanStage(run, CycleGan(**SMALL), *domains())
    fit(stage, rounds=2, steps_per_round=2)
    torch.save(dict(stage.state_dict()), folder / f"rank{run.rank}.pt")
    run.close()


if __name__ == "__main__":
    main()
