"""The phantom: beating hearts in chests by formula, MR physics on top, a cohort on disk in the end."""

from crossbeat.synthetic.anatomy import CHILDREN, GROUPS, Heart
from crossbeat.synthetic.cohort import make_cohort
from crossbeat.synthetic.isotropic import render_isotropic
from crossbeat.synthetic.made import Annotated, Hearts, Split, is_whole, make_once
from crossbeat.synthetic.signal import PHANTOM_VERSION

__all__ = [
    "CHILDREN",
    "GROUPS",
    "PHANTOM_VERSION",
    "Annotated",
    "Heart",
    "Hearts",
    "Split",
    "is_whole",
    "make_cohort",
    "make_once",
    "render_isotropic",
]
