"""Cine that looks tagged, from its kept scores: Tables 3 and 4 of Dhaene 2023, fewer labels, frames and groups.

Reads dhaene2023/scores.csv.gz and cells.csv beside this file, prints the tables for dhaene2023/README.md and draws
by_frame.png and by_labels.png there. Given the folder of the study it first keeps from its cells, in
dhaene2023/contours.csv.gz, what the evidence leaves out: HD95 of contours. Run from the repository root:
`python docs/results/dhaene2023.py [OUT]`.

Arms are laid beside one another under the seeds that all of them have; the tables by seed and of differences have the
others too.

A tagged scan has one slice. HD95 of a volume, which the evidence keeps, takes every pixel of one slice for its surface,
and so comes out smaller than the paper's, which is of contours in 2-D.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator
from study_tables import head, line_of
from tag_tables import (
    KEY,
    STRUCTURES,
    by_frame,
    by_patient,
    crossed,
    differences,
    frames_of,
    of_common_seeds,
    of_several_seeds,
    table_by_frame,
    table_by_seed,
)

from crossbeat.errors import FileError, RunError
from crossbeat.evaluation import read_scores
from crossbeat.report.svg import SERIES
from crossbeat.statistics import crossed_interval
from crossbeat.study.evidence import TARGET, read_evidence
from crossbeat.study.plan import Study

HERE: Final = Path(__file__).with_name("dhaene2023")
STRATEGIES: Final = ("scratch", "cine", "physics", "cyclegan")
TABLE_3: Final = (
    "source_only",
    *STRATEGIES,
    "physics_alone",
    "physics_static",
    "scratch_published",
    "physics_published",
    "cyclegan_published",
    "scratch_dynunet",
    "cine_dynunet",
    "physics_dynunet",
    "target_supervised",
)
TABLE_4: Final = {
    0.0: "scratch_no_shape_loss",
    0.05: "scratch",
    0.5: "scratch_shape_0.5",
    1.0: "scratch_shape_1",
}
"""γ and its arm."""
TICKS: Final = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98)
"""Of Dice in the figure by labels."""
LEAST: Final = 0.03
"""Dice at which that figure ends below, and intervals with it."""
ASIDE: Final = 0.13
"""Between two strategies in it, of the way from a share to the next."""
SHARES: Final = (0, 5, 10, 25, 50, 100)
"""Labels of the target that are learnt from, in % of the patients who train."""
PAIRS: Final = {
    ("cine", "scratch"): "cine first",
    ("physics", "scratch"): "cine and lines by physics first",
    ("cyclegan", "scratch"): "cine and a CycleGAN's likeness first",
    ("physics", "cine"): "physics, in place of half the cine",
    ("cyclegan", "cine"): "a CycleGAN's likeness, in place of half the cine",
    ("physics", "cyclegan"): "physics in place of a CycleGAN",
    ("physics", "physics_static"): "lines that fade and vary, in place of the paper's",
    ("physics_alone", "scratch"): "lines by physics first, without plain cine",
    ("physics_alone", "cine"): "lines by physics in place of cine, one stage each",
    ("physics_published", "cine"): "lines as an extra stage, as published",
    ("physics_published", "scratch_published"): "cine and lines, as published",
    ("cyclegan_published", "scratch_published"): "cine and a CycleGAN's likeness, as published",
    ("cine", "scratch_published"): "cine as an extra stage, as published",
    ("cine_constant", "scratch_constant"): "cine first, as many updates on labels",
    ("physics_constant", "scratch_constant"): "cine and lines first, as many updates on labels",
    ("cyclegan_constant", "scratch_constant"): "cine and likeness first, as many updates on labels",
    ("scratch", "scratch_no_shape_loss"): "the shape-aware loss",
    ("scratch_vae", "scratch"): "the VAE's loss",
    ("scratch_xavier", "scratch"): "initial weights by Xavier",
    ("scratch_random_contrast", "scratch"): "random contrast",
    ("cine_5_percent", "scratch_5_percent"): "cine first, 5 % of the labels",
    ("physics_5_percent", "scratch_5_percent"): "cine and lines first, 5 % of the labels",
    ("cine_10_percent", "scratch_10_percent"): "cine first, 10 % of the labels",
    ("physics_10_percent", "scratch_10_percent"): "cine and lines first, 10 % of the labels",
    ("cyclegan_10_percent", "scratch_10_percent"): "cine and likeness first, 10 % of the labels",
    ("cine_25_percent", "scratch_25_percent"): "cine first, 25 % of the labels",
    ("physics_25_percent", "scratch_25_percent"): "cine and lines first, 25 % of the labels",
    ("cyclegan_25_percent", "scratch_25_percent"): "cine and likeness first, 25 % of the labels",
    ("cine_50_percent", "scratch_50_percent"): "cine first, 50 % of the labels",
    ("physics_50_percent", "scratch_50_percent"): "cine and lines first, 50 % of the labels",
    ("cyclegan_50_percent", "scratch_50_percent"): "cine and likeness first, 50 % of the labels",
    ("physics_5_percent", "cine_5_percent"): "physics in place of half the cine, 5 % of the labels",
    ("cyclegan_5_percent", "scratch_5_percent"): "cine and likeness first, 5 % of the labels",
    ("physics_no_labels", "cine_no_labels"): "physics in place of half the cine, no label",
    ("physics_no_labels", "scratch"): "cine and lines without a label, in place of 30 patients' labels",
    (
        "physics_no_labels",
        "scratch_5_percent",
    ): "cine and lines without a label, in place of two patients' labels",
    ("physics_no_labels", "physics_no_inflow_no_labels"): "fresh blood washes lines out, no label",
    ("cyclegan_no_labels", "cine_no_labels"): "a CycleGAN's likeness in place of half the cine, no label",
    ("physics_no_labels", "cyclegan_no_labels"): "physics in place of a CycleGAN, no label",
    ("cine_dynunet", "scratch_dynunet"): "cine first, DynUNet",
    ("physics_dynunet", "scratch_dynunet"): "cine and lines first, DynUNet",
    (
        "scratch_dynunet",
        "scratch_no_shape_loss",
    ): "DynUNet in place of ResNetVAE, both without the shape loss",
}
"""What is asked: (arm, the arm without that step)."""


def keep_contours(out: Path) -> pd.DataFrame:
    """HD95 in mm of the one slice of each frame, in 2-D, a column a structure, from the cells of a study's folder."""
    found = []
    for path in sorted(out.glob("cells/*/seed-*/scores.csv")):
        seed, _, fold = path.parent.name.removeprefix("seed-").partition("-fold-")
        rows = read_scores(path)
        flat = rows[rows["slice"].notna() & (rows["metric"] == "hd95") & (rows["unit"] == "mm")]
        if flat.duplicated(["scan", "frame", "structure"]).any():
            raise RunError(
                f"{path}: scans of several slices; contours are kept of scans that have one, as tagged ones"
            )
        wide = flat.set_index(["subject", "scan", "frame", "structure"])["value"].unstack("structure")
        number = int(fold.partition("-of-")[0] or 0)
        found.append(wide.reset_index().assign(arm=path.parent.parent.name, seed=int(seed), fold=number))
    if not found:
        raise FileError(out, "has no finished cell (cells/ARM/seed-N/scores.csv)")
    return pd.concat(found, ignore_index=True).reindex(columns=[*KEY, "frame", *STRUCTURES])


