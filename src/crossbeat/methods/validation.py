"""How well a network does on a bank while it trains: Dice on its own grid, per volume."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossbeat.labels import UNKNOWN
from crossbeat.methods.recipe import Domains
from crossbeat.prepare.slices import SliceBank, build_bank
from crossbeat.prepare.volumes import Preparation, crop

SLICES_AT_ONCE = 32


def bank_dice(network: nn.Module, bank: SliceBank, in_channels: int = 1) -> float:
    """Mean Dice over the drawn structures of each volume, then over volumes, in [0, 1]; nan for an empty bank.

    Taken on the network's own pixels, without post-processing: it steers training, it is not a result.
    A structure that is absent in both is left out.
    """
    return mean_dice(volume_dice(network, bank, in_channels))


@torch.inference_mode()
def volume_dice(network: nn.Module, bank: SliceBank, in_channels: int = 1) -> Float[Tensor, "v s"]:
    """Dice of LV, MYO and RV in each volume of the bank; nan where one is not drawn, or is absent in both."""
    shared, total = _count_pixels(network, bank, in_channels)
    values = []
    for where in bank.volumes().values():
        overlap, both = shared[where].sum(dim=0), total[where].sum(dim=0)
        values.append(torch.where(both > 0, 2 * overlap / both, torch.nan))
    return torch.stack(values) if values else torch.full((0, bank.drawn.shape[1] - 1), torch.nan)


def mean_dice(values: Float[Tensor, "v s"]) -> float:
    """The mean over structures of each volume, then over volumes; nan where there is none."""
    return float(values.nanmean(dim=1).nanmean())


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
