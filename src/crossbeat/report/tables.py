"""Scores of a run → the numbers of the page: headline, breakdowns, points of the box plots, failures.

A patient is the unit everywhere: the frames (or slices) of a patient are averaged first. Undefined values
(both masks empty) are left out of the means and counted; missed structures stay in, with Dice 0 and the
image diagonal as distance, and are counted too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pandas as pd

from crossbeat.cohort import Cohort, Row
from crossbeat.evaluation import MEAN
from crossbeat.labels import TRAINED, Structure
from crossbeat.report.domains import parted, role_of
from crossbeat.report.trained import Overlap, Trained
from crossbeat.statistics import Summary, summarise

STRUCTURES: Final = tuple(s.name for s in Structure if s)
METRICS: Final = ("dice", "hd95", "assd")
METRIC_NAMES: Final = {
    "dice": "Dice", "jaccard": "Jaccard", "hd": "HD", "hd95": "HD95", "hd95_pooled": "HD95 pooled", "assd": "ASSD",
}  # fmt: skip

_TRAINED: Final = tuple(s.name for s in TRAINED)


@dataclass(frozen=True)
class Score:
    """One metric of one structure over the patients of a group."""

    metric: str
    structure: str
    unit: str
    summary: Summary
    nominal: bool
    """Whether it is in mm and some of these scans lack their true spacing."""
    seen: bool = False
    """Whether some of these scans were trained on, so that an interval would promise what nobody tested."""


@dataclass(frozen=True)
class Block:
    """The scans that are summed up together: a domain (target, source or a sequence) and a split."""

    name: str
    scores: pd.DataFrame
    rest: pd.DataFrame
    """The block's scores in other splits, kept out of its headline."""
    is_test: bool
    """Whether `scores` are those of a test split."""
    overlap: Overlap = field(default_factory=Overlap)
    """How many of the scans the run has seen in training."""

    @property
    def anchor(self) -> str:
        """The block's name as it may stand in an id or a file name."""
        return "result" + "".join(f"-{ord(c):x}" if not c.isalnum() else c for c in f" {self.name}".rstrip())

    @property
    def volumes(self) -> pd.DataFrame:
        """Scores of whole volumes."""
        return self.scores[self.scores["slice"] == ""]

    @property
    def slices(self) -> pd.DataFrame:
        """Scores of single slices."""
        return self.scores[self.scores["slice"] != ""]

    @property
    def subjects(self) -> int:
        return int(self.scores["subject"].nunique())

    @property
    def scans(self) -> int:
        return int(self.scores["scan"].nunique())


@dataclass(frozen=True)
class Breakdown:
    """The scores by the values of one column, each value with one `Score` for every metric and structure."""

    title: str
    rows: tuple[tuple[str, int, tuple[Score | None, ...]], ...]
    """Value, number of patients, scores in the order of `columns`."""
    columns: tuple[tuple[str, str], ...]
    """(metric, structure), the structures of a metric side by side."""
    unit: str = "volumes"
    """What its values were measured in, and so what undefined and missed count."""

    @property
    def groups(self) -> list[tuple[str, int, str, bool]]:
        """(metric, number of its columns, unit, whether nominal) from left to right."""
        out = []
        for metric in dict.fromkeys(metric for metric, _ in self.columns):
            places = [i for i, column in enumerate(self.columns) if column[0] == metric]
            found = [s for _, _, scores in self.rows for i in places if (s := scores[i]) is not None]
            out.append((metric, len(places), found[0].unit, any(s.nominal for s in found)))
        return out

    def starts_group(self, place: int) -> bool:
        """Whether a metric begins at this column."""
        return place == 0 or self.columns[place][0] != self.columns[place - 1][0]


@dataclass(frozen=True)
class Failure:
    """A structure that one of the two masks has and the other has not, in one volume."""

    scan: str
    frame: str
    phase: str
    structure: str
    dice: float


def blocks(scores: pd.DataFrame, settings: Mapping[str, Any], trained: Trained | None = None) -> list[Block]:
    """Scores parted by what must not be averaged together: the target domain first, and its test split only.

    Distances in voxels are left out where the same stand there in mm.
    Where the settings name no target, sequences are parted instead. Without a test split all scored scans
    stand in the headline. No scores give no block. `trained` tells each block how many of its scans were seen.
    """
    if scores.empty:
        return []
    if (scores["unit"] == "mm").any():
        scores = scores[scores["unit"] != "voxel"]
    return [
        Block(name, part, rest, is_test, (trained or Trained()).overlap(part))
        for name, part, rest, is_test in parted(scores, settings)
    ]


