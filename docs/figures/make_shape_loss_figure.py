"""Draw docs/figures/shape_loss.png: what three losses say of a ring and of predictions with defects. No patient.

Run from the repository root: `python docs/figures/make_shape_loss_figure.py [out.png]`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image
from rings import SIDE, Toy, compare_on_rings

COLOURS = {"shape-aware": "#e4572e", "cross-entropy": "#1f8aa8", "1 - Dice": "#8a6fb0"}
LONGEST = 0.75
"""Loss at the right end of every panel of bars."""


def show(axes: Axes, toy: Toy, ring: Toy) -> None:
    """Probabilities, with the drawn ring as a line."""
    axes.imshow(toy.probabilities.numpy(), cmap="gray", vmin=0, vmax=1)
    axes.contour(ring.probabilities.numpy() > 0.5, [0.5], colors="#f2c14e", linewidths=1.5)
    axes.set_title(toy.name, fontsize=14, pad=4)
    axes.set(xticks=[], yticks=[], xlim=(8, SIDE - 8), ylim=(SIDE - 8, 8))


def compare(axes: Axes, toy: Toy) -> None:
    """Its three losses as bars, with their numbers."""
    values = [toy.shape_aware, toy.cross_entropy, toy.dice]
    bars = axes.barh(range(3), values, 0.8, color=list(COLOURS.values()))
    axes.bar_label(bars, fmt="%.3f", fontsize=13, padding=3)
    axes.set(xlim=(0, LONGEST), ylim=(2.6, -0.6), xticks=[], yticks=[])
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def main(out: Path) -> None:
    """Each prediction above its losses."""
    toys = compare_on_rings()
    figure = plt.figure(figsize=(9.6, 7.4))
    grid = figure.add_gridspec(
        4, 4, height_ratios=(1, 0.4, 1, 0.4), left=0.01, right=0.99, top=0.9, bottom=0.01, hspace=0.16
    )
    for k, toy in enumerate(toys):
        row, column = divmod(k, 4)
        show(figure.add_subplot(grid[2 * row, column]), toy, toys[0])
        compare(figure.add_subplot(grid[2 * row + 1, column]), toy)
    handles = [Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()]
    figure.legend(handles, list(COLOURS), loc="upper center", ncols=3, fontsize=14, frameon=False)
    figure.savefig(out, dpi=100)
    plt.close(figure)
    with Image.open(out) as picture:
        picture.convert("RGB").quantize(96, dither=Image.Dither.NONE).save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("shape_loss.png"))
