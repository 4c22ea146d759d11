"""Tested scans and the arms' label maps → the same slices as every arm segments them, side by side."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CrossbeatError
from crossbeat.labels import TRAINED, fold_into_myocardium
from crossbeat.report.overlays import Window, annotation_note, heart_window, overlay_svg, three_levels
from crossbeat.report.study_tables import patient_values
from crossbeat.report.study_view import ArmView, StudyView


@dataclass(frozen=True)
class Column:
    """One arm's slices of one scan, from one end of the heart to the other."""

    arm: str
    slices: list[str]
    """SVGs; none where the arm has no prediction, and `note` then says why."""
    dice: str
    """Dice of the frame; '' where it was not scored."""
    note: str


@dataclass(frozen=True)
class PatientView:
    """One patient's scan, first with the reference alone, then by every arm."""

    place: str
    scan: str
    sentence: str
    columns: list[Column]


def patient_views(view: StudyView, structure: str) -> list[PatientView]:
    """Three patients: the worst, the median and the best by their mean Dice of `structure` over the arms.

    Of each the first scan in the order of the cohort; its frame of end diastole, or else the first that was
    annotated; the middle slice of each third of the heart. A scan or a prediction that cannot be read is named
    with the reason.
    """
    return [
        _patient(view, view.tested, subject, place, mean, structure)
        for place, subject, mean in worst_median_best(view, structure)
        if view.tested is not None
    ]


