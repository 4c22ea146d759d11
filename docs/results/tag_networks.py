"""What the networks of Dhaene 2023 cost, as its Table 2: parameters, and those that learn; an epoch; one image.

Counts the parameters that get a gradient from the published loss and from the one the paper describes (methods.md 4.1),
times an update of training and the inference of one image at the paper's 256 pixels, with warm-up, and writes
tag_networks.csv and tag_networks.md. Run from the repository root:
`python docs/results/tag_networks.py [--device cpu|cuda] [--batch 8] [--threads 1]`.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from crossbeat import __version__
from crossbeat.losses.boundary import shape_loss
from crossbeat.losses.segmentation import segmentation_loss
from crossbeat.networks import build
from crossbeat.networks.segresnet_vae import count_reached

HERE = Path(__file__).parent
SIZE: Final = 256  # pixels, methods.md 4.2
IMAGES: Final = 40 * 25 * 3 // 4  # of an epoch: three quarters of 40 patients' slice, 25 frames; 4.2
INFERENCES: Final = 7  # as the paper's Table 2; 4.6
WARMUP: Final = 2
PRINTED: Final = {"dynunet": 34_164_258, "segresnet_vae": 3_555_891}  # of the paper, Table 2
VAE_WEIGHT: Final = 0.1  # as described; 4.3
SHAPE_WEIGHT: Final = {"dynunet": 0.0, "segresnet_vae": 0.05}  # of its configurations; 4.2


@dataclass(frozen=True)
class Cost:
    """A row of the table."""

    network: str
    vae_weight: float
    parameters: int
    learning: int
    """Parameters that get a gradient."""
    update_s: float
    """Median, of so many images."""
    batch: int
    epoch_s: float
    inference_ms: float


def measure(name: str, vae_weight: float, device: torch.device, batch: int, repeats: int) -> Cost:
    """One network under one loss."""
    torch.manual_seed(0)
    network = build(name, 1, 2, (SIZE, SIZE), {}).to(device)
    update = _update_of(network, vae_weight, SHAPE_WEIGHT[name], device, batch)
    seconds = timed(update, device, repeats)
    network.eval()
    image = torch.randn(1, 1, SIZE, SIZE, device=device)
    reached = count_reached(network, image, vae_weight=vae_weight)

    def infer() -> None:
        with torch.inference_mode():
            network(image)

    return Cost(
        name,
        vae_weight,
        reached.parameters,
        reached.reached,
        seconds,
        batch,
        seconds * IMAGES / batch,
        1000 * timed(infer, device, INFERENCES),
    )


def timed(work: Callable[[], None], device: torch.device, repeats: int) -> float:
    """Median seconds of some runs after a warm-up; on a GPU each waits until it is done."""
    found = []
    for number in range(WARMUP + repeats):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number >= WARMUP:
            found.append(time.perf_counter() - began)
    return statistics.median(found)


def table_of(costs: list[Cost]) -> list[str]:
    """The rows in Markdown."""
    lines = [
        "| Network | VAE's loss | Parameters | printed | that learn | an epoch, s | one image, ms |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for cost in costs:
        vae = "none" if cost.network != "segresnet_vae" else f"weight {cost.vae_weight:g}"
        lines.append(
            f"| `{cost.network}` | {vae} | {cost.parameters:,} | {PRINTED[cost.network]:,} | {cost.learning:,} | "
            f"{cost.epoch_s:.0f} | {cost.inference_ms:.1f} |"
        )
    return lines


def _update_of(
    network: nn.Module, vae_weight: float, shape_weight: float, device: torch.device, batch: int
) -> Callable[[], None]:
    image = torch.randn(batch, 1, SIZE, SIZE, device=device)
    labels = torch.zeros(batch, SIZE, SIZE, dtype=torch.uint8, device=device)
    labels[:, 96:160, 96:160] = 1
    drawn = torch.ones(batch, 2, dtype=torch.bool, device=device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def update() -> None:
        optimizer.zero_grad(set_to_none=True)
        vae: Any = 0.0
        if vae_weight:
            show: Any = network.forward_with_vae_loss
            logits, vae = show(image)
        else:
            logits = network(image)
        loss = segmentation_loss(
            logits, labels, drawn, cross_entropy_weight=1, dice_weight=1, include_background=True, smooth=0
        )
        if shape_weight:
            loss = loss + shape_weight * shape_loss(logits, labels, drawn)
        (loss + vae_weight * vae).backward()
        optimizer.step()

    return update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    costs = [
        measure(name, vae_weight, device, given.batch, given.repeats)
        for name, vae_weight in (("dynunet", 0.0), ("segresnet_vae", 0.0), ("segresnet_vae", VAE_WEIGHT))
    ]
    with (HERE / "tag_networks.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(costs[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(cost) for cost in costs)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{given.threads} CPU threads"
    note = (
        f"crossbeat {__version__}, torch {torch.__version__}, {where}, {time.strftime('%Y-%m-%d')}; two classes, "
        f"{SIZE} pixels, float32; updates of {given.batch} images, an epoch is {IMAGES} images (the paper: batches "
        f"of 128 on two GPUs); medians of {given.repeats} updates and {INFERENCES} images after {WARMUP} to warm up. "
        "The paper's own seconds and milliseconds are not at hand."
    )
    text = ["# What the networks of tag pretraining cost", "", *table_of(costs), "", note, ""]
    (HERE / "tag_networks.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
