"""The phantom: beating hearts in chests by formula, MR physics on top, a cohort on disk in the end."""

from typing import Final

PHANTOM_VERSION: Final = "1"
"""Changes whenever a picture would: method tables name the version that they were measured on."""
