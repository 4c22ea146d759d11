"""Cines with carried labels, their motion and confidence → one self-contained page, and a picture a scan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from crossbeat import __version__
from crossbeat.case import Case
from crossbeat.cohort import Row
from crossbeat.labels import TRAINED, UNKNOWN, Structure
from crossbeat.report.motion import (
    GRID_MM,
    Motion,
    Sight,
    frame_svg,
    frames_over_cycle,
    grid_svg,
    jacobian_svg,
    strip_png,
)
from crossbeat.report.svg import CARD, COLOURS, INK, MUTED, SERIES, draw, in_page_style, inline, panel
from crossbeat.report.templates import fill, style
from crossbeat.report.wording import count, number
from crossbeat.report.writing import write_whole

MOST_SCANS: Final = 24
"""Scans whose pictures stand in the page, some 0.2 MB each; every scan has its line and its file."""

DEFINITIONS: Final = (
    (
        "Confidence",
        "The least of the four that follow, 0 to 1. Frames that somebody drew keep their own labels and count as 1.",
    ),
    (
        "Agreement",
        "Mean Dice of the masks that came from the drawn frames on either side. With one drawn frame there is none.",
    ),
    (
        "Similarity",
        "Mean local correlation, over the heart, of the frame and of the drawn frames warped to it, where either shows "
        "a pattern.",
    ),
    ("Regularity", "Share of the heart's voxels where the field does not fold."),
    (
        "Coverage",
        "Share of the drawn heart inside the registration's window; outside it nothing moves. Not in the chart at 1.",
    ),
    (
        "Jacobian",
        "Size that tissue had in the first drawn frame over its size now, of an area where slices move in their own "
        "plane, else of a volume. At most 0 where the field folds. The map shows its inverse: how tissue changed.",
    ),
    (
        "Volume",
        "Voxels of the carried cavity times their size, with the distance between slices. A curve that leaps shows "
        "frames that went wrong.",
    ),
)


@dataclass(frozen=True)
class FrameLine:
    """One line of confidence.csv: how far the labels of a frame can be relied on. Shares are in [0, 1], or nan."""

    scan: str
    subject: str
    frame: int
    time_ms: float
    """Since the R wave; nan where unknown."""
    source: str
    """Frames whose labels came here, `0;9`; a frame that is its own was drawn."""
    agreement: float
    similarity: float
    regularity: float
    smallest_jacobian: float
    coverage: float
    confidence: float
    lv_ml: float
    """Volume of the left ventricle's cavity; nan where it was not drawn, and of a single slice."""

    @property
    def drawn(self) -> bool:
        """Whether somebody drew the frame."""
        return self.source == str(self.frame)


@dataclass(frozen=True)
class Tile:
    """A picture with its caption."""

    svg: str
    name: str
    note: str
    drawn: bool = False


@dataclass(frozen=True)
class ScanMotion:
    """One scan as the page shows it."""

    row: Row
    lines: tuple[FrameLine, ...]
    sentence: str
    tiles: list[Tile]
    """Over the cycle, then the warped grid and the Jacobian map."""
    charts: list[str]
    picture: bytes
    """All tiles as one PNG."""

    @property
    def drawn(self) -> str:
        """The frames that somebody drew, with their phases: '0 (ED), 9 (ES)'."""
        return ", ".join(_phased(self.row, line.frame) for line in self.lines if line.drawn)

    @property
    def weakest(self) -> FrameLine | None:
        """The carried frame of the least confidence; None where every frame was drawn."""
        carried = [line for line in self.lines if not line.drawn]
        return min(carried, key=lambda line: line.confidence) if carried else None

    @property
    def mean_confidence(self) -> float:
        """Over the carried frames; nan where there is none."""
        found = [line.confidence for line in self.lines if not line.drawn]
        return float(np.mean(found)) if found else math.nan

    @property
    def smallest_jacobian(self) -> float:
        """Over all frames; nan where none was carried."""
        found = [line.smallest_jacobian for line in self.lines if math.isfinite(line.smallest_jacobian)]
        return min(found, default=math.nan)

    @property
    def volumes(self) -> tuple[float, float]:
        """The largest and the smallest LV volume in ml; nan where none is known."""
        found = [line.lv_ml for line in self.lines if math.isfinite(line.lv_ml)]
        return max(found, default=math.nan), min(found, default=math.nan)

    @property
    def nominal(self) -> bool:
        """Whether mm and ml are of a spacing that stands in for an unknown one."""
        return self.row.spacing_source == "nominal"


