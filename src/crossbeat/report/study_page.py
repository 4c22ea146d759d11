"""A study's records → one self-contained HTML page that compares its arms, and its charts as SVG files."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from crossbeat import __version__
from crossbeat.report.banners import SIZES, Banner, nominal_spacing, transductive
from crossbeat.report.charts import Chart
from crossbeat.report.page import DEFINITIONS, structure_name
from crossbeat.report.study_charts import (
    Values,
    arm_boxes,
    arm_curves,
    gap_chart,
    league_chart,
    paired_chart,
)
from crossbeat.report.study_slices import PatientView, patient_views, why_no_pictures
from crossbeat.report.study_tables import (
    League,
    PartTable,
    Settings,
    Standing,
    differing_settings,
    paired_values,
    part_tables,
    patient_values,
    read_league,
    seed_means,
)
from crossbeat.report.study_view import ArmView, StudyView
from crossbeat.report.tables import METRIC_NAMES, value_name
from crossbeat.report.templates import fill, style
from crossbeat.report.wording import NOTHING_FOUND, count, duration, memory, number, p_value, percent, signed
from crossbeat.report.writing import write_whole
from crossbeat.statistics import FEWEST_PATIENTS

__all__ = ["ArmView", "StudyView", "write_study_report"]

OURS: Final = (
    ("Arm, cell", "an arm is one way of training; a cell is one run of it, with one seed and one fold."),
    (
        "Lower and upper bound",
        "the lower bound never saw the target; the upper bound was trained on the target's own labels, every "
        "patient being scored by a run that had not seen him.",
    ),
    (
        "Share of the gap closed",
        "(arm − lower bound) / (upper bound − lower bound) of the means, 0 % being the lower and 100 % the upper "
        "bound. None where the bounds cannot be told apart.",
    ),
    (
        "Difference",
        "mean over patients of arm − reference, of the patients whom both scored; those whom only one has are "
        "counted as unpaired.",
    ),
    (
        "p",
        "Wilcoxon's signed-rank test over patients, corrected by Holm over all arms and structures of a metric "
        "(the means over structures among themselves). It takes the trained networks as they are; only the intervals, "
        "of two seeds and more, know that another training might turn a difference around.",
    ),
    (
        "Effect",
        "matched-pairs rank-biserial correlation: 1 where every patient has a larger value than with the reference, "
        "−1 where every one has a smaller.",
    ),
    (
        "Interval of an arm's mean",
        "95 % bootstrap over patients, and over seeds too where there are several. Fewer than "
        f"{FEWEST_PATIENTS} patients are too few for one.",
    ),
)
"""What a study's numbers mean, beside the definitions of a run's page."""

MOST_NOTES: Final = 3
"""Notes that stand as banners of their own; more are folded into one."""

SHARED: Final = ("Dice", "HD95", "ASSD", "Empty masks", "Patients", "Not looked at")
"""Definitions that a study's page takes over from a run's."""

PRINTED: Final = (
    "Where", "Arm", "What", "Printed", "Ours, counted alike", "Ours − printed", "Ours over patients", "Remark"
)  # fmt: skip
"""Head of the table of printed values beside ours."""


@dataclass(frozen=True)
class StudyPage:
    """Everything that study.html shows."""

    view: StudyView
    league: League
    lead: list[str]
    banners: list[Banner]
    keys: list[tuple[str, Standing, str]]
    league_charts: list[Chart]
    paired: list[Chart]
    boxes: list[Chart]
    parts: list[tuple[str, list[PartTable]]]
    curves: list[tuple[str, list[Chart]]]
    patients: list[PatientView]
    settings: Settings
    printed: list[list[str]]
    definitions: list[tuple[str, str]]
    version: str = __version__

    @property
    def css(self) -> str:
        """The style sheet of all our pages and what a study's adds."""
        return style("study.css")

    @property
    def size_word(self) -> str:
        """What is to be known of the size before all else, for the head of the page."""
        return SIZES[self.view.size][1].rstrip(".").lower() if self.view.size in SIZES else ""

    @property
    def folded(self) -> tuple[tuple[str, str], ...]:
        """Notes that are too many to stand one by one at the head of the page."""
        return self.view.notes if len(self.view.notes) > MOST_NOTES else ()

    @property
    def why_none(self) -> str:
        """Why there is no league."""
        if not any(arm.finished for arm in self.view.arms):
            return "No cell has finished yet, so there is nothing to compare."
        return "Not made yet: both bounds and the reference arm need a finished cell first."

    @property
    def why_no_pictures(self) -> str:
        """Why no slices are shown."""
        return why_no_pictures(self.view, self.league.headline)

    @property
    def reference(self) -> str:
        return self.view.compared_with

    @property
    def contents(self) -> list[tuple[str, str]]:
        """(anchor, name) of the sections that there are."""
        wanted = [
            ("league", "League", self.league.lines),
            ("paired", "Patient by patient", self.paired),
            ("spread", "Spread", self.boxes),
            ("parts", "Where it works", self.parts),
            ("slices", "Slices", self.patients),
            ("published", "Published values", self.printed),
            ("arms", "Arms and cost", True),
            ("settings", "Settings", self.settings.arms),
            ("learning", "Learning curves", self.curves),
            ("failures", "Failures", True),
            ("definitions", "Definitions", True),
            ("provenance", "Provenance", True),
        ]
        return [(anchor, name) for anchor, name, there in wanted if there]

    def charts(self) -> Iterator[Chart]:
        """Every chart of the page."""
        yield from (*self.league_charts, *self.paired, *self.boxes)
        for _, charts in self.curves:
            yield from charts


