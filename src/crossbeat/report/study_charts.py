"""A study's statistics, patients and logs → its charts, with one line or one colour an arm."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from crossbeat.report.charts import MOST_POINTS, Box, Chart, axis_end
from crossbeat.report.study_tables import Standing
from crossbeat.report.study_view import ArmView
from crossbeat.report.svg import (
    CARD,
    INK,
    MUTED,
    SERIES,
    draw,
    in_page_style,
    inline,
    panel,
    standalone,
)  # fmt: skip
from crossbeat.report.wording import count, percent

LONGEST_NAME: Final = 21
"""Letters of an arm's name in a chart; longer names are cut in the middle, and said in full when pointed at."""

HIGHER: Final = SERIES[2]
LOWER: Final = SERIES[4]
"""Colours of a patient who fares better or worse; told apart by all common kinds of colour blindness. Ties are grey."""

Values = Mapping[str, Mapping[str, tuple[float, bool]]]
"""Arm → patient → (value, whether missed)."""

Pairs = Mapping[str, tuple[float, float]]
"""Patient → (value by the reference arm, value by another)."""


@dataclass(frozen=True)
class Look:
    """How an arm is drawn in every chart of a page."""

    colour: str
    dashes: Any
    mark: str


def looks(arms: Sequence[ArmView]) -> dict[str, Look]:
    """Each arm's colour, kept through the page; the bounds in grey and black, repeated colours told by dashes."""
    out, number = {}, 0
    for arm in arms:
        if arm.bound:
            out[arm.name] = _BOUNDS[arm.bound]
            continue
        dashes = ("-", (0, (4, 1.6)), (0, (1.2, 1.4)))[number // len(_HUES) % 3]
        out[arm.name] = Look(_HUES[number % len(_HUES)], dashes, "o")
        number += 1
    return out


def short(name: str) -> str:
    """A name that fits beside a chart: its first and last letters, an ellipsis between."""
    if len(name) <= LONGEST_NAME:
        return name
    tail = LONGEST_NAME // 2 - 1
    return f"{name[: LONGEST_NAME - tail - 1]}…{name[-tail:]}"


@in_page_style
def league_chart(
    name: str,
    title: str,
    arms: Sequence[ArmView],
    lines: Mapping[str, Standing],
    seeds: Mapping[str, Mapping[int, float]],
    said: Callable[[float], str],
    *,
    bounded: bool,
) -> Chart:
    """A dot an arm with its 95 % interval, its seeds as small rings, the bounds as a band.

    `lines` and `seeds` hold the arms that have a result; `said` writes a value. An arm without one keeps its
    place and says so. `bounded` values lie between 0 and 1, others above 0, and the axis shows no more than that.
    """
    figure, axes = _arm_panel(title, arms)
    titles: dict[str, str] = {}
    look = looks(arms)
    _band(axes, [lines[a.name].mean for a in arms if a.bound and a.name in lines])
    for place, arm in enumerate(arms):
        line = lines.get(arm.name)
        if line is None or not math.isfinite(line.mean):
            _write(axes, place, "failed" if arm.failed else "no result", MUTED)
            continue
        colour = look[arm.name].colour
        for value in seeds.get(arm.name, {}).values() if len(seeds.get(arm.name, {})) > 1 else ():
            axes.plot(value, place - 0.27, "o", markersize=3.2, markerfacecolor="none", markeredgecolor=MUTED,
                      markeredgewidth=0.8, clip_on=False)  # fmt: skip
        if math.isfinite(line.low):
            axes.plot([line.low, line.high], [place, place], color=colour, linewidth=2.4, alpha=0.75,
                      solid_capstyle="round", zorder=3)  # fmt: skip
        gid = f"point-{len(titles)}"
        interval = f", 95 % interval {said(line.low)} to {said(line.high)}" if math.isfinite(line.low) else ""
        titles[gid] = f"{arm.name}: {said(line.mean)}{interval}, {count(line.n_patients, 'patient')}"
        axes.plot(line.mean, place, look[arm.name].mark, gid=gid, color=colour, markersize=8, markeredgecolor=CARD,
                  markeredgewidth=0.9, zorder=4, clip_on=False)  # fmt: skip
        _write(axes, place, said(line.mean), INK)
    axes.margins(x=0.06)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, 0.0), min(high, 1.0) if bounded else high)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return _chart(figure, name, f"{title} of every arm: " + "; ".join(titles.values()), titles)


