"""Small hearts on disk, and a study of them that trains in seconds: its cells are processes, which need files."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossbeat.cohort import Cohort, write_cohort
from crossbeat.data.nifti import write_volume
from crossbeat.study.plan import Study

sys.path.insert(0, str(Path(__file__).parent))  # finished_cells.py serves the tests of every engine

SMALL: dict[str, Any] = {
    "network": "dilated_resunet",
    "network_arguments": {"width": 4},
    "image_size": 32,
    "spacing_mm": 3.0,
    "augmentation": "light",
    "batch_size": 4,
    "steps": 6,
    "steps_per_round": 2,
}


@pytest.fixture
def cohort_csv(hearts: Callable[..., Cohort], tmp_path: Path) -> Path:
    """Four bSSFP subjects to train on; two LGE ones to train on and two that are tested."""
    made = hearts(4, 4)
    folder = tmp_path / "hearts"
    folder.mkdir()
    rows = []
    for row in made:
        case = made.read(row)
        assert case.labels is not None
        image, labels = f"{row.scan}.nii.gz", f"{row.scan}_labels.nii.gz"
        write_volume(folder / image, case.image, case.affine)
        write_volume(folder / labels, case.labels, case.affine)
        split = "train" if row.subject in ("s90", "s91") else row.split
        rows.append(
            replace(row, image=image, labels=labels, split=split, group=f"g{int(row.subject[1:]) % 2}")
        )
    write_cohort(Cohort(tuple(rows), folder=folder), folder / "cohort.csv")
    return folder / "cohort.csv"


@pytest.fixture
def small_study() -> Callable[..., Study]:
    """Makes a study of the bounds and what else is asked for."""

    def make(**changes: Any) -> Study:
        across = {"source": {"sequence": "bssfp"}, "target": {"sequence": "lge"}}
        return Study.of({"name": "small", "size": "demo", "settings": SMALL, "folds": 2, **across, **changes})

    return make
