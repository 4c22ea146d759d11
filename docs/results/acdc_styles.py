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

from crossbeat.errors import FileError, SettingsError
from crossbeat.report.svg import COLOURS
from crossbeat.report.wording import p_value, signed
from crossbeat.statistics import bootstrap_interval, holm, wilcoxon

HERE: Final = Path(__file__).parent
KEPT: Final = HERE / "acdc_styles.csv"
FIGURE: Final = HERE.parent / "figures" / "acdc_styles.png"
COLUMNS: Final = ("subject", "stylizer", "frame", "phase", "structure", "metric", "content", "stylised")


def keep(folder: Path) -> None:
    """What the stylization measured, without paths."""
    found = folder / "structure.csv"
    if not found.exists():
        raise FileError(found, "is not there; `crossbeat stylize --segmenter RUN -o FOLDER` writes it")
    pd.read_csv(found)[list(COLUMNS)].to_csv(KEPT, index=False, float_format="%.5g", lineterminator="\n")


def by_patient(kept: pd.DataFrame) -> pd.DataFrame:
    """Dice by patient and structure, the mean of ED and ES: a row each, `content` and `stylised` its columns.

    A mean of which a part has no value has none. More than one stylizer raises `SettingsError`.
    """
    if len(names := sorted(set(kept["stylizer"]))) > 1:
        raise SettingsError(f"acdc_styles.csv has {' and '.join(names)}; restyle with one of them")
    dice = kept[kept["metric"] == "dice"]
    return dice.groupby(["subject", "structure"])[["content", "stylised"]].agg(lambda x: x.mean(skipna=False))


def table(patients: pd.DataFrame) -> list[str]:
    """A row a structure: both means, the difference with its interval, p by Holm over the structures."""
    lines = head(("Dice", "As they are", "Stylised", "Difference", "95 % interval", "Lower in", "p"))
    parts = {s: patients.xs(s, level="structure") for s in STRUCTURES}
    tests = {s: wilcoxon(part["stylised"], part["content"], list(part.index)).p for s, part in parts.items()}
    corrected = dict(zip(STRUCTURES[:-1], holm([tests[s] for s in STRUCTURES[:-1]]), strict=True))
    for s, part in parts.items():
        difference = part["stylised"] - part["content"]
        low, high = bootstrap_interval(difference, list(part.index))
        lines.append(
            line_of(
                s,
                *(
                    f"{part[column].mean():.3f} ± {part[column].std():.3f}"
                    for column in ("content", "stylised")
                ),
                signed(difference.mean()),
                f"{signed(low)} to {signed(high)}",
                f"{(difference < 0).sum()} of {len(part)}",
                p_value(corrected.get(s, tests[s])),
            )
        )
    return lines


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
        keep(Path(words[0]))
    kept = pd.read_csv(KEPT)
    patients = by_patient(kept)
    edges = kept[kept["metric"] == "edge_correlation"]["stylised"]
    print("\n".join(table(patients)))
    print("\n" + "\n".join(by_phase(kept)))
    print(f"\nEdge correlation {edges.mean():.2f} ({edges.min():.2f} to {edges.max():.2f}).")
    draw(patients, FIGURE)


if __name__ == "__main__":
    main(sys.argv[1:])