@dataclass(frozen=True)
class MotionPage:
    """Everything that motion.html shows."""

    scans: Sequence[ScanMotion]
    failures: Sequence[str]
    provenance: Sequence[tuple[str, str]]
    next_command: str
    figures: Mapping[str, str]
    """Path of a scan's picture, as seen from the page."""
    version: str = __version__

    @property
    def css(self) -> str:
        """The style sheet of the reports, and what only this page has."""
        return style("motion.css")

    @property
    def shown(self) -> list[ScanMotion]:
        """Scans with their pictures: all of them, or those that should be looked at first."""
        if len(self.scans) <= MOST_SCANS:
            return list(self.scans)
        return sorted(self.scans, key=_least)[:MOST_SCANS]

    @property
    def lead(self) -> str:
        """What was carried, in a sentence."""
        carried = sum(not line.drawn for scan in self.scans for line in scan.lines)
        drawn = sum(line.drawn for scan in self.scans for line in scan.lines)
        return (
            f"Labels that somebody drew in {count(drawn, 'frame')} of {count(len(self.scans), 'scan')} were carried "
            f"to their {carried} other frames by a registration that learnt how hearts move."
        )


def scan_motion(
    row: Row, case: Case, lines: Sequence[FrameLine], motion: Motion, sight: Sight, number_on_page: int
) -> ScanMotion:
    """Draw a scan: `case` has the carried labels, `motion` is of the slice of `sight`, `lines` are of its frames."""
    drawn = [line.frame for line in lines if line.drawn]
    frames = frames_over_cycle(case.frames, drawn)
    of_frame = {line.frame: line for line in lines}
    tiles = [_tile(row, sight, of_frame[frame]) for frame in frames]
    said = f"frame {motion.frame} since frame {motion.since}"
    tiles += [
        Tile(grid_svg(sight, motion, f"Scan {row.scan}, {said}: warped grid"), "Warped grid", said),
        Tile(
            jacobian_svg(sight, motion, f"Scan {row.scan}, {said}: Jacobian map"),
            "Change of size",
            f"{said}: blue shrank, red grew{', black folds' * bool((sight.cut(motion.jacobian) <= 0).any())}",
        ),
    ]
    charts = [
        volume_chart(f"volume-{number_on_page}", row, lines),
        confidence_chart(f"trust-{number_on_page}", lines),
    ]
    names = [", ".join(filter(None, (f"frame {t}", row.phase(t), "drawn" * (t in drawn)))) for t in frames]
    picture = strip_png(sight, frames, names, drawn, motion)
    return ScanMotion(
        row, tuple(lines), _sentence(case, sight), tiles, [chart for chart in charts if chart], picture
    )


def write_motion_page(path: Path, page: MotionPage) -> Path:
    """Write the page, whole or not at all; it loads nothing, and every text from outside is escaped."""
    values = {"page": page, "colours": COLOURS, "grid_mm": f"{GRID_MM:g}", "definitions": DEFINITIONS}
    return write_whole(path, fill("motion.html", values, {"number": number, "plural": count}))


@in_page_style
def volume_chart(name: str, row: Row, lines: Sequence[FrameLine]) -> str:
    """The LV volume over the cycle as an SVG, drawn frames marked; '' where no volume is known."""
    if not any(math.isfinite(line.lv_ml) for line in lines):
        return ""
    figure, axes = panel()
    x, timed = _axis(lines)
    axes.plot(x, [line.lv_ml for line in lines], color=COLOURS["LV"], linewidth=1.8)
    titles = {}
    for at, line in zip(x, lines, strict=True):
        gid = f"{name}-{line.frame}"
        titles[gid] = f"frame {line.frame}{', drawn' * line.drawn}: {line.lv_ml:.1f} ml"
        axes.plot(
            at, line.lv_ml, "o", gid=gid, color=COLOURS["LV"], markeredgecolor=CARD, zorder=4,
            markersize=8 if line.drawn else 4, markeredgewidth=0.8,
        )  # fmt: skip
    axes.set_ylim(0, max(line.lv_ml for line in lines) * 1.16 or 1)
    _mark_drawn(axes, row, x, lines)
    axes.set_title("LV volume, ml" + ("† (nominal)" if row.spacing_source == "nominal" else ""))
    axes.set_xlabel("time, ms" if timed else "frame")
    return inline(draw(figure, name), f"LV volume of {row.scan} over the cycle", titles)


