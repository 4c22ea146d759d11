"""What a round of training saw, in a few numbers; and whether it shows a game that has collapsed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from crossbeat.labels import TRAINED, UNKNOWN

WON: Final = 0.95
"""Of the most that D can part drawn from made-up masks by: above, it has won. Ours."""
CHANCE: Final = 0.02
"""Below, in the same measure, D is at chance. Ours."""
VANISHED: Final = 0.01
"""Of the pixels labelled with a structure: a segmenter that gives it fewer has lost it. Ours."""

_K: Final = len(TRAINED)
TALLIES: Final = 2 * _K + 3
"""Predicted and labelled pixels of each structure, D summed over drawn and made-up masks, steps that count there."""


def tally_masks(logits: Float[Tensor, "n k y x"], labels: UInt8[Tensor, "n y x"]) -> Float[Tensor, " t"]:
    """How many pixels of each structure a step predicted and how many were labelled, where somebody looked."""
    structures = torch.arange(1, _K + 1, device=labels.device)[:, None, None]
    known = (labels != UNKNOWN)[:, None]
    predicted = ((logits.detach().argmax(dim=1)[:, None] == structures) & known).sum(dim=(0, 2, 3))
    labelled = (labels[:, None] == structures).sum(dim=(0, 2, 3))
    return torch.cat([predicted, labelled, torch.zeros(3, device=labels.device)]).float()


def tally_opinions(real: Float[Tensor, ""], fake: Float[Tensor, ""]) -> Float[Tensor, " t"]:
    """D's mean probability of drawn and of made-up masks in a step; no step where either is nan: it had none."""
    found = torch.zeros(TALLIES, device=real.device)
    found[2 * _K] = real.detach()
    found[2 * _K + 1] = fake.detach()
    found[2 * _K + 2] = 1
    return torch.where(torch.isnan(real + fake), torch.zeros_like(found), found)


def find_symptoms(tallies: Float[Tensor, " t"], real_label: float) -> dict[str, str]:
    """What a round's tallies show, by kind: `won`, `chance` or `vanished`, each with its sentence; often nothing."""
    numbers = tallies.tolist()
    predicted, labelled = numbers[:_K], numbers[_K : 2 * _K]
    lost = [
        s.name
        for s, ours, theirs in zip(TRAINED, predicted, labelled, strict=True)
        if theirs and ours < VANISHED * theirs
    ]
    found = {}
    if lost:
        found["vanished"] = (
            f"the segmenter gives next to no pixel of {', '.join(lost)}: its masks have vanished; "
            "lower adversarial_weight, or warm up for longer"
        )
    steps = numbers[2 * _K + 2]
    if steps:
        real, fake = numbers[2 * _K] / steps, numbers[2 * _K + 1] / steps
        apart = (real - fake) / real_label
        said = f"D is {real:.2f} on drawn masks and {fake:.2f} on made-up ones"
        if apart > WON:
            found["won"] = (
                f"the discriminator tells them all apart ({said}): its term teaches little; "
                "lower discriminator_learning_rate, or take spectral_norm: true"
            )
        elif apart < CHANCE:
            found["chance"] = (
                f"the discriminator is at chance ({said}): its term teaches nothing; masks pass for drawn ones, "
                "or it does not learn: raise discriminator_learning_rate"
            )
    return found


KINDS: Final = ("vanished", "won", "chance")


def count_in_a_row(before: Float[Tensor, " 3"], symptoms: Mapping[str, str]) -> Float[Tensor, " 3"]:
    """For how many rounds in a row each kind of symptom has been there, this round included."""
    there = torch.tensor([kind in symptoms for kind in KINDS], device=before.device)
    return torch.where(there, before + 1, torch.zeros_like(before))