def write_study_report(view: StudyView, out: Path) -> Path:
    """Write `study.html` into a folder, and its charts as SVG into `figures/`; the path of the page.

    Arms that failed keep their line in every table. Sections of which nothing is known yet are left out, so that
    a study can be looked at while it runs. Charts of an earlier page that this one does not have are removed.
    """
    page = make_study_page(view)
    drawn = {write_whole(out / "figures" / f"{chart.name}.svg", chart.file) for chart in page.charts()}
    written = write_whole(out / "study.html", render(page))
    for file in (out / "figures").glob("*.svg"):
        if file not in drawn and _CHART_FILE.fullmatch(file.name):
            file.unlink()
    return written


def make_study_page(view: StudyView) -> StudyPage:
    """All that the page says, from the records of a study."""
    league = read_league(view.league, view.scores)
    return StudyPage(
        view=view,
        league=league,
        lead=lead(view),
        banners=list(banners(view)),
        keys=list(key_figures(view, league)),
        league_charts=list(league_charts(view, league)),
        paired=list(paired_charts(view, league)),
        boxes=list(box_charts(view, league)),
        parts=part_tables(view, league),
        curves=learning_charts(view),
        patients=patient_views(view, league.headline),
        settings=differing_settings(view.arms),
        printed=printed_values(view.side_by_side, nominal=view.nominal),
        definitions=[*OURS, *((name, text) for name, text in DEFINITIONS if name in SHARED)],
    )


def render(page: StudyPage) -> str:
    """The page as HTML that loads nothing; every text from outside is escaped."""
    filters: dict[str, Callable[..., Any]] = {
        "number": number, "metric": lambda name: METRIC_NAMES.get(name, name), "structure": structure_name,
        "value": value_name, "plural": count,
        "name": breakable, "p": p_value, "signed": signed, "percent": percent, "duration": duration, "memory": memory,
    }  # fmt: skip
    return fill("study.html", {"page": page, "view": page.view, "league": page.league}, filters)


def lead(view: StudyView) -> list[str]:
    """What is asked, and what there is to answer it."""
    cells, finished = (sum(getattr(arm, what) for arm in view.arms) for what in ("cells", "finished"))
    said = f"{count(len(view.arms), 'arm')}, {count(len(view.seeds), 'seed')}; "
    said += f"{finished} of {count(cells, 'cell')} finished."
    if len(view.scores):
        patients, scans = (view.scores[column].nunique() for column in ("subject", "scan"))
        said += f" Scored on {count(patients, 'patient')} ({count(scans, 'scan')}) of the target."
    return [text for text in (view.question, said) if text]


