"""Commands about segmenters: train one, segment scans with it, take it elsewhere."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossbeat.cli.options import (
    Compile,
    Csv,
    Device,
    Everything,
    Seed,
    Where,
    app,
    choice,
    cohort_at,
    pick,
    undotted,
)
from crossbeat.errors import SettingsError, did_you_mean
from crossbeat.methods import METHODS, Method

if TYPE_CHECKING:
    from crossbeat.cohort import Cohort
    from crossbeat.methods.recipe import Recipe
    from crossbeat.training import Run

MethodName = Annotated[str, typer.Argument(metavar="METHOD", help=f"{', '.join(METHODS)}; see `info`")]


@app.command()
def settings(
    method: MethodName,
    profile: Annotated[str, typer.Option(help="ours, text or code, as far as the method has it")] = "ours",
) -> None:
    """What can be set in a method's training, by --set or in a recipe: name, default by size, meaning."""
    from crossbeat import console
    from crossbeat.installation import settings_table

    head, rows = settings_table(_method(method), profile)
    console.table(f"{method}, profile {profile}", head, rows, texts=head)
    console.then(f"crossbeat train {method} COHORT.CSV -o RUN --set KEY=VALUE")


@app.command()
def train(
    method: MethodName,
    cohort_csv: Csv,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="RUN", help="run folder to make")],
    recipe: Annotated[Path | None, typer.Option(help="a recipe file; recipes/ holds one a method")] = None,
    changes: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="change a setting; `settings` lists them")
    ] = [],  # noqa: B006
    resume: Annotated[bool, typer.Option("--resume", help="go on where the run stopped")] = False,
    device: Device = "auto",
    devices: Annotated[int, typer.Option(min=1, help="number of devices")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="number of machines")] = 1,
    precision: Annotated[str, typer.Option(help="auto, 32, bf16 or 16")] = "auto",
    compile_: Compile = None,
    seed: Seed = 0,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="alike every time, slower")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what it would cost, and stop")] = False,
) -> None:
    """Train a segmenter by one of the methods."""
    from crossbeat import console

    recipe_of = _method(method).settings
    from crossbeat.training import Run

    asked = recipe_of.load(recipe, undotted(changes))
    cohort = cohort_at(cohort_csv)
    run = Run(
        out,
        seed=seed,
        device=choice("device", device, "auto", "cpu", "cuda"),
        devices=devices,
        nodes=nodes,
        precision=choice("precision", precision, "auto", "32", "bf16", "16"),
        deterministic=deterministic,
        compile=compile_,
        resume=resume,
    )
    if dry_run:
        _estimate(method, cohort, asked, replace(run, estimates={}))
        return
    METHODS[method].carry_out(cohort, asked, run, shlex.join(["crossbeat", *sys.argv[1:]]))
    if run.writes:
        console.say(f"segmenter: {out / 'segmenter'}")
        console.then("crossbeat", "predict", out, cohort_csv)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a trained run")],
    scans: Annotated[
        Path, typer.Argument(metavar="INPUT", help="cohort.csv, NIfTI file, folder of NIfTI or DICOM")
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="folder of label maps; of a cohort.csv RUN/predictions")
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
    from crossbeat.data.predictions import choose_folder, open_input, prediction_writer
    from crossbeat.devices import find_device
    from crossbeat.prediction import predict_cohort
    from crossbeat.segmenter import load_segmenter

    out = out or choose_folder(run, scans)
    place = find_device(device)
    segmenters = [load_segmenter(r / "segmenter", place) for r in (run, *ensemble)]
    found, notes = open_input(scans, out, sequence)  # converts DICOM, so it comes last
    for note in notes:
        console.warn(note)
    cohort = pick(found, where, everything)
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
    console.complain_of(failure.problem for failure in failures)
    for remark in write.remarks():
        console.warn(remark)
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
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a trained run")],
    format_name: Annotated[str, typer.Option("--format", help="onnx, torchscript, pt2 or monai")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="folder to make")],
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="leave out which scans it was trained on")
    ] = False,
) -> None:
    """Write a run's network for use without crossbeat, and check what was written."""
    from crossbeat import console
    from crossbeat.export import export_segmenter
    from crossbeat.segmenter import load_segmenter

    made = export_segmenter(load_segmenter(run / "segmenter"), format_name, out, anonymous=anonymous)
    console.say(f"largest difference of a probability: {made.largest_difference:.2g}\nmodel: {made.file}")
    console.warn(made.privacy)
    console.then(f"read {made.guide} on how to run it")


def _method(name: str) -> Method:
    if name not in METHODS:
        raise SettingsError(f"method {name!r} does not exist; {did_you_mean(name, METHODS)}")
    return METHODS[name]


def _estimate(method: str, cohort: Cohort, settings: Recipe, run: Run) -> None:
    """Say what a training would see, do and cost, from a few real steps; nothing is written."""
    from crossbeat import console
    from crossbeat.methods.recipe import find_domains

    domains = find_domains(cohort, settings, run.seed)
    taught = {row.scan for row in domains.target}
    unlabelled = domains.unlabelled.only(lambda row: row.scan not in taught)
    for part, scans in (vars(domains) | {"unlabelled": unlabelled}).items():
        called = "target without labels" if part == "unlabelled" else part.replace("_", " ")
        console.say(f"{called}: {len(scans)} scans of {len(scans.subjects)} subjects")
    METHODS[method].train(cohort, settings, run)
    rows = [[name, *estimate.told()] for name, estimate in (run.estimates or {}).items()]
    console.table("", ["Stage", "Updates", "Parameters", "Memory", "Time"], rows)
    console.say("dry run: nothing was trained or written")
    console.then("the same command without --dry-run")
