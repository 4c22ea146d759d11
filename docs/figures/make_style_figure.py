"""Draw scans, the slices whose styles they were given and what stylizers made of them, with the contours of the scans.

Run from the repository root: `python docs/figures/make_style_figure.py STYLED COHORT NAME=STYLIZER … -o OUT.png`.
STYLED is a folder of `crossbeat stylize`, COHORT the cohort.csv that it was given, STYLIZER a name of its styles.csv.
The scans are the first of STYLED, each by the middle one of the slices that show myocardium.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from make_result_figure import INK, MUTED, NAMES, middle_slice, outline
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image

from crossbeat.cohort import Cohort, Row, read_cohort
from crossbeat.data.reading import reader
from crossbeat.errors import RunError
from crossbeat.labels import TRAINED, Structure, fold_into_myocardium
from crossbeat.report.domains import SEQUENCES
from crossbeat.report.overlays import heart_window
from crossbeat.report.svg import COLOURS

WIDTH_IN, TITLE_IN, FOOT_IN, GAP_IN = 9.0, 0.42, 0.32, 0.05


@dataclass(frozen=True)
class Panel:
    """A slice (y, x), and the contours to draw on it; without any where nobody drew the heart."""

    title: str
    image: NDArray[np.float32]
    labels: NDArray[np.uint8] | None
    spacing_mm: tuple[float, float]


def read_panels(styled: Path, cohort: Cohort, stylizers: dict[str, str], count: int) -> list[list[Panel]]:
    """A row a scan: the scan, its style, and the scan in that style by each of the stylizers, which are by their names.

    A stylizer that the folder does not have raises `RunError`.
    """
    made = read_cohort(styled / "cohort.csv", reader)
    scans = list(dict.fromkeys(row.further.get("stylised_from", "") for row in made))[:count]
    return [_row_of(cohort.row(scan), cohort, made, stylizers) for scan in scans]


def _row_of(row: Row, cohort: Cohort, made: Cohort, stylizers: dict[str, str]) -> list[Panel]:
    case = cohort.read(row)
    if case.labels is None or not case.labelled_frames:
        raise RunError(f"scan {row.scan!r}: nobody drew its heart, so there is no contour to look at")
    frame = case.labelled_frames[0]
    labels = fold_into_myocardium(case.labels[frame])
    if not (labels == Structure.MYO).any():
        raise RunError(
            f"scan {row.scan!r}: its labels show no myocardium (frame {frame}), so no slice is the middle one"
        )
    z = middle_slice(labels)
    window = heart_window(np.isin(labels[z], TRAINED), case.spacing_mm[1:]).cut
    spacing, drawn = case.spacing_mm[1:], labels[z][window]
    panels = [Panel(_named(row), case.image[frame, z][window], drawn, spacing)]
    for name, stylizer in stylizers.items():
        mine = [new for new in made if _is_of(new, row.scan, stylizer)]
        if not mine:
            raise RunError(f"{made.folder}: has no image of {row.scan!r} by {stylizer!r}; see its styles.csv")
        if len(panels) == 1:
            panels.append(_style(cohort, mine[0].further["stylised_as"]))
        panels.append(Panel(name, made.read(mine[0]).image[frame, z][window], drawn, spacing))
    return panels


def _is_of(row: Row, scan: str, stylizer: str) -> bool:
    name, _, code = row.further["stylizer"].partition(" ")
    return row.further["stylised_from"] == scan and name == stylizer and not code.startswith("drawn")


def _style(cohort: Cohort, told: str) -> Panel:
    """The slice that `stylised_as` names: SCAN frame F slice Z."""
    scan, _, frame, _, z = told.rsplit(" ", 4)
    row = cohort.row(scan)
    case = cohort.read(row)
    image = case.image[int(frame), int(z)]
    labels = None if case.labels is None else fold_into_myocardium(case.labels[int(frame)])
    if labels is None or not np.isin(labels, TRAINED).any():
        return Panel(f"style: {_named(row)}", image, None, case.spacing_mm[1:])
    window = heart_window(np.isin(labels, TRAINED).any(axis=0), case.spacing_mm[1:]).cut
    return Panel(f"style: {_named(row)}", image[window], None, case.spacing_mm[1:])


def _named(row: Row) -> str:
    return f"{SEQUENCES.get(row.sequence, row.sequence)} of\n{row.subject}"


def draw(rows: Sequence[Sequence[Panel]], note: str) -> plt.Figure:
    """The grid; contours are those of the scan, wherever the stylizer put its borders."""
    columns = len(rows[0])
    side = (WIDTH_IN - GAP_IN * (columns - 1)) / columns
    height = FOOT_IN + len(rows) * (side + TITLE_IN)
    figure = plt.figure(figsize=(WIDTH_IN, height), facecolor="white")
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            bottom = FOOT_IN + (len(rows) - 1 - i) * (side + TITLE_IN)
            left = j * (side + GAP_IN) / WIDTH_IN
            axes = figure.add_axes((left, bottom / height, side / WIDTH_IN, side / height))
            _show(axes, panel)
            axes.set_title(panel.title, fontsize=9.5, color=INK, pad=3)
    x = 0.0
    for structure, name in NAMES.items():
        text = figure.text(
            x, 0.1 / height, f"━ {name}", fontsize=9.5, color=COLOURS[structure.name], weight="bold"
        )
        x += text.get_window_extent().width / figure.bbox.width + 0.015
    figure.text(x, 0.1 / height, note, fontsize=9.5, color=MUTED)
    return figure


def _show(axes: Axes, panel: Panel) -> None:
    low, high = np.percentile(panel.image, (0.5, 99.5))
    dy, dx = panel.spacing_mm
    axes.imshow(panel.image, cmap="gray", vmin=low, vmax=high, aspect=dy / dx, interpolation="bilinear")
    if panel.labels is not None:
        for structure in (Structure.MYO, Structure.RV, Structure.LV):
            outline(axes, panel.labels == structure, colors=COLOURS[structure.name], linewidths=1.1)
    axes.set(xticks=[], yticks=[], facecolor="black")
    axes.spines[:].set_visible(False)


def main() -> None:
    """Read what the command line names and write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("styled", type=Path)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("stylizers", nargs="+", metavar="NAME=STYLIZER")
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).with_name("styles.png"))
    parser.add_argument("--rows", type=int, default=3, help="number of scans")
    given = parser.parse_args()
    if unnamed := [word for word in given.stylizers if "=" not in word]:
        parser.error(f"{unnamed[0]}: has no name; write NAME={unnamed[0]}")
    stylizers = {name: kind for name, _, kind in (word.partition("=") for word in given.stylizers)}
    rows = read_panels(given.styled, read_cohort(given.cohort, reader), stylizers, given.rows)
    figure = draw(rows, f"drawn in the scan. Not picked: the first {len(rows)} scans, middle slice.")
    figure.savefig(given.out, dpi=120)
    with Image.open(given.out) as picture:  # grey and a few colours
        picture.convert("RGB").quantize(192, dither=Image.Dither.NONE).save(given.out, optimize=True)


if __name__ == "__main__":
    main()
