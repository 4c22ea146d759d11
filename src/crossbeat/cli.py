"""The commands: read, call, write, say where and what next. Rooms are imported when a command needs them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossbeat.errors import CrossbeatError, RunError, SettingsError, did_you_mean

if TYPE_CHECKING:
    from crossbeat.cohort import Cohort
    from crossbeat.methods.recipe import Recipe
    from crossbeat.training import Run

app = typer.Typer(
    name="crossbeat",
    help="Segment the heart in cardiac MR where labels are scarce, by borrowing them from where they are plenty.",
    epilog="--debug, anywhere on the line, shows the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

Csv = Annotated[
    Path, typer.Argument(metavar="COHORT.CSV", help="the cohort, one row a scan; `index` makes it")
]
Seed = Annotated[int, typer.Option(min=0, help="of everything drawn at random")]
Where = Annotated[
    str, typer.Option("--where", metavar="FILTER", help="rows by column, as in sequence=lge,vendor=A|B")
]
Everything = Annotated[bool, typer.Option("--all", help="every scan, also where the cohort has a test split")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="folder to fill")] = Path("demo"),
    seed: Seed = 0,
) -> None:
    """Phantom scans → training → prediction → scores → report, in minutes on a CPU."""
    from crossbeat.cohort import assign_splits, read_cohort, write_cohort

    cohort_csv, run = out / "phantom" / "cohort.csv", out / "run"
    phantom(out / "phantom", subjects=14, sequences="bssfp,lge", vendors="a,b", seed=seed)
    cohort = assign_splits(read_cohort(cohort_csv), test=4, stratify=["group"], seed=seed)
    write_cohort(cohort, cohort_csv)
    changes = ["size=demo", "source={sequence: bssfp}", "target={sequence: lge}"]
    train("supervised", cohort_csv, out=run, changes=changes, seed=seed, resume=True)
    predict(run, cohort_csv)
    evaluate(run, cohort_csv)
    measure(run)
    report(run)


@app.command()
def phantom(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="folder to fill with NIfTI files and cohort.csv")
    ],
    subjects: Annotated[int, typer.Option(min=1, help="number of hearts")] = 12,
    sequences: Annotated[str, typer.Option(help="of bssfp, t2, lge, with commas")] = "bssfp,t2,lge",
    vendors: Annotated[str, typer.Option(help="of a, b, c, d, with commas; subjects take turns")] = "a",
    cine: Annotated[bool, typer.Option("--cine", help="bSSFP over the whole cycle, 25 frames")] = False,
    seed: Seed = 0,
    jobs: Annotated[int, typer.Option(min=1, help="processes")] = 2,
) -> None:
    """Make synthetic scans of beating hearts, with their exact labels, volumes and motion."""
    from crossbeat import console
    from crossbeat.data.nifti import write_volume
    from crossbeat.synthetic import make_cohort

    with console.bar("making phantoms", subjects) as step:
        made = make_cohort(
            out,
            subjects=subjects,
            sequences=_words(sequences),
            vendors=_words(vendors),
            cine=cine,
            seed=seed,
            jobs=jobs,
            write=write_volume,
            progress=lambda done, total: step(),
        )
    console.say(f"{len(made)} scans of {subjects} subjects: {out / 'cohort.csv'}")
    console.then("crossbeat", "train", "supervised", out / "cohort.csv", "-o", "runs/first")


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="where the scans lie")],
    layout: Annotated[
        str, typer.Option(help="acdc, mnms, mscmrseg, myops, emidec, scd, nnunet, dicom or files")
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="COHORT.CSV", help="file to write, its paths relative to it"),
    ] = Path("cohort.csv"),
    images: Annotated[str, typer.Option(help="files: glob of the images, as in '*/cine.nii.gz'")] = "",
    labels: Annotated[str, typer.Option(help="files: the labels, as in '{parent}/seg.nii.gz'")] = "",
    sequence: Annotated[str, typer.Option(help="files, dicom, nnunet: what the scans are")] = "",
    convention: Annotated[str, typer.Option(help="files, nnunet: what the label values mean")] = "",
    nominal_spacing: Annotated[str, typer.Option(help="stand-in that headers state: 1.5x1.5x10 mm")] = "",
    test: Annotated[float, typer.Option(min=0, help="subjects (or a fraction) to hold out as test")] = 0,
    validation: Annotated[float, typer.Option(min=0, help="subjects (or a fraction) for validation")] = 0,
    stratify: Annotated[str, typer.Option(help="columns whose values share out over the splits")] = "",
    seed: Seed = 0,
) -> None:
    """List the scans of a folder in a cohort.csv, and split them by patient if asked."""
    from crossbeat import console
    from crossbeat.cohort import assign_splits, write_cohort
    from crossbeat.data import index as list_scans

    options = {"images": images, "labels": labels, "sequence": sequence, "convention": convention}
    cohort, notes = list_scans(layout, folder, out.parent, nominal_spacing=nominal_spacing, **options)
    if test or validation:
        cohort = assign_splits(cohort, test=test, validation=validation, stratify=_words(stratify), seed=seed)
    write_cohort(cohort, out)
    for note in notes:
        console.warn(note)
    console.say(f"{len(cohort)} scans of {len(cohort.subjects)} subjects: {out}")
    console.then("crossbeat", "check", out)


@app.command()
def check(cohort_csv: Csv) -> None:
    """Open every file of a cohort and report every problem with its remedy; exit 1 if any is an error."""
    from crossbeat import console
    from crossbeat.cohort import read_conventions
    from crossbeat.data import check as find_problems

    cohort = _cohort(cohort_csv)
    with console.bar("checking scans", len(cohort)) as step:
        problems = find_problems(
            cohort, cohort_csv.parent, read_conventions(cohort_csv.parent), progress=step
        )
    for problem in problems:
        console.say(str(problem))
    errors = sum(problem.severity == "error" for problem in problems)
    console.say(f"{len(cohort)} scans, {errors} errors, {len(problems) - errors} warnings and notes")
    if errors:
        raise typer.Exit(1)
    console.then("crossbeat", "train", "supervised", cohort_csv, "-o", "runs/first")


@app.command()
def train(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="supervised; `info` lists the methods")],
    cohort_csv: Csv,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="RUN", help="run folder to make")],
    recipe: Annotated[Path | None, typer.Option(help="a recipe file; recipes/ holds one a method")] = None,
    changes: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="change a setting")] = [],  # noqa: B006
    resume: Annotated[bool, typer.Option("--resume", help="go on where the run stopped")] = False,
    device: Device = "auto",
    devices: Annotated[int, typer.Option(min=1, help="number of devices")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="number of machines")] = 1,
    precision: Annotated[str, typer.Option(help="auto, 32, bf16 or 16")] = "auto",
    seed: Seed = 0,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="alike every time, slower")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what it would cost, and stop")] = False,
) -> None:
    """Train a segmenter by one of the methods."""
    from crossbeat import console
    from crossbeat.methods import METHODS

    if method not in METHODS:
        raise SettingsError(f"method {method!r} does not exist; {did_you_mean(method, METHODS)}")
    from crossbeat.training import Run

    settings = METHODS[method].settings.load(recipe, changes)
    cohort = _cohort(cohort_csv)
    run = Run(
        out,
        seed=seed,
        device=_choice(device, "auto", "cpu", "cuda"),
        devices=devices,
        nodes=nodes,
        precision=_choice(precision, "auto", "32", "bf16", "16"),
        deterministic=deterministic,
        resume=resume,
    )
    if dry_run:
        _estimate(method, cohort, settings, replace(run, estimates={}))
        return
    run.open(settings.model_dump(mode="json"), cohort, f"crossbeat train {method}")
    try:
        segmenter = METHODS[method].train(cohort, settings, run)
    except CrossbeatError:
        run.withdraw()
        raise
    if run.rank == 0:
        segmenter.save(out / "segmenter")
        run.close(method=method, size=settings.size, select=settings.select)
        console.say(f"segmenter: {out / 'segmenter'}")
        console.then("crossbeat", "predict", out, cohort_csv)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a trained run")],
    scans: Annotated[
        Path, typer.Argument(metavar="INPUT", help="cohort.csv, NIfTI file, folder of NIfTI or DICOM")
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="folder of label maps; RUN/predictions")
    ] = None,
    ensemble: Annotated[
        list[Path], typer.Option("--ensemble", metavar="RUN", help="average with this run too")
    ] = [],  # noqa: B006
    tta: Annotated[bool, typer.Option("--tta", help="average over the four mirror images")] = False,
    largest_component: Annotated[bool, typer.Option(help="keep each structure's largest part only")] = True,
    sequence: Annotated[
        str, typer.Option(help="of files and folders: bssfp, lge …; unsaid, DICOM tells and NIfTI is bssfp")
    ] = "",
    where: Where = "",
    everything: Everything = False,
    device: Device = "auto",
) -> None:
    """Segment scans; label maps lie on each scan's own grid. Exit 1 if a scan failed."""
    from crossbeat import console
    from crossbeat.data.predictions import open_input, prediction_writer
    from crossbeat.prediction import predict_cohort
    from crossbeat.segmenter import find_device, load_segmenter

    out = out or run / "predictions"
    place = find_device(device)
    segmenters = [load_segmenter(r / "segmenter", place) for r in (run, *ensemble)]
    found, notes = open_input(scans, out, sequence)
    for note in notes:
        console.warn(note)
    cohort = _pick(found, where, everything)
    write = prediction_writer(out, cohort, {"runs": [str(r) for r in (run, *ensemble)], "flips": tta})
    with console.bar("predicting", len(cohort)) as step:
        failures = predict_cohort(
            segmenters,
            cohort,
            write,
            flips=tta,
            largest_component=largest_component,
            progress=step,
        )
    for failure in failures:
        console.complain(failure.problem)
    console.say(f"label maps of {len(cohort) - len(failures)} of {len(cohort)} scans: {out}")
    if failures:
        raise typer.Exit(1)
    holder = run if out == run / "predictions" else out
    if len(cohort.labelled()):
        same = [*(["--where", where] if where else []), *(["--all"] if everything else [])]
        console.then("crossbeat", "evaluate", holder, scans, *same)
    else:
        console.then("crossbeat", "measure", holder)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="OUT", help="run folder, or folder of label maps")],
    cohort_csv: Csv,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="SCORES.CSV", help="OUT/scores.csv")
    ] = None,
    where: Where = "",
    everything: Everything = False,
    jobs: Annotated[int, typer.Option(min=1, help="threads")] = 2,
) -> None:
    """Score label maps against the references: Dice, Jaccard, HD, HD95 and ASSD, nothing left out."""
    from crossbeat import console
    from crossbeat.data.predictions import prediction_reader
    from crossbeat.evaluation import compare_indices, read_scores, score_cohort, write_agreement, write_scores
    from crossbeat.report import headline, write_summary

    out = out or run / "scores.csv"
    cohort = _pick(_cohort(cohort_csv), where, everything).labelled()
    with console.bar("scoring", len(cohort)) as step:
        read = prediction_reader(run, cohort)
        scores = score_cohort(cohort, read, units=("mm", "voxel"), jobs=jobs, progress=step)
    write_scores(scores, cohort, out)
    write_agreement(compare_indices(cohort, read, jobs=jobs), cohort, out.with_name("agreement.csv"))
    written = read_scores(out)
    write_summary(written, out.with_name("summary.csv"))
    console.table("", *headline(written))
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
    from crossbeat.evaluation import measure_cohort, write_indices, write_volumes

    out = out or run / "indices.csv"
    cohort = open_predictions(run)
    with console.bar("measuring", len(cohort)) as step:
        measured = measure_cohort(cohort, prediction_reader(run, cohort), progress=step)
    for one in measured:
        if one.remark:
            console.warn(f"scan {one.scan!r}: {one.remark}")
    write_indices(measured, cohort, out)
    write_volumes(measured, out.with_name("volumes.csv"))
    console.say(f"indices of {len(cohort)} scans: {out}")
    if (run / "run.json").exists():
        console.then("crossbeat", "report", run)
    else:
        console.then(f"open {out} in a spreadsheet")


