"""The environment in, this process's number among those that train together out, before they have met.

Lightning decides once by whom a process was launched, and takes the rank from that launcher's variables alone.
We decide alike, because the run folder is made before Lightning's Trainer is: an interactive Slurm job, say, has
SLURM_PROCID set to 0, but Lightning starts the other processes there itself, and they inherit that 0.
A launcher that only Lightning knows (MPI) is found out in `fit`, which compares the two.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

_INTERACTIVE_SLURM_JOBS: Final = ("bash", "interactive")  # lightning.fabric's SLURMEnvironment


@dataclass(frozen=True)
class Launcher:
    """Names of the variables that hold a process's number: of all, and on its node."""

    rank: str
    local_rank: str


_TORCHRUN: Final = Launcher("RANK", "LOCAL_RANK")
_SLURM: Final = Launcher("SLURM_PROCID", "SLURM_LOCALID")
_JSRUN: Final = Launcher("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_LOCAL_RANK")


def launcher() -> Launcher | None:
    """Who numbered this process; None where Lightning does, or the user by LOCAL_RANK and NODE_RANK.

    In Lightning's order (2.6): torchrun may run within a Slurm job, and then counts.
    """
    here = os.environ
    if "TORCHELASTIC_RUN_ID" in here:
        return _TORCHRUN
    if "SLURM_NTASKS" in here and here.get("SLURM_JOB_NAME") not in _INTERACTIVE_SLURM_JOBS:
        return _SLURM
    if {"LSB_JOBID", "LSB_DJOB_RANKFILE", "JSM_NAMESPACE_LOCAL_RANK", "JSM_NAMESPACE_SIZE"} <= here.keys():
        return _JSRUN
    return None


def find_rank(devices: int) -> int:
    """Number of this process among all, with so many devices on each node; 0 where nobody numbered it."""
    known = launcher()
    if known:
        return _number(known.rank)
    return _number("NODE_RANK", "GROUP_RANK") * devices + _number("LOCAL_RANK")


def find_local_rank() -> int:
    """Number of this process, and so of its device, on its node."""
    known = launcher()
    return _number(known.local_rank if known else "LOCAL_RANK")


def _number(*variables: str) -> int:
    return next((int(os.environ[name]) for name in variables if name in os.environ), 0)
