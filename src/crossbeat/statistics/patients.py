"""Values in, one mean a patient out: frames, slices and scans of one patient resemble each other."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]

_NAN: Final = float("nan")


def patient_means(values: ArrayLike, patients: Sequence[Hashable]) -> Values:
    """One mean a patient, in order of first appearance; nan is left out, and a patient of nothing but nan."""
    found = np.asarray(values, np.float64)
    if found.shape != (len(patients),):
        raise ValueError(f"needs one patient a value, got {found.shape} values of {len(patients)} patients")
    code, names = pd.factorize(np.array([str(p) for p in patients], dtype=object))
    defined = ~np.isnan(found)
    counts = np.bincount(code[defined], minlength=len(names))
    sums = np.bincount(code[defined], weights=found[defined], minlength=len(names))
    return np.asarray(sums[counts > 0] / counts[counts > 0], np.float64)


def mean_sd(values: ArrayLike, patients: Sequence[Hashable]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) over patients; nan for no patient, and an SD of one is nan."""
    means = patient_means(values, patients)
    return (
        float(means.mean()) if means.size else _NAN,
        float(means.std(ddof=1)) if means.size > 1 else _NAN,
    )


def median(values: ArrayLike, patients: Sequence[Hashable]) -> float:
    """Median over patients; nan for no patient."""
    means = patient_means(values, patients)
    return float(np.median(means)) if means.size else _NAN