@app.command()
def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")]) -> None:
    """One page with the scores, figures, failures and provenance of a run."""
    from crossbeat import console
    from crossbeat.data.predictions import prediction_reader
    from crossbeat.report import write_report

    if not (run / "run.json").exists():
        raise RunError(f"{run}: is no run folder (no run.json); `crossbeat train` makes one")
    cohort = _cohort(run / "cohort.csv")
    page = write_report(run, cohort, prediction_reader(run / "predictions"))
    console.say(f"report: {page}")
    console.then(f"open {page} in a browser")


@app.command()
def view(
    path: Annotated[Path, typer.Argument(metavar="RUN_OR_COHORT", help="run, label maps or cohort.csv")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="of this computer alone")] = 8111,
) -> None:
    """Look at scans, references and predictions in the browser; needs the [viewer] extra."""
    from crossbeat import console
    from crossbeat.viewer import serve

    console.say(f"viewer: http://127.0.0.1:{port} (Ctrl-C ends it)")
    serve(path, port)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a trained run")],
    format_name: Annotated[str, typer.Option("--format", help="onnx, torchscript, pt2 or monai")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="folder to make")],
) -> None:
    """Write a run's network for use without crossbeat, and check what was written."""
    from crossbeat import console
    from crossbeat.export import export_segmenter
    from crossbeat.segmenter import load_segmenter

    made = export_segmenter(load_segmenter(run / "segmenter"), format_name, out)
    console.say(f"largest difference of a probability: {made.largest_difference:.2g}\nmodel: {made.file}")
    console.then(f"read {made.guide} on how to run it")


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False) -> None:
    """Versions, devices, methods, networks and layouts of this installation."""
    import json

    from crossbeat import console
    from crossbeat.installation import describe

    facts = describe()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for title, values in facts.items():
        console.table(title, ["", ""], [[key, str(value)] for key, value in values.items()])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; an error of ours is one message and exit code 2, its traceback with `--debug`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    warnings.showwarning = _tell_plainly
    try:
        app(args=[word for word in words if word != "--debug"])
    except CrossbeatError as error:
        if debug:
            raise
        from crossbeat import console

        console.complain(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _cohort(path: Path) -> Cohort:
    from crossbeat.cohort import read_cohort
    from crossbeat.data import reader

    return read_cohort(path, reader)


def _pick(cohort: Cohort, where: str, everything: bool) -> Cohort:
    """The rows asked for; without a word about it, the test split where there is one."""
    from crossbeat import console
    from crossbeat.cohort import parse_filter

    wanted = parse_filter(where)
    if not everything and "split" not in wanted and any(row.split == "test" for row in cohort):
        wanted["split"] = ["test"]
    picked = cohort.where(**wanted) if wanted else cohort
    told = ",".join(f"{column}={'|'.join(values)}" for column, values in wanted.items())
    if not len(picked):
        raise SettingsError(f"no scan of {cohort.name} matches {told}; --all takes every split")
    if len(picked) < len(cohort):
        console.say(f"{len(picked)} of {len(cohort)} scans: {told} (--all takes every split)")
    return picked


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _choice(word: str, *allowed: str) -> Any:
    if word not in allowed:
        raise SettingsError(f"{word!r} is none of {', '.join(allowed)}")
    return word


def _estimate(method: str, cohort: Cohort, settings: Recipe, run: Run) -> None:
    """Say what a training would see, do and cost, from a few real steps; nothing is written."""
    from crossbeat import console
    from crossbeat.methods import METHODS
    from crossbeat.methods.recipe import find_domains

    for part, scans in vars(find_domains(cohort, settings, run.seed)).items():
        console.say(f"{part.replace('_', ' ')}: {len(scans)} scans of {len(scans.subjects)} subjects")
    METHODS[method].train(cohort, settings, run)
    rows = [[name, *estimate.told()] for name, estimate in (run.estimates or {}).items()]
    console.table("", ["Stage", "Updates", "Parameters", "Memory", "Time"], rows)
    console.say("dry run: nothing was trained or written")
    console.then("the same command without --dry-run")


def _tell_plainly(message: Warning | str, *rest: object, **more: object) -> None:
    from crossbeat import console

    console.warn(str(message))
