"""Frames of tagged scans that arms scored: means over patients and seeds, differences between arms, Dice by frame.

What dhaene2023.py and moving_tags.py share. Every frame of a scan counts alike, and a patient is the mean of his own.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from study_tables import head, line_of

from crossbeat.errors import RunError
from crossbeat.report.wording import p_value, signed
from crossbeat.statistics import crossed_interval, holm, wilcoxon

STRUCTURES: Final = ("MYO", "LV", "RV")
KEY: Final = ["arm", "seed", "fold", "subject", "scan"]
EVERY: Final = 4
"""In the table by frame only every fourth stands, as wide as a page is."""


def frames_of(scores: pd.DataFrame, contours: pd.DataFrame | None = None) -> pd.DataFrame:
    """A row a frame that a cell scored: `dice` and `hd95` (mm) of each structure, with its group and number.

    The kept scores do not say which frame a row is of, but list frames in their order, so that they can be counted;
    where not every scan has as many in every structure that would be wrong, and `RunError` is raised. HD95 is the
    contours' where they are given, else the volume's.
    """
    chosen = scores[(scores["level"] == "") & scores["structure"].isin(STRUCTURES)]
    dice = _numbered(chosen[chosen["metric"] == "dice"])
    counts = dice.groupby([*KEY, "structure"]).size()
    if counts.nunique() > 1:
        raise RunError(
            f"scores.csv: scans of {counts.min()} to {counts.max()} scored frames, and their rows do not say which; "
            "frames can only be counted where every scan was scored in all of them"
        )
    if contours is None:
        distance = _numbered(chosen[(chosen["metric"] == "hd95") & (chosen["unit"] == "mm")])
    else:
        distance = contours.melt([*KEY, "frame"], list(STRUCTURES), "structure", "value")
    on = [*KEY, "frame", "structure"]
    if lost := set(map(tuple, dice[on].to_numpy())) - set(map(tuple, distance[on].to_numpy())):
        raise RunError(
            f"{len(lost)} frames have Dice and no HD95, as {min(lost)} (arm, seed, fold, subject, scan, frame, "
            "structure): contours.csv.gz is of other cells than scores.csv.gz, or not all frames of a scan are labelled"
        )
    both = dice[[*on, "group", "value"]].rename(columns={"value": "dice"})
    return both.merge(
        distance[[*on, "value"]].rename(columns={"value": "hd95"}), how="left", on=on, validate="1:1"
    )


def _numbered(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(frame=rows.groupby([*KEY, "structure"]).cumcount())


def by_patient(frames: pd.DataFrame, metric: str) -> pd.Series[float]:
    """A value a patient: the mean over frames, then over seeds."""
    return frames.groupby(["subject", "seed"])[metric].mean().groupby("subject").mean()


def table_by_seed(frames: pd.DataFrame) -> list[str]:
    """Dice of each seed, of the arms that have several; empty where none has.

    The mean of structures and patients, and that of the myocardium in brackets.
    """
    means, walls = (
        rows.groupby(["arm", "seed"], sort=False)["dice"].mean().unstack("seed").sort_index(axis=1)
        for rows in (frames, frames[frames["structure"] == "MYO"])
    )
    several = means[means.notna().sum(axis=1) > 1]
    lines = head(("Arm", *(f"seed {seed}" for seed in means))) if len(several) else []
    for arm, values in several.iterrows():
        both = zip(values, walls.loc[arm], strict=True)
        lines.append(line_of(f"`{arm}`", *("–" if math.isnan(v) else f"{v:.3f} ({w:.3f})" for v, w in both)))
    return lines


def of_common_seeds(frames: pd.DataFrame, arms: Collection[str]) -> pd.DataFrame:
    """The rows of these arms, of the seeds that each that is there has, so that they can be laid side by side.

    Seeds that share no arm raise `RunError`.
    """
    own = frames[frames["arm"].isin(arms)]
    each = own.groupby("arm")["seed"].agg(set)
    common = set.intersection(*each) if len(each) else set()
    if len(each) and not common:
        told = ", ".join(f"{arm} {sorted(seeds)}" for arm, seeds in each.items())
        raise RunError(f"these arms have no seed in common: {told}; train one with a seed of the others")
    return own[own["seed"].isin(common)]


def crossed(frames: pd.DataFrame, metric: str) -> NDArray[np.float64]:
    """(patients, seeds): the mean over frames."""
    means = frames.groupby(["subject", "seed"])[metric].mean().unstack("seed")
    return means.to_numpy(np.float64)


def differences(frames: pd.DataFrame, asked_of: Mapping[tuple[str, str], str]) -> list[str]:
    """What each step adds in Dice over the patients and seeds that both arms have; p by Wilcoxon, and Holm over all.

    The interval is of the mean of structures, by bootstrap over patients and seeds; "by seed" has that mean under each,
    where there are several.
    """
    there, found = set(frames["arm"]), []
    for (arm, without), asked in asked_of.items():
        if {arm, without} <= there:
            on = ["seed", "subject", "frame", "structure"]
            both = _arm(frames, arm).merge(_arm(frames, without), on=on, suffixes=("", "_without"))
            both["more"] = both["dice"] - both["dice_without"]
            found.append((asked, without, both))
    more = [by_patient(both, "more") for _, _, both in found]
    p = [wilcoxon(m, np.zeros(len(m)), list(m.index)).p for m in more]
    lines = head(("What is added", "to", *STRUCTURES, "mean", "by seed", "95 % interval", "p", "Holm's p"))
    for (asked, without, both), mean, one, corrected in zip(found, more, p, holm(p), strict=True):
        each = [signed(by_patient(both[both["structure"] == s], "more").mean()) for s in STRUCTURES]
        low, high = crossed_interval(crossed(both, "more"))
        told = (signed(mean.mean()), _by_seed(both), f"{signed(low)} to {signed(high)}")
        lines.append(line_of(asked, f"`{without}`", *each, *told, p_value(one), p_value(corrected)))
    return lines


def of_several_seeds(
    frames: pd.DataFrame, asked_of: Mapping[tuple[str, str], str]
) -> dict[tuple[str, str], str]:
    """What is asked of two arms that have more than one seed in common, whose means one seed may decide."""
    seeds = frames.groupby("arm")["seed"].agg(set)
    return {
        (arm, without): asked
        for (arm, without), asked in asked_of.items()
        if {arm, without} <= set(seeds.index) and len(seeds[arm] & seeds[without]) > 1
    }


def _by_seed(both: pd.DataFrame) -> str:
    means = both.groupby("seed")["more"].mean()
    return ", ".join(f"{seed}: {signed(value)}" for seed, value in means.items()) if len(means) > 1 else "–"


def _arm(frames: pd.DataFrame, arm: str) -> pd.DataFrame:
    return frames.loc[frames["arm"] == arm, ["seed", "subject", "frame", "structure", "dice"]]


def by_frame(frames: pd.DataFrame, arms: Sequence[str], structure: str = "MYO") -> pd.DataFrame:
    """Mean Dice over patients of each arm that is there: a line a frame of the cycle, a column an arm."""
    rows = frames[(frames["structure"] == structure) & frames["arm"].isin(arms)]
    patients = rows.groupby(["frame", "arm", "subject"])["dice"].mean()
    table = patients.groupby(["frame", "arm"]).mean().unstack("arm")
    return table[[arm for arm in arms if arm in table]]


def table_by_frame(frames: pd.DataFrame, arms: Sequence[str]) -> list[str]:
    """Dice of the myocardium in every fourth frame, counted from 0, where the lines were laid."""
    table = by_frame(frames, arms).iloc[::EVERY]
    lines = head(("Arm", *(str(frame) for frame in table.index)))
    return lines + [line_of(f"`{arm}`", *(f"{value:.3f}" for value in table[arm])) for arm in table]
