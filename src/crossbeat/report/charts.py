"""Scores, logs and volumes → the charts of the page: boxes with every patient, learning and volume curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cbook import boxplot_stats
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from crossbeat.report.svg import (
    CARD,
    COLOURS,
    INK,
    MUTED,
    SERIES,
    draw,
    in_page_style,
    inline,
    panel,
    standalone,
)
from crossbeat.report.wording import count, signed

MOST_POINTS: Final = 400
"""Points of a curve in the page; longer logs are drawn as means of neighbouring rows."""


@dataclass(frozen=True)
class Chart:
    """A drawn chart: its name (of the file under figures/), the SVG for the page, and the one for a paper."""

    name: str
    svg: str
    file: str


@dataclass(frozen=True)
class Box:
    """What a box shows of some values: quartiles, median, and the ends of the whiskers."""

    low: float
    """Smallest value within 1.5 interquartile ranges of the box."""
    first: float
    median: float
    third: float
    high: float
    """Largest value within 1.5 interquartile ranges of the box."""

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Box:
        """The box of one value and more."""
        (found,) = boxplot_stats(values)
        return cls(*(float(found[name]) for name in ("whislo", "q1", "med", "q3", "whishi")))

    def up_to(self, end: float) -> Box:
        """As it is drawn on an axis that ends there: what lies beyond sits on its end, nothing else moves."""
        return Box(*(min(value, end) for value in astuple(self)))


def axis_end(points: Iterable[tuple[float, bool]], *, room: float) -> float:
    """Where an axis of distances ends: a share `room` beyond the largest value (value, missed) without a miss.

    Where every value was missed it ends at the largest of them, and where there is none at 1.
    """
    points = list(points)
    good = [value for value, missed in points if not missed]
    return max(good) * (1 + room) if good else max((value for value, _ in points), default=1.0)


@in_page_style
def box_chart(
    name: str, title: str, values: Mapping[str, Sequence[tuple[str, float, bool]]], *, bounded: bool
) -> Chart:
    """Boxes (quartiles, median, whiskers to 1.5 interquartile ranges) with each patient as a point.

    `values` gives for each structure (patient, value, missed). A missed structure is drawn as a cross. Where
    the values have no upper bound, the axis ends a little above the worst patient without a miss, and what
    lies beyond sits on its upper edge: a missed structure costs a whole image diagonal and would flatten
    all the rest. Quartiles and median are those of the true values. Undefined values (nan) are not drawn.
    """
    figure, axes = panel()
    titles: dict[str, str] = {}
    kept = {s: [v for v in points if np.isfinite(v[1])] for s, points in values.items()}
    every = [(value, missed) for points in kept.values() for _, value, missed in points]
    top = 1.0 if bounded else axis_end(every, room=0.15)
    for place, (structure, points) in enumerate(kept.items()):
        colour = COLOURS.get(structure, MUTED)
        numbers = np.array([value for _, value, _ in points])
        if len(numbers):
            _box(axes, place, Box.of(numbers).up_to(top), colour)
        for offset, (patient, value, missed) in zip(_beside(np.minimum(numbers, top)), points, strict=True):
            gid = f"point-{len(titles)}"
            titles[gid] = f"{patient}: {structure} {value:.3g}" + (" (missed)" if missed else "")
            axes.plot(
                place + offset, min(value, top), "X" if missed else "o", gid=gid, clip_on=False, zorder=4,
                color=colour, markeredgecolor=INK if missed else CARD, markeredgewidth=0.7,
                markersize=7 if missed else 5,
            )  # fmt: skip
    axes.set_title(title)
    axes.set_xticks(range(len(kept)), list(kept))
    axes.spines["bottom"].set_visible(False)
    axes.set_xlim(-0.6, len(kept) - 0.4)
    axes.set_ylim(*_limits([min(v[1], top) for p in kept.values() for v in p], top, bounded))
    label = f"Box plot of {title} by structure: " + "; ".join(
        f"{s} median {np.median([v[1] for v in p]):.3g} over {count(len(p), 'patient')}"
        for s, p in kept.items()
        if p
    )
    return _chart(figure, name, label, titles)


@in_page_style
def curve_chart(name: str, title: str, table: pd.DataFrame, x: str, columns: Sequence[str]) -> Chart | None:
    """Curves over training of some columns of a metrics.csv, whose cells may be empty; None if all are.

    A log axis where all values are positive and span more than a factor of 50.
    """
    figure, axes = panel(width_in=4.4)
    spans = []
    for number, column in enumerate(columns):
        rows = table[[x, column]].dropna()
        if rows.empty:
            continue
        steps, values = (_thinned(rows[c].to_numpy(np.float64)) for c in (x, column))
        spans += [values.min(), values.max()]
        axes.plot(
            steps, values, label=column.replace("_", " "), color=SERIES[number % len(SERIES)],
            linewidth=1.6, linestyle=("-", "--", ":")[number // len(SERIES) % 3],
            marker="o" if len(values) == 1 else "",
        )  # fmt: skip
    if not spans:
        return None
    if min(spans) > 0 and max(spans) > 50 * min(spans):
        axes.set_yscale("log")
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if len(axes.lines) > 1:
        figure.legend(loc="outside lower left", ncols=3, handlelength=1.4, columnspacing=1.2)
    return _chart(figure, name, f"{title} over training: {', '.join(columns)}", {})


@in_page_style
def volume_chart(
    name: str, title: str, rows: pd.DataFrame, ed: int | None, es: int | None, unit: str
) -> Chart:
    """Volumes of LV and RV over one scan's frames, with ED and ES marked; time in ms where known."""
    figure, axes = panel()
    timed = "time_ms" in rows and bool(rows["time_ms"].notna().all())
    x = rows["time_ms" if timed else "frame"].to_numpy(np.float64)
    frames = rows["frame"].astype(int).tolist()
    for structure, column in (("LV", "lv_ml"), ("RV", "rv_ml")):
        if column in rows and rows[column].notna().any():
            values = rows[column].to_numpy(np.float64)
            axes.plot(x, values, color=COLOURS[structure], linewidth=1.8, label=structure)
            for frame in (ed, es):
                if frame in frames:
                    at = frames.index(frame)
                    axes.plot(
                        x[at], values[at], "o", color=COLOURS[structure], markersize=6, markeredgecolor=CARD
                    )
    axes.set_ylim(0, axes.dataLim.y1 * 1.16 or 1)
    for phase, frame in (("ED", ed), ("ES", es)):
        if frame in frames:
            when = float(x[frames.index(frame)])
            axes.axvline(when, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)), zorder=1)
            axes.annotate(phase, (when, 1), xycoords=("data", "axes fraction"), xytext=(3, -9),
                          textcoords="offset points", color=MUTED, fontsize=8.5)  # fmt: skip
    axes.set_title(title)
    axes.set_xlabel("time, ms" if timed else "frame")
    axes.set_ylabel(unit)
    axes.legend(loc="lower right", ncols=2, handlelength=1.2)
    return _chart(figure, name, f"Volume curves of {title}", {})


