"""Scored scans, their images and predictions → the pictures of the worst, the median and the best of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CrossbeatError
from crossbeat.labels import TRAINED, fold_into_myocardium
from crossbeat.report.overlays import Window, annotation_note, heart_window, overlay_svg, three_levels
from crossbeat.report.tables import Block, scans_by_dice

ReadPrediction = Callable[[Row], NDArray[np.uint8] | None]


@dataclass(frozen=True)
class Picture:
    """One slice with its contours."""

    svg: str
    name: str
    """Phase and level: 'ED, base'."""
    dice: str
    """Dice of this slice by structure; '' where it was not scored."""
    note: str
    """'not annotated' and the like; '' where all structures of the slice were looked at."""


@dataclass(frozen=True)
class CaseView:
    """One scan as the page shows it; without slices where it cannot be drawn, and `sentence` then says why."""

    place: str
    scan: str
    sentence: str
    slices: list[Picture]


def worst_median_best(block: Block) -> list[tuple[str, str, float]]:
    """(place, scan, mean Dice) of the three scans; fewer where there are fewer scans."""
    ranked = scans_by_dice(block)
    if ranked.empty:
        return []
    places = {0: "Worst", len(ranked) // 2: "Median", len(ranked) - 1: "Best"}
    if len(ranked) == 1:
        places = {0: "The only scan"}
    elif len(ranked) == 2:
        places = {0: "Worst", 1: "Best"}
    return [(place, str(ranked.index[i]), float(ranked.iloc[i])) for i, place in sorted(places.items())]


def case_views(block: Block, cohort: Cohort | None, read_prediction: ReadPrediction) -> list[CaseView]:
    """The three scans with base, mid and apex at ED and ES, each slice with its own Dice.

    A scan that cannot be read, or that has no prediction, is named with the reason; the page goes on.
    """
    return [
        _view(place, scan, mean, block, cohort, read_prediction)
        for place, scan, mean in worst_median_best(block)
    ]


def _view(
    place: str, scan: str, mean: float, block: Block, cohort: Cohort | None, read_prediction: ReadPrediction
) -> CaseView:
    scores = block.scores[block.scores["scan"] == scan]
    sentence = f"Mean Dice {mean:.3f}; {_about(scores)}."
    if cohort is None:
        return CaseView(place, scan, f"{sentence} Not drawn: no cohort was given to read its image from.", [])
    try:
        row = cohort.row(scan)
        case, predicted = cohort.read(row), read_prediction(row)
    except (CrossbeatError, OSError) as error:
        return CaseView(place, scan, f"{sentence} Not drawn: {error}.", [])
    if predicted is None:
        return CaseView(place, scan, f"{sentence} Not drawn: it has no prediction file.", [])
    if predicted.shape != case.image.shape:
        why = f"prediction has shape {predicted.shape}, image {case.image.shape}"
        return CaseView(place, scan, f"{sentence} Not drawn: {why}.", [])
    return CaseView(place, scan, sentence, list(_pictures(case, predicted, scores)))


def _pictures(case: Case, predicted: NDArray[np.uint8], scores: pd.DataFrame) -> Iterator[Picture]:
    drawn = np.isin(predicted, TRAINED)
    if case.labels is not None:
        drawn |= np.isin(fold_into_myocardium(case.labels), TRAINED)
    frames = _frames(scores, case.frames)
    window = heart_window(drawn[frames], case.spacing_mm[1:])
    for frame in frames:
        part = scores[scores["frame"].astype(str) == str(frame)]
        phase = next((p for p in part["phase"] if p), "") or f"frame {frame}"
        for z, level in _levels(part, drawn[frame]):
            yield _picture(case, predicted, frame, z, window, part, f"{phase}, {level}")


def _picture(
    case: Case,
    predicted: NDArray[np.uint8],
    frame: int,
    z: int,
    window: Window,
    scores: pd.DataFrame,
    name: str,
) -> Picture:
    rows = scores[(scores["slice"] == str(z)) & (scores["metric"] == "dice")]
    dice = rows.set_index("structure")["value"].reindex([s.name for s in TRAINED]).dropna()
    said = ", ".join(f"{structure} {value:.2f}" for structure, value in dice.items())
    note = annotation_note(case, frame, z)
    label = f"Scan {case.id}, {name}, slice {z}: contours of prediction and reference"
    label += f"; Dice {said}" * bool(said) + f"; {note}" * bool(note)
    return Picture(overlay_svg(case, predicted, frame, z, window, label), name, said, note)


def _frames(scores: pd.DataFrame, frames: int) -> list[int]:
    """ED and ES where they were scored, else the first two scored frames."""
    found = {int(f): p for f, p in zip(scores["frame"], scores["phase"], strict=True) if str(f).isdigit()}
    inside = {f: p for f, p in found.items() if f < frames}
    phases = [f for phase in ("ED", "ES") for f, p in inside.items() if p == phase]
    return list(dict.fromkeys(phases)) or sorted(inside)[:2]


def _levels(scores: pd.DataFrame, drawn: NDArray[np.bool_]) -> list[tuple[int, str]]:
    """The middle slice of base, mid and apex as scored; else the thirds of what is drawn, named by number."""
    rows = scores[(scores["slice"] != "") & (scores["level"] != "")]
    out = []
    for level in ("base", "mid", "apex"):
        slices = sorted({int(z) for z in rows.loc[rows["level"] == level, "slice"]})
        if slices:
            out.append((slices[len(slices) // 2], level))
    return out or [(z, f"slice {z}") for z in three_levels(drawn)]


def _about(scores: pd.DataFrame) -> str:
    first = scores.iloc[0]
    names = {"subject": "subject", "group": "group", "vendor": "vendor", "centre": "centre"}
    said = [f"{word} {first[column]}" for column, word in names.items() if str(first.get(column, ""))]
    return ", ".join(said)
