"""Seeds in, random numbers and smooth random fields out: the same on every device and for every sharing.

Nothing here keeps a state. A number is a function of (seed, stream, index) alone, after the counter-based
generators of Salmon 2011 (doi 10.1145/2063384.2063405), so sample i of a global batch meets the same numbers
on one device or on eight, alone or in company.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

# One round of a 32-bit hash of low bias: shifts and multipliers found by search (C. Wellons, "Prospecting for
# hash functions", 2018, "lowbias32", exact bias 0.174); the multipliers stand as signed 32-bit numbers.
_SHIFTS = (16, 15, 16)
_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - 2**32)
_GOLDEN = 0x9E3779B9  # 2^32 over the golden ratio: its multiples differ in all bits


def random_bits(seed: Int64[Tensor, " n"], stream: int, count: int) -> Int32[Tensor, "n count"]:
    """`count` random 32-bit words for each seed; other streams of the same seed are unrelated.

    Two rounds of hashing, each keyed by one half of the seed, which is scrambled first: seeds 0, 1, 2, …
    serve as well as random ones.
    """
    halves = seed.contiguous().view(torch.int32).view(-1, 2)
    low, high = halves[:, :1], halves[:, 1:]
    low = low ^ _hash(high ^ _signed(_GOLDEN))
    high = high ^ _hash(low ^ _signed(2 * _GOLDEN))
    index = torch.arange(count, dtype=torch.int32, device=seed.device)
    words = _hash(index ^ low)
    words ^= high ^ _signed((stream + 3) * _GOLDEN)
    return _hash(words)


def uniform(seed: Int64[Tensor, " n"], stream: int, count: int) -> Float[Tensor, "n count"]:
    """Random numbers in [0, 1), of 24 bits each."""
    bits = (random_bits(seed, stream, count) >> 8).bitwise_and_(0xFFFFFF)
    return bits.to(torch.float32).mul_(2.0**-24)


def normal(seed: Int64[Tensor, " n"], stream: int, count: int) -> Float[Tensor, "n count"]:
    """Random numbers of mean 0 and standard deviation 1, none beyond 4.9 (Box & Muller 1958).

    One 32-bit word gives two of them: its upper half the radius, its lower half the angle.
    """
    bits = random_bits(seed, stream, (count + 1) // 2)
    upper = (bits >> 16).bitwise_and_(0xFFFF).to(torch.float32)
    angle = bits.bitwise_and_(0xFFFF).to(torch.float32).mul_(2 * math.pi / 65536)
    radius = upper.add_(0.5).mul_(1 / 65536).log_().mul_(-2).sqrt_()
    return torch.cat((angle.cos().mul_(radius), angle.sin_().mul_(radius)), dim=1)[:, :count]


def smooth_field(
    control: Float[Tensor, "n f a b"], spacing_px: float, size: tuple[int, int]
) -> Float[Tensor, "n f y x"]:
    """f smooth fields from coarse control points: uniform cubic B-splines, `spacing_px` pixels a control point.

    Twice continuously differentiable, without ripples, never beyond the range of its control points. The
    lattice is centred on the field and closed to a torus: a field longer than `a * spacing_px` pixels repeats.
    """
    rows = _spline_weights(size[0], spacing_px, control.shape[2], control.device)
    columns = _spline_weights(size[1], spacing_px, control.shape[3], control.device)
    return rows @ control @ columns.T


def unit_control_points(
    seed: Int64[Tensor, " n"], stream: int, fields: int, points: int
) -> Float[Tensor, "n f a b"]:
    """Random control points whose `smooth_field` has mean 0 and standard deviation 1 over all positions."""
    # A B-spline of white noise keeps 151/315 of its variance an axis: the integral of the squared spline.
    values = normal(seed, stream, fields * points * points) * (315 / 151)
    return values.view(len(seed), fields, points, points)


def _hash(x: Int32[Tensor, "*any"]) -> Int32[Tensor, "*any"]:
    """The hash of each word; `x` itself is overwritten."""
    for shift, multiplier in zip(_SHIFTS, (*_MULTIPLIERS, 1), strict=True):
        x ^= (x >> shift).bitwise_and_((1 << (32 - shift)) - 1)
        x *= multiplier
    return x


def _signed(word: int) -> int:
    return (word + 2**31) % 2**32 - 2**31


def _spline_weights(
    length: int, spacing_px: float, points: int, device: torch.device
) -> Float[Tensor, "length points"]:
    at = (torch.arange(length, dtype=torch.float32, device=device) - (length - 1) / 2) / spacing_px
    knots = torch.arange(points, dtype=torch.float32, device=device) - points // 2
    away = at[:, None] - knots[None, :]
    away = (away - points * torch.round(away / points)).abs()
    return ((2 - away).clamp_min(0) ** 3 - 4 * (1 - away).clamp_min(0) ** 3) / 6
