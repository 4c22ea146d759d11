"""Trained stylizers and a cohort → a folder of scans in other styles, what became of them, and a page.

The folder has `images/<scan>_<stylizer>.nii.gz`, `cohort.csv`, `styles.csv` (a line an image), `structure.csv` and
`stylization.html`. The pictures of the page are made in `style_views`.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossbeat.case import Case
from crossbeat.cli import folders
from crossbeat.cli.style_sources import Place, Styles, StylizerRun, with_frames
from crossbeat.cli.style_views import Made, show_scan
from crossbeat.cohort import Cohort, Row, write_cohort
from crossbeat.data.listing import place as place_in
from crossbeat.data.nifti import read_info, sidecar, write_volume
from crossbeat.data.reading import locate
from crossbeat.errors import SettingsError
from crossbeat.evaluation import score_case
from crossbeat.labels import TRAINED
from crossbeat.losses.style import structure_loss
from crossbeat.methods.stylization.restyling import Content, prepare, restyle
from crossbeat.methods.stylization.styles import FLAT
from crossbeat.networks.rain import CHANNELS
from crossbeat.report.style_page import (
    DICE,
    EDGES,
    MOST_SCANS,
    ScanStyles,
    StructureLine,
    StyleLine,
    StylePage,
    name_stylizer,
    write_style_page,
)
from crossbeat.report.styles import REGIONS, Spread, join_spreads, region_masks
from crossbeat.report.wording import NOTHING_FOUND
from crossbeat.report.writing import write_whole
from crossbeat.segmenter import Segmenter
from crossbeat.statistics.histograms import intensity_counts

PAGE: Final = "stylization.html"
HARDLY_THERE: Final = 0.3
"""Mean edge correlation below which a page warns: hearts that can be made out have more."""
STYLES_CSV, STRUCTURE_CSV = "styles.csv", "structure.csv"


@dataclass(frozen=True)
class Task:
    """What to restyle with, in which styles, what to check it by, and where to."""

    runs: Sequence[StylizerRun]
    styles: Styles
    judge: tuple[Path, Segmenter] | None
    """A run on source images and its segmenter, for the structure check."""
    codes: int
    """Styles drawn from a code's spread, beside the style itself."""
    seed: int
    out: Path


@dataclass(frozen=True)
class StyledScan:
    """A scan that was restyled: its new rows and all that is said and shown of it."""

    rows: Sequence[Row]
    """Their paths as seen from the cohort's folder."""
    lines: Sequence[StyleLine]
    structures: Sequence[StructureLine]
    spreads: dict[str, list[Spread]]
    """By stylizer, in its own style."""
    view: ScanStyles | None


def open_folder(cohort: Cohort, task: Task, overwrite: bool) -> None:
    """Make the folder, or clear it of an earlier stylization; see `folders.open_folder`."""
    work = folders.Work("stylization", "stylised scans", STYLES_CSV, PAGE, _files_of, (STRUCTURE_CSV,))
    names = (name for row in cohort for name in _new_names(row, task))
    folders.open_folder(task.out, cohort, names, work, overwrite=overwrite, given=task.styles.files)


def new_name(scan: str, run: StylizerRun, draw: int = 0) -> str:
    """What a scan in another style is called; `draw` counts the drawn codes from 1."""
    return f"{scan}_{run.name}" + (f"_code{draw}" if draw else "")


def refuse_codes(codes: int, runs: Sequence[StylizerRun]) -> None:
    """`SettingsError` where codes are to be drawn and no stylizer has any."""
    if codes and not any(run.stylizer.has_code for run in runs):
        raise SettingsError(
            f"--codes {codes}: styles of {runs[0].path} have no code to draw from; give a run with stylizer: rain, or "
            "with style_vae: true"
        )


def stylise_cohort(
    cohort: Cohort, task: Task, *, progress: Callable[[Row], None] = lambda row: None
) -> tuple[list[StyledScan], list[str]]:
    """Restyle every scan and write its images; the others go on where one fails, and its problem is in the answer."""
    return folders.each_scan(
        cohort,
        task.out,
        lambda row, before: _stylise_scan(row, cohort, task, pictured=before < MOST_SCANS),
        lambda row: (path for name in _new_names(row, task) for path in _files_of(name, task.out)),
        progress,
    )