def over_frames(frames: pd.DataFrame, arm: str, structure: str, metric: str) -> tuple[float, float]:
    """Mean and SD over all frames of all patients, each of each seed once, as the paper prints."""
    values = _of(frames, arm, structure)[metric].dropna()
    return float(values.mean()), float(values.std())


def over_patients(frames: pd.DataFrame, arm: str, structure: str, metric: str) -> tuple[float, float]:
    """Mean and SD over patients: frames first, then seeds, as is sound."""
    values = by_patient(_of(frames, arm, structure), metric)
    return float(values.mean()), float(values.std())


def _of(frames: pd.DataFrame, arm: str, structure: str) -> pd.DataFrame:
    return frames[(frames["arm"] == arm) & (frames["structure"] == structure)]


def table_3(
    frames: pd.DataFrame, study: Study, metric: str, training: pd.DataFrame | None = None
) -> list[str]:
    """A row an arm and structure: ours over frames and over patients, and what the paper prints of it.

    `training` are the kept scores of what each arm learned from, where there are some (`training_scores.py`).
    """
    tested = ("over frames", "over patients", "printed, over frames")
    trained = () if training is None else ("trained on, over frames", "trained on, over patients")
    lines = head(("Arm", "Structure", *tested, *trained))
    there = set(frames["arm"])
    for arm in (arm for arm in TABLE_3 if arm in there):
        for structure in STRUCTURES:
            told = [
                *_both(frames, arm, structure, metric),
                _printed(study, "Table 3", arm, structure, metric),
                *(() if training is None else _trained(training, arm, structure, metric)),
            ]
            lines.append(line_of(f"`{arm}`", structure, *told))
    return lines