def banners(view: StudyView) -> Iterator[Banner]:
    """What a reader must know before the first number."""
    if view.size in SIZES:
        _, head, text = SIZES[view.size]
        yield Banner(head, text)
    if view.nominal:
        yield nominal_spacing(view.nominal_scans, max(view.tested_scans, view.nominal_scans))
    if view.transductive:
        yield transductive(view.transductive if len(view.transductive) < len(view.arms) else ())
    failed = [arm for arm in view.arms if arm.problems]
    if failed:
        cells = sum(len(arm.problems) for arm in failed)
        arms = ", ".join(f"{a.name} ({len(a.problems)} of {count(a.cells, 'cell')})" for a in failed)
        yield Banner(
            f"{count(cells, 'cell')} failed:", f"{arms}. What they said stands under Failures.", bad=True
        )
    waiting = sum(arm.waiting for arm in view.arms)
    if waiting:
        text = "Numbers will move when they are; the command at the end of this page goes on with them."
        yield Banner(f"{count(waiting, 'cell')} not run yet.", text)
    if len(view.notes) <= MOST_NOTES:
        yield from (Banner(head, text) for head, text in view.notes)


def key_figures(view: StudyView, league: League) -> Iterator[tuple[str, Standing, str]]:
    """(what it is, its figures, the arm) of the lower bound, the highest other arm and the upper bound.

    Where no other arm found the heart, none of them is called the highest.
    """
    found = {a.name: s for a in view.arms if (s := league.of(a.name, league.headline, "dice")) is not None}
    found = {name: s for name, s in found.items() if math.isfinite(s.mean)}
    others = [found[a.name] for a in view.arms if not a.bound and a.name in found]
    for arm in (a for a in view.arms if a.bound == "lower" and a.name in found):
        yield "Lower bound", found[arm.name], arm.name
    if others and (len(others) == 1 or max(s.mean for s in others) >= NOTHING_FOUND):
        best = max(others, key=lambda s: s.mean)
        yield (
            (f"Highest of the {len(others)} other arms" if len(others) > 1 else "The other arm"),
            best,
            best.arm,
        )
    for arm in (a for a in view.arms if a.bound == "upper" and a.name in found):
        yield "Upper bound", found[arm.name], arm.name


def league_charts(view: StudyView, league: League) -> Iterator[Chart]:
    """Dice of the headline, the share of the gap closed, HD95, then Dice structure by structure."""
    if not league.lines:
        return
    yield from _league_chart(view, league, league.headline, "dice")
    lines = {a.name: s for a in view.arms if (s := league.of(a.name, league.headline, "dice"))}
    gap = gap_chart("league-gap", "Share of the gap closed, Dice", view.arms, lines)
    if gap is not None:
        yield gap
    yield from _league_chart(view, league, league.headline, "hd95")
    for structure in league.structures:
        if structure != league.headline:
            yield from _league_chart(view, league, structure, "dice")


def paired_charts(view: StudyView, league: League) -> Iterator[Chart]:
    """A chart an arm: each patient's Dice by the reference arm and by this one, on the same axis throughout."""
    other = view.compared_with
    pairs = {
        a.name: paired_values(view.scores, league.headline, "dice", "", a.name, other) for a in view.arms
    }
    every = [value for found in pairs.values() for pair in found.values() for value in pair]
    if not every:
        return
    low, high = np.floor(min(every) * 20 - 0.4) / 20, np.ceil(max(every) * 20 + 0.4) / 20
    limits = (max(0.0, float(low)), min(1.0, float(high)))
    for place, arm in enumerate(view.arms):
        name = f"paired-{place}-{_slug(arm.name)}"
        chart = paired_chart(name, arm.name, other, pairs[arm.name], limits, partial(number, unit=""))
        if chart is not None:
            yield chart


def box_charts(view: StudyView, league: League) -> Iterator[Chart]:
    """Boxes by arm of each structure's Dice, the headline first, and of its HD95."""
    wanted = [(s, "dice") for s in dict.fromkeys([league.headline, *league.structures])]
    for structure, metric in [*wanted, (league.headline, "hd95")]:
        unit = league.unit(structure, metric)
        values: Values = patient_values(view.scores, structure, metric, unit)
        if values:
            title = _title(view, structure, metric, unit)
            name = f"boxes-{metric}-{_slug(structure)}"
            yield arm_boxes(name, title, view.arms, values, bounded=metric == "dice")


