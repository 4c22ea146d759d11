"""An array in memory → the bytes of a NIfTI file, for a viewer that leafs through it slice by slice."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray


def as_nifti(array: NDArray[Any], spacing_mm: tuple[float, float, float]) -> bytes:
    """A (t, z, y, x) array as the bytes of a NIfTI file, its axes laid along the viewer's own.

    The grid is shown as a stack, slice by slice, x to the patient's left and y to the back: where the scan lay
    in the scanner is left out, so that the viewer does not turn or resample an oblique one. Floats become 16
    bit, scaled; label maps keep their values.
    """
    z, y, x = spacing_mm
    image: Any = nib.Nifti1Image(np.ascontiguousarray(array.transpose(3, 2, 1, 0)), np.diag([-x, -y, z, 1.0]))  # type: ignore[no-untyped-call]
    if array.dtype.kind == "f":
        image.set_data_dtype(np.int16)
    image.header.set_xyzt_units("mm")
    found: bytes = image.to_bytes()
    return found