def _trained(training: pd.DataFrame, arm: str, structure: str, metric: str) -> list[str]:
    """As `_both`, from the mean, SD and number of each patient's frames."""
    own = training[
        (training["arm"] == arm) & (training["structure"] == structure) & (training["metric"] == metric)
    ]
    own = own[own["frames"] > 0]
    if own.empty:
        return ["–", "–"]
    n, means = own["frames"].to_numpy(), own["mean"].to_numpy()
    mean = float(np.average(means, weights=n))
    squares = (n - 1) * own["sd"].fillna(0.0).to_numpy() ** 2 + n * (means - mean) ** 2
    patients = own.groupby("subject")["mean"].mean()
    return [
        _mean_and_sd(mean, math.sqrt(squares.sum() / max(n.sum() - 1, 1)), metric),
        _mean_and_sd(patients.mean(), patients.std(), metric),
    ]


def _mean_and_sd(mean: float, sd: float, metric: str) -> str:
    digits = 3 if metric == "dice" else 2
    return f"{mean:.{digits}f} ± {sd:.{digits}f}"


def table_4(frames: pd.DataFrame, study: Study) -> list[str]:
    """A row a γ: Dice and HD95 of the myocardium over frames and over patients, with the printed values beside."""
    lines = head(
        ("γ", *(f"{m}, {o}" for m in ("Dice", "HD95 mm") for o in ("frames", "patients", "printed")))
    )
    for weight, arm in TABLE_4.items():
        if arm in set(frames["arm"]):
            told = [
                text
                for metric in ("dice", "hd95")
                for text in (
                    *_both(frames, arm, "MYO", metric),
                    _printed(study, "Table 4", arm, "MYO", metric),
                )
            ]
            lines.append(line_of(f"{weight:g}", *told))
    return lines


def _both(frames: pd.DataFrame, arm: str, structure: str, metric: str) -> list[str]:
    ways = (over_frames, over_patients)
    return [_mean_and_sd(*way(frames, arm, structure, metric), metric) for way in ways]


def _printed(study: Study, table: str, arm: str, structure: str, metric: str) -> str:
    for value in study.published:
        if (value.where, value.arm, value.structure, value.metric) == (table, arm, structure, metric):
            return f"{value.value:.3f}" + (f" ± {value.sd:.3f}" if value.sd is not None else "")
    return "–"


def arm_of(strategy: str, share: int) -> str:
    """The arm of a strategy that learns from so many % of the labels."""
    return {0: f"{strategy}_no_labels", 100: strategy}.get(share, f"{strategy}_{share}_percent")


BESIDE: Final = {
    *TABLE_3, *TABLE_4.values(), *(arm_of(strategy, share) for strategy in STRATEGIES for share in SHARES),
}  # fmt: skip
"""Arms that are laid side by side, under the seeds that all of them have."""


