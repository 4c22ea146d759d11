"""Where the slices of a stack lie: as a technician plans them, and where breath-holds put them really."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from crossbeat.geometry import Affine
from crossbeat.synthetic.anatomy import Heart
from crossbeat.synthetic.imaging import Session
from crossbeat.synthetic.sampling import Slice, sax_affine
from crossbeat.synthetic.shape import RV_ABOVE_MM

_SPARE_MM: Final = 5.0  # ours: twice the spread of aim and breath-hold together
_MIDDLE: Final = 0.45
"""Height of mid-ventricle as a share of the length: at the papillary muscles."""


def plan_stack(rng: np.random.Generator, session: Session) -> tuple[list[Slice], Affine]:
    """SAX slices from apex to base as a technician plans them, and where breath-holds put them really.

    Planning is the same for all sequences of a subject but for a degree or two; then each slice is taken in
    a breath-hold of its own, so the patient lies a little elsewhere under it.
    """
    protocol, heart = session.protocol, session.heart
    ny, nx = protocol.matrix
    count, spacing, middle_mm = _coverage(rng, session)
    axes = _plan_axes(rng, session)
    right, down, up = -axes[0] * protocol.pixel_mm, axes[1] * protocol.pixel_mm, -axes[2]
    middle = heart.heart_to_mm(np.array([0, 0, middle_mm]) + rng.normal(0, 2, 3))
    middle = middle - 0.10 * ny * down + 0.12 * nx * right
    first = middle - right * (nx - 1) / 2 - down * (ny - 1) / 2 - up * spacing * (count - 1) / 2
    planned = [
        Slice(first + up * spacing * k, right, down, up, (ny, nx), protocol.thickness_mm)
        for k in range(count)
    ]
    affine = sax_affine(planned[0], up * spacing)
    scan_shift = rng.normal(0, 1.0, 3)
    return [cut.moved(scan_shift + _breath(rng)) for cut in planned], affine


def middle_of_stack(
    cuts: list[Slice], affine: Affine, heart: Heart, count: int
) -> tuple[list[Slice], Affine]:
    """The `count` neighbouring slices about mid-ventricle, and their affine; 0, or more than there are: the stack."""
    if not 0 < count < len(cuts):
        return cuts, affine
    aim = heart.heart_to_mm(np.array([0.0, 0.0, _MIDDLE * heart.shape.length_mm]))
    off_mm = [abs(float((cut.origin_mm - aim) @ cut.normal)) for cut in cuts]
    first = int(np.clip(np.argmin(off_mm) - (count - 1) // 2, 0, len(cuts) - count))
    moved = affine.copy()
    moved[:3, 3] += first * affine[:3, 2]
    return cuts[first : first + count], moved


def _coverage(rng: np.random.Generator, session: Session) -> tuple[int, float, float]:
    """Number of slices, their distance and the height z of their middle, within the protocol's ranges.

    As SCMR asks (Kramer 2020, doi 10.1186/s12968-020-00607-1), cine and LGE hold both ventricles of end diastole
    from base to apex, with `_SPARE_MM` for aim and breath; T2 and tagged scans hold the middle of the left ventricle.
    """
    protocol, length = session.protocol, session.heart.shape.length_mm
    top, end = (
        (-4.0, length - 4.0)
        if session.sequence in ("t2", "tagged")
        else (-RV_ABOVE_MM - _SPARE_MM, length + _SPARE_MM)
    )
    spacing = rng.uniform(*protocol.spacing_mm)
    low, high = protocol.slices
    count = int(np.clip(np.ceil((end - top) / spacing), low, high))
    return count, max(spacing, min((end - top) / count, protocol.spacing_mm[1] + 2.0)), (top + end) / 2


def _plan_axes(rng: np.random.Generator, session: Session) -> NDArray[np.float64]:
    """The heart's axes as a technician hits them, within about 2 degrees, turned in plane as the subject needs."""
    turn = session.heart.plan_rad
    c, s = np.cos(turn), np.sin(turn)
    miss = Rotation.from_rotvec(np.deg2rad(rng.normal(0, 1.5, 3))).as_matrix()
    return np.asarray(np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) @ session.heart.axes_matrix @ miss)


def _breath(rng: np.random.Generator) -> NDArray[np.float64]:
    """How far one breath-hold is off the mean one, RAS+ mm: mostly along the body.

    Standard deviations of 2 mm along the body and 0.7 mm across; McLeish 2002, doi 10.1109/TMI.2002.804427,
    saw the heart follow the diaphragm at about half its way.
    """
    return np.asarray(rng.normal(0, [0.7, 0.9, 2.0]))
