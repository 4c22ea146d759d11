"""What the benchmarks share: two sides that take turns, the median of their ratios, one table, one JSON.

The machines are shared and noisy. Sides that take turns within one process meet the same noise, so the ratio of a turn
holds where neither time does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import torch

DERIVED: Final = ("ratio", "spread", "verdict")
"""Of a line: what its record holds beside what was measured, for those who only read it."""


@dataclass(frozen=True)
class Line:
    """One comparison: what was done, how much of it each side did, and what was aimed at."""

    what: str
    against: str
    unit: str
    """Of both numbers: `/s` says that more is better, `s`, `ms` or `MB` that less is."""
    ours: float
    theirs: float
    aim: float | None = None
    """Least ratio that was aimed at; None: none was."""
    turns: Sequence[float] = ()
    """The ratio of every turn; none where sides had no turns."""

    @property
    def ratio(self) -> float:
        """How many times better ours is: faster, or smaller. The median over turns, where there were some."""
        if self.turns:
            return statistics.median(self.turns)
        return self.ours / self.theirs if self.unit.endswith("/s") else self.theirs / self.ours

    @property
    def spread(self) -> tuple[float, float] | None:
        """Quartiles of the ratio over turns; None where there was one turn alone, or none."""
        if len(self.turns) < 2:
            return None
        lower, _, upper = statistics.quantiles(self.turns, n=4, method="inclusive")
        return lower, upper

    @property
    def verdict(self) -> str:
        """Whether the aim was reached."""
        if self.aim is None:
            return ""
        return f"≥ {self.aim:g}: {'reached' if self.ratio >= self.aim else 'missed'}"


@dataclass(frozen=True)
class Turns:
    """Seconds of each turn of both sides; turns of one number met the same noise."""

    ours: Sequence[float]
    theirs: Sequence[float]

    def line(self, what: str, against: str, unit: str, amount: float, aim: float | None = None) -> Line:
        """The sides' medians, and the ratio of every turn.

        `amount` is how much a turn does, where the unit is a rate; else how many of the unit a second has.
        """
        both = (statistics.median(self.ours), statistics.median(self.theirs))
        ours, theirs = (amount / s if unit.endswith("/s") else amount * s for s in both)
        ratios = [theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True)]
        return Line(what, against, unit, ours, theirs, aim, ratios)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Options that every script has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of torch, on the CPU")
    made.add_argument("--json", type=Path, help="write what was measured")
    return made


def take_turns(
    ours: Callable[[int], object], theirs: Callable[[int], object], rounds: int, warm: int = 2
) -> Turns:
    """Seconds of each side, which take turns; the first `warm` rounds are not counted."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for step in range(rounds + warm):
        for go, into in zip((ours, theirs), seconds, strict=True):
            wait()
            start = time.perf_counter()
            go(step)
            wait()
            if step >= warm:
                into.append(time.perf_counter() - start)
    return Turns(*seconds)


def wait() -> None:
    """Until the GPU is done, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def tell(title: str, lines: Sequence[Line], options: argparse.Namespace, **facts: object) -> None:
    """Print the table, and write it as JSON with any `facts` where that is asked for."""
    print(f"\n{title}\n{surroundings(options)}")
    print_lines(lines)
    if options.json:
        found = [asdict(line) | {name: getattr(line, name) for name in DERIVED} for line in lines]
        record = {"title": title, "machine": surroundings(options), "lines": found, **facts}
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def print_lines(lines: Sequence[Line]) -> None:
    """The table that all benchmarks end in."""
    print(f"{'':58}{'ours':>9}{'theirs':>9} {'':7}{'ratio':>6}  {'quartiles':12}  aim")
    for line in lines:
        name = f"{line.what}, against {line.against}"
        told = f"{name[:58]:58}{number(line.ours):>9}{number(line.theirs):>9} {line.unit:7}{line.ratio:6.2f}"
        spread = "" if line.spread is None else "{:.2f} to {:.2f}".format(*line.spread)
        print(f"{told}  {spread:12}  {line.verdict}".rstrip())


def surroundings(options: argparse.Namespace) -> str:
    """Machine, threads, torch and day, in a line."""
    where: Literal["cuda", "cpu"] = "cuda" if options.device.startswith("cuda") else "cpu"
    machine = torch.cuda.get_device_name() if where == "cuda" else _processor()
    threads = f"{options.threads} threads, " if where == "cpu" else ""
    return f"{machine}, {threads}torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}"


def number(value: float) -> str:
    """Three digits that matter."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
