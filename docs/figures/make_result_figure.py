"""Draw test scans segmented by one or more runs, a row a run and one for the reference, for the README.

Run from the repository root: `python docs/figures/make_result_figure.py NAME=RUN [NAME=RUN …] -o OUT.png`.
The scans are chosen by a rule and never by their looks: the first test scans of the sequence, in the order of the
first run's cohort, at ED (or in the only frame), in the middle one of the slices in which the reference shows
myocardium; or with --quartiles those frames, of all that are labelled, whose Dice there is the worst, the three
quartiles and the best on the mean of the runs. The rule stands below the picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from PIL import Image

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.data.predictions import open_predictions, prediction_reader
from crossbeat.errors import RunError
from crossbeat.labels import TRAINED, Structure, fold_into_myocardium
from crossbeat.metrics.overlap import dice
from crossbeat.report.domains import SEQUENCES
from crossbeat.report.overlays import heart_window
from crossbeat.report.svg import COLOURS

INK, MUTED = "#1b1f24", "#5b6470"
NAMES = {Structure.LV: "LV cavity", Structure.MYO: "myocardium", Structure.RV: "RV cavity"}
QUARTILES = ("worst", "lower quartile", "median", "upper quartile", "best")
WIDTH_IN, TITLE_IN, FOOT_IN, LEFT_IN, GAP_IN = 9.0, 0.26, 0.5, 0.3, 0.05


@dataclass(frozen=True)
class Column:
    """One slice: the picture, the reference, and what each run made of it, all (y, x) and cut alike."""

    title: str
    image: NDArray[np.float32]
    reference: NDArray[np.uint8]
    predicted: list[NDArray[np.uint8]]
    spacing_mm: tuple[float, float]
    when: str
    """'at ED', or 'in their only frame' where a scan is a still."""


def chosen_scans(cohort: Cohort, sequence: str, count: int) -> Cohort:
    """The first scans of the test split and this sequence; fewer than `count` raise `RunError`."""
    found = cohort.where(split="test", sequence=sequence).rows[:count]
    if len(found) < count:
        raise RunError(
            f"{cohort.folder}: holds label maps of {len(found)} test scans of sequence {sequence!r}, the figure shows "
            f"{count}; predict them, or ask for fewer with --columns"
        )
    return cohort.only(lambda row: row in found)


def middle_slice(reference: NDArray[np.uint8]) -> int:
    """The middle one of the slices (z, y, x) that show myocardium; the upper of the two where their number is even."""
    slices = np.flatnonzero((reference == Structure.MYO).any(axis=(1, 2)))
    return int(slices[len(slices) // 2])


def mean_dice(predicted: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Mean Dice of LV, MYO and RV in a slice, of those that either mask has; a missed one counts as 0."""
    return float(np.nanmean([dice(predicted == s, reference == s) for s in TRAINED]))


def read_columns(runs: dict[str, Path], sequence: str, count: int) -> list[Column]:
    """The slices that the rule chooses, with the label maps of all runs; a scan that a run lacks raises `RunError`."""
    cohort = chosen_scans(open_predictions(next(iter(runs.values()))), sequence, count)
    readers = {path: prediction_reader(path, cohort) for path in runs.values()}
    columns = []
    for row in cohort:
        case, maps = cohort.read(row), _maps_of(row, readers)
        if case.frames > 1 and row.ed_frame is None:
            raise RunError(
                f"scan {row.scan!r}: is a cine, and no ed_frame says which frame is ED; fill that column in "
                f"{cohort.folder / 'cohort.csv'}"
            )
        title = ", ".join(v for v in (row.subject, row.group) if v)
        columns.append(_column(case, row.ed_frame or 0, maps, title))
    return columns


