"""How well each arm of a dhaene2023 study does on the tagged scans it learned from: the train side of Table 3.

With every finished cell of the arms named (all: none named) it segments the labelled tagged scans that the cell was
trained on, and keeps in dhaene2023/training.csv beside this file, a line a patient, structure and metric, the mean, SD
and number of its frames: Dice, and HD95 in mm of contours in 2-D. Lines of other arms that stand there stay.
`dhaene2023.py` puts them into its table. Run from the repository root:
`python docs/results/training_scores.py OUT [ARM ...]`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from crossbeat.cohort import Cohort, read_cohort
from crossbeat.data import reader
from crossbeat.errors import FileError
from crossbeat.evaluation import score_case
from crossbeat.prediction import predict_case
from crossbeat.segmenter import load_segmenter

HERE: Final = Path(__file__).with_name("dhaene2023")
STRUCTURES: Final = ("MYO", "LV", "RV")
KEY: Final = ["arm", "seed"]
COLUMNS: Final = (*KEY, "subject", "structure", "metric", "mean", "sd", "frames")


def cells_of(out: Path, arms: Sequence[str]) -> Iterator[tuple[str, int, Path]]:
    """Arm, seed and folder of the finished cells that are asked for; folds of a cross-validation are left out."""
    for path in sorted(out.glob("cells/*/seed-*/scores.csv")):
        arm, seed = path.parent.parent.name, path.parent.name.removeprefix("seed-")
        if seed.isdigit() and (not arms or arm in arms):
            yield arm, int(seed), path.parent


def learnt_from(cell: Path) -> Cohort:
    """The labelled target scans that a cell was trained on; none where it saw no label of the target."""
    trained = json.loads((cell / "run.json").read_text(encoding="utf-8"))["trained_on"]
    names = set(trained.get("labelled_target", ()))
    return read_cohort(cell / "cohort.csv", reader).only(lambda row: row.scan in names)


def scored(cell: Path) -> pd.DataFrame:
    """A line a patient, structure and metric, over all frames of its scans, segmented as a study does those tested."""
    segmenter = load_segmenter(cell / "segmenter")
    cohort = learnt_from(cell)
    found = []
    for row in cohort:
        case = cohort.read(row)
        for score in score_case(row, case, predict_case([segmenter], case), units=("mm",), per_slice=True):
            volume = score.slice is None
            if score.structure in STRUCTURES and (score.metric, volume) in (("dice", True), ("hd95", False)):
                found.append((row.subject, score.structure, score.metric, score.value))
    table = pd.DataFrame(found, columns=["subject", "structure", "metric", "value"])
    values = table.groupby(["subject", "structure", "metric"])["value"]
    return values.agg(mean="mean", sd="std", frames="count").reset_index()


def main(words: Sequence[str]) -> None:
    """Segment, score and keep."""
    if not words:
        raise SystemExit("say which study: python docs/results/training_scores.py OUT [ARM ...]")
    file = HERE / "training.csv"
    out, arms = Path(words[0]), words[1:]
    kept = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=list(COLUMNS))
    cells = list(cells_of(out, arms))
    if not cells:
        raise FileError(out, "has no finished cell of these arms (cells/ARM/seed-N/scores.csv)")
    HERE.mkdir(exist_ok=True)
    for arm, seed, cell in cells:
        if not len(learnt_from(cell)):
            continue
        new = scored(cell).assign(arm=arm, seed=seed)[list(COLUMNS)]
        others = kept[(kept["arm"] != arm) | (kept["seed"] != seed)]
        kept = pd.concat([others, new], ignore_index=True) if len(others) else new
        kept.to_csv(file, index=False, float_format="%.5g", lineterminator="\n")
        dice = new[new["metric"] == "dice"].groupby("structure")["mean"].mean()
        print(f"{arm}, seed {seed}: " + ", ".join(f"{s} {dice[s]:.3f}" for s in dice.index), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