def write_results(
    scans: Sequence[StyledScan], failures: Sequence[str], cohort: Cohort, task: Task
) -> tuple[Path, list[tuple[str, str]]]:
    """Write cohort.csv, styles.csv, structure.csv and the page of scans whose images are there.

    Returns the page's path, and what it warns of: a bold beginning and what follows it.
    """
    rows = tuple(row for scan in scans for row in scan.rows)
    lines = [line for scan in scans for line in scan.lines]
    structures = [line for scan in scans for line in scan.structures]
    write_whole(task.out / STYLES_CSV, _as_csv([f.name for f in fields(StyleLine)], map(astuple, lines)))
    head = [*(f.name for f in fields(StructureLine)), "difference"]
    write_whole(
        task.out / STRUCTURE_CSV, _as_csv(head, ((*astuple(line), line.difference) for line in structures))
    )
    write_cohort(replace(cohort, rows=rows), task.out / "cohort.csv")
    names = {run.name: name_stylizer(run.name) for run in task.runs}
    warnings = _warnings(structures, task)
    page = StylePage(
        lines,
        structures,
        {
            name: [join_spreads([s.spreads[name][i] for s in scans]) for i in range(len(REGIONS))]
            for name in names
        },
        [scan.view for scan in scans if scan.view is not None],
        len(scans),
        task.styles.told,
        names,
        failures,
        warnings,
        _provenance(cohort, task),
        f"crossbeat check {task.out / 'cohort.csv'}",
    )
    return write_style_page(task.out / PAGE, page), warnings


def edge_correlation(content: Content, stylised: Tensor) -> float:
    """1 less the structure loss of all slices, in [-1, 1]; nan where the content shows one grey alone."""
    if float(content.images.flatten(1).std(dim=1).max()) < FLAT:
        return math.nan
    return 1 - float(structure_loss(stylised, content.images))


def spreads_of(content: Content, stylised: Tensor, style: Content) -> list[Spread]:
    """Intensities before and after by region, and those of the style's whole scan."""
    before, after, theirs = (
        _counts(images, of)
        for images, of in ((content.images, content), (stylised, content), (style.images, style))
    )
    return [Spread(region, before[region], theirs[region], after[region]) for region in REGIONS]


def _stylise_scan(row: Row, cohort: Cohort, task: Task, *, pictured: bool) -> StyledScan:
    case = cohort.read(row)
    chosen = task.styles.choose(row.scan, task.seed)
    made: dict[str, Made] = {}
    own: dict[str, list[Spread]] = {}
    rows, lines, structures = [], [], []
    for run in task.runs:
        content = prepare(case, run.preparation)
        before = _dice(content.within(content.plain()), task)
        style = task.styles.content(chosen, run.preparation)
        for draw, code in _codes(run, task, chosen, row.scan):
            crops = restyle(content, run.stylizer, code)
            image = content.on_grid(crops)
            spreads = spreads_of(content, crops, style)
            line = _line(row, run, draw, task, chosen, edge_correlation(content, crops), spreads)
            rows.append(_write(image, row, cohort, line, task))
            lines.append(line)
            if draw == 0:
                own[run.name] = spreads
                made[run.name] = Made(run, content, image)
                after = _dice(content.within(image), task)
                structures += _structure_lines(row, line, before, after, task)
    view = show_scan(row, case, task.styles, chosen, list(made.values())) if pictured else None
    return StyledScan(rows, lines, structures, own, view)


def _new_names(row: Row, task: Task) -> Iterator[str]:
    """What all that is made of one scan is called."""
    return (new_name(row.scan, run, draw) for run in task.runs for draw in range(task.codes + 1))


def _codes(run: StylizerRun, task: Task, chosen: Place, scan: str) -> Iterator[tuple[int, Tensor]]:
    """The style itself, 0, then as many draws from its spread as asked for, by seed, scan and number alone."""
    image = task.styles.image(run, chosen)
    yield 0, run.stylizer.code_of(image)
    for k in range(1, task.codes + 1 if run.stylizer.has_code else 1):
        seeds = np.random.default_rng([task.seed, zlib.crc32(scan.encode()), k])
        noise = torch.from_numpy(seeds.standard_normal((1, CHANNELS), np.float32))
        yield k, run.stylizer.code_of(image, noise.to(run.device))


def _counts(images: Tensor, content: Content) -> dict[str, NDArray[np.int64]]:
    masks = region_masks(content.labels.numpy(), content.covered.numpy())
    values = images[:, 0].numpy()
    return {region: intensity_counts(values[mask]) for region, mask in masks.items()}


def _dice(case: Case, task: Task) -> dict[tuple[int, str], float]:
    """Of the judge's prediction by (frame, structure); empty without a judge or labels."""
    if task.judge is None or not case.labelled_frames:
        return {}
    frames = case.labelled_frames
    part = with_frames(case, frames)
    row = Row(case.subject, case.id, case.domain.sequence, "-")
    scores = score_case(row, part, task.judge[1].predict(part), units=(), per_slice=False)
    wanted = {*(s.name for s in TRAINED), "mean"}
    return {
        (frames[s.frame], s.structure): s.value
        for s in scores
        if s.metric == DICE and s.frame is not None and s.structure in wanted
    }


def _structure_lines(
    row: Row,
    line: StyleLine,
    before: dict[tuple[int, str], float],
    after: dict[tuple[int, str], float],
    task: Task,
) -> list[StructureLine]:
    head = (line.scan, row.subject, row.scan, line.stylizer)
    judge = str(task.judge[0]) if task.judge else ""
    edges = StructureLine(*head, "", "", "", "", EDGES, 1.0, line.edge_correlation)
    return [edges] + [
        StructureLine(
            *head, judge, str(frame), row.phase(frame), structure, DICE, dice, after[frame, structure]
        )
        for (frame, structure), dice in before.items()
    ]


