"""A run folder → one self-contained HTML page that a researcher would show, and its charts as SVG files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from crossbeat.cohort import Cohort
from crossbeat.report import page as pages
from crossbeat.report.banners import SIZES, banners
from crossbeat.report.cases import ReadPrediction, case_views, worst_median_best
from crossbeat.report.charts import Chart, curve_chart
from crossbeat.report.clinical import clinical_parts, volume_curves
from crossbeat.report.provenance import provenance, settings_text
from crossbeat.report.run_folder import RunFolder, as_text, read_run, read_training
from crossbeat.report.study_page import ArmView, StudyView, write_study_report
from crossbeat.report.summary import write_summary
from crossbeat.report.tables import blocks, data_table, headline_scores
from crossbeat.report.trained import Overlap
from crossbeat.report.writing import write_whole

__all__ = [
    "ArmView",
    "ReadPrediction",
    "StudyView",
    "headline",
    "write_report",
    "write_study_report",
    "write_summary",
]


def write_report(
    run: Path, cohort: Cohort | None, read_prediction: ReadPrediction, *, title: str | None = None
) -> Path:
    """Write `report.html` into a run folder, and its charts as SVG into `figures/`; the path of the page.

    `cohort` are the scans that were predicted; it reads their images and references (their pictures are left
    out without it). `read_prediction` gives a scan's label map (t, z, y, x), or None where there is none. What
    the run folder lacks is named in the page with the command that makes it; no folder raises `RunError`.
    """
    page = make_page(read_run(run), cohort, read_prediction, title)
    for chart in _charts(page):
        write_whole(run / "figures" / f"{chart.name}.svg", chart.file)
    return write_whole(run / "report.html", pages.render(page))


def headline(scores: pd.DataFrame, run: Path | None = None) -> tuple[list[str], list[list[str]]]:
    """The headline table for a terminal, from `evaluation.read_scores`: its head and its lines.

    As in the page: means over patients, of the test split where there is one, domains apart. A `run` folder parts
    them by its source and target, and takes the intervals from scans that it was trained on.
    """
    folder = read_training(run) if run is not None else RunFolder(Path())
    head = ["", "Structure", "Dice", "95 % interval", "HD95", "ASSD", "Patients", "Undefined", "Missed"]
    lines = []
    for block in blocks(as_text(scores), folder.settings, folder.trained):
        for row in headline_scores(block):
            of = {s.metric: s for s in row}
            dice = of["dice"].summary
            lines.append(
                [block.name, pages.structure_name(row[0].structure)]
                + [pages.spread(of["dice"]), pages.interval(of["dice"])]
                + [pages.spread(of[metric]) if metric in of else "–" for metric in ("hd95", "assd")]
                + [str(dice.n_patients), str(dice.undefined), str(dice.missed)]
            )
    return head, lines


def make_page(
    folder: RunFolder, cohort: Cohort | None, read_prediction: ReadPrediction, title: str | None = None
) -> pages.Page:
    """All that the page says, from a run folder that was read."""
    found = blocks(folder.scores, folder.settings, folder.trained)
    parts = [
        pages.make_part(block, case_views(block, cohort, read_prediction), alone=len(found) == 1)
        for block in found
    ]
    shown_first = [scan for block in found for _, scan, _ in worst_median_best(block)]
    next_command, next_reason = pages.next_step(folder, parts)
    return pages.Page(
        title=title or pages.find_title(folder),
        name=folder.path.resolve().name,
        path=str(folder.path),
        size_word=SIZES[folder.size][0] if folder.size in SIZES else "",
        lead=pages.lead(folder, found),
        banners=list(
            banners(
                folder, sum((p.overlap for p in parts), Overlap()), [f for p in parts for f in p.failures]
            )
        ),
        missing=folder.missing,
        parts=parts,
        clinical=clinical_parts(folder),
        volumes=volume_curves(folder, shown_first),
        learning=[(name, list(learning_charts(name, table))) for name, table in folder.stages.items()],
        data=[
            (name, data_table(rows, folder.settings))
            for name, rows in (("Cohort of the run", folder.cohort), ("Scans predicted", cohort))
            if rows is not None and not (rows is cohort and _same(rows, folder.cohort))
        ],
        definitions=pages.definitions(folder),
        provenance=provenance(folder, cohort),
        settings=settings_text(folder),
        next_command=next_command,
        next_reason=next_reason,
    )


def learning_charts(stage: str, table: pd.DataFrame) -> Iterator[Chart]:
    """Losses and Dice of one stage over its steps; columns that are neither are not drawn."""
    x = next((column for column in ("step", "round") if column in table), None)
    if x is None:
        return
    numbers = [c for c in table.columns if pd.api.types.is_numeric_dtype(table[c]) and table[c].notna().any()]
    dice = [c for c in numbers if c.startswith("dice") and "loss" not in c]
    losses = [c for c in numbers if c not in dice and not c.startswith(_NOT_DRAWN)]
    for kind, columns in (("Losses", losses), ("Dice on validation scans", dice)):
        chart = curve_chart(f"learning-{stage}-{kind.split()[0].lower()}", kind, table, x, columns)
        if chart is not None:
            yield chart


_NOT_DRAWN = (
    "step",
    "round",
    "epoch",
    "lr",
    "learning_rate",
    "seconds",
    "time",
    "samples",
    "memory",
    "images",
)


def _charts(page: pages.Page) -> Iterator[Chart]:
    for part in page.parts:
        yield from part.boxes
    for _, charts in page.learning:
        yield from charts
    yield from page.volumes.charts if page.volumes else ()
    yield from (a.chart for part in page.clinical for a in part.agreement if a.chart)


def _same(cohort: Cohort, other: Cohort | None) -> bool:
    """Whether both list the same scans; their paths differ where their files lie apart."""
    return other is not None and {(r.subject, r.scan) for r in cohort} == {(r.subject, r.scan) for r in other}
