"""What compiling a network costs, and what it gains in a training step, in one run.

    python benchmarks/compiling.py [--device cpu|cuda] [--threads N] [--networks …] [--json OUT]

The bare loop of training.py, compiled and not, in turns on one batch. What the first compiled update takes beyond a
plain one is what compiling costs; how many updates earn it back decides whether `crossbeat train` compiles by itself
(`training.run.WORTH_COMPILING`).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time

import torch
from sides import Line, number, parser, take_turns, tell, wait

from crossbeat.devices import keep_freed_memory
from crossbeat.methods import supervised
from crossbeat.prepare.slices import Batch
from training import Loop


def measure(network: str, options: argparse.Namespace) -> tuple[Line, dict[str, object]]:
    """Images a second, compiled beside plain; what compiling took, and after how many updates it is earned back."""
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
    turns = take_turns(lambda _: compiled(batch), lambda _: plain(batch), options.rounds)
    ours, theirs = statistics.median(turns.ours), statistics.median(turns.theirs)
    earned = None if ours >= theirs else round((first - theirs) / (theirs - ours))
    told = "never" if earned is None else f"in {earned} updates"
    print(f"{network}: the first compiled update takes {number(first)} s, which is earned back {told}")
    line = turns.line(f"{network}, compiled", "not compiled", "im/s", options.batch)
    return line, {"network": network, "first_update_s": first, "earned_back_after_updates": earned}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--networks", nargs="+", default=["dilated_resunet", "unet", "segresnet_vae"])
    made.add_argument("--size", type=int, default=128)
    made.add_argument("--batch", type=int, default=8)
    made.add_argument("--rounds", type=int, default=7)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as nothing_compiled_before:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = nothing_compiled_before
        lines, costs = zip(*(measure(network, options) for network in options.networks), strict=True)
    tell(f"Compiling, {options.batch} images of {options.size} pixels", lines, options, costs=costs)


if __name__ == "__main__":
    main()
