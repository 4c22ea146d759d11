"""A heart on a fine grid of equal spacing: what no scanner gives, for tests of what is measured in millimetres."""

from __future__ import annotations

import numpy as np

from crossbeat.case import Case, Domain
from crossbeat.labels import Structure
from crossbeat.synthetic.anatomy import LABEL_OF_TISSUE, Heart
from crossbeat.synthetic.sampling import Slice
from crossbeat.synthetic.signal import bssfp_table


def render_isotropic(heart: Heart, phase: float, spacing_mm: float = 1.0) -> Case:
    """The heart on a fine grid of equal spacing along its own axes: true labels and a noiseless bSSFP contrast.

    Every voxel has the tissue of its centre; the infarct is labelled. Slices run from apex to base.
    """
    r, length = heart.reach_mm, heart.shape.length_mm
    nz, ny = int(np.ceil((length + 30) / spacing_mm)), int(np.ceil(2 * r / spacing_mm))
    step = heart.axes_matrix * spacing_mm
    affine = np.eye(4)
    affine[:3, :3] = np.stack([-step[0], step[1], -step[2]], axis=1)
    affine[:3, 3] = heart.heart_to_mm(np.array([r, -r, length + 12.0]) - 0.5 * spacing_mm)
    table = bssfp_table(1.5, 3.0, 55, np.zeros(1))[:, 0] * 1500
    image, labels = np.empty((1, nz, ny, ny), np.float32), np.empty((1, nz, ny, ny), np.uint8)
    for z in range(nz):
        origin = affine[:3, :3] @ np.array([0, 0, z]) + affine[:3, 3]
        cut = Slice(origin, affine[:3, 0], affine[:3, 1], -heart.axes_matrix[2], (ny, ny), spacing_mm)
        tissue = heart.tissue_at(*cut.centres_mm(), phase)
        image[0, z], labels[0, z] = np.abs(table[tissue]), LABEL_OF_TISSUE[tissue]
    drawn = frozenset({Structure.LV, Structure.MYO, Structure.RV, Structure.SCAR, Structure.EDEMA})
    domain = Domain("bssfp", group=heart.group)
    return Case(f"phantom-{phase:g}", "phantom", image, affine, domain, labels, (drawn,))
