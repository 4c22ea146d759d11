"""Slices before and after they took on a style → small SVGs with contours, and the chart of their intensities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

from crossbeat.labels import UNKNOWN, Structure, fold_into_myocardium
from crossbeat.report.overlays import contour_path, png_url
from crossbeat.report.svg import COLOURS, INK, MUTED, SERIES, draw, in_page_style, inline, panel
from crossbeat.statistics.histograms import divergence_nats

REGIONS: Final = ("myocardium", "heart", "crop")
"""Where intensities are counted: LV, MYO and RV together are the heart; the crop is all that the stylizer sees."""

_BENEATH: Final = (Structure.MYO, Structure.RV, Structure.LV)  # the cavity's line on top of the wall's
_CONTENT, _STYLE = "content", "style"


@dataclass(frozen=True, eq=False)
class Cut:
    """One slice to draw: grey values in [0, 1] on one scale for all pictures of a page, and its labels."""

    image: NDArray[np.float32]
    """(y, x)."""
    spacing_mm: tuple[float, float]
    """(y, x)."""
    labels: NDArray[np.uint8] | None = None
    """(y, x) as somebody drew them; None where nobody did."""


@dataclass(frozen=True, eq=False)
class Spread:
    """How intensities lie over [0, 1] in one region of contents, of their styles and of what became of them."""

    region: str
    content: NDArray[np.int64]
    style: NDArray[np.int64]
    stylised: NDArray[np.int64]

    @property
    def from_content(self) -> float:
        """KL divergence of the stylised histogram from the content's, in nats; nan where one is empty."""
        return divergence_nats(self.stylised, self.content)

    @property
    def from_style(self) -> float:
        """KL divergence of the stylised histogram from the style's, in nats; nan where one is empty."""
        return divergence_nats(self.stylised, self.style)


def join_spreads(spreads: Sequence[Spread]) -> Spread:
    """The spreads of several scans as one, each voxel counted alike; they must be of one region."""
    first, *others = spreads
    if any(other.region != first.region for other in others):
        raise ValueError(f"spreads of several regions: {sorted({s.region for s in spreads})}")
    content, style, stylised = (
        np.sum([getattr(s, part) for s in spreads], axis=0) for part in (_CONTENT, _STYLE, "stylised")
    )
    return Spread(first.region, content, style, stylised)


def region_masks(labels: NDArray[np.uint8], covered: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """For each of `REGIONS` the voxels of labels of any shape that count; all False where nobody drew it.

    `covered` says which of them the scan covers, of the same shape or one that fits it.
    """
    whole = fold_into_myocardium(labels)
    return {
        "myocardium": (whole == Structure.MYO) & covered,
        "heart": np.isin(whole, _BENEATH) & covered,
        "crop": np.broadcast_to(covered, whole.shape),
    }


def slice_svg(
    cut: Cut, label: str, *, drawn: bool = False, predicted: NDArray[np.uint8] | None = None
) -> str:
    """The slice; with its labels as coloured lines if `drawn`; a prediction is coloured, its labels then dashed white.

    `label` is what a screen reader says.
    """
    dy, dx = cut.spacing_mm
    height, width = cut.image.shape[0] * dy, cut.image.shape[1] * dx
    shades = np.asarray((np.clip(cut.image, 0, 1) * 255).round(), np.uint8)
    lines = [] if predicted is None else _coloured(predicted, cut.spacing_mm)
    if cut.labels is not None and not (cut.labels == UNKNOWN).all():
        if predicted is not None:
            lines += [
                f'<path class="reference" d="{p}"/>' for p in _paths(cut.labels, cut.spacing_mm).values()
            ]
        elif drawn:
            lines += _coloured(cut.labels, cut.spacing_mm)
    return (
        f'<svg class="overlay" viewBox="0 0 {width:.1f} {height:.1f}" role="img" aria-label="{escape(label)}">'
        f'<image width="{width:.1f}" height="{height:.1f}" preserveAspectRatio="none" href="{png_url(shades)}"/>'
        f"{''.join(lines)}</svg>"
    )


@in_page_style
def histogram_chart(name: str, title: str, spread: Spread, names: Mapping[str, str]) -> str:
    """The three histograms of a region as lines of shares, as an SVG; '' where the contents have none.

    `names` says what content, style and stylised are called. A style without labels has no line.
    """
    if not spread.content.sum():
        return ""
    figure, axes = panel(3.7, 2.5)
    looks = {_CONTENT: (MUTED, 1.4), _STYLE: (SERIES[1], 1.8), "stylised": (SERIES[0], 2.2)}
    for part, (colour, width) in looks.items():
        counts: NDArray[np.int64] = getattr(spread, part)
        if counts.sum():
            edges = np.linspace(0, 1, counts.size + 1)
            axes.stairs(counts / counts.sum(), edges, color=colour, linewidth=width, label=names[part])
    axes.set_title(title)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("intensity")
    axes.set_ylabel("share of voxels", color=INK)
    axes.legend(loc="upper right", handlelength=1.3)
    said = f"{title}: histograms of {', '.join(names.values())}"
    if math.isfinite(spread.from_style):
        said += (
            f"; divergence from style {spread.from_style:.2f}, from content {spread.from_content:.2f} nats"
        )
    return inline(draw(figure, name), said, {})


def _coloured(labels: NDArray[np.uint8], spacing_mm: tuple[float, float]) -> list[str]:
    return [
        f'<path class="predicted" stroke="{COLOURS[s.name]}" d="{path}"/>'
        for s, path in _paths(labels, spacing_mm).items()
    ]


def _paths(labels: NDArray[np.uint8], spacing_mm: tuple[float, float]) -> dict[Structure, str]:
    whole = fold_into_myocardium(labels)
    found = {s: contour_path(whole == s, spacing_mm) for s in _BENEATH}
    return {s: path for s, path in found.items() if path}
