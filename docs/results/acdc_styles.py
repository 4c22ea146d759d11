"""What RAIN leaves of real hearts: Dice of a segmenter on ACDC's test patients as they are, and in Sunnybrook's style.

Run from the repository root: `python docs/results/acdc_styles.py [STYLED]`. STYLED is a folder of `crossbeat stylize`
with a --segmenter; its structure.csv is kept as acdc_styles.csv beside this file. Of what is kept the table is printed
and docs/figures/acdc_styles.png drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from study_tables import STRUCTURES, head, line_of
from style_tables import by_patient, edges, keep, table

from crossbeat.errors import SettingsError
from crossbeat.report.svg import COLOURS
from crossbeat.report.wording import signed

HERE: Final = Path(__file__).parent
KEPT: Final = HERE / "acdc_styles.csv"
FIGURE: Final = HERE.parent / "figures" / "acdc_styles.png"


def by_phase(kept: pd.DataFrame) -> list[str]:
    """What ED and ES lose on the mean, and the two patients who lose most, by structure."""
    dice = kept[kept["metric"] == "dice"].assign(lost=lambda rows: rows["stylised"] - rows["content"])
    lines = head(("Difference", "ED", "ES", "Least and next to least, at ES"))
    for structure in STRUCTURES:
        of = {
            phase: rows.set_index("subject")["lost"]
            for phase, rows in dice[dice["structure"] == structure].groupby("phase")
        }
        worst = [f"{subject} {signed(lost)}" for subject, lost in of["ES"].nsmallest(2).items()]
        lines.append(line_of(structure, signed(of["ED"].mean()), signed(of["ES"].mean()), ", ".join(worst)))
    return lines


def draw(patients: pd.DataFrame, out: Path) -> None:
    """A line a patient from as it is to stylised, a panel a structure."""
    figure, panels = plt.subplots(1, 3, figsize=(8.4, 3.2), sharey=True, constrained_layout=True)
    for axes, structure in zip(panels, STRUCTURES, strict=False):
        part, colour = patients.xs(structure, level="structure"), COLOURS[structure]
        for _, row in part.iterrows():
            axes.plot((0, 1), row[["content", "stylised"]], "o-", color=colour, alpha=0.45, linewidth=1.5)
        axes.plot((0, 1), part[["content", "stylised"]].mean(), "k_-", linewidth=3, markersize=22)
        axes.set(xlim=(-0.35, 1.35), ylim=(0, 1), xticks=(0, 1))
        axes.set_xticklabels(("as it is", "stylised"), fontsize=12)
        axes.set_title(structure, fontsize=14, color=colour, weight="bold")
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("Dice, mean of ED and ES", fontsize=12)
    figure.savefig(out, dpi=100)
    plt.close(figure)


def main(words: Sequence[str]) -> None:
    """Keep what is named, tell and draw what is kept."""
    if words:
        keep(Path(words[0]), KEPT)
    kept = pd.read_csv(KEPT)
    if len(names := sorted(set(kept["stylizer"]))) > 1:
        raise SettingsError(
            f"{KEPT.name} has {' and '.join(names)}, and the page is of one; restyle with one of them"
        )
    patients = by_patient(kept)
    for lines in (table(patients), by_phase(kept), edges(kept)):
        print("\n".join(lines) + "\n")
    draw(patients.droplevel("stylizer"), FIGURE)


if __name__ == "__main__":
    main(sys.argv[1:])
