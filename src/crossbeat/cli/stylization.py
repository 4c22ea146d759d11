"""The command of stylization; what it does with the files stands in `stylised`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossbeat.cli.options import Csv, Device, Everything, Overwrite, Seed, Where, cohort_at

Runs = Annotated[
    list[Path],
    typer.Option(metavar="RUN", help="another run whose stylizer does the same; may be given again"),
]
StyleWord = Annotated[
    str,
    typer.Option(
        metavar="STYLE",
        help="whose styles: target (those of the run), a filter as in sequence=lge, or one NIfTI file",
    ),
]
Codes = Annotated[
    int, typer.Option(min=0, help="write as many images more a scan, in styles drawn from the code's spread")
]
Judge = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="a run of `train supervised` on the source, for the structure check"),
]


def stylize(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="a run of `train stylization`: its stylizer is used")
    ],
    cohort_csv: Csv,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="folder to make")],
    style: StyleWord = "target",
    beside: Runs = [],  # noqa: B006
    codes: Codes = 0,
    segmenter: Judge = None,
    where: Where = "",
    everything: Everything = False,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Give scans the style of others; show what became of intensities and borders.

    Without --where the scans are those of the run's source: the test split, where
    it has one. Each takes on the style of one slice, drawn by seed, in all of its
    slices and frames.

    Images lie on the scan's own grid, from 0 to 1; around the stylizer's crop
    stands the scan as it is, on that scale. Labels are the scan's, where they lie.
    cohort.csv names the sequence as in bssfp_as_lge, and the style as stylised_as:
    nobody measured these images. Beside it lie styles.csv, structure.csv and a
    page. Exit 1 if a scan could not be restyled.
    """
    from crossbeat import console
    from crossbeat.cli.style_sources import find_contents, find_styles, load_stylizers
    from crossbeat.cli.stylised import Task, open_folder, refuse_codes, stylise_cohort, write_results
    from crossbeat.devices import find_device
    from crossbeat.segmenter import load_segmenter

    place = find_device(device)
    runs = load_stylizers([run, *beside], place)
    refuse_codes(codes, runs)
    judge = None if segmenter is None else (segmenter, load_segmenter(segmenter / "segmenter", place))
    cohort = cohort_at(cohort_csv)
    contents = find_contents(cohort, runs[0], where, everything)
    task = Task(runs, find_styles(style, cohort, runs), judge, codes, seed, out)
    open_folder(contents, task, overwrite)
    with console.bar("restyling scans", len(contents)) as step:
        scans, failures = stylise_cohort(contents, task, progress=step)
    console.complain_of(failures)
    if scans:
        page, warnings = write_results(scans, failures, contents, task)
        console.say(f"{len(scans)} of {len(contents)} scans in {task.styles.told}: {out / 'images'}")
        console.say(f"numbers: {out / 'styles.csv'}, {out / 'structure.csv'}\nlook at it: {page}")
        for warning in warnings:
            console.warn(" ".join(warning))
        console.then("crossbeat", "check", out / "cohort.csv")
    if failures:
        raise typer.Exit(1)
