"""Two masks in, their overlap out: Dice and Jaccard, and what to say where a mask is empty."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Status = Literal["ok", "undefined", "missed"]


def status(predicted: Mask, reference: Mask) -> Status:
    """Whether two masks can be compared at all: what stands beside every score.

    `undefined`: both are empty, there is nothing to find and every metric is nan. `missed`: one of them
    is empty, the structure was overlooked or invented; Dice and Jaccard are 0 and distances the image
    diagonal, so that a failure lowers the mean instead of leaving it.
    """
    check_masks(predicted, reference)
    found, wanted = bool(predicted.any()), bool(reference.any())
    return "ok" if found and wanted else "missed" if found or wanted else "undefined"


def dice(predicted: Mask, reference: Mask) -> float:
    """Dice overlap of two boolean masks of any shape, in [0, 1]: shared voxels over their mean size.

    Both empty: nan. One empty: 0.0. (Dice 1945, Ecology 26:297.)
    """
    check_masks(predicted, reference)
    size = int(np.count_nonzero(predicted)) + int(np.count_nonzero(reference))
    return 2 * int(np.count_nonzero(predicted & reference)) / size if size else float("nan")


def jaccard(predicted: Mask, reference: Mask) -> float:
    """Jaccard overlap of two boolean masks of any shape, in [0, 1]: shared voxels over voxels in either.

    Both empty: nan. One empty: 0.0. It equals dice / (2 - dice).
    """
    check_masks(predicted, reference)
    union = int(np.count_nonzero(predicted | reference))
    return int(np.count_nonzero(predicted & reference)) / union if union else float("nan")


def check_masks(predicted: Mask, reference: Mask) -> None:
    """Refuse label maps and masks of different shape: they would give a number that means nothing."""
    if predicted.dtype != np.bool_ or reference.dtype != np.bool_:
        raise TypeError(
            f"metrics compare boolean masks, got {predicted.dtype} and {reference.dtype}; "
            "write labels == Structure.LV"
        )
    if predicted.shape != reference.shape:
        raise ValueError(f"masks differ in shape: predicted {predicted.shape}, reference {reference.shape}")