def headline_scores(block: Block) -> list[list[Score]]:
    """For each scored structure, then for each mean of structures, its Dice, HD95 and ASSD, over whole volumes."""
    means = sorted(
        {s for s in block.volumes["structure"] if is_mean(s)}, key=lambda s: (len(s) != len(MEAN), s)
    )
    structures = [*STRUCTURES, *means]
    table = [[_score(block.volumes, metric, s) for metric in METRICS] for s in structures]
    return [
        row
        for found in table
        if (row := [replace(score, seen=block.overlap.there) for score in found if score is not None])
    ]


def is_mean(structure: str) -> bool:
    """Whether a structure of scores.csv is a mean over several: `mean`, or `mean LV MYO` of just these."""
    return structure.split(" ")[0] == MEAN


def value_place(value: str) -> tuple[int, str]:
    """Sorts the values of a column: phases, levels and splits as one names them, others behind, by the alphabet."""
    return _ORDER.get(value, len(_ORDER)), value


def value_name(value: str) -> str:
    """A value of a column as a table calls it."""
    return _VALUE_NAMES.get(value, value)


_VALUE_NAMES: Final = {"": "not stated", "outside": "beyond the reference"}
_ORDER: Final = {
    v: i for i, v in enumerate(("ED", "ES", "base", "mid", "apex", "outside", "test", "validation", "train"))
}


def breakdowns(block: Block, metrics: Sequence[str] = ("dice", "hd95")) -> list[Breakdown]:
    """The scores by phase, vendor, centre, group and spacing, by slice level, and by split where parted.

    Columns with a single value tell nothing and are left out.
    """
    everything = pd.concat([block.scores, block.rest])
    wanted = [
        ("By phase", "phase", block.volumes),
        ("By group", "group", block.volumes),
        ("By vendor", "vendor", block.volumes),
        ("By centre", "centre", block.volumes),
        ("By sequence", "sequence", block.volumes),
        ("By slice level (each slice scored in 2-D)", "level", block.slices),
        ("By split (only test counts above)", "split", everything[everything["slice"] == ""]),
    ]
    found = (_breakdown(title, column, rows, metrics) for title, column, rows in wanted if column in rows)
    return [breakdown for breakdown in found if breakdown is not None]


def patient_points(block: Block, metric: str) -> dict[str, list[tuple[str, float, bool]]]:
    """For each structure (patient, mean over its volumes, whether one of them was missed)."""
    out: dict[str, list[tuple[str, float, bool]]] = {}
    rows = block.volumes[block.volumes["metric"] == metric]
    for structure in STRUCTURES:
        for patient, part in rows[rows["structure"] == structure].groupby("subject", sort=True):
            missed = bool((part["status"] == "missed").any())
            out.setdefault(structure, []).append((str(patient), float(part["value"].mean()), missed))
    return out


def scans_by_dice(block: Block) -> pd.Series[float]:
    """Mean Dice of each scan over its frames and drawn structures, the worst first; undefined ones left out."""
    rows = block.volumes
    rows = rows[(rows["metric"] == "dice") & rows["structure"].isin(_TRAINED)]
    return rows.groupby("scan")["value"].mean().dropna().sort_values(kind="stable")


def lowest_dice(block: Block, count: int = 5) -> list[tuple[str, float, list[float]]]:
    """(scan, mean Dice, Dice of LV, MYO and RV) of the scans with the lowest Dice, the worst first."""
    rows = block.volumes[block.volumes["metric"] == "dice"]
    by = rows.groupby(["scan", "structure"])["value"].mean()
    return [
        (str(scan), float(mean), [float(by.get((scan, s), float("nan"))) for s in _TRAINED])
        for scan, mean in scans_by_dice(block).iloc[:count].items()
    ]


def failures(block: Block) -> list[Failure]:
    """Every missed structure of every volume, by scan, frame and structure."""
    rows = block.volumes
    rows = rows[(rows["status"] == "missed") & (rows["metric"] == "dice") & ~rows["structure"].map(is_mean)]
    return [
        Failure(str(r["scan"]), str(r["frame"]), str(r["phase"]), str(r["structure"]), float(r["value"]))
        for _, r in rows.sort_values(["scan", "frame", "structure"], kind="stable").iterrows()
    ]