@in_page_style
def confidence_chart(name: str, lines: Sequence[FrameLine]) -> str:
    """Confidence by frame as an SVG, with what it is the least of; '' where every frame was drawn."""
    carried = [line for line in lines if not line.drawn]
    if not carried:
        return ""
    figure, axes = panel()
    x, timed = _axis(lines)
    for colour, part in zip(SERIES[2:], ("agreement", "similarity", "regularity", "coverage"), strict=False):
        values = np.array([math.nan if line.drawn else getattr(line, part) for line in lines])
        whole = part == "coverage" and not (values < 1).any()
        if np.isfinite(values).any() and not whole:
            axes.plot(x, values, color=colour, linewidth=1.3, label=part)
    axes.plot([], [], "o", color=INK, markersize=3.5, label="confidence")
    titles = {}
    for at, line in zip(x, lines, strict=True):
        if not line.drawn:
            gid = f"{name}-{line.frame}"
            titles[gid] = f"frame {line.frame}: confidence {line.confidence:.2f}"
            axes.plot(at, line.confidence, "o", gid=gid, color=INK, markersize=3.5, markeredgecolor=CARD,
                      markeredgewidth=0.6, zorder=4)  # fmt: skip
    axes.set_ylim(0, 1.03)
    axes.set_xlim(min(x), max(x))
    axes.set_title("Confidence of the carried frames")
    axes.set_xlabel("time, ms" if timed else "frame")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.legend(loc="lower right", ncols=2, handlelength=1.4, columnspacing=1.2)
    least = min(line.confidence for line in carried)
    return inline(draw(figure, name), f"Confidence by frame, at least {least:.2f}", titles)


def _mark_drawn(axes: Axes, row: Row, x: Sequence[float], lines: Sequence[FrameLine]) -> None:
    for at, line in zip(x, lines, strict=True):
        if line.drawn:
            axes.axvline(at, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)), zorder=1)
            axes.annotate(row.phase(line.frame) or "drawn", (at, 1), xycoords=("data", "axes fraction"),
                          xytext=(3, -9), textcoords="offset points", color=MUTED, fontsize=8.5)  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _axis(lines: Sequence[FrameLine]) -> tuple[list[float], bool]:
    """Where the frames lie in time, in ms where all times are known, else by number."""
    timed = all(math.isfinite(line.time_ms) for line in lines)
    return [line.time_ms if timed else float(line.frame) for line in lines], timed


def _tile(row: Row, sight: Sight, line: FrameLine) -> Tile:
    name = f"{line.frame} {row.phase(line.frame)}".strip()
    note = "drawn" if line.drawn else f"confidence {line.confidence:.2f}"
    label = f"Scan {row.scan}, frame {name}, slice {sight.z}: contours of the labels; {note}"
    return Tile(frame_svg(sight, line.frame, label), name, note, line.drawn)


def _sentence(case: Case, sight: Sight) -> str:
    """The slice that is shown, and what was not looked at."""
    assert case.labels is not None
    slices = case.image.shape[1]
    said = f"Slice {sight.z} of {slices}, counted from 0." if slices > 1 else "One slice: no volumes."
    unknown = int((case.labels == UNKNOWN).all(axis=(0, 2, 3)).sum())
    if unknown:
        said += f" Nobody looked at {count(unknown, 'slice')}: nothing was carried there."
    absent = [s.name for s in TRAINED if s not in case.drawn[0]]
    if absent:
        said += f" Not drawn: {', '.join(absent)}."
    if Structure.LV in case.drawn[0] and not (case.labels == Structure.LV).any():
        said += " No LV in any frame."
    return said


def _phased(row: Row, frame: int) -> str:
    phase = row.phase(frame)
    return f"{frame} ({phase})" if phase else str(frame)


def _least(scan: ScanMotion) -> float:
    return scan.weakest.confidence if scan.weakest else 1.0
