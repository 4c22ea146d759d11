"""Numbers → the text that a page prints: decimals by unit, signs, shares, p values, counts, times, memory."""

from __future__ import annotations

import math
from typing import Final

DIGITS: Final = {"": 3, "mm": 2, "voxel": 2, "ml": 1, "g": 1, "percent": 1}
"""Decimals that a number of this unit deserves."""

NOTHING_FOUND: Final = 0.01
"""A mean Dice below this one is no segmentation of anything: nobody is called the best of such."""


def number(value: float, unit: str) -> str:
    """A number with the decimals that its unit deserves; a dash where it is undefined."""
    return _fixed(value, DIGITS.get(unit, 2))


def rounded(value: float, unit: str) -> str:
    """As `number`, but a distance with one decimal: for tables of many columns."""
    return _fixed(value, 1) if unit in ("mm", "voxel") else number(value, unit)


def signed(value: float, unit: str = "", *, digits: int | None = None) -> str:
    """A difference with its sign, a true minus, and the decimals of its unit or those asked for.

    What rounds to nought has no sign: it says neither more nor less.
    """
    said = _fixed(abs(value), DIGITS.get(unit, 2) if digits is None else digits)
    if not math.isfinite(value) or not float(said):
        return said
    return f"{'+' if value > 0 else '−'}{said}"


def percent(value: float) -> str:
    """A share in whole percent, with a true minus; a dash where it is undefined."""
    if not math.isfinite(value):
        return "–"
    said = f"{abs(value):.0%}".replace("%", " %")
    return f"−{said}" if value < 0 and said != "0 %" else said


def p_value(value: float) -> str:
    """A p value with three decimals, '< 0.001' below them, a dash where there is none."""
    return "< 0.001" if value < 0.001 else _fixed(value, 3)


def count(n: int, noun: str) -> str:
    """So many of them: '1 scan', '2 scans'."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time as one would say it: '2 h 05 min', '4 min 12 s', '8.1 s'; a dash where it is not known."""
    if not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {left:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def memory(megabytes: float) -> str:
    """Memory in MB or GB; a dash where it is not known."""
    if not math.isfinite(megabytes):
        return "–"
    return f"{megabytes / 1024:.1f} GB" if megabytes >= 1024 else f"{megabytes:.0f} MB"


def _fixed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"