@in_page_style
def agreement_chart(
    name: str,
    title: str,
    points: Sequence[tuple[str, float, float]],
    bias: float,
    limits: tuple[float, float],
) -> Chart:
    """Bland–Altman plot: difference (predicted − reference) over mean, with bias and 95 % limits.

    `points` are (patient, predicted, reference), all finite.
    """
    figure, axes = panel(width_in=3.9)
    titles: dict[str, str] = {}
    for patient, predicted, reference in points:
        gid = f"point-{len(titles)}"
        titles[gid] = f"{patient}: predicted {predicted:.4g}, reference {reference:.4g}"
        axes.plot((predicted + reference) / 2, predicted - reference, "o", gid=gid, color=SERIES[0],
                  markersize=5.5, markeredgecolor=CARD, markeredgewidth=0.7, zorder=4)  # fmt: skip
    axes.axhline(0, color=MUTED, linewidth=0.6)
    axes.axhline(bias, color=INK, linewidth=1.3)
    for limit in limits:
        axes.axhline(limit, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    for value, text in ((bias, "bias"), (limits[0], "−1.96 SD"), (limits[1], "+1.96 SD")):
        axes.annotate(f"{text}\n{signed(value, digits=1)}", (1, value), xycoords=("axes fraction", "data"),
                      xytext=(4, 0), textcoords="offset points", va="center", color=MUTED, fontsize=8.5)  # fmt: skip
    axes.set_title(title)
    axes.set_xlabel("mean of predicted and reference")
    axes.set_ylabel("predicted − reference")
    axes.margins(y=0.18)
    label = f"Bland–Altman plot of {title}: bias {bias:.3g}, limits {limits[0]:.3g} to {limits[1]:.3g}"
    return _chart(figure, name, label, titles)


def _chart(figure: Figure, name: str, label: str, titles: Mapping[str, str]) -> Chart:
    text = draw(figure, name)
    return Chart(name, inline(text, label, titles), standalone(text))


def _box(axes: Axes, place: int, box: Box, colour: str) -> None:
    stats = {"whislo": box.low, "q1": box.first, "med": box.median, "q3": box.third, "whishi": box.high}
    axes.bxp(
        [stats], positions=[place], widths=0.5, manage_ticks=False, showfliers=False, zorder=2,
        patch_artist=True, boxprops={"facecolor": colour, "alpha": 0.22, "linewidth": 0},
        medianprops={"color": INK, "linewidth": 1.6}, whiskerprops={"color": colour, "linewidth": 1.2},
        capprops={"linewidth": 0},
    )  # fmt: skip


def _limits(values: Sequence[float], top: float, bounded: bool) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    if bounded:
        low = max(0.0, np.floor((min(values) - 0.03) * 10) / 10)
        return low - _ROOM * (1 - low), 1.0
    high = top * 1.02 or 1.0
    return -_ROOM * high, high


_ROOM: Final = 0.05
"""Share of the axis left free below its lowest value, so that a cross at Dice 0 does not cover the names."""


def _beside(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Offsets that keep near-equal points apart: in the order of value, alternating to the left and right."""
    order = np.argsort(np.argsort(numbers))
    return np.asarray([0.0, -0.1, 0.1, -0.18, 0.18])[order % 5]


def _thinned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    step = -(-len(values) // MOST_POINTS)
    return np.asarray([values[i : i + step].mean() for i in range(0, len(values), max(step, 1))])
