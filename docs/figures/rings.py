"""A drawn ring and predictions with defects; the shape-aware loss, cross-entropy and Dice of each come out.

The toy comparison of Dhaene 2023, Fig. 4, whose sizes are not printed: ours are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossbeat.losses.boundary import shape_loss, shape_map
from crossbeat.losses.segmentation import cross_entropy, dice_loss

SIDE: Final = 128  # pixels
INNER: Final = 22.0  # radius of the ring's cavity, in pixels
OUTER: Final = 36.0
GAP: Final = 12.0  # width of the cut through the wall
SURE: Final = 0.98  # probability that a prediction gives to what it says
TINIEST: Final = 1e-6  # of a probability: keeps cross-entropy finite


@dataclass(frozen=True)
class Toy:
    """One prediction of the ring, and its three losses."""

    name: str
    probabilities: Float[Tensor, "y x"]
    """Of the ring."""
    wrong: int
    """Pixels on which the prediction, cut at a half, and the ring differ."""
    shape_aware: float
    cross_entropy: float
    dice: float
    """One minus Dice."""


def compare_on_rings() -> list[Toy]:
    """The ring itself, five defects of about equal size, the ring shifted, and what the shape-aware loss likes best.

    All but the last are sure of themselves: 0.98 in the predicted mask and 0.02 outside.
    """
    ring = _ring()
    masks = {"the ring itself": ring} | _defects(ring) | {"shifted by 4 px": _ring(shift=4.0)}
    predicted = {name: torch.where(mask, SURE, 1 - SURE) for name, mask in masks.items()}
    predicted["its shape map"] = shape_map(ring[None, None])[0, 0]
    return [_judge(name, probabilities, ring) for name, probabilities in predicted.items()]


def _defects(ring: Bool[Tensor, "y x"]) -> dict[str, Bool[Tensor, "y x"]]:
    """As many pixels each: cut through the wall, out of its middle, off its rim; added around, and apart."""
    rows, columns = _places()
    radius, middle = torch.hypot(rows, columns), (INNER + OUTER) / 2
    missing = (rows < 0) & (columns.abs() < GAP / 2)
    size = int((ring & missing).sum())
    along_the_wall = (radius - middle).abs() + 0.02 * rows.abs()
    left, right = columns < 0, columns > 0
    return {
        "a gap": ring & ~missing,
        "a hole in the wall": ring & ~_first(along_the_wall, ring & right, size),
        "thinner outside": ring & ~_first(-radius, ring & left, size),
        "thicker outside": ring | _first(radius, ~ring & left & (radius > middle), size),
        "an island": ring | _first(torch.hypot(rows - 48, columns - 48), ~ring, size),
    }


def _judge(name: str, p: Float[Tensor, "y x"], ring: Bool[Tensor, "y x"]) -> Toy:
    sure = p.clamp(TINIEST, 1 - TINIEST)
    logits = torch.stack([(1 - sure).log(), sure.log()])[None]
    labels, drawn = ring.to(torch.uint8)[None], torch.ones(1, 2, dtype=torch.bool)
    return Toy(
        name,
        p,
        int(((p >= 0.5) != ring).sum()),
        shape_loss(logits, labels, drawn).item(),
        cross_entropy(logits, labels, drawn).item(),
        dice_loss(logits, labels, drawn, include_background=False, smooth=0.0).item(),
    )


def _ring(shift: float = 0.0) -> Bool[Tensor, "y x"]:
    rows, columns = _places()
    radius = torch.hypot(rows, columns - shift)
    return (radius >= INNER) & (radius < OUTER)


def _places() -> tuple[Tensor, Tensor]:
    """Row and column of every pixel, about the middle."""
    along = torch.arange(SIDE) - (SIDE - 1) / 2
    rows, columns = torch.meshgrid(along, along, indexing="ij")
    return rows, columns


def _first(order: Tensor, among: Bool[Tensor, "y x"], count: int) -> Bool[Tensor, "y x"]:
    """The pixels of a mask that come first in that order."""
    ranked = torch.where(among, order, math.inf).flatten().argsort(stable=True)
    chosen = torch.zeros_like(among).flatten()
    chosen[ranked[:count]] = True
    return chosen.reshape(among.shape)
