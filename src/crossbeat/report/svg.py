"""A matplotlib figure → an SVG that sits in the page, follows its light and dark colours, and loads nothing."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from html import escape
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossbeat.labels import Structure

INK: Final = "#010101"
"""Stands for the page's text colour; so do the next three for theirs. `inline` puts CSS variables there."""
MUTED: Final = "#020202"
LINE: Final = "#030303"
CARD: Final = "#040404"

_VARIABLES: Final = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", CARD: "var(--card)"}
_LIGHT: Final = {INK: "#1b1f24", MUTED: "#5b6470", LINE: "#dfe3e8", CARD: "#ffffff"}

COLOURS: Final[Mapping[str, str]] = {
    Structure.LV.name: "#3f9be0",
    Structure.MYO.name: "#e69f00",
    Structure.RV.name: "#12a37a",
    Structure.SCAR.name: "#d55e00",
    Structure.EDEMA.name: "#cc79a7",
    "mean": MUTED,
}
"""Blue, orange and bluish green: told apart by all common kinds of colour blindness (Okabe and Ito 2008)."""

SERIES: Final = ("#3f9be0", "#e69f00", "#12a37a", "#cc79a7", "#d55e00", "#8a79d6", "#8a8f98")
"""Colours of curves that are no structure, from the same palette."""

_RC: Final[Any] = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "legend.fontsize": 9,
}


in_page_style = matplotlib.rc_context(_RC)
"""Decorator of every function that draws a chart: matplotlib reads its settings when an artist is made."""


def panel(width_in: float = 3.5, height_in: float = 2.7) -> tuple[Figure, Axes]:
    """One empty chart; small, because the page lays out many side by side and one below another on a phone."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained", facecolor="none")
    return figure, figure.add_subplot(facecolor="none")


def draw(figure: Figure, name: str) -> str:
    """The figure as SVG whose colours still stand for others; the same figure gives the same text.

    `name` must differ between the charts of a page: ids are made from it.
    """
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, facecolor="none")
    return text.getvalue()


def standalone(text: str) -> str:
    """What `draw` gave as an SVG file of its own, in light colours."""
    return _recolour(text, _LIGHT)


def inline(text: str, label: str, titles: Mapping[str, str]) -> str:
    """What `draw` gave as an `<svg>` for the page: `label` is what a screen reader says of it.

    `titles` gives the text that appears over an artist, by the `gid` it was drawn with; the text may hold
    anything, it is escaped here.
    """
    width, height = (float(size) for size in _BOX.findall(text)[0])
    body = text[text.index(">", text.index("<svg")) + 1 :]
    for pattern in (_METADATA, _STYLE, _FAMILY, _NO_TURN):
        body = pattern.sub("", body)
    for gid, title in titles.items():
        body = body.replace(f'<g id="{gid}">', f"<g><title>{escape(title)}</title>")
    body = _recolour(_GROUP.sub("<g", body), _VARIABLES)
    head = (
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}" '
        f'style="max-width:{width * 4 / 3:.0f}px">'
    )
    return head + re.sub(r"\s*\n\s*", "\n", body)


_BOX = re.compile(r'viewBox="0 0 ([\d.]+) ([\d.]+)"')
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_STYLE = re.compile(r"<style.*?</style>", re.DOTALL)
_FAMILY = re.compile(r"font-family: [^;\"]*;? ?")
_NO_TURN = re.compile(r' transform="rotate\(-?0 [^)]*\)"')
_GROUP = re.compile(r'<g id="[^"]*"')


def _recolour(body: str, table: Mapping[str, str]) -> str:
    for sentinel, colour in table.items():
        body = body.replace(sentinel, colour)
    return body
