"""Scores and measurements ⇄ csv files that a person can open and a spreadsheet understands."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import Final

import pandas as pd

from crossbeat.cohort import Cohort
from crossbeat.errors import FileError
from crossbeat.evaluation.measurement import FRAMES, Comparison, Measurement
from crossbeat.evaluation.scores import Score
from crossbeat.metrics.clinical import Indices

COHORT_COLUMNS: Final = ("sequence", "vendor", "centre", "group", "split", "spacing_source")
"""Columns of the cohort.csv that stand in every table, before its further ones."""

SCORE_COLUMNS: Final = tuple(f.name for f in fields(Score))
INDEX_COLUMNS: Final = (
    "scan",
    "subject",
    *FRAMES,
    *(f"{frame}_from" for frame in FRAMES),
    *(f.name for f in fields(Indices) if f.name not in FRAMES),
    "papillary",
    "remark",
)
VOLUME_COLUMNS: Final = ("scan", "frame", "time_ms", "lv_ml", "myo_ml", "rv_ml")
AGREEMENT_COLUMNS: Final = tuple(f.name for f in fields(Comparison))


def write_scores(scores: Sequence[Score], cohort: Cohort, path: Path) -> None:
    """Write scores.csv, long form, whole or not at all: a line a score, with its scan's cohort columns."""
    _write(path, SCORE_COLUMNS, ((s.scan, astuple(s)) for s in scores), cohort)


def read_scores(path: Path) -> pd.DataFrame:
    """scores.csv as a table: `value` float (nan where undefined), `frame` and `slice` whole or NA, the rest text."""
    return _read(path, SCORE_COLUMNS, numbers=["value"], wholes=["frame", "slice"], command="evaluate")


def write_indices(measurements: Sequence[Measurement], cohort: Cohort, path: Path) -> None:
    """Write indices.csv, whole or not at all: a line a scan, units in the column names."""
    lines = (
        (
            m.scan,
            [
                {**vars(m), **asdict(m.indices)}[column]
                for column in INDEX_COLUMNS
            ],
        )
        for m in measurements
    )  # fmt: skip
    _write(path, INDEX_COLUMNS, lines, cohort)


def read_indices(path: Path) -> pd.DataFrame:
    """indices.csv as a table: indices float, frames whole or NA, the rest text."""
    numbers = [f.name for f in fields(Indices) if f.name not in FRAMES]
    needed = [column for column in INDEX_COLUMNS if column != "remark"]
    return _read(path, needed, numbers=numbers, wholes=FRAMES, command="measure")


def write_volumes(measurements: Sequence[Measurement], cohort: Cohort, path: Path) -> None:
    """Write volumes.csv, whole or not at all: a line a frame, the curves of LV, MYO and RV, the cohort's columns."""
    lines = (
        (m.scan, [m.scan, frame, *map(float, values)])
        for m in measurements
        for frame, values in enumerate(zip(m.time_ms, m.lv_ml, m.myo_ml, m.rv_ml, strict=True))
    )
    _write(path, VOLUME_COLUMNS, lines, cohort)


def read_volumes(path: Path) -> pd.DataFrame:
    """volumes.csv as a table; `time_ms` is nan where unknown."""
    return _read(path, VOLUME_COLUMNS, numbers=VOLUME_COLUMNS[2:], wholes=["frame"], command="measure")


def write_agreement(comparisons: Sequence[Comparison], cohort: Cohort, path: Path) -> None:
    """Write agreement.csv, whole or not at all: a line an index of a scan, predicted beside reference."""
    _write(path, AGREEMENT_COLUMNS, ((c.scan, astuple(c)) for c in comparisons), cohort)


def read_agreement(path: Path) -> pd.DataFrame:
    """agreement.csv as a table, `predicted` and `reference` float; `statistics.agreement_table` sums it up."""
    return _read(path, AGREEMENT_COLUMNS, numbers=["predicted", "reference"], wholes=[], command="measure")


def _write(
    path: Path,
    columns: Sequence[str],
    lines: Iterable[tuple[str, Sequence[object]]],
    cohort: Cohort,
) -> None:
    """Lines are (scan, values). A further column of the cohort that bears one of our names gets `cohort_` before it."""
    further = dict.fromkeys(column for row in cohort for column in row.further)
    taken = (*COHORT_COLUMNS, *further)
    names = [f"cohort_{c}" if c in columns else c for c in taken]
    of_scan = {
        row.scan: [row.further.get(c, "") if c in further else row.value(c) for c in taken] for row in cohort
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*columns, *names])
            writer.writerows([*map(_text, values), *of_scan.get(scan, ())] for scan, values in lines)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _text(value: object) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _read(
    path: Path, columns: Sequence[str], *, numbers: Sequence[str], wholes: Sequence[str], command: str
) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError:
        raise FileError(path, f"does not exist; `crossbeat {command}` writes it") from None
    except (ValueError, OSError) as error:
        raise FileError(
            path, f"is not a csv table ({error}); `crossbeat {command}` writes it again"
        ) from None
    absent = [column for column in columns if column not in table]
    if absent:
        raise FileError(path, f"lacks the column {absent[0]!r}; `crossbeat {command}` writes it again")
    try:
        for column in numbers:
            table[column] = table[column].astype(float)
        for column in wholes:
            table[column] = pd.to_numeric(table[column].replace("", None)).astype("Int64")
    except ValueError as error:
        raise FileError(path, f"column {column!r} holds what is no number ({error})") from None
    return table