def by_labels(frames: pd.DataFrame) -> pd.DataFrame:
    """Dice, mean of structures: a line a strategy, share of the labels, patient and seed that is there."""
    mean = frames.groupby(["arm", "seed", "subject", "frame"], as_index=False)["dice"].mean()
    found = []
    for strategy in STRATEGIES:
        for share in SHARES:
            rows = mean[mean["arm"] == arm_of(strategy, share)]
            if len(rows):
                values = rows.groupby(["subject", "seed"], as_index=False)["dice"].mean()
                found.append(values.assign(strategy=strategy, share=share))
    return pd.concat(found, ignore_index=True)


def table_by_labels(frames: pd.DataFrame) -> list[str]:
    """Mean Dice over patients of each strategy, by the share of the labels that it learns from."""
    own = by_labels(frames).groupby(["strategy", "share"])
    means = {key: by_patient(rows, "dice") for key, rows in own}
    there = {key: f"{values.mean():.3f} ± {values.std():.3f}" for key, values in means.items()}
    lines = head(("Strategy", *(f"{share} %" for share in SHARES)))
    for strategy in STRATEGIES:
        told = [there.get((strategy, share), "–") for share in SHARES]
        if any(word != "–" for word in told):
            lines.append(line_of(f"`{strategy}`", *told))
    return lines


def draw_by_labels(frames: pd.DataFrame, path: Path) -> None:
    """The points of `table_by_labels`, side by side, with 95 % bootstrap intervals over patients and seeds."""
    table = by_labels(frames)
    shares = [share for share in SHARES if (table["share"] == share).any()]
    figure, axes = plt.subplots(figsize=(8, 4.4))
    for k, (strategy, colour) in enumerate(zip(STRATEGIES, SERIES, strict=False)):
        own = table[table["strategy"] == strategy]
        there = [share for share in shares if (own["share"] == share).any()]
        if not there:
            continue
        values = [own[own["share"] == share] for share in there]
        x = [shares.index(share) + (k - (len(STRATEGIES) - 1) / 2) * ASIDE for share in there]
        means = np.array([by_patient(v, "dice").mean() for v in values])
        low, high = np.array([crossed_interval(crossed(v, "dice")) for v in values]).T
        within = [np.maximum(means - np.maximum(low, LEAST), 0), np.maximum(high - means, 0)]
        axes.errorbar(
            x, means, within, color=colour, linewidth=2, fmt="o", markersize=6, capsize=3, label=strategy
        )
    axes.set_yscale("logit", nonpositive="clip")  # near 1 a hundredth counts
    axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(LEAST, 0.985)
    axes.set_xticks(range(len(shares)), [f"{share} %" for share in shares])
    axes.set_xlabel("labels of the target that are learnt from", fontsize=12)
    axes.set_ylabel("Dice, mean of structures (logit scale)", fontsize=12)
    axes.tick_params(labelsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=12, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def table_by_group(frames: pd.DataFrame) -> list[str]:
    """Dice of each structure over the patients of each group."""
    groups = sorted(frames["group"].unique())
    lines = head(("Strategy", "Group", "Patients", *STRUCTURES))
    for arm in (arm for arm in STRATEGIES if arm in set(frames["arm"])):
        for group in groups:
            rows = frames[(frames["arm"] == arm) & (frames["group"] == group)]
            told = [by_patient(rows[rows["structure"] == s], "dice") for s in STRUCTURES]
            means = [f"{values.mean():.3f} ± {values.std():.3f}" for values in told]
            lines.append(line_of(f"`{arm}`", group, f"{len(told[0])}", *means))
    return lines


def draw(frames: pd.DataFrame, path: Path, structure: str = "MYO") -> None:
    """Dice by frame of the cycle, and by group: violins over frames, as the paper has them, with a dot a patient."""
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(8, 7.4))
    table = by_frame(frames, STRATEGIES, structure)
    colours = dict(zip(STRATEGIES, SERIES, strict=False))
    for arm in table:
        upper.plot(
            table.index, table[arm], color=colours[arm], linewidth=2, marker="o", markersize=4, label=arm
        )
    upper.set_xlabel("frame of the cycle; lines are laid in frame 0", fontsize=12)
    upper.legend(
        frameon=False, fontsize=12, ncols=len(table.columns), loc="lower center", bbox_to_anchor=(0.5, 1)
    )
    rows = frames[frames["structure"] == structure]
    _violins(lower, rows, list(table), colours)
    for axes in (upper, lower):
        axes.set_ylabel(f"Dice, {structure}", fontsize=12)
        axes.tick_params(labelsize=11)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _violins(axes: Axes, rows: pd.DataFrame, arms: Sequence[str], colours: Mapping[str, str]) -> None:
    groups = sorted(rows["group"].unique())
    step = 1 / (len(arms) + 1)
    for g, group in enumerate(groups):
        for k, arm in enumerate(arms):
            own = rows[(rows["group"] == group) & (rows["arm"] == arm)]
            values, x = own["dice"].dropna(), g + (k - (len(arms) - 1) / 2) * step
            if values.nunique() > 1:
                body = axes.violinplot([values], [x], widths=step * 0.9, showextrema=False)["bodies"][0]
                body.set(facecolor=colours[arm], alpha=0.45, edgecolor=colours[arm])
            means = by_patient(own, "dice")
            axes.plot([x] * len(means), means, "o", color=colours[arm], markersize=5, markeredgecolor="white")
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlabel("group: a violin over frames, a dot a patient", fontsize=12)


