"""Training through crossbeat beside a bare loop, and beside MONAI's transforms and DataLoader, in one run.

    python benchmarks/training.py [--device cpu|cuda] [--threads N] [--network dilated_resunet] [--json OUT]

Ours is `supervised` as `crossbeat train` carries it out: augmentation, log, checkpoint, validation, averaged weights.
After every ten of its updates the other sides make ten of theirs: the bare loop trains the same network with the same
loss and optimizer on one batch that never changes; MONAI feeds the same loop by CacheDataset, its dictionary transforms
of the same kinds and ranges, and a DataLoader, with the number of workers that does best: once into the network as it
was built, as its users have it, and once laid out in memory as ours is. All sides keep freed memory, as ours asks of
the process. What a round's end costs
(checkpoint, validation) is measured apart and spread over the 250 updates of a round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from augmentation import monai_transforms
from hearts import cohort
from sides import Line, Turns, parser, tell, wait
from torch import Tensor

from crossbeat.losses.segmentation import segmentation_loss
from crossbeat.methods import METHODS, supervised
from crossbeat.networks import lay_out
from crossbeat.prepare.augment import STANDARD
from crossbeat.prepare.slices import Batch, SliceBank, build_bank
from crossbeat.training import Run

GROUP = 10
"""Updates in a turn."""
ROUND = 250
"""Updates between two checkpoints, as the recipes have it."""
Turn = Callable[[int], None]


class Timed:
    """Stands in for `Segmentation.update`: counts the time of our updates, and lets the others have their turns."""

    def __init__(self, others: Callable[[Any], dict[str, Turn]]) -> None:
        self.others, self.turns = others, dict[str, Turn]()
        self.update = supervised.Segmentation.update
        self.ours: list[float] = []
        self.theirs: dict[str, list[float]] = {}
        self.began = 0.0

    def __call__(self, stage: Any, step: int) -> dict[str, Tensor]:
        if step % GROUP == 0:
            wait()
            if step:
                self.ours.append(time.perf_counter() - self.began)
            with torch.autocast(stage.device.type, enabled=False):  # ours is inside Lightning's
                if not step:
                    self.turns = self.others(stage)
                    self.theirs = {name: [] for name in self.turns}
                for name, turn in self.turns.items():
                    self.theirs[name].append(_seconds(turn))
            self.began = time.perf_counter()
        return self.update(stage, step)


def _seconds(turn: Turn) -> float:
    wait()
    start = time.perf_counter()
    turn(GROUP)
    wait()
    return time.perf_counter() - start


def measure(network: str, options: argparse.Namespace) -> list[Line]:
    """Train, taking turns; the first turns of all sides warm up and are not counted."""
    half = options.turns // 2 + 1
    settings = supervised.Settings.of(
        {
            "network": network,
            "image_size": options.size,
            "batch_size": options.batch,
            "spacing_mm": 1.25,
            "steps": 2 * half * GROUP,
            "steps_per_round": half * GROUP,
        }
    )
    timed = Timed(lambda stage: rivals(stage, settings, options))
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run", device=options.device, progress=False, compile=options.compile)
        supervised.Segmentation.update = lambda stage, step: timed(stage, step)  # type: ignore[method-assign]
        METHODS["supervised"].carry_out(cohort(options.scans), settings, run, "benchmark")
    counted = [i for i in range(len(timed.ours)) if i not in (0, half - 1)]
    group = statistics.median(timed.ours[i] for i in counted)
    end = max(0.0, timed.ours[half - 1] - group)
    print(f"{network}: {1000 * group / GROUP:.1f} ms an update, {end:.2f} s the end of a round")
    ours = [timed.ours[i] + end * GROUP / ROUND for i in counted]
    theirs = {name: Turns(ours, [turns[i] for i in counted]) for name, turns in timed.theirs.items()}
    on_gpu, images = options.device.startswith("cuda"), GROUP * options.batch
    lines = [theirs.pop("bare").line(network, "bare loop", "im/s", images, 0.95 if on_gpu else 0.9)]
    aim = None if network != "dilated_resunet" else 5.0 if on_gpu else 1.5
    for side, wanted in (("MONAI,", aim), ("MONAI in", aim)):
        found = [
            turns.line(network, name, "im/s", images, wanted)
            for name, turns in theirs.items()
            if name.startswith(side)
        ]
        lines += [max(found, key=lambda line: line.theirs)] if found else []
    return lines


def rivals(stage: Any, settings: supervised.Settings, options: argparse.Namespace) -> dict[str, Turn]:
    """The other sides, each of which makes so many updates of a network of its own when it is called."""
    bank = build_bank(cohort(options.scans), settings.preparation, annotated_only=True)
    middle = (bank.images.shape[-1] - options.size) // 2
    cut = slice(middle, middle + options.size)
    fixed = bank.batch(torch.arange(options.batch)).to(stage.device)
    fixed = Batch(
        fixed.image[..., cut, cut].contiguous(), fixed.labels[..., cut, cut].contiguous(), fixed.drawn
    )
    bare = Loop(settings, options)
    found: dict[str, Turn] = {"bare": lambda count: [bare(fixed) for _ in range(count)] and None}
    for workers in options.workers:
        for name, as_built in (("MONAI", True), ("MONAI in our layout", False)):
            feed = monai_batches(bank, options, workers)
            loop = Loop(settings, options, as_built=as_built)
            found[f"{name}, {workers} workers"] = _fed(loop, feed)
    return found


def _fed(loop: Loop, feed: Iterator[Batch]) -> Turn:
    def turn(count: int) -> None:
        for _ in range(count):
            loop(next(feed))

    return turn


class Loop:
    """Network, loss and optimizer of the method, and nothing else."""

    def __init__(
        self, settings: supervised.Settings, options: argparse.Namespace, *, as_built: bool = False
    ) -> None:
        self.settings = settings
        self.device = torch.device(options.device)
        self.network = settings.spec.build().to(self.device).train()
        if not as_built:
            lay_out(self.network, settings.network)
        if options.compile:
            self.network.compile()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3, weight_decay=1e-2)
        run = Run(Path("none"), device=options.device)
        self.half = run.lightning_precision == "bf16-mixed"

    def __call__(self, batch: Batch) -> None:
        torch.clear_autocast_cache()  # of Lightning's step, inside which turns are taken
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            logits = self.network(batch.image)
            loss = segmentation_loss(
                logits,
                batch.labels,
                batch.drawn,
                cross_entropy_weight=0.5,
                dice_weight=0.5,
                include_background=False,
                smooth=1.0,
            )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def monai_batches(bank: SliceBank, options: argparse.Namespace, workers: int) -> Iterator[Batch]:
    """Batches without end, as MONAI's users make them."""
    warnings.filterwarnings("ignore")
    from monai.data import CacheDataset, DataLoader

    changes = monai_transforms("STANDARD", STANDARD, options.size)
    items = [{"image": bank.images[i], "labels": bank.labels[i][None]} for i in range(len(bank))]
    data = CacheDataset(items, changes, progress=False)
    loader = DataLoader(
        data,
        batch_size=options.batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=options.device.startswith("cuda"),
    )
    drawn = bank.drawn[:1].expand(options.batch, -1).to(options.device)
    while True:
        for found in loader:
            image = found["image"].as_tensor().to(options.device, non_blocking=True)
            labels = found["labels"].as_tensor()[:, 0].to(options.device, torch.uint8, non_blocking=True)
            yield Batch(image, labels, drawn)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--networks", nargs="+", default=["dilated_resunet", "unet"])
    made.add_argument("--size", type=int, default=224)
    made.add_argument("--batch", type=int, default=16)
    made.add_argument("--scans", type=int, default=24, help="of ten slices")
    made.add_argument("--turns", type=int, default=4)
    made.add_argument("--workers", type=int, nargs="*", help="of MONAI's DataLoader; none: leave MONAI out")
    made.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False)
    options = made.parse_args()
    if options.workers is None:
        options.workers = [0, 8, 15] if options.device.startswith("cuda") else [0, 2]
    torch.set_num_threads(options.threads)
    lines = [line for network in options.networks for line in measure(network, options)]
    tell(f"Training, {options.batch} images of {options.size} pixels", lines, options)


if __name__ == "__main__":
    main()