def read_quartiles(runs: dict[str, Path], sequence: str) -> list[Column]:
    """The frames of test scans that lie at the quartiles, by Dice of the middle slice on the mean of the runs.

    From the worst to the best; frames whose reference shows no myocardium do not count, and without any `RunError` is
    raised.
    """
    cohort = open_predictions(next(iter(runs.values()))).where(split="test", sequence=sequence)
    readers = {path: prediction_reader(path, cohort) for path in runs.values()}
    found = []
    for row in cohort:
        case, maps = cohort.read(row), _maps_of(row, readers)
        title = ", ".join(v for v in (row.subject, row.group) if v)
        for frame in case.labelled_frames:
            if case.labels is not None and _has_wall(fold_into_myocardium(case.labels[frame])):
                column = _column(case, frame, maps, title)
                dices = [mean_dice(labels, column.reference) for labels in column.predicted]
                found.append((float(np.mean(dices)), row.scan, frame, column))
    if not found:
        raise RunError(f"{cohort.folder}: no labelled frame of a test scan of sequence {sequence!r} to show")
    found.sort(key=lambda one: one[:3])
    places = np.rint(np.linspace(0, len(found) - 1, len(QUARTILES))).astype(int)
    return [
        replace(found[i][3], title=f"{name}\n{found[i][3].title}\nframe {found[i][2]}")
        for name, i in zip(QUARTILES, places, strict=True)
    ]


def draw(columns: list[Column], names: list[str], note: str, *, first: str = "") -> plt.Figure:
    """A row a run with its contours over the dashed reference; a row of the reference alone below, or `first`."""
    shown: list[tuple[str, int | None]] = [(name, i) for i, name in enumerate(names)]
    rows = [(first, None), *shown] if first else [*shown, ("reference", None)]
    side = (WIDTH_IN - LEFT_IN - GAP_IN * (len(columns) - 1)) / len(columns)
    title = TITLE_IN * (1 + max(column.title.count("\n") for column in columns))
    height = title + FOOT_IN + len(rows) * (side + GAP_IN)
    figure = plt.figure(figsize=(WIDTH_IN, height), facecolor="white")
    for i, (name, run) in enumerate(rows):
        bottom = (FOOT_IN + (len(rows) - 1 - i) * (side + GAP_IN) + GAP_IN) / height
        figure.text(
            0.16 / WIDTH_IN, bottom + side / height / 2, name, rotation=90, ha="center", va="center",
            fontsize=10.5, color=INK, weight="bold",
        )  # fmt: skip
        for j, column in enumerate(columns):
            left = (LEFT_IN + j * (side + GAP_IN)) / WIDTH_IN
            axes = figure.add_axes((left, bottom, side / WIDTH_IN, side / height))
            _panel(axes, column, run)
            if i == 0:
                axes.set_title(column.title, fontsize=10, color=INK, pad=4)
    x = LEFT_IN / WIDTH_IN
    for structure, name in NAMES.items():
        text = figure.text(
            x, 0.34 / height, f"━ {name}", fontsize=9.5, color=COLOURS[structure.name], weight="bold"
        )
        x += text.get_window_extent().width / figure.bbox.width + 0.015
    figure.text(x, 0.34 / height, "predicted; dashed white: reference. Dice: mean of the three in this slice.",
                fontsize=9.5, color=MUTED)  # fmt: skip
    figure.text(LEFT_IN / WIDTH_IN, 0.12 / height, note, fontsize=9.5, color=MUTED)
    return figure


