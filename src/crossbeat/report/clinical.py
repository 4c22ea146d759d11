"""indices.csv, agreement.csv and volumes.csv → the clinical part of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeGuard

import numpy as np
import pandas as pd

from crossbeat.report.charts import Chart, agreement_chart, volume_chart
from crossbeat.report.run_folder import RunFolder
from crossbeat.report.tables import nominal_scans
from crossbeat.statistics import bland_altman, summarise

MOST_CURVES: Final = 12
"""Volume curves in the page; a reader looks at a dozen and the file holds all."""

_UNITS: Final = {"ml": "ml", "g": "g", "mm": "mm", "percent": "%"}
_ONLY_IN_FILE: Final = ("wall_thickness_ed_max_mm", "wall_thickness_es_max_mm", "rv_sv_ml")
_LENGTHS: Final = ("ml", "g", "mm")


@dataclass(frozen=True)
class Column:
    """A column of the index table: its name with unit, and whether all its figures are nominal."""

    name: str
    nominal: bool


@dataclass(frozen=True)
class Cell:
    """A figure as it is printed, and whether it is nominal."""

    text: str
    nominal: bool


@dataclass(frozen=True)
class IndexTable:
    """Clinical indices scan by scan, each cell with its mark, and mean and SD below."""

    sentence: str
    columns: list[Column]
    rows: list[tuple[str, list[Cell]]]
    totals: list[tuple[str, list[Cell | None]]]
    nominal: bool


@dataclass(frozen=True)
class Agreement:
    """Predicted against reference for one index: bias and 95 % limits of agreement."""

    name: str
    scans: int
    bias: float
    low: float
    high: float
    nominal: bool
    chart: Chart | None


@dataclass(frozen=True)
class VolumeCurves:
    """The curves that are shown, and a sentence that says how many there are."""

    sentence: str
    charts: list[Chart]
    nominal: bool


def index_name(column: str) -> tuple[str, str]:
    """`lv_edv_ml` as ('LV EDV, ml', 'ml'); a column without a unit at its end has the unit ''."""
    words = column.split("_")
    unit = words[-1] if words[-1] in _UNITS else ""
    named = [w.upper() if w in _SHORT else w for w in (words[:-1] if unit else words)]
    name = " ".join(named)
    name = name[:1].upper() + name[1:]
    return (f"{name}, {_UNITS[unit]}", unit) if unit else (name, "")


_SHORT: Final = {"lv", "rv", "ed", "es", "edv", "esv", "sv", "ef", "myo"}


def index_table(folder: RunFolder) -> IndexTable | None:
    """The table of indices.csv; None where there is none. Columns that no scan fills are left out."""
    table = folder.indices
    if table.empty:
        return None
    nominal = set(nominal_scans(table))
    measured = [
        c for c in table.columns if index_name(c)[1] and c not in _ONLY_IN_FILE and table[c].notna().any()
    ]
    shown = ["ed_frame", "es_frame", *measured]
    rows = [
        (str(line["scan"]), [_cell(line[c], c, line["scan"] in nominal) for c in shown])
        for _, line in table.iterrows()
    ]
    found = {c: summarise(table[c].to_numpy(float), table["subject"].tolist()) for c in measured}
    totals = [
        ("Mean", [None, None, *(_cell(found[c].mean, c, bool(nominal)) for c in measured)]),
        ("SD", [None, None, *(_cell(found[c].sd, c, bool(nominal)) for c in measured)]),
    ]
    columns = [Column(index_name(c)[0], bool(nominal) and index_name(c)[1] in _LENGTHS) for c in shown]
    sentence = (
        f"{len(table)} scans, from the predicted masks; mean and SD over patients. Frames count from 0; a dash "
        "is a structure or phase that is not there to be measured. indices.csv holds more."
    )
    return IndexTable(sentence, columns, rows, totals, bool(nominal))


def agreements(folder: RunFolder) -> list[Agreement]:
    """Bland–Altman of every index that agreement.csv holds for predicted and reference masks."""
    table = folder.agreement
    if table.empty:
        return []
    nominal = set(nominal_scans(folder.indices)) | set(nominal_scans(table))
    out = []
    for index in dict.fromkeys(table["index"]):
        rows = table[table["index"] == index].dropna(subset=["predicted", "reference"])
        if len(rows):
            out.append(_agreement(str(index), rows, nominal))
    return out


def volume_curves(folder: RunFolder, first: Sequence[str]) -> VolumeCurves | None:
    """Curves of scans with more than three frames, those named in `first` before the others; None without any.

    A scan of one slice has no volumes and no curve.
    """
    table = folder.volumes.dropna(subset=["lv_ml"]) if len(folder.volumes) else folder.volumes
    if table.empty:
        return None
    frames = table.groupby("scan")["frame"].nunique()
    scans = [str(s) for s in dict.fromkeys(table["scan"]) if frames[s] > 3]
    if not scans:
        return None
    nominal = set(nominal_scans(folder.indices)) | set(nominal_scans(folder.scores))
    order = [s for s in first if s in scans] + [s for s in scans if s not in first]
    charts = [
        volume_chart(
            f"volumes-{number}", scan, table[table["scan"] == scan], *_phases(folder.indices, scan),
            "ml† (nominal)" if scan in nominal else "ml",
        )
        for number, scan in enumerate(order[:MOST_CURVES])
    ]  # fmt: skip
    shown = f"{len(charts)} of {len(scans)} scans" if len(charts) < len(scans) else f"{len(scans)} scans"
    return VolumeCurves(
        f"{shown}: volume of the predicted cavities over the heart cycle, with ED and ES marked. A curve that "
        "does not close, or that leaps, shows frames that went wrong.",
        charts,
        bool(nominal & set(order[:MOST_CURVES])),
    )


def _agreement(index: str, rows: pd.DataFrame, nominal: set[str]) -> Agreement:
    name, unit = index_name(index)
    marked = unit in _LENGTHS and bool(nominal & set(rows["scan"]))
    predicted, reference = (rows[c].to_numpy(float) for c in ("predicted", "reference"))
    found = bland_altman(predicted, reference)
    points = [
        (str(s), float(p), float(r)) for s, p, r in zip(rows["scan"], predicted, reference, strict=True)
    ]
    chart = agreement_chart(
        f"agreement-{index}",
        name + ("† (nominal)" if marked else ""),
        points,
        found.bias,
        (found.low, found.high),
    )
    return Agreement(name, len(rows), found.bias, found.low, found.high, marked, chart)


def _phases(indices: pd.DataFrame, scan: str) -> tuple[int | None, int | None]:
    if indices.empty:
        return None, None
    rows = indices[indices["scan"] == scan]
    values = [rows[c].iloc[0] if len(rows) else np.nan for c in ("ed_frame", "es_frame")]
    ed, es = (int(v) if _there(v) else None for v in values)
    return ed, es


def _there(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float, np.number)) and math.isfinite(float(value))


def _cell(value: object, column: str, nominal: bool) -> Cell:
    unit = index_name(column)[1]
    if not _there(value):
        return Cell("–", False)
    return Cell(f"{value:.1f}" if unit else f"{value:.0f}", nominal and unit in _LENGTHS)
