"""The command of tag pretraining; what it does with the files stands in `tagged`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from crossbeat.cli.options import Csv, Overwrite, Seed, Where, choice, cohort_at
from crossbeat.errors import SettingsError

PAPER_SPACING_MM: Final = 7.14
"""Five pixels of 1.43 mm, methods.md 4.2 and 4.4."""

Out = Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="folder to make")]
Millimetres = Annotated[
    float | None, typer.Option(help="between two lines, across them; 7.14 if not said: the paper's 5 pixels")
]
Pixels = Annotated[float | None, typer.Option(help="the same in each scan's own pixels")]
Vary = Annotated[
    float, typer.Option(min=0, max=0.9, help="draw the spacing up to this share below and above")
]
Turn = Annotated[float, typer.Option(min=0, max=45, help="turn the diagonals at random by up to this")]
Phase = Annotated[str, typer.Option(help="fixed: a line through the first voxel; random: anywhere")]
Flip = Annotated[float, typer.Option(help="of the 1-3-3-1 train together")]
Contrast = Annotated[
    str, typer.Option(help="sqrt (the paper), power0.4_myo (its code, by the myocardium) or none")
]
Fade = Annotated[
    bool, typer.Option("--fade", help="lines fade over the frames, by T1 and the imaging pulses")
]
Inflow = Annotated[
    bool,
    typer.Option(
        help="with --fade: labelled blood loses its lines within a frame or two, as fresh blood flows in"
    ),
]
Fields = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="lines move with the heart, by displacements that `propagate` or `phantom` wrote with --fields",
    ),
]
LowPass = Annotated[
    float,
    typer.Option(
        min=0.05, max=1, help="share of k-space to keep, under a Kaiser window; takes lines away too"
    ),
]
Noise = Annotated[
    float, typer.Option(min=0, max=1, help="SD of Rician noise, at random up to it; 1: the peak")
]
Standardise = Annotated[
    bool, typer.Option("--standardise", help="each slice to the mean and SD of the paper's code")
]
Originals = Annotated[
    bool,
    typer.Option(
        "--with-originals", help="list the scans of COHORT.CSV in the new one too, to train on both"
    ),
]
Suffix = Annotated[
    str, typer.Option(help="after a scan's name, and in the column tag_set: several sets can be told apart")
]


def tag(
    cohort_csv: Csv,
    out: Out,
    spacing_mm: Millimetres = None,
    spacing_px: Pixels = None,
    vary: Vary = 0.0,
    turn_deg: Turn = 0.0,
    phase: Phase = "fixed",
    flip_deg: Flip = 70.0,
    contrast: Contrast = "sqrt",
    fade: Fade = False,
    inflow: Inflow = True,
    fields: Fields = None,
    low_pass: LowPass = 1.0,
    noise_sd: Noise = 0.0,
    standardise: Standardise = False,
    where: Where = "",
    with_originals: Originals = False,
    suffix: Suffix = "tagged",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Make tagged scans of cines, by the Bloch equations: two sets of lines that may fade, and move with the heart.

    Takes the bSSFP scans, or those of --where. Writes images, a cohort.csv with the labels that there were, tags.csv
    with what was drawn for each scan, and a picture of some. Exit 1 if a scan could not be tagged.
    """
    from crossbeat import console
    from crossbeat.cli.tagged import Task, open_folder, pick, remarks, tag_cohort, write_results
    from crossbeat.synthetic.tagging import Simulation, fading_of

    spacing = _spacing(spacing_mm, spacing_px)
    _refuse_vain(fields, fade, inflow)
    simulation = Simulation(
        spacing=(spacing * (1 - vary), spacing * (1 + vary)),
        turn_deg=(-turn_deg, turn_deg),
        phase=choice("phase", phase, "fixed", "random"),
        flip_deg=(flip_deg, flip_deg),
        contrast=choice("contrast", contrast, "sqrt", "power0.4_myo", "none"),
        fading=fading_of(fade, inflow),
        resolved=low_pass,
        noise_sd=(0.0, noise_sd),
        standardised=standardise,
    )
    everyone = cohort_at(cohort_csv)
    cohort, beside = pick(everyone, where), everyone.rows if with_originals else ()
    task = Task(simulation, "mm" if spacing_px is None else "px", fields, seed, out, suffix)
    open_folder(cohort, task, overwrite, beside)
    with console.bar("tagging", len(cohort)) as step:
        scans, failures = tag_cohort(cohort, task, progress=step)
    console.complain_of(failures)
    for remark in remarks(scans, task):
        console.warn(remark)
    if scans:
        picture = write_results(scans, cohort, task, beside)
        console.say(f"{len(scans)} of {len(cohort)} scans tagged: {out / 'images'}\nlook at some: {picture}")
        console.then("crossbeat", "check", out / "cohort.csv")
    if failures:
        raise typer.Exit(1)


def _refuse_vain(fields: Path | None, fade: bool, inflow: bool) -> None:
    if not fade and not inflow:
        raise SettingsError(
            "--no-inflow says how lines fade, and they do not; give --fade too, or leave it out"
        )
    if fields is not None and not fields.is_dir():
        raise SettingsError(
            f"--fields {fields}: there is no such folder; `crossbeat propagate … --fields` writes one"
        )


def _spacing(mm: float | None, px: float | None) -> float:
    if mm is not None and px is not None:
        raise SettingsError("--spacing-mm and --spacing-px say the same thing; leave one away")
    return next(v for v in (px, mm, PAPER_SPACING_MM) if v is not None)
