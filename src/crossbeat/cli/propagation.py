"""The command of propagation; what it does with the files stands in `carried`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossbeat.cli.options import Csv, Device, Everything, Overwrite, Where, choice, cohort_at, pick


def propagate(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="a run of `train propagation`: its registration is used")
    ],
    cohort_csv: Csv,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="folder to make")],
    source: Annotated[
        str, typer.Option("--from", help="ed, or ed_es: ES too where it is labelled as fully as ED")
    ] = "ed_es",
    fields: Annotated[
        bool, typer.Option("--fields", help="write where each voxel lies in the first labelled frame")
    ] = False,
    where: Where = "",
    everything: Everything = False,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Carry the labels of one or two frames of each cine to all of its frames, and say how far to trust them.

    Writes 4-D labels on each scan's own grid, confidence.csv, a cohort.csv with these labels, pictures and a page.
    Exit 1 if a scan could not be carried.
    """
    from crossbeat import console
    from crossbeat.cli.carried import Task, carry_cohort, load_registration, open_folder, write_results
    from crossbeat.devices import find_device

    which = choice("from", source, "ed", "ed_es")
    task = Task(run, load_registration(run, find_device(device)), which, out, fields)
    cohort = pick(cohort_at(cohort_csv), where, everything)
    open_folder(out, cohort, overwrite)
    with console.bar("carrying labels", len(cohort)) as step:
        scans, failures = carry_cohort(cohort, task, progress=step)
    console.complain_of(failures)
    if scans:
        page = write_results(scans, failures, cohort, task)
        console.say(f"labels of {len(scans)} of {len(cohort)} scans: {out / 'labels'}")
        console.say(f"confidence of each frame: {out / 'confidence.csv'}\nlook at it: {page}")
        console.then("crossbeat", "check", out / "cohort.csv")
    if failures:
        raise typer.Exit(1)
