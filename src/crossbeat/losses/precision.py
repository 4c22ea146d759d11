"""Numbers that eight bits of mantissa would spoil, kept in float32 at least under autocast too."""

from __future__ import annotations

import torch
from torch import Tensor


def precise(tensor: Tensor) -> Tensor:
    """The tensor in float32 at least; float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
