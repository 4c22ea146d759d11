"""The league's tables ⇄ files: csv for a spreadsheet, JSON for a program, LaTeX for a paper."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from crossbeat.errors import FileError
from crossbeat.study.league import BREAKDOWN_COLUMNS, HIGHER_IS_BETTER

_TEXT: Final = ("arm", "structure", "metric", "unit", "reference", "by", "value")
_COUNTS: Final = ("n_patients", "n_seeds", "undefined", "missed", "unpaired", "rank")
_KEY: Final = ("structure", "metric", "unit")
_NAMES: Final = {"dice": "Dice", "hd95": "HD95"}
_ESCAPES: Final = str.maketrans(
    {c: rf"\{c}" for c in "_%&#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def write_results(league: pd.DataFrame, breakdowns: Mapping[str, pd.DataFrame], folder: Path) -> None:
    """Write league.csv, breakdown.csv, league.json and league.tex; none of them where one cannot be written.

    The csv files and the JSON hold every digit. A nan is an empty field there and null here.
    """
    parts = [table.assign(by=by)[["by", *BREAKDOWN_COLUMNS]] for by, table in breakdowns.items()]
    breakdown = pd.concat(parts) if parts else pd.DataFrame(columns=["by", *BREAKDOWN_COLUMNS])
    records = {
        "league": _plain(league),
        "breakdown": {by: _plain(table) for by, table in breakdowns.items()},
    }
    texts = {
        "league.csv": league.to_csv(index=False, lineterminator="\n"),
        "breakdown.csv": breakdown.to_csv(index=False, lineterminator="\n"),
        "league.json": json.dumps(records, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "league.tex": to_latex(league),
    }
    folder.mkdir(parents=True, exist_ok=True)
    temporary = {name: folder / f".{name}.{os.getpid()}" for name in texts}
    try:
        for name, text in texts.items():
            temporary[name].write_text(text, encoding="utf-8")
        for name, path in temporary.items():
            path.replace(folder / name)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


def read_table(path: Path) -> pd.DataFrame:
    """league.csv or breakdown.csv as it was written, to the last digit."""
    try:
        found = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError:
        raise FileError(path, "does not exist; `crossbeat study` writes it") from None
    for column in found.columns.difference(list(_TEXT)):
        numbers = [float(text or "nan") for text in found[column]]
        found[column] = np.array(numbers, np.int64 if column in _COUNTS else np.float64)
    return found


def to_latex(league: pd.DataFrame, *, lower: str = "source_only", upper: str = "target_supervised") -> str:
    """A booktabs table: arms × (Dice of each structure and of their mean, HD95 of the mean), mean ± SD over patients.

    Bold is the best mean of the arms between the bounds, whether or not it can be told from the next; the caption
    says so.
    """
    columns = _columns(league)
    lines = {
        (line["arm"], *(line[k] for k in _KEY)): line for line in league.to_dict("records")
    }  # fmt: skip
    bounds = {lower: " (lower bound)", upper: " (upper bound)"}
    body = [
        [_escape(arm) + bounds.get(arm, ""), *(_cell(lines.get((arm, *column))) for column in columns)]
        for arm in dict.fromkeys(league["arm"])
    ]
    rows = [" & ".join(cells) + r" \\" for cells in [["Arm", *map(_head, columns)], *body]]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_caption(league, lower, upper)}}}",
            rf"  \begin{{tabular}}{{l{'r' * len(columns)}}}",
            r"    \toprule",
            f"    {rows[0]}",
            r"    \midrule",
            *(f"    {row}" for row in rows[1:]),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Records that JSON can hold: nan as None."""
    return [
        {str(k): None if isinstance(v, float) and np.isnan(v) else v for k, v in line.items()}
        for line in table.to_dict("records")
    ]


def _columns(league: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Dice of the structures, then of their means; HD95 of the means, in mm where there are mm."""
    known = list(dict.fromkeys(zip(*(league[k] for k in _KEY), strict=True)))
    dice = sorted((k for k in known if k[1] == "dice"), key=lambda k: _is_mean(k[0]))
    distances = [k for k in known if k[1] == "hd95" and (_is_mean(k[0]) or not any(map(_is_mean, known)))]
    unit = "mm" if any(k[2] == "mm" for k in distances) else "voxel"
    return [*dice, *(k for k in distances if k[2] == unit)]


def _is_mean(structure: str | tuple[str, ...]) -> bool:
    name = structure if isinstance(structure, str) else structure[0]
    return name.split(" ")[0] == "mean"


def _head(column: tuple[str, str, str]) -> str:
    structure, metric, unit = column
    name = f"{_NAMES[metric]} {_escape(structure)}"
    return f"{name} ({unit})" if unit else name


def _cell(line: Mapping[Any, Any] | None) -> str:
    if line is None or np.isnan(line["mean"]):
        return "--"
    digits = 3 if line["metric"] in HIGHER_IS_BETTER else 1
    mean = f"{line['mean']:.{digits}f}"
    mean = rf"\textbf{{{mean}}}" if line["rank"] == 1 else mean
    return mean if np.isnan(line["sd"]) else rf"{mean} $\pm$ {line['sd']:.{digits}f}"


def _caption(league: pd.DataFrame, lower: str, upper: str) -> str:
    def span(counts: pd.Series[int]) -> str:
        ends = sorted({int(counts.min()), int(counts.max())})
        return " to ".join(map(str, ends))

    counted = (
        f"{span(league['n_patients'])} patients, seeds of training: {span(league['n_seeds'])}. "
        if len(league)
        else ""
    )
    return (
        rf"Mean $\pm$ SD over patients of their means over frames and seeds; {counted}"
        rf"Bold: the best mean between the bounds (\emph{{{_escape(lower)}}}, \emph{{{_escape(upper)}}}), "
        "whether or not it can be told from the next."
    )


def _escape(text: str) -> str:
    return text.translate(_ESCAPES)