def learning_charts(view: StudyView) -> list[tuple[str, list[Chart]]]:
    """(stage, its charts): the loss and every Dice on validation scans, each with a line an arm."""
    out = []
    for stage in dict.fromkeys(stage for arm in view.arms for stage in arm.curves):
        tables = {arm.name: arm.curves[stage] for arm in view.arms if stage in arm.curves}
        columns = list(dict.fromkeys(str(c) for table in tables.values() for c in table.columns))
        losses = [c for c in columns if "loss" in c]
        wanted = [c for c in losses if c == "loss"] or losses[:1]
        wanted += [c for c in columns if c.startswith("dice") and "loss" not in c]
        charts = [
            arm_curves(f"learning-{_slug(stage)}-{_slug(c)}", _curve_title(c), c, tables, view.arms)
            for c in wanted
        ]
        drawn = [chart for chart in charts if chart is not None]
        if drawn:
            out.append((stage, drawn))
    return out


def printed_values(table: pd.DataFrame, *, nominal: bool = False) -> list[list[str]]:
    """The table of printed values beside ours, its head first; empty where nothing was printed.

    `nominal` marks the unit of our mm, and so of the difference.
    """
    rows = [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]
    lines = [_printed_line(row, nominal=nominal) for row in rows]
    return [list(PRINTED), *lines] if lines else []


def breakable(name: str) -> Markup:
    """An arm's name, escaped, that a narrow column may break behind an underscore."""
    return Markup(str(escape(name)).replace("_", "_<wbr>"))


def _league_chart(view: StudyView, league: League, structure: str, metric: str) -> Iterator[Chart]:
    lines = {a.name: s for a in view.arms if (s := league.of(a.name, structure, metric)) is not None}
    if not lines:
        return
    unit = league.unit(structure, metric)
    seeds = seed_means(view.scores, structure, metric, unit)
    title = _title(view, structure, metric, unit)
    name, said = f"league-{metric}-{_slug(structure)}", partial(number, unit=unit)
    yield league_chart(name, title, view.arms, lines, seeds, said, bounded=metric == "dice")


def _title(view: StudyView, structure: str, metric: str, unit: str) -> str:
    mark = "† (nominal)" if view.nominal and unit == "mm" else ""
    return (
        f"{METRIC_NAMES.get(metric, metric)}{f', {unit}{mark}' if unit else ''}: {structure_name(structure)}"
    )


def _curve_title(column: str) -> str:
    if "loss" in column:
        return "Loss" if column == "loss" else column.replace("_", " ").capitalize()
    where = column.removeprefix("dice").strip("_").replace("_", " ")
    return f"Dice on validation scans{f', {where}' if where else ''}"


def _printed_line(row: Mapping[str, Any], *, nominal: bool) -> list[str]:
    """One printed value with ours: what is compared, both as mean ± SD, and what is to be said of it."""
    unit = str(row.get("unit") or "")

    def figures(mean: str, sd: str, *counted: tuple[str, str]) -> str:
        value, spread = (float(row.get(c, math.nan)) for c in (mean, sd))
        if not math.isfinite(value):
            return "–"
        said = number(value, unit) + (f" ± {number(spread, unit)}" if math.isfinite(spread) else "")
        numbers = [count(int(row[c]), noun) for c, noun in counted if row.get(c, 0) > 0]
        return said + (f" ({', '.join(numbers)})" if numbers else "")

    metric = METRIC_NAMES.get(str(row.get("metric")), str(row.get("metric")))
    mark = "†" if nominal and unit == "mm" else ""
    what = f"{metric}{f', {unit}{mark}' if unit else ''}: {structure_name(str(row.get('structure')))}"
    over = {"patients": "patient", "frames": "frame", "classes": "structure"}.get(
        str(row.get("over")), "value"
    )
    if row.get("over"):
        what += f", over {row['over']}"
    if row.get("level") not in (None, "", "volume"):
        what += f", one value a {row['level']}"
    return [
        str(row.get("where") or "–"),
        str(row.get("arm") or "–"),
        what,
        figures("printed", "printed_sd"),
        figures("ours", "ours_sd", ("n", over)),
        signed(float(row.get("difference", math.nan)), unit),
        figures("mean", "sd", ("n_patients", "patient"), ("n_seeds", "seed")),
        "; ".join(str(row[c]) for c in ("note", "remark") if row.get(c)),
    ]


_CHART_FILE: Final = re.compile(r"(league|paired|boxes|learning)-[a-z0-9-]+\.svg")
"""Files in figures/ that a page of a study writes, and so may remove."""


def _slug(text: str) -> str:
    """A text as it may stand in a file's name; the place of the arm keeps two of them apart."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)[:40].strip("-").lower() or "x"
