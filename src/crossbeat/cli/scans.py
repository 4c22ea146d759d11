"""Commands about scans: make, list and check them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossbeat.cli.options import (
    Csv,
    Overwrite,
    Seed,
    app,
    cohort_at,
    new_file,
    refuse_unused,
    split_sizes,
    words,
)


@app.command()
def phantom(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="folder to fill with NIfTI files and cohort.csv")
    ],
    subjects: Annotated[int, typer.Option(min=1, help="number of hearts")] = 12,
    sequences: Annotated[str, typer.Option(help="of bssfp, t2, lge, tagged, with commas")] = "bssfp,t2,lge",
    vendors: Annotated[
        str, typer.Option(help="of a, b, c, d, with commas; another after each round of groups")
    ] = "a",
    cine: Annotated[bool, typer.Option("--cine", help="bSSFP over the whole cycle, 25 frames")] = False,
    slices: Annotated[int, typer.Option(min=0, help="of each scan, about mid-ventricle; 0: all")] = 0,
    fields: Annotated[bool, typer.Option("--fields", help="write the exact motion of each cine")] = False,
    test: Annotated[float, typer.Option(min=0, help="subjects (or a fraction) to hold out as test")] = 0.25,
    validation: Annotated[float, typer.Option(min=0, help="subjects (or a fraction) for validation")] = 0,
    seed: Seed = 0,
    jobs: Annotated[int, typer.Option(min=1, help="processes")] = 2,
    overwrite: Overwrite = False,
) -> None:
    """Make synthetic scans of beating hearts, with their exact labels, volumes and motion."""
    from crossbeat import console
    from crossbeat.data.nifti import write_displacement, write_volume
    from crossbeat.synthetic import Hearts, make_once

    wanted = words(sequences), words(vendors)
    hearts = Hearts(subjects, *wanted, cine, test, seed, slices=slices, fields=fields, validation=validation)
    remedy = "choose another folder, or add --overwrite"
    with console.bar("making phantoms", subjects) as step:
        new = make_once(
            out,
            hearts,
            write=write_volume,
            write_field=write_displacement,
            remedy=remedy,
            overwrite=overwrite,
            jobs=jobs,
            progress=step,
        )
    if not new:
        console.say(f"found as made before: {out}")
    made = cohort_at(out / "cohort.csv")
    console.say(f"{len(made)} scans of {subjects} subjects: {out / 'cohort.csv'}\n{split_sizes(made)}")
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
    again: Annotated[bool, typer.Option("--resplit", help="draw anew what the layout has split")] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """List the scans of a folder in a cohort.csv, and split them by patient if asked."""
    from crossbeat import console
    from crossbeat.cohort import write_cohort
    from crossbeat.data import index as list_scans
    from crossbeat.splits import assign_splits

    new_file(out, overwrite)
    if not (test or validation):
        refuse_unused("an index without --test and --validation", stratify=stratify, resplit=again)
    options = {"images": images, "labels": labels, "sequence": sequence, "convention": convention}
    cohort, notes = list_scans(layout, folder, out.parent, nominal_spacing=nominal_spacing, **options)
    if test or validation:
        cohort = assign_splits(
            cohort, test=test, validation=validation, stratify=words(stratify), seed=seed, again=again
        )
    write_cohort(cohort, out)
    for note in notes:
        console.warn(note)
    console.say(f"{len(cohort)} scans of {len(cohort.subjects)} subjects: {out}")
    console.say(split_sizes(cohort))
    console.then("crossbeat", "check", out)


@app.command()
def join(
    cohorts: Annotated[
        list[str],
        typer.Argument(metavar="[NAME=]COHORT.CSV ...", help="a NAME goes before subjects and scans"),
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="COHORT.CSV", help="file to write, its paths relative to it"),
    ],
    overwrite: Overwrite = False,
) -> None:
    """Make one cohort of several: source and target mostly come from different places.

    A subject that several cohorts name is one person. Splits stay as they are; scans without one train.
    """
    from crossbeat import console
    from crossbeat.cohort import write_cohort
    from crossbeat.data import join as join_cohorts

    new_file(out, overwrite)
    given = [_name_and_path(word) for word in cohorts]
    made, notes = join_cohorts([(name, cohort_at(Path(path))) for name, path in given], out.parent)
    write_cohort(made, out)
    for note in notes:
        console.warn(note)
    console.say(f"{len(made)} scans of {len(made.subjects)} subjects: {out}")
    console.say(split_sizes(made, "give one of the cohorts its own by `index --test` before"))
    console.then("crossbeat", "check", out)


def _name_and_path(word: str) -> tuple[str, str]:
    """Of NAME=COHORT.CSV; a path may hold a `=` of its own, behind a slash or where that file is there."""
    name, equals, path = word.partition("=")
    named = equals and name.strip() and not {"/", "\\"} & set(name) and not Path(word).exists()
    return (name.strip(), path) if named else ("", word)


@app.command()
def check(cohort_csv: Csv) -> None:
    """Open every file of a cohort and report every problem with its remedy; exit 1 if any is an error."""
    from crossbeat import console
    from crossbeat.cohort import read_conventions
    from crossbeat.data import check as find_problems
    from crossbeat.data import told

    cohort = cohort_at(cohort_csv)
    with console.bar("checking scans", len(cohort)) as step:
        problems = find_problems(
            cohort, cohort_csv.parent, read_conventions(cohort_csv.parent), progress=step
        )
    for line in told(problems):
        console.say(line)
    errors = sum(problem.severity == "error" for problem in problems)
    console.say(f"{len(cohort)} scans, {errors} errors, {len(problems) - errors} warnings and notes")
    if errors:
        raise typer.Exit(1)
    if len(cohort.labelled()):
        console.then("crossbeat", "train", "supervised", cohort_csv, "-o", "runs/first")
    else:
        console.then("crossbeat", "predict", "RUN", cohort_csv)
