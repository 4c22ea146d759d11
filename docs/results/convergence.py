"""How many updates each strategy of a study takes to do as well as training from scratch: a table and a figure.

Given the folder of a study it keeps the validation curves of its arms (`cells/<arm>/seed-<n>/stages/*/metrics.csv`) in
dhaene2023/curves.csv beside this file. From there it writes dhaene2023/convergence.csv and convergence.png, and prints
the table. As well: as scratch's best validation Dice (the paper's claim, 6 times faster), and as 99 and 95 % of it.

Each stage has a one-cycle schedule of its own, and every schedule ends at its best: where scratch has twice as many
updates on labels as the others, as under matched updates, the last level says little more than that. Arms called
constant have a constant learning rate and equally many updates on labels; they are the answer, and the figure's. Of
either kind the seeds that all its arms have are shown; the kept curves are of all.

Run from the repository root: `python docs/results/convergence.py [OUT]`; `--help` tells of other studies.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from study_tables import head, line_of
from tag_tables import of_common_seeds

from crossbeat.errors import FileError, RunError
from crossbeat.report.svg import SERIES

HERE: Final = Path(__file__).parent
ARMS: Final = ("scratch", "cine", "physics", "cyclegan")
CONSTANT: Final = tuple(f"{arm}_constant" for arm in ARMS)
LEVELS: Final = (0.95, 0.99, 1.0)
"""Shares of scratch's best Dice that are waited for."""
STAGES: Final = ("cine", "tags", "finetuning")
"""Of the segmenter, in the order in which they are trained; the CycleGAN's own updates do not count."""
COLUMNS: Final = ("arm", "seed", "stage", "stage_updates", "updates", "dice")
NEVER: Final = "never"


@dataclass(frozen=True)
class Reached:
    """When one training first did as well as a share of what scratch ever did under the same seed."""

    arm: str
    seed: int
    level: float
    scratch_best: float
    """The best validation Dice of scratch, mean of structures."""
    best: float
    finetuning_updates: int | None
    """On the target's labels; 0: before it saw any. None: never."""
    all_updates: int | None


def read_curves(out: Path, arms: Sequence[str]) -> pd.DataFrame:
    """The curves of every seed of these arms; arms without a cell are left out, a study without any `RunError`."""
    found = []
    for arm in arms:
        for cell in sorted((out / "cells" / arm).glob("seed-*")):
            seed = re.fullmatch(r"seed-(\d+)", cell.name)
            if seed and (cell / "scores.csv").exists():  # finished
                found.append(curve_of(cell / "stages").assign(arm=arm, seed=int(seed[1])))
    if not found:
        raise RunError(f"{out}: has no finished cell of {', '.join(arms)}; `crossbeat study` computes them")
    return pd.concat(found, ignore_index=True)[list(COLUMNS)]


def curve_of(stages: Path) -> pd.DataFrame:
    """A line a validation of one training: updates of the stage, those of all stages so far, Dice on target scans."""
    lines, before = [], 0
    for stage in STAGES:
        file = stages / stage / "metrics.csv"
        if not file.exists():
            continue
        table = pd.read_csv(file)
        if "dice_target" not in table:
            raise FileError(file, "has no dice_target; the study's cohort needs target scans that validate")
        seen = table.dropna(subset="dice_target")
        lines.append(
            pd.DataFrame(
                {
                    "stage": stage,
                    "stage_updates": seen["step"],
                    "updates": seen["step"] + before,
                    "dice": seen["dice_target"],
                }
            )
        )
        before += int(table["step"].max())
    if not lines:
        raise FileError(stages, f"has none of the stages {', '.join(STAGES)}")
    return pd.concat(lines, ignore_index=True)


def convergence(curves: pd.DataFrame, reference: str = "scratch") -> list[Reached]:
    """A record an arm, seed and level, those of the reference too; seeds it was not trained with are left out."""
    best = curves[curves["arm"] == reference].groupby("seed")["dice"].max()
    return [
        reached(curve, str(arm), int(seed), level, float(best[seed]))
        for (arm, seed), curve in curves.groupby(["arm", "seed"], sort=False)
        if seed in best.index
        for level in LEVELS
    ]


def reached(curve: pd.DataFrame, arm: str, seed: int, level: float, scratch_best: float) -> Reached:
    """Of one training, whose curve it is."""
    there = curve[curve["dice"] >= level * scratch_best]
    first = None if there.empty else there.loc[there["updates"].idxmin()]
    tuned = None if first is None else int(first["stage_updates"]) * (first["stage"] == STAGES[-1])
    total = None if first is None else int(first["updates"])
    return Reached(arm, seed, level, scratch_best, float(curve["dice"].max()), tuned, total)


