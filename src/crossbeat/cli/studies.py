"""Commands about studies: compute many arms and seeds, put them into one table, grow the evidence."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossbeat.cli.options import Compile, Device, app, choice, cohort_at, refuse_unused, undotted, words
from crossbeat.errors import SettingsError

if TYPE_CHECKING:
    from crossbeat.study.engine import Engine
    from crossbeat.study.folder import Means, StudyFolder
    from crossbeat.study.plan import Cell, Study


StudyYaml = Annotated[
    Path | None, typer.Argument(metavar="STUDY.YAML", help="a study file; studies/ holds them")
]
OwnCsv = Annotated[
    Path | None, typer.Argument(metavar="COHORT.CSV", help="the cohort; else the file's phantom is made")
]
Changes = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="change a line of the study file")
]
Address = Annotated[str, typer.Option(help="of a Ray cluster that is running; else one is started here")]
Threads = Annotated[
    int, typer.Option(min=0, help="of a cell on the CPU; 0: as before, else the cores shared out, 1 on ray")
]
Results = Annotated[
    Path | None, typer.Option("--results", metavar="FOLDER", help="render the evidence of this folder")
]
Add = Annotated[
    list[Path], typer.Option("--add", metavar="OUT", help="put this study's finished cells into --results")
]


@app.command()
def study(
    study_yaml: StudyYaml = None,
    cohort_csv: OwnCsv = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="OUT", help="folder of the study")
    ] = None,
    changes: Changes = [],  # noqa: B006
    arms: Annotated[str, typer.Option(help="compute these arms only, with commas")] = "",
    engine: Annotated[
        str, typer.Option(help="local, or ray (needs crossbeat's extra of that name)")
    ] = "local",
    address: Address = "",
    jobs: Annotated[int, typer.Option(min=1, help="cells at once, on the local engine")] = 1,
    threads: Threads = 0,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="auto, 32, bf16 or 16; the same for all cells")] = "auto",
    compile_: Compile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what it would cost, and stop")] = False,
    results: Results = None,
    add: Add = [],  # noqa: B006
) -> None:
    """Train every arm of a study on the same patients and put it into one table; a second call goes on."""
    if results is not None:
        refuse_unused(
            "--results", STUDY_YAML=study_yaml, COHORT_CSV=cohort_csv, out=out, arms=arms, set=changes,
            engine=engine != "local", address=address, jobs=jobs > 1, threads=threads, device=device != "auto",
            precision=precision != "auto", compile=compile_ is not None, dry_run=dry_run,
        )  # fmt: skip
        _render(results, add)
        return
    refuse_unused("a study file", add=add)
    if study_yaml is None or out is None:
        raise SettingsError("say which study and where: crossbeat study STUDY.YAML [COHORT.CSV] -o OUT")
    where = choice("engine", engine, "local", "ray")
    refuse_unused(f"--engine {where}", **({"jobs": jobs > 1} if where == "ray" else {"address": address}))
    from crossbeat.study.engine import settled
    from crossbeat.study.folder import Means, StudyFolder
    from crossbeat.study.plan import plan

    asked, folder = _load(study_yaml, changes), StudyFolder(out)
    folder.refuse_foreign(asked)
    cohort_csv = cohort_csv or _phantom_of(asked, folder)
    means = folder.as_before(
        Means(
            choice("device", device, "auto", "cpu", "cuda"),
            choice("precision", precision, "auto", "32", "bf16", "16"),
            threads or folder.threads(jobs, shared=where == "local"),
            compile_,
        )
    )
    if dry_run:
        with _named(study_yaml):
            cells = plan(asked, cohort_at(cohort_csv))
        _tell_cost(folder, cells, means, words(arms))
        return
    means = settled(means)
    with _named(study_yaml):
        opened = folder.open(asked, cohort_csv, means)
    _compute(opened, words(arms), where, address, jobs)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="folder to fill")] = Path("demo"),
    jobs: Annotated[int, typer.Option(min=1, help="cells at once")] = 2,
) -> None:
    """Every method on synthetic scans, scored side by side, in minutes on a CPU."""
    from crossbeat.study.demo import demo_study
    from crossbeat.study.engine import settled
    from crossbeat.study.folder import Means, StudyFolder

    asked, folder = demo_study(), StudyFolder(out)
    folder.refuse_foreign(asked)
    means = settled(Means("cpu", threads=folder.threads(jobs)))
    _compute(folder.open(asked, _phantom_of(asked, folder), means), [], "local", "", jobs)


def _load(study_yaml: Path, changes: list[str]) -> Study:
    """The study of a file; settings of an arm that cannot be are refused here, before a phantom is made."""
    from crossbeat.study.plan import Study

    asked = Study.load(study_yaml, undotted(changes))
    with _named(study_yaml):
        for arm in asked.arms:
            asked.recipe(arm)
    return asked


@contextmanager
def _named(study_yaml: Path) -> Iterator[None]:
    """Say of settings that cannot be planned in which file they stand."""
    try:
        yield
    except SettingsError as error:
        raise SettingsError(f"{study_yaml}: {error}") from error


def _tell_cost(folder: StudyFolder, cells: list[Cell], means: Means, arms: list[str]) -> None:
    """From a few real steps of every arm, or of those asked for; nothing is written."""
    from crossbeat import console
    from crossbeat.study.engine import estimate, of_arms, told_total, unfinished

    asked = of_arms(cells, arms)
    with console.bar("timing some steps of each arm", len({cell.arm for cell in asked})) as step:
        costs = estimate(asked, means, unfinished(folder, asked), progress=step)
    head = ["Arm", "Stage", "Trainings", "Left", "Updates", "Parameters", "Memory", "Time of one"]
    console.table("", head, [cost.told() for cost in costs])
    console.say(f"{told_total(costs)}; predicting and scoring come on top")
    console.then("the same command without --dry-run")


def _phantom_of(asked: Study, folder: StudyFolder) -> Path:
    from crossbeat import console
    from crossbeat.study.folder import PHANTOM
    from crossbeat.study.phantom import is_made, make_phantom

    path = folder.path / PHANTOM
    if is_made(asked.phantom, path):
        return path / "cohort.csv"
    with console.bar("making phantoms", asked.phantom.subjects) as step:
        return make_phantom(asked.phantom, path, progress=step)


def _compute(folder: StudyFolder, arms: list[str], engine: Engine, address: str, jobs: int) -> None:
    from crossbeat import console
    from crossbeat.study.engine import changed, compute, pending, position, told_end
    from crossbeat.study.present import present

    cells, replaced = pending(folder, arms), changed(folder)
    console.say(f"{len(folder.cells)} cells, {len(folder.cells) - len(pending(folder))} finished before")
    if replaced:
        names = ", ".join(cell.name for cell in replaced)
        console.warn(f"{names}: trained before with other settings or scans; that goes to {folder.earlier}")
    with _stopped_aloud(), console.watch("training", len(cells)) as (done, now):
        outcomes = compute(
            folder,
            cells,
            engine=engine,
            address=address,
            jobs=jobs,
            told=lambda outcome: done(told_end(folder, outcome)),
            watch=lambda working: now(" · ".join(position(folder, cell) for cell in working)),
        )
    shown = present(folder)
    if shown.rows:
        console.table(shown.title, shown.head, shown.rows)
    for sentence in shown.sentences:
        console.say(sentence)
    failed = [outcome for outcome in outcomes if outcome.problem]
    for outcome in failed:
        console.complain(f"{outcome.cell.name}: {outcome.problem} (log: {folder.log(outcome.cell)})")
    console.say(f"page: {shown.page}")
    console.then(f"open {shown.page} in a browser")
    if failed:
        raise typer.Exit(1)


@contextmanager
def _stopped_aloud() -> Iterator[None]:
    """Say on Ctrl-C and SIGTERM that nothing is lost; the cells are stopped on the way out in both cases."""
    from crossbeat import console

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        console.warn(
            "stopped; finished rounds and cells are kept, and the same command goes on with the rest"
        )
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _render(results: Path, add: list[Path]) -> None:
    from crossbeat import console
    from crossbeat.study.present import grow, present_evidence

    evidence = grow(results, add)
    shown = present_evidence(evidence, results)
    console.say(f"{len(evidence.cells)} cells of {evidence.cells['arm'].nunique()} arms\npage: {shown.page}")
    console.then(f"open {shown.page} in a browser")
