"""How well a network does on a bank while it trains: Dice on its own grid, per volume."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossbeat.labels import UNKNOWN
from crossbeat.methods.recipe import Domains
from crossbeat.prepare.slices import SliceBank, build_bank
from crossbeat.prepare.volumes import Preparation, crop

SLICES_AT_ONCE = 32


@torch.inference_mode()
def bank_dice(network: nn.Module, bank: SliceBank, in_channels: int = 1) -> float:
    """Mean Dice over the drawn structures of each volume, then over volumes, in [0, 1]; nan for an empty bank.

    Taken on the network's own pixels, without post-processing: it steers training, it is not a result.
    A structure that is absent in both is left out.
    """
    shared, total = _count_pixels(network, bank, in_channels)
    values = []
    for scan, frame in bank.volumes():
        where = bank.volume(scan, frame)
        overlap, both = shared[where].sum(dim=0), total[where].sum(dim=0)
        seen = both > 0
        if seen.any():
            values.append((2 * overlap[seen] / both[seen]).mean())
    return float(torch.stack(values).mean()) if values else float("nan")


def _count_pixels(network: nn.Module, bank: SliceBank, in_channels: int) -> tuple[Tensor, Tensor]:
    size = bank.preparation.size
    shared, total = [], []
    for first in range(0, len(bank), SLICES_AT_ONCE):
        batch = bank.batch(torch.arange(first, min(first + SLICES_AT_ONCE, len(bank))))
        labels = crop(batch.labels[:, None], size)[:, 0]
        image = crop(batch.image, size).expand(-1, in_channels, -1, -1)
        predicted = network(image).argmax(dim=1)
        known = labels != UNKNOWN
        classes = torch.arange(1, batch.drawn.shape[1], device=labels.device)[:, None, None]
        ours = (predicted[:, None] == classes) & known[:, None]
        theirs = labels[:, None] == classes
        drawn = batch.drawn[:, 1:].float()
        shared.append((ours & theirs).sum(dim=(2, 3)) * drawn)
        total.append((ours.sum(dim=(2, 3)) + theirs.sum(dim=(2, 3))) * drawn)
    return torch.cat(shared).cpu(), torch.cat(total).cpu()


def validation_banks(domains: Domains, preparation: Preparation) -> dict[str, SliceBank]:
    """The annotated slices of the validation splits, `source` and `target`; a split without scans is left out."""
    parts = {"source": domains.source_validation, "target": domains.target_validation}
    return {name: build_bank(c, preparation, annotated_only=True) for name, c in parts.items() if len(c)}
