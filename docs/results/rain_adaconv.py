"""RAIN and AdaConv from their kept scores: the paper's three tables, and tests of what each step adds.

Reads rain_adaconv/scores.csv.gz and cells.csv beside this file, writes rain_adaconv/pairs.csv and prints the tables for
rain_adaconv/README.md. Run from the repository root: `python docs/results/rain_adaconv.py [STYLED ARM]`. STYLED is a
folder of `crossbeat stylize` with the --segmenter of an arm, the check of what stylizers leave of hearts; it is kept as
structure_ARM.csv, and how far its intensities lie from content and style as divergences.csv.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd
from study_tables import STRUCTURES, compare, head, line_of, table_by_seed, table_of_pairs
from style_tables import by_patient, divergences, edges, keep, keep_divergences, table

from crossbeat.study.evidence import TARGET, read_evidence
from crossbeat.study.league import league
from crossbeat.study.plan import LOWER, UPPER, Study

HERE: Final = Path(__file__).with_name("rain_adaconv")
DIVERGENCES: Final = HERE / "divergences.csv"
PAIRS: Final = {
    ("rain_1", "setting_0"): "RAIN that learnt T2",
    ("rain_2", "setting_0"): "RAIN that learnt LGE",
    ("rain_3", "rain_2"): "RAIN, the patient's own LGE in place of anyone's",
    ("adaconv_1", "setting_0"): "AdaConv that learnt T2",
    ("adaconv_2", "setting_0"): "AdaConv that learnt LGE",
    ("adaconv_3", "adaconv_2"): "AdaConv, the patient's own LGE in place of anyone's",
    ("setting_0_8", "setting_0"): "as many plain slices more",
    ("rain_1", "setting_0_8"): "RAIN that learnt T2, in place of as many plain slices more",
    (
        "rain_1_n1",
        "setting_0_8",
    ): "RAIN that learnt T2, without a search, in place of as many plain slices more",
    ("rain_2", "setting_0_8"): "RAIN that learnt LGE, in place of as many plain slices more",
    (
        "rain_2_n1",
        "setting_0_8",
    ): "RAIN that learnt LGE, without a search, in place of as many plain slices more",
    ("adaconv_1", "setting_0_8"): "AdaConv that learnt T2, in place of as many plain slices more",
    ("adaconv_2", "setting_0_8"): "AdaConv that learnt LGE, in place of as many plain slices more",
    ("rain_3", "setting_0_8"): "RAIN, the patient's own LGE, in place of as many plain slices more",
    ("adaconv_3", "setting_0_8"): "AdaConv, the patient's own LGE, in place of as many plain slices more",
    (
        "rain_1_n5_held",
        "setting_0_8",
    ): "RAIN, each batch five times in one style, in place of as many plain slices more",
    ("adaconv_2_codes", "setting_0_8"): "AdaConv's search, in place of as many plain slices more",
    ("source_only", "setting_0_8"): "the baseline's loss and intensity scale, as many plain slices",
    ("rain_1_n1", "adaconv_1"): "RAIN without a search in place of AdaConv",
    ("rain_1", "adaconv_1"): "RAIN with a search in place of AdaConv",
    ("rain_1_n5", "adaconv_1"): "RAIN with four ascents in place of AdaConv",
    ("adaconv_1", "source_only"): "AdaConv that learnt T2, in place of the baseline",
    ("adaconv_1", "random_contrast"): "AdaConv that learnt T2, in place of random contrast",
    ("adaconv_2", "random_contrast"): "AdaConv that learnt LGE, in place of random contrast",
    ("adaconv_2", "source_only"): "AdaConv that learnt LGE, in place of the baseline",
    ("rain_2", "source_only"): "RAIN that learnt LGE, in place of the baseline",
    ("rain_1", "source_only"): "RAIN that learnt T2, in place of the baseline",
    ("rain_2_n1", "source_only"): "RAIN that learnt LGE, without a search, in place of the baseline",
    ("rain_1_n1", "setting_0"): "RAIN that learnt T2, without a search",
    ("rain_1", "rain_1_n1"): "two ascents a batch, with as many updates",
    ("rain_1_n5", "rain_1_n1"): "four ascents a batch, with as many updates",
    ("rain_1_n5", "rain_1"): "four ascents a batch in place of two, with as many updates",
    ("rain_1_n5", "rain_1_n5_held"): "four ascents a batch, in place of its first style five times",
    ("rain_1_n5_held", "rain_1_n1"): "each batch five times in one style, with as many updates",
    ("rain_1_n5", "source_only"): "RAIN with four ascents, in place of the baseline",
    ("rain_1_n5", "random_contrast"): "RAIN with four ascents in place of random contrast",
    ("rain_2_n5", "rain_2_n1"): "four ascents a batch, with as many updates, RAIN that learnt LGE",
    ("rain_1_n5_held", "rain_1_n1_100_batches"): "five times the updates on the same batches, in one style",
    ("rain_1_n3_100_batches", "rain_1_n1_100_batches"): "two ascents and three times the updates",
    ("rain_1_n5", "rain_1_n3_100_batches"): "four ascents and five thirds of the updates",
    ("adaconv_2_codes_n1", "adaconv_2"): "codes for AdaConv, as many contents",
    ("adaconv_2_codes", "adaconv_2_codes_n1"): "AdaConv's search, as many updates on fewer contents",
    ("adaconv_2_codes", "adaconv_2"): "codes and a search for AdaConv",
    ("rain_2_structure", "rain_2"): "edges that stay, RAIN",
    ("adaconv_2_structure", "adaconv_2"): "edges that stay, AdaConv",
    ("rain_1_dru_net", "setting_0_dru_net"): "RAIN that learnt T2, on DRU-net",
    ("adaconv_1_dru_net", "setting_0_dru_net"): "AdaConv that learnt T2, on DRU-net",
    ("rain_2_dru_net", "setting_0_dru_net"): "RAIN that learnt LGE, on DRU-net",
    ("adaconv_2_dru_net", "setting_0_dru_net"): "AdaConv that learnt LGE, on DRU-net",
    ("rain_3_dru_net", "setting_0_dru_net"): "RAIN, the patient's own LGE, on DRU-net",
    ("adaconv_3_dru_net", "setting_0_dru_net"): "AdaConv, the patient's own LGE, on DRU-net",
    ("adaconv_1_dru_net", "rain_1_dru_net"): "AdaConv in place of RAIN with a search, on DRU-net, setting 1",
    ("adaconv_2_dru_net", "rain_2_dru_net"): "AdaConv in place of RAIN with a search, on DRU-net, setting 2",
    ("adaconv_3_dru_net", "rain_3_dru_net"): "AdaConv in place of RAIN with a search, on DRU-net, setting 3",
    ("rain_2_dru_net", "rain_2"): "DRU-net in place of DR-UNet, without consistency, RAIN that learnt LGE",
    ("random_contrast", "source_only"): "random contrast, 8 slices an update",
    ("rain_2", "random_contrast"): "RAIN in place of random contrast",
    ("rain_2_n1", "random_contrast"): "RAIN without a search in place of random contrast",
    ("rain_2", "rain_2_n1"): "RAIN's search, as many updates on fewer contents",
    ("rain_2_n1", "adaconv_2"): "RAIN in place of AdaConv, as many contents",
    ("setting_0_random_contrast", "setting_0"): "random contrast alone",
    ("rain_2_random_contrast", "setting_0_random_contrast"): "RAIN, on random contrast",
    ("rain_2_random_contrast", "random_contrast"): "RAIN on random contrast, as many slices an update",
    (
        "setting_0_random_contrast_8",
        "random_contrast",
    ): "this method's loss and intensity scale, on random contrast, as many slices",
    (
        "rain_2_n1_random_contrast_8",
        "setting_0_random_contrast_8",
    ): "RAIN, on random contrast, as many contents",
    (
        "adaconv_1",
        "setting_0_random_contrast_8",
    ): "AdaConv that learnt T2, in place of random contrast, one loss",
    (
        "adaconv_2",
        "setting_0_random_contrast_8",
    ): "AdaConv that learnt LGE, in place of random contrast, one loss",
    (
        "rain_2_n1",
        "setting_0_random_contrast_8",
    ): "RAIN without a search, in place of random contrast, one loss",
    ("rain_2_random_contrast_8", "setting_0_random_contrast_8"): "RAIN with two ascents, on random contrast",
    (
        "rain_2_random_contrast_8",
        "rain_2_n1_random_contrast_8",
    ): "RAIN's search, on random contrast, as many updates on fewer contents",
    ("rain_2_n1_random_contrast_8", "random_contrast"): "RAIN on random contrast, as many contents",
}
"""What is asked: (arm, the arm without that step)."""
NETWORKS: Final = {"DR-UNet": "setting_0", "DRU-net": "setting_0_dru_net"}
"""By network the arm of setting 0."""
SETTINGS: Final = {
    ("DR-UNet", "RAIN", 1): ("rain_1_n1", "rain_2_n1", ""),
    ("DR-UNet", "RAIN", 3): ("rain_1", "rain_2", "rain_3"),
    ("DR-UNet", "RAIN", 5): ("rain_1_n5", "rain_2_n5", ""),
    ("DR-UNet", "AdaConv", 1): ("adaconv_1", "adaconv_2", "adaconv_3"),
    ("DRU-net", "RAIN", 3): ("rain_1_dru_net", "rain_2_dru_net", "rain_3_dru_net"),
    ("DRU-net", "AdaConv", 1): ("adaconv_1_dru_net", "adaconv_2_dru_net", "adaconv_3_dru_net"),
}
"""By network, stylizer and N the arms of settings 1 to 3; '' where the study has none."""
TABLE_3: Final = {
    "as many updates": ("rain_1_n1", "rain_1", "rain_1_n5"),
    "as many batches": ("rain_1_n1_100_batches", "rain_1_n3_100_batches", "rain_1_n5"),
}
"""By what is held alike the arms of N = 1, 3 and 5; 500 updates of 5 a batch are 100 batches."""


def over_patients(scores: pd.DataFrame, metric: str, unit: str = "") -> pd.DataFrame:
    """A metric of volumes by patient (frames first, then seeds): a line an arm and patient, a column a structure."""
    chosen = scores[
        (scores["metric"] == metric) & (scores["unit"].fillna("") == unit) & (scores["level"] == "")
    ]
    by_seed = chosen.groupby(["arm", "structure", "seed", "subject"])["value"].mean()
    return by_seed.groupby(["arm", "subject", "structure"]).mean().unstack()


def by_setting(scores: pd.DataFrame) -> list[str]:
    """Mean Dice of LV, MYO and RV by network, stylizer, N and setting; a dash where there is no such arm."""
    dice = over_patients(scores, "dice")
    lines = head(("Network", "Stylizer", "N", *(f"setting {i}" for i in range(4))))
    for (network, stylizer, n), arms in SETTINGS.items():
        told = [_told(dice, arm, "mean") for arm in (NETWORKS[network], *arms)]
        lines.append(line_of(network, stylizer, str(n), *told))
    return lines


def by_network(scores: pd.DataFrame) -> list[str]:
    """Table 2: Dice and Hausdorff distances by structure, and of the means the SD over structures, as printed there.

    A structure that is missed counts a distance of the scan's diagonal; so medians stand beside the means of distances.
    Last, how many patients have no Dice in any seed. Arms that are still to come are left out.
    """
    rows = [(network, "none", "", 0, arm) for network, arm in NETWORKS.items()]
    rows += [(*of, i, arm) for of, arms in SETTINGS.items() for i, arm in enumerate(arms, 1)]
    rows.sort(key=lambda row: list(NETWORKS).index(row[0]))
    lines = head(("Measure", "Network", "Stylizer", "N", "Setting", *STRUCTURES, "SD over structures"))
    for metric, unit, digits in (("dice", "", 3), ("hd", "voxel", 1), ("hd", "mm", 1)):
        found = over_patients(scores, metric, unit)
        for *of, arm in rows:
            if arm in found.index:
                told = [_told(found, arm, structure, digits) for structure in STRUCTURES]
                if unit:
                    medians = [found.loc[arm, structure].median() for structure in STRUCTURES]
                    told = [f"{of} ({median:.1f})" for of, median in zip(told, medians, strict=True)]
                between = found.loc[arm][list(STRUCTURES[:-1])].mean().std(ddof=0)
                lines.append(
                    line_of(f"{metric} {unit}".strip(), *map(str, of), *told, f"{between:.{digits}f}")
                )
    dice = over_patients(scores, "dice")
    for *of, arm in rows:
        if arm in dice.index:
            told = [str(int((dice.loc[arm, s] == 0).sum())) for s in STRUCTURES[:-1]]
            lines.append(line_of("patients of Dice 0", *map(str, of), *told, "", ""))
    return lines


def by_ascents(scores: pd.DataFrame) -> list[str]:
    """Table 3: Dice of each structure by N, with as many updates for every N, and with as many batches, as printed."""
    dice = over_patients(scores, "dice")
    lines = head(("Held alike", "N", *STRUCTURES))
    for alike, arms in TABLE_3.items():
        for n, arm in zip((1, 3, 5), arms, strict=True):
            lines.append(line_of(alike, str(n), *(_told(dice, arm, structure) for structure in STRUCTURES)))
    return lines


def _told(found: pd.DataFrame, arm: str, structure: str, digits: int = 3) -> str:
    """Mean ± SD over patients."""
    if arm not in found.index:
        return "–"
    values = found.loc[arm, structure]
    return f"{values.mean():.{digits}f} ± {values.std():.{digits}f}"


def by_arm(ranks: pd.DataFrame, cells: pd.DataFrame, study: Study) -> list[str]:
    """Dice by structure and HD95 of every arm, how long a training took, and how many slices its segmenter drew.

    Times are means over trainings, and what was shared is counted in the arm that learnt it. Arms that search use each
    batch N times, so that as many updates draw fewer slices.
    """
    seconds = cells.groupby("arm", sort=False)["wall_seconds"].mean()
    dice = ranks[ranks["metric"] == "dice"].set_index(["arm", "structure"])
    far = ranks[(ranks["metric"] == "hd95") & (ranks["unit"] == "mm")].set_index(["arm", "structure"])
    lines = head(("Arm", *STRUCTURES, "95 % interval", "HD95, mm", "Seeds", "Seconds", "Slices drawn"))
    for arm in (name for name in study.arms if name in seconds.index):
        rows = [dice.loc[(arm, structure)] for structure in STRUCTURES]
        told = [f"{row['mean']:.3f} ({row['median']:.3f})" for row in rows]
        told.append(f"{rows[-1]['low']:.3f} to {rows[-1]['high']:.3f}")
        distance = far.loc[(arm, "mean")]
        told.append(f"{distance['mean']:.2f} ({distance['median']:.2f})")
        told.append(f"{rows[-1]['n_seeds']:.0f}")
        recipe = study.recipe(arm)
        batches = math.ceil(recipe.segmenter_updates / getattr(recipe, "uses", 1))
        drawn = batches * recipe.model_dump()["batch_size"]
        lines.append(line_of(f"`{arm}`", *told, f"{seconds[arm]:.0f}", f"{drawn}"))
    return lines


def main(words: Sequence[str]) -> None:
    """Print the tables in the order of the page; those that need both bounds where they are there."""
    if len(words) not in (0, 2):
        sys.exit("usage: python docs/results/rain_adaconv.py [STYLED ARM]; ARM is whose segmenter looked")
    if words:
        styled, arm = words
        keep(Path(styled), HERE / f"structure_{arm}.csv")
        keep_divergences(Path(styled), DIVERGENCES)
    evidence = read_evidence(HERE)
    ranked = evidence.scores[evidence.scores["part"] == TARGET]
    parts = []
    if {LOWER, UPPER, evidence.study.reference} <= set(evidence.cells["arm"]):
        ranks = league(ranked, reference=evidence.study.reference)
        pairs = compare(ranked, PAIRS)
        pairs.to_csv(HERE / "pairs.csv", index=False, float_format="%.6g", lineterminator="\n")
        parts += [by_arm(ranks, evidence.cells, evidence.study), table_of_pairs(pairs)]
        if evidence.cells["seed"].nunique() > 1:
            parts.append(table_by_seed(ranked, PAIRS))
    parts += [by_setting(ranked), by_network(ranked), by_ascents(ranked)]
    for file in sorted(HERE.glob("structure_*.csv")):
        kept = pd.read_csv(file)
        arm = file.stem.removeprefix("structure_")
        parts += [[f"Seen by the segmenter of `{arm}`:"], table(by_patient(kept)), edges(kept)]
    if DIVERGENCES.exists():
        parts.append(divergences(pd.read_csv(DIVERGENCES)))
    print("\n\n".join("\n".join(lines) for lines in parts))


if __name__ == "__main__":
    main(sys.argv[1:])
