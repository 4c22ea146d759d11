"""A training step with and without freed memory kept (`crossbeat.devices.keep_freed_memory`), on a CPU.

    python benchmarks/pages.py [--threads N] [--json OUT]

The switch is of a whole process and for good, so that each turn is a process of its own: a few updates of a bare loop,
after two to warm up. Fetching freed pages anew costs most where arrays are large.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch
from sides import Turns, parser, tell

from crossbeat.devices import keep_freed_memory
from crossbeat.methods import supervised
from crossbeat.prepare.slices import Batch
from training import Loop

SIZES = (("dilated_resunet", 128, 8), ("dilated_resunet", 224, 16), ("unet", 224, 8))
"""Network, pixels, images an update."""
UPDATES = 5


def one(kept: bool, network: str, size: int, count: int, threads: int) -> None:
    """A turn: prints the seconds of an update."""
    torch.set_num_threads(threads)
    if kept:
        keep_freed_memory()
    settings = supervised.Settings.of({"network": network, "image_size": size})
    loop = Loop(settings, argparse.Namespace(device="cpu", compile=False))
    labels = torch.randint(0, 4, (count, size, size)).to(torch.uint8)
    batch = Batch(torch.randn(count, 1, size, size), labels, torch.ones(count, 4, dtype=torch.bool))
    for step in range(UPDATES + 2):
        if step == 2:
            start = time.perf_counter()
        loop(batch)
    print((time.perf_counter() - start) / UPDATES)


def seconds(kept: bool, network: str, size: int, count: int, threads: int) -> float:
    """Of an update, in a process of its own."""
    code = f"import pages; pages.one({kept}, {network!r}, {size}, {count}, {threads})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=3)
    options: argparse.Namespace = made.parse_args()
    options.device = "cpu"
    lines = []
    for network, size, count in SIZES:
        turns = [
            [seconds(kept, network, size, count, options.threads) for kept in (True, False)]
            for _ in range(options.rounds)
        ]
        both = Turns(*zip(*turns, strict=True))
        lines.append(both.line(f"{network}, {count} of {size} pixels", "pages given back", "im/s", count))
    tell("Freed memory kept", lines, options)


if __name__ == "__main__":
    main()
