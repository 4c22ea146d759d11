"""A run's files, tables, charts and overlays → everything that the template says, and the page as one string."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from crossbeat import __version__
from crossbeat.report.banners import Banner
from crossbeat.report.cases import CaseView
from crossbeat.report.charts import Chart, box_chart
from crossbeat.report.clinical import Clinical, Figure, VolumeCurves
from crossbeat.report.domains import SEQUENCES, domain_name
from crossbeat.report.run_folder import Missing, RunFolder
from crossbeat.report.svg import COLOURS
from crossbeat.report.tables import (
    METRIC_NAMES,
    METRICS,
    Block,
    Breakdown,
    Failure,
    Score,
    Share,
    breakdowns,
    failures,
    headline_scores,
    is_mean,
    lowest_dice,
    missed_by_level,
    missed_slices,
    not_looked_at,
    patient_points,
    share,
)
from crossbeat.report.templates import fill, style
from crossbeat.report.trained import Overlap, Trained
from crossbeat.report.wording import count, number, rounded, signed
from crossbeat.statistics import FEWEST_PATIENTS

NAMES: Final = {
    "LV": "LV cavity", "MYO": "Myocardium", "RV": "RV cavity", "SCAR": "Scar", "EDEMA": "Oedema",
}  # fmt: skip

DEFINITIONS: Final = (
    ("Dice", "2 |P ∩ R| / (|P| + |R|) of predicted and reference voxels: 0 is nothing shared, 1 is equal."),
    (
        "HD95",
        "the larger of the two directed 95th percentiles of distances between the surfaces, in 3-D for volumes "
        "and in 2-D for slices.",
    ),
    ("ASSD", "Mean of all distances from either surface to the other."),
    (
        "Empty masks",
        "both empty: undefined, left out of the mean and counted. One empty: missed, with Dice 0 and the image "
        "diagonal as distance, kept in the mean and counted.",
    ),
    (
        "Patients",
        "the unit of every mean, SD, median and interval: frames or slices of a patient are averaged first.",
    ),
    (
        "95 % interval",
        "bias-corrected and accelerated bootstrap over patients (Efron 1987), widened for few of them (Hesterberg "
        f"2015): what the mean might have been with other patients like these. Fewer than {FEWEST_PATIENTS} patients "
        "are too few for one, and scans that were trained on say nothing of other patients. Intervals of bias and "
        "limits of agreement are by Student's t (Bland & Altman 1999).",
    ),
    (
        "Mean of LV, MYO, RV",
        "of the frames in which all three were drawn, and undefined where one of them is; where only two were drawn "
        "their mean stands apart, under their names.",
    ),
    (
        "Not looked at",
        "frames, slices and structures that no annotator drew are not scored, and never count as background.",
    ),
    ("LV mass", "Myocardium at ED times 1.05 g/ml. Volumes use the distance between slices, gaps included."),
)


@dataclass(frozen=True)
class Part:
    """The section of one domain: its headline, boxes, breakdowns, pictures and failures."""

    anchor: str
    title: str
    sentence: str
    keys: list[Score]
    headline: list[list[Score]]
    boxes: list[Chart]
    breakdowns: list[Breakdown]
    cases: list[CaseView]
    failures: list[Failure]
    lowest: list[tuple[str, float, list[float]]]
    missed_slices: list[tuple[str, str, int]]
    slices_sentence: str
    """How many structures were missed in single slices, and at which level; '' where none was."""
    nominal: bool
    overlap: Overlap


@dataclass(frozen=True)
class Page:
    """Everything that page.html shows."""

    title: str
    name: str
    path: str
    size_word: str
    lead: list[str]
    banners: list[Banner]
    missing: Sequence[Missing]
    parts: list[Part]
    clinical: list[Clinical]
    volumes: VolumeCurves | None
    learning: list[tuple[str, list[Chart]]]
    data: list[tuple[str, list[Share]]]
    definitions: list[tuple[str, str]]
    provenance: list[tuple[str, str]]
    settings: str
    next_command: str
    next_reason: str
    version: str = __version__

    @property
    def css(self) -> str:
        """The style sheet, as it stands inside the page."""
        return style()

    @property
    def contents(self) -> list[tuple[str, str]]:
        """(anchor, name) of the sections that there are."""
        wanted = [(part.anchor, part.title, True) for part in self.parts] + [
            ("clinical", "Clinical indices", self.clinical),
            ("volumes", "Volume curves", self.volumes),
            ("learning", "Learning curves", self.learning),
            ("data", "Data", self.data),
            ("definitions", "Definitions", True),
            ("provenance", "Provenance", True),
        ]
        return [(anchor, name) for anchor, name, there in wanted if there]


def render(page: Page) -> str:
    """The page as HTML that loads nothing; every text from outside is escaped."""
    filters: dict[str, Callable[..., Any]] = {
        "number": number,
        "rounded": rounded,
        "figure": figure,
        "interval": interval,
        "metric": lambda name: METRIC_NAMES.get(name, name),
        "structure": structure_name,
    }
    return fill("page.html", {"page": page, "colour": _colour}, filters)


def spread(score: Score) -> str:
    """Mean ± SD with the unit, marked where it is nominal: '2.32 ± 1.45 mm (nominal)'; one patient has no SD."""
    said = number(score.summary.mean, score.unit)
    if math.isfinite(score.summary.sd):
        said += f" ± {number(score.summary.sd, score.unit)}"
    return f"{said} {score.unit}".strip() + (" (nominal)" if score.nominal else "")


def interval(score: Score) -> str:
    """The 95 % interval of a mean, or in words why there is none."""
    if score.seen:
        return "none: trained on"
    if score.summary.n_patients < FEWEST_PATIENTS:
        return "too few patients"
    return f"{number(score.summary.low, score.unit)} to {number(score.summary.high, score.unit)}"


def figure(found: Figure) -> str:
    """A difference with its sign and, in brackets, its 95 % interval: '+2.1 (+0.4 to +3.8)'."""
    value, low, high = (signed(v, digits=1) for v in (found.value, found.low, found.high))
    return value + (f" ({low} to {high})" if math.isfinite(found.low) else "")


def structure_name(structure: str) -> str:
    """A structure in words; a mean with the structures that it is of."""
    if is_mean(structure):
        return "Mean of " + ", ".join(structure.split(" ")[1:] or ("LV", "MYO", "RV"))
    return NAMES.get(structure, structure)


def make_part(block: Block, cases: list[CaseView], *, alone: bool) -> Part:
    """The section of a domain; `alone` where there is no other."""
    name = "Result" if alone or not block.name else f"Result on {domain_name(block.name, block.scores)}"
    table = headline_scores(block)
    boxes = []
    for metric in METRICS:
        points = patient_points(block, metric)
        unit = next((s.unit for row in table for s in row if s.metric == metric), "")
        nominal = any(s.nominal for row in table for s in row if s.metric == metric)
        if points:
            title = METRIC_NAMES[metric] + (f", {unit}{'† (nominal)' if nominal else ''}" if unit else "")
            boxes.append(box_chart(f"{metric}-{block.anchor}", title, points, bounded=metric == "dice"))
    keys = [row[0] for row in table if row[0].metric == "dice"]
    return Part(
        anchor=block.anchor,
        title=name,
        sentence=_scope_sentence(block),
        keys=[k for k in keys if is_mean(k.structure)] + [k for k in keys if not is_mean(k.structure)],
        headline=table,
        boxes=boxes,
        breakdowns=breakdowns(block),
        cases=cases,
        failures=failures(block),
        lowest=lowest_dice(block),
        missed_slices=missed_slices(block),
        slices_sentence=_slices_sentence(block),
        nominal=any(score.nominal for row in table for score in row),
        overlap=block.overlap,
    )


def find_title(folder: RunFolder) -> str:
    """Method, source and target as the recipe names them: 'Weak transfer from cine bSSFP to LGE'."""
    method = folder.method.replace("_", " ").capitalize() or "Segmentation"
    source, target = (_named(folder.settings.get(role)) for role in ("source", "target"))
    if target:
        return f"{method} from {source} to {target}" if source else f"{method} to {target}"
    return f"{method} on {source}" if source else f"{method} segmentation of the heart"


def lead(folder: RunFolder, blocks: Sequence[Block]) -> list[str]:
    """One sentence on what was trained on what, one on what it was scored on."""
    sentences = []
    phrases = _training_phrases(folder.trained, folder.settings)
    if phrases:
        sentences.append(f"Trained on {'; '.join(phrases)}.")
    if blocks:
        sentences.append(
            "Scored on "
            + "; ".join(
                f"{count(b.subjects, 'subject')} ({count(b.scans, 'scan')}"
                + (f", {domain_name(b.name, b.scores)}" if b.name else "")
                + (", test split)" if b.is_test else ")")
                for b in blocks
            )
            + "."
        )
    else:
        sentences.append("Not scored yet: there is no score in scores.csv.")
    return sentences


def definitions(folder: RunFolder) -> list[tuple[str, str]]:
    """The fixed definitions, and the papillary convention where indices.csv states one."""
    found = list(DEFINITIONS)
    if "papillary" in folder.indices:
        stated = sorted(set(folder.indices["papillary"].astype(str)) - {"", "nan"})
        if stated:
            found.append(
                ("Papillary muscles", "; ".join(stated) + ". Counting them otherwise moves EF and mass.")
            )
    return [(name, text[0].upper() + text[1:]) for name, text in found]


def next_step(folder: RunFolder, parts: Sequence[Part]) -> tuple[str, str]:
    """The command to run after reading, and why."""
    if folder.missing:
        piece = folder.missing[0]
        return piece.command, f"Makes {piece.what}."
    why = "Opens the scans in the browser with prediction and reference"
    failed = next((f.scan for part in parts for f in part.failures), "")
    return f"crossbeat view {folder.path}", why + (f"; begin with {failed}." if failed else ".")


def _scope_sentence(block: Block) -> str:
    said = f"{count(block.subjects, 'patient')}, {count(block.scans, 'scan')}"
    if block.is_test:
        said += " of the test split; no other split counts here."
    else:
        said += ": all that were scored, because no scored scan is of a test split."
    if block.overlap.there:
        said += " Not a test: the run has seen some of these scans, or of these patients, in training."
    left_out = not_looked_at(block)
    if any(left_out.values()):
        said += (
            f" Left out, because nobody labelled them: {count(left_out['unlabelled_frames'], 'whole frame')}, "
            f"and {count(left_out['unknown_voxels'], 'voxel')} of labelled frames."
        )
    return said


def _slices_sentence(block: Block) -> str:
    by_level = missed_by_level(block)
    if not by_level:
        return ""
    where = ", ".join(f"{n} {_LEVEL_PHRASES.get(level, level)}" for level, n in by_level.items())
    among = (
        "those of the missed volumes included"
        if failures(block)
        else "though both have it in other slices of the volume"
    )
    return (
        f"In single slices a structure stands in only one of the two masks {count(sum(by_level.values()), 'time')}, "
        f"{among}: {where}. At the ends of the heart annotators differ in which slice they draw first and last."
    )


_LEVEL_PHRASES: Final = {
    "base": "at the base",
    "mid": "at mid-ventricle",
    "apex": "at the apex",
    "outside": "beyond the first and last slice of the reference",
    "": "in slices of no stated level",
}


def _named(wanted: Any) -> str:
    if not isinstance(wanted, Mapping) or not wanted:
        return ""
    values = [str(v) for value in wanted.values() for v in (value if isinstance(value, list) else [value])]
    return " and ".join(SEQUENCES.get(v, v) for v in values)


def _training_phrases(trained: Trained, settings: Mapping[str, Any]) -> list[str]:
    """What was trained on, part by part, and whether the labels were seen."""
    labels = {"source": "labelled", "labelled_target": "labelled", "target": "labels hidden"}
    if not trained.stated and settings.get("target_labels", "none") != "none":
        wanted = ", ".join(
            f"{k} {settings[k]}" for k in ("target_labels", "target_labelled") if k in settings
        )
        labels["target"] = f"labels as set: {wanted}"
    parts = ((part, trained.parts[part]) for part in labels if part in trained.parts)
    return [_part_phrase(part, scans, labels[part], trained, settings) for part, scans in parts]


def _part_phrase(
    part: str, scans: Sequence[str], labels: str, trained: Trained, settings: Mapping[str, Any]
) -> str:
    role = "target " if "target" in part else "source " if settings.get("target") else ""
    rows = [trained.rows[scan] for scan in scans if scan in trained.rows]
    if len(rows) < len(scans):
        return f"{count(len(scans), 'scan')} ({role}{labels})"
    of = share(part, "", rows)
    sequences = ", ".join(SEQUENCES.get(s, s) for s in of.sequences.split(", "))
    vendor = f", vendor {of.vendors}" if of.vendors else ""
    return f"{count(of.subjects, 'subject')} ({role}{sequences}, {count(of.scans, 'scan')}, {labels}{vendor})"


def _colour(structure: str) -> str:
    return "var(--muted)" if is_mean(structure) else COLOURS.get(structure, "var(--muted)")
