"""indices.csv, agreement.csv and volumes.csv → the clinical part of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import numpy as np
import pandas as pd

from crossbeat.report.charts import Chart, agreement_chart, volume_chart
from crossbeat.report.domains import domain_name, parted
from crossbeat.report.run_folder import RunFolder
from crossbeat.report.wording import count
from crossbeat.statistics import agreement_table, summarise

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
    """Clinical indices scan by scan, each cell with its mark; mean, SD and the count of what is not there below."""

    sentence: str
    columns: list[Column]
    rows: list[tuple[str, list[Cell]]]
    totals: list[tuple[str, list[Cell | None]]]


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval, nan where it has none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """Predicted against reference for one index over patients: bias and 95 % limits of agreement."""

    name: str
    patients: int
    scans: int
    """Scans that have it in both masks."""
    missed: int
    """Scans whose reference has it and whose prediction has not."""
    not_in_reference: int
    bias: Figure
    low: Figure
    high: Figure
    nominal: bool
    chart: Chart | None


@dataclass(frozen=True)
class Clinical:
    """The clinical indices of one domain and split."""

    name: str
    """'the target, LGE'; '' where there is only one domain."""
    sentence: str
    agreement: list[Agreement]
    indices: IndexTable | None
    nominal: bool


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


def clinical_parts(folder: RunFolder) -> list[Clinical]:
    """Indices and their agreement, parted by domain and split as the scores are; none without either file."""
    rows = pd.concat(
        [_where(folder, t).assign(of=i) for i, t in enumerate(_tables(folder))], ignore_index=True
    )
    if rows.empty:
        return []
    return [
        _clinical(folder, number, domain_name(name, part), part, rest, is_test)
        for number, (name, part, rest, is_test) in enumerate(parted(rows, folder.settings))
    ]


def index_table(table: pd.DataFrame, nominal: set[str]) -> IndexTable | None:
    """The rows of an indices.csv; None where there are none. Columns that no scan fills are left out."""
    if table.empty:
        return None
    measured = [
        c for c in table.columns if index_name(c)[1] and c not in _ONLY_IN_FILE and table[c].notna().any()
    ]
    rows = [
        (
            str(line["scan"]),
            [_frame(line, c) for c in _FRAMES]
            + [_cell(line[c], c, line["scan"] in nominal) for c in measured],
        )
        for _, line in table.iterrows()
    ]
    found = {c: summarise(table[c].to_numpy(float), table["subject"].tolist()) for c in measured}
    marked = bool(nominal & set(table["scan"]))
    blank: list[Cell | None] = [None, None]
    totals = [
        ("Mean", [*blank, *(_cell(found[c].mean, c, marked) for c in measured)]),
        ("SD", [*blank, *(_cell(found[c].sd, c, marked) for c in measured)]),
        ("Scans without", [*blank, *(Cell(str(found[c].undefined), False) for c in measured)]),
    ]
    columns = [
        Column(index_name(c)[0], marked and index_name(c)[1] in _LENGTHS) for c in (*_FRAMES, *measured)
    ]
    sentence = (
        f"{count(len(table), 'scan')}, from the predicted masks; mean and SD over patients, of the scans that have "
        "the index. Frames count from 0: given by the cohort.csv, or found in the predicted volume curve. A dash is a "
        "structure or phase that is not there to be measured. indices.csv holds more."
    )
    return IndexTable(sentence, columns, rows, totals)


def agreements(pairs: pd.DataFrame, nominal: set[str], part: int, *, intervals: bool) -> list[Agreement]:
    """Bland–Altman over patients of every index in rows of agreement.csv, those without a defined pair too.

    `part` numbers the charts; without `intervals` there are none of bias and limits.
    """
    return [
        _agreement(figures, pairs[pairs["index"] == figures["index"]], nominal, part, intervals)
        for figures in agreement_table(pairs).to_dict("records")
    ]


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
    nominal = folder.nominal
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


_FRAMES: Final = ("ed_frame", "es_frame")


def _tables(folder: RunFolder) -> tuple[pd.DataFrame, pd.DataFrame]:
    return folder.indices, folder.agreement


def _where(folder: RunFolder, table: pd.DataFrame) -> pd.DataFrame:
    """The columns by which a table is parted, as text, and its line."""
    filters = [c for role in ("source", "target") for c in folder.settings.get(role) or {}]
    columns = dict.fromkeys(["scan", "subject", "sequence", "split", *filters])
    return table.reindex(columns=list(columns)).astype(object).fillna("").assign(line=range(len(table)))


def _clinical(
    folder: RunFolder, number: int, name: str, part: pd.DataFrame, rest: pd.DataFrame, is_test: bool
) -> Clinical:
    indices, pairs = (
        t.iloc[part.loc[part["of"] == i, "line"].tolist()] for i, t in enumerate(_tables(folder))
    )
    overlap = folder.trained.overlap(part)
    said = f"{count(part['subject'].nunique(), 'patient')}, {count(overlap.scans, 'scan')}"
    said += " of the test split" if is_test else ""
    if len(rest):
        said += f"; {count(rest['scan'].nunique(), 'scan')} of other splits in the files, not here"
    if overlap.there:
        said += "; no intervals, since some of them were seen in training"
    compared = agreements(pairs, folder.nominal, number, intervals=not overlap.there) if len(pairs) else []
    nominal = bool(folder.nominal & set(part["scan"]))
    return Clinical(name, f"{said}.", compared, index_table(indices, folder.nominal), nominal)


def _agreement(
    figures: dict[Any, Any], rows: pd.DataFrame, nominal: set[str], part: int, intervals: bool
) -> Agreement:
    name, unit = index_name(str(figures["index"]))
    marked = unit in _LENGTHS and bool(nominal & set(rows["scan"]))
    bias, low, high = (
        Figure(
            figures[of],
            *(figures[f"{of}_interval_{side}"] if intervals else math.nan for side in ("low", "high")),
        )
        for of in ("bias", "low", "high")
    )
    chart = None
    if figures["n"]:
        both = rows.dropna(subset=["predicted", "reference"])
        means = both.groupby("subject", sort=False)[["predicted", "reference"]].mean()
        points = [(str(s), float(p), float(r)) for s, p, r in means.itertuples()]
        title = name + ("† (nominal)" if marked else "")
        chart = agreement_chart(
            f"agreement-{figures['index']}" + f"-{part}" * bool(part),
            title,
            points,
            bias.value,
            (low.value, high.value),
        )
    return Agreement(
        name,
        patients=figures["n"],
        scans=figures["pairs"],
        missed=figures["missed"],
        not_in_reference=figures["not_in_reference"],
        bias=bias,
        low=low,
        high=high,
        nominal=marked,
        chart=chart,
    )


def _phases(indices: pd.DataFrame, scan: str) -> tuple[int | None, int | None]:
    if indices.empty:
        return None, None
    rows = indices[indices["scan"] == scan]
    values = [rows[c].iloc[0] if len(rows) else np.nan for c in _FRAMES]
    ed, es = (int(v) if _there(v) else None for v in values)
    return ed, es


def _there(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float, np.number)) and math.isfinite(float(value))


def _frame(line: pd.Series[Any], column: str) -> Cell:
    value = line[column]
    return Cell(f"{value:.0f} {line.get(f'{column}_from', '')}".strip() if _there(value) else "–", False)


def _cell(value: object, column: str, nominal: bool) -> Cell:
    return (
        Cell(f"{value:.1f}", nominal and index_name(column)[1] in _LENGTHS)
        if _there(value)
        else Cell("–", False)
    )