def worst_median_best(view: StudyView, structure: str) -> list[tuple[str, str, float]]:
    """(place, patient, mean Dice over the arms) among the tested patients whom every scored arm has."""
    found = patient_values(view.scores, structure, "dice", "")
    tested = {row.subject for row in view.tested} if view.tested is not None else set()
    everywhere = set.intersection(*(set(values) for values in found.values())) if found else set()
    means = {
        subject: float(np.mean([values[subject][0] for values in found.values()]))
        for subject in sorted(everywhere & tested)
    }
    ranked = sorted(means, key=lambda subject: means[subject])
    if not ranked:
        return []
    places = {0: "Worst", len(ranked) // 2: "Median", len(ranked) - 1: "Best"}
    if len(ranked) < 3:
        places = {0: "Worst", 1: "Best"} if len(ranked) == 2 else {0: "The only patient"}
    return [(place, ranked[i], means[ranked[i]]) for i, place in sorted(places.items())]


def why_no_pictures(view: StudyView, structure: str) -> str:
    """Why `patient_views` shows nobody, as a clause."""
    if view.tested is None:
        return "the scans were not at hand when this page was made"
    found = patient_values(view.scores, structure, "dice", "")
    scored = {subject for values in found.values() for subject in values}
    if scored.isdisjoint(row.subject for row in view.tested):
        return "none of the scans at hand has a Dice"
    return "no tested patient has a Dice by every arm that was scored, and arms are compared on the same scan"


def _patient(
    view: StudyView, tested: Cohort, subject: str, place: str, mean: float, structure: str
) -> PatientView:
    row = next(row for row in tested if row.subject == subject)
    sentence = f"Patient {subject}, mean Dice over the arms {mean:.3f}."
    try:
        case = tested.read(row)
    except (CrossbeatError, OSError) as error:
        return PatientView(place, row.scan, f"{sentence} Not drawn: {error}.", [])
    frame = _frame(row, case)
    phase = "ED" if frame == row.ed_frame else "ES" if frame == row.es_frame else ""
    looked = _reference(case)[frame]
    read = {arm.name: _read(arm, row, case) for arm in view.arms}
    maps = [labels for labels, _ in read.values() if labels is not None]
    if not looked.any() and maps:
        looked = np.any([np.isin(labels[frame], TRAINED) for labels in maps], axis=0)
    window = heart_window(looked, case.spacing_mm[1:])
    slices = three_levels(looked) or [case.image.shape[1] // 2]
    said = f"frame {frame}{f' ({phase})' if phase else ''}" if case.frames > 1 else phase
    said += f"{', ' if said else ''}slice{'s' if len(slices) > 1 else ''} {', '.join(map(str, slices))}"
    notes = sorted({note for z in slices if (note := annotation_note(case, frame, z))})
    sentence += (
        f" {said[0].upper()}{said[1:]} of {case.image.shape[1]}{'; ' + '; '.join(notes) if notes else ''}."
    )
    seeds = {arm.name: _seed(view, arm, row.scan) for arm in view.arms}
    shown = [seed for arm, seed in seeds.items() if read[arm][0] is not None and seed is not None]
    usual = Counter(shown).most_common(1)[0][0] if shown else None
    if usual is not None and len(view.seeds) > 1:
        sentence += (
            f" Predictions of seed {usual}{' where no other is named' if len(set(shown)) > 1 else ''}."
        )
    names = [f"{place.split()[0].lower()}-{z}" for z in slices]
    alone = _svgs(case, None, frame, slices, window, "reference")
    columns = [Column("Reference", list(map(_shared, alone, names)), "", "")]
    for arm in view.arms:
        labels, note = read[arm.name]
        dice = _dice(view, arm.name, seeds[arm.name], row.scan, phase, structure)
        if labels is None:
            columns.append(Column(arm.name, [], dice, note))
            continue
        pictures = map(_sharing, _svgs(case, labels, frame, slices, window, arm.name), names)
        said_of = [f"seed {seeds[arm.name]}"] if seeds[arm.name] not in (usual, None) else []
        said_of += [_BEYOND] if _draws_beyond(labels[frame], window) else []
        columns.append(Column(arm.name, list(pictures), dice, "; ".join(said_of)))
    return PatientView(place, row.scan, sentence, columns)


def _svgs(
    case: Case, labels: NDArray[np.uint8] | None, frame: int, slices: list[int], window: Window, who: str
) -> Iterator[str]:
    for z in slices:
        yield overlay_svg(case, labels, frame, z, window, f"Scan {case.id}, slice {z}, {who}")


def _shared(svg: str, name: str) -> str:
    """The picture of the reference, its image and its dashed lines named so that the arms' pictures can show them."""
    svg = svg.replace("<image ", f'<image id="image-{name}" ', 1)
    lines = "".join(_LINES.findall(svg))
    return _LINES.sub("", svg).replace("</svg>", f'<g id="drawn-{name}">{lines}</g></svg>')


def _sharing(svg: str, name: str) -> str:
    """An arm's picture that shows the image and the reference of `_shared` instead of repeating them."""
    svg = _IMAGE.sub(f'<use href="#image-{name}"/>', svg)
    return _LINES.sub("", svg).replace("</svg>", f'<use href="#drawn-{name}"/></svg>')


_IMAGE = re.compile(r"<image [^>]*/>")
_LINES = re.compile(r'<path class="reference"[^>]*/>')


def _read(arm: ArmView, row: Row, case: Case) -> tuple[NDArray[np.uint8] | None, str]:
    """The arm's label map of a scan, or why there is none."""
    if arm.read_prediction is None:
        return None, "failed" if arm.failed else "no prediction"
    try:
        labels = arm.read_prediction(row)
    except (CrossbeatError, OSError) as error:
        return None, f"not read: {error}"
    if labels is not None and labels.shape != case.image.shape:
        return None, f"has shape {labels.shape}, the scan {case.image.shape}"
    return labels, "" if labels is not None else "no prediction"


def _frame(row: Row, case: Case) -> int:
    """End diastole where somebody drew it, else the first frame that somebody drew, else the first."""
    seen = [t for t in range(case.frames) if case.labels is not None and case.drawn[t]]
    return row.ed_frame if row.ed_frame in seen and row.ed_frame is not None else (seen or [0])[0]


def _reference(case: Case) -> NDArray[np.bool_]:
    if case.labels is None:
        return np.zeros(case.image.shape, bool)
    return np.isin(fold_into_myocardium(case.labels), TRAINED)


def _seed(view: StudyView, arm: ArmView, scan: str) -> int | None:
    """The seed whose label map of a scan is shown; None where the arm has not scored it."""
    if arm.seed is not None:
        return arm.seed
    rows = view.scores[(view.scores["arm"] == arm.name) & (view.scores["scan"] == scan)]
    return next((seed for seed in view.seeds if (rows["seed"] == seed).any()), None)


def _dice(view: StudyView, arm: str, seed: int | None, scan: str, phase: str, structure: str) -> str:
    """Dice of the scan by one seed of the arm, of the phase that is shown where phases were told apart."""
    rows = view.scores
    rows = rows[(rows["arm"] == arm) & (rows["scan"] == scan) & (rows["level"] == "")]
    rows = rows[(rows["structure"] == structure) & (rows["metric"] == "dice")]
    rows = rows[rows["seed"] == seed]
    of_phase = rows[rows["phase"] == phase]
    value = pd.to_numeric((of_phase if len(of_phase) else rows)["value"]).mean()
    return f"Dice {value:.3f}" if pd.notna(value) else ""


_BEYOND = "draws beyond this cut-out too"


def _draws_beyond(labels: NDArray[np.uint8], window: Window) -> bool:
    """Whether an arm also draws outside the picture, which is cut to the reference."""
    there = np.isin(labels, TRAINED)
    return bool(there.sum() > there[(slice(None), *window.cut)].sum())
