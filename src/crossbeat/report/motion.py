"""A cine, its labels and a displacement → pictures: tiles over the cycle, the warped grid, the Jacobian map.

A displacement (2, y, x) says where each voxel of a frame lies in another one, in voxels along y and x, as
`crossbeat propagate` finds it; a Jacobian (y, x) is that of the same warp.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import matplotlib
import numpy as np
from contourpy import contour_generator
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from crossbeat.case import Case
from crossbeat.labels import TRAINED, Structure, fold_into_myocardium
from crossbeat.report.overlays import (
    Window,
    contour_path,
    contours_mm,
    grey,
    heart_window,
    line_path,
    png_url,
    three_levels,
)
from crossbeat.report.svg import COLOURS

TILES: Final = 8
"""Frames of a strip: a row of a page, and enough to see contraction and filling."""

GRID_MM: Final = 6.0
"""Between the lines of a warped grid: a wall of 8 to 10 mm is crossed by one line and more."""

LARGEST_CHANGE: Final = 2.0
"""Where the colours of a Jacobian map end: tissue of half or twice its size."""

SCALE: Final = "RdBu_r"  # ColorBrewer, told apart by all common kinds of colour blindness
FOLDED: Final = (0, 0, 0)
"""Colour where the field folds: no tissue does that."""

_LINES: Final = (Structure.MYO, Structure.RV, Structure.LV)  # in the order of drawing, the cavity on top
_INK, _MARK = "#1b1f24", "#1f5f99"  # text and accent of the page, in light colours
_GRID: Final = "#ffd84d"  # no structure's colour, and seen on dark and bright tissue


@dataclass(frozen=True, eq=False)
class Sight:
    """What all pictures of a scan share: the slice, the cut-out around the heart, one scale of grey."""

    case: Case
    """With the labels to draw, in all its frames."""
    z: int
    window: Window
    shades: NDArray[np.uint8]
    """(t, y, x) of the cut-out: 0 to 255."""

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """(y, x)."""
        return self.case.spacing_mm[1:]

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width of the cut-out."""
        _, y, x = self.shades.shape
        return y * self.spacing_mm[0], x * self.spacing_mm[1]

    def cut(self, plane: NDArray[np.float32]) -> NDArray[np.float32]:
        """The cut-out of a (…, y, x) field of the slice."""
        return plane[(..., *self.window.cut)]

    def labels(self, frame: int) -> NDArray[np.uint8]:
        """(y, x) of the cut-out, scar and oedema as myocardium."""
        assert self.case.labels is not None
        return fold_into_myocardium(self.case.labels[frame, self.z][self.window.cut])


@dataclass(frozen=True, eq=False)
class Motion:
    """How a slice of one frame moved since another."""

    frame: int
    since: int
    displacement: NDArray[np.float32]
    """(2, y, x) of the whole slice: where its voxels lie in frame `since`, in voxels along y and x."""
    jacobian: NDArray[np.float32]
    """(y, x): size in frame `since` over size in `frame`; at most 0 where the field folds."""


