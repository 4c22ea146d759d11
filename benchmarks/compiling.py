"""What compiling a network costs, and what it gains in a training step, in one run.

    python benchmarks/compiling.py [--device cpu|cuda] [--threads N] [--networks …] [--json OUT]

The bare loop of training.py, compiled and not, in turns on one batch. What the first compiled update takes beyond a
plain one is what compiling costs; how many updates earn it back decides whether `crossbeat train` compiles by itself
(`training.run.WORTH_COMPILING`).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

import torch
from sides import Line, number, parser, take_turns, tell, wait

from crossbeat.devices import keep_freed_memory
from crossbeat.methods import supervised
from crossbeat.prepare.slices import Batch
from training import Loop


def measure(network: str, options: argparse.Namespace) -> Line:
    """Images a second, compiled beside plain; prints what compiling took and after how many updates it is earned."""
    settings = supervised.Settings.of({"network": network, "image_size": options.size, "spacing_mm": 1.25})
    shape = (options.batch, 1, options.size, options.size)
    labels = torch.randint(0, 4, (options.batch, options.size, options.size)).to(torch.uint8)
    drawn = torch.ones(options.batch, 4, dtype=torch.bool)
    batch = Batch(torch.randn(shape), labels, drawn).to(torch.device(options.device))
    plain, compiled = (
        Loop(settings, argparse.Namespace(device=options.device, compile=wanted)) for wanted in (False, True)
    )
    plain(batch)
    wait()
    start = time.perf_counter()
    compiled(batch)
    wait()
    first = time.perf_counter() - start
    ours, theirs = take_turns(lambda _: compiled(batch), lambda _: plain(batch), options.rounds)
    earned = "never" if ours >= theirs else f"in {(first - theirs) / (theirs - ours):.0f} updates"
    print(f"{network}: the first compiled update takes {number(first)} s, which is earned back {earned}")
    return Line(f"{network}, compiled", "not compiled", "im/s", options.batch / ours, options.batch / theirs)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--networks", nargs="+", default=["dilated_resunet", "unet", "segresnet_vae"])
    made.add_argument("--size", type=int, default=128)
    made.add_argument("--batch", type=int, default=8)
    made.add_argument("--rounds", type=int, default=7)
    options = made.parse_args()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()  # nothing that was compiled before
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    lines = [measure(network, options) for network in options.networks]
    tell(f"Compiling, {options.batch} images of {options.size} pixels", lines, options)


if __name__ == "__main__":
    main()