def missed_slices(block: Block) -> list[tuple[str, str, int]]:
    """(scan, structure, number) of slices where one of the two masks is empty, most first."""
    rows = block.slices
    rows = rows[(rows["status"] == "missed") & (rows["metric"] == "dice") & ~rows["structure"].map(is_mean)]
    counts = rows.groupby(["scan", "structure"]).size().reset_index(name="n")
    counts = counts.sort_values("n", ascending=False, kind="stable")
    return [(str(line["scan"]), str(line["structure"]), int(line["n"])) for _, line in counts.iterrows()]


def missed_by_level(block: Block) -> dict[str, int]:
    """How often, at each slice level from the base on, a structure stands in only one mask of a single slice."""
    rows = block.slices
    rows = rows[(rows["status"] == "missed") & (rows["metric"] == "dice") & ~rows["structure"].map(is_mean)]
    counts = rows["level"].value_counts()
    return {str(level): int(counts[level]) for level in sorted(counts.index, key=value_place)}


def not_looked_at(block: Block) -> dict[str, int]:
    """How much of the block's scans nobody labelled, and so has no score: frames and voxels."""
    sums = block.scores[block.scores["unit"] == "count"].groupby("metric")["value"].sum()
    return {name: int(sums.get(name, 0)) for name in ("unlabelled_frames", "unknown_voxels")}


def nominal_scans(table: pd.DataFrame) -> list[str]:
    """Scans of a table whose spacing is a stand-in."""
    if "spacing_source" not in table:
        return []
    return sorted(table.loc[table["spacing_source"] == "nominal", "scan"].unique())


@dataclass(frozen=True)
class Share:
    """Scans of one role and split: what a line of the data table says."""

    role: str
    split: str
    sequences: str
    subjects: int
    scans: int
    vendors: str
    centres: str
    groups: str
    labelled: int


def data_table(cohort: Cohort, settings: Mapping[str, Any]) -> list[Share]:
    """How many subjects and scans of what kind stood in each role (source, target, other) and split."""
    parts: dict[tuple[str, str], list[Row]] = {}
    for row in cohort:
        parts.setdefault((role_of(row, settings), row.split), []).append(row)
    order = sorted(parts, key=lambda key: (_ROLES.index(key[0]), -_ORDER.get(key[1], 0)))
    return [share(role, split, parts[role, split]) for role, split in order]


_ROLES: Final = ("source", "target", "other", "")


def share(role: str, split: str, rows: Sequence[Row]) -> Share:
    """What there is to say of some scans of one role and split."""

    def names(column: str) -> str:
        return ", ".join(sorted({row.value(column) for row in rows} - {""}))

    return Share(
        role,
        split,
        names("sequence"),
        len({row.subject for row in rows}),
        len(rows),
        names("vendor"),
        names("centre"),
        names("group"),
        sum(bool(row.labels) for row in rows),
    )


def _score(rows: pd.DataFrame, metric: str, structure: str) -> Score | None:
    rows = rows[(rows["metric"] == metric) & (rows["structure"] == structure)]
    if rows.empty:
        return None
    unit = str(rows["unit"].iloc[0])
    return Score(
        metric,
        structure,
        unit,
        summarise(rows["value"].to_numpy(float), rows["subject"].tolist(), rows["status"].tolist()),
        unit == "mm" and bool(nominal_scans(rows)),
    )


def _breakdown(title: str, column: str, rows: pd.DataFrame, metrics: Sequence[str]) -> Breakdown | None:
    rows = rows[rows["metric"].isin(metrics)]
    values = sorted(rows[column].unique(), key=value_place)
    if len(values) < 2:
        return None
    there = set(zip(rows["metric"], rows["structure"], strict=True))
    columns = tuple((m, s) for m in metrics for s in STRUCTURES if (m, s) in there)
    lines = []
    for value in values:
        part = rows[rows[column] == value]
        scores = tuple(_score(part, m, s) for m, s in columns)
        lines.append((value_name(str(value)), int(part["subject"].nunique()), scores))
    return Breakdown(title, tuple(lines), columns, "slices" if (rows["slice"] != "").any() else "volumes")
