"""Scans in other styles, their intensities and their borders → one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from crossbeat import __version__
from crossbeat.cohort import Row
from crossbeat.labels import TRAINED
from crossbeat.report.motion_page import Tile
from crossbeat.report.styles import Spread, histogram_chart
from crossbeat.report.svg import COLOURS
from crossbeat.report.templates import fill, style
from crossbeat.report.wording import count, number, signed
from crossbeat.report.writing import write_whole
from crossbeat.statistics import mean_sd
from crossbeat.statistics.histograms import BINS

MOST_SCANS: Final = 12
"""Scans whose pictures stand in the page, some 0.3 MB each; every scan has its lines in the tables."""

STYLIZERS: Final = {"rain": "RAIN", "adaconv": "AdaConv"}
EDGES, DICE = "edge_correlation", "dice"

DEFINITIONS: Final = (
    (
        "Intensities",
        "On the method's scale: each slice (or the volume, as the run was trained) is cut off at its percentiles and "
        "goes from 0 to 1, content, style and stylised alike.",
    ),
    (
        "Divergence",
        f"Kullback-Leibler, Σ p ln(p / q) in nats, of two histograms of {BINS} bins over [0, 1], with one count added "
        "to each bin of both. p is the stylised image, q the content or the style. 0 where they are the same; a style "
        "that was taken on is near to the style and far from the content.",
    ),
    (
        "Regions",
        "The heart is LV, MYO and RV together, as drawn in the content, at the same voxels before and after. The "
        "style's are those of its whole scan, where somebody drew them; training does not look at them. "
        "The crop is all that the stylizer sees.",
    ),
    (
        "Edge correlation",
        "Correlation of the lengths of Sobel's gradient before and after, over the crop, the mean of the slices. 1: "
        "borders lie where they lay, as strong beside one another. It needs no labels. It is 1 less the loss of "
        "structure_weight.",
    ),
    (
        "Structure check",
        "Dice of a segmenter that learnt from source images against the content's labels, before and after, of the "
        "volume of each labelled frame. What a style moves of a border, or makes of one, it misses; but it misses a "
        "border too that it does not know in that contrast.",
    ),
    (
        "ε",
        "The code of a style. Training draws it as ψ + ξ n from the style's ψ and ξ, n standard normal, and lets it "
        "climb: a step up the segmentation loss of the run's segmenter makes a style that is harder to segment.",
    ),
)


@dataclass(frozen=True)
class StyleLine:
    """One line of styles.csv: a scan in a style. Divergences are in nats; nan where nothing was drawn."""

    scan: str
    subject: str
    stylised_from: str
    stylizer: str
    run: str
    style_scan: str
    style_frame: int
    style_slice: int
    code: str
    """`descriptor` where styles have no code, `centre` for ψ, `drawn k` for a draw."""
    edge_correlation: float
    myocardium_from_content: float
    myocardium_from_style: float
    heart_from_content: float
    heart_from_style: float
    crop_from_content: float
    crop_from_style: float


@dataclass(frozen=True)
class StructureLine:
    """One line of structure.csv: what is left of a structure, or of all borders, once a scan is stylised."""

    scan: str
    subject: str
    stylised_from: str
    stylizer: str
    segmenter: str
    """Its run; empty for the edge correlation, which needs none."""
    frame: str
    phase: str
    structure: str
    metric: str
    content: float
    stylised: float

    @property
    def difference(self) -> float:
        """Stylised less content."""
        return self.stylised - self.content


@dataclass(frozen=True)
class Pictures:
    """A row of pictures with what it shows."""

    title: str
    note: str
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class ScanStyles:
    """One scan as the page shows it."""

    row: Row
    sentence: str
    columns: Sequence[Pictures]
    """Side by side: as they are, with the drawn contours, with predictions; a tile a column."""
    strips: Sequence[Pictures]
    """The same slice along the code of its style."""


@dataclass(frozen=True)
class Check:
    """A line of the structure check: means over patients, and standard deviations."""

    stylizer: str
    structure: str
    patients: int
    content: tuple[float, float]
    stylised: tuple[float, float]
    difference: tuple[float, float]


@dataclass(frozen=True)
class StylePage:
    """Everything that stylization.html shows."""

    lines: Sequence[StyleLine]
    """Of every scan that was written."""
    structures: Sequence[StructureLine]
    spreads: Mapping[str, Sequence[Spread]]
    """Pooled over the scans, a region each, by stylizer."""
    shown: Sequence[ScanStyles]
    scans: int
    """That were restyled."""
    styles: str
    """Whose styles they took on, in words."""
    names: Mapping[str, str]
    """What the page calls a stylizer, by its name in the tables."""
    failures: Sequence[str]
    warnings: Sequence[tuple[str, str]]
    """A bold beginning and what follows it."""
    provenance: Sequence[tuple[str, str]]
    next_command: str
    version: str = field(default=__version__)

    @property
    def css(self) -> str:
        """The style sheet of the reports, and what only this page has."""
        return style("motion.css", "styles.css")

    @property
    def lead(self) -> str:
        """What was restyled, in a sentence."""
        made = " and ".join(self.names.values())
        return (
            f"{count(self.scans, 'scan')} in {self.styles}, by {made}. The labels are those of the content."
        )

    @property
    def charts(self) -> list[str]:
        """Histograms of a region a stylizer; those of the crop only where there are no others."""
        found = []
        for stylizer, spreads in self.spreads.items():
            names = {"content": "content", "style": "style", "stylised": self.names[stylizer]}
            charts = [
                histogram_chart(f"{s.region}-{stylizer}", _titled(s.region, self.names[stylizer]), s, names)
                for s in spreads
            ]
            *parts, crop = charts
            found += [chart for chart in parts if chart] or [crop]
        return found

    @property
    def divergences(self) -> list[tuple[str, Spread]]:
        """The pooled spread of each region of each stylizer, where there is one."""
        return [
            (self.names[name], s)
            for name, spreads in self.spreads.items()
            for s in spreads
            if s.content.sum()
        ]

    @property
    def checks(self) -> list[Check]:
        """The structure check a structure and their mean, by stylizer; empty without a segmenter."""
        wanted = [*(s.name for s in TRAINED), "mean"]
        return [
            _check(
                self.names[stylizer],
                structure,
                [x for x in self._of(stylizer, DICE) if x.structure == structure],
            )
            for stylizer in self.names
            for structure in wanted
            if any(x.structure == structure for x in self._of(stylizer, DICE))
        ]

    @property
    def edges(self) -> list[Check]:
        """Edge correlations by stylizer."""
        return [
            _check(self.names[name], "", self._of(name, EDGES))
            for name in self.names
            if self._of(name, EDGES)
        ]

    def _of(self, stylizer: str, metric: str) -> list[StructureLine]:
        return [x for x in self.structures if x.stylizer == stylizer and x.metric == metric]


def name_stylizer(kind: str) -> str:
    """What a reader calls `rain`, `adaconv`, or the second of a kind, `rain-2`."""
    first, dash, rest = kind.partition("-")
    return f"{STYLIZERS[first]}{' ' * bool(dash)}{rest}"


def write_style_page(path: Path, page: StylePage) -> Path:
    """Write the page, whole or not at all; it loads nothing, and every text from outside is escaped."""
    values = {"page": page, "colours": COLOURS, "definitions": DEFINITIONS}
    return write_whole(
        path, fill("styles.html", values, {"number": number, "signed": signed, "plural": count})
    )


def _check(stylizer: str, structure: str, lines: Sequence[StructureLine]) -> Check:
    """Means over patients, each patient's own mean first; of those alone who have a number before and after."""
    kept = [x for x in lines if x.difference == x.difference]
    patients = [x.subject for x in kept]
    content, stylised, difference = (
        mean_sd([getattr(x, part) for x in kept], patients) for part in ("content", "stylised", "difference")
    )
    return Check(stylizer, structure, len(set(patients)), content, stylised, difference)


def _titled(region: str, stylizer: str) -> str:
    return f"{region.capitalize()}, {stylizer}"
