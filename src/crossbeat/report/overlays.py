"""A scan, its prediction and its reference → small SVGs: the image with both contours drawn on it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from PIL import Image

from crossbeat.case import Case
from crossbeat.labels import TRAINED, UNKNOWN, Structure, fold_drawn, fold_into_myocardium
from crossbeat.report.svg import COLOURS

MARGIN_MM: Final = 14.0
"""Room around the heart in an overlay: enough to see where a contour should have gone."""

SMALLEST_MM: Final = 80.0
"""Side below which no overlay is cut, so that an apical slice is not blown up beside a basal one."""

_BENEATH: Final = (Structure.MYO, Structure.RV, Structure.LV)
"""Order of drawing: the cavity's line is not to vanish under the inner line of the wall."""

_WINDOW: Final = (0.5, 99.5)
"""Percentiles of the cut-out that become black and white; clips coil hot spots and nothing of the heart."""


@dataclass(frozen=True)
class Window:
    """A square of the (y, x) grid: first and last row and column, in voxels."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def cut(self) -> tuple[slice, slice]:
        """The square as an index of a (y, x) array."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)


def heart_window(masks: NDArray[np.bool_], spacing_mm: tuple[float, float]) -> Window:
    """The square in mm around everything that is drawn in any slice of a (…, y, x) mask, with a margin.

    `spacing_mm` is (y, x). Nothing drawn gives the whole image; at the image's rim the square is cut off.
    """
    rows, columns = masks.shape[-2:]
    flat = masks.reshape(-1, rows, columns).any(axis=0)
    if not flat.any():
        return Window(0, rows, 0, columns)
    ys, xs = np.nonzero(flat)
    extent = [(int(v.min()), int(v.max()) + 1) for v in (ys, xs)]
    longest = max((b - a) * s for (a, b), s in zip(extent, spacing_mm, strict=True))
    half_mm = max(longest + 2 * MARGIN_MM, SMALLEST_MM) / 2
    (y0, y1), (x0, x1) = (
        (max(0, round((a + b) / 2 - half_mm / s)), min(n, round((a + b) / 2 + half_mm / s)))
        for (a, b), s, n in zip(extent, spacing_mm, (rows, columns), strict=True)
    )
    return Window(y0, y1, x0, x1)


def contours_mm(mask: NDArray[np.bool_], spacing_mm: tuple[float, float]) -> list[NDArray[np.float64]]:
    """Closed outlines of a (y, x) mask, each (n, 2) points x, y in mm from the array's corner; none where it is empty.

    A voxel covers its whole square, so the centre of voxel (0, 0) lies at half a spacing.
    """
    padded = np.pad(mask, 1).astype(np.float64)
    lines = contour_generator(z=padded).lines(0.5)
    return [(np.asarray(line, np.float64) - 0.5) * spacing_mm[::-1] for line in lines]


def contour_path(mask: NDArray[np.bool_], spacing_mm: tuple[float, float]) -> str:
    """Outline of a (y, x) mask as an SVG path in mm from the array's corner; '' where the mask is empty."""
    return "".join(line_path(line[:-1]) + "Z" for line in contours_mm(mask, spacing_mm))


def line_path(points: NDArray[np.float64]) -> str:
    """(n, 2) points x, y as an SVG path, to a tenth."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def overlay_svg(
    case: Case,
    predicted: NDArray[np.uint8] | None,
    frame: int,
    z: int,
    window: Window,
    label: str,
    structures: Sequence[Structure] = TRAINED,
) -> str:
    """One slice of a scan with the prediction as coloured lines and the reference as dashed white ones.

    Without a prediction or a reference the other is drawn alone. `label` is what a screen reader says.
    """
    dy, dx = case.spacing_mm[1:]
    height, width = (window.y1 - window.y0) * dy, (window.x1 - window.x0) * dx
    reference = None if case.labels is None else fold_into_myocardium(case.labels[frame, z])
    parts = [
        f'<svg class="overlay" viewBox="0 0 {width:.1f} {height:.1f}" role="img" aria-label="{escape(label)}">',
        f'<image width="{width:.1f}" height="{height:.1f}" preserveAspectRatio="none" '
        f'href="{png_url(grey(case.image[frame, z][window.cut]))}"/>',
    ]
    for structure in sorted(structures, key=_BENEATH.index):
        if predicted is not None:
            path = contour_path(predicted[frame, z][window.cut] == structure, (dy, dx))
            colour = COLOURS[structure.name]
            parts.append(f'<path class="predicted" stroke="{colour}" d="{path}"/>' if path else "")
    for structure in structures:
        if reference is not None and not (reference == UNKNOWN).all():
            path = contour_path(reference[window.cut] == structure, (dy, dx))
            parts.append(f'<path class="reference" d="{path}"/>' if path else "")
    return "".join([*parts, "</svg>"])


def annotation_note(case: Case, frame: int, z: int, structures: Sequence[Structure] = TRAINED) -> str:
    """What an absent dashed line does not mean: 'not annotated' where nobody looked, 'only LV drawn' where
    the others were left out; '' where a slice was annotated in full.
    """
    drawn = case.drawn[frame]
    if case.labels is None or not drawn or (case.labels[frame, z] == UNKNOWN).all():
        return "not annotated"
    seen = [s.name for s in structures if s in fold_drawn(drawn)]
    said = [f"only {', '.join(seen)} drawn"] if len(seen) < len(structures) else []
    said += ["annotated in part"] if (case.labels[frame, z] == UNKNOWN).any() else []
    return "; ".join(said)


def three_levels(drawn: NDArray[np.bool_]) -> list[int]:
    """Three slices of a (z, y, x) mask, from the first end to the other: the middles of its thirds in z.

    Fewer where the heart covers fewer slices; none where the mask is empty.
    """
    slices = np.flatnonzero(drawn.any(axis=(1, 2)))
    if not slices.size:
        return []
    first, count = int(slices[0]), int(slices[-1] - slices[0]) + 1
    return list(dict.fromkeys(first + int(count * part) for part in (1 / 6, 3 / 6, 5 / 6)))


def grey(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Intensities of any shape as 0 (black) to 255, all of them on one scale that clips a few outliers."""
    low, high = np.percentile(pixels, _WINDOW)
    shade = np.clip((pixels - low) / max(float(high - low), 1e-6), 0, 1)
    return np.asarray((shade * 255).round(), np.uint8)


def png_url(pixels: NDArray[np.uint8]) -> str:
    """(y, x) grey or (y, x, 3) colours as a PNG inside a URL."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