def main(words: Sequence[str]) -> None:
    """Keep the contours where a study's folder is given; print what the kept scores say."""
    file = HERE / "contours.csv.gz"
    if words:
        HERE.mkdir(exist_ok=True)
        kept = keep_contours(Path(words[0]))
        packed = {"method": "gzip", "mtime": 0}  # the same rows are the same file
        kept.to_csv(file, index=False, float_format="%.5g", lineterminator="\n", compression=packed)
    evidence = read_evidence(HERE)
    ranked = evidence.scores[evidence.scores["part"] == TARGET]
    contours = pd.read_csv(file) if file.exists() else None
    trained = HERE / "training.csv"
    training = pd.read_csv(trained) if trained.exists() else None
    frames = frames_of(ranked, contours)
    if undefined := int(frames[["dice", "hd95"]].isna().to_numpy().sum()):
        print(f"{undefined} values of frames are undefined, both masks being empty, and are in no mean.\n")
    seeds = frames.groupby("arm", sort=False)["seed"].nunique()
    alike = of_common_seeds(frames, BESIDE)
    seconds = evidence.cells.groupby("arm", sort=False)["wall_seconds"].mean()
    parts = [
        ["Dice", "", *table_3(alike, evidence.study, "dice", training)],
        [
            "HD95, mm: "
            + ("of contours, in 2-D" if contours is not None else "of one-slice volumes, not the paper's"),
            "",
            *table_3(alike, evidence.study, "hd95", training),
        ],
        table_4(alike, evidence.study),
        table_by_labels(alike),
        table_by_seed(frames),
        differences(frames, PAIRS),
        differences(frames[frames["seed"].isin(alike["seed"].unique())], of_several_seeds(frames, PAIRS)),
        table_by_frame(alike, STRATEGIES),
        table_by_group(alike),
        [
            *head(("Arm", "Seeds", "Seconds a training")),
            *(line_of(f"`{arm}`", f"{seeds[arm]}", f"{seconds[arm]:.0f}") for arm in seeds.index),
        ],
    ]
    draw(alike, HERE / "by_frame.png")
    draw_by_labels(alike, HERE / "by_labels.png")
    print("\n\n".join("\n".join(lines) for lines in parts))


if __name__ == "__main__":
    main(sys.argv[1:])