def main() -> None:
    """Read the runs named on the command line and write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="+", metavar="NAME=RUN", help="a run with predictions, and its name in the figure"
    )
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).with_name("result.png"))
    parser.add_argument("--sequence", default="lge")
    parser.add_argument("--columns", type=int, default=4, help="number of scans")
    parser.add_argument(
        "--quartiles", action="store_true", help="the worst, the quartiles and the best frame"
    )
    parser.add_argument("--first", default="", metavar="NAME", help="the reference stands first, so named")
    parser.add_argument("--dpi", type=int, default=120, help="fewer make a smaller file")
    given = parser.parse_args()
    if unnamed := [word for word in given.runs if "=" not in word]:
        parser.error(f"{unnamed[0]}: has no name; write NAME={unnamed[0]}")
    runs = {name: Path(path) for name, _, path in (word.partition("=") for word in given.runs)}
    if len(runs) < len(given.runs):
        parser.error("two runs have one name; each row needs its own")
    sequence = SEQUENCES.get(given.sequence, given.sequence)
    if given.quartiles:
        columns = read_quartiles(runs, given.sequence)
        note = f"Not picked: by the mean Dice of these rows, of all labelled frames of the {sequence} test scans."
    else:
        columns = read_columns(runs, given.sequence, given.columns)
        note = (
            f"Not picked: the first {len(columns)} {sequence} test scans of the cohort, {columns[0].when}, "
            "middle slice."
        )
    figure = draw(columns, list(runs), note, first=given.first)
    figure.savefig(given.out, dpi=given.dpi)
    with Image.open(given.out) as picture:  # a third of the size of full colour, and no difference to the eye
        picture.convert("RGB").quantize(192, dither=Image.Dither.NONE).save(given.out, optimize=True)


def _maps_of(
    row: Row, readers: dict[Path, Callable[[Row], NDArray[np.uint8] | None]]
) -> list[NDArray[np.uint8]]:
    maps = []
    for path, read in readers.items():
        labels = read(row)
        if labels is None:
            raise RunError(f"{path}: has no label map of scan {row.scan!r}; `crossbeat predict` makes it")
        maps.append(labels)
    return maps


def _column(case: Case, frame: int, maps: list[NDArray[np.uint8]], title: str) -> Column:
    if case.labels is None:
        raise RunError(
            f"scan {case.id!r}: has no reference to show beside its label map; choose labelled scans"
        )
    reference = fold_into_myocardium(case.labels[frame])
    when = "at ED" if case.frames > 1 else "in their only frame"
    if not _has_wall(reference):
        raise RunError(
            f"scan {case.id!r}: its reference shows no myocardium {when.replace('their', 'its')} (frame {frame}), so "
            "no slice is the middle one; correct its labels or ed_frame, or take its row out of the cohort.csv"
        )
    z = middle_slice(reference)
    shown = [reference[z], *(labels[frame, z] for labels in maps)]
    window = heart_window(np.isin(np.stack(shown), TRAINED), case.spacing_mm[1:]).cut
    cut = [labels[window] for labels in shown]
    return Column(title, case.image[frame, z][window], cut[0], cut[1:], case.spacing_mm[1:], when)


def _has_wall(reference: NDArray[np.uint8]) -> bool:
    return bool((reference == Structure.MYO).any())


def _panel(axes: Axes, column: Column, run: int | None) -> None:
    low, high = np.percentile(column.image, (0.5, 99.5))
    (ny, nx), (dy, dx) = column.image.shape, column.spacing_mm
    axes.imshow(column.image, cmap="gray", vmin=low, vmax=high, aspect=dy / dx, interpolation="bilinear")
    coloured = column.reference if run is None else column.predicted[run]
    for structure in (Structure.MYO, Structure.RV, Structure.LV):
        outline(axes, coloured == structure, colors=COLOURS[structure.name], linewidths=1.8)
    if run is not None:
        for structure in TRAINED:
            outline(
                axes, column.reference == structure, colors="white", linewidths=0.8, linestyles=[(0, (3, 3))]
            )
        axes.text(
            0.03, 0.035, f"Dice {mean_dice(coloured, column.reference):.2f}", transform=axes.transAxes, color="white",
            fontsize=10.5, weight="bold", path_effects=[withStroke(linewidth=2.5, foreground="black")],
        )  # fmt: skip
    half_mm = max(ny * dy, nx * dx) / 2  # square, also where the image's rim cuts the window off
    axes.set_xlim(nx / 2 - 0.5 - half_mm / dx, nx / 2 - 0.5 + half_mm / dx)
    axes.set_ylim(ny / 2 - 0.5 + half_mm / dy, ny / 2 - 0.5 - half_mm / dy)
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def outline(axes: Axes, mask: NDArray[np.bool_], **style: object) -> None:
    """Draw the border of a mask, where it has any."""
    if mask.any():
        axes.contour(mask.astype(float), [0.5], **style)


if __name__ == "__main__":
    main()
