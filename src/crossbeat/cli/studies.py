"""Commands about studies: compute many arms and seeds, put them into one table, grow the evidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossbeat.cli.options import Device, app, choice, words
from crossbeat.errors import SettingsError

if TYPE_CHECKING:
    from crossbeat.study.folder import StudyFolder


@app.command()
def study(
    study_yaml: Annotated[
        Path | None, typer.Argument(metavar="STUDY.YAML", help="a study file; studies/ holds them")
    ] = None,
    cohort_csv: Annotated[
        Path | None, typer.Argument(metavar="COHORT.CSV", help="the cohort; else the file's phantom is made")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="OUT", help="folder of the study")
    ] = None,
    changes: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="change a line of the study file")
    ] = [],  # noqa: B006
    arms: Annotated[str, typer.Option(help="compute these arms only, with commas")] = "",
    engine: Annotated[
        str, typer.Option(help="local, or ray (needs crossbeat's extra of that name)")
    ] = "local",
    address: Annotated[
        str, typer.Option(help="of a Ray cluster that is running; else one is started here")
    ] = "",
    jobs: Annotated[int, typer.Option(min=1, help="cells at once, on the local engine")] = 1,
    threads: Annotated[
        int, typer.Option(min=0, help="of a cell on the CPU; 0 shares out the cores, on ray it is 1")
    ] = 0,
    device: Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what it would cost, and stop")] = False,
    results: Annotated[
        Path | None, typer.Option("--results", metavar="FOLDER", help="render the evidence of this folder")
    ] = None,
    add: Annotated[
        list[Path],
        typer.Option("--add", metavar="OUT", help="put this study's finished cells into --results"),
    ] = [],  # noqa: B006
) -> None:
    """Train every arm of a study on the same patients and put it into one table; a second call goes on."""
    from crossbeat import console
    from crossbeat.study.engine import ENGINES, estimate
    from crossbeat.study.folder import Means, StudyFolder, shared_threads
    from crossbeat.study.plan import Study

    if results is not None:
        _render(results, add)
        return
    if study_yaml is None or out is None:
        raise SettingsError("say which study and where: crossbeat study STUDY.YAML [COHORT.CSV] -o OUT")
    asked = Study.load(study_yaml, changes)
    folder = StudyFolder(out).claim(asked)
    means = Means(
        choice(device, "auto", "cpu", "cuda"),
        threads=threads or (1 if engine == "ray" else shared_threads(jobs)),
    )
    folder.open(cohort_csv or _phantom_of(folder), means)
    if dry_run:
        head = ["Arm", "Stage", "Trainings", "Updates", "Parameters", "Memory", "Time of one"]
        console.table("", head, estimate(folder, out / "cells" / "estimate"))
        console.then("the same command without --dry-run")
        return
    _compute(folder, words(arms), choice(engine, *ENGINES), address, jobs)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="folder to fill")] = Path("demo"),
    jobs: Annotated[int, typer.Option(min=1, help="cells at once")] = 2,
) -> None:
    """Every method on synthetic scans, scored side by side, in minutes on a CPU."""
    from crossbeat.study.demo import demo_study
    from crossbeat.study.folder import Means, StudyFolder, shared_threads

    folder = StudyFolder(out).claim(demo_study())
    folder.open(_phantom_of(folder), Means("cpu", threads=shared_threads(jobs)))
    _compute(folder, [], "local", "", jobs)


def _phantom_of(folder: StudyFolder) -> Path:
    from crossbeat import console
    from crossbeat.study.phantom import make_phantom

    spec = folder.study.phantom
    with console.bar("making phantoms", spec.subjects) as step:
        return make_phantom(spec, folder.path / "phantom", progress=step)


def _compute(folder: StudyFolder, arms: list[str], engine: str, address: str, jobs: int) -> None:
    from crossbeat import console
    from crossbeat.study.engine import compute, pending, position
    from crossbeat.study.present import present

    cells = pending(folder, arms)
    console.say(f"{len(folder.cells)} cells, {len(folder.cells) - len(pending(folder))} finished before")
    with console.watch("training", len(cells)) as (done, now):
        outcomes = compute(
            folder,
            cells,
            engine=choice(engine, "local", "ray"),
            address=address,
            jobs=jobs,
            told=lambda outcome: done(f"{outcome.cell.name}: {outcome.problem or 'finished'}"),
            watch=lambda working: now(" · ".join(position(folder, cell) for cell in working)),
        )
    shown = present(folder)
    if shown.rows:
        console.table(folder.study.title, shown.head, shown.rows)
    for sentence in shown.sentences:
        console.say(sentence)
    failed = [outcome for outcome in outcomes if outcome.problem]
    for outcome in failed:
        console.complain(f"{outcome.cell.name}: {outcome.problem} (log: {folder.log(outcome.cell)})")
    console.say(f"page: {shown.page}")
    console.then(f"open {shown.page} in a browser")
    if failed:
        raise typer.Exit(1)


def _render(results: Path, add: list[Path]) -> None:
    from crossbeat import console
    from crossbeat.study.present import grow, present_evidence

    evidence = grow(results, add)
    shown = present_evidence(evidence, results)
    console.say(f"{len(evidence.cells)} cells of {evidence.cells['arm'].nunique()} arms\npage: {shown.page}")
    console.then(f"open {shown.page} in a browser")
