"""The command of tag pretraining; what it does with the files stands in `tagged`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossbeat.cli.options import Csv, Overwrite, Seed, Where, choice, cohort_at
from crossbeat.errors import SettingsError

PAPER_SPACING_MM = 7.14
"""Five pixels of 1.43 mm, methods.md 4.2 and 4.4."""


def tag(
    cohort_csv: Csv,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="folder to make")],
    spacing_mm: Annotated[
        float | None,
        typer.Option(help="between two lines, across them [default: 7.14, the paper's 5 pixels]"),
    ] = None,
    spacing_px: Annotated[float | None, typer.Option(help="the same in each scan's own pixels")] = None,
    vary: Annotated[
        float, typer.Option(min=0, max=0.9, help="draw the spacing up to this share below and above")
    ] = 0.0,
    turn_deg: Annotated[
        float, typer.Option(min=0, max=45, help="turn the diagonals at random by up to this")
    ] = 0.0,
    phase: Annotated[
        str, typer.Option(help="fixed: a line through the first voxel; random: anywhere")
    ] = "fixed",
    flip_deg: Annotated[float, typer.Option(help="of the 1-3-3-1 train together")] = 70.0,
    contrast: Annotated[
        str, typer.Option(help="sqrt (the paper), power0.4_myo (its code, by the myocardium) or none")
    ] = "sqrt",
    fade: Annotated[
        bool, typer.Option("--fade", help="lines fade over the frames, by T1 and the imaging pulses")
    ] = False,
    fields: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="lines move with the heart: displacements of `propagate` or `phantom`"
        ),
    ] = None,
    low_pass: Annotated[
        float, typer.Option(min=0.05, max=1, help="share of k-space to keep, under a Kaiser window")
    ] = 1.0,
    noise_sd: Annotated[
        float, typer.Option(min=0, max=1, help="Rician noise, at random up to it; 1: the peak")
    ] = 0.0,
    standardise: Annotated[
        bool, typer.Option("--standardise", help="each slice to the mean and SD of the paper's code")
    ] = False,
    where: Where = "",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Make tagged scans of cines, by the Bloch equations: two sets of lines that may fade, and move with the heart.

    Takes the bSSFP scans, or those of --where. Writes images, a cohort.csv with the labels that there were, tags.csv
    with what was drawn for each scan, and a picture of some. Exit 1 if a scan could not be tagged.
    """
    from crossbeat import console
    from crossbeat.cli.tagged import Task, open_folder, tag_cohort, write_results
    from crossbeat.cohort import parse_filter
    from crossbeat.synthetic.tagging import Fading, Simulation

    if spacing_mm is not None and spacing_px is not None:
        raise SettingsError("--spacing-mm and --spacing-px say the same thing; leave one away")
    spacing = next(v for v in (spacing_px, spacing_mm, PAPER_SPACING_MM) if v is not None)
    simulation = Simulation(
        spacing=(spacing * (1 - vary), spacing * (1 + vary)),
        turn_deg=(-turn_deg, turn_deg),
        phase=choice(phase, "fixed", "random"),
        flip_deg=(flip_deg, flip_deg),
        contrast=choice(contrast, "sqrt", "power0.4_myo", "none"),
        fading=Fading() if fade else None,
        resolved=low_pass,
        noise_sd=(0.0, noise_sd),
        standardised=standardise,
    )
    cohort = cohort_at(cohort_csv)
    wanted = parse_filter(where) or {"sequence": ["bssfp"]}
    picked = cohort.where(**wanted)
    if not len(picked):
        told = ",".join(f"{column}={'|'.join(values)}" for column, values in wanted.items())
        raise SettingsError(f"no scan of {cohort.name} matches {told}; choose others with --where")
    task = Task(simulation, "mm" if spacing_px is None else "px", fields, seed, out)
    open_folder(picked, task, overwrite)
    with console.bar("tagging", len(picked)) as step:
        scans, failures = tag_cohort(picked, task, progress=step)
    for failure in failures:
        console.complain(failure)
    if scans:
        picture = write_results(scans, picked, task)
        console.say(f"{len(scans)} of {len(picked)} scans tagged: {out / 'images'}\nlook at some: {picture}")
        console.then("crossbeat", "check", out / "cohort.csv")
    if failures:
        raise typer.Exit(1)
