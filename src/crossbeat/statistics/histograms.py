"""Intensities in, how they are spread out: counts over [0, 1], and how far one spread is from another."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BINS: Final = 64
"""Of equal width over [0, 1]: 1.6 grey levels in a hundred."""


def intensity_counts(values: NDArray[Any], bins: int = BINS) -> NDArray[np.int64]:
    """How many values of any shape lie in each of that many bins of [0, 1]; 1 is in the last one.

    No value gives zeros. A value outside [0, 1], or nan, raises `ValueError`: it would be left out in silence.
    """
    flat = np.asarray(values, np.float64).ravel()
    if not ((flat >= 0) & (flat <= 1)).all():
        raise ValueError(f"intensities must lie in [0, 1], got {flat.min()} to {flat.max()}")
    return np.bincount(np.minimum((flat * bins).astype(np.int64), bins - 1), minlength=bins)


def divergence_nats(counts: NDArray[np.int64], since: NDArray[np.int64]) -> float:
    """Kullback-Leibler divergence of one histogram from another, Σ p ln(p / q), in nats, at least 0; 0 of the same.

    `counts` give p and `since` give q. One count is added to each bin of both (Laplace), so that a grey that only one
    of them has costs much, and not all. It is not symmetric. nan where either is empty.
    """
    if counts.shape != since.shape:
        raise ValueError(f"histograms need the same bins, got {counts.shape} and {since.shape}")
    if not counts.sum() or not since.sum():
        return float("nan")
    p, q = ((c + 1) / (c.sum() + c.size) for c in (counts, since))
    return max(float((p * np.log(p / q)).sum()), 0.0)
