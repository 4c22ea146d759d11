"""Draw docs/figures/propagation.png: a cine with carried labels, their motion, and how far to trust them.

Run from the repository root on the folder that `crossbeat propagate` made:
`python docs/figures/make_propagation_figure.py CARRIED [--scan SCAN] [-o OUT.png]`.
Without `--scan` it is the first of the folder's cohort, never the prettiest. Above stands that command's own picture of
the scan (frames over the cycle, warped grid, Jacobian map), below the volume and the confidence of every frame.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from PIL import Image, ImageColor

from crossbeat.cohort import Row, read_cohort
from crossbeat.data.reading import reader
from crossbeat.errors import RunError
from crossbeat.report.motion import SCALE
from crossbeat.report.svg import COLOURS, SERIES

INK, MUTED = "#1b1f24", "#5b6470"
WIDTH_PX, CHARTS_IN, DPI = 1200, (10.0, 2.35), 120


def chosen(folder: Path, scan: str) -> tuple[Row, pd.DataFrame]:
    """The scan's row and its lines of confidence.csv, in the order of its frames; `RunError` where it is not there."""
    cohort = read_cohort(folder / "cohort.csv", reader)
    found = [row for row in cohort if row.scan == (scan or cohort.rows[0].scan)]
    if not found:
        raise RunError(
            f"{folder}: holds no labels carried through scan {scan!r}; `crossbeat propagate` makes them"
        )
    table = pd.read_csv(folder / "confidence.csv", dtype={"scan": str, "source": str})
    return found[0], table[table["scan"] == found[0].scan].sort_values("frame")


def draw_volume(axes: Axes, row: Row, lines: pd.DataFrame) -> None:
    """The LV's volume over the cycle; frames that somebody drew are rings, with their phase."""
    x, drawn = times(lines), is_drawn(lines)
    axes.plot(x, lines["lv_ml"], color=COLOURS["LV"], linewidth=1.6, marker="o", markersize=3)
    axes.plot(
        x[drawn], lines["lv_ml"][drawn], "o", markersize=8, markerfacecolor="white", color=COLOURS["LV"]
    )
    for at, volume, frame in zip(x[drawn], lines["lv_ml"][drawn], lines["frame"][drawn], strict=True):
        name = f"{row.phase(int(frame)) or 'frame ' + str(frame)}, drawn"
        beside = (7, 5) if volume > lines["lv_ml"].mean() else (-4, -15)
        axes.annotate(name, (at, volume), beside, textcoords="offset points", color=MUTED, fontsize=8.5)
    axes.set_ylim(0, 1.18 * lines["lv_ml"].max())
    axes.set_title("LV volume, ml", fontsize=10, color=INK)


def draw_confidence(axes: Axes, lines: pd.DataFrame) -> None:
    """Confidence of the frames to which labels were carried, and the shares that it is the least of."""
    carried = lines[~is_drawn(lines)]
    for colour, part in zip(SERIES[2:], ("agreement", "similarity", "regularity"), strict=False):
        if carried[part].notna().any():
            axes.plot(times(carried), carried[part], color=colour, linewidth=1.3, label=part)
    axes.plot(
        times(carried), carried["confidence"], "o", color=INK, markersize=3.5, label="confidence: the least"
    )
    axes.set_ylim(0, 1.03)
    axes.set_title("Confidence of the carried frames, 0 to 1", fontsize=10, color=INK)
    axes.legend(loc="lower right", ncols=2, fontsize=8.5, frameon=False, handlelength=1.4)


def times(lines: pd.DataFrame) -> pd.Series:
    """Where the frames stand: in ms where all times are known, else by number."""
    return lines["time_ms"] if lines["time_ms"].notna().all() else lines["frame"]


def is_drawn(lines: pd.DataFrame) -> pd.Series:
    """Frames that are their own source: somebody drew them."""
    return lines["source"] == lines["frame"].astype(str)


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures below one another, all of the figure's width."""
    sized = [
        p.resize((WIDTH_PX, round(p.height * WIDTH_PX / p.width)), Image.Resampling.LANCZOS) for p in pictures
    ]
    whole = Image.new("RGB", (WIDTH_PX, sum(p.height for p in sized)), "white")
    top = 0
    for picture in sized:
        whole.paste(picture, (0, top))
        top += picture.height
    return whole


def draw(folder: Path, scan: str = "") -> Image.Image:
    """The whole figure."""
    row, lines = chosen(folder, scan)
    figure, axes = plt.subplots(1, 2, figsize=CHARTS_IN, layout="constrained")
    draw_volume(axes[0], row, lines)
    draw_confidence(axes[1], lines)
    for panel in axes:
        panel.set_xlabel("time since the R wave, ms" if lines["time_ms"].notna().all() else "frame")
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_xlim(left=0)
    charts = io.BytesIO()
    figure.savefig(charts, dpi=DPI, facecolor="white")
    plt.close(figure)
    with Image.open(folder / "figures" / f"{row.scan}.png") as strip, Image.open(charts) as below:
        return stacked([strip.convert("RGB"), below.convert("RGB")])


def main() -> None:
    """Read the folder named on the command line and write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("carried", type=Path, metavar="CARRIED", help="a folder of `crossbeat propagate`")
    parser.add_argument("--scan", default="", help="else the first")
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).with_name("propagation.png"))
    given = parser.parse_args()
    picture = draw(given.carried, given.scan)
    picture.quantize(palette=_palette(), dither=Image.Dither.NONE).save(given.out, optimize=True)


def _palette() -> Image.Image:
    """Greys, the Jacobian map's colours, and the lines' mixed with greys: less than half the size of full colour."""
    greys = [(v, v, v) for v in np.linspace(0, 255, 104).round().astype(int).tolist()]
    scale = [tuple(round(255 * c) for c in matplotlib.colormaps[SCALE](x)[:3]) for x in np.linspace(0, 1, 64)]
    names = ["LV", "MYO", "RV"]
    lines = [ImageColor.getrgb(c) for c in (*(COLOURS[s] for s in names), "#ffd84d", "#1f5f99", *SERIES[3:5])]
    mixed = [
        tuple(round(share * c + (1 - share) * grey) for c in colour)
        for colour in lines for share in (1.0, 0.75, 0.5) for grey in (20, 80, 160, 255)
    ]  # fmt: skip
    palette = Image.new("P", (1, 1))
    palette.putpalette([v for colour in greys + scale + mixed for v in colour])
    return palette


if __name__ == "__main__":
    main()
