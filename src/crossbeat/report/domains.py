"""Rows with a cohort's columns → source, target and their splits: what must not be averaged together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import pandas as pd

from crossbeat.cohort import Row

SEQUENCES: Final = {"bssfp": "cine bSSFP", "lge": "LGE", "t2": "T2", "tagged": "tagged MR"}


def parted(
    table: pd.DataFrame, settings: Mapping[str, Any]
) -> list[tuple[str, pd.DataFrame, pd.DataFrame, bool]]:
    """(domain, rows, rows of other splits, whether a test split) of a table with a cohort's columns.

    Where a domain has a test split its rows are those, else they are all.
    """
    out = []
    for name, part in _domains(table, settings):
        test = part["split"] == "test" if "split" in part else pd.Series(False, index=part.index)
        chosen = part[test] if test.any() else part
        out.append((name, chosen, part[~test] if test.any() else part.iloc[:0], bool(test.any())))
    return out


def domain_name(name: str, rows: pd.DataFrame) -> str:
    """'the target, LGE' of the rows of a domain; '' where there is only one and nothing names it."""
    sequences = sorted(set(rows.get("sequence", pd.Series(dtype=str))) - {""})
    named = ", ".join(SEQUENCES.get(s, s) for s in sequences)
    if name in ("target", "source"):
        return f"the {name}" + (f", {named}" if named else "")
    return named if name != "other" else f"neither source nor target{', ' + named if named else ''}"


def role_of(row: Row, settings: Mapping[str, Any]) -> str:
    """`source`, `target` or `other` as the recipe's filters say; '' where it parts nothing."""
    return _role(partial(_column, row), settings)


def _domains(scores: pd.DataFrame, settings: Mapping[str, Any]) -> list[tuple[str, pd.DataFrame]]:
    if settings.get("target"):
        role = scores.apply(lambda row: _role(lambda c: str(row.get(c, "")), settings), axis=1)
        wanted = [name for name in ("target", "source", "other") if (role == name).any()]
        return [(name, scores[role == name]) for name in wanted]
    sequences = scores["sequence"].unique() if "sequence" in scores else [""]
    if len(sequences) == 1:
        return [("", scores)]
    return [(str(s), scores[scores["sequence"] == s]) for s in sorted(sequences)]


def _role(value: Callable[[str], str], settings: Mapping[str, Any]) -> str:
    """Which of the recipe's filters a scan meets, by its columns; '' where the recipe parts nothing.

    An empty `source` filter is all that is not target.
    """
    target, source = settings.get("target") or {}, settings.get("source") or {}
    if target and _meets(value, target):
        return "target"
    if source:
        return "source" if _meets(value, source) else "other"
    return "source" if target else ""


def _meets(value: Callable[[str], str], wanted: Mapping[str, Any]) -> bool:
    return all(
        value(str(column)) in ([str(v) for v in values] if isinstance(values, list) else [str(values)])
        for column, values in wanted.items()
    )


def _column(row: Row, column: str) -> str:
    try:
        return row.value(column)
    except KeyError:
        return ""