@in_page_style
def gap_chart(name: str, title: str, arms: Sequence[ArmView], lines: Mapping[str, Standing]) -> Chart | None:
    """Share of the way from the lower to the upper bound that each other arm went; None where none is defined."""
    between = [a for a in arms if not a.bound]
    if not any(a.name in lines and math.isfinite(lines[a.name].gap_closed) for a in between):
        return None
    figure, axes = _arm_panel(title, between)
    titles: dict[str, str] = {}
    look = looks(arms)
    _band(axes, [0.0, 1.0])
    for place, arm in enumerate(between):
        line = lines.get(arm.name)
        if line is None or not math.isfinite(line.gap_closed):
            _write(axes, place, "failed" if arm.failed else "–", MUTED)
            continue
        interval = ""
        if math.isfinite(line.gap_low):
            ends = np.clip([line.gap_low, line.gap_high], *_WIDEST)
            axes.plot(ends, [place, place], color=look[arm.name].colour, linewidth=2.4, alpha=0.75,
                      solid_capstyle="round", zorder=3)  # fmt: skip
            interval = f", 95 % interval {percent(line.gap_low)} to {percent(line.gap_high)}"
        gid = f"point-{len(titles)}"
        titles[gid] = f"{arm.name}: {percent(line.gap_closed)} of the gap closed{interval}"
        at = float(np.clip(line.gap_closed, *_WIDEST))
        axes.plot(at, place, "o", gid=gid, color=look[arm.name].colour, markersize=8, markeredgecolor=CARD,
                  markeredgewidth=0.9, zorder=4)  # fmt: skip
        _write(axes, place, percent(line.gap_closed), INK)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: percent(v)))
    return _chart(figure, name, f"{title}: " + "; ".join(titles.values()), titles)


@in_page_style
def paired_chart(
    name: str,
    arm: str,
    reference: str,
    pairs: Pairs,
    limits: tuple[float, float],
    said: Callable[[float], str],
) -> Chart | None:
    """A line a patient from the reference arm to this one; None without a patient whom both have.

    `limits` are those of the axis, the same for all arms of a page, so that slopes can be compared.
    """
    if not pairs:
        return None
    figure, axes = panel(width_in=2.2, height_in=2.15)
    titles: dict[str, str] = {}
    for patient, (one, other) in pairs.items():
        gid = f"line-{len(titles)}"
        titles[gid] = f"{patient}: {said(one)} → {said(other)}"
        colour = HIGHER if other > one else LOWER if other < one else MUTED
        axes.plot([0, 1], [one, other], "-o", gid=gid, color=colour, linewidth=1.2, markersize=4,
                  markeredgecolor=CARD, markeredgewidth=0.5, alpha=0.85, clip_on=False)  # fmt: skip
    means = [float(np.mean([pair[i] for pair in pairs.values()])) for i in (0, 1)]
    axes.plot([0, 1], means, "-", color=INK, linewidth=2.4, zorder=5)
    axes.set_xlim(-0.35, 1.35)
    axes.set_ylim(*limits)
    axes.set_xticks([0, 1], [short(reference), "this arm"])
    axes.set_title(short(arm), x=-0.16, fontsize=9.5)
    higher = sum(other > one for one, other in pairs.values())
    told = f"{higher} of {len(pairs)} higher"
    axes.set_xlabel(told)
    what = f"{arm} against {reference} by patient: {told}, mean {said(means[0])} to {said(means[1])}"
    return _chart(figure, name, what, titles)