def _line(
    row: Row, run: StylizerRun, draw: int, task: Task, chosen: Place, edges: float, spreads: Sequence[Spread]
) -> StyleLine:
    code = f"drawn {draw}" if draw else "centre" if run.stylizer.has_code else "descriptor"
    divergences = [value for s in spreads for value in (s.from_content, s.from_style)]
    return StyleLine(
        new_name(row.scan, run, draw),
        row.subject,
        row.scan,
        run.name,
        str(run.path),
        chosen.scan,
        task.styles.frame(chosen),
        chosen.z,
        code,
        edges,
        *divergences,
    )


def _write(image: NDArray[np.float32], row: Row, cohort: Cohort, line: StyleLine, task: Task) -> Row:
    """The image on its scan's own axes and affine, what it is beside it; its row, as seen from the cohort's folder."""
    path, beside = _files_of(line.scan, task.out)
    place_in(path.resolve(), task.out.resolve())
    info = read_info(locate(cohort.folder, row.image_files[0]), warn=False)
    stored = np.stack([info.turn.undo(frame) for frame in image], axis=-1)
    write_volume(
        path,
        stored.transpose(3, 2, 1, 0),
        info.file_affine,
        frame_interval_ms=info.frame_interval_ms,
        description=f"crossbeat stylised ({line.stylizer}), not measured",
    )
    about = {
        "quantity": "intensity in [0, 1], made by a stylizer; around its crop the scan as it was, on that scale",
        "image": row.image_files,
        **{
            k: getattr(line, k)
            for k in ("run", "stylizer", "style_scan", "style_frame", "style_slice", "code")
        },
    }
    write_whole(beside, json.dumps(about, indent=2) + "\n")
    style = task.styles.scan(line.style_scan).row
    return replace(
        row,
        scan=line.scan,
        sequence=f"{row.sequence}_as_{style.sequence}",
        image=Path(os.path.relpath(path.resolve(), cohort.folder.resolve())).as_posix(),
        further={
            **row.further,
            "stylised_from": row.scan,
            "stylised_as": f"{line.style_scan} frame {line.style_frame} slice {line.style_slice}",
            "stylizer": f"{line.stylizer} {line.code}",
        },
    )


def _warnings(structures: Sequence[StructureLine], task: Task) -> list[tuple[str, str]]:
    """What a reader must know of the images and of the structure check."""
    found = []
    scans = {x.stylised_from for x in structures}
    trained = {} if task.judge is None else task.judge[1].provenance.get("trained_on", {})
    seen = scans & {scan for part in ("source", "labelled_target") for scan in trained.get(part, ())}
    if seen:
        found.append(
            (
                f"The segmenter of the structure check learnt from {len(seen)} of these {len(scans)} scans.",
                "Its Dice on them as they are is too good, and so is what it loses on them stylised.",
            )
        )
    edges = [x.stylised for x in structures if x.metric == EDGES and math.isfinite(x.stylised)]
    if edges and float(np.mean(edges)) < HARDLY_THERE:
        found.append(
            (
                f"The stylised images hardly show their contents: edge correlation {np.mean(edges):.2f}.",
                "The stylizer has learnt too little, or its encoder sees too little: do not train on them.",
            )
        )
    dice = [x.content for x in structures if x.metric == DICE and math.isfinite(x.content)]
    if dice and float(np.mean(dice)) < NOTHING_FOUND:
        found.append(
            (
                "The segmenter of the structure check finds nothing in the contents themselves.",
                "Its Dice tells nothing of the styles: give --segmenter a run that was trained on such scans.",
            )
        )
    return found


def _provenance(cohort: Cohort, task: Task) -> list[tuple[str, str]]:
    found = [("Cohort", str(cohort.folder / f"{cohort.name}.csv")), ("Styles", task.styles.told)]
    for run in task.runs:
        grid, encoder = run.preparation, run.stylizer.encoder
        psnr = "" if encoder.psnr_db is None else f", {encoder.psnr_db:.1f} dB"
        found.append(
            (
                name_stylizer(run.name),
                f"{run.path}; encoder {encoder.source}{psnr}; a crop of {grid.size} x {grid.size} pixels of "
                f"{grid.spacing_mm:g} mm",
            )
        )
    judge = str(task.judge[0]) if task.judge else "none"
    return [*found, ("Segmenter of the structure check", judge), ("Seed", str(task.seed))]


def _as_csv(head: Sequence[str], rows: object) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)  # type: ignore[arg-type]
    return text.getvalue()


def _files_of(scan: str, out: Path) -> list[Path]:
    image = out / "images" / f"{folders.as_file_name(scan)}.nii.gz"
    return [image, sidecar(image)]
