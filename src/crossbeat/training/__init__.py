"""A method's stage in, its trained weights out: rounds, resuming, devices, logs, run folder."""

from __future__ import annotations

from crossbeat.training.distributed import average, share_state
from crossbeat.training.fit import Chosen, Select, dry_run, fit
from crossbeat.training.run import Estimate, Run, seed_torch
from crossbeat.training.schedules import Plateau, constant, cosine, one_cycle, plateau, polynomial
from crossbeat.training.stage import Stage

__all__ = [
    "Chosen",
    "Estimate",
    "Plateau",
    "Run",
    "Select",
    "Stage",
    "average",
    "constant",
    "cosine",
    "dry_run",
    "fit",
    "one_cycle",
    "plateau",
    "polynomial",
    "seed_torch",
    "share_state",
]