@in_page_style
def arm_boxes(name: str, title: str, arms: Sequence[ArmView], values: Values, *, bounded: bool) -> Chart:
    """Boxes (quartiles, median, whiskers to 1.5 interquartile ranges), one an arm, with each patient as a point.

    Where the values have no upper bound the axis ends a little beyond the largest one without a miss; what
    lies beyond sits on its end, since a missed structure costs a whole image diagonal. Quartiles and median are
    those of the true values.
    """
    figure, axes = _arm_panel(title, arms)
    titles: dict[str, str] = {}
    look = looks(arms)
    every = [point for found in values.values() for point in found.values()]
    top = 1.0 if bounded else axis_end(every, room=0.1)
    medians = []
    for place, arm in enumerate(arms):
        found = values.get(arm.name, {})
        if not found:
            axes.annotate("failed" if arm.failed else "no result", (0.02, place), color=MUTED, fontsize=8.5,
                          xycoords=("axes fraction", "data"), va="center")  # fmt: skip
            continue
        numbers = np.array([v for v, _ in found.values()])
        colour, box = look[arm.name].colour, Box.of(numbers)
        _lying_box(axes, place, box.up_to(top), colour)
        medians.append(f"{arm.name} median {box.median:.3g} over {count(len(found), 'patient')}")
        offsets = np.asarray([0.0, -0.13, 0.13, -0.22, 0.22])[np.argsort(np.argsort(numbers)) % 5]
        for (patient, (value, missed)), offset in zip(found.items(), offsets, strict=True):
            gid = f"point-{len(titles)}"
            titles[gid] = f"{arm.name}, {patient}: {value:.3g}" + (" (missed)" if missed else "")
            axes.plot(min(value, top), place + offset, "X" if missed else "o", gid=gid, clip_on=False, zorder=4,
                      color=colour, markeredgecolor=INK if missed else CARD, markeredgewidth=0.5,
                      markersize=5.5 if missed else 3.6, alpha=0.85)  # fmt: skip
    if every:
        low = min(value for value, _ in every)
        axes.set_xlim(max(0.0, np.floor((low - 0.03) * 10) / 10) if bounded else 0.0, top * 1.01 or 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return _chart(figure, name, f"Box plot of {title} by arm: " + "; ".join(medians), titles)


@in_page_style
def arm_curves(name: str, title: str, column: str, tables: Mapping[str, pd.DataFrame],
               arms: Sequence[ArmView]) -> Chart | None:  # fmt: skip
    """One column of the arms' metrics.csv over training, a line an arm; None where no arm logged it.

    A log axis where all values are positive and span more than a factor of 50.
    """
    figure, axes = panel(width_in=4.1, height_in=2.6 + 0.17 * math.ceil(len(tables) / 2))
    spans: list[float] = []
    x, look = "step", looks(arms)
    for arm in arms:
        table = tables.get(arm.name)
        if table is None or column not in table:
            continue
        x = "step" if "step" in table else "round"
        if x not in table:
            continue
        rows = table[[x, column]].apply(pd.to_numeric, errors="coerce").dropna()
        if rows.empty:
            continue
        steps, values = (_thinned(rows[c].to_numpy(np.float64)) for c in (x, column))
        spans += [float(values.min()), float(values.max())]
        axes.plot(steps, values, label=short(arm.name), color=look[arm.name].colour, linestyle=look[arm.name].dashes,
                  linewidth=1.5, marker="o" if len(values) == 1 else "", markersize=4)  # fmt: skip
    if not spans:
        return None
    if min(spans) > 0 and max(spans) > 50 * min(spans):
        axes.set_yscale("log")
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    drawn = len(axes.lines)
    figure.legend(loc="outside lower left", ncols=2 if drawn > 1 else 1, handlelength=1.8, columnspacing=1.2)
    return _chart(figure, name, f"{title} over training, {drawn} arms", {})


_HUES: Final = SERIES[:6]
_BOUNDS: Final = {
    "lower": Look(MUTED, (0, (1.2, 1.4)), "D"),
    "upper": Look(INK, (0, (6, 2)), "D"),
}
_WIDEST: Final = (-1.0, 2.0)
"""Shares of a gap beyond which a line is cut: with bounds near each other an interval may run to anything."""


def _arm_panel(title: str, arms: Sequence[ArmView]) -> tuple[Figure, Axes]:
    """An empty chart with a row an arm, the first on top."""
    figure, axes = panel(width_in=4.1, height_in=0.85 + 0.3 * max(len(arms), 2))
    figure.suptitle(title, x=0.01, horizontalalignment="left", fontsize=10.5, fontweight="bold", color=INK)
    axes.set_yticks(range(len(arms)), [short(arm.name) for arm in arms])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.spines["left"].set_visible(False)
    return figure, axes


def _band(axes: Axes, ends: Sequence[float]) -> None:
    """The room between two bounds, shaded, with a line at either; one bound is a line alone."""
    ends = [end for end in ends if math.isfinite(end)]
    if len(ends) == 2:
        axes.axvspan(min(ends), max(ends), color=SERIES[0], alpha=0.1, linewidth=0, zorder=0)
    for end in ends:
        axes.axvline(end, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)), zorder=1)


def _write(axes: Axes, place: int, text: str, colour: str) -> None:
    """A word at the right end of an arm's row."""
    axes.annotate(text, (1, place), xycoords=("axes fraction", "data"), xytext=(5, 0), textcoords="offset points",
                  va="center", color=colour, fontsize=9)  # fmt: skip


def _lying_box(axes: Axes, place: int, box: Box, colour: str) -> None:
    axes.plot([box.low, box.first], [place, place], color=colour, linewidth=1.2, zorder=2)
    axes.plot([box.third, box.high], [place, place], color=colour, linewidth=1.2, zorder=2)
    axes.barh(
        place, box.third - box.first, 0.62, left=box.first, color=colour, alpha=0.22, linewidth=0, zorder=2
    )
    axes.plot([box.median, box.median], [place - 0.36, place + 0.36], color=INK, linewidth=1.8, zorder=5)


def _thinned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    step = max(1, -(-len(values) // MOST_POINTS))
    return np.asarray([values[i : i + step].mean() for i in range(0, len(values), step)])


def _chart(figure: Figure, name: str, label: str, titles: Mapping[str, str]) -> Chart:
    text = draw(figure, name)
    return Chart(name, inline(text, label, titles), standalone(text))
