"""Numbers that eight bits of mantissa would spoil, kept in float32 at least under autocast too."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def precise(tensor: Tensor) -> Tensor:
    """The tensor in float32 at least; float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def exactly(network: nn.Module, vectors: Tensor) -> Tensor:
    """What a network makes of vectors in their own precision: a code of 8 bits would move a whole image."""
    with torch.autocast(vectors.device.type, enabled=False):
        found: Tensor = network(vectors)
    return found
