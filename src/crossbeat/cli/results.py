"""Commands about results: score, measure, report and show them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossbeat.cli.options import Csv, Everything, Where, app, cohort_at, pick
from crossbeat.errors import RunError


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="OUT", help="run folder, or folder of label maps")],
    cohort_csv: Csv,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="SCORES.CSV", help="OUT/scores.csv")
    ] = None,
    where: Where = "",
    everything: Everything = False,
    jobs: Annotated[int, typer.Option(min=0, help="processes that score; 0: one a core")] = 0,
) -> None:
    """Score label maps against the references: Dice, Jaccard, HD, HD95 and ASSD, nothing left out."""
    from crossbeat import console
    from crossbeat.data.predictions import prediction_reader
    from crossbeat.evaluation import evaluate_cohort, read_scores, write_agreement, write_scores
    from crossbeat.evaluation.parallel import cores
    from crossbeat.report import headline, write_summary

    out = out or run / "scores.csv"
    cohort = pick(cohort_at(cohort_csv), where, everything).labelled()
    carried = [row.scan for row in cohort if row.further.get("carried_from")]
    if carried:
        console.warn(
            f"{len(carried)} scans, {carried[0]} first, have labels that `crossbeat propagate` carried to most of "
            "their frames: scores against them are not against an expert; take the cohort.csv that they came from"
        )
    with console.bar("scoring", len(cohort)) as step:
        read = prediction_reader(run, cohort)
        scores, compared = evaluate_cohort(
            cohort, read, units=("mm", "voxel"), jobs=jobs or cores(), progress=step
        )
    write_scores(scores, cohort, out)
    write_agreement(compared, cohort, out.with_name("agreement.csv"))
    written = read_scores(out)
    write_summary(written, out.with_name("summary.csv"))
    console.table("", *headline(written, run))
    console.say(f"scores: {out}")
    console.then("crossbeat", "report" if (run / "run.json").exists() else "measure", run)


@app.command()
def measure(
    run: Annotated[Path, typer.Argument(metavar="OUT", help="run folder, or folder of label maps")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="INDICES.CSV", help="OUT/indices.csv")
    ] = None,
) -> None:
    """Volumes, ejection fractions, mass and wall thickness of label maps, with ED and ES found or given."""
    from crossbeat import console
    from crossbeat.data.predictions import open_predictions, prediction_reader
    from crossbeat.evaluation import measure_cohort, told_remarks, write_indices, write_volumes

    out = out or run / "indices.csv"
    cohort = open_predictions(run)
    with console.bar("measuring", len(cohort)) as step:
        measured = measure_cohort(cohort, prediction_reader(run, cohort), progress=step)
    for remark in told_remarks(measured):
        console.warn(remark)
    write_indices(measured, cohort, out)
    write_volumes(measured, cohort, out.with_name("volumes.csv"))
    console.say(f"indices of {len(cohort)} scans: {out}")
    if (run / "run.json").exists():
        console.then("crossbeat", "report", run)
    else:
        console.then(f"open {out} in a spreadsheet")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN_OR_STUDY", help="a run folder, or that of a study")],
) -> None:
    """One page with the scores, figures, failures and provenance of a run, or of a study with all its arms."""
    from crossbeat import console
    from crossbeat.data.predictions import prediction_reader
    from crossbeat.report import write_report
    from crossbeat.study.folder import StudyFolder
    from crossbeat.study.present import present

    if StudyFolder(run).there:
        page = present(StudyFolder(run)).page
        console.say(f"page: {page}")
        console.then(f"open {page} in a browser")
        return
    if (run / "cells.csv").exists():
        raise RunError(f"{run}: holds kept cells of a study; `crossbeat study --results {run}` renders them")
    if not (run / "run.json").exists():
        raise RunError(f"{run}: is no run folder (no run.json); `crossbeat train` makes one")
    predicted = run / "predictions" / "cohort.csv"
    cohort = cohort_at(predicted if predicted.exists() else run / "cohort.csv")
    page = write_report(run, cohort, prediction_reader(run / "predictions"))
    console.say(f"report: {page}")
    console.then(f"open {page} in a browser")


@app.command()
def view(
    path: Annotated[Path, typer.Argument(metavar="RUN_OR_COHORT", help="run, label maps or cohort.csv")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="of this computer alone")] = 8111,
) -> None:
    """Look at scans, references and predictions in the browser; needs the `viewer` extra."""
    from crossbeat import console
    from crossbeat.viewer import open_app, serve

    opened = open_app(path)
    console.say(f"viewer: http://127.0.0.1:{port} (Ctrl-C ends it)")
    serve(opened, port)