def table_of(found: Sequence[Reached], reference: str = "scratch") -> list[str]:
    """A row an arm, its seeds side by side: updates on labels, and of all stages, until each level is reached.

    After each level stands how many times fewer updates on labels than the reference's: of sums over the seeds, and a
    dash where one of them never got there.
    """
    lines = head(
        ("Arm", "best Dice", *(f"{level:.0%} of {reference}'s best: on labels (all)" for level in LEVELS))
    )
    for arm in dict.fromkeys(r.arm for r in found):
        rows = [r for r in found if r.arm == arm]
        cells = []
        for level in LEVELS:
            own = [r for r in rows if r.level == level]
            theirs = {r.seed: r.finetuning_updates for r in found if (r.arm, r.level) == (reference, level)}
            words = ", ".join(f"{told(r.finetuning_updates)} ({told(r.all_updates)})" for r in own)
            cells.append(f"{words}; {faster(own, theirs)}")
        best = ", ".join(f"{r.best:.3f}" for r in rows if r.level == LEVELS[0])
        lines.append(line_of(f"`{arm}`", best, *cells))
    return lines


def faster(rows: Sequence[Reached], scratch: dict[int, int | None]) -> str:
    """How many times fewer updates on labels than scratch; methods.md 4.6: the paper claims 6."""
    mine, theirs = 0, 0
    for row in rows:
        own = scratch.get(row.seed)
        if row.finetuning_updates is None or own is None:
            return "–"
        mine, theirs = mine + row.finetuning_updates, theirs + own
    return f"{theirs / mine:.1f} times" if mine else "none needed"


def told(updates: int | None) -> str:
    return NEVER if updates is None else f"{updates}"


def write(found: Sequence[Reached], path: Path) -> None:
    """A line an arm, seed and level; `never` where it did not get there."""
    table = pd.DataFrame([asdict(r) for r in found])
    for column in ("finetuning_updates", "all_updates"):
        table[column] = [told(getattr(r, column)) for r in found]
    table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


def draw(curves: pd.DataFrame, path: Path, reference: str = "scratch") -> None:
    """Dice against all updates: a thin line a seed, the mean of seeds thick, a dot where the target's labels begin."""
    figure, axes = plt.subplots(figsize=(8, 4.4))
    arms = list(dict.fromkeys(curves["arm"]))
    for arm, colour in zip(arms, SERIES * math.ceil(len(arms) / len(SERIES)), strict=False):
        rows = curves[curves["arm"] == arm]
        for _, curve in rows.groupby("seed"):
            axes.plot(curve["updates"], curve["dice"], color=colour, linewidth=0.8, alpha=0.45)
        mean = rows.groupby("updates", as_index=False)["dice"].mean()
        axes.plot(mean["updates"], mean["dice"], color=colour, linewidth=2.2, label=arm)
        tuned = rows[rows["stage"] == STAGES[-1]]
        begins = (tuned["updates"] - tuned["stage_updates"]).min()
        if begins > 0:
            last = mean[mean["updates"] <= begins].iloc[-1]
            axes.plot(last["updates"], last["dice"], "o", color=colour, markersize=8)
    best = curves[curves["arm"] == reference].groupby("seed")["dice"].max().mean()
    axes.axhline(best, color="#5b6470", linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        f"best of {reference}",
        (0.01, best),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="left",
        va="bottom",
        fontsize=11,
        color="#5b6470",
    )
    axes.set_xlabel(
        "updates of the segmenter, over all stages (a dot: labels of the target begin)", fontsize=11
    )
    axes.set_ylabel("validation Dice, tagged scans", fontsize=11)
    axes.set_xlim(left=0)
    axes.set_ylim(top=1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=11, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Keep the curves where a study is given; write the table and the figure from what is kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", nargs="?", type=Path, help="folder of a study; without it the kept curves")
    parser.add_argument("--into", default="dhaene2023", help="folder beside this file to keep them in")
    parser.add_argument(
        "--arms", default=",".join((*ARMS, *CONSTANT)), help="with commas; scratch is among them"
    )
    given = parser.parse_args()
    folder = HERE / given.into
    if given.out is not None:
        folder.mkdir(exist_ok=True)
        curves = read_curves(given.out, given.arms.split(","))
        curves.to_csv(folder / "curves.csv", index=False, float_format="%.6g", lineterminator="\n")
    if not (folder / "curves.csv").exists():
        raise FileError(folder / "curves.csv", "does not exist; name the folder of a study, which makes it")
    curves = pd.read_csv(folder / "curves.csv")
    constant = of_common_seeds(curves, CONSTANT)
    matched = of_common_seeds(curves, set(curves["arm"]) - set(CONSTANT))
    groups = {"scratch_constant": constant, "scratch": matched}
    found = {reference: convergence(part, reference) for reference, part in groups.items() if len(part)}
    if not any(found.values()):
        raise RunError(f"{folder / 'curves.csv'}: has no curve of scratch, which the others are measured by")
    write([one for part in found.values() for one in part], folder / "convergence.csv")
    shown, reference = (constant, "scratch_constant") if len(constant) else (matched, "scratch")
    draw(shown, folder / "convergence.png", reference)
    print("\n\n".join("\n".join(table_of(part, reference)) for reference, part in found.items() if part))


if __name__ == "__main__":
    main()