def look(case: Case, frame: int) -> Sight:
    """The slice in the middle of the heart as labelled in `frame`, cut out so that the heart of all frames is inside.

    Without any heart, the middle slice as a whole. The case must have labels.
    """
    assert case.labels is not None
    heart = np.isin(fold_into_myocardium(case.labels), TRAINED)
    levels = three_levels(heart[frame])
    z = levels[len(levels) // 2] if levels else case.image.shape[1] // 2
    window = heart_window(heart, case.spacing_mm[1:])
    return Sight(case, z, window, grey(case.image[:, z][(slice(None), *window.cut)]))


def frames_over_cycle(frames: int, drawn: Sequence[int], count: int = TILES) -> list[int]:
    """At most `count` frames at even steps over the cycle, in order; those drawn stand in for their nearest."""
    chosen = [i * frames // min(count, frames) for i in range(min(count, frames))]
    for frame in drawn:
        if frame not in chosen:
            free = [other for other in chosen if other not in drawn]
            if free:
                chosen.remove(min(free, key=lambda other: abs(other - frame)))
                chosen.append(frame)
    return sorted(chosen)


def largest_motion(displacement_mm: NDArray[np.float32], heart: NDArray[np.bool_]) -> int:
    """The frame (t) whose heart moved furthest on average; the first where none moves or there is no heart.

    `displacement_mm` is (t, d, z, y, x), `heart` (t, z, y, x).
    """
    lengths = np.sqrt((displacement_mm.astype(np.float64) ** 2).sum(axis=1))
    means = [
        float(length[mask].mean()) if mask.any() else 0.0 for length, mask in zip(lengths, heart, strict=True)
    ]
    return int(np.argmax(means))


def grid_lines_mm(
    displacement: NDArray[np.float32], spacing_mm: tuple[float, float], every_mm: float = GRID_MM
) -> list[NDArray[np.float64]]:
    """Lines that were straight and `every_mm` apart in the frame looked back to, as they lie now.

    Each is (n, 2) points x, y in mm from the array's corner, between the outermost voxel centres: where a voxel
    came from is read off the field, and a line joins the places that came from the same row or column. Nothing
    moved gives straight lines; a line that goes in circles shows a field that folds.
    """
    centres = [
        (np.arange(n) + 0.5) * s for n, s in zip(displacement.shape[1:], spacing_mm, strict=True)
    ]  # y, x
    found = []
    for axis, spacing in enumerate(spacing_mm):
        here = centres[axis][:, None] if axis == 0 else centres[axis][None, :]
        origin = here + displacement[axis] * spacing
        lines = contour_generator(x=centres[1], y=centres[0], z=origin)
        first = np.ceil(origin.min() / every_mm)
        for step in range(int(first), int(np.floor(origin.max() / every_mm)) + 1):
            found += [np.asarray(line, np.float64) for line in lines.lines(step * every_mm)]
    return found


def jacobian_colours(jacobian: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(y, x, 3) colours of how tissue changed its size: blue shrank, red grew, white did neither, black folds.

    The scale is that of ratios, to half and to twice the size; beyond it the colours stay.
    """
    change = 1 / np.maximum(jacobian.astype(np.float64), 1e-6)
    colours = matplotlib.colormaps[SCALE](_scale()(np.log2(change)))[..., :3]
    out = np.asarray((colours * 255).round(), np.uint8)
    out[jacobian <= 0] = FOLDED
    return out


def frame_svg(sight: Sight, frame: int, label: str) -> str:
    """One frame with its labels as coloured lines; `label` is what a screen reader says."""
    return _svg(sight, png_url(sight.shades[frame]), _contours(sight, frame), label)


def grid_svg(sight: Sight, motion: Motion, label: str) -> str:
    """The frame with the warped grid and its labels' lines."""
    lines = grid_lines_mm(sight.cut(motion.displacement), sight.spacing_mm)
    grid = f'<path class="grid" stroke="{_GRID}" d="{"".join(map(line_path, lines))}"/>'
    return _svg(sight, png_url(sight.shades[motion.frame]), [grid, *_contours(sight, motion.frame)], label)


def jacobian_svg(sight: Sight, motion: Motion, label: str) -> str:
    """The Jacobian map with the labels' lines in black."""
    labels = sight.labels(motion.frame)
    paths = [contour_path(labels == s, sight.spacing_mm) for s in _LINES]
    lines = [f'<path class="outline" stroke="{_INK}" d="{path}"/>' for path in paths if path]
    return _svg(sight, png_url(jacobian_colours(sight.cut(motion.jacobian))), lines, label)


def strip_png(
    sight: Sight, frames: Sequence[int], names: Sequence[str], drawn: Sequence[int], motion: Motion
) -> bytes:
    """The strip, the warped grid and the Jacobian map as one picture for a paper, PNG, dark on white.

    `names` are those of the frames; the drawn ones are framed.
    """
    columns = -(-len(frames) // 2)
    height, width = sight.size_mm
    side_in = 1.7
    figure = Figure(
        figsize=((columns + 1.3) * side_in, 2 * (side_in * height / width + 0.24)), facecolor="white"
    )
    grid = figure.add_gridspec(
        2, columns + 2, width_ratios=[*[1.0] * (columns + 1), 0.05], left=0.008, right=0.972, bottom=0.015,
        top=0.935, wspace=0.05, hspace=0.14,
    )  # fmt: skip
    for place, (frame, name) in enumerate(zip(frames, names, strict=True)):
        axes = figure.add_subplot(grid[place // columns, place % columns])
        _show(axes, sight, sight.shades[frame], name, mark=frame in drawn)
        _draw_contours(axes, sight, frame)
    said = f"frame {motion.frame} since {motion.since}"
    axes = figure.add_subplot(grid[0, columns])
    _show(axes, sight, sight.shades[motion.frame], f"grid, {said}")
    for line in grid_lines_mm(sight.cut(motion.displacement), sight.spacing_mm):
        axes.plot(*line.T, color=_GRID, linewidth=0.5, alpha=0.75)
    _draw_contours(axes, sight, motion.frame)
    axes = figure.add_subplot(grid[1, columns])
    _show(axes, sight, jacobian_colours(sight.cut(motion.jacobian)), f"size, {said}")
    _draw_contours(axes, sight, motion.frame, colour=_INK)
    bar = figure.colorbar(ScalarMappable(_scale(), SCALE), cax=figure.add_subplot(grid[1, columns + 1]))
    bar.set_ticks([-1, 0, 1], labels=["½", "1", "2"])
    bar.ax.tick_params(labelsize=7, length=0)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=200, metadata={"Software": None})
    return out.getvalue()


def _scale() -> Normalize:
    end = float(np.log2(LARGEST_CHANGE))
    return Normalize(-end, end, clip=True)


def _svg(sight: Sight, url: str, lines: Sequence[str], label: str) -> str:
    height, width = sight.size_mm
    return (
        f'<svg class="overlay" viewBox="0 0 {width:.1f} {height:.1f}" role="img" aria-label="{escape(label)}">'
        f'<image width="{width:.1f}" height="{height:.1f}" preserveAspectRatio="none" href="{url}"/>'
        f"{''.join(lines)}</svg>"
    )


def _contours(sight: Sight, frame: int) -> list[str]:
    labels = sight.labels(frame)
    paths = {s.name: contour_path(labels == s, sight.spacing_mm) for s in _LINES}
    return [
        f'<path class="predicted" stroke="{COLOURS[s]}" d="{path}"/>' for s, path in paths.items() if path
    ]


def _show(axes: Axes, sight: Sight, pixels: NDArray[np.uint8], name: str, *, mark: bool = False) -> None:
    height, width = sight.size_mm
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0), interpolation="bilinear")
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(
        name, fontsize=7, pad=2.5, color=_MARK if mark else _INK, weight="bold" if mark else "normal"
    )
    for spine in axes.spines.values():
        spine.set(visible=mark, color=_MARK, linewidth=2)


def _draw_contours(axes: Axes, sight: Sight, frame: int, colour: str = "") -> None:
    labels = sight.labels(frame)
    for structure in _LINES:
        for line in contours_mm(labels == structure, sight.spacing_mm):
            axes.plot(*line.T, color=colour or COLOURS[structure.name], linewidth=0.8 if colour else 1.1)
