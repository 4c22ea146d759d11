"""What a stylizer leaves of hearts, from `crossbeat stylize --segmenter`: used by the scripts beside this one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import pandas as pd
from study_tables import STRUCTURES, head, line_of

from crossbeat.errors import FileError
from crossbeat.report.wording import p_value, signed
from crossbeat.statistics import bootstrap_interval, holm, wilcoxon

REGIONS: Final = ("myocardium", "heart")
"""Where intensities are compared."""
COLUMNS: Final = ("subject", "stylizer", "frame", "phase", "structure", "metric", "content", "stylised")


def keep(folder: Path, kept: Path) -> None:
    """What a stylization measured, without paths."""
    found = folder / "structure.csv"
    if not found.exists():
        raise FileError(found, "is not there; `crossbeat stylize --segmenter RUN -o FOLDER` writes it")
    pd.read_csv(found)[list(COLUMNS)].to_csv(kept, index=False, float_format="%.5g", lineterminator="\n")


def keep_divergences(folder: Path, kept: Path) -> None:
    """How far histograms of stylised scans lie from contents' and styles', of styles that were not drawn from codes."""
    found = pd.read_csv(folder / "styles.csv")
    found = found[~found["code"].str.startswith("drawn")]
    columns = [f"{region}_from_{side}" for region in REGIONS for side in ("content", "style")]
    found[["subject", "stylizer", *columns]].to_csv(
        kept, index=False, float_format="%.5g", lineterminator="\n"
    )


def divergences(kept: pd.DataFrame) -> list[str]:
    """KL divergence in nats of the stylised histogram, mean ± SD over scans: a row a stylizer and region."""
    lines = head(("Stylizer", "Region", "from the content's", "from the style's", "nearer the style's in"))
    for stylizer, rows in kept.groupby("stylizer", sort=False):
        for region in REGIONS:
            content, style = rows[f"{region}_from_content"], rows[f"{region}_from_style"]
            both = content.notna() & style.notna()
            told = (f"{of.mean():.2f} ± {of.std():.2f}" for of in (content, style))
            nearer = f"{(style < content).sum()} of {both.sum()}"
            lines.append(line_of(str(stylizer), region, *told, nearer))
    return lines


def by_patient(kept: pd.DataFrame) -> pd.DataFrame:
    """Dice by stylizer, patient and structure, the mean of ED and ES: a row each, `content` and `stylised` its columns.

    A mean of which a part has no value has none.
    """
    dice = kept[kept["metric"] == "dice"]
    levels = ["stylizer", "subject", "structure"]
    return dice.groupby(levels, sort=False)[["content", "stylised"]].agg(lambda x: x.mean(skipna=False))


def table(patients: pd.DataFrame) -> list[str]:
    """A row a stylizer and structure: both means ± SD, difference with interval, p by Holm over the structures."""
    titles = ("Stylizer", "Dice", "As they are", "Stylised", "Difference", "95 % interval", "Lower in", "p")
    lines = head(titles)
    for stylizer, rows in patients.groupby(level="stylizer", sort=False):
        parts = {s: rows.xs((stylizer, s), level=("stylizer", "structure")) for s in STRUCTURES}
        tests = {
            s: wilcoxon(part["stylised"], part["content"], list(part.index)).p for s, part in parts.items()
        }
        corrected = dict(zip(STRUCTURES[:-1], holm([tests[s] for s in STRUCTURES[:-1]]), strict=True))
        for s, part in parts.items():
            difference = part["stylised"] - part["content"]
            low, high = bootstrap_interval(difference, list(part.index))
            means = (f"{part[side].mean():.3f} ± {part[side].std():.3f}" for side in ("content", "stylised"))
            interval = f"{signed(low)} to {signed(high)}" if math.isfinite(low) else "–"
            lower = f"{(difference < 0).sum()} of {len(part)}"
            p = p_value(corrected.get(s, tests[s]))
            lines.append(line_of(str(stylizer), s, *means, signed(difference.mean()), interval, lower, p))
    return lines


def edges(kept: pd.DataFrame) -> list[str]:
    """Of each stylizer the correlation of edges with the contents': mean, least and most over scans."""
    found = kept[kept["metric"] == "edge_correlation"].groupby("stylizer", sort=False)["stylised"]
    return [
        f"Edge correlation of {stylizer}: {of.mean():.2f} ({of.min():.2f} to {of.max():.2f})."
        for stylizer, of in found
    ]
