"""crossbeat: segment the heart in cardiac MR where labels are scarce.

The public names below are imported on first use, so that `crossbeat --help` answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Case": "case",
    "Cohort": "cohort",
    "CrossbeatError": "errors",
    "METHODS": "methods",
    "Preparation": "prepare.volumes",
    "Row": "cohort",
    "SEGMENTERS": "networks",
    "Segmenter": "segmenter",
    "Structure": "labels",
    "load_segmenter": "segmenter",
    "predict_case": "prediction",
    "read_cohort": "cohort",
    "reader": "data",
    "score_cohort": "evaluation",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'crossbeat' has no attribute {name!r}")
    return getattr(import_module(f"crossbeat.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
