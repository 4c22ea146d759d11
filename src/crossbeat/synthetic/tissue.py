"""Tissues of the phantom, by number."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Tissue(IntEnum):
    """What a point of the phantom is made of."""

    AIR = 0
    LUNG = 1
    FAT = 2
    MUSCLE = 3
    BONE = 4
    """Cortical bone, and the ribs with their little marrow."""
    MARROW = 5
    LIVER = 6
    SPLEEN = 7
    KIDNEY = 8
    FLUID = 9
    """Cerebrospinal fluid and the watery part of a meal."""
    GUT = 10
    ARTERY = 11
    """Blood of the aorta, of the caval vein and of the vessels of lung and liver."""
    LV_BLOOD = 12
    RV_BLOOD = 13
    LA_BLOOD = 14
    RA_BLOOD = 15
    MYOCARDIUM = 16
    PAPILLARY = 17
    RV_WALL = 18
    RV_TRABECULA = 19
    PERICARDIUM = 20
    SCAR = 21
    NO_REFLOW = 22
    EDEMA = 23
    SKIN = 24


NOWHERE: Final = 255
"""Of a point outside the part that was asked for."""
