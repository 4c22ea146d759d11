"""The numbers of a study's page as they are printed: p values, differences, shares, times, memory."""

from __future__ import annotations

import math

from crossbeat.report.page import number


def p_value(value: float) -> str:
    """A p value as journals print it: two digits that count, '< 0.001' below, a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def signed(value: float, unit: str) -> str:
    """A difference with its sign, a true minus, and the decimals of its unit."""
    said = number(value, unit)
    return said if not math.isfinite(value) else f"+{said}".replace("+-", "−")


def percent(value: float) -> str:
    """A share in whole percent; a dash where it is undefined."""
    return f"{value:.0%}".replace("%", " %").replace("-", "−") if math.isfinite(value) else "–"


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
