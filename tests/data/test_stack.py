"""The grid that the viewer is given: lengths, directions and values."""

from __future__ import annotations

import nibabel as nib
import numpy as np

from crossbeat.data.stack import as_nifti

SHAPE = (2, 3, 6, 5)  # t, z, y, x


def test_the_served_grid_runs_along_the_viewers_axes() -> None:
    found = nib.Nifti1Image.from_bytes(as_nifti(np.zeros(SHAPE, np.uint8), (8.0, 2.0, 1.5)))
    assert found.shape == (5, 6, 3, 2)
    assert nib.aff2axcodes(found.affine) == ("L", "P", "S")
    np.testing.assert_allclose(found.header.get_zooms()[:3], (1.5, 2.0, 8.0))
    assert found.get_data_dtype() == np.uint8


def test_floats_are_stored_in_16_bit_to_within_one_step() -> None:
    image = np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.float32)
    found = nib.Nifti1Image.from_bytes(as_nifti(image, (8.0, 2.0, 1.5)))
    assert found.get_data_dtype() == np.int16
    step = np.ptp(image) / 2**16
    assert np.abs(np.asarray(found.dataobj).transpose(3, 2, 1, 0) - image).max() <= step
